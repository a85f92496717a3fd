"""Lanes: queues of jobs that ask services and run no process of their own.

Such a job waits for its service and not for a place in the engine, so that a slow service holds up nobody else; and
while there is room in its lane, accepting it and beginning it are one write.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from moorage.engine.local import NAME
from moorage.errors import DiskFull, IdempotencyConflict, InternalError, NodeStopping, StoreUnavailable
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import Attempt, Job, Result
from moorage.networks.base import LaneLoad
from moorage.store.base import Store

log = structlog.get_logger(__name__)

NO_STORE = 1.0
"""Seconds between two tries to take a job from its lane while the store refuses to write."""

_LEAVES_THE_QUEUE = frozenset({"job.cancelled", "job.failed"})


class Run(Protocol):
    """Drives an attempt; gives its result as it is in the store, or None if the store has to be asked."""

    def __call__(self, job: Job, attempt: Attempt, *, waited: bool) -> Awaitable[Result | None]:
        """Drive it; one that has `waited` in the queue may have been cancelled just as it was claimed."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Lane:
    width: int
    running: int = 0
    arriving: int = 0
    """Jobs on their way into the store, to wait."""
    waiting: dict[str, None] = field(default_factory=dict)
    """Ids of queued jobs, in order."""


class Lanes:
    """Runs the jobs of each open lane in their order, `width` at once."""

    def __init__(self, *, store: Store, run: Run) -> None:
        self._store, self._run = store, run
        self._lanes: dict[str, _Lane] = {}
        self._claims: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[Result | None]] = set()
        self._live: dict[str, asyncio.Future[Result | None]] = {}
        """By the id of each job that is here: what tells that it has ended."""
        self._unlisten = store.listen(self._notice)
        self._closed = False

    async def open(self, name: str, *, width: int) -> None:
        """Let a lane's jobs run; those that an earlier node left in it go first."""
        left = await self._store.lane(name)
        if self._closed:
            return
        lane = self._lanes[name] = _Lane(width=width, waiting=dict.fromkeys(left))
        for job_id in left:
            self._arrive(job_id)
        self._go_on(lane)

    def load(self, name: str | None = None) -> LaneLoad:
        """Count the jobs of an open lane, or of all."""
        if name is None:
            loads = [self.load(each) for each in self._lanes]
            return LaneLoad(waiting=sum(each.waiting for each in loads), running=sum(each.running for each in loads))
        lane = self._lanes.get(name)
        if lane is None:
            return LaneLoad(waiting=0, running=0)
        return LaneLoad(waiting=len(lane.waiting) + lane.arriving, running=lane.running)

    def is_open(self, name: str) -> bool:
        """Tell whether the jobs of a lane run."""
        return name in self._lanes

    def end_of(self, job_id: str) -> asyncio.Future[Result | None] | None:
        """Give what is done once a job has left its lane, or the node stops; None a moment later, or if it was in none.

        It holds the job's result as it is in the store then, or None if the store has to be asked.
        """
        return self._live.get(job_id)

    async def submit(self, name: str, app_id: str, build: Callable[[App], Job], *, owner: str, job_id: str) -> Job:
        """Accept a job durably, and begin it if there is room.

        Raises IdempotencyConflict if there is a job of this id.
        """
        lane = self._lanes.get(name)
        if lane is None:
            raise InternalError(f"Lane {name} is not open.")
        if lane.waiting or lane.arriving or lane.running >= lane.width:
            return await self._queue(lane, app_id, build, owner=owner, job_id=job_id)
        return await self._start(lane, app_id, build)

    async def close(self) -> None:
        """Begin nothing any more, cancel what runs and wait for it; what waits is left to the next node."""
        self._unlisten()
        self._closed = True
        self._lanes.clear()
        await asyncio.gather(*self._claims, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job_id in tuple(self._live):
            self._depart(job_id)

    async def _queue(self, lane: _Lane, app_id: str, build: Callable[[App], Job], *, owner: str, job_id: str) -> Job:
        lane.arriving += 1
        try:
            job, new = await self._store.submit(app_id, build, owner=owner, job_id=job_id)
        finally:
            lane.arriving -= 1
        if not new:
            raise IdempotencyConflict(f"The id {job_id} is taken.")
        if self._is_open(lane):
            lane.waiting[job.id] = None
            self._arrive(job.id)
            self._go_on(lane)
        return job

    async def _start(self, lane: _Lane, app_id: str, build: Callable[[App], Job]) -> Job:
        """Accept a job and begin it; what it waits for elsewhere and the disk are waited for together."""
        begun: list[asyncio.Task[Result | None]] = []
        wanted = True
        lane.running += 1

        def begin(job: Job, attempt: Attempt) -> None:
            if not (wanted and self._is_open(lane)):
                raise NodeStopping  # and nothing is accepted
            self._arrive(job.id)
            begun.append(self._begin(lane, job.id, self._run(job, attempt, waited=False)))

        try:
            return await self._store.start(app_id, build, place=NAME, begin=begin)
        except Exception:  # but one that has begun goes on if only nobody waits for the answer any more
            for task in begun:
                task.cancel()
            raise
        finally:
            wanted = False
            if not begun:
                self._leave(lane)

    def _arrive(self, job_id: str) -> None:
        self._live[job_id] = asyncio.get_running_loop().create_future()

    def _depart(self, job_id: str, ended: Result | None = None) -> None:
        """Tell that a job has left; it is known here until all who waited for that have been told."""
        end = self._live.get(job_id)
        if end is not None and not end.done():
            end.set_result(ended)
            asyncio.get_running_loop().call_soon(self._forget, job_id, end)

    def _forget(self, job_id: str, end: asyncio.Future[Result | None]) -> None:
        if self._live.get(job_id) is end:
            del self._live[job_id]

    def _go_on(self, lane: _Lane) -> None:
        while lane.waiting and lane.running < lane.width:
            job_id = next(iter(lane.waiting))
            del lane.waiting[job_id]
            lane.running += 1
            claim = asyncio.ensure_future(self._claim(lane, job_id))
            self._claims.add(claim)
            claim.add_done_callback(self._claims.discard)

    async def _claim(self, lane: _Lane, job_id: str) -> None:
        """Begin a job that has waited, unless it has left the queue; one that cannot begin any more is put back."""
        attempt = await self._claimed(lane, job_id)
        if attempt is not None and self._is_open(lane):
            job = await self._store.get_job(job_id)
            self._begin(lane, job_id, self._run(job, attempt, waited=True))
            return
        if attempt is not None:
            await self._store.release(attempt)
        self._depart(job_id)
        self._leave(lane)

    async def _claimed(self, lane: _Lane, job_id: str) -> Attempt | None:
        """Claim a job; a store that cannot write is waited for."""
        while self._is_open(lane):
            try:
                return await self._store.claim(job_id, place=NAME)
            except (DiskFull, StoreUnavailable) as error:
                log.warning("a lane waits for the store", reason=error.message)
                await asyncio.sleep(NO_STORE)
        return None

    def _begin(self, lane: _Lane, job_id: str, work: Awaitable[Result | None]) -> asyncio.Task[Result | None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(lane, job_id, done))
        return task

    def _end(self, lane: _Lane, job_id: str, task: asyncio.Task[Result | None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("an attempt raised out of its runner", exc_info=error)
        self._depart(job_id, None if task.cancelled() or error else task.result())
        self._leave(lane)

    def _leave(self, lane: _Lane) -> None:
        lane.running -= 1
        if self._is_open(lane):
            self._go_on(lane)

    def _is_open(self, lane: _Lane) -> bool:
        """Tell whether jobs may still begin."""
        return lane in self._lanes.values()

    def _notice(self, events: Sequence[Event]) -> None:
        """Forget jobs that have left the queue without having run."""
        for event in events:
            if event.topic in _LEAVES_THE_QUEUE:
                for lane in self._lanes.values():
                    if event.subject in lane.waiting:
                        del lane.waiting[event.subject]
                        self._depart(event.subject)
