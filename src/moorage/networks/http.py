"""HTTP/1.1 as it is spoken to services: one request at a time on each connection, and connections are kept.

Every job of a network that asks services comes through here, so that what a request costs decides how many jobs a
node can take; the client libraries take several times as long as all of the rest (`docs/explanation/speed.md`). The
parser is a library's.
"""

import asyncio
import socket
import ssl
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import httptools

from moorage import __version__
from moorage.errors import ServiceUnavailable
from moorage.model.limits import KIB
from moorage.networks.base import Endpoint

MAX_HEAD = 64 * KIB
"""Bytes of the head of an answer."""
READ_AHEAD = 256 * KIB
"""Bytes of an answer that are read before anybody takes them."""
KEPT_OPEN = 1.5
"""Seconds that an idle connection is kept: less than common servers do, which would close it just when it is used."""

_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
_EITHER_FORMAT = 32 + zlib.MAX_WBITS
_INSIDE_A_TARGET = "/%:?[]@!$&'()*+,;=~"
"""What stays as it is in a target, besides letters and digits."""

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[tuple[Any, asyncio.Protocol]]]
"""Opens a connection for a protocol that it is given the maker of; raises OSError."""


class ConnectFailed(OSError):
    """Nothing takes a connection."""


class Broken(OSError):
    """A connection broke off, or what came over it is no HTTP."""


def through(endpoint: Endpoint) -> Connect:
    """Connect to a service, wherever it runs."""

    async def connect(protocol: Callable[[], asyncio.Protocol]) -> tuple[Any, asyncio.Protocol]:
        try:
            sock = await endpoint.connect()
        except ServiceUnavailable as error:
            raise ConnectFailed(error.message) from error
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return await asyncio.get_running_loop().create_connection(protocol, sock=sock)
        except OSError as error:
            sock.close()
            raise ConnectFailed(error.strerror or str(error)) from error

    return connect


def to(url: str) -> Connect:
    """Connect to the host of a URL, its addresses one after the other; for `https` its certificate has to be valid."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = _tls() if secure else None

    async def connect(protocol: Callable[[], asyncio.Protocol]) -> tuple[Any, asyncio.Protocol]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_connection(protocol, host, port, ssl=context)
        except OSError as error:
            raise ConnectFailed(error.strerror or str(error)) from error
        except UnicodeError as error:
            raise ConnectFailed(f"it is no name of a host: {error}") from error

    return connect


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def host_of(url: str) -> str:
    """Give the host and port of a URL as a request names them."""
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"


class Client:
    """Asks one service; `headers` go with every request."""

    def __init__(self, connect: Connect, *, host: str, headers: Mapping[str, str] | None = None) -> None:
        self._connect, self._loop = connect, asyncio.get_running_loop()
        common = {"Host": host, "User-Agent": f"moorage/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        self._headers = "".join(f"{name}: {_line(value)}\r\n" for name, value in (common | dict(headers or {})).items())
        self._idle: deque[tuple[float, _Connection]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(self, method: str, target: str, body: bytes = b"") -> "Answer":
        """Send a request and give its answer once its head is there; use it as a context, which ends it.

        `target` is a path, maybe with a query. Raises ConnectFailed, Broken.
        """
        kept = self._kept()
        if kept is not None:
            try:
                return await self._ask(kept, method, target, body)
            except Broken:
                if method != "GET":  # what changes something is never sent twice
                    raise
        return await self._ask(await self._opened(), method, target, body)

    async def _ask(self, connection: "_Connection", method: str, target: str, body: bytes) -> "Answer":
        try:
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            head = f"{method} {quote(target, safe=_INSIDE_A_TARGET)} HTTP/1.1\r\n{self._headers}{length}\r\n"
            return await connection.exchange(head.encode("latin-1") + body, target)
        except BaseException:
            connection.abort()
            raise

    def close(self) -> None:
        """Close all connections that no answer is read from; the others once it is."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop()[1].abort()

    def _kept(self) -> "_Connection | None":
        """Take the connection that was used last."""
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and self._loop.time() - since < KEPT_OPEN:
                return connection
            connection.abort()
        return None

    async def _opened(self) -> "_Connection":
        _, connection = await self._connect(lambda: _Connection(self._keep))
        return cast(_Connection, connection)

    def _keep(self, connection: "_Connection") -> None:
        if self._closed:
            connection.abort()
            return
        self._idle.append((self._loop.time(), connection))
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEPT_OPEN, self._close_old)

    def _close_old(self) -> None:
        self._sweep = None
        while self._idle and self._loop.time() - self._idle[0][0] >= KEPT_OPEN:
            self._idle.popleft()[1].abort()
        if self._idle:
            self._sweep = self._loop.call_at(self._idle[0][0] + KEPT_OPEN, self._close_old)


class Answer:
    """The answer to one request: its head, and its body as it comes.

    A context that closes the connection at its end, unless the answer has been read to its own.
    """

    def __init__(
        self, connection: "_Connection", *, status: int, headers: dict[str, str], target: str, kept: bool
    ) -> None:
        self.status, self.headers, self.target = status, headers, target
        """`headers` has names in lower case, and of several with one name the first; `target` is what was asked for."""
        self.kept = kept
        """Whether the connection can be used again after it."""
        self._connection = connection
        packed = headers.get("content-encoding", "").strip().lower() in _PACKED
        self._unpack = zlib.decompressobj(_EITHER_FORMAT) if packed else None
        self._begun = False

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._connection.end()

    async def read(self) -> bytes:
        """Give the next bytes as they come, unpacked; nothing at the end.

        Raises Broken.
        """
        if self._unpack is None:
            return await self._connection.read()
        while packed := await self._packed(self._unpack.unconsumed_tail):
            self._begun = True
            try:
                piece = self._unpack.decompress(packed, READ_AHEAD)
            except zlib.error as error:
                raise Broken(f"it is not packed as it says: {error}") from None
            if self._unpack.unused_data:
                raise Broken("something follows its packed content")
            if piece:
                return piece
        if self._begun and not self._unpack.eof:
            raise Broken("its packed content ends too early")
        return b""

    async def _packed(self, rest: bytes) -> bytes:
        if rest:
            await asyncio.sleep(0)  # a little that is packed can be very much
        return rest or await self._connection.read()


class _Connection(asyncio.Protocol):
    """A connection and the answer that is read from it."""

    def __init__(self, keep: Callable[["_Connection"], None]) -> None:
        self._keep, self._loop = keep, asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Broken | None = None
        self._lost = False
        self._reset()

    def _reset(self) -> None:
        self._target: str | None = None
        self._answer: Answer | None = None
        self._headers: dict[str, str] = {}
        self._size = self._silent = 0
        """Bytes of the head, and bytes that came since there was anything to take note of."""
        self._pieces: list[bytes] = []
        self._ahead = 0
        self._paused = False
        self._complete = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._lost and self._error is None

    async def exchange(self, request: bytes, target: str) -> Answer:
        """Send a request and wait for the head of its answer."""
        if not self.usable:
            raise Broken("it was closed")
        assert self._transport is not None
        self._target = target
        self._transport.write(request)
        while self._answer is None:
            await self._news()
        return self._answer

    async def read(self) -> bytes:
        """Wait for bytes of the body."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._news()
        pieces, self._pieces, self._ahead = self._pieces, [], 0
        if self._paused:
            assert self._transport is not None
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """Give the connection back, or close it if more of the answer is to come."""
        transport, answer = self._transport, self._answer
        assert transport is not None
        settled = self._complete and not self._paused and not transport.get_write_buffer_size()
        again = settled and answer is not None and answer.kept and self.usable
        self._reset()
        if again:
            self._keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close it at once."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        """Wait until something has come.

        Raises Broken if nothing can come any more.
        """
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._error is None:
            self._error = Broken(reason)
        self._tell()

    def _refuse(self, reason: str) -> None:
        self._fail(reason)
        self.abort()

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._target is None or self._complete:
            self._refuse("it says more than it was asked")
            return
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse("it goes on in another protocol")
        except httptools.HttpParserError as error:
            self._refuse(f"its answer is no HTTP: {error.__context__ or error}")
        else:
            if self._silent > MAX_HEAD:  # the parser tells of a header once it is whole
                self._refuse("its head is too long")

    def eof_received(self) -> None:
        self._lost = True
        if self._answer is not None and _ends_with_connection(self._answer):
            self._complete = True
            self._tell()
        elif not self._complete:
            self._fail("the other side closed it before its answer was complete")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if not self._complete:
            self._fail(str(error) if error else "it was closed before its answer was complete")

    # what the parser calls

    def on_message_begin(self) -> None:
        if self._complete:  # another answer, to nothing
            self._lost = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD:
            raise ValueError("its head is too long")
        if self._answer is not None:  # after the body
            return
        key, text = name.decode("latin-1").lower(), value.decode(errors="replace").strip()
        if key == "transfer-encoding" and key in self._headers:
            text = f"{self._headers.pop(key)}, {text}"
        self._headers.setdefault(key, text)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # it only says that the answer will come
            self._headers = {}
            return
        if self._complete:
            return
        self._silent = 0
        assert self._target is not None
        kept = self._parser.should_keep_alive()
        self._answer = Answer(self, status=status, headers=self._headers, target=self._target, kept=kept)
        self._tell()

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        if self._answer is None:
            raise ValueError("a body comes before the answer")
        self._silent = 0
        self._pieces.append(body)
        self._ahead += len(body)
        if self._ahead > READ_AHEAD and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def on_message_complete(self) -> None:
        if self._answer is not None:
            self._complete = True
            self._tell()


def _ends_with_connection(answer: Answer) -> bool:
    """Tell whether only the end of the connection tells where an answer ends (RFC 9112, section 6.3)."""
    chunked = answer.headers.get("transfer-encoding", "").lower().endswith("chunked")
    return not chunked and "content-length" not in answer.headers


def _line(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("a header is one line")
    return value
