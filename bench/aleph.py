"""What the measurements of Aleph share: a node with programs, the same program by hand, and a client."""

import asyncio
import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench.common import Server, UnixConnection, server
from moorage.layers.python import python_runtime
from moorage.networks.aleph.config import DEFAULT_RUNTIME
from moorage.networks.aleph.messages.signatures import address_of, sign_evm
from moorage.node.directory import DataDirectory

KEY = hashlib.sha256(b"bench").digest()
OWNER = address_of(KEY)
PROGRAM = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/items/{item}")
async def read(item: int, q: str | None = None) -> dict[str, int | str | None]:
    return {"item": item, "q": q}
"""
PATH = "/items/7?q=seven"
ANSWER = b'{"item":7,"q":"seven"}'


def code(text: str = PROGRAM) -> bytes:
    """Zip a program."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", text)
    return buffer.getvalue()


def publish(connection: UnixConnection, kind: str, content: dict[str, object]) -> str:
    """Sign a message and publish it."""
    text = json.dumps({"address": OWNER, "time": time.time(), **content}, separators=(",", ":"))
    item_hash = hashlib.sha256(text.encode()).hexdigest()
    signed = f"ETH\n{OWNER}\n{kind}\n{item_hash}".encode()
    message = {
        "chain": "ETH", "sender": OWNER, "type": kind, "channel": "BENCH", "time": time.time(),
        "item_type": "inline", "item_content": text, "item_hash": item_hash, "signature": sign_evm(KEY, signed),
    }  # fmt: skip
    answer = connection.call("POST", "/api/v0/messages", {"sync": True, "message": message})
    assert answer["message_status"] == "processed", answer
    return item_hash


def deploy(connection: UnixConnection, text: str = PROGRAM, **changes: object) -> str:
    """Publish a program with its code; give its item hash."""
    stored = connection.call("POST", "/api/v0/storage/add_file", code(text))["hash"]
    ref = publish(connection, "STORE", {"item_type": "storage", "item_hash": stored})
    return publish(
        connection,
        "PROGRAM",
        {
            "type": "vm-function",
            "allow_amend": True,
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": ref},
            "on": {"http": True},
            "environment": {},
            "resources": {"vcpus": 2, "memory": 256, "seconds": 30},
            "runtime": {"ref": DEFAULT_RUNTIME, "comment": ""},
            "volumes": [],
            **changes,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node, and where the built-in runtime is."""

    server: Server
    runtime: Path
    socket: Path


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Run a node whose built-in runtime is built."""
    with server(cpus=os.cpu_count() or 1) as node:
        connection = node.connect()
        ask(connection, f"/vm/{deploy(connection)}{PATH}")
        (layer,) = (node.data_dir / "layers").glob("python-*")
        presence = DataDirectory(node.data_dir).presence()
        assert presence is not None
        assert presence.socket is not None
        yield Place(server=node, runtime=layer / "env", socket=Path(presence.socket))


def ask(connection: http.client.HTTPConnection, path: str) -> bytes:
    """Make one request and give its answer."""
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {body!r}")
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """A program that a person started with bubblewrap and uvicorn."""

    process: subprocess.Popen[bytes]
    socket: Path


@contextlib.contextmanager
def by_hand(runtime: Path, text: str = PROGRAM, *, wait: bool = True) -> Iterator[ByHand]:
    """Start a program under bubblewrap and uvicorn, with the settings and packages that the node uses."""
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as temporary:
        folder = Path(temporary)
        (folder / "code").mkdir()
        (folder / "run").mkdir()
        (folder / "code" / "main.py").write_text(text)
        python = python_runtime(runtime)
        words = f"""
            bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --uid 0 --gid 0 --clearenv
            --setenv PATH {python.bin}:/usr/bin:/bin --setenv HOME /root --setenv LANG C.UTF-8
            --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64
            --proc /proc --dev /dev --tmpfs /tmp --tmpfs /root --bind {folder} /bench --chdir /bench/code
        """.split()
        mounts = [word for mount in python.mounts for word in ("--ro-bind", str(mount.source), mount.target)]
        server = ("-m", "uvicorn", "main:app", "--uds", "/bench/run/socket", "--http", "httptools", "--loop", "uvloop")
        quiet = ("--no-access-log", "--log-level", "critical")
        command = [*words, *mounts, python.python, *server, *quiet]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                path = folder / "run" / "socket"
                if wait:
                    await_answer(path)
                yield ByHand(process=process, socket=path)
            finally:
                process.terminate()
                process.wait(30)


def await_answer(path: Path) -> None:
    """Wait until a socket answers, looking as often as a script can."""
    while True:
        with contextlib.suppress(OSError), contextlib.closing(UnixConnection(path)) as connection:
            assert ask(connection, PATH) == ANSWER
            return
        time.sleep(0.005)


class _Caller(asyncio.Protocol):
    """One connection that asks again as soon as it has an answer."""

    def __init__(self, request: bytes, until: float) -> None:
        self._request, self._until = request, until
        self.times: list[float] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._begun = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(ANSWER):
            return
        assert self._got.startswith(b"HTTP/1.1 200"), self._got
        now = time.perf_counter()
        self.times.append(now - self._begun)
        self._got = b""
        if now < self._until:
            self._ask()
        else:
            self.over.set_result(None)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(error or ConnectionError("it was closed"))


async def load(path: Path, target: str, *, connections: int, seconds: float) -> list[float]:
    """Ask over and over on several connections; give how long each request took, in seconds."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    callers = []
    for _ in range(connections):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        sock.setblocking(False)
        _, caller = await loop.create_unix_connection(lambda: _Caller(request, until), sock=sock)
        callers.append(caller)
    await asyncio.gather(*(caller.over for caller in callers))
    return [each for caller in callers for each in caller.times]
