"""Requests on their way to a program and back: streamed both ways, unchanged but for what concerns one hop only.

Contract, sections 2.6 (A8 to A16, A20, A23, A24) and 2.7.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from moorage.networks.aleph.programs.connections import HOP, OURS, Broken, Connection, Head, Headers, Overdue

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


LENGTH = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that tell where a body ends; no client can have them left out, or it would write requests of its own."""


class TooLarge(ValueError):
    """The client's body is longer than the node takes."""


class ClientLink(Protocol):
    """The client's connection."""

    on_lost: Callable[[], object] | None

    @property
    def lost(self) -> bool:
        """Whether the client is gone."""

    def abort(self) -> None:
        """Break it off."""

    def tunnel(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give it to another protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds one request."""

    body: int
    """Bytes of the client's body."""
    silence: float
    """Seconds without any sign of the program."""


def request_head(scope: Message, target: bytes, added: Headers, *, upgrade: bool) -> tuple[bytes, bool]:
    """Write the head of a request for a program, and tell whether a body follows.

    All end-to-end headers are kept as they came, in their order; `added` come before them, and in place of any of the
    same name.
    """
    lines = [scope["method"].encode("latin-1"), b" ", target, b" HTTP/1.1\r\n"]
    lines += [b"%s: %s\r\n" % header for header in added]
    hop, body = HOP.union(name for name, _ in added), False
    for name, value in scope["headers"]:
        if name == b"connection":
            hop = hop | {token.strip().lower() for token in value.split(b",")} - LENGTH
    for name, value in scope["headers"]:
        body = body or (name in LENGTH and value != b"0")
        if name == b"transfer-encoding":
            lines.append(b"transfer-encoding: chunked\r\n")
        elif name not in hop:
            lines += (name, b": ", value, b"\r\n")
    if upgrade:
        lines.append(b"connection: Upgrade\r\nupgrade: %s\r\n" % dict(scope["headers"])[b"upgrade"])
    lines.append(b"\r\n")
    return b"".join(lines), body


class Exchange:
    """One request and its answer."""

    def __init__(self, connection: Connection, link: ClientLink, receive: Receive, send: Send, limits: Limits) -> None:
        self._connection, self._link, self._receive, self._send = connection, link, receive, send
        self._limits = limits
        self._sent = 0
        self.started = False
        """Whether the client has got the head of an answer."""
        self.left = False
        """Whether the client has left."""

    async def run(self, scope: Message, request: bytes, *, body: bool, adorn: Callable[[Head], Headers]) -> Head:
        """Ask, and pass the answer on; `adorn` gives the headers that the client gets.

        Raises Broken, Overdue, TooLarge: before the client has got anything, or else the connection to it is broken
        off already.
        """
        if self._link.lost:  # while the program was started
            self.left = True
            raise Broken("the client left")
        self._link.on_lost = self._leave
        pump = None
        try:
            chunked = body and b"transfer-encoding: chunked\r\n" in request
            more = body
            if body:
                first, more = await self._next()
                request += _chunk(first) if chunked else first
                if chunked and not more:
                    request += b"0\r\n\r\n"
            self._connection.begin(request, silence=self._limits.silence, bodiless=scope["method"] == "HEAD", more=more)
            if more:
                pump = asyncio.ensure_future(self._pump(chunked=chunked))
            head = await self._connection.head()
            if head.status != 101:
                await self._answer(head, adorn(head))
        except (Broken, Overdue, TooLarge):
            if self.started:
                self._link.abort()
            raise
        finally:
            if pump is not None:
                pump.cancel()
            self._link.on_lost = None
        return head

    async def _answer(self, head: Head, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})
        more = True
        while more:
            data, more = await self._connection.read()
            if data or not more:
                await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _next(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.left = True
            raise Broken("the client left")
        data = message.get("body", b"")
        self._sent += len(data)
        if self._sent > self._limits.body:
            raise TooLarge
        return data, message.get("more_body", False)

    async def _pump(self, *, chunked: bool) -> None:
        """Pass on the rest of a body, until the program has answered."""
        more = True
        try:
            while more and not self._connection.complete:
                data, more = await self._next()
                if chunked:
                    data = _chunk(data) + (b"" if more else b"0\r\n\r\n")
                await self._connection.write(data, more=more)
        except (Broken, TooLarge) as error:
            self._connection.fail(error)

    def _leave(self) -> None:
        """Let the program see that its client is gone."""
        self.left = True
        self._connection.fail(Broken("the client left"))
        self._connection.abort()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


class Tunnel:
    """Bytes both ways between a client and a program, until either has left."""

    def __init__(self, link: ClientLink, connection: Connection, head: Head) -> None:
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ours, theirs = _End(self._over), _End(self._over)
        client = link.tunnel(ours)
        program = connection.upgrade(theirs)
        ours.other, theirs.other = program, client
        lines = b"".join(b"%s: %s\r\n" % header for header in head.headers if not header[0].startswith(OURS))
        client.write(b"HTTP/1.1 101 Switching Protocols\r\n%s\r\n%s" % (lines, connection.rest))
        self._ends = (client, program)

    async def last(self, stopping: "asyncio.Future[Any]") -> None:
        """Stay until either has left, or the node stops."""
        await asyncio.wait({self._over, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for end in self._ends:
            end.close()


class _End(asyncio.Protocol):
    """One end of a tunnel."""

    def __init__(self, over: "asyncio.Future[None]") -> None:
        self._over = over
        self.other: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.write(data)

    def eof_received(self) -> None:
        """Close both: no protocol that is tunnelled here goes on in one direction."""

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.close()
        if not self._over.done():
            self._over.set_result(None)

    def pause_writing(self) -> None:
        assert self.other is not None
        self.other.pause_reading()

    def resume_writing(self) -> None:
        assert self.other is not None
        if not self.other.is_closing():
            self.other.resume_reading()
