"""Lanes: the order and the number in which jobs that ask services run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from moorage.errors import (
    DiskFull,
    IdempotencyConflict,
    InternalError,
    NodeStopping,
    NotFound,
    StoreUnavailable,
)
from moorage.model.events import Event
from moorage.model.jobs import Attempt, Job, Result
from moorage.model.states import AttemptState, JobState
from moorage.networks.base import LaneLoad
from moorage.node import lanes as lanes_module
from moorage.node.lanes import Lanes
from moorage.store.sqlite import SqliteStore
from moorage.testing import memory_store
from tests.contract.store.steps import an_app, builder, claim, submit

pytestmark = pytest.mark.anyio

RESULT = Result(value=["done"])


class Services:
    """Runs jobs until the test lets each of them end."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.begun: list[str] = []
        self.waited: dict[str, bool] = {}
        self.stopped: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    async def run(self, job: Job, attempt: Attempt, *, waited: bool) -> Result:
        self.begun.append(job.id)
        self.waited[job.id] = waited
        try:
            await self._gate(job.id).wait()
        except asyncio.CancelledError:
            self.stopped.append(job.id)
            raise
        await self.store.finish(attempt, AttemptState.SUCCEEDED, RESULT)
        return RESULT

    def let_go(self, job_id: str) -> None:
        self._gate(job_id).set()

    def _gate(self, job_id: str) -> asyncio.Event:
        return self._gates.setdefault(job_id, asyncio.Event())


class Harbour:
    """Lanes on a real store, with jobs that are called as the test calls them."""

    def __init__(self, store: Any, services: Services) -> None:
        self.store, self.services = store, services
        self.lanes = Lanes(store=store, run=services.run)
        self._closed = False

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self.lanes.close()

    async def submit(self, job_id: str, lane: str = "l") -> Job:
        build = builder(job_id, owner="ann", lane=lane)
        return await self.lanes.submit(lane, "app_1", build, owner="ann", job_id=job_id)

    async def end(self, job_id: str) -> None:
        self.services.let_go(job_id)
        await self.departed(job_id)

    async def departed(self, job_id: str) -> None:
        if (end := self.lanes.end_of(job_id)) is not None:
            await end
        await asyncio.sleep(0)

    async def begun(self, *job_ids: str) -> None:
        """Wait until exactly these have begun, in this order."""
        await until(lambda: len(self.services.begun) >= len(job_ids))
        assert self.services.begun == list(job_ids)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


@pytest.fixture
async def harbour() -> AsyncIterator[Harbour]:
    async with a_harbour() as harbour:
        yield harbour


@asynccontextmanager
async def a_harbour(wrap: Callable[[SqliteStore], Any] = lambda store: store) -> AsyncIterator[Harbour]:
    async with memory_store() as store:
        await store.add_app(an_app(), message="x")
        harbour = Harbour(wrap(store), Services(store))
        try:
            yield harbour
        finally:
            await harbour.close()


async def test_a_job_begins_as_it_is_accepted_while_there_is_room(harbour: Harbour):
    await harbour.lanes.open("l", width=2)
    job = await harbour.submit("a")
    assert job.state is JobState.RUNNING
    await harbour.submit("b")
    assert harbour.lanes.load() == LaneLoad(waiting=0, running=2)
    await harbour.begun("a", "b")
    await harbour.end("a")
    assert (await harbour.store.get_job("a")).state is JobState.SUCCEEDED
    assert harbour.lanes.load() == LaneLoad(waiting=0, running=1)


async def test_no_more_run_at_once_than_the_lane_is_wide_and_those_that_wait_go_in_their_order(harbour: Harbour):
    await harbour.lanes.open("l", width=2)
    made = [f"job-{number}" for number in range(9)]
    for job_id in made:
        await harbour.submit(job_id)
    assert harbour.lanes.load() == LaneLoad(waiting=7, running=2)
    for place, job_id in enumerate(made):
        await harbour.begun(*made[: place + 2])
        assert harbour.lanes.load().running == min(2, 9 - place)
        await harbour.end(job_id)
    assert harbour.lanes.load() == LaneLoad(waiting=0, running=0)
    assert [job.state for job in await states(harbour, made)] == [JobState.SUCCEEDED] * 9


async def test_many_that_come_at_once_are_all_run_and_never_too_many(harbour: Harbour):
    await harbour.lanes.open("l", width=3)
    made = [f"job-{number}" for number in range(60)]
    jobs = await asyncio.gather(*map(harbour.submit, made))
    assert sum(job.state is JobState.RUNNING for job in jobs) == 3
    assert harbour.lanes.load() == LaneLoad(waiting=57, running=3)
    while unfinished := [job_id for job_id in harbour.services.begun if harbour.lanes.end_of(job_id)]:
        assert len(unfinished) <= 3
        await harbour.end(unfinished[0])
        await asyncio.sleep(0)
        if len(harbour.services.begun) < 60:
            await until(lambda: any(harbour.lanes.end_of(job_id) for job_id in harbour.services.begun))
    assert sorted(harbour.services.begun) == sorted(made)


async def test_a_full_lane_holds_up_no_other(harbour: Harbour):
    for lane in ("slow", "quick"):
        await harbour.lanes.open(lane, width=1)
    await harbour.submit("slow-1", "slow")
    assert (await harbour.submit("slow-2", "slow")).state is JobState.QUEUED
    assert (await harbour.submit("quick-1", "quick")).state is JobState.RUNNING
    await harbour.begun("slow-1", "quick-1")
    await harbour.end("quick-1")
    assert harbour.lanes.load() == LaneLoad(waiting=1, running=1)


async def test_jobs_that_an_earlier_node_left_go_first(harbour: Harbour):
    for job_id in ("left-1", "left-2", "left-3"):
        await submit(harbour.store, job_id, lane="l")
    await submit(harbour.store, "of-another", lane="m")
    await harbour.lanes.open("l", width=1)
    await harbour.submit("new")
    assert harbour.lanes.load() == LaneLoad(waiting=3, running=1)
    for job_id in ("left-1", "left-2", "left-3", "new"):
        await until(lambda job_id=job_id: job_id in harbour.services.begun)
        await harbour.end(job_id)
    await harbour.begun("left-1", "left-2", "left-3", "new")
    assert (await harbour.store.get_job("of-another")).state is JobState.QUEUED


async def test_the_runner_is_told_what_has_waited(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    for job_id in ("a", "b"):
        await harbour.submit(job_id)
    await harbour.end("a")
    await harbour.begun("a", "b")
    assert harbour.services.waited == {"a": False, "b": True}


async def test_what_waits_and_is_cancelled_leaves_and_never_begins(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    for job_id in ("a", "b", "c"):
        await harbour.submit(job_id)
    end = harbour.lanes.end_of("b")
    assert end is not None
    await harbour.store.cancel("b", message="x")
    await end
    await asyncio.sleep(0)  # all who waited are told first
    assert harbour.lanes.end_of("b") is None
    assert harbour.lanes.load() == LaneLoad(waiting=1, running=1)
    await harbour.end("a")
    await harbour.begun("a", "c")


async def test_what_is_cancelled_as_its_turn_comes_makes_room_for_the_next(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    for job_id in ("a", "b", "c"):
        await harbour.submit(job_id)
    cancelled = asyncio.ensure_future(harbour.store.cancel("b", message="x"))
    harbour.services.let_go("a")
    await cancelled
    await harbour.departed("b")
    await harbour.begun("a", "c")
    assert (await harbour.store.get_job("b")).state is JobState.CANCELLED


async def test_a_refused_job_gives_its_place_back(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    await submit(harbour.store, "taken")
    with pytest.raises(IdempotencyConflict):
        await harbour.submit("taken")
    assert harbour.lanes.load() == LaneLoad(waiting=0, running=0)
    assert harbour.lanes.end_of("taken") is None
    assert harbour.services.begun == []
    await harbour.submit("mine")
    await harbour.begun("mine")


async def test_a_lane_that_is_not_open_takes_no_job(harbour: Harbour):
    with pytest.raises(InternalError, match="not open"):
        await harbour.submit("a")
    assert harbour.lanes.load() == LaneLoad(waiting=0, running=0)


async def test_the_end_of_a_job_is_told_when_the_store_knows_it(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    for job_id in ("runs", "waits"):
        await harbour.submit(job_id)
        end = harbour.lanes.end_of(job_id)
        assert end is not None
        assert not end.done()
    end = harbour.lanes.end_of("waits")
    assert end is not None
    harbour.services.let_go("waits")
    harbour.services.let_go("runs")
    assert await end is RESULT
    assert harbour.lanes.end_of("waits") is end
    assert [job.state for job in await states(harbour, ["runs", "waits"])] == [JobState.SUCCEEDED] * 2
    await asyncio.sleep(0)  # all who waited have been told
    assert harbour.lanes.end_of("waits") is None
    assert harbour.lanes.end_of("unknown") is None


async def test_a_runner_that_raises_ends_its_job_and_makes_room(harbour: Harbour, monkeypatch: pytest.MonkeyPatch):
    async def run(job: Job, attempt: Attempt, *, waited: bool) -> None:
        harbour.services.begun.append(job.id)
        raise RuntimeError("A bug.")

    lanes = Lanes(store=harbour.store, run=run)
    await lanes.open("l", width=1)
    for job_id in ("a", "b", "c"):
        await lanes.submit("l", "app_1", builder(job_id, owner="ann", lane="l"), owner="ann", job_id=job_id)
    await until(lambda: lanes.load() == LaneLoad(waiting=0, running=0))
    assert harbour.services.begun == ["a", "b", "c"]
    await lanes.close()


class Failing:
    """A store of which some writes fail, as often as is said."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.claims: list[Exception] = []
        self.starts: list[Exception] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, job_id: str, *, place: str) -> Attempt | None:
        if self.claims:
            raise self.claims.pop(0)
        return await self._store.claim(job_id, place=place)

    async def start(self, app_id: str, build: Any, *, place: str, begin: Any) -> Job:
        """Fail as a commit does: what is in it has begun by then."""
        if self.starts:
            begin(build(await self._store.get_app(app_id)), None)
            raise self.starts.pop(0)
        return await self._store.start(app_id, build, place=place, begin=begin)


async def test_a_store_that_refuses_to_write_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanes_module, "NO_STORE", 0.01)
    async with a_harbour(Failing) as harbour:
        await harbour.lanes.open("l", width=1)
        await harbour.submit("a")
        await harbour.submit("b")
        await harbour.submit("c")
        harbour.store.claims = [DiskFull(), StoreUnavailable(), DiskFull()]
        await harbour.end("a")
        await harbour.begun("a", "b")
        assert harbour.store.claims == []
        await harbour.end("b")
        await harbour.begun("a", "b", "c")


async def test_what_has_begun_is_ended_when_it_cannot_be_accepted_after_all():
    async with a_harbour(Failing) as harbour:
        await harbour.lanes.open("l", width=1)
        harbour.store.starts = [DiskFull()]
        with pytest.raises(DiskFull):
            await harbour.submit("a")
        await until(lambda: harbour.lanes.load() == LaneLoad(waiting=0, running=0))
        assert harbour.lanes.end_of("a") is None
        await harbour.submit("b")
        await until(lambda: "b" in harbour.services.begun)


async def test_closing_stops_what_runs_and_tells_those_that_wait_for_an_end():
    async with a_harbour() as harbour:
        await harbour.lanes.open("l", width=2)
        for job_id in ("a", "b", "c"):
            await harbour.submit(job_id)
        await harbour.begun("a", "b")
        ends = [harbour.lanes.end_of(job_id) for job_id in ("a", "b", "c")]
        await harbour.close()
        assert sorted(harbour.services.stopped) == ["a", "b"]
        assert all(end is not None and end.done() for end in ends)
        assert harbour.services.begun == ["a", "b"]
        assert await harbour.store.lane("l") == ["c"]
        await harbour.store.cancel("c", message="x")  # it listens no more
        assert [event.topic for event in await events_of(harbour, "c")] == ["job.queued", "job.cancelled"]


async def test_what_is_accepted_while_the_node_closes_is_left_to_the_next(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    await harbour.submit("a")
    late = asyncio.ensure_future(harbour.submit("late"))
    await asyncio.sleep(0)
    await harbour.close()
    assert (await late).state is JobState.QUEUED
    await asyncio.sleep(0.05)
    assert harbour.services.begun == ["a"]
    assert harbour.lanes.end_of("late") is None
    assert await harbour.store.lane("l") == ["late"]


async def test_what_would_begin_while_the_node_closes_is_refused_and_leaves_nothing(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    late = asyncio.ensure_future(harbour.submit("late"))
    await asyncio.sleep(0)
    await harbour.close()
    with pytest.raises(NodeStopping):
        await late
    assert harbour.services.begun == []
    assert harbour.lanes.end_of("late") is None
    with pytest.raises(NotFound):
        await harbour.store.get_job("late")


async def test_what_has_its_turn_as_the_node_closes_waits_for_the_next_node(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    for job_id in ("a", "b", "c"):
        await harbour.submit(job_id)
    end = harbour.lanes.end_of("b")
    harbour.services.let_go("a")
    await until(lambda: (load := harbour.lanes.load()).waiting == 1 and load.running == 1)  # b is being claimed
    await harbour.close()
    assert harbour.services.begun in (["a"], ["a", "b"])
    assert end is not None
    assert end.done()
    left = await harbour.store.lane("l")
    assert left == (["b", "c"] if harbour.services.begun == ["a"] else ["c"])


@pytest.mark.parametrize("turns", range(6))
async def test_a_job_whose_caller_leaves_is_accepted_and_runs_or_is_neither(harbour: Harbour, turns: int):
    await harbour.lanes.open("l", width=2)
    other = asyncio.ensure_future(harbour.submit("other"))
    await asyncio.sleep(0)
    asked = asyncio.ensure_future(harbour.submit("a"))
    for _ in range(turns):
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, other, return_exceptions=True)
    await submit(harbour.store, "later")  # what was asked of the store before has been done
    accepted = any(attempt.job_id == "a" for attempt in await harbour.store.running())
    assert harbour.lanes.load() == LaneLoad(waiting=0, running=1 + accepted)
    assert ("a" in harbour.services.begun) == (harbour.lanes.end_of("a") is not None) == accepted


async def test_a_taken_id_is_refused_by_a_full_lane_too(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    await harbour.submit("a")
    await harbour.submit("b")
    for taken in ("a", "b"):
        with pytest.raises(IdempotencyConflict):
            await harbour.submit(taken)
    assert harbour.lanes.load() == LaneLoad(waiting=1, running=1)


async def test_it_tells_which_lanes_are_open(harbour: Harbour):
    assert not harbour.lanes.is_open("l")
    await harbour.lanes.open("l", width=1)
    assert harbour.lanes.is_open("l")
    await harbour.close()
    assert not harbour.lanes.is_open("l")
    await harbour.lanes.open("l", width=1)  # by work that was slow to notice
    assert not harbour.lanes.is_open("l")


async def test_a_job_that_somebody_else_took_is_left_alone(harbour: Harbour):
    await harbour.lanes.open("l", width=1)
    await harbour.submit("a")
    await harbour.submit("b")
    await harbour.submit("c")
    await claim(harbour.store, "b")
    await harbour.end("a")
    await harbour.begun("a", "c")


async def states(harbour: Harbour, job_ids: list[str]) -> list[Job]:
    return [await harbour.store.get_job(job_id) for job_id in job_ids]


async def events_of(harbour: Harbour, job_id: str) -> list[Event]:
    found: list[Event] = await harbour.store.events(job_id)
    return found
