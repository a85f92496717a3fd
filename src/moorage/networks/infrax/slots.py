"""How much of the router's work this node takes on at once, and what the router is told of it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from moorage.errors import RouterFailed
from moorage.networks.infrax.wire import NodeState

log = structlog.get_logger(__name__)


class Slots:
    """A count of free slots; taking one is atomic, as it never waits."""

    def __init__(self, count: int, tell: Callable[[NodeState], Awaitable[None]]) -> None:
        self._free, self._tell = count, tell
        self._told: NodeState | None = None
        self._telling = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether no slot is free."""
        return self._free <= 0

    def take(self) -> None:
        """Take a slot; work that an earlier node left is taken on even beyond the count."""
        self._free -= 1

    def give(self) -> None:
        """Give a slot back."""
        self._free += 1

    async def announce(self) -> None:
        """Tell the router BUSY or IDLE where that has changed; a router that is away is told the next time."""
        async with self._telling:
            state: NodeState = "BUSY" if self.busy else "IDLE"
            if state == self._told:
                return
            try:
                await self._tell(state)
                self._told = state
            except RouterFailed as error:
                self._told = None
                log.warning("router not told", state=state, reason=error.message)
