"""Streams (contract, sections 2.3 and 4.6) on a real node: framing, bytes, back-pressure, failures, departures.

Item 7 of the acceptance checklist (section 8).
"""

import asyncio
import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from moorage.networks.infernet.calls import Calls, TimedOut, remote
from tests.infernet import (
    WITHIN,
    Answer,
    Container,
    Exchange,
    Node,
    Seen,
    container,
    frames,
    free_port,
    infernet,
    until,
)

IDLE = 0.3
MIB = 2**20


@pytest.fixture(scope="module")
def box() -> Iterator[Container]:
    with container("a") as box:
        yield box


@pytest.fixture(scope="module")
def node(box: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings = [
        {"id": "a", "url": box.url},
        {"id": "idle", "url": box.url, "moorage": {"stream_idle_timeout": IDLE}},
        {"id": "short", "url": box.url, "moorage": {"stream_timeout": IDLE}},
        {"id": "single", "url": box.url, "moorage": {"concurrency": 1}},
        {"id": "gone", "url": f"http://127.0.0.1:{free_port()}"},
    ]
    with infernet(tmp_path_factory.mktemp("streams"), settings) as node:
        yield node


@pytest.fixture(autouse=True)
def fresh(box: Container, node: Node) -> Iterator[None]:
    yield
    box.reset()
    until(lambda: node.client.get("/info").json()["pending"]["offchain"] == 0)


def request(name: str = "a", query: str = "", data: Mapping[str, Any] | None = None) -> bytes:
    """Write a request for a stream as it goes over the wire."""
    body = json.dumps({"containers": [name], "data": data or {}, "requires_proof": False}).encode()
    head = (
        f"POST /api/jobs/stream{query} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def streamed(node: Node, name: str = "a", query: str = "") -> tuple[str, bytes]:
    """Give the id of a job and its whole stream."""
    with node.raw(request(name, query)) as connection:
        _, first, *chunks, last = frames(connection)
    assert (first[-1:], last) == (b"\n", b"")
    return first[:-1].decode(), b"".join(chunks)


def gives(*chunks: bytes, then: Callable[[Exchange], object] = Exchange.end) -> Answer:
    def answer(exchange: Exchange, seen: Seen) -> None:
        exchange.stream()
        for chunk in chunks:
            exchange.chunk(chunk)
        then(exchange)

    return answer


def error_of(node: Node, job_id: str, name: str = "a") -> str:
    result = node.result(job_id)
    assert result["status"] == "failed"
    assert list(result["result"]) == ["container", "error"]
    assert (result["result"]["container"], bool(result["result"]["error"])) == (name, True)
    error: str = result["result"]["error"]
    return error


# what goes over the wire


def test_the_id_is_a_chunk_of_its_own_before_any_byte_of_the_container(node: Node, box: Container) -> None:
    box.answer = lambda exchange, seen: (box.gate.wait(20), gives(b"one", b"two")(exchange, seen))[1]
    with node.raw(request()) as connection:
        arriving = frames(connection)
        head = next(arriving)
        job_id = next(arriving)
        assert len(job_id) == 37
        assert job_id.endswith(b"\n")
        box.until(1)
        running = node.client.get("/api/jobs", params={"id": job_id[:-1].decode()})
        assert running.json()[0]["status"] == "running"
        box.gate.set()
        rest = list(arriving)
    assert (b"".join(rest), rest[-1]) == (b"onetwo", b"")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 200 ok"
    assert {"content-type: application/octet-stream", "x-content-type-options: nosniff", "transfer-encoding: chunked",
            "ratelimit-limit: 100000"} < set(lines)  # fmt: skip


def test_a_container_is_asked_for_a_stream_without_a_word_of_proofs(node: Node, box: Container) -> None:
    box.answer = gives(b"x")
    with node.raw(request(data={"z": [1], "a": "\u00fc"})) as connection:
        list(frames(connection))
    assert [seen.body for seen in box.seen] == [b'{"source":1,"destination":2,"data":{"z":[1],"a":"\\u00fc"}}']


def test_bytes_come_as_they_were_sent_and_are_kept(node: Node, box: Container) -> None:
    for chunks, output in [
        ((b"Hello ", "\u00fc\U0001f600".encode()), {"output": "Hello \u00fc\U0001f600"}),
        (("\u00fc".encode()[:1], "\u00fc".encode()[1:]), {"output": "\u00fc"}),
        ((b"\0\r\n\x80\xff", bytes(range(256))), {"output_base64": base64.b64encode(
            b"\0\r\n\x80\xff" + bytes(range(256))).decode()}),
        ((), {"output": ""}),
    ]:  # fmt: skip
        box.answer = gives(*chunks)
        job_id, body = streamed(node)
        assert body == b"".join(chunks)
        assert node.result(job_id) == {
            "id": job_id, "status": "success", "result": {"container": "a", "output": output},
        }  # fmt: skip


def test_bytes_are_passed_on_as_soon_as_they_come(node: Node, box: Container) -> None:
    def ping(exchange: Exchange, seen: Seen) -> None:
        exchange.stream()
        for _ in range(3):
            box.gate.wait(20)
            box.gate.clear()
            exchange.chunk(b"pong")
        exchange.end()

    box.answer = ping
    with node.raw(request()) as connection:
        arriving = frames(connection)
        next(arriving)
        next(arriving)
        for _ in range(3):
            box.gate.set()
            assert next(arriving) == b"pong"
        assert list(arriving) == [b""]


def test_a_large_stream_comes_whole_and_is_kept_in_part(node: Node, box: Container) -> None:
    block = os.urandom(MIB)
    box.answer = gives(*[block] * 50)
    process, digest, size, most = psutil.Process(), hashlib.sha256(), 0, 0
    before = process.memory_info().rss
    with node.raw(request()) as connection:
        arriving = frames(connection)
        next(arriving)
        job_id = next(arriving)[:-1].decode()
        for chunk in arriving:
            digest.update(chunk)
            size += len(chunk)
            most = max(most, process.memory_info().rss)
    assert (size, digest.digest()) == (50 * MIB, hashlib.sha256(block * 50).digest())
    assert most - before < 40 * MIB
    output = node.result(job_id)["result"]["output"]
    assert output == {"output_base64": base64.b64encode(block).decode(), "truncated": True}


def test_a_text_is_cut_between_characters(node: Node, box: Container) -> None:
    box.answer = gives(b"x" + "\u00fc".encode() * MIB)
    job_id, _ = streamed(node)
    output = node.result(job_id)["result"]["output"]
    assert output == {"output": "x" + "\u00fc" * (MIB // 2 - 1), "truncated": True}


def test_a_client_that_does_not_read_holds_the_container_back(node: Node, box: Container) -> None:
    sent = [0]

    def endless(exchange: Exchange, seen: Seen) -> None:
        exchange.stream()
        while True:
            exchange.chunk(b"x" * 65536)
            sent[0] += 65536

    box.answer = endless
    process = psutil.Process()
    with node.raw(request()) as connection:
        box.until(1)
        before, stalled = process.memory_info().rss, [-1, 0.0]

        def still() -> bool:
            if stalled[0] != sent[0]:
                stalled[:] = [sent[0], time.monotonic()]
            return time.monotonic() - stalled[1] > 0.3

        until(still)
        # What the kernel holds for two connections over loopback is most of it.
        assert 0 < sent[0] < 24 * MIB
        assert process.memory_info().rss - before < 8 * MIB
        assert connection.recv(9) == b"HTTP/1.1 "
        held = sent[0]
        for _ in range(200):
            connection.recv(MIB)
        until(lambda: sent[0] > held)


# how it ends


def test_a_client_that_leaves_ends_the_request_and_fails_the_job(node: Node, box: Container) -> None:
    left: list[float] = []

    def watched(exchange: Exchange, seen: Seen) -> None:
        exchange.stream()
        exchange.chunk(b"first")
        if exchange.until_left():
            left.append(time.monotonic())

    box.answer = watched
    with node.raw(request()) as connection:
        arriving = frames(connection)
        next(arriving)
        job_id = next(arriving)[:-1].decode()
        assert next(arriving) == b"first"
    gone = time.monotonic()
    until(lambda: bool(left))
    assert left[0] - gone < 1
    assert error_of(node, job_id) == "Client disconnected"


def test_a_client_that_leaves_before_the_container_has_answered_is_noticed_too(node: Node, box: Container) -> None:
    left: list[bool] = []
    box.answer = lambda exchange, _: left.append(exchange.until_left())
    with node.raw(request()) as connection:
        arriving = frames(connection)
        next(arriving)
        job_id = next(arriving)[:-1].decode()
        box.until(1)
    until(lambda: left == [True])
    assert error_of(node, job_id) == "Client disconnected"


def test_a_client_that_leaves_while_its_stream_waits_takes_it_out_of_the_queue(node: Node, box: Container) -> None:
    box.answer = box.held
    first = node.submit("single")
    box.until(1)
    with node.raw(request("single")) as connection:
        arriving = frames(connection)
        next(arriving)
        job_id = next(arriving)[:-1].decode()
    assert error_of(node, job_id, "single") == "Client disconnected"
    box.gate.set()
    assert node.result(first)["status"] == "success"
    assert len(box.seen) == 1


def test_a_stream_that_is_cancelled_ends_and_says_so(node: Node, box: Container) -> None:
    box.answer = silent()
    with node.raw(request()) as connection:
        arriving = frames(connection)
        next(arriving)
        job_id = next(arriving)[:-1].decode()
        box.until(1)
        node.client.delete("/api/jobs", params={"id": job_id})
        assert list(arriving) == [b""]
    assert error_of(node, job_id) == "Job cancelled"


def broken(*chunks: bytes) -> Answer:
    return gives(*chunks, then=Exchange.drop)


def silent(*chunks: bytes) -> Answer:
    return gives(*chunks, then=Exchange.until_left)


def drips(exchange: Exchange, seen: Seen) -> None:
    exchange.stream()
    while not exchange.box.gate.wait(0.05):
        exchange.chunk(b"x")


def fails(exchange: Exchange, seen: Seen) -> None:
    exchange.reply(b'{"code":"500"}', 500)


@pytest.mark.parametrize(
    "case",
    [
        ("a", fails, b"", 'HTTP 500: {"code":"500"}'), ("a", broken(), b"", "The connection broke: "),
        ("a", broken(b"some"), b"some", "The connection broke: "), ("gone", fails, b"", "Cannot connect to host "),
        ("idle", silent(), b"", f"Timeout: no byte came for {IDLE} s"),
        ("idle", silent(b"some"), b"some", f"Timeout: no byte came for {IDLE} s"),
        ("short", drips, None, f"Timeout after {IDLE} s"),
    ],
    ids=["status", "breaks", "breaks later", "nobody", "silence", "silence later", "too long"],
)  # fmt: skip
def test_a_container_that_fails_ends_the_body_and_the_job_tells(
    node: Node, box: Container, case: tuple[str, Answer, bytes | None, str]
) -> None:
    name, box.answer, body, error = case
    job_id, found = streamed(node, name)
    assert body is None or found == body
    assert error_of(node, job_id, name).startswith(error)
    box.gate.set()
    with node.raw(request(name, "?strict=1")) as connection:
        arriving = frames(connection)
        head = next(arriving).lower()
        if body:
            assert head.startswith(b"http/1.1 200 ")
            job_id = next(arriving)[:-1].decode()
            assert list(arriving) == [body], "the last chunk never comes"
            assert error_of(node, job_id, name).startswith(error)


def floods(exchange: Exchange, seen: Seen) -> None:
    exchange.stream()
    while not exchange.box.gate.is_set():
        exchange.chunk(bytes(1 << 16))


@pytest.mark.anyio
async def test_a_stream_that_never_has_to_be_waited_for_ends_in_time_too(box: Container) -> None:
    async def drain() -> None:
        with Calls("a", remote, url=box.url, stream_timeout=IDLE) as calls:
            async for _ in calls.stream(b"{}"):
                await asyncio.sleep(0.01)  # meanwhile more comes

    box.answer = floods
    with pytest.raises(TimedOut, match=f"Timeout after {IDLE} s"):
        await asyncio.wait_for(drain(), WITHIN)
    box.gate.set()


@pytest.mark.parametrize(("name", "answer"), [("a", fails), ("a", broken()), ("gone", fails), ("idle", silent())])
def test_a_strict_stream_fails_before_its_first_byte_with_a_status(
    node: Node, box: Container, name: str, answer: Answer
) -> None:
    box.answer = answer
    body = {"containers": [name], "data": {}}
    found = node.client.post("/api/jobs/stream", params={"strict": "1"}, json=body)
    assert (found.status_code, found.headers["content-type"]) == (502, "application/json")
    (params,) = found.json()["params"].values()
    error = error_of(node, params, name)
    document = {"error": error, "params": {"id": params}}
    assert found.content == json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def test_a_strict_stream_without_a_failure_is_as_any_other(node: Node, box: Container) -> None:
    for chunks in ((b"a", b"b"), ()):
        box.answer = gives(*chunks)
        assert streamed(node, query="?strict=1")[1] == b"".join(chunks)


# what is refused, and what waits


def test_only_one_container_can_stream(node: Node) -> None:
    answer = node.client.post("/api/jobs/stream", json={"containers": ["a", "a"], "data": {}})
    assert (answer.status_code, answer.content) == (400, b'{"error":"containers: only one can stream"}\n')


def test_a_stream_waits_for_a_place_and_then_comes(node: Node, box: Container) -> None:
    box.answer = box.held
    job = node.submit("single")
    box.until(1)
    with node.raw(request("single")) as connection:
        arriving = frames(connection)
        next(arriving)
        stream = next(arriving)[:-1].decode()
        assert node.client.get("/api/jobs", params={"id": stream}).json()[0]["status"] == "running"
        assert len(box.seen) == 1
        box.answer = gives(b"now")
        box.gate.set()
        assert list(arriving) == [b"now", b""]
    assert [node.result(each)["status"] for each in (job, stream)] == ["success"] * 2


def test_streams_do_not_hold_up_the_stop_of_the_node(tmp_path: Path, box: Container) -> None:
    box.answer = silent(b"first")
    with ExitStack() as clients:
        with infernet(tmp_path, [{"id": "a", "url": box.url}]) as node:
            asked = [request(query=query) for query in ("", "", "?strict=1")]
            streams = [frames(clients.enter_context(node.raw(each))) for each in asked]
            begins = [[next(stream) for _ in range(3)][1:] for stream in streams]
            assert {first for _, first in begins} == {b"first"}
            begun = time.monotonic()
        assert time.monotonic() - begun < 3
        assert [list(stream) for stream in streams] == [[b""], [b""], []], "what is strict breaks off"
    with infernet(tmp_path, [{"id": "a", "url": box.url}]) as node:
        for line, _ in begins:
            assert error_of(node, line[:-1].decode()) == "Interrupted by node restart"


def test_a_strict_stream_that_has_not_begun_is_told_that_the_node_stops(tmp_path: Path, box: Container) -> None:
    box.answer = silent()
    with ExitStack() as clients:
        with infernet(tmp_path, [{"id": "a", "url": box.url}]) as node:
            connection = clients.enter_context(node.raw(request(query="?strict=1")))
            box.until(1)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'{"error":"Interrupted by node restart","params":{"id":"' in answer
