"""`moorage run`: from a source to its results in one command."""

from pathlib import Path
from typing import Annotated

from moorage.cli.ending import fetch, show_ending
from moorage.cli.options import JobOptions, help_of
from moorage.cli.render import Progress, print_json, print_warning
from moorage.cli.session import connect
from moorage.cli.watch import Captured, Write, exit_status, to_stderr, to_terminal, watch
from moorage.client import Client
from moorage.errors import BadUsage


def run(
    source: Annotated[Path, help_of("A folder or an archive of one.")],
    /,
    *,
    options: JobOptions | None = None,
    out: Annotated[Path | None, help_of("Folder to write the results to.")] = None,
    network: Annotated[str | None, help_of("Network of the app, if it is not recognised.")] = None,
    name: Annotated[str | None, help_of("Name of the app; by default that of its folder.")] = None,
    stream: Annotated[bool, help_of("With --json: show what the app writes, as it comes, on standard error.")] = False,
    json: Annotated[bool, help_of("Print one JSON document, and nothing else on standard output.")] = False,
    quiet: Annotated[bool, help_of("Show only what the app writes, and errors.")] = False,
) -> int:
    """Run an app once: add it if need be, submit a job, show what it says, fetch what it leaves.

    Exit status: 0 the job succeeded, 1 the app failed, 2 bad usage or bad source, 3 the node could not run it,
    130 interrupted or cancelled.
    """
    from moorage.cli.intake import ensure_app

    request = (options or JobOptions()).check()
    if out is not None and out.exists() and not out.is_dir():
        raise BadUsage(f"--out {out} is a file.", hint="Name a folder; it is made if it is not there.")
    captured = Captured()
    writes: list[Write] = [captured] if json else [to_terminal]
    with connect(working=True) as client, Progress(quiet=quiet or json) as progress:
        _warn_of_no_isolation(client, request.isolation)
        app = ensure_app(client, source, network=network, name=name, progress=progress)
        job = watch(client, request.submit(client, app), progress, *writes, *([to_stderr] if json and stream else []))
        ending = fetch(client, app, job, out)
    if json:
        print_json(ending.document(captured))
    else:
        show_ending(ending, quiet=quiet)
    return exit_status(job)


def _warn_of_no_isolation(client: Client, isolation: str | None) -> None:
    if (isolation or client.node().isolation) == "host":
        print_warning("Isolation is `host`: the app runs as you, and can read, change and reach all that you can.")
