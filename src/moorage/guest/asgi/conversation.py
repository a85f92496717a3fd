"""One websocket of a client (contract, section 2.6, A23 and A24)."""

import asyncio

from uvicorn.protocols.utils import ClientDisconnected

from .answers import LATE, SILENT, Answer, failure
from .program import Application, Message, Receive, Scope, Send, run

KIND = "websocket.http"


class Conversation:
    """The call of the program for one websocket; it must accept or refuse it in time."""

    def __init__(self, send: Send, run_id: str, seconds: float, *, public: bool) -> None:
        self._send, self._run_id, self._public = send, run_id, public
        self._last: str | None = None
        self._settled = False
        """Whether the program has accepted or refused."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._expire)
        self._task = asyncio.current_task()
        self._helper: asyncio.Task[None] | None = None

    async def run(self, application: Application, scope: Scope, receive: Receive) -> None:
        """Call the program and see to it that the client is told how it ends.

        Raises SystemExit, if the program ends itself.
        """
        try:
            await run(application, scope, receive, self.send)
        except (SystemExit, KeyboardInterrupt):
            raise
        except ClientDisconnected:
            return
        except BaseException as error:
            assert self._task is not None
            if self._task.cancelling():  # late, or the host ends
                return
            await self._end(failure(error, self._run_id, public=self._public))
        else:
            if not self._settled:
                await self._end(SILENT)
        finally:
            self._timer.cancel()

    async def send(self, message: Message) -> None:
        """Take an event of the program's."""
        if self._helper is not None:
            return
        await self._send(message)
        self._last = message["type"]
        if self._last != f"{KIND}.response.start" and not message.get("more_body", False):
            self._settled = True
            self._timer.cancel()

    async def _end(self, answer: Answer) -> None:
        if self._last is None:
            await answer.send(self._send, KIND)
        elif self._last in {"websocket.accept", "websocket.send"}:
            await self._send({"type": "websocket.close", "code": 1011})
        elif not self._settled:  # its own refusal is not complete, and cannot be taken back
            await self._send({"type": f"{KIND}.response.body", "body": b""})

    def _expire(self) -> None:
        self._helper = self._loop.create_task(self._refuse())

    async def _refuse(self) -> None:
        await self._end(LATE)
        assert self._task is not None
        self._task.cancel()
