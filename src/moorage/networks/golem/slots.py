"""The slots of one task: each computes one subtask at a time in a directory of its own (contract, section 2.6).

Providers answer one call in their life and take time to start, so a slot starts its next one ahead of need. It is
bound to the slot by its directory, and ends unused if nothing comes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from moorage.errors import MoorageError
from moorage.networks.golem.instances import Instance

Launch = Callable[[int], Awaitable[Instance]]
"""Starts a provider in the directory of a slot."""


@dataclass(slots=True, kw_only=True)
class Slot:
    """One place of a task; `number` counts from 0."""

    number: int
    free: bool = True
    warm: "asyncio.Task[Instance] | None" = None
    """The next provider, started or starting."""
    idle: asyncio.TimerHandle | None = None
    failures: int = 0
    """Attempts in a row that came to nothing here: others are preferred."""

    @property
    def rank(self) -> tuple[bool, int, bool, int]:
        """Order of preference: where nothing failed, with a provider that is ready or at least starting."""
        ready = self.warm is not None and self.warm.done()
        return (not ready, self.failures, self.warm is None, self.number)


@dataclass(slots=True, kw_only=True)
class Slots:
    """All slots of one task."""

    count: int
    launch: Launch
    warm_idle: float
    wanted: bool = True
    """Whether more subtasks are to be expected, so that providers are worth starting."""
    slots: list[Slot] = field(init=False)
    _freed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _ending: set["asyncio.Task[None]"] = field(init=False, default_factory=set)
    _closed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.slots = [Slot(number=number) for number in range(self.count)]

    async def take(self, count: int = 1) -> tuple[Slot, ...]:
        """Wait until so many slots are free, and occupy the best of them."""
        while len(free := [slot for slot in self.slots if slot.free]) < count:
            self._freed.clear()
            await self._freed.wait()
        taken = tuple(sorted(free, key=lambda slot: slot.rank)[:count])
        for slot in taken:
            slot.free = False
        return taken

    def occupy(self, number: int) -> Slot:
        """Occupy a slot by its number, as one whose subtask was computed before a restart."""
        slot = self.slots[number % self.count]
        slot.free = False
        return slot

    def release(self, slot: Slot) -> None:
        """Let a slot be taken again."""
        slot.free = True
        self._freed.set()

    def warm_up(self, slot: Slot) -> None:
        """Start a slot's next provider ahead of need, unless there is one."""
        if slot.warm is None and self.wanted and not self._closed:
            slot.warm = asyncio.ensure_future(self.launch(slot.number))
            slot.idle = asyncio.get_running_loop().call_later(self.warm_idle, self.cool, slot)

    def cool(self, slot: Slot) -> None:
        """End the provider that waits in a slot."""
        warm = _unset(slot)
        if warm is not None:
            self._end(_discard(warm))

    @contextlib.asynccontextmanager
    async def provider(self, slot: Slot) -> AsyncIterator[Instance]:
        """Give the provider of a slot, for one call, and start the next one; nobody waits for its end afterwards.

        Raises what starting one raises.
        """
        instance = await self._ready(slot)
        self.warm_up(slot)
        try:
            yield instance
        except BaseException:
            await instance.stop()  # it may still compute, in the directory of the next one
            raise
        self._end(instance.stop())

    async def close(self) -> None:
        """End all providers that wait, and wait until all are gone."""
        self._closed = True
        for slot in self.slots:
            self.cool(slot)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _ready(self, slot: Slot) -> Instance:
        """Give the provider that waits, if it still lives, or start one."""
        warm = _unset(slot)
        if warm is None:
            return await self.launch(slot.number)
        try:
            instance = await asyncio.shield(warm)
        except asyncio.CancelledError:
            self._end(_discard(warm))
            raise
        except MoorageError:
            return await self.launch(slot.number)
        return instance if instance.alive else await self.launch(slot.number)

    def _end(self, ending: Awaitable[None]) -> None:
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _unset(slot: Slot) -> "asyncio.Task[Instance] | None":
    warm, slot.warm = slot.warm, None
    if slot.idle is not None:
        slot.idle.cancel()
        slot.idle = None
    return warm


async def _discard(warm: "asyncio.Task[Instance]") -> None:
    """End a provider that is started or starting."""
    if not warm.done():
        warm.cancel()
        await asyncio.gather(warm, return_exceptions=True)
    if not warm.cancelled() and warm.exception() is None:
        await warm.result().stop()
