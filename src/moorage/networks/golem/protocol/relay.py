"""The way to an app: a channel whose bytes go through the app's own network.

Channels dial addresses, and apps have none on this machine: a connection to one is made inside its network and handed
out (sandbox/base.py). So a channel dials a socket in a private directory, behind which the bytes are passed on.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio

from moorage.errors import ServiceUnavailable
from moorage.networks.base import Endpoint

LARGEST = 1 << 30
"""Bytes of one message: parameters are JSON in one piece."""
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.default_authority", "localhost"),
)
CHUNK = 256 * 1024


@contextlib.asynccontextmanager
async def opened(endpoint: Endpoint) -> AsyncIterator[grpc.aio.Channel]:
    """Give a channel to an app; leaving the context breaks every connection to the app off.

    The app sees the end of the channel at once, and the channel that of the app.
    """
    directory = tempfile.mkdtemp(prefix="moorage-")  # short, since addresses are; nobody else may enter it
    relay = _Relay(endpoint)
    address = f"{directory}/app"
    try:
        server = await asyncio.start_unix_server(relay.serve, address, limit=CHUNK)
        try:
            async with grpc.aio.insecure_channel(f"unix:{address}", options=OPTIONS) as channel:
                yield channel
        finally:
            server.close()
            await relay.close()
    finally:
        shutil.rmtree(Path(directory), ignore_errors=True)


class _Relay:
    """Passes bytes on between connections of a channel and those to an app."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes by one connection, until one of its sides ends."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(OSError, ServiceUnavailable, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def close(self) -> None:
        """Break all connections off."""
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = await self._endpoint.connect()
        app_reader, app_writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
        ways = [asyncio.ensure_future(_pass(reader, app_writer)), asyncio.ensure_future(_pass(app_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            app_writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
