"""Attempts: claimed with a lease, moved on, and ended together with their job."""

import sqlite3
from collections.abc import Mapping
from typing import Any

from moorage.errors import (
    AppUnavailable,
    IllegalTransition,
    JobCancelled,
    JobCrashed,
    JobLost,
    JobTimedOut,
    LeaseLost,
    MoorageError,
    NotFound,
)
from moorage.model.ids import new_id
from moorage.model.jobs import Attempt, ErrorInfo, FileRef, Job, Result
from moorage.model.states import AppState, AttemptState, JobState
from moorage.store import apps, jobs, queries, rows
from moorage.store.transitions import ATTEMPT, JOB, Steps, Subject, Transaction, transition

SQL = queries.load("attempts")

_ENDS = {AttemptState.SUCCEEDED: JobState.SUCCEEDED, AttemptState.CANCELLED: JobState.CANCELLED}
"""What an attempt's end makes of its job; all else fails it, unless a lost one is tried again."""

_ERRORS: Mapping[AttemptState, type[MoorageError]] = {
    AttemptState.FAILED: JobCrashed,
    AttemptState.TIMED_OUT: JobTimedOut,
    AttemptState.CANCELLED: JobCancelled,
    AttemptState.LOST: JobLost,
}
"""What is said of an end whose result says nothing."""


def of_job(connection: sqlite3.Connection, job_id: str) -> list[Attempt]:
    """Read the attempts of a job, in order."""
    found = connection.execute(SQL["of_job"], (job_id,)).fetchall()
    if not found:
        jobs.row_of(connection, job_id)
    return [rows.attempt(row) for row in found]


def unfinished(connection: sqlite3.Connection) -> list[Attempt]:
    """Read the attempts that have not ended."""
    return [rows.attempt(row) for row in connection.execute(SQL["open"])]


def outputs(connection: sqlite3.Connection, job_id: str) -> list[FileRef]:
    """Read what the last attempt of a job left."""
    row = connection.execute(SQL["outputs"], (job_id,)).fetchone()
    if row is None:
        jobs.row_of(connection, job_id)
        return []
    return rows.files(row["outputs"])


def claim(tx: Transaction, job_id: str, *, place: str) -> Attempt | None:
    """Give out the lease of a queued job that waits for no other."""
    job = jobs.row_of(tx.connection, job_id)
    if job["state"] != JobState.QUEUED or job["blocked"]:
        return None
    attempt = _new_attempt(job["id"], job["attempts"] + 1, place, tx.now, lane=job["lane"])
    subject = jobs.subject_of(job)
    values = {"n": job["n"], "number": attempt.number, "now": tx.now}
    message = f"Attempt {attempt.number} begins."
    transition(
        tx, JOB, subject, job["state"], JobState.RUNNING, update=SQL["start_job"], values=values, message=message
    )
    _insert(tx, job["n"], attempt, subject)
    return attempt


def first(tx: Transaction, job: Job, number: int, subject: Subject, *, place: str) -> Attempt:
    """Give out the first lease of a job of a lane that has just been accepted; `number` is that of its row."""
    attempt = _new_attempt(job.id, 1, place, tx.now, lane=job.lane)
    _insert(tx, number, attempt, subject)
    return attempt


def _insert(tx: Transaction, job_number: int, attempt: Attempt, subject: Subject) -> None:
    columns = (job_number, attempt.number, attempt.id, attempt.state, attempt.place, tx.now, attempt.started_at)
    tx.execute(SQL["insert"], columns)
    message = f"Placed on {attempt.place}." if attempt.state is AttemptState.PLACED else "The services are asked."
    tx.append(subject, f"attempt.{attempt.state}", message, attempt_id=attempt.id)


def _new_attempt(job_id: str, number: int, place: str, now: float, *, lane: str | None) -> Attempt:
    return Attempt(
        id=new_id("attempt"),
        job_id=job_id,
        number=number,
        state=AttemptState.PLACED if lane is None else AttemptState.RUNNING,
        lease=number,
        place=place,
        created_at=now,
        started_at=None if lane is None else now,
    )


def advance(tx: Transaction, attempt: Attempt, state: AttemptState, *, message: str) -> None:
    """Move an attempt one step on."""
    if state.terminal:
        raise IllegalTransition(f"An attempt becomes {state} with its result only.")
    held = _held(tx, attempt)
    _step(tx, held, jobs.subject_of(held), state, update=SQL["advance"], values={}, message=message)


def finish(
    tx: Transaction,
    attempt: Attempt,
    state: AttemptState,
    result: Result,
    *,
    stdout: FileRef | None,
    stderr: FileRef | None,
) -> Steps[None]:
    """End an attempt, and with it its job or the job's time out of the queue."""
    if not state.terminal:
        raise IllegalTransition(f"An attempt does not end by becoming {state}.")
    held = _held(tx, attempt)
    subject, error = jobs.subject_of(held), _error(state, result)
    message = error.message if error else "The app succeeded."
    values = {**_result_columns(result), "stdout": rows.file_text(stdout), "stderr": rows.file_text(stderr)}
    values["error"] = rows.error_text(error)
    _step(tx, held, subject, state, update=SQL["end"], values=values, message=message, error=error)
    if state is AttemptState.LOST and _retries(tx, held):
        _requeue(tx, held, subject)
    else:
        new, error = _verdict(tx, held, state, error)
        said = error.message if error else "The job succeeded."
        ended = jobs.end(tx, held, subject, new, message=said, error=error, value=result.value)
        if held["lane"] is None:
            yield from jobs.tell_followers(tx, [ended])


def release(tx: Transaction, attempt: Attempt) -> None:
    """Put a job back into the queue whose attempt has done nothing."""
    held = _held(tx, attempt)
    subject, error = jobs.subject_of(held), JobLost().info
    values = {**_result_columns(Result()), "stdout": None, "stderr": None, "error": rows.error_text(error)}
    message = "It was given up before it had begun."
    _step(tx, held, subject, AttemptState.LOST, update=SQL["end"], values=values, message=message, error=error)
    _requeue(tx, held, subject)


def _held(tx: Transaction, attempt: Attempt) -> sqlite3.Row:
    """Read the job with the attempt.

    Raises NotFound if the job is gone, LeaseLost unless the attempt holds its lease.
    """
    held = tx.one(SQL["held"], (attempt.lease, attempt.job_id))
    if held is None:
        raise NotFound(f"There is no job {attempt.job_id}.")
    holds = held["state"] == JobState.RUNNING and held["attempts"] == attempt.lease
    if not holds or held["attempt_id"] != attempt.id:
        raise LeaseLost
    return held


def _step(
    tx: Transaction,
    held: sqlite3.Row,
    subject: Subject,
    state: AttemptState,
    *,
    update: str,
    values: Mapping[str, Any],
    message: str,
    error: ErrorInfo | None = None,
) -> None:
    transition(
        tx,
        ATTEMPT,
        subject,
        held["attempt_state"],
        state,
        update=update,
        values={**values, "n": held["attempt"], "now": tx.now},
        message=message,
        attempt_id=held["attempt_id"],
        error=error,
    )


def _error(state: AttemptState, result: Result) -> ErrorInfo | None:
    if state is AttemptState.SUCCEEDED:
        return None
    return result.error or _ERRORS[state]().info


def _result_columns(result: Result) -> dict[str, Any]:
    return {
        "exit_status": result.exit_status,
        "wall": result.usage.wall,
        "cpu": result.usage.cpu,
        "peak_memory": result.usage.peak_memory,
        "outputs": rows.files_text(result.outputs),
    }


def _retries(tx: Transaction, job: sqlite3.Row) -> bool:
    """Tell whether a job is tried again after its attempt was lost (and counted)."""
    if job["cancelling"] or _app_state(tx, job) in apps.GONE:
        return False
    lost = tx.execute(SQL["lost"], (job["n"],)).fetchone()["lost"]
    return bool(lost <= rows.spec(job["spec"], job["app_id"]).lost_retries)


def _app_state(tx: Transaction, job: sqlite3.Row) -> AppState:
    return AppState(tx.execute(SQL["app_state"], (job["app_id"],)).fetchone()["state"])


def _requeue(tx: Transaction, job: sqlite3.Row, subject: Subject) -> None:
    timeouts = rows.spec(job["spec"], job["app_id"]).timeouts
    values = {"n": job["n"], "expires_at": jobs.expiry(timeouts, job["created_at"], started=True)}
    message = "Back in the queue at its old place: its attempt was lost."
    transition(
        tx, JOB, subject, job["state"], JobState.QUEUED, update=SQL["requeue_job"], values=values, message=message
    )


def _verdict(
    tx: Transaction, job: sqlite3.Row, state: AttemptState, error: ErrorInfo | None
) -> tuple[JobState, ErrorInfo | None]:
    """Tell what an attempt's end makes of its job; a lost one is not tried again if nobody wants it any more."""
    if state is not AttemptState.LOST:
        return _ENDS.get(state, JobState.FAILED), error
    if job["cancelling"]:
        return JobState.CANCELLED, JobCancelled().info
    if reason := apps.GONE.get(_app_state(tx, job)):
        return JobState.CANCELLED, AppUnavailable(reason).info
    return JobState.FAILED, error
