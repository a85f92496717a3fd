"""A task's requestor: one instance of its own, started again when it dies (contract, sections 2.6 to 2.8)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from moorage.errors import AppExited, MoorageError
from moorage.networks.golem.instances import Instance
from moorage.networks.golem.protocol.client import Requestor

T = TypeVar("T")

Ask = Callable[[Requestor, float], Coroutine[Any, Any, T]]
"""Makes a call; takes its deadline in seconds."""

PAUSES = (1.0, 5.0, 25.0)
"""Seconds before the first, second, … start after a death; the last one is kept."""
STEP = 0.5
"""Seconds between two looks whether an app is kept busy by something else."""

log = structlog.get_logger(__name__)


class RequestorLost(Exception):
    """The requestor went away during a call, whose outcome is not known; there is another one now."""


class RequestorGone(Exception):
    """The requestor cannot be started any more."""


class Host:
    """The requestor of one task.

    Apps answer one call at a time: while a long one is under way, the others have to be waited for. So their time does
    not count then, and whether an app lives is told by its process alone. No call takes more than `longest` seconds.
    """

    def __init__(
        self,
        launch: Callable[[], Awaitable[Instance]],
        *,
        restarts: int,
        restarted: Callable[[str], Awaitable[None]],
        longest: float,
    ) -> None:
        self._launch, self._restarts_left, self._restarted, self._longest = launch, restarts, restarted, longest
        self._instance: Instance | None = None
        self._starting = asyncio.Lock()
        self._long = 0
        self._closed = False
        self._pauses = iter(PAUSES)

    async def open(self) -> None:
        """Start the requestor. Raises AppNotReady, AppExited, SandboxUnavailable."""
        self._instance = await self._launch()

    async def call(self, ask: Ask[T], *, within: float, long: bool = False) -> T:
        """Make a call that is answered in `within` seconds, not counting those in which a `long` one is under way.

        Raises CallFailed with what the app says, RequestorLost if it died or was ended because it gave no answer,
        RequestorGone.
        """
        instance = await self._living()
        self._long += long
        try:
            asked = instance.ask(ask(instance.requestor, within + self._longest))
            return await _patiently(asked, within, lambda: self._long > 0 and not long)
        except AppExited as error:
            reason = error.message
        except TimeoutError:
            reason = f"The app did not answer within {within:g} s."
            await instance.kill()
        finally:
            self._long -= long
        await self._replace(instance, reason)
        raise RequestorLost(reason)

    async def attempt(self, ask: Ask[object], *, within: float) -> bool:
        """Make a call that helps if it succeeds, of an instance that lives; tell whether it did."""
        instance = self._instance
        if instance is None or not instance.alive:
            return False
        try:
            await _patiently(instance.ask(ask(instance.requestor, within)), within, lambda: False)
        except Exception as error:
            log.info("call not answered", reason=str(error))
            return False
        return True

    async def close(self) -> None:
        """Have it end."""
        self._closed = True
        if self._instance is not None:
            await self._instance.stop()

    async def kill(self) -> None:
        """End it at once."""
        self._closed = True
        if self._instance is not None:
            await self._instance.kill()

    async def _living(self) -> Instance:
        if self._closed or self._instance is None:
            raise RequestorGone("The task has ended.")
        if not self._instance.alive:
            await self._replace(self._instance, "The app ended by itself.")
        return self._instance

    async def _replace(self, dead: Instance, reason: str) -> None:
        """Start another one in the place of a dead one, once, whoever asks. Raises RequestorGone."""
        async with self._starting:
            while self._instance is dead:
                if self._closed or not self._restarts_left:
                    raise RequestorGone(reason)
                self._restarts_left -= 1
                await dead.hang_up()
                await self._restarted(reason)
                await asyncio.sleep(next(self._pauses, PAUSES[-1]))
                try:
                    self._instance = await self._launch()
                except MoorageError as error:
                    reason = error.message


async def _patiently(call: Coroutine[Any, Any, T], within: float, busy: Callable[[], bool]) -> T:
    """Wait for a call. Raises TimeoutError after so many seconds in which nothing else kept the app busy."""
    task, left = asyncio.ensure_future(call), within
    try:
        while not task.done():
            if left <= 0:
                raise TimeoutError
            was_busy, step = busy(), min(STEP, left)
            await asyncio.wait({task}, timeout=step)
            left -= 0 if was_busy and busy() else step
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
