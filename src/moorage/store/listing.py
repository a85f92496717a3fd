"""Reading the queue and the lists of jobs: every query is driven by an index and pages by place, never by offset."""

import sqlite3
from json import loads
from typing import Any

from moorage.errors import NotFound
from moorage.model.jobs import Job
from moorage.model.states import JobState
from moorage.store import queries, rows
from moorage.store.base import JobFilter

SQL = queries.load("listing")

NEWEST = (1 << 63) - 1
"""A place that every job is before."""

_DRIVERS: tuple[tuple[str, ...], ...] = (
    ("parent_id",),
    ("app_id", "state"),
    ("app_id",),
    ("owner", "state"),
    ("owner",),
    ("state",),
    ("network",),
)
"""Sets of filters that have an index of their own, the most telling first; the remaining filters sift its rows."""

_DRIVERS_OF_RUNNING: tuple[tuple[str, ...], ...] = (("parent_id",), ("state",))
"""Those for jobs that run, which are few."""

_NUMBERED = SQL["numbered"].format(sifts=SQL["sifts"])


def numbers(connection: sqlite3.Connection, where: JobFilter, before: int, limit: int) -> list[int]:
    """Find the newest jobs before a place, as their numbers.

    All the sifting happens in one step of SQLite, so a thread that runs it leaves the interpreter to others.
    """
    values = {**_values(where), "before": before, "limit": limit}
    found: list[int] = loads(connection.execute(numbers_query(where), values).fetchone()["numbers"])
    return found


def numbered(connection: sqlite3.Connection, where: JobFilter, found: list[int]) -> list[Job]:
    """Read jobs by their numbers, newest first, but for those that no longer match."""
    values = {**_values(where), "numbers": rows.dumps(found)}
    return [rows.job(row) for row in connection.execute(_NUMBERED, values)]


def numbers_query(where: JobFilter) -> str:
    """Write the query for a filter, driven by the best index there is for it."""
    source, driver, place = "jobs", "TRUE", "n"
    if where.labels:
        source, place = "job_labels CROSS JOIN jobs ON n = job", "job"
        driver = "job_labels.key = :key AND job_labels.value = :value"
    elif names := next((each for each in _drivers(where) if _given(where, each)), None):
        driver = " AND ".join(f"{name} = :{name}" for name in names)
        if len(names) > 1:
            driver += " AND jobs.state <> 'running'"  # as the index has it
    return SQL["numbers"].format(source=source, driver=driver, place=place, sifts=SQL["sifts"])


def _drivers(where: JobFilter) -> tuple[tuple[str, ...], ...]:
    return _DRIVERS_OF_RUNNING if where.state == JobState.RUNNING else _DRIVERS


def _given(where: JobFilter, names: tuple[str, ...]) -> bool:
    return all(getattr(where, name) is not None for name in names)


def _values(where: JobFilter) -> dict[str, Any]:
    labels = dict(where.labels or {})
    key, value = next(iter(labels.items()), (None, None))
    return {
        "owner": where.owner,
        "app_id": where.app_id,
        "network": where.network,
        "state": where.state,
        "ended": where.ended,
        "parent_id": where.parent_id,
        "labels": rows.dumps(labels) if labels else None,
        "key": key,
        "value": value,
    }


def place(connection: sqlite3.Connection, job_id: str) -> int:
    """Give a job's number in the order of submission."""
    row = connection.execute(SQL["place"], (job_id,)).fetchone()
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return int(row["n"])


def ready(connection: sqlite3.Connection, limit: int) -> list[Job]:
    """Read the oldest jobs that wait for no other."""
    return [rows.job(row) for row in connection.execute(SQL["ready"], (limit,))]


def lane(connection: sqlite3.Connection, name: str) -> list[str]:
    """Read the ids of the jobs that wait in a lane, in order."""
    return [row["id"] for row in connection.execute(SQL["lane"], (name,))]


def ahead_of(connection: sqlite3.Connection, job_id: str) -> int:
    """Count the ready jobs that come before a job."""
    return int(connection.execute(SQL["ahead"], {"n": place(connection, job_id)}).fetchone()["ahead"])


def waiting_for(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """Read the ids of the unfinished jobs that a job runs after."""
    found = connection.execute(SQL["waiting_for"], (place(connection, job_id),))
    return [row["id"] for row in found]


def next_expiry(connection: sqlite3.Connection) -> float | None:
    """Tell when the next queued job expires."""
    expiry: float | None = connection.execute(SQL["next_expiry"]).fetchone()["expiry"]
    return expiry


def counts(connection: sqlite3.Connection) -> dict[JobState, int]:
    """Count jobs by state."""
    return {JobState(row["state"]): row["count"] for row in connection.execute(SQL["counts"])}
