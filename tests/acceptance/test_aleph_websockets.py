"""Websockets through the node (contract, sections 2.6, A24, 2.7 and 4.2; checklist, item 36)."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.aleph_lab import LAB, host_of
from tests.aleph_node import AlephNode, aleph_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


@pytest.fixture(scope="module")
def lab(node: AlephNode) -> str:
    return node.deploy(LAB)


def websocket(node: AlephNode, path: str, *, host: str = "127.0.0.1", **options: Any) -> ClientConnection:
    """Open one; the first of a run may have to wait until the runtime is built."""
    port = int(node.url.rpartition(":")[2])
    return connect(
        f"ws://{host}:{port}{path}", address=("127.0.0.1", port), proxy=None, max_size=None, open_timeout=60, **options
    )


def test_text_and_bytes_come_back_by_path_and_by_host(node: AlephNode, lab: str) -> None:
    for path, host in ((f"/vm/{lab}/echo", "127.0.0.1"), ("/echo", host_of(lab))):
        with websocket(node, path, host=host) as client:
            for message in ("text", b"bytes \x00", "", "x" * 200_000, b"y" * (1 << 20)):
                client.send(message)
                assert client.recv(timeout=20) == message


def test_a_program_sees_who_asks_for_what(node: AlephNode, lab: str) -> None:
    with websocket(node, f"/vm/{lab}/scope?a=1%262", subprotocols=["one", "two"]) as client:
        scope = json.loads(client.recv(timeout=20))
        assert client.subprotocol == "two"
        assert client.response is not None
        assert client.response.headers["x-own"] == "1"
        address = client.local_address
    assert (scope["type"], scope["scheme"], scope["subprotocols"]) == ("websocket", "ws", ["one", "two"])
    assert (scope["path"], scope["root_path"], scope["query_string"]) == ("/scope", f"/vm/{lab}", "a=1%262")
    assert scope["client"] == list(address)


@pytest.mark.parametrize(("path", "status"), [("refused", 403), ("raises", 500)])
def test_a_websocket_that_is_not_accepted_is_answered_as_http(
    node: AlephNode, lab: str, path: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused, websocket(node, f"/vm/{lab}/{path}"):
        pass
    assert refused.value.response.status_code == status
    assert (b"Traceback" in (refused.value.response.body or b"")) is (status == 500)


@pytest.mark.parametrize(("path", "code", "reason"), [("closed", 4001, "enough"), ("raises_later", 1011, "")])
def test_a_program_closes_with_a_code(node: AlephNode, lab: str, path: str, code: int, reason: str) -> None:
    with websocket(node, f"/vm/{lab}/{path}") as client, pytest.raises(ConnectionClosedError) as closed:
        client.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


def test_a_program_sees_how_its_client_leaves(node: AlephNode, lab: str) -> None:
    with websocket(node, f"/vm/{lab}/echo") as client:
        client.close(4002, "enough")
    assert node.get(lab, "/left").text == "left"
    assert "closed with 4002" in [line.text for line in node.log(lab)]
    with websocket(node, f"/vm/{lab}/echo") as client:
        client.send("here")
        client.recv(timeout=20)
        client.socket.shutdown(2)
        assert node.get(lab, "/left").text == "left"
    assert {"closed with 1005", "closed with 1006"} & {line.text for line in node.log(lab)}


def test_a_websocket_outlives_the_time_that_requests_have(node: AlephNode) -> None:
    program = node.deploy(LAB, resources={"seconds": 1})
    with websocket(node, f"/vm/{program}/echo") as client:
        assert node.get(program, "/never").status_code == 504
        client.send("still here")
        assert client.recv(timeout=20) == "still here"


def test_many_websockets_of_one_program_live_beside_each_other(node: AlephNode, lab: str) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(websocket(node, f"/vm/{lab}/echo")) for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(str(number))
        assert [client.recv(timeout=20) for client in clients] == [str(number) for number in range(20)]
        assert node.get(lab, "/told").text == "fine"


def test_a_head_that_is_too_large_for_a_websocket_is_refused_at_once_and_harms_no_program(
    node: AlephNode, lab: str
) -> None:
    with websocket(node, f"/vm/{lab}/echo") as other:
        for path in ("/api/ws0/messages", f"/vm/{lab}/echo"):
            with pytest.raises(InvalidStatus) as refused:
                websocket(node, path, additional_headers={"cookie": "a" * 9000})
            assert refused.value.response.status_code == 400
        other.send("still here")
        assert other.recv(timeout=20) == "still here"


def test_the_node_itself_tells_of_messages_by_websocket(node: AlephNode) -> None:
    with websocket(node, "/api/ws0/messages?history=0") as client:
        posted = node.publish(node.wallet.post("hello", time=node.now()))
        assert json.loads(client.recv(timeout=20))["item_hash"] == posted


SERVER = """#!/usr/bin/env python3
import asyncio, websockets

async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)

async def main():
    async with websockets.serve(echo, "0.0.0.0", 8080, max_size=None, subprotocols=["one"]):
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_an_executable_speaks_websocket_too(node: AlephNode) -> None:
    program = node.deploy(SERVER, entrypoint="serve.py", more={"interface": "binary"})
    with websocket(node, f"/vm/{program}/any", subprotocols=["one"]) as client:
        for message in ("text", b"bytes", "x" * 200_000):
            client.send(message)
            assert client.recv(timeout=20) == message
        assert client.subprotocol == "one"
    with websocket(node, "/", host=host_of(program), subprotocols=["one"]) as client:
        client.send("by name")
        assert client.recv(timeout=20) == "by name"


def test_a_node_ends_though_websockets_are_open(tmp_path: Path, aleph_layers: Path) -> None:
    with contextlib.ExitStack() as stack:
        with aleph_node(tmp_path / "data", layers=aleph_layers) as own:
            client = stack.enter_context(websocket(own, f"/vm/{own.deploy(LAB)}/echo"))
            client.send("here")
            client.recv(timeout=20)
        with pytest.raises(ConnectionClosedError):
            client.recv(timeout=20)
