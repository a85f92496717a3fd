"""What starts programs without a request: messages, times, and that they are to run always (contract, 2.9 to 2.11)."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moorage.networks.aleph.messages.hashes import host_label
from moorage.networks.aleph.programs import triggers
from tests.aleph_node import AlephNode, aleph_node

NOTES = """
import asyncio, json, os

seen = []
async def app(scope, receive, send):
    if scope["type"] == "aleph.message":
        event = json.loads(scope["body"])
        assert json.loads((await receive())["body"]) == event
        seen.append(event)
        await send({"took": event["item_hash"]})
        return
    assert scope["type"] == "http"
    if scope["path"].endswith("/end"):
        os._exit(3)
    told = {name.decode(): value.decode() for name, value in scope["headers"] if name.startswith(b"aleph-")}
    if told:
        seen.append({**told, "path": scope["path"], "method": scope["method"]})
        await asyncio.sleep(float(os.environ.get("SLOW", 0)))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"""
ECHOES = """
import asyncio, json

async def app(scope, receive, send):
    assert scope["type"] == "aleph.message"
    if json.loads(scope["body"])["content"]["type"] != "call":
        return
    data = json.dumps({"topic": "echo", "data": json.dumps({"said": "mine"})}).encode()
    reader, writer = await asyncio.open_unix_connection("/tmp/socat-socket")
    head = b"POST /api/v0/ipfs/pubsub/pub HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\ncontent-length: "
    writer.write(head + str(len(data)).encode() + b"\\r\\n\\r\\n" + data)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200"), answer
"""
SERVER = """#!/usr/bin/env python3
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

seen = []
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen.append([self.path, self.headers["content-type"], self.headers["aleph-event"], body["item_hash"]])
        self.answer(b"{}")
    def do_GET(self):
        self.answer(json.dumps(seen).encode())
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("", 8080), Handler).serve_forever()
"""
SDK = """
import json
from aleph.sdk.vm.app import AlephApp
from fastapi import FastAPI

app, seen = AlephApp(http_app=FastAPI()), []

@app.event(filters=[{"type": "POST"}])
async def handle(event):
    seen.append(json.loads(event["body"])["item_hash"])
    return {"seen": len(seen)}

@app.get("/")
def show():
    return seen
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


def noting(node: AlephNode, *subscriptions: Any, code: str = NOTES, **content: Any) -> str:
    return node.deploy(code, on={"http": True, "message": list(subscriptions)}, **content)


def post(node: AlephNode, kind: str, content: Any = None, **fields: Any) -> str:
    body = {"type": kind, "content": content, "time": node.now()}
    return node.publish(node.wallet.message("POST", body, **fields))


def jobs(node: AlephNode, program: str) -> list[Any]:
    """List the runs that triggers of a program caused, oldest first."""
    answer = node.client.get("/v1/jobs", params={"label": f"program={program}", "limit": 500})
    return list(reversed(answer.json()))


def finished(node: AlephNode, program: str, count: int = 1) -> list[Any]:
    """Wait until so many runs of a program have ended well, and see that there are no more."""

    def found() -> list[Any] | None:
        runs = jobs(node, program)
        assert not any(run["error"] for run in runs), runs
        return runs if sum(run["state"] == "succeeded" for run in runs) >= count else None

    runs = node.until(found)
    assert runs is not None
    assert len(runs) == count
    return runs


# Messages


def test_a_message_is_delivered_once_as_the_api_shows_it(node: AlephNode) -> None:
    program = noting(node, {"type": "POST", "content": {"type": "as-shown"}})
    message = post(node, "as-shown", {"text": "héllo"})
    (run,) = finished(node, program)
    assert run["value"]["result"] == {"took": message}
    shown = node.client.get(f"/api/v0/messages/{message}").json()["message"]
    assert node.get(program).json() == [shown]
    assert isinstance(shown["time"], float)


def test_a_subscription_takes_what_the_table_of_the_contract_says(node: AlephNode) -> None:
    program = noting(
        node,
        {"channel": "nested", "content": {"content": {"a": {"b": 1}}}},
        {"channel": "list", "content": {"content": {"tags": "x"}}},
        {"channel": "either", "content": {"content": {"n": [1, 2]}}},
        {"channel": "bool", "content": {"content": {"yes": True}}},
        {"channel": "absent", "content": {"content": {"no": None}}},
        {"channel": "sender", "sender": node.wallet.address.upper().replace("0X", "0x")},
        {"channel": "last"},
    )
    tried = [
        ("nested", {"a": {"b": 1.0, "c": 2}, "d": 3}, True),
        ("nested", {"a": {"b": 2}}, False),
        ("nested", ["a"], False),
        ("list", {"tags": ["y", "x"]}, True),
        ("list", {"tags": "z"}, False),
        ("either", {"n": 2}, True),
        ("either", {"n": [3, 1]}, True),
        ("either", {"n": 3}, False),
        ("bool", {"yes": True}, True),
        ("bool", {"yes": 1}, False),
        ("absent", {"no": None}, True),
        ("absent", {}, False),
        ("sender", None, True),
        ("last", None, True),
    ]
    sent = [(post(node, "table", content, channel=channel), expected) for channel, content, expected in tried]
    taken = [message for message, expected in sent if expected]
    runs = finished(node, program, len(taken))
    assert [run["spec"]["parameters"]["message"] for run in runs] == taken


def test_of_several_subscriptions_that_match_one_delivery_comes(node: AlephNode) -> None:
    everything = noting(node, {}, {"type": "POST"}, {"content": {"type": "several"}})
    message = post(node, "several")
    assert finished(node, everything)[0]["spec"]["parameters"]["message"] == message
    forget(node, everything)


def test_a_program_never_gets_what_it_published_itself(node: AlephNode) -> None:
    echo = noting(node, {"content": {"type": ["call", "echo"]}}, code=ECHOES, environment={"aleph_api": True})
    other = noting(node, {"content": {"type": "echo"}})
    post(node, "call")
    finished(node, other)
    (heard,) = node.get(other).json()
    assert heard["content"]["address"] in {echo, host_label(echo)}
    finished(node, echo, 1)


def test_an_older_version_of_a_program_does_not_trigger_the_newest(node: AlephNode) -> None:
    echo = noting(node, {"content": {"type": ["echo", "over"]}})
    other = noting(node, {"content": {"type": "echo"}})
    newest = noting(node, {"content": {"type": ["echo", "over"]}}, replaces=echo)
    document = node.wallet.post("of the old version", kind="echo")
    node.served.portal.call(partial(node.surface.publisher.publish, document, program=echo))
    finished(node, other)
    over = post(node, "over")
    (run,) = finished(node, echo)
    assert (run["value"]["program"], run["spec"]["parameters"]["message"]) == (newest, over)


def test_a_file_that_is_published_twice_is_one_event(node: AlephNode) -> None:
    program = noting(node, {"type": "STORE", "channel": "twice"}, {"channel": "after"})
    stored = node.client.post("/api/v0/storage/add_file", content=b"twice").json()["hash"]
    message = node.wallet.message("STORE", {"item_type": "storage", "item_hash": stored}, channel="twice")
    assert node.publish(message) == node.publish(message)
    last = post(node, "after", channel="after")
    runs = finished(node, program, 2)
    assert [run["spec"]["parameters"]["message"] for run in runs] == [message["item_hash"], last]


def test_a_handler_of_the_sdk_runs_and_what_it_returns_is_kept(node: AlephNode) -> None:
    program = noting(node, {"content": {"type": "sdk"}}, code=SDK)
    message = post(node, "sdk")
    (run,) = finished(node, program)
    assert run["value"]["result"] == {"seen": 1}
    assert node.get(program).json() == [message]
    told = node.client.get(f"/about/runs/{run['id']}").json()
    assert (told["trigger"], told["status"], told["item_hash"]) == ("message", 200, program)


def test_an_executable_gets_messages_as_requests(node: AlephNode) -> None:
    program = noting(node, {"content": {"type": "to-server"}}, code=SERVER, entrypoint="server")
    message = post(node, "to-server")
    finished(node, program)
    assert node.get(program).json() == [["/", "application/json", "aleph.message", message]]


def test_a_program_without_http_gets_messages_all_the_same(node: AlephNode) -> None:
    program = node.deploy(NOTES, on={"http": False, "message": [{"content": {"type": "no-http"}}]})
    message = post(node, "no-http")
    assert finished(node, program)[0]["value"]["result"] == {"took": message}
    assert node.get(program).status_code == 403


def test_the_newest_version_gets_a_message_and_no_other_does(node: AlephNode) -> None:
    program = noting(node, {"content": {"type": "amended"}})
    newest = noting(node, {"content": {"type": "amended"}}, replaces=program)
    post(node, "amended")
    (run,) = finished(node, program)
    assert run["value"]["program"] == newest


def test_a_program_that_is_forgotten_gets_nothing_more(node: AlephNode) -> None:
    program, other = (noting(node, {"content": {"type": "forgetful"}}) for _ in range(2))
    post(node, "forgetful")
    finished(node, program)
    forget(node, program)
    post(node, "forgetful")
    finished(node, other, 2)
    finished(node, program, 1)


def test_a_program_that_fails_has_a_failed_run_and_gets_the_next_message(node: AlephNode) -> None:
    code = NOTES.replace("seen.append(event)", 'assert event["content"]["content"] != "bad", "told apart"')
    program = noting(node, {"content": {"type": "failing"}}, code=code)
    post(node, "failing", "bad")
    post(node, "failing", "good")
    node.until(lambda: [run["state"] for run in jobs(node, program) if run["finished_at"]] in OUTCOMES)
    assert any("told apart" in line.text for line in node.log(program))


OUTCOMES = (["failed", "succeeded"], ["succeeded", "failed"])


def test_a_program_whose_app_the_operator_removed_gets_another(node: AlephNode) -> None:
    program, other = (noting(node, {"content": {"type": "removed"}}) for _ in range(2))
    post(node, "removed")
    (run,) = finished(node, program)
    moved = node.client.put(f"/v1/apps/{run['spec']['app_id']}/state", json={"state": "REMOVED"})
    assert moved.status_code == 200, moved.text
    post(node, "removed")
    finished(node, other, 2)
    finished(node, program, 2)


def test_subscriptions_hold_after_a_restart(tmp_path: Path, aleph_layers: Path) -> None:
    with aleph_node(tmp_path / "data", layers=aleph_layers) as node:
        program = noting(node, {"content": {"type": "later"}})
    with aleph_node(tmp_path / "data", layers=aleph_layers) as node:
        message = post(node, "later")
        assert finished(node, program)[0]["value"]["result"] == {"took": message}


# Times


class Watch:
    """A clock of the node's that can be set."""

    def __init__(self, node: AlephNode) -> None:
        self._node, self._ahead = node, 0.0

    def time(self) -> float:
        return time.time() + self._ahead

    def set_before_minute(self, later: int = 0) -> int:
        """Set it a moment before a minute begins, some minutes later than it might; tell when that is."""
        now = self.time()
        slot = int(now // 60 + 1 + later) * 60
        self._ahead += slot - now - 0.3
        self._node.served.portal.call(self._node.surface._clock.changed)
        return slot


@pytest.fixture
def watch(node: AlephNode, monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch(node)
    monkeypatch.setattr(triggers, "time", SimpleNamespace(time=watch.time))
    return watch


def timed(node: AlephNode, cron: str = "* * * * *", **content: Any) -> str:
    return node.deploy(NOTES, on={"http": True, "cron": cron}, **content)


def test_a_program_is_called_at_its_times_with_their_headers(node: AlephNode, watch: Watch) -> None:
    program = timed(node, metadata={"cron_path": "tick"})
    slots = []
    for count in (1, 2):
        slots.append(watch.set_before_minute())
        finished(node, program, count)
    assert node.get(program).json() == [
        {"aleph-event": "cron", "aleph-event-time": str(slot), "path": "/tick", "method": "GET"} for slot in slots
    ]
    forget(node, program)


def test_a_program_is_not_called_while_its_last_run_is_not_over(node: AlephNode, watch: Watch) -> None:
    program = timed(node, variables={"SLOW": "2"})
    watch.set_before_minute()
    node.until(lambda: jobs(node, program))
    watch.set_before_minute()
    node.until(lambda: any("the last one is not over" in line.text for line in node.log(program)))
    finished(node, program, 1)
    watch.set_before_minute()
    finished(node, program, 2)
    forget(node, program)


def test_times_that_have_passed_are_not_made_up_for(node: AlephNode, watch: Watch) -> None:
    program = timed(node)
    slot = watch.set_before_minute(later=10)
    finished(node, program, 1)
    assert [each["aleph-event-time"] for each in node.get(program).json()] == [str(slot)]
    forget(node, program)


@pytest.mark.parametrize("cron", ["61 * * * *", "* * * *", "tomorrow"])
def test_a_schedule_that_is_none_is_refused(node: AlephNode, cron: str) -> None:
    content = {"on": {"http": True, "cron": cron}, "time": node.now()}
    message = node.wallet.program(node.file(b"x"), **content)
    node.publish(message, expect=422)
    told = node.client.get(f"/api/v0/messages/{message['item_hash']}").json()
    assert "cron" in json.dumps(told["details"]), told


# Programs that run always


def persistent(node: AlephNode, **content: Any) -> str:
    return node.deploy(NOTES, on={"http": True, "persistent": True}, **content)


def test_a_persistent_program_starts_without_a_request_and_again_when_it_ends(node: AlephNode) -> None:
    program = persistent(node)
    node.until(lambda: node.processes_of(program))
    assert node.get(program, "/end").status_code == 502
    node.until(lambda: node.processes_of(program))
    assert node.get(program).json() == []
    forget(node, program)
    node.until(lambda: not node.processes_of(program))
    assert node.get(program).status_code == 410


def test_of_a_persistent_program_the_newest_version_runs(node: AlephNode) -> None:
    first = persistent(node)
    second = persistent(node, replaces=first)
    node.until(lambda: node.processes_of(second) and not node.processes_of(first))
    third = persistent(node, replaces=first)
    node.until(lambda: node.processes_of(third) and not node.processes_of(second))
    assert node.get(second).headers["aleph-program-itemhash"] == second
    forget(node, third)
    node.until(lambda: not node.processes_of(third))


def test_a_persistent_program_runs_after_a_restart(tmp_path: Path, aleph_layers: Path) -> None:
    with aleph_node(tmp_path / "data", layers=aleph_layers) as node:
        program = persistent(node)
    with aleph_node(tmp_path / "data", layers=aleph_layers) as node:
        node.until(lambda: node.processes_of(program))


def forget(node: AlephNode, program: str) -> None:
    node.publish(node.wallet.message("FORGET", {"hashes": [program], "time": node.now()}))
