"""What programs find on their socket (contract, sections 2.8 and 4.4).

Items 24 and 47 of the acceptance checklist (section 8), over real Unix sockets.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from moorage.networks.aleph.facade.app import Facade
from moorage.networks.aleph.guest import cache as caching
from moorage.networks.aleph.guest import server as serving
from moorage.networks.aleph.guest.api import GuestApi
from moorage.networks.aleph.guest.cache import WEEK, Cache
from moorage.networks.aleph.guest.server import GuestServer
from moorage.networks.aleph.key import NodeKey
from moorage.networks.aleph.messages.hashes import host_label, sha256
from tests.aleph import Desk, Wallet, opened

pytestmark = pytest.mark.anyio

OWNER, OTHER, NODE = Wallet(1), Wallet(2), Wallet(3)
CODE = b"app = None"
API = {"aleph_api": True}


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class Node:
    """A ledger, and what serves its programs."""

    desk: Desk
    server: GuestServer
    clock: Clock
    directory: Path

    async def program(self, owner: Wallet = OWNER, **environment: bool) -> str:
        code = await self.desk.file(CODE)
        message = owner.program(code, environment=environment, metadata={"n": len(self.desk.changes)})
        assert await self.desk.take(message) == "processed"
        return str(message["item_hash"])

    async def amend(self, original: str, **environment: bool) -> str:
        message = OWNER.program(sha256(CODE), environment=environment, replaces=original, time=2000.0)
        assert await self.desk.take(message) == "processed"
        return str(message["item_hash"])

    @contextlib.asynccontextmanager
    async def socket(self, program: str) -> AsyncIterator[Path]:
        path = self.directory / f"{program[:8]}.sock"
        with listening(path) as listener:
            async with self.server.serve(listener, program):
                yield path

    @contextlib.asynccontextmanager
    async def guest(self, program: str) -> AsyncIterator[httpx.AsyncClient]:
        async with self.socket(program) as path, client(path) as guest:
            yield guest


def listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener


def client(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://localhost")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    clock = Clock()
    async with opened(tmp_path) as desk:
        cache = Cache.open(tmp_path, clock=clock)
        facade = Facade(desk.publisher, desk.ledger, desk.blobs)
        api = GuestApi(facade, desk.publisher, desk.ledger, desk.blobs, key=NodeKey(NODE.key), cache=cache)
        yield Node(desk=desk, server=GuestServer(api), clock=clock, directory=tmp_path)
        await cache.close()


def message(address: str, *, kind: str = "POST", text: str | None = None, **fields: Any) -> dict[str, Any]:
    """Give a message as the SDK has it signed."""
    content = text or json.dumps({"address": address, "time": 1.0, "type": "note", "content": {"x": 1}})
    return {
        "chain": "ETH", "type": kind, "channel": "TEST", "time": 1.0, "item_type": "inline",
        "item_content": content, "item_hash": sha256(content), "content": json.loads(content), **fields,
    }  # fmt: skip


async def published(guest: httpx.AsyncClient, document: dict[str, Any]) -> httpx.Response:
    nine = {key: value for key, value in document.items() if key != "content"}
    return await guest.post("/api/v0/messages", json={"sync": True, "message": nine})


# The signature


async def test_the_account_is_that_of_the_node(node: Node) -> None:
    async with node.guest(await node.program(**API)) as guest:
        properties = (await guest.get("/properties")).json()
    assert properties == {
        "chain": "ETH",
        "curve": "secp256k1",
        "address": NODE.address,
        "public_key": f"0x{NodeKey(NODE.key).public.hex()}",
    }
    assert len(properties["public_key"]) == 68


@pytest.mark.parametrize("name", [str, host_label])
async def test_a_message_in_the_name_of_the_program_is_signed_and_published(
    node: Node, name: Callable[[str], str]
) -> None:
    program = await node.program(**API)
    unsigned = message(name(program))
    async with node.guest(program) as guest:
        answer = await guest.post("/sign", json=unsigned)
        signed = answer.json()
        assert (answer.status_code, signed["sender"]) == (200, NODE.address)
        assert {**signed, "sender": 0, "signature": 0} == {**unsigned, "sender": 0, "signature": 0}
        assert (await published(guest, signed)).json()["message_status"] == "processed"
        shown = (await guest.get(f"/api/v0/messages/{signed['item_hash']}")).json()
    assert shown["message"]["content"]["address"] == name(program)


async def test_what_a_program_had_signed_is_published_by_no_other_way(node: Node) -> None:
    program, other = await node.program(**API), await node.program(**API)
    async with node.guest(program) as guest:
        signed = (await guest.post("/sign", json=message(program))).json()
    async with node.guest(other) as guest:
        assert (await published(guest, signed)).json()["error_code"] == 2
    assert await node.desk.take({key: value for key, value in signed.items() if key != "content"}) == "rejected"


async def test_a_content_that_is_stored_is_signed_for_the_address_in_it(node: Node) -> None:
    program = await node.program(**API)
    async with node.guest(program) as guest:
        for address, status in ((program, 200), (OTHER.address, 400)):
            content = {"address": address, "time": 1.0, "type": "note", "content": "x" * 60_000}
            stored = (await guest.post("/api/v0/storage/add_json", json=content)).json()["hash"]
            large = message(address, item_type="storage", item_hash=stored, item_content=None)
            answer = await guest.post("/sign", json=large)
            assert answer.status_code == status
            if status == 200:
                assert (await published(guest, answer.json())).json()["message_status"] == "processed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_content": None}, "item_content"),
        ({"item_hash": "ab" * 32}, "item_hash"),
        ({"sender": OTHER.address}, "sender"),
        ({"chain": "SOL"}, "chain"),
        ({"type": "POST\nx"}, "type"),
        ({"type": "POST", "item_hash": "ab" * 32, "item_type": "storage", "item_content": None}, "address"),
    ],
)
async def test_what_is_not_the_programs_own_message_is_not_signed(
    node: Node, change: dict[str, Any], reason: str
) -> None:
    program = await node.program(**API)
    async with node.guest(program) as guest:
        answer = await guest.post("/sign", json={**message(program), **change})
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


async def test_another_address_is_refused_in_the_words_of_the_network(node: Node) -> None:
    async with node.guest(await node.program(**API)) as guest:
        for address in (OTHER.address, NODE.address, "ab" * 32):
            answer = await guest.post("/sign", json=message(address))
            assert answer.status_code == 400
            assert answer.json() == {"error": "Message address does not match VM item_hash"}


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{", b"\xff", b'{"sender": []}', b"[" * 100_000])
async def test_what_is_no_message_is_not_signed(node: Node, content: bytes) -> None:
    async with node.guest(await node.program(**API)) as guest:
        answer = await guest.post("/sign", content=content)
    assert answer.status_code in {400, 422}
    assert list(answer.json()) == ["error"]


# The cache


async def test_values_are_kept_byte_by_byte(node: Node) -> None:
    async with node.guest(await node.program()) as guest:
        for value in (b"", b"\x00\xff\n", b"x" * 1_000_000):
            answer = await guest.put("/cache/key", content=value)
            assert (answer.status_code, answer.json()) == (200, True)
            answer = await guest.get("/cache/key")
            assert (answer.status_code, answer.content) == (200, value)


async def test_a_value_is_deleted_once(node: Node) -> None:
    async with node.guest(await node.program()) as guest:
        await guest.put("/cache/key", content=b"")
        assert [(await guest.delete("/cache/key")).text for _ in range(2)] == ["1", "0"]
        answer = await guest.get("/cache/key")
    assert (answer.status_code, answer.json()) == (404, {"error": "No such key in cache"})


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("*", ["a_1", "a_2", "b", "ü"]), ("a_?", ["a_1", "a_2"]), ("*2", ["a_2"]), ("?", ["b", "ü"]), ("^b", [])],
)
async def test_keys_are_listed_by_pattern(node: Node, pattern: str, found: list[str]) -> None:
    async with node.guest(await node.program()) as guest:
        for key in ("b", "a_2", "a_1", "ü"):
            await guest.put(f"/cache/{key}", content=b"1")
        assert (await guest.get("/cache/")).json() == ["a_1", "a_2", "b", "ü"]
        assert (await guest.get("/cache/", params={"pattern": pattern})).json() == found


@pytest.mark.parametrize("key", ["a-b", "a.b", "a/b", "%20", "a%0A", "a%2Fb", "x" * 513])
async def test_a_key_is_a_word(node: Node, key: str) -> None:
    async with node.guest(await node.program()) as guest:
        for method in ("GET", "PUT", "DELETE"):
            answer = await guest.request(method, f"/cache/{key}")
            assert (answer.status_code, answer.json()) == (400, {"error": "Invalid key"})


@pytest.mark.parametrize("pattern", ["", "[ab]", "a.b", "a\n"])
async def test_a_pattern_has_no_other_signs(node: Node, pattern: str) -> None:
    async with node.guest(await node.program()) as guest:
        answer = await guest.get("/cache/", params={"pattern": pattern})
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid key"})


async def test_a_value_expires_after_a_week(node: Node) -> None:
    async with node.guest(await node.program()) as guest:
        await guest.put("/cache/key", content=b"1")
        node.clock.now += WEEK - 1
        assert (await guest.get("/cache/key")).status_code == 200
        node.clock.now += 1
        assert (await guest.get("/cache/key")).status_code == 404
        assert (await guest.get("/cache/")).json() == []
        assert (await guest.delete("/cache/key")).json() == 0


async def test_programs_do_not_see_the_values_of_others(node: Node) -> None:
    one, other = await node.program(), await node.program()
    async with node.guest(one) as here, node.guest(other) as there:
        await here.put("/cache/key", content=b"1")
        assert (await there.get("/cache/key")).status_code == 404
        assert (await there.get("/cache/")).json() == []


async def test_programs_of_an_owner_share_a_cache_if_they_want_to(node: Node) -> None:
    programs = [await node.program(owner, shared_cache=True) for owner in (OWNER, OWNER, OTHER)]
    async with node.guest(programs[0]) as one, node.guest(programs[1]) as two, node.guest(programs[2]) as foreign:
        await one.put("/cache/key", content=b"1")
        assert (await two.get("/cache/key")).content == b"1"
        assert (await foreign.get("/cache/key")).status_code == 404


async def test_the_versions_of_a_program_have_one_cache(node: Node) -> None:
    program = await node.program()
    async with node.guest(program) as old, node.guest(await node.amend(program)) as new:
        await old.put("/cache/key", content=b"1")
        assert (await new.get("/cache/key")).content == b"1"


async def test_the_cache_outlives_the_node(tmp_path: Path) -> None:
    cache = Cache.open(tmp_path)
    await cache.put("space", "key", b"1")
    await cache.close()
    cache = Cache.open(tmp_path)
    assert await cache.get("space", "key") == b"1"
    await cache.close()


async def test_values_and_name_spaces_have_limits(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "MAX_SPACE", 2 * (caching.ENTRY + 3))
    monkeypatch.setattr("moorage.networks.aleph.guest.api.MAX_VALUE", 2)
    async with node.guest(await node.program()) as guest, node.guest(await node.program()) as other:
        assert (await guest.put("/cache/a", content=b"123")).status_code == 413
        assert (await guest.put("/cache/a", content=b"12")).status_code == 200
        assert (await guest.put("/cache/b", content=b"12")).status_code == 200
        answer = await guest.put("/cache/c", content=b"")
        assert (answer.status_code, answer.json()) == (507, {"error": "The cache of this program is full"})
        assert (await guest.put("/cache/b", content=b"21")).status_code == 200
        assert (await other.put("/cache/c", content=b"12")).status_code == 200
        node.clock.now += WEEK
        assert (await guest.put("/cache/c", content=b"")).status_code == 200


# The network's API


async def test_without_the_api_there_is_the_cache_alone(node: Node) -> None:
    async with node.socket(await node.program()) as path, client(path) as guest:
        for method, route in (
            ("GET", "/properties"),
            ("POST", "/sign"),
            ("GET", "/api/v0/messages.json"),
            ("POST", "/api/v0/ipfs/pubsub/pub"),
            ("GET", "/nowhere"),
            ("GET", "/cached"),
        ):
            answer = await guest.request(method, route)
            assert (answer.status_code, answer.json()) == (
                403,
                {"error": "aleph_api is not enabled for this program"},
            )
        assert (await guest.get("/cache/")).json() == []
        with pytest.raises(InvalidStatus, match="403"):
            await unix_connect(str(path), "ws://localhost/api/ws0/messages")


async def test_reads_and_uploads_go_to_the_networks_api(node: Node) -> None:
    async with node.guest(await node.program(**API)) as guest:
        stored = (await guest.post("/api/v0/storage/add_file", content=b"data")).json()["hash"]
        assert (await guest.get(f"/api/v0/storage/raw/{stored}")).content == b"data"
        assert (await guest.get("/api/v0/messages.json")).json()["pagination_total"] == 1
        assert (await guest.get("/nowhere")).status_code == 404
        assert (await guest.post("/properties")).status_code == 405


async def test_messages_come_over_a_websocket(node: Node) -> None:
    async with (
        node.socket(await node.program(**API)) as path,
        unix_connect(str(path), "ws://localhost/api/ws0/messages?history=1") as messages,
    ):
        assert json.loads(await messages.recv())["type"] == "PROGRAM"
        await node.desk.take(OWNER.post({"x": 1}))
        assert json.loads(await messages.recv())["content"]["content"] == {"x": 1}


@pytest.mark.parametrize("route", ["ipfs", "p2p"])
@pytest.mark.parametrize("write", [json.dumps, lambda document: document])
async def test_what_is_published_by_topic_becomes_a_post_of_the_program(node: Node, route: str, write: Any) -> None:
    program = await node.program(**API)
    old = {"type": "POST", "item_content": json.dumps({"type": "note", "content": {"x": 1}, "address": "0x0"})}
    async with node.guest(program) as guest:
        answer = await guest.post(f"/api/v0/{route}/pubsub/pub", json={"topic": "T", "data": write(old)})
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    shown = node.desk.changes[-1].message
    assert (shown["type"], shown["sender"]) == ("POST", NODE.address)
    content = shown["content"]
    assert isinstance(content, dict)
    assert (content["address"], content["type"], content["content"]) == (program, "note", {"x": 1})


async def test_data_that_is_no_message_becomes_the_content_of_one(node: Node) -> None:
    async with node.guest(await node.program(**API)) as guest:
        await guest.post("/api/v0/ipfs/pubsub/pub", json={"topic": "T", "data": '{"x": 1}'})
        for wrong in ([], {"topic": "T", "data": {"item_content": "1"}}):
            answer = await guest.post("/api/v0/ipfs/pubsub/pub", json=wrong)
            assert (answer.status_code, list(answer.json())) == (422, ["error"])
        await guest.post("/api/v0/ipfs/pubsub/pub", json={"topic": "T", "data": "{no JSON"})
    contents: list[Any] = [change.message["content"] for change in node.desk.changes[-2:]]
    assert [(each["type"], each["content"]) for each in contents] == [("T", {"x": 1}), ("T", "{no JSON")]


async def test_a_program_that_is_forgotten_is_told_so(node: Node) -> None:
    program = await node.program(**API)
    async with node.guest(program) as guest:
        await node.desk.take(OWNER.forget({"item_hash": program}))
        answer = await guest.get("/cache/")
    assert (answer.status_code, answer.json()) == (410, {"error": f"Program {program} has been forgotten"})


# The server


class Busy:
    """An application that works on a request until it is told that the client is gone, or hears nothing."""

    def __init__(self, *, deaf: bool) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self._deaf = deaf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        try:
            await receive()
            assert (await receive())["type"] == "http.disconnect"
            if self._deaf:
                await asyncio.Event().wait()
        finally:
            self.left.set()


@pytest.mark.parametrize("deaf", [False, True])
async def test_serving_ends_though_requests_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    monkeypatch.setattr(serving, "GRACE", 0.1)
    busy = Busy(deaf=deaf)
    async with asyncio.timeout(5):
        with listening(tmp_path / "s") as listener:
            async with client(tmp_path / "s") as guest:
                async with GuestServer(busy).serve(listener, "ab"):
                    asking = asyncio.ensure_future(guest.get("/"))
                    await busy.asked.wait()
                with pytest.raises(httpx.TransportError):
                    await asking
        await busy.left.wait()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(tmp_path / "s")


async def read_all(path: Path, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        with contextlib.suppress(OSError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        with contextlib.suppress(OSError):
            return await reader.read()
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\na: ",
        b"GET /",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100 + b"c: ",
        b"POST /cache/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ",
    ],
)
async def test_an_endless_head_is_broken_off(node: Node, head: bytes) -> None:
    async with asyncio.timeout(10):
        async with node.socket(await node.program()) as path:
            await read_all(path, head, *[b"x" * 65536] * 100)
            async with client(path) as guest:
                assert (await guest.get("/cache/")).status_code == 200


async def test_garbage_leaves_nothing_in_the_nodes_log(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async with node.socket(await node.program()) as path:
        assert (await read_all(path, b"garbage\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert not caplog.records


async def test_connections_are_counted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 2)
    async with node.socket(await node.program()) as path:
        kept = [await asyncio.open_unix_connection(path) for _ in range(2)]
        assert await read_all(path, b"GET /cache/ HTTP/1.1\r\nhost: x\r\n\r\n") == b""
        for _, writer in kept:
            writer.close()
            await writer.wait_closed()
        async with client(path) as guest:
            assert (await guest.get("/cache/")).status_code == 200


async def test_many_programs_are_served_at_once(node: Node) -> None:
    async with contextlib.AsyncExitStack() as stack:
        program = await node.program()
        for n in range(100):
            listener = stack.enter_context(listening(node.directory / str(n)))
            await stack.enter_async_context(node.server.serve(listener, program))
        for n in (0, 99):
            async with client(node.directory / str(n)) as guest:
                assert (await guest.get("/cache/")).json() == []
