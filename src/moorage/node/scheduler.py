"""Takes queued jobs, oldest first, and places them as soon as the engine has room.

Strictly first come, first placed: a large job at the head is waited for rather than overtaken, so that none starves.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from moorage.engine.base import Engine, Refusal
from moorage.errors import DiskFull, StoreUnavailable
from moorage.model.events import Event
from moorage.model.jobs import Attempt, Job
from moorage.store.base import Store

log = structlog.get_logger(__name__)

Run = Callable[[Job, Attempt, Callable[[], None]], Awaitable[object]]
"""Runs an attempt; the callback gives its resources back."""

NO_STORE = 1.0
"""Seconds between two looks at the queue while the store refuses to write."""

_COMES_TO_THE_HEAD = frozenset({"job.queued", "job.released"})
_LEAVES_THE_QUEUE = frozenset({"job.cancelled", "job.failed"})


class Scheduler:
    """The loop from the queue to the engine; it sleeps until an event or a timeout gives it a reason to look."""

    def __init__(self, *, store: Store, engine: Engine, run: Run) -> None:
        self._store, self._engine, self._run = store, engine, run
        self._awake = asyncio.Event()
        self._full = False
        self._unlisten = store.listen(self._notice)
        engine.on_release(self.wake)

    def wake(self) -> None:
        """Look at the queue again."""
        self._awake.set()

    async def work(self) -> None:
        """Place jobs until cancelled; a store that cannot write now, such as on a full disk, is waited for."""
        try:
            while True:
                self._awake.clear()
                try:
                    self._full = not await self._place_ready()
                    await self._sleep(await self._next_expiry())
                except (DiskFull, StoreUnavailable) as error:
                    log.warning("the queue waits for the store", reason=error.message)
                    await asyncio.sleep(NO_STORE)
        finally:
            self._unlisten()

    def _notice(self, events: Sequence[Event]) -> None:
        """Wake for a new job, unless those before it fill the engine already, and when one leaves the queue."""
        for event in events:
            if event.topic in _LEAVES_THE_QUEUE or (event.topic in _COMES_TO_THE_HEAD and not self._full):
                self.wake()
                return

    async def _place_ready(self) -> bool:
        """Place jobs until the queue is empty; False if the engine was full before."""
        while head := await self._store.ready(1):
            if not await self._place(head[0]):
                return False
        return True

    async def _next_expiry(self) -> float | None:
        """End the jobs that have waited too long, and tell when the next one will have."""
        expiry = await self._store.next_expiry()
        while expiry is not None and expiry <= time.time():
            await self._store.expire(time.time())
            expiry = await self._store.next_expiry()
        return expiry

    async def _place(self, job: Job) -> bool:
        """Place one job; False if there is no room for it now."""
        handle = self._engine.reserve(job.spec.limits)
        if isinstance(handle, Refusal):
            return False
        attempt = None
        try:
            attempt = await self._store.claim(job.id, place=handle.place)
        finally:
            if attempt is None:
                handle.release()
        if attempt is not None:
            handle.start(lambda: self._run(job, attempt, handle.release))
        return True

    async def _sleep(self, until: float | None) -> None:
        timeout = None if until is None else max(0.0, until - time.time())
        try:
            await asyncio.wait_for(self._awake.wait(), timeout)
        except TimeoutError:
            return
