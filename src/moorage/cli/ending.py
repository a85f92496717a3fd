"""What there is to say when a job has ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from moorage.cli.render import STYLES, err, print_error, print_next, printable, seconds, size
from moorage.cli.watch import Captured, failure
from moorage.client import Client
from moorage.model.apps import App
from moorage.model.jobs import Attempt, FileRef, Job
from moorage.model.states import JobState

SHOWN = 20
"""Output files that are listed before the rest is only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A job that has ended, with what it left; `out` is where that was written, if it was."""

    app: App
    job: Job
    attempts: list[Attempt]
    outputs: list[FileRef]
    out: Path | None

    def document(self, captured: Captured) -> dict[str, Any]:
        """Give everything as one JSON document."""
        return {
            "job": self.job,
            "app": self.app,
            "attempts": self.attempts,
            "outputs": self.outputs,
            "out": self.out,
            "stdout": captured.text("stdout"),
            "stderr": captured.text("stderr"),
        }


def fetch(client: Client, app: App, job: Job, out: Path | None) -> Ending:
    """Read how a job ended and, with `out`, write what it left there."""
    if out is not None:
        client.download_outputs(job.id, out)
    return Ending(app=app, job=job, attempts=client.attempts(job.id), outputs=client.outputs(job.id), out=out)


def show_ending(ending: Ending, *, quiet: bool) -> None:
    """Print how a job ended, what it left and the commands that lead on, all on standard error."""
    job = ending.job
    if not quiet:
        err().print(_summary(ending))
        _list_outputs(ending)
    if job.state is JobState.FAILED:
        print_error(failure(job))
    if not quiet:
        print_next(_next(ending))


def _summary(ending: Ending) -> Text:
    state = ending.job.state
    facts = []
    if ending.attempts:
        usage = ending.attempts[-1].usage
        facts = [f"ran {seconds(usage.wall)}"] if usage.wall else []
        facts += [f"cpu {seconds(usage.cpu)}"] if usage.cpu is not None else []
        facts += [f"peak memory {size(usage.peak_memory)}"] if usage.peak_memory is not None else []
    if not facts and took(ending.job):  # it ran no process of its own, or none that was measured
        facts = [f"took {took(ending.job)}"]
    return Text.assemble((state, f"bold {STYLES.get(state, '')}"), "" if not facts else " · " + " · ".join(facts))


def took(job: Job) -> str | None:
    """Write the time from a job's start to its end; None if it did not start or has not ended."""
    return seconds(job.finished_at - job.started_at) if job.finished_at and job.started_at else None


def _list_outputs(ending: Ending) -> None:
    console = err()
    width = max((len(file.path) for file in ending.outputs[:SHOWN]), default=0)
    for file in ending.outputs[:SHOWN]:
        console.print(Text.assemble("  ", printable(file.path).ljust(width), "  ", (size(file.size) or "", "dim")))
    if len(ending.outputs) > SHOWN:
        console.print(f"  and {len(ending.outputs) - SHOWN} more")
    if ending.out is not None and ending.outputs:
        console.print(Text(f"written to {ending.out}"))


def _next(ending: Ending) -> list[tuple[str, str]]:
    job = ending.job.id
    commands = [(f"job show {job}", "its history"), (f"job logs {job}", "what it wrote")]
    if ending.outputs:
        where = "" if ending.out else " --out DIR"
        commands.append((f"job outputs {job}{where}", "its files"))
    if ending.job.state is not JobState.SUCCEEDED:
        commands.append((f"job retry {job}", "the same again"))
    return commands
