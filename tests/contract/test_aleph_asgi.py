"""How the host of ASGI programs imports, starts and ends them (contract, sections 2.4 and 2.6, A1 to A6)."""

import json
import textwrap
from pathlib import Path

import pytest

from tests.aleph_host import ECHO, ROOT, RUN, hosted

pytestmark = pytest.mark.anyio

ANSWER = """
async def answer(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(text).encode()})
"""

LIFESPAN = f"""
import asyncio
{ANSWER}
seen = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        seen.append({{key: scope[key] for key in scope if key != "state"}})
        scope["state"]["answer"] = [42]
        seen.append((await receive())["type"])
        await send({{"type": "lifespan.startup.complete"}})
        seen.append((await receive())["type"])
        print(seen)
        await send({{"type": "lifespan.shutdown.complete"}})
    else:
        state = dict(scope["state"])
        scope["state"]["answer"] = 0
        scope["state"]["more"] = 1
        await answer(send, [state, seen[1:]])
"""


async def test_a_program_starts_once_before_it_serves_and_shuts_down_once_when_the_host_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path, LIFESPAN) as host:
        first, second = await host.get(), await host.get()
        ready = await host.get(kind="ready")
        status = await host.stop()
    assert first.text == second.text == "[{'answer': [42]}, ['lifespan.startup']]"
    assert ready.json() == {"asgi": True, "lifespan": True, "framework": None}
    assert status == 0
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
    assert host.lines == {"out": [f"{[scope, 'lifespan.startup', 'lifespan.shutdown']}\n"], "err": []}


@pytest.mark.parametrize(
    "behaviour",
    [
        "raise KeyError(scope['type'])",
        "return",
        "await send({'output': 'hola!'})",
        "await send({'type': 'http.response.start', 'status': 200}); await asyncio.sleep(3600)",
        "await send(b'nonsense')",
    ],
)
async def test_a_program_that_knows_no_lifespan_is_served_without(tmp_path: Path, behaviour: str) -> None:
    code = f"""
import asyncio
{ANSWER}
calls = 0

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        global calls
        calls += 1
        {behaviour}
    else:
        await answer(send, calls)
"""
    async with hosted(tmp_path, code) as host:
        assert (await host.get(kind="ready")).json()["lifespan"] is False
        assert (await host.get()).text == "1"
        assert await host.stop() == 0
    assert host.lines["err"] == []


FAILING = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    raise RuntimeError
"""
SILENT = """
async def app(scope, receive, send):
    await receive()
    await receive()
"""


@pytest.mark.parametrize(
    ("code", "reason"), [(FAILING, "failed: no database"), (SILENT, "is not complete after 0.2 seconds")]
)
async def test_a_start_up_that_fails_or_hangs_ends_the_host(tmp_path: Path, code: str, reason: str) -> None:
    async with hosted(tmp_path, code, startup_timeout=0.2) as host:
        assert await host.ended() == 71
    assert host.lines["err"] == [f"The start-up of the program {reason}{'' if 'data' in reason else '.'}\n"]


async def test_a_shutdown_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    code = LIFESPAN.replace("print(seen)", "await asyncio.sleep(3600)")
    async with hosted(tmp_path, code, shutdown_timeout=0.2) as host:
        await host.get()
        assert await host.stop() == 0
    assert "The shutdown of the program is not complete" in host.lines["err"][0]


async def test_threads_of_the_program_do_not_keep_the_host_but_what_it_does_at_exit_is_done(tmp_path: Path) -> None:
    code = f"""
import atexit, threading
{ANSWER}
atexit.register(print, "bye")
threading.Thread(target=threading.Event().wait).start()

async def app(scope, receive, send):
    await answer(send, "fine")
"""
    async with hosted(tmp_path, code) as host:
        assert (await host.get()).text == "fine"
        assert await host.stop() == 0
    assert host.lines == {"out": ["bye\n"], "err": []}


async def test_a_scope_has_every_key_as_the_standard_has_it(tmp_path: Path) -> None:
    async with hosted(tmp_path, ECHO) as host:
        client = await host.client()
        answer = await client.post(
            "/a%2Fb%20c?a=1%262&b", content=b"", headers=[("X-A", "1"), ("b", "2"), ("x-a", "3")]
        )
    scope = answer.json()
    headers = scope.pop("headers")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/a/b c",
        "raw_path": "/a%2Fb%20c",
        "query_string": "a=1%262&b",
        "root_path": ROOT,
        "server": ["node.example", 81],
        "client": ["203.0.113.9", 4321],
        "state": {},
    }
    assert [header for header in headers if header[0] in {"x-a", "b"}] == [["x-a", "1"], ["b", "2"], ["x-a", "3"]]
    assert "moorage" not in dict(headers)


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("node.example", ["node.example", 443]),
        ("node.example:8080", ["node.example", 8080]),
        ("[2001:db8::1]", ["2001:db8::1", 443]),
        ("[2001:db8::1]:80", ["2001:db8::1", 80]),
        ("[::1]", ["::1", 443]),
        ("node.example:", ["node.example", 443]),
        ("x:" + "9" * 5000, ["x:" + "9" * 5000, 443]),
    ],
)
async def test_the_server_is_what_the_client_calls_it(tmp_path: Path, name: str, server: list[object]) -> None:
    async with hosted(tmp_path, ECHO) as host:
        client = await host.client()
        assert (await client.get("/", headers={"host": name})).json()["server"] == server


# Import


async def test_a_program_finds_its_arguments_its_directories_first_and_nothing_of_the_host(tmp_path: Path) -> None:
    code = f"""
import sys
{ANSWER}
def facts():
    return [sys.argv, sys.path[:2], sys.stdin.read(), [each for each in sys.path if "moorage" in each], __name__]

async def app(scope, receive, send):
    await answer(send, facts())
"""
    async with hosted(tmp_path, code, argv=["main:app", "--fast", "1"]) as host:
        answer = await host.get()
    path = [str(tmp_path / "code"), str(tmp_path / "packages")]
    assert answer.text == str([["main:app", "--fast", "1"], path, "", [], "main"])


@pytest.mark.parametrize("name", ["serving", "program", "adapter", "log", "queue", "platform"])
async def test_modules_may_be_called_as_those_of_the_host_or_of_the_library(tmp_path: Path, name: str) -> None:
    async with hosted(tmp_path, {f"{name}.py": ECHO}, entrypoint=f"{name}:app") as host:
        assert (await host.get("/x")).json()["path"] == "/x"


async def test_packages_of_the_program_win_over_those_of_the_runtime(tmp_path: Path) -> None:
    code = f"""
import click, uvicorn, websockets
{ANSWER}
async def app(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, [click.who, uvicorn.who, websockets.who])
    if scope["type"] == "websocket":
        await send({{"type": "websocket.close"}})
"""
    packages = {f"{name}/__init__.py": f"who = '{name} of mine'" for name in ("click", "uvicorn", "websockets")}
    async with hosted(tmp_path, code, packages=packages) as host:
        assert (await host.get()).text == "['click of mine', 'uvicorn of mine', 'websockets of mine']"
        reader, _ = await host.raw(
            "GET /\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
        )
        assert await reader.readline() == b"HTTP/1.1 403 Forbidden\r\n"


async def test_an_entrypoint_may_be_an_attribute_of_a_module_given_beside_it(tmp_path: Path) -> None:
    async with hosted(tmp_path, {"deep/main.py": ECHO}, entrypoint="app", module="deep.main") as host:
        assert (await host.get("/x")).json()["path"] == "/x"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import missing_package", "No module named 'missing_package'"),
        ("def app(:", "SyntaxError"),
        ("application = None", "The module 'main' has no attribute 'app'."),
        ("app = 3", "it cannot be called"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
async def test_a_program_that_cannot_be_imported_ends_the_host(tmp_path: Path, code: str, reason: str) -> None:
    async with hosted(tmp_path, code) as host:
        assert await host.ended() == 70
    assert reason in "".join(host.lines["err"])


async def test_an_import_that_hangs_ends_the_host_and_shows_where(tmp_path: Path) -> None:
    async with hosted(tmp_path, "import time\ntime.sleep(3600)", import_timeout=0.2) as host:
        assert await host.ended() == 1
    assert 'main.py", line 2 in <module>' in "".join(host.lines["err"])


async def test_a_program_may_use_the_running_loop_while_it_is_imported(tmp_path: Path) -> None:
    code = f"""
import asyncio
{ANSWER}
task = asyncio.get_running_loop().create_task(asyncio.sleep(0, 7))

async def app(scope, receive, send):
    await answer(send, await task)
"""
    async with hosted(tmp_path, code) as host:
        assert (await host.get()).text == "7"


# Output


async def test_lines_carry_the_run_that_printed_them(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
    import asyncio, logging, os, sys
    {textwrap.indent(ANSWER, "    ").strip()}
    print("importing")
    logging.basicConfig(format="%(message)s")

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        print("a", end=" ")
        await asyncio.sleep(0)
        print("b", "c", sep="")
        logging.warning("careful")
        os.write(1, b"as it is\\n")
        await asyncio.to_thread(print, "in a thread")
        print("unfinished", end="")
        await answer(send, "")
    """)
    async with hosted(tmp_path, code) as host:
        first, second = await host.client(run="one"), await host.client(run="two")
        await first.get("/")
        await second.get("/")
        assert await host.stop() == 0
    said = ["a bc", None, "in a thread", "unfinished"]
    runs = [f"\x1e{run}\x1f{text}\n" if text else "as it is\n" for run in ("one", "two") for text in said]
    assert host.lines["out"] == ["importing\n", *runs]
    assert host.lines["err"] == ["\x1eone\x1fcareful\n", "\x1etwo\x1fcareful\n"]


async def test_a_long_line_stays_one_line(tmp_path: Path) -> None:
    code = f"{ANSWER}\nasync def app(scope, receive, send):\n    print('é' * 10_000)\n    await answer(send, 1)"
    async with hosted(tmp_path, code) as host:
        await host.get()
        line = await host.line("out", RUN)
    assert line == f"\x1e{RUN}\x1f{'é' * 10_000}\n"


async def test_the_answer_to_the_node_names_the_framework(tmp_path: Path) -> None:
    code = "from fastapi import FastAPI\napp = FastAPI()"
    async with hosted(tmp_path, code) as host:
        ready = json.loads((await host.get(kind="ready", root="")).text)
    assert ready == {"asgi": True, "lifespan": True, "framework": "fastapi"}
