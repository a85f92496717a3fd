"""Start-up and shutdown of the program's own (contract, section 2.6, A1 to A4)."""

import asyncio
from typing import Any

from . import log
from .program import VERSIONS, Application, Message, run


class NotStarted(Exception):
    """The program says that it cannot start, or says nothing."""


class Lifespan:
    """One call of the program for as long as it lives; a program that does not know of it is served without."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._answer: Message = {}
        self.state: dict[str, Any] = {}
        """What start-up leaves for every request."""

    @property
    def supported(self) -> bool:
        """Whether the program has started by itself."""
        return self._answer.get("type") == "lifespan.startup.complete"

    async def start(self, within: float) -> None:
        """Let the program start.

        Raises NotStarted.
        """
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(within):
                await self._heard.wait()
        except TimeoutError:
            raise NotStarted(f"The start-up of the program is not complete after {within:g} seconds.") from None
        if self._answer.get("type") == "lifespan.startup.failed":
            raise NotStarted(f"The start-up of the program failed: {self._answer.get('message') or 'no reason given'}")

    async def stop(self, within: float) -> None:
        """Let the program shut down."""
        if not self.supported or self._task is None or self._task.done():
            return
        self._heard.clear()
        self._events.put_nowait({"type": "lifespan.shutdown"})
        try:
            async with asyncio.timeout(within):
                await self._heard.wait()
        except TimeoutError:
            log.say(f"The shutdown of the program is not complete after {within:g} seconds.")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSIONS.copy(), "state": self.state}
        try:
            await run(self._application, scope, self._events.get, self._send)
        except Exception as error:
            if self.supported:
                log.say(log.traceback_of(error))
        finally:
            self._heard.set()

    async def _send(self, message: Message) -> None:
        if self._heard.is_set():
            return
        if not self.supported:
            self._answer = message if isinstance(message, dict) else {}
        elif message["type"] == "lifespan.shutdown.failed":
            log.say(f"The shutdown of the program failed: {message.get('message') or 'no reason given'}")
        self._heard.set()
