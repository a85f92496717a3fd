"""What the Infernet measurements share: a container that answers at once, a node in front of it, and lean clients."""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.common import Server, server
from moorage.node.directory import DataDirectory

REQUEST = json.dumps({"containers": ["echo"], "data": {"text": "hello"}}).encode()
SETTLED = 5.0
"""Seconds after which a node that has started has looked at what its machine can enforce."""
DIRECT = json.dumps({"source": 1, "destination": 1, "data": {"text": "hello"}, "requires_proof": False}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The container's own port, and the node that serves it."""

    container: int
    node: int
    server: Server


class Http:
    """One keep-alive connection; the leanest client there is, so that what is measured is the other side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Http":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Make one request and give the body of its answer."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer + await self._reader.read(1000)
        _, _, rest = answer.lower().partition(b"content-length:")
        return await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()


@contextlib.contextmanager
def place(container: str = "bench.infernet_container") -> Iterator[Place]:
    """Run the container, and a node whose config.json names it."""
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as temporary, _container(container) as port:
        config = Path(temporary, "config.json")
        document = {
            "manage_containers": False,
            "containers": [{"id": "echo", "url": f"http://127.0.0.1:{port}", "moorage": {"concurrency": 64}}],
            "server": {"rate_limit": {"num_requests": 1_000_000, "period": 1}},
        }
        config.write_text(json.dumps(document))
        with server(cpus=2, infernet=config) as node:
            presence = DataDirectory(node.data_dir).presence()
            assert presence is not None
            assert presence.url is not None
            await_healthy(presence.url)
            time.sleep(SETTLED)
            yield Place(container=port, node=int(presence.url.rpartition(":")[2]), server=node)


def await_healthy(url: str) -> None:
    """Wait until a node says that it is."""
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/health").status_code != 200:
        if time.monotonic() > deadline:
            raise RuntimeError("the node does not become healthy")
        time.sleep(0.05)


@contextlib.contextmanager
def _container(module: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(10)
