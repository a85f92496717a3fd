"""A real node with programs published to it, over HTTP, as its clients do."""

import contextlib
import io
import itertools
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.aleph import Wallet, program
from tests.serving import Served, serving

T = TypeVar("T")

RAW = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""
_moments = itertools.count(2000)


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    """Make a zip of files; those whose names end in `*` are executable."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name.removesuffix("*"))
            info.external_attr = (0o100755 if name.endswith("*") else 0o100644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlephNode:
    """A node and a client of it."""

    served: Served
    client: httpx.Client
    wallet: Wallet = field(default_factory=Wallet)

    @property
    def surface(self) -> Any:
        """What the network runs in the node."""
        return self.served.node.networks["aleph"]._served  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        return self.served.url

    def publish(self, message: Mapping[str, Any], *, expect: int = 200) -> str:
        """Publish a message; give its hash."""
        answer = self.client.post("/api/v0/messages", json={"sync": True, "message": dict(message)})
        assert answer.status_code == expect, answer.text
        return str(message["item_hash"])

    def file(self, data: bytes, **rest: Any) -> str:
        """Store a file and publish its STORE; give the hash of that."""
        stored = self.client.post("/api/v0/storage/add_file", content=data)
        assert stored.status_code == 200, stored.text
        return self.publish(self.wallet.store(stored.json()["hash"], time=self.now(), **rest))

    def now(self) -> float:
        """Give a moment that is later than all before, so that no two messages have the same hash."""
        return float(next(_moments))

    def deploy(
        self,
        code: str | bytes | Mapping[str, str | bytes] = RAW,
        *,
        entrypoint: str = "main:app",
        encoding: str | None = None,
        more: Mapping[str, Any] | None = None,
        **content: Any,
    ) -> str:
        """Publish a program: text is plain code, bytes are an archive, files are zipped; give its hash.

        `more` goes into `code`; `content` into the message.
        """
        if isinstance(code, Mapping):
            code, encoding = zipped(code), encoding or "zip"
        data = code.encode() if isinstance(code, str) else code
        ref = self.file(data)
        body = program(ref, time=self.now(), **{"resources": {"seconds": 20, "memory": 256}, **content})
        body["code"] |= {"encoding": encoding or "plain", "entrypoint": entrypoint, **(more or {})}
        return self.publish(self.wallet.message("PROGRAM", body))

    def get(self, item_hash: str, path: str = "/", **rest: Any) -> httpx.Response:
        """Ask a program."""
        return self.client.get(f"/vm/{item_hash}{path}", **rest)

    def log(self, item_hash: str) -> list[Any]:
        """Give the lines of a program's log, of all its versions."""
        return self.surface.registry.log_of(item_hash).lines()  # type: ignore[no-any-return]

    def until(self, found: Callable[[], T], within: float = 30.0) -> T:
        """Wait until something is so, and give what was found."""
        deadline = time.monotonic() + within
        while not (result := found()):
            assert time.monotonic() < deadline, f"not so after {within} s"
            time.sleep(0.01)
        return result

    def instance(self, item_hash: str) -> Any:
        """Give what runs a program, as the node's own loop knows it."""
        return self.served.portal.call(self.surface.registry.find, item_hash)

    def processes(self) -> list[str]:
        """List the keys of programs that run."""
        states = self.served.node.services.states()
        return [each.key for each in states if each.key.startswith("aleph:") and each.state == "ready"]

    def processes_of(self, item_hash: str) -> list[str]:
        """List the keys under which a version of a program runs: several, while one ends."""
        return [key for key in self.processes() if key.startswith(f"aleph:{item_hash}@")]


@contextlib.contextmanager
def aleph_node(
    data_dir: Path, *, layers: Path | None = None, config: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[AlephNode]:
    """Run a node; `layers` is a directory shared with others, so that the runtime is built once.

    `config` is the node's own, `settings` are the network's.
    """
    share_layers(data_dir, layers)
    with (
        serving(data_dir, networks={"aleph": settings}, **(config or {})) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        yield AlephNode(served=served, client=client)


def share_layers(data_dir: Path, layers: Path | None) -> None:
    """Let a node that is to be use the layers of others."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if layers is not None and not (data_dir / "layers").exists():
        layers.mkdir(parents=True, exist_ok=True)
        (data_dir / "layers").symlink_to(layers)
