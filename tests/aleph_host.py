"""The host of ASGI programs as a real process, asked as the node asks it."""

import asyncio
import contextlib
import io
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore
import httpx

import moorage.guest

DIRECTORY = Path(moorage.guest.__path__[0], "asgi")
ROOT = "/vm/cafe"
RUN = "run-1"

ECHO = """
import json

def plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": [[b"content-type", b"application/json"]]})
    await send({"type": "http.response.body", "body": json.dumps(plain(scope)).encode()})
"""


class Backend(httpcore.AnyIOBackend):
    """Connects to a Unix socket, and sends a header before all others, as only the node itself does."""

    def __init__(self, header: str) -> None:
        self._line = f"moorage: {header}\r\n".encode()

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        stream = await super().connect_unix_socket(*args, **options)
        write = stream.write

        async def adding(data: bytes, timeout: float | None = None) -> None:
            request, end, rest = data.partition(b" HTTP/1.1\r\n")
            await write(request + end + self._line + rest if end else data, timeout)

        stream.write = adding
        return stream


@dataclass(kw_only=True)
class Host:
    """A running host; its clients are closed with it."""

    process: Process
    path: Path
    stack: contextlib.AsyncExitStack
    lines: dict[str, list[str]] = field(default_factory=lambda: {"out": [], "err": []})

    async def client(self, kind: str = "http", *, root: str = ROOT, run: str = RUN, timeout: float = 20):
        """Give a client that asks below `root`, in one run."""
        header = f"{kind} {run} {root or '-'} https 203.0.113.9 4321"
        transport = httpx.AsyncHTTPTransport(verify=False)
        transport._pool = httpcore.AsyncConnectionPool(uds=str(self.path), network_backend=Backend(header))
        client = httpx.AsyncClient(transport=transport, base_url=f"http://node.example:81{root}", timeout=timeout)
        return await self.stack.enter_async_context(client)

    async def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """Ask once."""
        client = await self.client(**options)
        return await client.get(path)

    async def event(self, body: str) -> httpx.Response:
        """Deliver a message."""
        client = await self.client("event")
        return await client.post("/", content=body.encode())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of one's own."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        self.stack.callback(writer.close)
        return reader, writer

    async def raw(self, lines: str, *, root: str = ROOT) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send the head of a request, of which the target is below `root`."""
        reader, writer = await self.connect()
        request, *headers = lines.strip().splitlines()
        method, target = request.split(" ")
        node = f"moorage: http {RUN} {root or '-'} http 203.0.113.9 4321"
        head = [f"{method} {root}{target} HTTP/1.1", node, "host: node.example", *headers, "", ""]
        writer.write("\r\n".join(head).encode())
        return reader, writer

    async def line(self, stream: str, wanted: str) -> str:
        """Wait until it has written a line with this in it."""
        reader = self.process.stdout if stream == "out" else self.process.stderr
        assert reader is not None
        for line in self.lines[stream]:
            if wanted in line:
                return line
        while raw := await asyncio.wait_for(reader.readline(), 20):
            self.lines[stream].append(raw.decode())
            if wanted in self.lines[stream][-1]:
                return self.lines[stream][-1]
        raise AssertionError(f"{wanted!r} is not in {self.lines[stream]}")

    async def stop(self) -> int:
        """Tell it to end, and give its status."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end, and give its status; `lines` has all that it wrote."""
        out, err = await asyncio.wait_for(self.process.communicate(), 20)
        self.lines["out"] += io.StringIO(out.decode())
        self.lines["err"] += io.StringIO(err.decode())
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def hosted(
    place: Path,
    source: str | Mapping[str, str],
    *,
    entrypoint: str = "main:app",
    packages: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Host]:
    """Start the host with a program: the source of its `main.py`, or all its files; and packages beside them."""
    files = {"main.py": source} if isinstance(source, str) else source
    for name, text in {f"code/{name}": text for name, text in files.items()}.items():
        _write(place / name, text)
    for name, text in (packages or {}).items():
        _write(place / "packages" / name, text)
    document = {
        "entrypoint": entrypoint,
        "module": None,
        "argv": [entrypoint],
        "path": [str(place / "code"), str(place / "packages")],
        "seconds": 10,
        "import_timeout": 20,
        "startup_timeout": 20,
        "shutdown_timeout": 10,
        "traceback": "hidden",
        **settings,
    }
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
        listener.listen(100)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-Wdefault", str(DIRECTORY)),
            pass_fds=[listener.fileno()], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd=place,
        )  # fmt: skip
        document["listener"] = listener.fileno()
    assert process.stdin is not None
    process.stdin.write(json.dumps(document).encode())
    process.stdin.close()
    async with contextlib.AsyncExitStack() as stack:
        try:
            yield Host(process=process, path=place / "socket", stack=stack)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
