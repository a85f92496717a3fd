"""New jobs: accepted once, however often they are asked for."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace

from moorage.errors import AppUnavailable, DependencyFailed, IdempotencyConflict, Invalid, NotFound
from moorage.model.apps import App
from moorage.model.jobs import Attempt, Job
from moorage.model.states import JobState
from moorage.store import apps, attempts, queries, rows
from moorage.store.jobs import expiry
from moorage.store.transitions import Subject, Transaction

SQL = queries.load("submissions")

_HOPELESS = {JobState.FAILED, JobState.CANCELLED}


def submit(
    tx: Transaction,
    app_id: str,
    build: Callable[[App], Job],
    *,
    owner: str,
    job_id: str | None,
    idempotency_key: str | None,
) -> tuple[Job, bool]:
    """Accept a job, or find the one that an earlier identical request made."""
    earlier = _earlier(tx, owner, job_id, idempotency_key)
    try:
        built = build(apps.known(tx, app_id))
    except AppUnavailable:
        if earlier and earlier["owner"] == owner and earlier["app_id"] == app_id:
            return rows.job(earlier), False  # it was accepted when the app still took jobs
        raise
    text = rows.spec_text(built.spec)
    if earlier:
        return _same(earlier, owner, app_id, text), False
    job = replace(
        built,
        id=job_id or built.id,
        owner=owner,
        idempotency_key=idempotency_key,
        state=JobState.QUEUED,
        created_at=tx.now,
        seq=1,
    )
    _insert(tx, job, text)
    return job, True


def start(
    tx: Transaction,
    app_id: str,
    build: Callable[[App], Job],
    *,
    place: str,
    begin: Callable[[Job, Attempt], object],
) -> Job:
    """Accept a job and give out its lease; the job begins its life running, so no state changes.

    Raises IdempotencyConflict.
    """
    job = build(apps.known(tx, app_id))
    columns = (
        job.id,
        job.owner,
        job.network,
        app_id,
        job.app_digest,
        rows.layers_text(job.layers),
        tx.now,
        tx.now,
        job.parent_id,
        job.lane,
        rows.spec_text(job.spec),
    )
    try:
        number = tx.execute(SQL["insert_running"], columns).lastrowid
    except sqlite3.IntegrityError as error:
        raise IdempotencyConflict(f"The id {job.id} is taken.") from error
    for key, value in job.spec.labels.items():
        tx.execute(SQL["label"], (key, value, number))
    subject = Subject(id=job.id, seq=0)
    tx.append(subject, "job.running", "It was accepted and begins at once.")
    attempt = attempts.first(tx, job, number or 0, subject, place=place)
    job = replace(job, state=JobState.RUNNING, created_at=tx.now, started_at=tx.now, attempts=1, seq=subject.seq)
    begin(job, attempt)
    tx.begins = True
    return job


def _earlier(tx: Transaction, owner: str, job_id: str | None, key: str | None) -> sqlite3.Row | None:
    row = None
    if job_id is not None:
        row = tx.one(SQL["by_id"], (job_id,))
    if row is None and key is not None:
        row = tx.one(SQL["by_key"], (owner, key))
    return row


def _same(earlier: sqlite3.Row, owner: str, app_id: str, text: str) -> Job:
    if earlier["owner"] != owner or earlier["app_id"] != app_id or not rows.same_text(earlier["spec"], text):
        raise IdempotencyConflict
    return rows.job(earlier)


def _insert(tx: Transaction, job: Job, text: str) -> None:
    leaders = _unfinished(tx, job)
    columns = (
        job.id,
        job.owner,
        job.network,
        job.spec.app_id,
        job.app_digest,
        rows.layers_text(job.layers),
        len(leaders),
        job.created_at,
        expiry(job.spec.timeouts, job.created_at, started=False),
        job.parent_id,
        job.retry_of,
        job.idempotency_key,
        job.lane,
        text,
    )
    try:
        number = tx.execute(SQL["insert"], columns).lastrowid
        tx.append(Subject(id=job.id, seq=0), "job.queued", "Waiting to run.")
    except sqlite3.IntegrityError as error:
        raise IdempotencyConflict(f"The id {job.id} is taken.") from error
    for key, value in job.spec.labels.items():
        tx.execute(SQL["label"], (key, value, number))
    for leader in leaders:
        tx.execute(SQL["follow"], (leader, number))


def _unfinished(tx: Transaction, job: Job) -> list[int]:
    """Give the numbers of the unfinished jobs that this one runs after."""
    numbers = []
    for leader_id in dict.fromkeys(job.spec.after):
        leader = tx.one(SQL["leader"], (leader_id,))
        if leader is None:
            raise NotFound(f"There is no job {leader_id} to run after.")
        if leader["lane"] is not None:
            raise Invalid(f"Job {leader_id} leaves no files: no job can run after it.")
        if leader["state"] in _HOPELESS:
            raise DependencyFailed(f"Job {leader_id}, which this one is to run after, {leader['state']}.")
        if leader["state"] != JobState.SUCCEEDED:
            numbers.append(int(leader["n"]))
    return numbers
