"""What the network is told of a job, in its own words (contract, sections 3.3, 3.4 and 5.4)."""

import pytest

from moorage.errors import DiskFull, JobCancelled, JobCrashed, JobLost, JobTimedOut, MoorageError, OutOfMemory
from moorage.model.states import AttemptState, JobState
from moorage.networks.infrax import texts


@pytest.mark.parametrize(
    ("stdout", "stderr", "output"),
    [
        (b"", b"", "\n"),
        (b"x\n", b"", "x\n\n"),
        (b"out", b"err", "out\nerr"),
        (b"a\r\nb\rc", b"\r", "a\nb\nc\n\n"),
        (b"\xff\xc3", b"", "\ufffd\ufffd\n"),
    ],
)
def test_output_is_both_streams_joined_by_a_newline(stdout: bytes, stderr: bytes, output: str) -> None:
    """Item 8."""
    assert texts.output_text(stdout, stderr) == output


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (JobCrashed(texts.crashed(3)), 3, "Job failed with exit code 3"),
        (OutOfMemory("The app used more."), -9, "Job failed with exit code -9"),
        (JobTimedOut(texts.timed_out(1.0)), -15, "Job timed out after 1 seconds"),
        (JobTimedOut(texts.timed_out(86400)), -15, "Job timed out after 86400 seconds"),
        (JobTimedOut(texts.timed_out(2.5)), -15, "Job timed out after 2.5 seconds"),
        (JobCancelled(), None, "Job cancelled"),
        (JobLost(), None, "Job lost"),
        (DiskFull(), 0, "Failed to upload output files"),
    ],
)
def test_errors_have_the_words_of_the_contract(error: MoorageError, status: int | None, text: str) -> None:
    """Item 9."""
    assert texts.error_text(error.info, status) == text


def test_success_has_no_error() -> None:
    assert texts.error_text(None, 0) is None


@pytest.mark.parametrize(
    ("job", "attempt", "state"),
    [
        (JobState.QUEUED, None, "CREATED"),
        (JobState.QUEUED, AttemptState.LOST, "CREATED"),
        (JobState.RUNNING, AttemptState.PLACED, "CREATED"),
        (JobState.RUNNING, AttemptState.PREPARING, "WORKING"),
        (JobState.RUNNING, AttemptState.RUNNING, "WORKING"),
        (JobState.RUNNING, AttemptState.COLLECTING, "FINISHING"),
        (JobState.SUCCEEDED, AttemptState.SUCCEEDED, "FINISHED"),
        (JobState.FAILED, AttemptState.TIMED_OUT, "FINISHED"),
        (JobState.CANCELLED, None, "FINISHED"),
    ],
)
def test_states_are_those_of_the_network(job: JobState, attempt: AttemptState | None, state: str) -> None:
    assert texts.job_state(job, attempt) == state
