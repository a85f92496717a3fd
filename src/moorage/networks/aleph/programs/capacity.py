"""Which programs run at a time: those whose memory fits into the node's (contract, section 5, "no capacity")."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from moorage.errors import NoCapacity
from moorage.model.limits import MIB
from moorage.networks.aleph.messages.program import EphemeralVolume, Program
from moorage.networks.base import Services

PATIENCE = 10.0
"""Seconds that a start waits for others to end."""
LOOK_EVERY = 0.1


class Capacity:
    """Memory that is promised to programs, from before their start until nothing of them is left."""

    def __init__(self, memory: int, services: Services) -> None:
        self._memory, self._services = memory, services
        self._promised: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def held(self, key: str, program: Program) -> AsyncIterator[None]:
        """Promise the memory of a program, which runs as the service `key`, for as long as the context lasts.

        Where there is not enough, programs that nobody uses are stopped, those first that were not used for the
        longest time. Raises NoCapacity.
        """
        size = memory_of(program)
        await self._make_room(size)
        self._promised[key] = size
        try:
            yield
        finally:
            del self._promised[key]

    async def _make_room(self, size: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while sum(self._promised.values()) + size > self._memory:
            if size > self._memory or time.monotonic() > deadline:
                raise NoCapacity
            if (idle := self._idle_longest()) is not None:
                await self._services.stop(idle)
            else:
                await asyncio.sleep(LOOK_EVERY)

    def _idle_longest(self) -> str | None:
        states = [state for key in self._promised if (state := self._services.state(key)) is not None]
        idle = [(state.idle_since, state.key) for state in states if state.idle_since is not None]
        return min(idle)[1] if idle else None


def memory_of(program: Program) -> int:
    """Tell how much memory a program may use in all; ephemeral volumes are memory, too."""
    volumes = sum(each.size_mib for each in program.volumes if isinstance(each, EphemeralVolume))
    return (program.resources.memory + volumes) * MIB
