"""Watching a job until it ends."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable

from moorage.cli.render import Progress, note
from moorage.client import Client
from moorage.errors import NODE, JobFinished, MoorageError, error_for
from moorage.model.events import PROGRESS
from moorage.model.jobs import Job
from moorage.model.states import JobState

INTERRUPTED = 130
PATIENCE = 30.0
"""Seconds that a cancelled job may take to end; its app has 5 of them to do so by itself."""

WIDTH = 24
"""Signs of a bar that shows how far a job has come."""

Write = Callable[[str, bytes], None]
"""Takes each chunk that the app writes, with the name of its stream."""


class Captured:
    """Keeps both streams for a document."""

    def __init__(self) -> None:
        self._streams = {"stdout": bytearray(), "stderr": bytearray()}

    def __call__(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes."""
        self._streams[stream] += chunk

    def text(self, stream: str) -> str:
        """Give what was written; what is not UTF-8 is replaced."""
        return self._streams[stream].decode(errors="replace")


class Shown:
    """Passes both streams on as they are."""

    def __init__(self) -> None:
        self._last = b"\n"

    def __call__(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes."""
        to_terminal(stream, chunk)
        self._last = chunk[-1:]

    def end_line(self) -> None:
        """Begin a new line where a person would see what follows stuck to the app's last one."""
        if self._last != b"\n" and sys.stdout.isatty():
            to_terminal("stdout", b"\n")


def to_terminal(stream: str, chunk: bytes) -> None:
    """Pass a chunk on as it is: the app's stdout to ours, its stderr to ours."""
    target = sys.stdout if stream == "stdout" else sys.stderr
    target.buffer.write(chunk)
    target.flush()


def to_stderr(stream: str, chunk: bytes) -> None:
    """Pass a chunk of either stream on to standard error."""
    to_terminal("stderr", chunk)


def watch(client: Client, job: Job, progress: Progress, *writes: Write) -> Job:
    """Pass on what a job writes until it has ended; Ctrl-C cancels it and waits for its end."""
    try:
        _await_start(client, job, progress)
        if progress.is_seen:
            threading.Thread(target=_narrate, args=(client, job, progress), daemon=True).start()
        for stream, chunk in client.follow_logs(job.id):
            for write in writes:
                progress.clear()
                write(stream, chunk)
        return client.wait_job(job.id)
    except (KeyboardInterrupt, BrokenPipeError):  # nobody reads on: as good as an interrupt
        progress.clear()
        with contextlib.suppress(JobFinished):
            client.cancel(job.id)
        doing = "Stopping the app" if job.spec.mode == "serve" else "Cancelling the job"
        note(f"{doing}; Ctrl-C again leaves it to the node.")
        return client.wait_job(job.id, timeout=PATIENCE)


def exit_status(job: Job) -> int:
    """Give the exit status for how a job ended: 0, 1 the app failed, 3 the node could not, 130 cancelled."""
    if job.state is JobState.SUCCEEDED:
        return 0
    if not job.state.terminal:
        return NODE
    return INTERRUPTED if job.state is JobState.CANCELLED else failure(job).exit_status


def failure(job: Job) -> MoorageError:
    """Give the error that a job ended with."""
    assert job.error is not None
    kind = error_for(job.error.code, 500)
    return kind(job.error.message, hint=job.error.hint, retryable=job.error.retryable)


def await_end(client: Client, job_id: str, progress: Progress, *, timeout: float | None) -> Job:
    """Wait until a job has ended, at most `timeout` seconds, and show why it waits."""
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    while True:
        job = client.wait_job(job_id, timeout=min(2.0, max(0.0, deadline - time.monotonic())))
        if job.state.terminal or time.monotonic() >= deadline:
            return job
        progress.show(_doing(job))


def _await_start(client: Client, job: Job, progress: Progress) -> None:
    job = client.wait_job(job.id, JobState.RUNNING, timeout=0.5)
    while job.state is JobState.QUEUED:
        progress.show(_doing(job))
        job = client.wait_job(job.id, JobState.RUNNING, timeout=2)
    progress.show(_doing(job))


def _narrate(client: Client, job: Job, progress: Progress) -> None:
    """Show how far a job has come, where its network tells; the end of the command ends this."""
    with contextlib.suppress(Exception):
        for event in client.follow_events(job.id, after=job.seq):
            if event.topic == PROGRESS:
                progress.show(f"{_bar(event.data['done'], event.data['of'])} {event.message}")


def _bar(done: int, of: int) -> str:
    """Draw how much of something is done."""
    filled = WIDTH * min(done, of) // max(of, 1)
    return "\N{FULL BLOCK}" * filled + "\N{LIGHT SHADE}" * (WIDTH - filled)


def _doing(job: Job) -> str:
    return f"waiting: {job.pending_reason}" if job.state is JobState.QUEUED else job.state
