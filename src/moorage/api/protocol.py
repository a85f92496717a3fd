"""HTTP/1.1 as the server speaks it, with some habits of our own."""

import asyncio
from typing import Any

import httptools
from uvicorn._types import ASGISendCallable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from moorage.api.links import Link

MAX_HEAD = 64 * 1024
"""Bytes of a request line with its headers."""
AT_ONCE = 64 * 1024
"""Bytes that are written without waiting for what follows."""


class Protocol(HttpToolsProtocol):
    """Writes the head and the body of an answer together, and reads no endless heads of requests."""

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._joined = _Joined(transport, self.loop)
        self._link = Link(self)
        self._fed = 0
        super().connection_made(self._joined)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Take bytes; the parser tells of no header before its end, so that one without an end is seen here only."""
        self._fed += len(data)
        super().data_received(data)
        if self._fed > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._head = 0
        self.scope["moorage.link"] = self._link  # type: ignore[typeddict-unknown-key]

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = _unchunked(self.cycle)  # type: ignore[assignment, method-assign]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._fed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._fed = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever answers that the client is gone."""
        super().connection_lost(exc)
        if self._link.on_lost is not None:
            self._link.on_lost()

    def on_response_complete(self) -> None:
        """End an answer."""
        self._link.on_lost = None
        self._joined.flush()
        super().on_response_complete()

    def _should_upgrade_to_ws(self) -> bool:
        """Let every request be answered as HTTP first; what is for a websocket asks its link for one."""
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: an upgrade may be ignored."""

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            raise httptools.HttpParserError("The head of the request is too long")


def _unchunked(cycle: RequestResponseCycle) -> ASGISendCallable:
    """Answer a client of HTTP/1.0, which knows no chunks: what ends a body of untold length is the connection."""
    send, untold = cycle.send, False

    async def unchunked(message: Any) -> None:
        nonlocal untold
        if message["type"] == "http.response.start":
            untold = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            cycle.chunked_encoding = False if untold else None
        elif untold:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return unchunked


class _Joined:
    """A transport that keeps small pieces until the loop's next turn or `flush`: one system call instead of several."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write soon."""
        if len(data) >= AT_ONCE:
            self.flush()
            self._transport.write(data)
            return
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give addresses as the server wants them: asked for the socket, it would look for them five times."""
        if name == "socket":
            return default
        found = self._transport.get_extra_info(name, default)
        return found[:2] if name in {"peername", "sockname"} and isinstance(found, tuple) else found

    def close(self) -> None:
        """Close once everything is written."""
        self.flush()
        self._transport.close()

    def plain(self) -> asyncio.Transport:
        """Write what is kept, and give what is underneath."""
        self.flush()
        return self._transport

    def flush(self) -> None:
        """Write what is kept."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._transport.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
