"""One request of a client, and what the program answers (contract, section 2.6, A8 to A23)."""

import asyncio
import math
import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from . import log
from .answers import LATE, SILENT, failure
from .drafts import Outputs, is_output
from .program import Application, Message, Receive, Scope, Send, run

STOCK, HELD = b"Internal Server Error", 0.25
"""What frameworks answer before they raise, and how many seconds it is held for them to do so."""
BODILESS = frozenset({204, 304})
NAME, VALUE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
"""Of headers (RFC 9110, section 5)."""
FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Connection(Protocol):
    """What is to be known of the connection that a request came on."""

    received: float
    """When the latest bytes of a body came, in the loop's time."""

    @property
    def transport(self) -> asyncio.Transport:
        """What carries it."""


class Exchange:
    """The call of the program for one request.

    It sends the head of an answer at once if that tells how long the body is. Else it is kept for what the program does
    before it gives way to others: if that is to send the whole body, its length can be told.
    """

    def __init__(self, connection: Connection, send: Send, run_id: str, seconds: float, *, public: bool) -> None:
        self._connection, self._send, self._run_id = connection, send, run_id
        self._seconds, self._public = seconds, public
        self._loop = asyncio.get_running_loop()
        self._alive = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._look)
        self._start: Message | None = None
        self._held: tuple[Message, Message] | None = None
        self._outputs: Outputs | None = None
        self._begun = self._complete = self._overdue = self._bodiless = self._for_head = False
        self._task: asyncio.Task[Any] | None = None
        self._helper: asyncio.Task[None] | None = None

    async def run(self, application: Application, scope: Scope, receive: Receive) -> None:
        """Call the program and see to it that there is an answer, or that the connection breaks off.

        Raises SystemExit, if the program ends itself.
        """
        self._task, self._for_head = asyncio.current_task(), scope["method"] == "HEAD"
        try:
            await run(application, scope, receive, self.send)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            await self._failed(error)
        else:
            await self._returned()
        finally:
            self._timer.cancel()

    async def send(self, message: Message) -> None:
        """Take an event of the program's answer."""
        if self._overdue:
            return
        self._alive = math.inf  # while the client takes it, the program is not late
        try:
            kind = message.get("type")
            if kind == "http.response.body":
                await self._body(message)
            elif kind == "http.response.start" and not self._begun and self._start is None:
                await self._head(message)
            elif kind is None and is_output(message):
                self._outputs = self._outputs or Outputs()
                self._outputs.add(message)
            else:
                await self._send(message)
        finally:
            self._alive = self._loop.time()

    async def _head(self, message: Message) -> None:
        status, headers = message["status"], list(message.get("headers", ()))
        _check(status, headers)
        if status in BODILESS:
            self._bodiless = True
            headers = [(name, value) for name, value in headers if name.lower() not in FRAMING]
        message = {**message, "headers": headers}
        if status != 500 and (self._bodiless or _is_framed(headers)):
            self._begun = True
            await self._send(message)
            return
        self._start = message
        if status != 500:
            self._loop.call_soon(self._begin_now)

    def _begin_now(self) -> None:
        if self._start is not None:
            self._help(self._begin)

    async def _begin(self) -> None:
        """Send the head that is kept, if it still is."""
        if self._start is not None:
            start, self._start = self._start, None
            self._begun = True
            await self._send(start)

    async def _body(self, message: Message) -> None:
        more = message.get("more_body", False)
        if self._start is not None and not more:
            if self._start["status"] == 500 and message.get("body") == STOCK:
                self._hold(self._start, message)
                return
            self._start = self._sized(self._start, message)
        await self._begin()
        if self._bodiless:
            message = {**message, "body": b""}
        await self._send(message)
        if not more:
            self._complete = True
            self._timer.cancel()

    def _hold(self, start: Message, body: Message) -> None:
        self._held, self._start = (self._sized(start, body), body), None
        self._timer.cancel()
        self._timer = self._loop.call_later(HELD, self._help, self._release)

    async def _release(self) -> None:
        """Send the answer that is held, if it still is."""
        held, self._held = self._held, None
        if held is not None:
            self._begun = self._complete = True
            for message in held:
                await self._send(message)

    def _sized(self, start: Message, body: Message) -> Message:
        """Tell how long a body is that is whole; the program may have said so itself."""
        headers, size = start["headers"], len(body.get("body", b""))
        if _is_framed(headers) or self._bodiless or (self._for_head and not size):
            return start
        return {**start, "headers": [*headers, (b"content-length", b"%d" % size)]}

    def _look(self) -> None:
        """End the call if the program is late."""
        left = max(self._alive, self._connection.received) + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(min(left, self._seconds), self._look)
        else:
            self._help(self._expire)

    async def _expire(self) -> None:
        self._overdue = True
        if self._begun:
            log.say(f"The answer is broken off: nothing came of it for {self._seconds:g} seconds.")
            self._connection.transport.close()
        else:
            log.say(LATE.text)
            await LATE.send(self._send)
        assert self._task is not None
        self._task.cancel()

    async def _failed(self, error: BaseException) -> None:
        assert self._task is not None
        if self._task.cancelling() and isinstance(error, asyncio.CancelledError):  # late, or the host ends
            if not self._overdue:
                self._connection.transport.close()
            return
        answer = failure(error, self._run_id, public=self._public)
        if self._overdue or self._complete:
            return
        if self._begun:
            self._connection.transport.close()
        else:
            self._start = self._held = None
            await answer.send(self._send)

    async def _returned(self) -> None:
        if self._held is not None:
            await self._release()
        elif self._overdue or self._complete or self._connection.transport.is_closing():
            return
        elif self._begun or self._start is not None:
            self._start = None
            log.say("The answer is broken off: the program returned before it was complete.")
            self._connection.transport.close()
        elif self._outputs is not None:
            await self._outputs.send(self._send)
        else:
            log.say(SILENT.text)
            await SILENT.send(self._send)

    def _help(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._helper = self._loop.create_task(work())


def _check(status: object, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a head that HTTP does not have; uvicorn would do so when it is too late for another answer.

    Raises ValueError, or TypeError.
    """
    if not (isinstance(status, int) and 100 <= status <= 599):
        raise ValueError(f"No HTTP status: {status!r}")
    for name, value in headers:
        if not (NAME.fullmatch(name) and VALUE.fullmatch(value)):
            raise ValueError(f"No HTTP header: {name!r}: {value!r}")
        if name.lower() == b"content-length" and not value.strip().isdigit():
            raise ValueError(f"No length: {value!r}")


def _is_framed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    for name, _ in headers:  # noqa: SIM110 - `any` takes twice as long
        if name.lower() in FRAMING:
            return True
    return False
