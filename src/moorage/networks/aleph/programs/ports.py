"""Ports of programs that are published: ports of 127.0.0.1, forwarded into the program's own network (section 2.5)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from moorage.errors import MoorageError
from moorage.networks.aleph.messages.program import PublishedPort

HOST = "127.0.0.1"
TRIES = 8
"""How often the kernel is asked for a number that is free for all protocols of a port."""
CHUNK = 64 * 1024
MAX_CLIENTS, MAX_WAITING = 256, 64
"""Clients of a datagram port at a time, and datagrams that wait for each; what is more is lost, as datagrams may be."""
SILENCE = 60.0
"""Seconds without a datagram of a client after which it is forgotten."""
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

Reach = Callable[[int, socket.SocketKind], AbstractAsyncContextManager[socket.socket]]
"""Holds the program, with a connection to a port of it that does not block. Raises MoorageError."""
Client = Any
"""Address that datagrams of a client come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a port of a program is published."""

    host: int
    """The node's port."""
    protocols: frozenset[str]
    """`tcp`, `udp`."""


Ports = dict[int, Published]
"""By the program's own port."""


@contextlib.asynccontextmanager
async def forwarded(wanted: Sequence[PublishedPort], ports: Ports, reach: Reach) -> AsyncIterator[None]:
    """Forward ports for as long as the context lasts, and note them in `ports`.

    One that is noted there by an earlier start keeps its number if that is free.
    """
    async with contextlib.AsyncExitStack() as stack:
        for port, protocols in _protocols(wanted).items():
            sockets = _bound(protocols, ports[port].host if port in ports else 0)
            ports[port] = Published(host=sockets[0].getsockname()[1], protocols=protocols)
            for each in sockets:
                forward = _streams if each.type == socket.SOCK_STREAM else _datagrams
                await stack.enter_async_context(forward(each, port, reach))
        yield


def _protocols(wanted: Sequence[PublishedPort]) -> Mapping[int, frozenset[str]]:
    ports = dict.fromkeys(each.port for each in wanted)
    return {port: frozenset(each.protocol for each in wanted if each.port == port) for port in ports}


def _bound(protocols: frozenset[str], number: int) -> list[socket.socket]:
    """Bind one number for all protocols: this one, or if it is 0 or taken, the kernel's choice."""
    for _ in range(TRIES):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            sockets = []
            for protocol in protocols:
                sockets.append(stack.enter_context(socket.socket(socket.AF_INET, KINDS[protocol])))
                sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, protocol == "tcp")
                sockets[-1].setblocking(False)
                sockets[-1].bind((HOST, number or sockets[0].getsockname()[1]))
            stack.pop_all()
            return sockets
        number = 0
    raise OSError("no port is free")


# Streams


@contextlib.asynccontextmanager
async def _streams(listener: socket.socket, port: int, reach: Reach) -> AsyncIterator[None]:
    async with _tasks() as start:
        server = await asyncio.start_server(lambda *client: start(_stream(client, port, reach)), sock=listener)
        try:
            yield
        finally:
            server.close()


async def _stream(client: tuple[asyncio.StreamReader, asyncio.StreamWriter], port: int, reach: Reach) -> None:
    reader, writer = client
    try:
        async with reach(port, socket.SOCK_STREAM) as connection:
            inner_reader, inner_writer = await asyncio.open_connection(sock=connection)
            try:
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
            finally:
                inner_writer.transport.abort()
    except (MoorageError, OSError):
        pass  # one of the two is gone, and so shall the other be
    finally:
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


# Datagrams


@contextlib.asynccontextmanager
async def _datagrams(outer: socket.socket, port: int, reach: Reach) -> AsyncIterator[None]:
    async with _tasks() as start:
        door = _Door(port, reach, start)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: door, sock=outer)
        try:
            yield
        finally:
            transport.abort()


@dataclass(slots=True)
class _Door(asyncio.DatagramProtocol):
    """A datagram port: each client has a socket of its own in the program's network, until it falls silent."""

    port: int
    reach: Reach
    start: Callable[[Coroutine[Any, Any, None]], None]
    clients: dict[Client, asyncio.Queue[bytes]] = field(default_factory=dict)
    transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, client: Client) -> None:
        if client not in self.clients and len(self.clients) < MAX_CLIENTS:
            self.clients[client] = asyncio.Queue(MAX_WAITING)
            self.start(self._serve(client))
        if client in self.clients:
            with contextlib.suppress(asyncio.QueueFull):
                self.clients[client].put_nowait(data)

    async def _serve(self, client: Client) -> None:
        try:
            async with self.reach(self.port, socket.SOCK_DGRAM) as inner, asyncio.TaskGroup() as group:
                answers = group.create_task(self._answer(client, inner))
                await self._ask(client, inner)
                answers.cancel()
        except* (MoorageError, OSError):
            pass
        finally:
            del self.clients[client]

    async def _ask(self, client: Client, inner: socket.socket) -> None:
        loop, waiting = asyncio.get_running_loop(), self.clients[client]
        with contextlib.suppress(TimeoutError):
            while True:
                await loop.sock_sendall(inner, await asyncio.wait_for(waiting.get(), SILENCE))

    async def _answer(self, client: Client, inner: socket.socket) -> None:
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        while True:
            self.transport.sendto(await loop.sock_recv(inner, CHUNK), client)


@contextlib.asynccontextmanager
async def _tasks() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Give what starts tasks; those that are left are cancelled when the context ends."""
    tasks: set[asyncio.Task[None]] = set()

    def start(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        yield start
    finally:
        left = [*tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
