"""How requests reach programs and how their answers come back (contract, section 2.6, A8 to A17)."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.aleph_host import hosted

pytestmark = pytest.mark.anyio

MIB = 2**20
SIZES = [0, 1, 200_000, 250_000, MIB + 1, 50 * MIB]

COPY = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    pieces, more = [], True
    while more:
        event = await receive()
        assert event["type"] == "http.request", event
        pieces.append(event["body"])
        more = event["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})
"""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_of_any_size_pass_both_ways_unchanged(tmp_path: Path, size: int, chunked: bool) -> None:
    block = bytes(range(256)) * 257
    body = (block * (size // len(block) + 1))[:size]

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 99_991):
            yield body[start : start + 99_991]

    async with hosted(tmp_path, COPY) as host:
        client = await host.client(timeout=60)
        answer = await client.post("/", content=pieces() if chunked else body)
        again = await client.post("/", content=b"again")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(body).digest()
    assert again.content == b"again"


async def test_a_program_that_reads_slowly_holds_back_the_client(tmp_path: Path) -> None:
    code = """
import resource
async def app(scope, receive, send):
    if scope["type"] == "http":
        before, size, more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, True
        while more:
            event = await receive()
            size, more = size + len(event["body"]), event["more_body"]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{size} {grown < 16 * 1024}".encode()})
"""
    async with hosted(tmp_path, code) as host:
        client = await host.client(timeout=60)
        answer = await client.post("/", content=bytes(64 * MIB))
    assert answer.text == f"{64 * MIB} True"


STREAM = """
import asyncio
go = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/go":
        go.set()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/late":
        await go.wait()
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await go.wait()
    for piece in (b"", b" second", b" third"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
"""


async def test_each_piece_of_an_answer_comes_when_it_is_sent(tmp_path: Path) -> None:
    async with hosted(tmp_path, STREAM) as host:
        client = await host.client()
        async with client.stream("GET", "/") as answer, client.stream("GET", "/late") as late:
            pieces, later = answer.aiter_raw(), late.aiter_raw()  # the head of the second is here, without a body
            assert await anext(pieces) == b"first"
            await client.get("/go")
            assert b"".join([each async for each in pieces]) == b" second third"
            assert b"".join([each async for each in later]) == b"first second third"
    assert answer.headers == late.headers == {"transfer-encoding": "chunked"}


WATCH = """
import asyncio
left, kinds = asyncio.Event(), []

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/wait":
        await left.wait()
    else:
        await receive()
        waiting = asyncio.ensure_future(receive())
        if scope["path"] == "/leave":
            print("waiting", flush=True)
            kinds.append((await waiting)["type"])
            left.set()
            return
        await asyncio.sleep(0.05)
        kinds.append(waiting.done())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(kinds).encode()})
    if scope["path"] == "/":
        kinds.append((await waiting)["type"])
"""


async def test_after_the_body_a_program_waits_until_its_answer_is_complete(tmp_path: Path) -> None:
    async with hosted(tmp_path, WATCH) as host:
        assert (await host.get("/")).text == "[False]"
        assert (await host.get("/")).text == "[False, 'http.disconnect', False]"


async def test_a_program_sees_that_its_client_leaves_and_serves_others(tmp_path: Path) -> None:
    async with hosted(tmp_path, WATCH) as host:
        _, writer = await host.raw("GET /leave")
        await host.line("out", "waiting")
        writer.close()
        assert (await host.get("/wait")).text == "['http.disconnect']"
        assert await host.stop() == 0
    assert host.lines["err"] == []


async def test_work_after_an_answer_does_not_hold_it_up(tmp_path: Path) -> None:
    code = """
import asyncio
done = asyncio.Event()
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(done.is_set()).encode()})
        if scope["path"] == "/last":
            done.set()
        await done.wait()
        print("over", flush=True)
"""
    async with hosted(tmp_path, code, seconds=0.2) as host:
        client = await host.client()
        assert [(await client.get(path)).text for path in ("/", "/", "/last")] == ["False"] * 3
        await host.line("out", "over")


async def test_requests_of_a_program_run_side_by_side(tmp_path: Path) -> None:
    code = """
import asyncio
barrier = asyncio.Barrier(20)
async def app(scope, receive, send):
    if scope["type"] == "http":
        await barrier.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"met"})
"""
    async with hosted(tmp_path, code) as host:
        answers = await asyncio.gather(*(host.get() for _ in range(20)))
    assert [answer.text for answer in answers] == ["met"] * 20


# Heads


def sending(status: int, headers: list[tuple[bytes, bytes]], *bodies: bytes) -> str:
    """Give a program that answers with this."""
    return f"""
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({{"type": "http.response.start", "status": {status}, "headers": {headers!r}}})
    for number, body in enumerate({bodies!r}):
        await send({{"type": "http.response.body", "body": body, "more_body": number < {len(bodies) - 1}}})
"""


async def test_headers_pass_in_order_and_nothing_is_added_but_the_length(tmp_path: Path) -> None:
    body = gzip.compress(b"hello" * 100, mtime=0)
    headers = [
        (b"Set-Cookie", b"a=1"),
        (b"content-encoding", b"gzip"),
        (b"vary", b"accept-encoding"),
        (b"set-cookie", b"b=2"),
    ]
    async with hosted(tmp_path, sending(200, headers, body)) as host:
        answer = await host.get()
    assert answer.headers.multi_items() == [
        ("set-cookie", "a=1"),
        ("content-encoding", "gzip"),
        ("vary", "accept-encoding"),
        ("set-cookie", "b=2"),
        ("content-length", str(len(body))),
    ]
    assert answer.text == "hello" * 100


@pytest.mark.parametrize("status", [200, 201, 404, 418, 503, 599])
async def test_statuses_and_bodies_are_the_programs_own(tmp_path: Path, status: int) -> None:
    async with hosted(tmp_path, sending(status, [(b"x-own", b"1")], b"\x00\xff", b"page")) as host:
        answer = await host.get()
    assert (answer.status_code, answer.content, answer.headers["x-own"]) == (status, b"\x00\xffpage", "1")


async def test_the_answer_to_head_tells_the_length_and_has_no_body(tmp_path: Path) -> None:
    async with hosted(tmp_path, sending(200, [], b"hello")) as host:
        client = await host.client()
        head, get = await client.head("/"), await client.get("/")
    assert head.headers == get.headers == {"content-length": "5"}
    assert (head.content, get.content) == (b"", b"hello")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5")]])
async def test_answers_without_bodies_have_none_whatever_is_sent(
    tmp_path: Path, status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    async with hosted(tmp_path, sending(status, [(b"etag", b"x"), *headers], b"hello")) as host:
        reader, _ = await host.raw("GET /\nconnection: close")
        text = await reader.read()
    assert text.splitlines()[1:] == [b"etag: x", b"connection: close", b""]
    assert text.startswith(b"HTTP/1.1 %d " % status)


async def test_a_compressed_answer_of_a_framework_is_readable(tmp_path: Path) -> None:
    code = """
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello" * 1000))])
app.add_middleware(GZipMiddleware)
"""
    async with hosted(tmp_path, code) as host:
        answer = await host.get()
    assert (answer.headers["content-encoding"], answer.headers["vary"].lower()) == ("gzip", "accept-encoding")
    assert answer.text == "hello" * 1000
