"""The network's own words for what we know of a job (contract, sections 3.3, 3.4 and 5.4)."""

from collections.abc import Mapping

from moorage.model.jobs import ErrorInfo
from moorage.model.states import AttemptState, JobState

CREATED, WORKING, FINISHING, FINISHED = "CREATED", "WORKING", "FINISHING", "FINISHED"
"""The network's job states."""

UPLOAD_FAILED = "Failed to upload output files"

_STATES: Mapping[AttemptState, str] = {
    AttemptState.PLACED: CREATED,
    AttemptState.PREPARING: WORKING,
    AttemptState.RUNNING: WORKING,
    AttemptState.COLLECTING: FINISHING,
}


def job_state(job: JobState, attempt: AttemptState | None) -> str:
    """Give the network's state of a job whose latest attempt is in the given state."""
    if job.terminal:
        return FINISHED
    if job is JobState.QUEUED or attempt is None:
        return CREATED
    return _STATES.get(attempt, WORKING)


def crashed(status: int) -> str:
    """Say how an app failed; a process that a signal ended has minus its number."""
    return f"Job failed with exit code {status}"


def timed_out(seconds: float) -> str:
    """Say that an app took too long."""
    return f"Job timed out after {seconds:g} seconds"


def missing_input(name: str) -> str:
    """Say that an input file could not be had."""
    return f"Failed to download input file {name}"


def error_text(error: ErrorInfo | None, exit_status: int | None) -> str | None:
    """Give `Result.error`: None for success, the contract's exact words where it has some."""
    if error is None:
        return None
    if error.code == "out_of_memory" and exit_status:
        return crashed(exit_status)
    if error.code == "disk_full" and exit_status == 0:
        return UPLOAD_FAILED
    return error.message


def output_text(stdout: bytes, stderr: bytes) -> str:
    r"""Give `Result.output`: both streams as the network shows them, always joined by one newline.

    Bytes that are not UTF-8 are replaced; `\r\n` and `\r` become `\n`.
    """
    return f"{_text(stdout)}\n{_text(stderr)}"


def _text(stream: bytes) -> str:
    return stream.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
