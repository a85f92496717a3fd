"""Work that is done one at a time, and once for all who want it while it goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Does a piece of work again and again.

    Whoever asks while it goes on shares the next turn with all who do: that begins after each of them has asked.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work, self._lock = work, asyncio.Lock()
        self._next: asyncio.Future[T] | None = None

    async def next(self) -> T:
        """Have the work done once more; raises what it raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._turn())
        return await asyncio.shield(self._next)

    async def _turn(self) -> T:
        async with self._lock:
            self._next = None
            return await self._work()
