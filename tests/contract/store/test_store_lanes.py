"""Jobs of lanes, which begin as they are accepted, and jobs that are forgotten."""

import asyncio
import sqlite3
from collections.abc import Awaitable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from moorage.errors import AppUnavailable, IdempotencyConflict, Invalid, LeaseLost, NotFound
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import Attempt, Job, Result
from moorage.model.states import AttemptState, JobState
from moorage.store.base import JobFilter, Page, Store
from moorage.store.sqlite import SqliteStore
from tests.contract.store.steps import (
    BROKEN,
    Clock,
    builder,
    claim,
    end,
    history,
    run,
    start,
    submit,
    topics,
)

pytestmark = pytest.mark.anyio

FOREVER = 1e12


async def finish(store: Store, attempt: Attempt, state: AttemptState = AttemptState.SUCCEEDED) -> Job:
    """End the attempt of a job of a lane."""
    await store.finish(attempt, state, Result(value=["x"], error=None if state is AttemptState.SUCCEEDED else BROKEN))
    return await store.get_job(attempt.job_id)


async def waiting(store: Store, job_id: str, lane: str = "l", **fields: object) -> Job:
    return await submit(store, job_id, lane=lane, **fields)


async def ended(store: Store, clock: Clock, job_id: str, at: float, **fields: object) -> str:
    """Have a job of a lane that ended at a time."""
    clock.now = at
    _, attempt = await start(store, job_id, **fields)
    await finish(store, attempt)
    return job_id


async def ids(store: Store, **where: object) -> list[str]:
    return [job.id for job in await store.list_jobs(JobFilter(**where), Page(limit=1_000))]


# begun as they are accepted


async def test_a_job_that_begins_at_once_is_stored_running_with_its_lease(store: Store, clock: Clock):
    clock.now = 7.125
    job, attempt = await start(store, "mine", owner="bob", parameters={"a": 1}, labels={"k": "v"}, lost_retries=0)
    assert await store.get_job("mine") == job
    assert (job.state, job.lane, job.owner, job.attempts, job.seq) == (JobState.RUNNING, "l", "bob", 1, 2)
    assert job.created_at == job.started_at == 7.125
    assert job.finished_at is None
    assert await store.attempts("mine") == await store.running() == [attempt]
    assert (attempt.state, attempt.lease, attempt.place) == (AttemptState.RUNNING, 1, "here")
    assert attempt.created_at == attempt.started_at == 7.125
    assert await ids(store, labels={"k": "v"}) == ["mine"]
    assert (await store.job_counts())[JobState.RUNNING] == 1


async def test_its_two_events_are_told_together_once_both_are_durable(store: Store):
    told: list[list[Event]] = []
    store.listen(lambda events: told.append(list(events)))
    job, attempt = await start(store)
    assert [[event.topic for event in group] for group in told] == [["job.running", "attempt.running"]]
    assert await topics(store, job.id) == ["job.running", "attempt.running"]
    assert [event.attempt_id for event in await history(store, job.id)] == [None, attempt.id]


async def test_a_taken_id_is_refused_and_leaves_nothing(store: Store):
    job, _ = await start(store, "mine", labels={"k": "old"})
    before = await store.events(None)
    with pytest.raises(IdempotencyConflict, match="mine"):
        await start(store, "mine", labels={"k": "new"})
    assert await store.events(None) == before
    assert await store.get_job("mine") == job
    assert await ids(store, labels={"k": "new"}) == []
    assert len(await store.running()) == 1
    assert (await store.job_counts())[JobState.RUNNING] == 1


async def test_the_id_of_an_ended_or_of_a_queued_job_is_taken_too(store: Store):
    await submit(store, "queued")
    await run(store, (await submit(store, "ended")).id, AttemptState.FAILED)
    for job_id in ("queued", "ended"):
        with pytest.raises(IdempotencyConflict):
            await start(store, job_id)


async def test_what_a_builder_raises_refuses_the_job_and_leaves_nothing(store: Store):
    def refuse(app: App) -> Job:
        raise AppUnavailable(f"{app.name} takes no jobs.")

    before = await store.events(None)
    begun: list[Job] = []
    with pytest.raises(AppUnavailable, match="counter takes no jobs"):
        await store.start("app_1", refuse, place="here", begin=lambda job, _: begun.append(job))
    with pytest.raises(NotFound):
        await start(store, app_id="no")
    assert begun == []
    assert await store.events(None) == before
    assert await ids(store) == []


async def test_it_may_begin_before_it_is_durable_and_end_in_a_later_commit(store: Store):
    ends: list[asyncio.Task[None]] = []
    known: list[int] = []

    def begin(job: Job, attempt: Attempt) -> None:
        known.append(len(told))
        ends.append(asyncio.ensure_future(store.finish(attempt, AttemptState.SUCCEEDED, Result(value=1))))

    told: list[Event] = []
    store.listen(told.extend)
    job = await store.start("app_1", builder("mine", lane="l"), place="here", begin=begin)
    assert known == [0]
    assert job.state is JobState.RUNNING
    await asyncio.gather(*ends)
    assert [event.topic for event in told] == ["job.running", "attempt.running", "attempt.succeeded", "job.succeeded"]


async def test_what_begin_raises_refuses_the_job_and_leaves_nothing(store: Store):
    def begin(job: Job, attempt: Attempt) -> None:
        raise AppUnavailable

    with pytest.raises(AppUnavailable):
        await store.start("app_1", builder("mine", lane="l"), place="here", begin=begin)
    assert await ids(store) == []
    assert await store.running() == []


@pytest.mark.parametrize("place", range(3))
async def test_one_that_is_refused_spoils_none_of_those_that_share_its_commit(store: Store, place: int):
    await start(store, "taken")
    wanted = ["a", "b"]
    wanted.insert(place, "taken")
    found = await asyncio.gather(*(start(store, job_id) for job_id in wanted), return_exceptions=True)
    assert isinstance(found.pop(place), IdempotencyConflict)
    assert await ids(store) == ["b", "a", "taken"]
    for begun in found:
        assert not isinstance(begun, BaseException)
        assert (await finish(store, begun[1])).state is JobState.SUCCEEDED


async def test_one_that_fails_halfway_leaves_nothing_whatever_it_shares_its_commit_with(store: Store):
    def begin(job: Job, attempt: Attempt) -> None:
        raise AppUnavailable

    def failing() -> Awaitable[Job]:
        return store.start("app_1", builder(lane="l"), place="here", begin=begin)

    asked = (failing(), start(store, "a"), failing(), start(store, "b"), failing())
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(each, AppUnavailable) for each in found] == [True, False, True, False, True]
    assert await ids(store) == ["b", "a"]
    assert [attempt.job_id for attempt in await store.running()] == ["a", "b"]
    assert (await store.job_counts())[JobState.RUNNING] == 2


async def test_it_goes_from_running_to_its_end_in_one_step(store: Store, clock: Clock):
    job, attempt = await start(store)
    clock.now += 2
    done = await finish(store, attempt)
    assert (done.state, done.value, done.finished_at) == (JobState.SUCCEEDED, ["x"], clock.now)
    assert await topics(store, job.id) == ["job.running", "attempt.running", "attempt.succeeded", "job.succeeded"]
    with pytest.raises(LeaseLost):
        await finish(store, attempt)
    assert await store.running() == []


async def test_one_that_fails_keeps_what_it_had_reached(store: Store):
    _, attempt = await start(store)
    failed = await finish(store, attempt, AttemptState.FAILED)
    assert (failed.state, failed.error, failed.value) == (JobState.FAILED, BROKEN, ["x"])


async def test_a_lost_one_that_is_not_tried_again_fails(store: Store):
    _, attempt = await start(store, lost_retries=0)
    await store.finish(attempt, AttemptState.LOST, Result())
    job = await store.get_job(attempt.job_id)
    assert (job.state, job.error and job.error.code) == (JobState.FAILED, "job_lost")


async def test_a_lost_one_that_is_tried_again_waits_in_its_lane(store: Store):
    _, attempt = await start(store, "first", lost_retries=1)
    await waiting(store, "second")
    await store.finish(attempt, AttemptState.LOST, Result())
    assert await store.lane("l") == ["first", "second"]
    again = await claim(store, "first")
    assert (again.number, again.state) == (2, AttemptState.RUNNING)


async def test_the_cancellation_of_a_running_one_is_noted(store: Store):
    job, attempt = await start(store)
    await store.cancel(job.id, message="x")
    assert await store.cancelling(job.id)
    assert (await finish(store, attempt, AttemptState.CANCELLED)).state is JobState.CANCELLED


# waiting in a lane


async def test_a_lane_gives_its_jobs_in_the_order_of_their_submission(store: Store):
    made = [f"job-{number}" for number in range(20)]
    await asyncio.gather(
        *(waiting(store, job_id, "even" if place % 2 == 0 else "odd") for place, job_id in enumerate(made))
    )
    await submit(store, "of-no-lane")
    assert await store.lane("even") == made[::2]
    assert await store.lane("odd") == made[1::2]
    assert await store.lane("no") == []


async def test_a_lane_gives_neither_what_runs_nor_what_has_ended_nor_what_waits_for_another(store: Store):
    for job_id in ("a", "b", "c"):
        await waiting(store, job_id)
    await start(store, "begun")
    await submit(store, "leader")
    await waiting(store, "blocked", after=("leader",))
    await claim(store, "b")
    await store.cancel("c", message="x")
    assert await store.lane("l") == ["a"]
    await run(store, "leader", AttemptState.SUCCEEDED)
    assert await store.lane("l") == ["a", "blocked"]


async def test_no_job_can_run_after_one_of_a_lane(store: Store):
    await waiting(store, "waits")
    await start(store, "runs")
    for leader in ("waits", "runs"):
        with pytest.raises(Invalid, match=leader):
            await submit(store, after=(leader,))
    assert await ids(store) == ["runs", "waits"]


async def test_the_engine_is_never_given_a_job_of_a_lane(store: Store):
    await waiting(store, "in-lane")
    await submit(store, "in-none")
    await waiting(store, "in-another", "m")
    assert [job.id for job in await store.ready(100)] == ["in-none"]
    assert (await store.get_job("in-lane")).lane == "l"


async def test_only_jobs_of_the_same_lane_are_ahead(store: Store):
    for number in range(3):
        await waiting(store, f"l-{number}", "l")
        await waiting(store, f"m-{number}", "m")
        await submit(store, f"none-{number}")
    for number in range(3):
        assert [await store.ahead_of(f"{lane}-{number}") for lane in ("l", "m", "none")] == [number] * 3
    await claim(store, "l-0")
    assert [await store.ahead_of(job_id) for job_id in ("l-2", "m-2", "none-2")] == [1, 2, 2]


async def test_a_claimed_job_of_a_lane_runs_at_once(store: Store, clock: Clock):
    await waiting(store, "mine")
    clock.now += 5
    attempt = await claim(store, "mine")
    assert (attempt.state, attempt.started_at) == (AttemptState.RUNNING, clock.now)
    assert await store.attempts("mine") == [attempt]
    assert await topics(store, "mine") == ["job.queued", "job.running", "attempt.running"]
    assert await store.claim("mine", place="here") is None
    assert (await finish(store, attempt)).state is JobState.SUCCEEDED


async def test_a_job_whose_attempt_did_nothing_is_put_back_and_costs_it_no_retry(store: Store):
    await waiting(store, "first", lost_retries=0)
    await waiting(store, "second")
    attempt = await claim(store, "first")
    await store.release(attempt)
    assert await store.lane("l") == ["first", "second"]
    assert await store.running() == []
    assert (await topics(store, "first"))[-2:] == ["attempt.lost", "job.queued"]
    with pytest.raises(LeaseLost):
        await store.release(attempt)
    with pytest.raises(LeaseLost):
        await finish(store, attempt)
    again = await claim(store, "first")
    assert again.lease > attempt.lease
    assert (await finish(store, again)).state is JobState.SUCCEEDED


async def test_lists_tell_those_that_have_ended_from_those_that_have_not(store: Store, clock: Clock):
    await waiting(store, "waits", labels={"c": "x"})
    await start(store, "runs", labels={"c": "x"})
    for job_id, state in (("succeeded", AttemptState.SUCCEEDED), ("failed", AttemptState.FAILED)):
        _, attempt = await start(store, job_id, labels={"c": "x"})
        await finish(store, attempt, state)
    await submit(store, "cancelled", labels={"c": "y"})
    await store.cancel("cancelled", message="x")
    assert await ids(store, ended=True) == ["cancelled", "failed", "succeeded"]
    assert await ids(store, ended=False) == ["runs", "waits"]
    assert await ids(store, ended=True, labels={"c": "x"}, owner="ann") == ["failed", "succeeded"]
    assert await ids(store, ended=False, labels={"c": "y"}) == []
    assert await ids(store, ended=False, state=JobState.FAILED) == []


# forgetting


async def test_what_ended_before_a_moment_is_forgotten_with_all_that_is_known_of_it(store: Store, clock: Clock):
    for at in (10, 20, 30):
        await ended(store, clock, f"at-{at}", float(at), labels={"k": f"{at}", 'it\'s "odd"': "x"})
    await start(store, "runs")
    assert await store.forget(owner="ann", before=30.0, keep=100) == 2
    assert await ids(store) == ["runs", "at-30"]
    for gone in ("at-10", "at-20"):
        with pytest.raises(NotFound):
            await store.get_job(gone)
        with pytest.raises(NotFound):
            await store.attempts(gone)
        assert await store.events(gone) == []
    assert await ids(store, labels={"k": "10"}) == []
    assert await ids(store, labels={"k": "30"}) == ["at-30"]
    assert len(await store.attempts("at-30")) == 1
    assert await topics(store, "at-30") == ["job.running", "attempt.running", "attempt.succeeded", "job.succeeded"]


async def test_of_the_others_the_latest_are_kept(store: Store, clock: Clock):
    for at in range(10):
        await ended(store, clock, f"at-{at}", float(at))
    await submit(store, "waits")
    assert await store.forget(owner="ann", before=-1.0, keep=3) == 7
    assert await ids(store) == ["waits", "at-9", "at-8", "at-7"]
    assert await store.forget(owner="ann", before=-1.0, keep=3) == 0
    assert await store.forget(owner="ann", before=9.0, keep=3) == 2
    assert await ids(store) == ["waits", "at-9"]


async def test_the_counts_are_right_after_forgetting(store: Store, clock: Clock):
    for number, state in enumerate([*AttemptState][4:] * 2):
        clock.now = float(number)
        _, attempt = await start(store, lost_retries=0)
        await finish(store, attempt, state)
    await waiting(store, "waits")
    await start(store, "runs")
    before = await store.job_counts()
    forgotten = await store.forget(owner="ann", before=FOREVER, keep=100)
    counts = await store.job_counts()
    assert sum(before.values()) - sum(counts.values()) == forgotten > 0
    assert counts == {state: len(await ids(store, state=state)) for state in JobState}


async def test_only_what_has_ended_is_forgotten_and_only_of_the_owner(store: Store, clock: Clock):
    await ended(store, clock, "of-bob", 1.0, owner="bob")
    await ended(store, clock, "of-ann", 2.0)
    await waiting(store, "waits")
    await start(store, "runs")
    assert await store.forget(owner="ann", before=FOREVER, keep=1) == 1
    assert await ids(store) == ["runs", "waits", "of-bob"]
    assert await store.forget(owner="eve", before=FOREVER, keep=1) == 0


async def test_a_job_that_others_wait_for_is_not_forgotten(store: Store, clock: Clock):
    clock.now = 1.0
    await submit(store, "leader")
    await submit(store, "follower", after=("leader",))
    attempt = await claim(store, "leader")
    assert await store.forget(owner="ann", before=FOREVER, keep=1) == 0
    await end(store, attempt, AttemptState.SUCCEEDED)
    assert (await claim(store, "follower")).number == 1  # it was released
    assert await store.forget(owner="ann", before=FOREVER, keep=1) == 1
    assert await ids(store) == ["follower"]


async def test_the_number_of_the_newest_event_is_never_given_again(store: Store, clock: Clock):
    await ended(store, clock, "older", 1.0)
    await ended(store, clock, "newest", 2.0)
    last = (await store.events(None))[-1]
    assert await store.forget(owner="ann", before=FOREVER, keep=1) == 1
    assert await ids(store) == ["newest"]
    await start(store, "next")
    assert (await store.events("next"))[0].id == last.id + 1
    assert await store.forget(owner="ann", before=FOREVER, keep=1) == 1
    assert await ids(store) == ["next"]


async def test_the_id_of_a_forgotten_job_is_free_again(store: Store, clock: Clock):
    await ended(store, clock, "mine", 1.0, labels={"k": "v"})
    await start(store, "other")
    await store.forget(owner="ann", before=FOREVER, keep=1)
    job, _ = await start(store, "mine")
    assert job.seq == 2
    assert await topics(store, "mine") == ["job.running", "attempt.running"]


async def test_many_are_forgotten_in_steps_between_which_others_write(store: Store, clock: Clock):
    clock.now = 1.0
    begun = await asyncio.gather(*(start(store, labels={"a": "b"}) for _ in range(1_500)))
    await asyncio.gather(*(store.finish(attempt, AttemptState.SUCCEEDED, Result()) for _, attempt in begun))
    await start(store, "runs")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    forgotten, (job, _) = await asyncio.gather(
        store.forget(owner="ann", before=FOREVER, keep=10_000), start(store, "meanwhile")
    )
    counting.cancel()
    assert forgotten == 1_500
    assert turns > 10  # the loop was not held up
    assert await ids(store) == ["meanwhile", "runs"]
    assert job.id == "meanwhile"
    assert sum((await store.job_counts()).values()) == 2


# an older database


async def test_a_database_from_before_lanes_goes_on_with_all_its_jobs(tmp_path: Path):
    path = tmp_path / "moorage.db"
    _make_version_1(path)
    store = SqliteStore.open(path)
    jobs = {job.id: job for job in await store.list_jobs(JobFilter(), Page())}
    assert [(job.id, job.state, job.lane) for job in jobs.values()] == [
        ("fails", JobState.FAILED, None),
        ("runs", JobState.RUNNING, None),
        ("later", JobState.QUEUED, None),
        ("soon", JobState.QUEUED, None),
    ]
    assert [job.id for job in await store.ready(10)] == ["soon"]
    assert await store.ahead_of("soon") == 0
    assert await store.waiting_for("later") == ["soon"]
    (attempt,) = await store.running()
    assert (await end(store, replace(attempt), AttemptState.FAILED)).state is JobState.FAILED
    await start(store, "new")
    assert await store.forget(owner="ann", before=FOREVER, keep=1) == 2
    assert await store.job_counts() == {**dict.fromkeys(JobState, 0), JobState.QUEUED: 2, JobState.RUNNING: 1}
    await store.close()
    SqliteStore.open(path)  # twice is once
    assert _version(path) == 3


def _make_version_1(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(files("moorage.store").joinpath("migrations", "0001_apps_jobs_events.sql").read_text())
    connection.executescript(
        """
        PRAGMA user_version = 1;
        INSERT INTO apps VALUES
          (1, 'app_1', 'infrax', 'counter', 'ann', 'TESTING', 'd', 3, 1, '{}', '{}', '{}', 0, 0, 1.0, 1.0, NULL);
        INSERT INTO jobs (n, id, state, blocked, attempts, started_at, finished_at, created_at, owner, network, app_id,
            app_digest, layers, spec)
          SELECT *, 1.0, 'ann', 'infrax', 'app_1',
            'd', '{}', '{"limits":{},"timeouts":{},"lost_retries":0,"labels":{"k":"v"}}'
          FROM (VALUES (1, 'soon', 'queued', 0, 0, NULL, NULL), (2, 'later', 'queued', 1, 0, NULL, NULL),
            (3, 'runs', 'running', 0, 1, 2.0, NULL), (4, 'fails', 'failed', 0, 0, 2.0, 3.0));
        INSERT INTO job_after VALUES (1, 2);
        INSERT INTO job_labels SELECT 'k', 'v', n FROM jobs;
        INSERT INTO attempts (job, number, id, state, place, created_at, started_at)
          VALUES (3, 1, 'att', 'running', 'local', 2.0, 2.0);
        INSERT INTO events (subject, seq, time, topic, message)
          SELECT id, 1, 1.0, 'job.queued', 'Waiting to run.' FROM jobs;
        """
    )
    connection.commit()
    connection.close()


def _version(path: Path) -> int:
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return int(version)
