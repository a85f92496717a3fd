"""`moorage run`: from a source to its results in one command."""

from pathlib import Path
from typing import Annotated

from moorage.cli.ending import fetch, show_ending
from moorage.cli.options import JobOptions, OneRequest, Request, Source, help_of
from moorage.cli.render import Progress, print_json, print_warning
from moorage.cli.session import connect
from moorage.cli.watch import Captured, Shown, Write, exit_status, to_stderr, watch
from moorage.client import Client
from moorage.errors import BadUsage
from moorage.model.apps import App
from moorage.model.jobs import Mode


def run(
    source: Source,
    /,
    *,
    options: JobOptions | None = None,
    out: Annotated[Path | None, help_of("Folder to write the results to.")] = None,
    network: Annotated[str | None, help_of("Network of the app, if it is not recognised.")] = None,
    name: Annotated[str | None, help_of("Name of the app; by default that of its source.")] = None,
    stream: Annotated[
        bool,
        help_of("Ask for the answer as it comes, where the network can; with --json it is shown on standard error."),
    ] = False,
    request: OneRequest = None,
    json: Annotated[bool, help_of("Print one JSON document, and nothing else on standard output.")] = False,
    quiet: Annotated[bool, help_of("Show only what the app writes, and errors.")] = False,
) -> int:
    """Run an app once: add it if need be, submit a job, show what it says, fetch what it leaves.

    An app that answers requests is served until Ctrl-C, which is its success, unless it is asked something.

    Exit status: 0 the job succeeded, 1 the app failed, 2 bad usage or bad source, 3 the node could not run it,
    130 interrupted or cancelled.
    """
    from moorage.cli.intake import ensure_app, order_of, ordered_app

    asked = (options or JobOptions()).check(request=request)
    order = order_of(str(source), network)
    if order is not None:
        asked, out = asked.filled(order), out or order.out
    if out is not None and out.exists() and not out.is_dir():
        raise BadUsage(f"--out {out} is a file.", hint="Name a folder; it is made if it is not there.")
    captured, shown = Captured(), Shown()
    with connect(working=True) as client, Progress(quiet=quiet or json) as progress:
        warn_of_no_isolation(client, asked.isolation)
        app = (
            ensure_app(client, str(source), network=network, name=name, progress=progress)
            if order is None
            else ordered_app(client, order, progress=progress)
        )
        mode = _mode(asked, stream=stream, serves=serves_requests(app, request))
        writes: list[Write] = [shown] if not json else [captured] if mode == "run" else [captured, to_stderr]
        job = asked.submit(client, app, mode=mode)
        job = watch(client, job, progress, *writes)
        ending = fetch(client, app, job, out)
    if json:
        print_json(ending.document(captured))
    else:
        shown.end_line()
        show_ending(ending, quiet=quiet)
    return exit_status(job)


def serves_requests(app: App, request: str | None) -> bool:
    """Tell whether an app answers requests. Raises BadUsage if one is made to an app that does not."""
    from moorage.networks.base import installed_networks

    serves = installed_networks()[app.network].serves
    if request is not None and not serves:
        raise BadUsage(f"{app.name} answers no requests: it is an app of {app.network}.", hint="Leave --request out.")
    return serves


def _mode(asked: Request, *, stream: bool, serves: bool) -> Mode:
    if stream:
        return "stream"
    return "serve" if serves and not asked.says_something else "run"


def warn_of_no_isolation(client: Client, isolation: str | None) -> None:
    """Say so where the app will run with all that this user can do."""
    if (isolation or client.node().isolation) == "host":
        print_warning("Isolation is `host`: the app runs as you, and can read, change and reach all that you can.")
