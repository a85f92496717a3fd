"""Websockets, events and the answers of old programs (contract, section 2.6, A24 to A28)."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.aleph_host import ROOT, RUN, Host, hosted

pytestmark = pytest.mark.anyio

SOCKETS = """
import asyncio, json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        scope["state"]["answer"] = 42
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
    elif scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await globals()[scope["path"].strip("/")](scope, receive, send)

async def accept(send, **more):
    await send({"type": "websocket.accept", **more})

async def echo(scope, receive, send):
    await accept(send, subprotocol=scope["subprotocols"][-1], headers=[(b"x-own", b"1")])
    facts = {key: scope[key] for key in ("scheme", "root_path", "client", "server", "state")}
    await send({"type": "websocket.send", "text": json.dumps(facts)})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
    print(event["type"], event["code"], flush=True)

async def close(scope, receive, send):
    await accept(send)
    await send({"type": "websocket.close", "code": 4001, "reason": "enough"})

async def reject(scope, receive, send):
    await send({"type": "websocket.close"})

async def broken(scope, receive, send):
    raise ValueError("a secret")

async def broken_later(scope, receive, send):
    await accept(send)
    raise ValueError("a secret")

async def nothing(scope, receive, send):
    pass

async def late(scope, receive, send):
    await asyncio.sleep(3600)

async def confused(scope, receive, send):
    try:
        await send({"type": "websocket.send", "text": "too early"})
    except RuntimeError:
        await asyncio.sleep(3600)

async def half(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    if scope["query_string"]:
        await asyncio.sleep(3600)

async def patient(scope, receive, send):
    await accept(send)
    await asyncio.sleep(0.5)
    await send({"type": "websocket.send", "text": "still here"})

async def deaf(scope, receive, send):
    await accept(send)
    await receive()
    await send({"type": "websocket.send", "text": "into the void"})
"""


@contextlib.asynccontextmanager
async def socket(host: Host, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """Open a websocket, with the node's header before all others."""

    class Connection(ClientConnection):
        async def handshake(self, *args: Any, **more: Any) -> None:
            self.request = self.protocol.connect()
            headers = [("moorage", f"http {RUN} {ROOT} https 203.0.113.9 4321"), *self.request.headers.raw_items()]
            self.request.headers.clear()
            for name, value in headers:
                self.request.headers[name] = value
            async with self.send_context(expected_state=self.protocol.state):
                self.protocol.send_request(self.request)
            await self.response_rcvd
            if self.protocol.handshake_exc is not None:
                raise self.protocol.handshake_exc

    uri = f"ws://node.example{ROOT}/{path}"
    async with unix_connect(str(host.path), uri, create_connection=Connection, compression=None, **options) as opened:
        yield opened


async def test_websockets_pass_text_and_bytes_both_ways(tmp_path: Path) -> None:
    async with hosted(tmp_path, SOCKETS) as host:
        async with socket(host, "echo", subprotocols=["a", "b"]) as client:
            facts = json.loads(await client.recv())
            for message in ("hello", b"\x00\xff", "x" * 100_000):
                await client.send(message)
                assert await client.recv() == message
            await client.close(4002)
        assert await host.line("out", "disconnect") == f"\x1e{RUN}\x1fwebsocket.disconnect 4002\n"
    assert (client.subprotocol, client.response and client.response.headers["x-own"]) == ("b", "1")
    assert facts == {
        "scheme": "wss",
        "root_path": ROOT,
        "client": ["203.0.113.9", 4321],
        "server": ["node.example", 443],
        "state": {"answer": 42},
    }


@pytest.mark.parametrize(("path", "code", "reason"), [("close", 4001, "enough"), ("broken_later", 1011, "")])
async def test_the_client_is_told_how_a_websocket_ends(tmp_path: Path, path: str, code: int, reason: str) -> None:
    async with hosted(tmp_path, SOCKETS) as host, socket(host, path) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


@pytest.mark.parametrize(
    ("path", "status", "error", "word"),
    [
        ("reject", 403, None, ""),
        ("broken", 500, "exception", "Traceback withheld"),
        ("nothing", 500, "no-response", "Program returned without sending a response"),
        ("late", 504, "timeout", "Program did not respond within `resource.seconds`"),
        ("confused", 504, "timeout", "Program did not respond within `resource.seconds`"),
        ("half", 418, None, ""),
        ("half?late", 418, None, ""),
    ],
)
async def test_a_websocket_that_is_not_accepted_is_answered_as_a_request_is(
    tmp_path: Path, path: str, status: int, error: str | None, word: str
) -> None:
    async with hosted(tmp_path, SOCKETS, seconds=0.2) as host:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(host, path):
                pass
        async with socket(host, "close"):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers.get("moorage-error")) == (status, error)
    assert word in (response.body or b"").decode()


@pytest.mark.parametrize(
    "more", ["cookie: " + "a" * 9000, "\n".join(f"x-{n}: 1" for n in range(130)), "content-length: 3\n\nabc"]
)
async def test_a_head_that_is_none_of_a_websocket_is_refused_at_once(tmp_path: Path, more: str) -> None:
    async with hosted(tmp_path, SOCKETS) as host:
        reader, _ = await host.raw(
            "GET /echo\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\n"
            f"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\n{more}"
        )
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 400 ")
        assert await host.stop() == 0
    assert host.lines["err"] == []


async def test_the_time_limit_is_for_the_acceptance_only(tmp_path: Path) -> None:
    async with hosted(tmp_path, SOCKETS, seconds=0.2) as host, socket(host, "patient") as client:
        assert await client.recv() == "still here"


async def test_a_client_that_leaves_is_no_failure_of_the_program(tmp_path: Path) -> None:
    async with hosted(tmp_path, SOCKETS) as host:
        async with socket(host, "deaf"):
            pass
        assert await host.stop() == 0
    assert host.lines["err"] == []


# Events

EVENTS = """
import asyncio, json

async def app(scope, receive, send):
    assert scope["type"] == "aleph.message", scope["type"]
    event = await receive()
    kind = json.loads(scope["body"])["kind"]
    if kind == "late":
        await asyncio.sleep(3600)
    if kind == "broken":
        raise ValueError("a secret")
    if kind == "known":
        print("it is known", flush=True)
        await send({"scope": {key: scope[key] for key in ("type", "asgi", "body", "state")}, "event": event})
        await send({"second": True})
    if kind == "odd":
        await send(None)
        await send({"odd": b"bytes"})
    if kind == "keys":
        await send({b"odd": 1})
"""


async def test_a_message_is_in_the_scope_and_is_received_and_the_first_object_is_the_result(tmp_path: Path) -> None:
    body = json.dumps({"kind": "known", "text": "ü"}, ensure_ascii=False)
    async with hosted(tmp_path, EVENTS) as host:
        answer = await host.event(body)
        assert await host.line("out", "known") == f"\x1e{RUN}\x1fit is known\n"
    versions = {"version": "3.0", "spec_version": "2.0"}
    assert answer.json() == {
        "result": {
            "scope": {"type": "aleph.message", "asgi": versions, "body": body, "state": {}},
            "event": {"type": "aleph.message", "body": body, "more_body": False},
        }
    }


@pytest.mark.parametrize(("kind", "result"), [("quiet", None), ("odd", {"odd": "b'bytes'"}), ("keys", "{b'odd': 1}")])
async def test_an_event_may_have_no_result_or_one_that_is_no_json(tmp_path: Path, kind: str, result: object) -> None:
    async with hosted(tmp_path, EVENTS) as host:
        answer = await host.event(json.dumps({"kind": kind}))
    assert (answer.status_code, answer.json()) == (200, {"result": result})


@pytest.mark.parametrize(("kind", "status", "error"), [("broken", 500, "exception"), ("late", 504, "timeout")])
async def test_the_node_is_told_how_an_event_failed(tmp_path: Path, kind: str, status: int, error: str) -> None:
    async with hosted(tmp_path, EVENTS, seconds=0.2) as host:
        answer = await host.event(json.dumps({"kind": kind}))
    assert (answer.status_code, answer.headers["moorage-error"]) == (status, error)


SDK = """
import json

class AlephApp:
    def __init__(self, http_app=None):
        self.http_app, self.handler = http_app, None

    def event(self, filters):
        def register(handler):
            self.handler = handler
            return handler
        return register

    async def __call__(self, scope, receive=None, send=None):
        if scope["type"] in ("http", "websocket", "lifespan"):
            return await self.http_app(scope=scope, receive=receive, send=send)
        async def later():
            await send(await self.handler(event=scope))
        return later()

    def __getattr__(self, name):
        return getattr(self.http_app, name)
"""
HANDLER = """
import json
from fastapi import FastAPI
from aleph_sdk import AlephApp

http = FastAPI()
app = AlephApp(http_app=http)

@app.get("/")
async def index():
    return seen

seen = []

@app.event(filters=[{"channel": "TEST"}])
async def handle(event):
    seen.append(json.loads(event["body"])["number"])
    return {"seen": len(seen)}
"""


async def test_a_handler_of_the_sdk_is_awaited_although_its_application_only_returns_it(tmp_path: Path) -> None:
    async with hosted(tmp_path, HANDLER, packages={"aleph_sdk.py": SDK}) as host:
        ready = await host.get(kind="ready")
        assert (await host.event('{"number": 7}')).json() == {"result": {"seen": 1}}
        assert (await host.get()).json() == [7]
    assert ready.json() == {"asgi": True, "lifespan": True, "framework": "fastapi"}


# Answers of the first draft


@pytest.mark.parametrize(
    ("events", "kind", "body"),
    [
        ([{"output": "hola!"}], "text/plain; charset=utf-8", b"hola!"),
        ([{"output": "ho"}, {"output": "la!"}], "text/plain; charset=utf-8", b"hola!"),
        ([{"output": b"\x00"}, {"output": b"\xff"}], "application/octet-stream", b"\x00\xff"),
        ([{"output": {"a": [1, None]}}], "application/json", b'{"a": [1, null]}'),
        ([{"output": None}], "application/json", b"null"),
        ([{"output_data": b"x"}], "text/plain; charset=utf-8", b""),
    ],
)
async def test_an_output_is_an_answer(tmp_path: Path, events: list[object], kind: str, body: bytes) -> None:
    code = f"async def application(scope, receive, send):\n    for event in {events!r}:\n        await send(event)"
    async with hosted(tmp_path, code, entrypoint="application", module="main") as host:
        answer = await host.get()
        assert (await host.get(kind="ready")).json()["lifespan"] is False
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, kind, body)


async def test_output_data_comes_beside_the_answer_unless_it_is_too_long(tmp_path: Path) -> None:
    code = """
async def app(scope, receive, send):
    await send({"output": "ok", "output_data": bytes(range(256)) * int(scope["path"].strip("/"))})
""".replace('scope["path"]', 'scope.get("path", "0")')
    async with hosted(tmp_path, code) as host:
        kept, dropped = await host.get("/128"), await host.get("/129")
        assert "33024 bytes" in await host.line("err", "output data")
    assert base64.b64decode(kept.headers["moorage-output-data"]) == bytes(range(256)) * 128
    assert "moorage-output-data" not in dropped.headers
    assert kept.text == dropped.text == "ok"
