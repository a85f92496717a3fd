"""What the network's REST surface makes of bodies that are no request (contract, section 5.1), on a real node.

Item 4 of the acceptance checklist (section 8).
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.infernet import DELEGATED, JOB, Container, Node, container, golden, infernet

MOST = 64 * 1024
"""Bytes that a body may have here."""


@pytest.fixture(scope="module")
def box() -> Iterator[Container]:
    with container("a") as box:
        yield box


@pytest.fixture(scope="module")
def node(box: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings = [{"id": "a", "url": box.url}]
    with infernet(tmp_path_factory.mktemp("bodies"), settings, server={"max_body": MOST}) as node:
        yield node


@pytest.mark.parametrize(
    ("body", "start"),
    [
        ("", "body: is not JSON"), ("{", "body: is not JSON"), ("nonsense", "body: is not JSON"),
        ("[]", "body: Input should be an object"), ("null", "body: "), ('"text"', "body: "), ("1", "body: "),
        ("{}", "containers: Field required"), ('{"containers":["a"]}', "data: Field required"),
        ('{"containers":"a","data":{}}', "containers: Input should be a list"),
        ('{"containers":[1],"data":{}}', "containers.0: "), ('{"containers":["a"],"data":[]}', "data: "),
        ('{"containers":["a"],"data":{},"requires_proof":1}', "requires_proof: "),
        ('{"containers":["a"],"data":{},"requires_proof":"true"}', "requires_proof: "),
        ('{"containers":["a"],"data":{"x":NaN}}', "body: "), ('{"containers":["a"],"data":{"x":1e999}}', "body: "),
        ('{"containers":["a"],"data":{"x":' + "1" * 5000 + "}}", "body: "),
        ('{"containers":["a"],"data":' + '{"x":' * 101 + "1" + "}" * 101 + "}", "body: is nested deeper than 100"),
        ("[" * 30_000, "body: is"), ('{"a":' * 10_000, "body: is"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused_where_it_is_wrong(node: Node, body: str, start: str) -> None:
    """Item 4."""
    for path in ("/api/jobs", "/api/jobs/stream"):
        answer = node.client.post(path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
        assert answer.json()["error"].startswith(start)


def test_a_body_that_is_not_utf_8_is_refused(node: Node) -> None:
    answer = node.client.post("/api/jobs", content=b'{"\xff":1}', headers={"content-type": "application/json"})
    golden(answer, 400, '{"error":"body: is not UTF-8"}')


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("signature", "r", 2**256), ("signature", "r", "0x1"), ("signature", "v", 256), ("signature", "nonce", 2**32),
        ("signature", "nonce", True), ("signature", "expiry", -1), ("signature", "s", 1.0),
        ("subscription", "owner", "0x12"), ("subscription", "containers", "a,b"), ("subscription", "lazy", 0),
        ("subscription", "redundancy", 2**16), ("subscription", "payment_amount", "1"),
        ("subscription", "wallet", None),
    ],
)  # fmt: skip
def test_a_delegated_subscription_is_not_coerced(node: Node, table: str, key: str, value: Any) -> None:
    answer = node.client.post("/api/jobs", json={**DELEGATED, table: {**DELEGATED[table], key: value}})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert answer.json()["error"].startswith(f"{table}.{key}: ")


def test_the_last_of_equal_keys_wins(node: Node, box: Container) -> None:
    body = '{"containers":["zz"],"containers":["a"],"data":{"x":1},"data":{"x":2,"x":3}}'
    answer = node.client.post("/api/jobs", content=body, headers={"content-type": "application/json"})
    node.result(answer.json()["id"])
    assert box.seen[-1].document["data"] == {"x": 3}


@pytest.mark.parametrize("path", ["/api/jobs", "/api/jobs/stream"])
def test_a_body_of_another_media_type_is_refused(node: Node, path: str) -> None:
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/jsonx"}):
        answer = node.client.post(path, content=json.dumps(JOB), headers=headers)
        golden(answer, 415, '{"error":"content-type: should be application/json"}')
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
        assert node.client.post(path, content=json.dumps(JOB), headers={"content-type": kind}).status_code == 200


def padded(size: int) -> bytes:
    start, end = b'{"containers":["a"],"data":{"x":"', b'"}}'
    return start + b"x" * (size - len(start) - len(end)) + end


def test_a_body_that_is_too_long_is_refused_however_it_is_sent(node: Node) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/api/jobs", "/api/jobs/batch", "/api/jobs/stream"):
        over = node.client.post(path, content=padded(MOST + 1), headers=headers)
        golden(over, 413, f'{{"error":"body: is longer than {MOST} bytes"}}')
        chunked = node.client.post(path, content=iter([padded(MOST), b" "]), headers=headers)
        golden(chunked, 413, f'{{"error":"body: is longer than {MOST} bytes"}}')
    assert node.client.put("/api/status", content=padded(MOST + 1)).status_code == 413
    assert node.client.post("/api/jobs", content=padded(MOST), headers=headers).status_code == 200


@pytest.mark.parametrize("framing", ["content-length: 104857600", "transfer-encoding: chunked"])
def test_a_huge_body_does_not_grow_the_node(node: Node, framing: str) -> None:
    head = f"POST /api/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{framing}\r\n\r\n".encode()
    megabyte = b"x" * 2**20
    frame = megabyte if framing.startswith("content") else b"100000\r\n" + megabyte + b"\r\n"
    process = psutil.Process()
    before = process.memory_info().rss
    with node.raw(head) as connection:
        most = before
        try:
            for _ in range(100):
                connection.sendall(frame)
                most = max(most, process.memory_info().rss)
            if not framing.startswith("content"):
                connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass  # it may hang up
        assert connection.recv(2**16).startswith(b"HTTP/1.1 413 ")
    assert most - before < 20 * 2**20


def test_a_client_that_leaves_within_its_body_harms_nothing(node: Node) -> None:
    head = (
        b"POST /api/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    )
    with node.raw(head) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    assert node.client.get("/health").status_code == 200
