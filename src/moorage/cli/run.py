"""`moorage run`: from a source to its results in one command."""

from pathlib import Path
from typing import Annotated

from moorage.cli.ending import fetch, show_ending
from moorage.cli.options import JobOptions, Request, Source, help_of
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
    request: Annotated[
        str | None,
        help_of("One request, such as 'GET /path', to an app that is served; without any it is served until Ctrl-C."),
    ] = None,
    json: Annotated[bool, help_of("Print one JSON document, and nothing else on standard output.")] = False,
    quiet: Annotated[bool, help_of("Show only what the app writes, and errors.")] = False,
) -> int:
    """Run an app once: add it if need be, submit a job, show what it says, fetch what it leaves.

    Exit status: 0 the job succeeded, 1 the app failed, 2 bad usage or bad source, 3 the node could not run it,
    130 interrupted or cancelled.
    """
    from moorage.cli.intake import ensure_app

    asked = (options or JobOptions()).check(request=request)
    if out is not None and out.exists() and not out.is_dir():
        raise BadUsage(f"--out {out} is a file.", hint="Name a folder; it is made if it is not there.")
    captured, shown = Captured(), Shown()
    writes: list[Write] = [shown] if not json else [captured, to_stderr] if stream else [captured]
    with connect(working=True) as client, Progress(quiet=quiet or json) as progress:
        warn_of_no_isolation(client, asked.isolation)
        app = ensure_app(client, str(source), network=network, name=name, progress=progress)
        job = asked.submit(client, app, mode=_mode(app, asked, stream=stream))
        job = watch(client, job, progress, *writes)
        ending = fetch(client, app, job, out)
    if json:
        print_json(ending.document(captured))
    else:
        shown.end_line()
        show_ending(ending, quiet=quiet)
    return exit_status(job)


def _mode(app: App, asked: Request, *, stream: bool) -> Mode:
    from moorage.networks.base import installed_networks

    if stream:
        return "stream"
    return "serve" if installed_networks()[app.network].serves and not asked.says_something else "run"


def warn_of_no_isolation(client: Client, isolation: str | None) -> None:
    """Say so where the app will run with all that this user can do."""
    if (isolation or client.node().isolation) == "host":
        print_warning("Isolation is `host`: the app runs as you, and can read, change and reach all that you can.")
