"""`moorage job`: requests to run an app."""

from pathlib import Path
from typing import Annotated

from cyclopts import App as Commands
from cyclopts import Parameter
from rich.text import Text

from moorage.cli import inputs
from moorage.cli.app import find_app
from moorage.cli.ending import took
from moorage.cli.options import JobOptions, help_of
from moorage.cli.render import (
    Progress,
    err,
    moment,
    out,
    print_error,
    print_facts,
    print_json,
    print_next,
    print_table,
    printable,
    seconds,
    size,
)
from moorage.cli.session import connect, running_node
from moorage.cli.watch import await_end, exit_status, failure, to_terminal
from moorage.model.jobs import Job
from moorage.model.limits import MIB
from moorage.model.states import JobState

job = Commands(name="job", help="Submit, watch and fetch jobs.")

Id = Annotated[str, help_of("Id of a job.")]
Json = Annotated[bool, help_of("Print one JSON document.")]


@job.command
def submit(
    app: Annotated[str, help_of("Id of an app, or its name if only one has it.")],
    /,
    *,
    options: JobOptions | None = None,
    job_id: Annotated[
        str | None, Parameter(name="--id", help="Id for the job; the same request again gives the same job.")
    ] = None,
    json: Json = False,
) -> None:
    """Accept a job and return at once; it runs when the node has room for it."""
    request = (options or JobOptions()).check()
    with connect() as client:
        accepted = request.submit(client, find_app(client, app), job_id=job_id)
    if json:
        print_json(accepted)
        return
    print_table(("ID", "STATE"), [(accepted.id, accepted.state)], empty="")
    _say_if_nobody_works()
    print_next([(f"job wait {accepted.id}", "wait for its end"), (f"job why {accepted.id}", "what it waits for")])


@job.command(name="list")
def list_(
    *,
    state: Annotated[JobState | None, help_of("Only jobs in this state.")] = None,
    app: Annotated[str | None, help_of("Only jobs of this app (id or name).")] = None,
    label: Annotated[tuple[str, ...], help_of("Only jobs with this KEY=VALUE.")] = (),
    limit: Annotated[int, help_of("How many at most.")] = 50,
    before: Annotated[str | None, help_of("Only jobs older than the one with this id.")] = None,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        app_id = find_app(client, app).id if app else None
        jobs = client.jobs(state=state, app_id=app_id, labels=inputs.settings(label), limit=limit, before=before)
        names = {each.id: each.name for each in client.apps(limit=1000)} if jobs else {}
    if json:
        print_json(jobs)
        return
    rows = [
        (each.id, names.get(each.spec.app_id, each.spec.app_id), each.state, moment(each.created_at), took(each))
        for each in jobs
    ]
    print_table(("ID", "APP", "STATE", "SUBMITTED", "TOOK"), rows, empty="There are no jobs.")


@job.command
def show(job_id: Id, /, *, json: Json = False) -> None:
    """Show a job, its attempts and its history."""
    with connect() as client:
        found, attempts, events = client.job(job_id), client.attempts(job_id), client.events(job_id)
    if json:
        print_json({"job": found, "attempts": attempts, "events": events})
        return
    print_facts(_facts(found))
    err().print()
    rows = [
        (each.number, each.state, each.exit_status, seconds(each.usage.wall or None), seconds(each.usage.cpu),
         size(each.usage.peak_memory))
        for each in attempts
    ]  # fmt: skip
    print_table(("ATTEMPT", "STATE", "EXIT", "RAN", "CPU", "PEAK MEMORY"), rows, empty="It has not been tried yet.")
    err().print()
    history = [(f"+{event.time - found.created_at:.3f} s", event.topic, event.message) for event in events]
    print_table(("AFTER", "EVENT", ""), history, empty="")


@job.command
def logs(
    job_id: Id,
    /,
    *,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative="", show_default=False, help="Go on until the job has ended.")
    ] = False,
) -> None:
    """Print what a job wrote: its standard output to this one, its standard error to this one."""
    with connect(working=follow) as client:
        for stream, chunk in client.follow_logs(job_id, follow=follow):
            to_terminal(stream, chunk)


@job.command
def wait(
    job_id: Id,
    /,
    *,
    timeout: Annotated[float | None, help_of("Seconds to wait at most; then the exit status is 3.")] = None,
    json: Json = False,
) -> int:
    """Wait until a job has ended; the exit status is that of `moorage run`."""
    with connect(working=True) as client, Progress(quiet=json) as progress:
        ended = await_end(client, job_id, progress, timeout=timeout)
    if json:
        print_json(ended)
        return exit_status(ended)
    _tell(ended)
    if ended.error is not None:
        print_error(failure(ended))
    return exit_status(ended)


@job.command
def outputs(
    job_id: Id,
    /,
    *,
    into: Annotated[Path | None, Parameter(name="--out", help="Folder to write the files to.")] = None,
    json: Json = False,
) -> None:
    """List what a job left, or write it to a folder."""
    with connect() as client:
        files = client.outputs(job_id)
        if into is not None:
            client.download_outputs(job_id, into)
    if json:
        print_json(files)
        return
    print_table(("PATH", "SIZE"), [(file.path, size(file.size)) for file in files], empty="It left no files.")


@job.command
def cancel(job_id: Id, /, *, json: Json = False) -> None:
    """Cancel a job: at once while it waits, else by ending its processes."""
    with connect() as client:
        cancelled = client.cancel(job_id)
    print_json(cancelled) if json else _tell(cancelled)


@job.command
def retry(job_id: Id, /, *, json: Json = False) -> None:
    """Submit a job that has ended once more, as a new job."""
    with connect() as client:
        again = client.retry(job_id)
    print_json(again) if json else _tell(again)
    if not json:
        _say_if_nobody_works()


@job.command
def why(job_id: Id, /, *, json: Json = False) -> None:
    """Say why a job waits, or why it ended as it did."""
    with connect() as client:
        explanation = client.why(job_id)
    if json:
        print_json(explanation)
        return
    for line in (explanation.summary, *explanation.details):
        out().print(Text(printable(line)))


def _facts(job: Job) -> dict[str, object]:
    spec = job.spec
    return {
        "id": job.id,
        "app": spec.app_id,
        "state": job.state,
        "waits for": job.pending_reason,
        "error": job.error and f"{job.error.message} ({job.error.code})",
        "hint": job.error and job.error.hint,
        "owner": job.owner,
        "submitted": moment(job.created_at),
        "took": took(job),
        "arguments": str(dict(spec.parameters)) if spec.parameters else None,
        "inputs": ", ".join(file.path for file in spec.inputs) or None,
        "reserves": f"cpus: {spec.limits.cpus:g}, memory: {spec.limits.memory / MIB:g} MiB",
        "labels": ", ".join(f"{key}={value}" for key, value in spec.labels.items()) or None,
        "runs after": ", ".join(spec.after) or None,
        "retry of": job.retry_of,
    }


def _tell(job: Job) -> None:
    print_table(("ID", "STATE"), [(job.id, job.state)], empty="")


def _say_if_nobody_works() -> None:
    if running_node() is None:
        err().print("No node is running: the job waits until one is. Start one with `moorage serve`.")
