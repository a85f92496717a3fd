"""Lists of jobs: right, in order, and as fast with many jobs as with few."""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from moorage.errors import NotFound
from moorage.model.jobs import Job
from moorage.model.states import AttemptState, JobState
from moorage.store import attempts, events, jobs, listing
from moorage.store.base import JobFilter, Page, Store
from moorage.store.database import connect
from moorage.store.sqlite import SqliteStore
from tests.contract.store.steps import an_app, claim, run, submit

pytestmark = pytest.mark.anyio


async def mixed(store: Store) -> list[Job]:
    """Fill the store with jobs of every kind, oldest first."""
    await store.add_app(an_app(id="app_2", network="golem"), message="x")
    kinds = product(("app_1", "app_2"), ("ann", "bob"), ("red", "blue"), (None, "job_0"), range(3))
    made = [
        submit(store, app_id=app_id, owner=owner, labels={"colour": colour, "size": "s"}, parent_id=parent)
        for app_id, owner, colour, parent, _ in kinds
    ]
    queued = await asyncio.gather(*made)
    for place, job in enumerate(queued):
        if place % 3 == 1:
            await claim(store, job.id)
        elif place % 3 == 2:
            await run(store, job.id, AttemptState.FAILED)
    return [await store.get_job(job.id) for job in queued]


def matches(where: JobFilter, job: Job) -> bool:
    asked = {"owner": job.owner, "app_id": job.spec.app_id, "network": job.network, "state": job.state}
    asked |= {"parent_id": job.parent_id or "", "ended": job.state.terminal}
    wanted = where.labels or {}
    plain = all(getattr(where, name) in {None, value} for name, value in asked.items())
    return plain and wanted.items() <= job.spec.labels.items()


FILTERS = [
    JobFilter(owner=owner, app_id=app_id, network=network, state=state, ended=ended, parent_id=parent, labels=labels)
    for owner, app_id, network, state, ended, parent, labels in product(
        (None, "ann"),
        (None, "app_2"),
        (None, "infrax"),
        (None, JobState.RUNNING, JobState.FAILED, JobState.QUEUED),
        (None, False, True),
        (None, "job_0"),
        (None, {"colour": "red"}, {"size": "s", "colour": "blue"}),
    )
]


async def test_every_filter_gives_what_matches_newest_first(store: Store):
    made = await mixed(store)
    for where in FILTERS:
        expected = [job for job in reversed(made) if matches(where, job)]
        assert await store.list_jobs(where, Page()) == expected, where
    assert sum(any(matches(where, job) for job in made) for where in FILTERS) > len(FILTERS) / 3


@pytest.mark.parametrize("limit", [1, 7, 48, 60])
async def test_pages_follow_each_other_without_gap_or_repetition(store: Store, limit: int):
    made = await mixed(store)
    for where in (JobFilter(), JobFilter(owner="bob", state=JobState.QUEUED), JobFilter(labels={"colour": "red"})):
        listed: list[Job] = []
        while page := await store.list_jobs(where, Page(limit=limit, before=listed[-1].id if listed else None)):
            assert len(page) <= limit
            listed += page
        assert listed == [job for job in reversed(made) if matches(where, job)]


async def test_a_page_may_be_larger_than_what_is_read_at_a_time(store: Store):
    made = await asyncio.gather(*(submit(store) for _ in range(230)))
    assert await store.list_jobs(JobFilter(), Page(limit=200)) == made[:29:-1]
    assert len(await store.list_jobs(JobFilter(), Page(limit=500))) == 230
    assert await store.list_jobs(JobFilter(), Page(limit=0)) == []


async def test_a_page_before_an_unknown_job_is_not_found(store: Store):
    with pytest.raises(NotFound):
        await store.list_jobs(JobFilter(), Page(before="no"))


async def test_no_matching_job_is_an_empty_list(store: Store):
    await submit(store, labels={"a": "b"})
    for where in (JobFilter(owner="eve"), JobFilter(labels={"a": "c"}), JobFilter(labels={"b": "b"})):
        assert await store.list_jobs(where, Page()) == []
    assert len(await store.list_jobs(JobFilter(labels={}), Page())) == 1


async def test_the_queue_is_in_the_order_of_submission(store: Store):
    made = await asyncio.gather(*(submit(store) for _ in range(20)))
    assert await store.ready(5) == made[:5]
    assert await store.ready(100) == made
    assert [await store.ahead_of(job.id) for job in made] == list(range(20))
    await run(store, made[0].id, AttemptState.FAILED)
    attempt = await claim(store, made[1].id)
    assert await store.ahead_of(made[19].id) == 17
    waiting = await submit(store, after=(made[5].id,))
    assert await store.ahead_of(waiting.id) == 18
    assert attempt.job_id not in [job.id for job in await store.ready(100)]


async def test_jobs_are_counted_by_state(store: Store):
    assert await store.job_counts() == dict.fromkeys(JobState, 0)
    made = await mixed(store)
    for job in made[:6:3]:
        await store.cancel(job.id, message="x")
    await run(store, made[6].id, AttemptState.SUCCEEDED)
    await run(store, made[9].id, AttemptState.LOST)
    assert await store.job_counts() == {
        JobState.QUEUED: 13, JobState.RUNNING: 16, JobState.SUCCEEDED: 1, JobState.FAILED: 16, JobState.CANCELLED: 2,
    }  # fmt: skip


PLANS = {
    listing.SQL["place"]: "sqlite_autoindex_jobs_1",
    listing.SQL["ready"]: "jobs_ready",
    listing.SQL["lane"]: "jobs_ready",
    listing.SQL["ahead"]: "jobs_ready",
    listing.SQL["next_expiry"]: "jobs_expiring",
    listing.SQL["waiting_for"]: "job_after_follower",
    jobs.SQL["get"]: "sqlite_autoindex_jobs_1",
    jobs.SQL["expired"]: "jobs_expiring",
    jobs.SQL["queued_of_app"]: "jobs_by_app_state",
    jobs.SQL["followers"]: "job_after",
    jobs.SQL["nth_latest"]: "jobs_ended",
    jobs.SQL["forgettable"]: "jobs_ended",
    jobs.SQL["forget_labels"]: "job_labels_by_job",
    attempts.SQL["of_job"]: "sqlite_autoindex_attempts_1",
    attempts.SQL["open"]: "jobs_by_state",
    attempts.SQL["outputs"]: "sqlite_autoindex_attempts_1",
    attempts.SQL["lost"]: "sqlite_autoindex_attempts_1",
    events.SQL["last"]: "sqlite_autoindex_events_1",
    events.SQL["of_subject"]: "sqlite_autoindex_events_1",
    listing.numbers_query(JobFilter()): "INTEGER PRIMARY KEY",
    listing.numbers_query(JobFilter(owner="a")): "jobs_by_owner ",
    listing.numbers_query(JobFilter(owner="a", state=JobState.FAILED)): "jobs_by_owner_state",
    listing.numbers_query(JobFilter(owner="a", app_id="b")): "jobs_by_app ",
    listing.numbers_query(JobFilter(app_id="b", state=JobState.FAILED)): "jobs_by_app_state",
    listing.numbers_query(JobFilter(state=JobState.FAILED)): "jobs_by_state",
    listing.numbers_query(JobFilter(owner="a", app_id="b", state=JobState.RUNNING)): "jobs_by_state",
    listing.numbers_query(JobFilter(network="n")): "jobs_by_network",
    listing.numbers_query(JobFilter(owner="a", parent_id="p")): "jobs_by_parent",
    listing.numbers_query(JobFilter(owner="a", labels={"k": "v"})): "job_labels USING PRIMARY KEY",
}
"""Which index must drive a query."""


async def test_every_read_of_jobs_is_driven_by_its_index(database: Path):
    connection = connect(database)
    for sql, index in PLANS.items():
        plan = _plan(connection, sql)
        assert any(index in step for step in plan), (sql, plan)
        assert "USE TEMP B-TREE FOR ORDER BY" not in plan, (sql, plan)
    connection.close()


async def test_no_filter_makes_a_list_sort_or_scan_all_jobs(database: Path):
    connection = connect(database)
    for where in FILTERS:
        plan = _plan(connection, listing.numbers_query(where))
        assert not [step for step in plan if "SCAN job" in step or "TEMP B-TREE" in step], (where, plan)
    connection.close()


async def test_forgetting_a_job_looks_at_no_other_not_even_for_a_foreign_key(database: Path):
    connection = connect(database)
    for name in ("events", "labels", "attempts", "after", "job"):
        plan = _plan(connection, jobs.SQL[f"forget_{name}"])
        assert all(step.startswith("SEARCH") for step in plan), (name, plan)
    connection.close()


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """Give a database file without anything in it."""
    await SqliteStore.open(tmp_path / "moorage.db").close()
    return tmp_path / "moorage.db"


def _plan(connection: sqlite3.Connection, sql: str) -> list[str]:
    names = re.findall(r":(\w+)", sql)
    values: Any = dict.fromkeys(names) if names else (None,) * sql.count("?")
    return [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


async def test_reading_takes_as_much_work_with_many_jobs_as_with_few(tmp_path: Path):
    path = tmp_path / "moorage.db"
    store = SqliteStore.open(path)
    await store.add_app(an_app(), message="x")
    work = []
    for number in (100, 5_000):
        made = await asyncio.gather(*(submit(store, labels={"a": "b"}) for _ in range(number)))
        await asyncio.gather(*(store.cancel(job.id, message="x") for job in made[: number // 2]))
        work.append(_work_of_reads(path, made[-1].id))
    await store.close()
    few, many = work
    assert {name: steps for name, steps in many.items() if steps > 1.5 * few[name] + 20} == {}


def _work_of_reads(path: Path, job_id: str) -> dict[str, int]:
    """Count the steps of SQLite's machine, in tens."""
    connection = connect(path, read_only=True)
    filters = (
        JobFilter(), JobFilter(owner="ann"), JobFilter(app_id="app_1", state=JobState.CANCELLED),
        JobFilter(labels={"a": "b"}), JobFilter(owner="eve"), JobFilter(owner="ann", state=JobState.FAILED),
    )  # fmt: skip
    reads: dict[str, Callable[[], object]] = {
        repr(where): lambda where=where: listing.numbers(connection, where, listing.NEWEST, 50)  # type: ignore[misc]
        for where in filters
    }
    reads["job"] = lambda: jobs.get(connection, job_id)
    reads["ready"] = lambda: listing.ready(connection, 50)
    reads["counts"] = lambda: listing.counts(connection)
    reads["events"] = lambda: events.listing(connection, job_id, 0, 50)
    counted = {name: _count(connection, read) for name, read in reads.items()}
    connection.close()
    return counted


def _count(connection: sqlite3.Connection, read: Callable[[], object]) -> int:
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(step, 10)
    read()
    connection.set_progress_handler(None, 0)
    return steps
