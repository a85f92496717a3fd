"""Jobs in the queue and at their end, and what that means for the jobs that run after them."""

import sqlite3
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from moorage.errors import DependencyFailed, JobCancelled, JobFinished, NotFound, QueueTimeout, TotalTimeout
from moorage.model.jobs import JSON, ErrorInfo, Job
from moorage.model.limits import Timeouts
from moorage.model.states import JobState
from moorage.store import queries, rows
from moorage.store.transitions import JOB, Steps, Subject, Transaction, transition

SQL = queries.load("jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job that has just ended."""

    number: int
    id: str
    state: JobState


def row_of(connection: sqlite3.Connection, job_id: str) -> sqlite3.Row:
    """Read one job's row; raises NotFound."""
    row: sqlite3.Row | None = connection.execute(SQL["get"], (job_id,)).fetchone()
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


def get(connection: sqlite3.Connection, job_id: str) -> Job:
    """Read one job."""
    return rows.job(row_of(connection, job_id))


def cancelling(connection: sqlite3.Connection, job_id: str) -> bool:
    """Tell whether the cancellation of a running job was asked for."""
    return bool(row_of(connection, job_id)["cancelling"])


def subject_of(row: sqlite3.Row) -> Subject:
    """Name the history of a job's row."""
    return Subject(id=row["id"], seq=row["seq"])


def expiry(timeouts: Timeouts, created_at: float, *, started: bool) -> float | None:
    """Tell when a queued job expires: the queue timeout counts only until its first start."""
    waits = (timeouts.total, None if started else timeouts.queue)
    return min((created_at + wait for wait in waits if wait is not None), default=None)


def end(
    tx: Transaction,
    row: sqlite3.Row,
    subject: Subject,
    new: JobState,
    *,
    message: str,
    error: ErrorInfo | None = None,
    value: JSON = None,
) -> Ended:
    """Bring one job to its end; its followers have to be told with `tell_followers`."""
    value_text = None if value is None else rows.dumps(value)
    values = {"n": row["n"], "now": tx.now, "error": rows.error_text(error), "value": value_text}
    transition(tx, JOB, subject, row["state"], new, update=SQL["end"], values=values, message=message, error=error)
    return Ended(number=row["n"], id=row["id"], state=new)


def tell_followers(tx: Transaction, ended: Iterable[Ended]) -> Steps[None]:
    """Release the followers of jobs that succeeded and fail those of the others, on down the line."""
    line = deque(ended)
    while line:
        leader = line.popleft()
        while followers := tx.execute(SQL["followers"], (leader.number,)).fetchall():
            for follower in followers:
                tx.execute(SQL["let_go"], (leader.number, follower["n"]))
                if follower["state"] == JobState.QUEUED:
                    line.extend(_tell(tx, follower, leader))
                yield


def _tell(tx: Transaction, follower: sqlite3.Row, leader: Ended) -> tuple[Ended, ...]:
    """Give the follower itself if it ends of the news."""
    if leader.state is JobState.SUCCEEDED:
        _release(tx, follower)
        return ()
    outcome = "was cancelled" if leader.state is JobState.CANCELLED else "failed"
    error = DependencyFailed(f"Job {leader.id}, which this one runs after, {outcome}.").info
    return (end(tx, follower, subject_of(follower), JobState.FAILED, message=error.message, error=error),)


def _release(tx: Transaction, follower: sqlite3.Row) -> None:
    tx.execute(SQL["unblock"], (follower["n"],))
    if follower["blocked"] == 1:
        tx.append(subject_of(follower), "job.released", "Every job that it runs after has succeeded.")


def cancel(tx: Transaction, job_id: str, *, message: str) -> Steps[Job]:
    """Cancel a queued job; note that a running one is to be cancelled."""
    row = row_of(tx.connection, job_id)
    if row["state"] == JobState.QUEUED:
        error = JobCancelled().info
        ended = end(tx, row, subject_of(row), JobState.CANCELLED, message=message, error=error)
        yield from tell_followers(tx, [ended])
    elif row["state"] != JobState.RUNNING:
        raise JobFinished(f"The job has ended already: it is {row['state']}.")
    elif not row["cancelling"]:
        tx.execute(SQL["cancelling"], (row["n"],))
        tx.append(subject_of(row), "job.cancelling", message)
    return get(tx.connection, job_id)


def cancel_of_app(tx: Transaction, app_id: str, error: ErrorInfo) -> Steps[None]:
    """Cancel the queued jobs of an app, and only then tell those that run after them."""
    ended = []
    while queued := tx.execute(SQL["queued_of_app"], (app_id,)).fetchall():
        for row in queued:
            ended.append(end(tx, row, subject_of(row), JobState.CANCELLED, message=error.message, error=error))
            yield
    yield from tell_followers(tx, ended)


def expire(tx: Transaction, now: float) -> Steps[list[str]]:
    """Fail the queued jobs whose time is up."""
    ended = []
    while expired := tx.execute(SQL["expired"], (now,)).fetchall():
        for row in expired:
            error = _why_expired(row)
            ended.append(end(tx, row, subject_of(row), JobState.FAILED, message=error.message, error=error))
            yield
    yield from tell_followers(tx, ended)
    return [each.id for each in ended]


def _why_expired(row: sqlite3.Row) -> ErrorInfo:
    timeouts = rows.spec(row["spec"], row["app_id"]).timeouts
    if timeouts.total is not None and row["created_at"] + timeouts.total <= row["expires_at"]:
        return TotalTimeout(f"The job did not end within its total timeout of {timeouts.total:g} s.").info
    return QueueTimeout(f"The job waited longer than its queue timeout of {timeouts.queue:g} s.").info


def forget_some(tx: Transaction, owner: str, *, before: float, keep: int) -> Steps[int]:
    """Forget the oldest ended jobs, a hundred at most; return how many."""
    latest = tx.one(SQL["nth_latest"], (owner, keep - 1))
    values = {"owner": owner, "before": before if latest is None else max(before, latest["finished_at"])}
    found = tx.execute(SQL["forgettable"], values).fetchall()
    for row in found:
        _forget(tx, row["n"], row["id"])
        yield
    return len(found)


def _forget(tx: Transaction, number: int, job_id: str) -> None:
    tx.execute(SQL["forget_events"], (job_id,))
    for statement in ("forget_labels", "forget_attempts", "forget_after", "forget_job"):
        tx.execute(SQL[statement], (number,))
