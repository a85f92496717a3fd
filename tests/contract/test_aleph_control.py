"""What owners do with their programs, and what anybody may know of the node (contract, sections 4.5 and 4.6).

Item 48 of the acceptance checklist (section 8), route by route.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from moorage.model.callers import LOCAL, Caller
from moorage.networks.aleph.control import access
from moorage.networks.aleph.control import logs as logging
from moorage.networks.aleph.ledger.records import Run
from tests.aleph import Wallet
from tests.aleph_control import NOW, Controlled, Signer, controlled

pytestmark = pytest.mark.anyio

OWNER, DELEGATE, STRANGER = Signer(Wallet(1)), Signer(Wallet(2)), Signer(Wallet(3))
NOWHERE = "ab" * 32
OPERATIONS = ["stop", "reboot", "erase", "reinstall", "expire"]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path) as node:
        yield node


@pytest.fixture
async def api(node: Controlled) -> AsyncIterator[httpx.AsyncClient]:
    async with client(node) as api:
        yield api


def client(node: Controlled, caller: Caller | None = None) -> httpx.AsyncClient:
    async def called(scope: Scope, receive: Any, send: Any) -> None:
        scope["moorage.caller"] = caller
        await node.control(scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(called), base_url="http://localhost")


async def operate(api: httpx.AsyncClient, ref: str, operation: str, signer: Signer = OWNER, **rest: Any) -> Any:
    method = "GET" if operation == "logs" else "POST"
    path = f"/control/machine/{ref}/{operation}"
    return await api.request(method, path, headers=signer.headers(path, method=method), **rest)


# Operations


async def test_a_program_is_stopped_once(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    instance = await node.run(ref)
    texts = []
    for _ in range(2):
        answer = await operate(api, ref, "stop")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        texts.append(answer.text)
    assert texts == [f"Stopped VM with ref {ref}", "Already stopped, nothing to do"]
    assert not node.runs(instance)


async def test_a_program_is_started_anew(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    texts = [(await operate(api, ref, "reboot")).text for _ in range(2)]
    assert texts == [f"Starting VM (was not running) with ref {ref}", f"Rebooted VM with ref {ref}"]
    assert node.runs(await node.run(ref))


async def test_a_persistent_program_is_kept_again(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet, on={"http": True, "persistent": True})
    await operate(api, ref, "reboot")
    assert len(node.services.kept) == 1
    await operate(api, ref, "stop")
    assert not node.services.kept


async def test_a_program_that_does_not_start_is_told_of(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    node.services.broken = True
    answer = await operate(api, ref, "reboot")
    assert (answer.status_code, answer.json()) == (500, {"error": "500: Error during vm initialisation"})
    assert [line.text for line in node.registry.log_of(ref).lines()] == ["It did not start."]


async def test_erasing_stops_all_versions_and_removes_what_they_kept(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    old = await node.run(ref)
    amend = await node.program(OWNER.wallet, replaces=ref, time=2000.0)
    new = await node.run(amend)
    async with node.services.acquire(old.spec):
        pass
    (await node.volumes.open(ref, "data")).joinpath("kept").write_text("1")
    answer = await operate(api, ref, "erase")
    assert (answer.status_code, answer.text) == (200, f"Erased VM with ref {ref}")
    assert not node.runs(new)
    assert not list((await node.volumes.open(ref, "data")).iterdir())


async def test_a_program_that_comes_back_while_others_stop_is_stopped_again(
    node: Controlled, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await node.program(OWNER.wallet)
    instance = await node.run(ref)
    asked = iter([ref])
    stop, erase = node.services.stop, node.volumes.erase
    running = []

    async def stopped(key: str) -> bool:
        ran = await stop(key)
        for back in asked:
            await node.run(back)
        return ran

    async def erased(origin: str) -> None:
        running.append(node.runs(instance))
        await erase(origin)

    monkeypatch.setattr(node.services, "stop", stopped)
    monkeypatch.setattr(node.volumes, "erase", erased)
    assert (await operate(api, ref, "erase")).status_code == 200
    assert running == [False]


@pytest.mark.parametrize(("asked", "kept"), [({}, False), ({"erase_volumes": "true"}, False),
                                             ({"erase_volumes": "false"}, True)])  # fmt: skip
async def test_reinstalling_keeps_volumes_if_told_to(
    node: Controlled, api: httpx.AsyncClient, asked: dict[str, str], kept: bool
) -> None:
    ref = await node.program(OWNER.wallet)
    (await node.volumes.open(ref, "data")).joinpath("kept").write_text("1")
    answer = await operate(api, ref, "reinstall", params=asked)
    assert (answer.status_code, answer.text) == (200, f"Reinstalled VM with ref {ref}")
    assert (await node.volumes.open(ref, "data")).joinpath("kept").exists() is kept
    assert node.runs(await node.run(ref))


async def test_a_program_expires_once_it_has_answered(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    instance = await node.run(ref)
    answer = await operate(api, ref, "expire")
    assert (answer.status_code, answer.text) == (200, f"Expiring VM with ref {ref} in 0 seconds")
    assert node.services.state(instance.spec.key) is None


async def test_a_program_expires_at_the_last_time_that_was_given(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    instance = await node.run(ref)
    retired = asyncio.Event()
    node.services.retire = lambda key: retired.set()  # type: ignore[method-assign]
    for seconds in ("0.05", "3600"):
        answer = await operate(api, ref, "expire", params={"timeout": seconds})
        assert answer.text == f"Expiring VM with ref {ref} in {seconds} seconds"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(retired.wait(), 0.2)
    assert node.runs(instance)
    await operate(api, ref, "expire", params={"timeout": "0.01"})
    await asyncio.wait_for(retired.wait(), 5)


@pytest.mark.parametrize("operation", ["stop", "reboot", "erase", "reinstall"])
async def test_any_other_operation_takes_the_place_of_an_expiry(
    node: Controlled, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    ref = await node.program(OWNER.wallet)
    await node.run(ref)
    loop, timers = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def watched(delay: float, *args: Any, **rest: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, *args, **rest)
        timers.extend([timer] if delay == 3600 else [])
        return timer

    monkeypatch.setattr(loop, "call_later", watched)
    await operate(api, ref, "expire", params={"timeout": "3600"})
    assert [timer.cancelled() for timer in timers] == [False]
    await operate(api, ref, operation)
    assert [timer.cancelled() for timer in timers] == [True]


@pytest.mark.parametrize("seconds", ["", "0", "-1", "864000", "nan", "inf", "soon"])
async def test_a_program_expires_within_ten_days(node: Controlled, api: httpx.AsyncClient, seconds: str) -> None:
    ref = await node.program(OWNER.wallet)
    answer = await operate(api, ref, "expire", params={"timeout": seconds})
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid timeout duration"})


@pytest.mark.parametrize("path", ["/control/machine/{}/update", "/control/{}/update"])
async def test_an_update_changes_nothing(node: Controlled, api: httpx.AsyncClient, path: str) -> None:
    answer = await api.post(path.format(await node.program(OWNER.wallet)))
    assert (answer.status_code, answer.json()) == (200, {})


# Who may


@pytest.mark.parametrize("operation", [*OPERATIONS, "logs"])
async def test_only_the_owner_is_let_in(node: Controlled, api: httpx.AsyncClient, operation: str) -> None:
    ref = await node.program(OWNER.wallet)
    node.registry.log_of(ref).say("secret")
    instance = await node.run(ref)
    answer = await operate(api, ref, operation, STRANGER)
    assert (answer.status_code, answer.text) == (403, "Unauthorized sender")
    answer = await api.request("GET" if operation == "logs" else "POST", f"/control/machine/{ref}/{operation}")
    assert (answer.status_code, answer.json()) == (400, {"error": "Missing X-SignedPubKey header"})
    assert node.runs(instance)
    assert (await operate(api, ref, operation)).status_code == 200


@pytest.mark.parametrize(
    ("filters", "status"),
    [({}, 200), ({"types": ["PROGRAM"]}, 200), ({"types": ["POST"]}, 403), ({"chain": "SOL"}, 403)],
)
async def test_whoever_may_publish_a_program_may_control_it(
    node: Controlled, api: httpx.AsyncClient, filters: dict[str, Any], status: int
) -> None:
    ref = await node.program(OWNER.wallet)
    entry = {"address": DELEGATE.wallet.address, **filters}
    await node.desk.take(OWNER.wallet.aggregate("security", {"authorizations": [entry]}))
    assert (await operate(api, ref, "stop", DELEGATE)).status_code == status


async def test_a_proof_is_for_one_operation_on_one_program(node: Controlled, api: httpx.AsyncClient) -> None:
    ref, other = await node.program(OWNER.wallet), await node.program(OWNER.wallet, variables={"a": "b"})
    headers = OWNER.headers(f"/control/machine/{ref}/stop")
    for path in (f"/control/machine/{ref}/erase", f"/control/machine/{other}/stop"):
        answer = await api.post(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"].startswith("Invalid path. ")


async def test_what_is_no_program_is_not_found(node: Controlled, api: httpx.AsyncClient) -> None:
    note = OWNER.wallet.post()
    await node.desk.take(note)
    for ref in (NOWHERE, note["item_hash"]):
        answer = await operate(api, ref, "stop")
        assert (answer.status_code, answer.json()) == (404, {"error": f"No virtual machine with ref {ref}"})
    answer = await operate(api, "zz", "stop")
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid ref: 'zz'"})


async def test_proofs_are_verified_beside_the_event_loop(
    node: Controlled, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, authenticate = [], access.authenticate

    def watched(*args: Any, **rest: Any) -> Any:
        threads.append(threading.current_thread())
        return authenticate(*args, **rest)

    monkeypatch.setattr(access, "authenticate", watched)
    await operate(api, await node.program(OWNER.wallet), "stop")
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_nothing_is_verified_for_a_program_that_is_not_here(api: httpx.AsyncClient) -> None:
    answer = await api.post(f"/control/machine/{NOWHERE}/stop", headers={"X-SignedPubKey": "{}"})
    assert (answer.status_code, answer.json()) == (404, {"error": f"No virtual machine with ref {NOWHERE}"})


async def test_a_program_that_is_forgotten_is_not_found(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    await node.desk.take(OWNER.wallet.forget({"item_hash": ref}))
    node.registry.refresh()
    for operation in (*OPERATIONS, "logs"):
        assert (await operate(api, ref, operation)).status_code == 404


async def test_pages_of_any_origin_may_ask(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    preflight = await api.options(
        f"/control/machine/{ref}/stop",
        headers={
            "origin": "https://example.org",
            "access-control-request-method": "POST",
            "access-control-request-headers": "X-SignedPubKey, X-SignedOperation",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-signedpubkey" in preflight.headers["access-control-allow-headers"].lower()
    for path in ("/about/executions/list", "/v2/about/executions/list", "/status/config"):
        answer = await api.get(path, headers={"origin": "https://example.org"})
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_nothing_else_is_here(api: httpx.AsyncClient) -> None:
    answer = await api.get("/about/nothing")
    assert (answer.status_code, answer.json()) == (404, {"error": "404: Not Found"})
    assert (await api.get(f"/control/machine/{NOWHERE}/stop")).status_code == 405


# Logs


async def test_the_log_is_listed_as_a_journal(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    log = node.registry.log_of(ref)
    log.write("stdout", b"hello\n")
    log.write("stderr", b"trouble\n")
    log.say("It ended.")
    answer = await operate(api, ref, "logs")
    assert answer.status_code == 200
    stamps = [entry.pop("__REALTIME_TIMESTAMP") for entry in answer.json()]
    assert all(isinstance(stamp, str) for stamp in stamps)
    assert [(entry["SYSLOG_IDENTIFIER"], entry["MESSAGE"], entry["file"]) for entry in answer.json()] == [
        (f"vm-{ref}-stdout", "hello", "stdout"),
        (f"vm-{ref}-stderr", "trouble", "stderr"),
        (f"vm-{ref}-stderr", "It ended.", "stderr"),
    ]


async def test_a_program_that_never_ran_has_no_log(node: Controlled, api: httpx.AsyncClient) -> None:
    ref = await node.program(OWNER.wallet)
    answer = await operate(api, ref, "logs")
    assert (answer.status_code, answer.json()) == (404, {"error": "No execution found for this VM"})
    await node.run(ref)
    assert (await operate(api, ref, "logs")).json() == []


class Socket:
    """The client's end of a websocket, without a server between."""

    def __init__(self, node: Controlled, ref: str) -> None:
        self._in: asyncio.Queue[Message] = asyncio.Queue()
        self._out: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "websocket", "path": f"/control/machine/{ref}/stream_logs", "headers": [], "query_string": b""}
        self.task = asyncio.ensure_future(node.control(scope, self._in.get, self._out.put))
        self.tell(type="websocket.connect")

    def tell(self, **message: Any) -> None:
        self._in.put_nowait(message)

    def say(self, text: str) -> None:
        self.tell(type="websocket.receive", text=text)

    async def hear(self) -> Any:
        message = await asyncio.wait_for(self._out.get(), 5)
        return json.loads(message["text"]) if message["type"] == "websocket.send" else message["type"]

    async def leave(self) -> None:
        self.tell(type="websocket.disconnect", code=1000)
        await asyncio.wait_for(self.task, 5)


def auth(ref: str, signer: Signer = OWNER, **fields: Any) -> str:
    operation = signer.operation(f"/control/machine/{ref}/stream_logs", **{"method": "GET", **fields})
    return json.dumps({"auth": {"X-SignedPubKey": signer.pubkey(), "X-SignedOperation": operation}})


async def test_lines_come_as_they_are_said(node: Controlled) -> None:
    ref = await node.program(OWNER.wallet)
    log = node.registry.log_of(ref)
    log.write("stdout", b"before\n")
    socket = Socket(node, ref)
    assert await socket.hear() == "websocket.accept"
    socket.say(auth(ref))
    assert await socket.hear() == {"status": "connected"}
    log.write("stdout", b"hello\n")
    log.write("stderr", b"trouble\n")
    log.say("It ended.")
    assert [await socket.hear() for _ in range(3)] == [
        {"type": "stdout", "message": "hello"},
        {"type": "stderr", "message": "trouble"},
        {"type": "system", "message": "It ended."},
    ]
    await socket.leave()
    assert not log._listeners


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (lambda ref: auth(ref, STRANGER), "Unauthorized sender"),
        (lambda ref: auth(ref, method="POST"), "Invalid method. Expected GET, not POST"),
        (lambda ref: auth(NOWHERE), "Invalid path. "),
        (lambda ref: auth(ref, domain="example.org"), "Invalid domain: example.org"),
        (lambda ref: auth(ref, time="2026-01-02T03:00:00Z"), "Token expired"),
        (lambda ref: "{", "The request is not valid JSON"),
        (lambda ref: "[]", "Invalid auth message"),
        (lambda ref: '{"auth": []}', "Invalid auth message"),
        (lambda ref: '{"auth": {}}', "Missing X-SignedPubKey header"),
    ],
)
async def test_the_stream_is_for_the_owner_alone(node: Controlled, frame: Callable[[str], str], reason: str) -> None:
    ref = await node.program(OWNER.wallet)
    socket = Socket(node, ref)
    await socket.hear()
    socket.say(frame(ref))
    answer = await socket.hear()
    assert answer["status"] == "failed"
    assert answer["reason"].startswith(reason)
    assert await socket.hear() == "websocket.close"
    await asyncio.wait_for(socket.task, 5)


async def test_a_client_that_does_not_say_who_it_is_is_left(node: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "PATIENCE", 0.01)
    socket = Socket(node, await node.program(OWNER.wallet))
    assert [await socket.hear() for _ in range(3)] == [
        "websocket.accept",
        {"status": "failed", "reason": "No auth message"},
        "websocket.close",
    ]
    await asyncio.wait_for(socket.task, 5)


async def test_a_client_that_leaves_at_once_is_no_trouble(node: Controlled) -> None:
    socket = Socket(node, await node.program(OWNER.wallet))
    await socket.hear()
    await socket.leave()


async def test_a_client_that_reads_too_slowly_is_left(node: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "WAITING", 2)
    ref = await node.program(OWNER.wallet)
    socket = Socket(node, ref)
    await socket.hear()
    socket.say(auth(ref))
    assert await socket.hear() == {"status": "connected"}
    node.registry.log_of(ref).write("stdout", b"1\n2\n3\n4\n")
    heard = [await socket.hear()]
    while heard[-1] != "websocket.close":
        heard.append(await socket.hear())
    await socket.leave()


# The node


async def test_executions_are_listed(node: Controlled, api: httpx.AsyncClient) -> None:
    idle, running, kept = [
        await node.program(OWNER.wallet, on={"http": True, "persistent": persistent}, variables={"n": str(n)})
        for n, persistent in enumerate((False, False, True))
    ]
    for ref in (idle, running, kept):
        await node.run(ref)
    await operate(api, idle, "stop")
    listed = (await api.get("/about/executions/list")).json()
    assert {ref: each["vm_type"] for ref, each in listed.items()} == {running: "microvm", kept: "persistent_program"}
    assert listed[kept] == {
        "networking": {"ipv4": "", "ipv6": ""},
        "vm_type": "persistent_program",
        "awaiting_confidential_init": False,
    }
    detailed = (await api.get("/v2/about/executions/list")).json()
    assert {ref: each["running"] for ref, each in detailed.items()} == {idle: False, running: True, kept: True}
    assert detailed[kept]["networking"]["mapped_ports"] == {}
    assert detailed[kept]["status"].keys() == {
        "defined_at", "preparing_at", "prepared_at", "starting_at", "started_at", "stopping_at", "stopped_at",
    }  # fmt: skip
    assert detailed[kept]["status"]["started_at"] == NOW.isoformat()


async def test_the_use_of_the_machine_is_told(api: httpx.AsyncClient) -> None:
    usage = (await api.get("/about/usage/system")).json()
    assert usage["cpu"]["count"] > 0
    for kind in ("mem", "disk"):
        assert usage[kind]["total_kB"] >= usage[kind]["available_kB"] > 0
    assert usage["active"] is True


async def test_the_configuration_is_told(api: httpx.AsyncClient) -> None:
    config = (await api.get("/status/config")).json()
    assert config["DOMAIN_NAME"] == "localhost"
    assert config["version"]


async def test_a_run_is_told_to_its_owner_and_to_the_operator(node: Controlled) -> None:
    ref = await node.program(OWNER.wallet)
    begun = Run(run_id="run-1", item_hash=ref, trigger="http", started=1000.0, refs={NOWHERE: NOWHERE})
    await node.desk.ledger.add_run(begun)
    await node.desk.ledger.end_run(replace(begun, ended=1001.0, status=200))
    path, refused = "/about/runs/run-1", {400, 403}
    async with client(node, LOCAL) as operator, client(node, Caller(name="guest")) as guest:
        run = (await operator.get(path)).json()
        assert (run["run_id"], run["item_hash"], run["trigger"], run["status"]) == ("run-1", ref, "http", 200)
        assert (run["refs"], run["export"]) == ({NOWHERE: NOWHERE}, None)
        assert run["started"] <= run["ended"]
        assert (await guest.get(path, headers=OWNER.headers(path, method="GET"))).json() == run
        assert (await guest.get(path)).status_code in refused
        assert (await guest.get(path, headers=STRANGER.headers(path, method="GET"))).status_code in refused
        assert (await operator.get(path, headers={"origin": "https://example.org"})).status_code in refused
        answer = await operator.get("/about/runs/run-2")
        assert (answer.status_code, answer.json()) == (404, {"error": "No run run-2"})
