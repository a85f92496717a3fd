"""What clients of programs get that fail, end or take too long (contract, sections 2.6, A18 to A23, and 5)."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.aleph_host import RUN, hosted

pytestmark = pytest.mark.anyio

PROGRAM = """
import asyncio, os, sys, threading

go = asyncio.Event()

async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})

async def body(send, body=b"", more=False):
    await send({"type": "http.response.body", "body": body, "more_body": more})

async def app(scope, receive, send):
    if scope["type"] == "http":
        await globals()[scope["path"].strip("/")](send)

async def fine(send):
    await start(send)
    await body(send, b"fine")

async def broken(send):
    raise ValueError("a secret")

async def broken_after_head_is_kept(send):
    await start(send)
    raise ValueError("a secret")

async def cancelled(send):
    raise asyncio.CancelledError

async def nothing(send):
    pass

async def broken_in_the_middle(send):
    await start(send)
    await body(send, b"half", more=True)
    raise ValueError("a secret")

async def cut(send):
    await start(send)
    await body(send, b"half", more=True)

async def short(send):
    await start(send, headers=[(b"content-length", b"100")])
    await body(send, b"half", more=True)

async def head_only(send):
    await start(send)

async def after(send):
    await fine(send)
    raise ValueError("a secret")

async def stock(send):
    await start(send, 500, [(b"content-type", b"text/plain")])
    await body(send, b"Internal Server Error")
    raise ValueError("a secret")

async def stock_fine(send):
    await start(send, 500, [(b"x-own", b"1")])
    await body(send, b"Internal Server Error")

async def stock_slow(send):
    await stock_fine(send)
    await asyncio.sleep(3600)

async def own(send):
    await start(send, 500)
    await body(send, b"Sorry")
    raise ValueError("a secret")

async def own_in_pieces(send):
    await start(send, 500)
    await body(send, b"Sorry", more=True)
    await body(send, b"!")
    raise ValueError("a secret")

async def no_status(send):
    await start(send, 999)

async def no_header(send):
    await start(send, headers=[(b"x-a", b"a\\r\\nb: c")])

async def no_header_framed(send):
    await start(send, headers=[(b"content-length", b"2"), (b"x-a", b"a\\nb")])

async def no_name(send):
    await start(send, headers=[(b"", b"a")])

async def no_length(send):
    await start(send, headers=[(b"content-length", b"-2")])

async def waiting(send):
    print("waiting", flush=True)
    await go.wait()
    await fine(send)

async def go_on(send):
    go.set()
    await fine(send)

async def surrogate(send):
    raise ValueError("\\ud800")

async def exit(send):
    sys.exit(3)

async def exit_with_words(send):
    sys.exit("enough")

async def exit_in_a_thread(send):
    threading.Thread(target=threading.Event().wait).start()
    await asyncio.to_thread(sys.exit, 3)

async def exit_in_a_task(send):
    async def leave():
        sys.exit(3)
    asyncio.create_task(leave())
    await asyncio.sleep(3600)

async def die(send):
    os._exit(3)

async def late(send):
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

async def late_and_stubborn(send):
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.5)
        await fine(send)
        print("still here", flush=True)

async def late_in_the_middle(send):
    await start(send)
    await body(send, b"half", more=True)
    await late(send)

async def steady(send):
    await start(send)
    for _ in range(10):
        await asyncio.sleep(0.1)
        await body(send, b".", more=True)
    await body(send)
"""
WITHHELD = f"Internal error in program. Traceback withheld, request {RUN}; the owner can read it in the program log."


@pytest.mark.parametrize("path", ["broken", "broken_after_head_is_kept", "cancelled", "stock"])
async def test_who_asks_a_program_that_raises_is_told_so_but_not_why(tmp_path: Path, path: str) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        answer = await host.get(f"/{path}")
        assert (await host.get("/fine")).text == "fine"
        line = await host.line("err", "CancelledError" if path == "cancelled" else "ValueError: a secret")
    assert (answer.status_code, answer.text) == (500, WITHHELD)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["moorage-error"] == "exception"
    assert line.startswith(f"\x1e{RUN}\x1f")
    assert host.lines["err"][0] == f"\x1e{RUN}\x1fTraceback (most recent call last):\n"


async def test_tracebacks_are_shown_where_the_operator_wants_it_and_have_only_what_is_the_programs(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path, PROGRAM, traceback="public") as host:
        answer = await host.get("/broken")
    assert answer.text.startswith(f'Traceback (most recent call last):\n  File "{tmp_path}/code/main.py"')
    assert answer.text.endswith("ValueError: a secret\n")


async def test_a_traceback_with_what_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM, traceback="public") as host:
        answer = await host.get("/surrogate")
    assert (answer.status_code, answer.headers["moorage-error"]) == (500, "exception")
    assert answer.text.endswith("ValueError: \\ud800\n")


@pytest.mark.parametrize("path", ["no_status", "no_header", "no_header_framed", "no_name", "no_length"])
async def test_a_head_that_http_does_not_have_is_an_error_of_the_program_and_harms_no_other_request(
    tmp_path: Path, path: str
) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        other, _ = await host.raw("GET /waiting\nconnection: close")
        await host.line("out", "waiting")
        answer = await host.get(f"/{path}")
        assert (answer.status_code, answer.headers["moorage-error"]) == (500, "exception")
        assert (await host.get("/go_on")).text == "fine"
        assert (await other.read()).endswith(b"fine")


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
async def test_the_stock_page_of_a_framework_becomes_that_of_the_node(tmp_path: Path, framework: str) -> None:
    code = {
        "starlette": "from starlette.applications import Starlette\nfrom starlette.routing import Route\n"
        "app = Starlette(routes=[Route('/', lambda request: 1 / 0)])",
        "fastapi": "from fastapi import FastAPI\napp = FastAPI()\napp.get('/')(lambda: 1 / 0)",
    }[framework]
    async with hosted(tmp_path, code) as host:
        answer = await host.get("/")
        await host.line("err", "ZeroDivisionError")
    assert (answer.status_code, answer.text) == (500, WITHHELD)


@pytest.mark.parametrize("path", ["stock_fine", "stock_slow"])
async def test_the_stock_page_of_a_program_that_does_not_raise_is_its_own(tmp_path: Path, path: str) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        answer = await host.get(f"/{path}")
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (500, "Internal Server Error", "1")


@pytest.mark.parametrize(("path", "text"), [("own", "Sorry"), ("own_in_pieces", "Sorry!")])
async def test_error_pages_of_the_programs_own_pass(tmp_path: Path, path: str, text: str) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        answer = await host.get(f"/{path}")
        await host.line("err", "ValueError: a secret")
    assert (answer.status_code, answer.text) == (500, text)


@pytest.mark.parametrize("path", ["broken_in_the_middle", "cut", "short", "head_only"])
async def test_an_answer_that_is_not_complete_is_broken_off_and_looks_so(tmp_path: Path, path: str) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        with pytest.raises(httpx.RemoteProtocolError):
            await host.get(f"/{path}")
        assert (await host.get("/fine")).text == "fine"
        await host.stop()
    said = "".join(host.lines["err"])
    assert ("ValueError" in said) == (path == "broken_in_the_middle")
    assert ("broken off" in said) == (path != "broken_in_the_middle")
    assert "ASGI" not in said


async def test_what_came_before_an_answer_was_broken_off_reaches_the_client(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        reader, _ = await host.raw("GET /broken_in_the_middle")
        answer = await reader.read()
    assert answer.endswith(b"\r\n\r\n4\r\nhalf\r\n")


async def test_what_goes_wrong_after_an_answer_is_only_in_the_log(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        client = await host.client()
        assert (await client.get("/after")).text == "fine"
        await host.line("err", "ValueError: a secret")
        assert (await client.get("/fine")).text == "fine"


async def test_a_program_that_says_nothing_is_answered_for(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        answer = await host.get("/nothing")
    assert (answer.status_code, answer.text) == (500, "Program returned without sending a response")
    assert answer.headers["moorage-error"] == "no-response"


@pytest.mark.parametrize(
    ("path", "status"),
    [("exit", 3), ("exit_with_words", 1), ("exit_in_a_thread", 3), ("exit_in_a_task", 3), ("die", 3)],
)
async def test_a_program_that_ends_itself_takes_the_host_with_it(tmp_path: Path, path: str, status: int) -> None:
    async with hosted(tmp_path, PROGRAM) as host:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await host.get(f"/{path}")
        assert await host.ended() == status
    assert host.lines["err"] == [f"\x1e{RUN}\x1fenough\n"] or path != "exit_with_words"


# Time


async def test_who_asks_a_program_that_is_late_is_told_so_and_its_task_is_cancelled(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM, seconds=0.2) as host:
        answer = await host.get("/late")
        await host.line("out", "cancelled")
        assert (await host.get("/fine")).text == "fine"
    assert (answer.status_code, answer.text) == (504, "Program did not respond within `resource.seconds`")
    assert answer.headers["moorage-error"] == "timeout"


async def test_a_task_that_takes_its_time_to_end_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM, seconds=0.2) as host:
        client = await host.client()
        assert (await client.get("/late_and_stubborn")).status_code == 504
        assert (await client.get("/fine")).text == "fine"
        assert host.lines["out"] == []
        await host.line("out", "still here")


async def test_an_answer_that_stops_in_the_middle_is_broken_off(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM, seconds=0.2) as host:
        with pytest.raises(httpx.RemoteProtocolError):
            await host.get("/late_in_the_middle")
        await host.line("out", "cancelled")


async def test_an_answer_may_take_longer_as_a_whole(tmp_path: Path) -> None:
    async with hosted(tmp_path, PROGRAM, seconds=0.4) as host:
        assert (await host.get("/steady")).text == "." * 10


async def test_a_client_that_sends_slowly_does_not_make_the_program_late(tmp_path: Path) -> None:
    code = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})
"""
    async with hosted(tmp_path, code, seconds=0.4) as host:
        reader, writer = await host.raw("POST /\ncontent-length: 10")
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b".")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_a_client_that_takes_an_answer_slowly_does_not_make_the_program_late(tmp_path: Path) -> None:
    code = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(10_000_000), "more_body": True})
        await send({"type": "http.response.body", "body": b"end", "more_body": False})
"""
    async with hosted(tmp_path, code, seconds=0.2) as host:
        client = await host.client()
        async with client.stream("GET", "/") as answer:
            await asyncio.sleep(1)
            assert len(await answer.aread()) == 10_000_003


async def test_the_host_lets_requests_end_before_it_ends(tmp_path: Path) -> None:
    code = """
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "http":
        print(scope["path"], flush=True)
        await asyncio.sleep(0.3 if scope["path"] == "/short" else 3600)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})
"""
    async with hosted(tmp_path, code, shutdown_timeout=2) as host:
        short, long = await host.raw("GET /short"), await host.raw("GET /long")
        await host.line("out", "/short")
        await host.line("out", "/long")
        assert await host.stop() == 0
        assert (await short[0].read()).endswith(b"fine")
        assert await long[0].read() == b""
    assert host.lines["err"] == []
