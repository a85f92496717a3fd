"""The connection of whoever is answered, for answers that are more than a response: tunnels, websockets, early ends."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

MAX_FRAME = 1 << 20
"""Bytes of a websocket message that a client may send to the node itself."""

REFUSAL = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""To who asks for a websocket with a head that is too large for one."""


class Server(Protocol):
    """What a link must know of the protocol that serves the connection."""

    config: uvicorn.Config
    server_state: Any
    url: bytes
    scope: Any
    cycle: Any
    transport: Any


class Link:
    """One client's connection, which a request carries as `scope["moorage.link"]`.

    While a request is answered the connection is HTTP; one that asks for an upgrade may take it over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.on_lost: Callable[[], object] | None = None
        """Called when the client is gone; whoever answers sets it, and it holds until the answer is complete."""

    @property
    def lost(self) -> bool:
        """Whether the client is gone."""
        gone: bool = self._server.transport.is_closing()
        return gone

    def abort(self) -> None:
        """Break the connection off, so that nobody takes half an answer for a whole one."""
        transport = self._leave()
        transport.abort()

    def tunnel(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to another protocol, as after an upgrade: what comes goes to that, unparsed."""
        transport = self._leave()
        transport.set_protocol(protocol)
        return transport

    def websocket(self, app: ASGIApp) -> None:
        """Go on as a websocket that an ASGI application serves; the request asked for it, and is not answered."""
        from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

        server = self._server
        head = b"".join(b"%s: %s\r\n" % header for header in server.scope["headers"])
        first = b"GET %s HTTP/1.1\r\n%s\r\n" % (server.url, head)
        protocol = WebSocketsSansIOProtocol(config=server.config, server_state=server.server_state, app_state={})
        protocol.app = app
        transport = self.tunnel(protocol)
        protocol.connection_made(transport)
        protocol.data_received(first)
        if protocol.conn.handshake_exc is not None and not protocol.handshake_initiated:  # uvicorn says nothing
            transport.write(REFUSAL)
            transport.close()

    def _leave(self) -> asyncio.Transport:
        """Take the connection away from HTTP: what is still sent there goes nowhere."""
        self._server.cycle.disconnected = True
        self._server.server_state.connections.discard(self._server)
        transport: asyncio.Transport = self._server.transport.plain()
        return transport
