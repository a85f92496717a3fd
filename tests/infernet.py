"""A node that serves Infernet containers which tests script: real servers on loopback, in threads of this process."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.serving import Served, serving

WITHIN = 20.0
"""Seconds after which what a test waits for will not come any more."""
HASTY = {"server": {"rate_limit": {"num_requests": 100_000, "period": 1}}}
"""Settings under which tests may ask as often as they like."""

JOB = {"containers": ["a"], "data": {}}
ZERO = "0x" + "0" * 40
DELEGATED: dict[str, Any] = {
    "signature": {"nonce": 7, "expiry": 1800000000, "v": 27, "r": 2**256 - 1, "s": 456},
    "subscription": {
        "owner": "0x" + "Ab" * 20, "active_at": 0, "period": 3, "frequency": 2, "redundancy": 2,
        "containers": "0x" + "61" * 32, "lazy": False, "verifier": ZERO, "payment_amount": 0, "payment_token": ZERO,
        "wallet": ZERO,
    },
    "data": {},
    "requires_proof": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request as a container got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes
    connection: int
    """Tells connections apart."""

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Exchange(BaseHTTPRequestHandler):
    """One request of a container, and what a test does about it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    box: "Container"

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    def _serve(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(method=self.command, path=self.path, headers=headers, body=body, connection=self.client_address[1])
        self.box.note(seen)
        with contextlib.suppress(ConnectionError):
            self.box.answer(self, seen)

    def json(self, value: Any, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), status)

    def reply(self, body: bytes, status: int = 200, media_type: str | None = "application/json", **more: str) -> None:
        self.begin(status, media_type, **{"Content-Length": str(len(body)), **more})
        self.wfile.write(body)

    def begin(self, status: int = 200, media_type: str | None = "application/json", **headers: str) -> None:
        self.send_response(status)
        if media_type is not None:
            self.send_header("Content-Type", media_type)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def stream(self) -> None:
        self.begin(200, "text/plain", **{"Transfer-Encoding": "chunked"})

    def chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def end(self) -> None:
        self.chunk(b"")

    def drop(self) -> None:
        """End the connection after what was sent."""
        self.close_connection = True

    def until_left(self) -> bool:
        """Wait until the other side has closed the connection."""
        self.close_connection = True
        self.connection.settimeout(WITHIN)
        try:
            return self.connection.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def log_message(self, *_: Any) -> None:
        pass


Answer = Callable[[Exchange, Seen], None]


def echo(exchange: Exchange, seen: Seen) -> None:
    """Give what was given, and resources by name."""
    if seen.method == "GET":
        exchange.json({"name": exchange.box.name})
    else:
        exchange.json({"given": seen.document["data"]})


@dataclass
class Container:
    """A container that answers as `answer` says and remembers what it was asked."""

    name: str
    url: str = ""
    answer: Answer = echo
    seen: list[Seen] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    gate: threading.Event = field(default_factory=threading.Event)
    """Lets those go on that `held` keeps."""

    def note(self, seen: Seen) -> None:
        with self.changed:
            self.seen.append(seen)
            self.changed.notify_all()

    def until(self, count: int) -> None:
        """Wait until so many requests have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.seen) >= count, WITHIN), f"{len(self.seen)} of {count} came"

    def held(self, exchange: Exchange, seen: Seen) -> None:
        """Answer as `echo` does, once `gate` is open."""
        self.gate.wait(WITHIN)
        echo(exchange, seen)

    def reset(self) -> None:
        self.gate.set()
        self.gate = threading.Event()
        self.answer = echo
        self.seen.clear()


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of connections that were broken: tests break them."""


@contextlib.contextmanager
def container(name: str) -> Iterator[Container]:
    """Run a container."""
    box = Container(name)
    with _Server(("127.0.0.1", 0), type("Bound", (Exchange,), {"box": box})) as server:
        box.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield box
        finally:
            box.gate.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def containers(*names: str) -> Iterator[dict[str, Container]]:
    """Run several containers."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(container(name)) for name in names}


def free_port() -> int:
    """Give a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings over others, table by table."""
    found = dict(base)
    for key, value in more.items():
        found[key] = (
            merged(found[key], value) if isinstance(value, dict) and isinstance(found.get(key), dict) else value
        )
    return found


@dataclass(kw_only=True)
class Node:
    """A node that serves containers, and one of its clients."""

    served: Served
    client: httpx.Client

    def at(self, address: str, **headers: str) -> httpx.Client:
        """Make a client that asks from another address of loopback."""
        return connected(self.served.url, address, **headers)

    @contextlib.contextmanager
    def raw(self, request: bytes) -> Iterator[socket.socket]:
        """Send a request as it stands."""
        host, port = httpx.URL(self.served.url).host, httpx.URL(self.served.url).port
        with socket.create_connection((host.replace("0.0.0.0", "127.0.0.1"), port), WITHIN) as connection:
            connection.sendall(request)
            try:
                yield connection
            finally:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # whoever else reads from it

    def submit(self, *names: str, **data: Any) -> str:
        """Have a job accepted and give its id."""
        answer = self.client.post("/api/jobs", json={"containers": names, "data": data})
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["id"]
        return found

    def result(self, job_id: str, **query: Any) -> Any:
        """Wait for a job and give all that is told of it."""
        answer = self.client.get("/api/jobs", params={"id": job_id, "wait": WITHIN, **query})
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()
        assert found["status"] != "running"
        return found

    def done(self, *names: str, **data: Any) -> Any:
        """Run a job and give its result."""
        return self.result(self.submit(*names, **data))["result"]


def connected(url: str, address: str | None = None, **headers: str) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=address)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Client(base_url=url.replace("0.0.0.0", "127.0.0.1"), timeout=60, transport=transport, headers=given)


@contextlib.contextmanager
def infernet(
    directory: Path, settings: Sequence[Mapping[str, Any]], *, listen: str = "127.0.0.1", **more: Any
) -> Iterator[Node]:
    """Serve containers from a node on `directory`; `more` are keys at the top of its `config.json`."""
    path = directory / "config.json"
    document = {"manage_containers": False, "containers": settings, **merged(HASTY, more)}
    path.write_text(json.dumps(document))
    with (
        serving(directory / "data", listen=listen, networks={"infernet": {"config": str(path)}}) as served,
        connected(served.url) as client,
    ):
        if document["manage_containers"] is False:
            until(lambda: client.get("/health").status_code == 200)
        yield Node(served=served, client=client)


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def frames(connection: socket.socket) -> Iterator[bytes]:
    """Read an answer: its head, and then each chunk of its body as it was framed; the last one is empty."""
    with connection.makefile("rb") as file:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return
            head += line
        yield head
        while line := file.readline():
            size = int(line, 16)
            yield file.read(size + 2)[:-2]
            if not size:
                return


def golden(answer: httpx.Response, status: int, body: str) -> None:
    """Assert an answer's status and exact bytes."""
    assert (answer.status_code, answer.content) == (status, body.encode() + b"\n")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
