"""Messages as clients of the network make them, and a ledger to publish them in."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal

from moorage.blobs.local import LocalBlobs
from moorage.networks.aleph.facade.app import Facade
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Change, Publisher
from moorage.networks.aleph.ledger.records import File
from moorage.networks.aleph.messages.hashes import sha256
from moorage.networks.aleph.messages.signatures import address_of, sign_evm, signed_bytes

RUNTIME = "63f07193e6ee9d207b7d1fcf8286f9aee34e6f12f101d2ec77c1229f92964696"


@dataclass(frozen=True, slots=True)
class Wallet:
    """Signs messages."""

    number: int = 1

    @property
    def key(self) -> bytes:
        return self.number.to_bytes(32)

    @property
    def address(self) -> str:
        return address_of(self.key)

    def signed(self, kind: str, item_hash: str, **fields: Any) -> dict[str, Any]:
        """Give an envelope."""
        content = signed_bytes(chain="ETH", sender=self.address, message_type=kind, item_hash=item_hash)
        signature = sign_evm(self.key, content)
        return {
            "sender": self.address, "chain": "ETH", "signature": signature, "type": kind, "item_hash": item_hash,
            "item_type": "inline", "item_content": None, "time": 1000.0, "channel": "TEST", **fields,
        }  # fmt: skip

    def message(self, kind: str, content: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Give a message with its content inline, as the owner's unless `content` says otherwise."""
        text = json.dumps({"address": self.address, "time": 1000.0, **content}, separators=(",", ":"))
        return self.signed(kind, sha256(text), item_content=text, **fields)

    def post(self, content: Any = None, *, kind: str = "note", **rest: Any) -> dict[str, Any]:
        return self.message("POST", {"type": kind, "content": content, **rest})

    def amend(self, original: Mapping[str, Any], content: Any, **rest: Any) -> dict[str, Any]:
        return self.post(content, kind="amend", ref=original["item_hash"], **rest)

    def aggregate(self, key: str, content: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        return self.message("AGGREGATE", {"key": key, "content": content, **rest})

    def store(self, file: str, **rest: Any) -> dict[str, Any]:
        item_type = "storage" if len(file) == 64 else "ipfs"
        return self.message("STORE", {"item_type": item_type, "item_hash": file, **rest})

    def program(self, code: str, **rest: Any) -> dict[str, Any]:
        return self.message("PROGRAM", program(code, **rest))

    def forget(self, *targets: Mapping[str, Any], aggregates: Iterable[str] = (), **rest: Any) -> dict[str, Any]:
        hashes = [target["item_hash"] for target in targets]
        return self.message("FORGET", {"hashes": hashes, "aggregates": list(aggregates), **rest})


def program(code: str, **rest: Any) -> dict[str, Any]:
    """Give the content of a program in the accepted form, without its owner."""
    return {
        "type": "vm-function", "allow_amend": True, "on": {"http": True}, "environment": {}, "resources": {},
        "code": {"encoding": "plain", "entrypoint": "main:app", "ref": code, "use_latest": False},
        "runtime": {"ref": RUNTIME, "comment": "", "use_latest": True}, **rest,
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A ledger with its publisher, and all that was told of it."""

    ledger: Ledger
    publisher: Publisher
    blobs: LocalBlobs
    changes: list[Change] = field(default_factory=list)

    async def take(self, document: Any, **rest: Any) -> str:
        """Publish a message; give its status."""
        return (await self.publisher.publish(document, **rest)).status

    async def file(self, data: bytes) -> str:
        """Bring a file; give its hash."""
        digest, size = await self.blobs.put_bytes(data)
        await self.publisher.add_file(File(hash=digest, digest=digest, size=size))
        return digest

    def shown(self, item_hash: str) -> dict[str, Any]:
        """Give a message that holds as the API shows it."""
        record = self.ledger.record(item_hash)
        assert record is not None
        assert record.status == "processed"
        return record.shown

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(change.kind, change.item_hash) for change in self.changes]


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Desk]:
    """Open the ledger of a directory, or make it."""
    ledger = Ledger.open(directory / "ledger")
    blobs = LocalBlobs(directory / "blobs", owner=None)
    desk = Desk(ledger=ledger, publisher=Publisher(ledger, blobs), blobs=blobs)
    desk.publisher.listen(desk.changes.append)
    try:
        yield desk
    finally:
        await ledger.close()


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application on a port that the kernel chooses; give its URL."""
    config = uvicorn.Config(app, ws="websockets-sansio", lifespan="off", log_config=None, timeout_graceful_shutdown=5)
    server, sock = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await server.shutdown(sockets=[sock])


@contextlib.asynccontextmanager
async def _facade(directory: Path) -> AsyncIterator[tuple[Desk, str]]:
    async with opened(directory) as desk, served(Facade(desk.publisher, desk.ledger, desk.blobs)) as url:
        yield desk, url


@contextlib.contextmanager
def serving_facade(directory: Path) -> Iterator[tuple[BlockingPortal, Desk, str]]:
    """Serve a facade on a port that the kernel chooses, in a thread of its own; give its loop, ledger and URL."""
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(_facade(directory)) as (desk, url),
    ):
        yield portal, desk, url
