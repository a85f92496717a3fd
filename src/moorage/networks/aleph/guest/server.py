"""HTTP and websockets on the Unix sockets of programs, inside the node's own event loop (contract, section 4.4)."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from moorage.model.limits import KIB, MIB
from moorage.networks.aleph.facade.publishing import PROGRAM

MAX_HEAD = 64 * KIB
"""Bytes of a request line with its headers, beyond what came with them at once."""
MAX_FRAME = MIB
"""Bytes of a websocket message."""
MAX_CONNECTIONS = 128
"""Open connections of one program; common clients open up to 100."""
GRACE = 2.0
"""Seconds that requests have to notice that their program is gone."""
IDLE = 65
"""Seconds that a connection without a request is kept."""

_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True


class GuestServer:
    """Serves one application to programs; whose socket a request came by is `moorage.aleph.program` in its scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @contextlib.asynccontextmanager
    async def serve(self, listener: socket.socket, program: str) -> AsyncIterator[None]:
        """Answer on a listening socket for as long as the context lasts; `program` is the hash of whose it is.

        The socket is closed at the end, connections are broken off, and what still works on a request is cancelled.
        """
        config, state = _config(self._app, program), ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Protocol(config, state, {}), sock=listener)
        try:
            yield
        finally:
            server.close()
            await _end(state)


async def _end(state: ServerState) -> None:
    for connection in tuple(state.connections):
        connection.transport.abort()
    if state.tasks:
        _, late = await asyncio.wait(tuple(state.tasks), timeout=GRACE)
        for task in late:
            task.cancel()


def _config(app: ASGIApp, program: str) -> uvicorn.Config:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PROGRAM] = program
        await app(scope, receive, send)

    return uvicorn.Config(
        named,
        interface="asgi3",
        loop="none",
        http=_Protocol,
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE,
    )


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 for programs: they may send what they like, and fill neither the node's memory nor its log."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.logger = _SILENT
        self._headers = 0  # bytes since the last that were not of a head or of trailers

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._headers += len(data)
        super().data_received(data)
        if self._headers > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long")

    def on_body(self, body: bytes) -> None:
        self._headers = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._headers = 0
        super().on_message_complete()
