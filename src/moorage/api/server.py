"""The HTTP server inside the node's own event loop, on TCP, on a Unix socket, or on both."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from moorage.api.access import Access, Trusted, require_safe_address
from moorage.api.app import Front, create_app
from moorage.api.links import MAX_FRAME
from moorage.api.protocol import Protocol
from moorage.errors import AddressUnavailable
from moorage.node.node import Node

BACKLOG = 2048
GRACE = 5
"""Seconds that running requests have to end once the server stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a node answers."""

    url: str | None
    socket: Path | None


class _Embedded(uvicorn.Server):
    """A server that leaves the signals to whoever runs the loop, and ends when told rather than at its next tick."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def main_loop(self) -> None:
        while not self._stopping.is_set():
            await self.on_tick(0)  # renews the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def serve(
    node: Node, *, host: str | None = None, port: int = 0, uds: Path | None = None
) -> AsyncIterator[Listening]:
    """Serve a node for as long as the context lasts: on `host` and `port` (0: the kernel chooses), on `uds`, or both.

    Requests over the Unix socket are trusted: only the node's own user can open it.
    Raises TokenRequired for an address beyond loopback while there is no token, AddressUnavailable.
    """
    app = create_app(node)
    tokens = app.state.tokens
    ends: list[tuple[ASGIApp, socket.socket]] = []
    with contextlib.ExitStack() as stack:
        url = None
        if host is not None:
            opened = any(surface.admits is not None for surface in node.surfaces)
            await require_safe_address(host, tokens, opened=opened)
            listener = stack.enter_context(_tcp(host, port))
            ends.append((Front(app, node.surfaces, partial(Access, tokens=tokens, host=host)), listener))
            url = _url(host, listener)
        if uds is not None:
            ends.append((Front(app, node.surfaces, Trusted), stack.enter_context(_unix(uds))))
            stack.callback(uds.unlink, missing_ok=True)
        stack.callback(node.store.listen(app.state.metrics.notice))
        node.url = url or node.url
        async with _running(ends, app.state.stopping):
            yield Listening(url=url, socket=uds)


@contextlib.asynccontextmanager
async def _running(ends: list[tuple[ASGIApp, socket.socket]], stopping: asyncio.Event) -> AsyncIterator[None]:
    servers = [_Embedded(_config(app), stopping) for app, _ in ends]
    tasks = [
        asyncio.ensure_future(server.serve([listener])) for server, (_, listener) in zip(servers, ends, strict=True)
    ]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*tasks)


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=Protocol,
        ws="none",  # a link goes on as a websocket where a network asks for it
        ws_max_size=MAX_FRAME,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=GRACE,
    )


def _tcp(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise AddressUnavailable(f"{host} port {port} cannot be listened on: {error.strerror}.") from None


def _unix(path: Path) -> socket.socket:
    """Listen on a Unix socket that only this user can open: its mode is set before anybody can connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressUnavailable(f"{path} cannot be listened on: {error}.") from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    return (
        f"http://[{host}]:{listener.getsockname()[1]}" if ":" in host else f"http://{host}:{listener.getsockname()[1]}"
    )
