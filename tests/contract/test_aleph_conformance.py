"""`moorage check` on Aleph programs: a good one passes, and each bad one breaks its own rule."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from moorage.client import Client
from moorage.model.states import AppState
from moorage.networks.aleph import conformance
from moorage.networks.aleph.programs import instances
from tests.aleph import Wallet
from tests.aleph_node import AlephNode, aleph_node

HEAD = """
import asyncio, json, os, pathlib

async def send_text(send, text, status=200):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "aleph.message":
        return await send(await on_message(json.loads(scope["body"])))
    await http(scope, receive, send)

async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def on_message(message):
    return {"took": message["content"]["content"]["place"]}

async def http(scope, receive, send):
    pathlib.Path("/out/made").write_text("so")
    await send_text(send, "here")
"""
ALL = {
    "on": {
        "http": True,
        "cron": "0 0 1 1 *",
        "message": [{"type": ["POST"], "content": {"type": "reading", "content": {"place": "pier"}}}],
    },
    "export": {"encoding": "zip", "mount": "/out"},
}

Check = Callable[..., Mapping[str, Any]]
_numbers = count()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers, start_timeout=3) as running:
        yield running


@pytest.fixture
def check(node: AlephNode, tmp_path: Path) -> Check:
    """Check a program: give its findings by their rule."""

    def findings(code: str = "", *, parameters: Mapping[str, Any] | None = None, **content: Any) -> Mapping[str, Any]:
        source = tmp_path / f"app-{next(_numbers)}"
        source.mkdir()
        (source / "main.py").write_text(HEAD + code)
        (source / "moorage.toml").write_text(_toml({"entrypoint": "main:app", **content}))
        return _checked(node, source, parameters)

    return findings


def _checked(node: AlephNode, source: Path, parameters: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    with Client(node.url) as client:
        app = client.wait_app(client.add_app_from(source).id, timeout=60)
        assert app.state is AppState.TESTING, app.error
        job = client.wait_job(client.submit(app.id, mode="check", parameters=parameters).id, timeout=60)
    assert job.error is None, job.error
    assert isinstance(job.value, list)
    return {finding["rule"]: finding for finding in job.value}


def _toml(table: Mapping[str, Any]) -> str:
    return 'network = "aleph"\n[aleph]\n' + "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'


def verdicts(findings: Mapping[str, Any], verdict: str) -> list[str]:
    return [rule for rule, finding in findings.items() if finding["verdict"] == verdict]


def the_only_failure(findings: Mapping[str, Any]) -> Any:
    (rule,) = verdicts(findings, "failed")
    assert findings[rule]["hint"]
    return findings[rule]


def test_a_program_that_keeps_the_contract_passes_every_rule(check: Check) -> None:
    found = check(**ALL)
    assert verdicts(found, "failed") == []
    assert verdicts(found, "not_applicable") == ["its message is right", "its hash and signature hold"]
    taken = found["a message that it subscribed to is taken"]["message"]
    assert "synthetic" in taken
    assert '{"took": "pier"}' in taken
    assert "256 MiB" in found["it stays within its memory"]["message"]


def test_what_a_program_does_not_declare_is_not_judged(check: Check) -> None:
    found = check("async def http(scope, receive, send):\n    await send_text(send, 'x')\n")
    assert verdicts(found, "failed") == []
    assert found["a call of its schedule succeeds"]["message"] == "It has no schedule."
    assert found["its export is stored"]["message"] == "It has no `export`."


def test_requests_are_not_made_where_they_do_not_reach_it(check: Check) -> None:
    found = check("async def http(*_): raise RuntimeError", on={"http": False})
    assert verdicts(found, "failed") == []
    assert found["it answers a request"]["message"] == "Requests do not reach it: `on.http` is false."


def test_a_program_that_does_not_start_is_tried_no_further(check: Check) -> None:
    found = check("import no_such_module")
    failure = the_only_failure(found)
    assert failure["rule"] == "it starts in time"
    assert "status 70" in failure["message"]
    assert found["it starts again"]["message"] == "Not tried: first mend “it starts in time”."


def test_an_executable_without_a_port_does_not_start(check: Check) -> None:
    failure = the_only_failure(check(entrypoint="sleep 60"))
    assert failure["rule"] == "it starts in time"
    assert "3 seconds" in failure["message"]
    assert "port 8080" in failure["hint"]


def test_the_request_that_is_asked_for_is_the_one_that_is_judged(check: Check) -> None:
    code = """
async def http(scope, receive, send):
    asked = (await receive())["body"]
    good = scope["path"] != "/order" or (scope["method"], asked) == ("POST", b"tea")
    await send_text(send, "ordered" if good else "no", 200 if good else 500)
"""
    found = check(code, parameters={"request": "POST /order", "body": "tea"})
    assert found["it answers a request"]["message"] == "POST /order was answered with status 200: ordered."
    found = check(code, parameters={"request": "POST /order", "body": "coffee"})
    assert found["it answers a request"]["message"] == "POST /order was answered with status 500: no."


def test_an_error_page_for_what_is_not_there_is_found(check: Check) -> None:
    code = """
async def http(scope, receive, send):
    await send_text(send, {"/": "home"}[scope["path"]])
"""
    failure = the_only_failure(check(code))
    assert failure["rule"] == "what it does not have is its own to answer"
    assert "there-is-no-such-page was answered with status 500" in failure["message"]


def test_a_program_that_takes_one_request_at_a_time_only_is_found(check: Check) -> None:
    code = """
busy = False

async def http(scope, receive, send):
    global busy
    assert not busy
    busy = True
    await asyncio.sleep(0.2)
    busy = False
    await send_text(send, "x")
"""
    assert "2 requests at once are answered" in verdicts(check(code), "failed")


def test_a_body_below_the_head_is_found(check: Check) -> None:
    server = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"abc")
    do_HEAD = do_GET

if __name__ == "__main__":
    http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
    failure = the_only_failure(check(server, entrypoint="python main.py"))
    assert failure["rule"] == "an answer to HEAD has no body"
    assert "3 bytes" in failure["message"]


def test_a_program_that_dies_with_its_client_is_found(check: Check) -> None:
    code = """
async def http(scope, receive, send):
    await receive()
    try:
        async with asyncio.timeout(0.3):
            await receive()
        os._exit(5)
    except TimeoutError:
        await send_text(send, "x")
"""
    assert the_only_failure(check(code))["rule"] == "a client that leaves does it no harm"


def test_a_schedule_that_fails_is_found(check: Check) -> None:
    code = """
async def http(scope, receive, send):
    by_clock = any(name == b"aleph-event" for name, _ in scope["headers"])
    await send_text(send, "not now" if by_clock else "x", 409 if by_clock else 200)
"""
    failure = the_only_failure(check(code, on=ALL["on"]))
    assert failure["rule"] == "a call of its schedule succeeds"
    assert "409: not now" in failure["message"]


def test_a_handler_of_messages_that_fails_is_found(check: Check) -> None:
    failure = the_only_failure(check("async def on_message(message): raise KeyError('tide')\n", **ALL))
    assert failure["rule"] == "a message that it subscribed to is taken"


def test_a_message_that_is_given_is_the_one_that_is_judged(check: Check) -> None:
    message = {"content": {"type": "reading", "content": {"place": "quay"}}}
    found = check(**ALL, parameters={"message": message})
    assert found["a message that it subscribed to is taken"]["message"] == (
        'A given message was taken: {"result": {"took": "quay"}}'
    )


def test_an_export_that_cannot_be_made_is_found(check: Check) -> None:
    export = {"encoding": "plain", "mount": "/out"}
    code = """
async def http(scope, receive, send):
    for name in "ab":
        pathlib.Path("/out", name).write_text(name)
    await send_text(send, "two, where one file is to be")
"""
    assert the_only_failure(check(code, export=export))["rule"] == "its export is stored"


def test_a_program_that_does_not_end_is_found(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "GRACE", 1.0)
    monkeypatch.setattr(conformance, "SHUTDOWN", 0.9)
    code = """
async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await asyncio.sleep(60)
"""
    failure = the_only_failure(check(code, **ALL))
    assert failure["rule"] == "it ends when it is told to"


def test_a_program_that_starts_only_once_is_found(check: Check) -> None:
    code = """
lock = pathlib.Path("/state/lock")
lock.touch(exist_ok=False)

async def http(scope, receive, send):
    await send_text(send, "x")
"""
    volume = {"name": "state", "mount": "/state", "persistence": "host", "size_mib": 5}
    assert the_only_failure(check(code, volumes=[volume]))["rule"] == "it starts again"


def test_a_message_is_judged_too(node: AlephNode, tmp_path: Path) -> None:
    program = node.deploy()
    shown = node.client.get(f"/api/v0/messages/{program}").json()["message"]
    source = tmp_path / "message"
    source.mkdir()
    (source / "message.json").write_text(json.dumps(shown))
    found = _checked(node, source)
    assert verdicts(found, "failed") == []
    assert found["its message is right"]["message"] == "It is a program as of accepted."
    assert "signed it" in found["its hash and signature hold"]["message"]


def test_a_message_that_is_not_as_it_was_signed_is_tried_no_further(node: AlephNode, tmp_path: Path) -> None:
    shown = node.client.get(f"/api/v0/messages/{node.deploy()}").json()["message"]
    source = tmp_path / "message"
    source.mkdir()
    (source / "message.json").write_text(json.dumps({**shown, "signature": Wallet(2).message("POST", {})["signature"]}))
    (finding,) = _checked(node, source).values()
    assert (finding["rule"], finding["verdict"]) == ("its message is right", "failed")
    assert "`signature`" in finding["message"]
