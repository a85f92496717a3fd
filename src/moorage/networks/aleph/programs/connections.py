"""Connections to a running program, and the answers that are read from them (contract, sections 2.6 and 2.7)."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import cast

import httptools

from moorage.errors import ServiceUnavailable
from moorage.model.limits import KIB
from moorage.networks.base import Endpoint

Headers = list[tuple[bytes, bytes]]

READ_AHEAD = 256 * KIB
"""Bytes of an answer that are read before the client takes them."""
MAX_HEAD = 256 * KIB
"""Bytes of the head of an answer."""
TRIAL = 0.2
"""Seconds after an answer by which a server has closed the connection that does not keep it."""
BODILESS = frozenset({101, 204, 304})
"""Statuses of answers without a body, even if they tell how long it is."""
OURS = b"moorage"
"""Header by which the node tells a program's host about a request; `moorage-...` are those of its answers."""

HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect", OURS),
    }
)
"""Headers that concern one connection only, or are the node's own."""


class Broken(OSError):
    """The program's side broke off, or what came from it is no HTTP."""


class Overdue(TimeoutError):
    """The program gave no sign for longer than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of an answer: all headers but those of one hop, and the node's own apart."""

    status: int
    headers: Headers
    private: Mapping[bytes, bytes]


class Pool:
    """Connections to one running instance; those that are idle longer than `keep` seconds are not used again.

    Simple servers close a connection after an answer without having said so, and no request is sent twice. So one that
    is not `trusted` has to show first that it keeps a connection.
    """

    def __init__(self, *, keep: float) -> None:
        self.keep, self.trusted = keep, True
        self._idle: deque[tuple[float, Connection]] = deque()
        self._loop = asyncio.get_running_loop()

    async def take(self, endpoint: Endpoint) -> "Connection":
        """Give the connection that was used last, or a new one.

        Raises ServiceUnavailable.
        """
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and self._loop.time() - since < self.keep:
                return connection
            self.trusted = self.trusted and not connection.closed
            connection.abort()
        sock = await endpoint.connect()
        try:
            _, protocol = await self._loop.create_connection(partial(Connection, sock), sock=sock)
        except OSError as error:
            sock.close()
            raise ServiceUnavailable(f"The program takes no connection: {error.strerror}.") from error
        return protocol

    def give_back(self, connection: "Connection") -> None:
        """Keep a connection whose answer has been read to its end, or close it."""
        if not connection.settle():
            connection.abort()
        elif self.trusted:
            self._idle.append((self._loop.time(), connection))
        else:
            self._loop.call_later(TRIAL, self._judge, connection)

    def _judge(self, connection: "Connection") -> None:
        self.trusted = not connection.closed
        connection.abort()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop()[1].abort()


class Connection(asyncio.Protocol):
    """A connection to a program, and the answer that is read from it."""

    def __init__(self, sock: socket) -> None:
        self._socket, self._loop = sock, asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._parser = self._new_parser()
        self._reset()

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(  # minimal servers end lines with LF only
            lenient_optional_cr_before_lf=True,
            lenient_optional_lf_after_cr=True,
            lenient_optional_crlf_after_chunk=True,
        )
        return parser

    def _reset(self) -> None:
        self._error: Exception | None = None
        self._raw: Headers = []
        self._size = 0
        self._pieces: list[bytes] = []
        self._ahead = 0
        self._paused = False
        self._head: Head | None = None
        self._begun = self._asking = False
        self._complete = self._kept = False
        self._bodiless = False
        self.rest = b""
        """What came after the head of an answer that changes the protocol."""

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._closed and self._error is None

    # asking

    def begin(self, request: bytes, *, silence: float, bodiless: bool, more: bool = False) -> None:
        """Send the head of a request, and whatever of its body is there; `more` of that may come."""
        self._begun, self._bodiless, self._silence = True, bodiless, silence
        self._asking = more
        self._alive = self._loop.time()
        self._timer = self._loop.call_later(silence, self._look)
        self.transport.write(request)

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send more of a body, and wait until the program takes it."""
        self._alive = self._loop.time()
        self.transport.write(data)
        self._asking = more
        if self._drained is not None:
            await self._drained

    async def head(self) -> Head:
        """Wait for the head of the answer.

        Raises Broken, Overdue.
        """
        while self._head is None:
            await self._news()
        return self._head

    async def read(self) -> tuple[bytes, bool]:
        """Wait for bytes of the answer's body, and tell whether more may come.

        Raises Broken, Overdue.
        """
        while not self._pieces and not self._complete:
            await self._news()
        pieces, self._pieces, self._ahead = self._pieces, [], 0
        if self._paused:
            self._paused = False
            self._alive = self._loop.time()
            self.transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), not self._complete

    @property
    def complete(self) -> bool:
        """Whether all of the answer is here."""
        return self._complete

    def settle(self) -> bool:
        """End an exchange; tell whether the connection can be used again."""
        self._unset()
        sound = self._complete and self._kept and self.usable and not self._asking
        if not sound or self.transport.get_write_buffer_size():
            return False
        if self._bodiless:  # the parser knows nothing of HEAD, and waits for a body
            self._parser = self._new_parser()
        self._reset()
        return True

    def upgrade(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to another protocol."""
        self._unset()
        self.transport.set_protocol(protocol)
        return self.transport

    def fail(self, error: Exception) -> None:
        """End the exchange with an error, for whoever waits for its answer."""
        if self._error is None:
            self._error = error
        self._tell()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def abort(self) -> None:
        """Close it at once."""
        self._unset()
        self._closed = True
        self.transport.abort()

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._begun = False

    def _look(self) -> None:
        """End an exchange that has been silent for too long; one that waits for the client has not."""
        left = self._alive + self._silence - self._loop.time()
        if left > 0 or self._paused:
            self._timer = self._loop.call_later(max(left, self._silence / 2), self._look)
        else:
            self._timer = None
            self.fail(Overdue())

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self._pieces and not self._complete:
            raise self._error

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if not self._begun or self._complete:
            self.abort()  # it says more than it was asked
            return
        self._alive = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self.fail(Broken(f"its answer is no HTTP: {error.__context__ or error}"))
            self._closed = True
            self.transport.abort()

    def pause_writing(self) -> None:
        """Let whoever writes wait."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let whoever writes go on."""
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def eof_received(self) -> None:
        """Take note that nothing more comes."""
        self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that it is gone; a server that did not want all of a body may have answered before."""
        self._closed = True
        if error is not None and self._begun and not self._complete:
            with suppress(OSError):
                while data := self._socket.recv(READ_AHEAD):
                    self.data_received(data)
        self._finish()

    def _finish(self) -> None:
        """Take the end of the connection as that of an answer whose end nothing else tells (RFC 9112, section 6.3)."""
        self._closed = True
        if self._head is not None and not self._complete and _until_closed(self._raw):
            self._complete = True
            self._tell()
        elif not self._complete:
            self.fail(Broken("it closed the connection before its answer was complete"))

    # what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD:
            raise ValueError("its head is too long")
        if self._head is None:  # else it comes after the body
            self._raw.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Tell of the head."""
        status = self._parser.get_status_code()
        if not 100 <= status < 600:  # RFC 9110, section 15: such a status is invalid
            raise ValueError(f"its status is {status}")
        if status < 200 and status != 101:  # it only says that the answer will come
            self._raw = []
            return
        left_out = HOP | {b"content-length"} if status in BODILESS else HOP
        kept = self._raw if status == 101 else [header for header in self._raw if header[0] not in left_out]
        private = {name: value for name, value in kept if name.startswith(OURS)}
        if private:
            kept = [header for header in kept if header[0] not in private]
        self._head = Head(status=status, headers=kept, private=private)
        self._kept = self._parser.should_keep_alive()  # the parser knows it no more at the end of the body
        if self._bodiless or status in BODILESS:
            self._complete = True
        self._tell()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._complete:
            return
        self._pieces.append(body)
        self._ahead += len(body)
        if self._ahead > READ_AHEAD and not self._paused and not self._closed:
            self._paused = True
            self.transport.pause_reading()
        self._tell()

    def on_message_complete(self) -> None:
        """Take note that the answer is whole."""
        if self._head is not None:
            self._complete = True
            self._tell()


def _until_closed(headers: Headers) -> bool:
    names = dict(headers)
    return not names.get(b"transfer-encoding", b"").lower().endswith(b"chunked") and b"content-length" not in names
