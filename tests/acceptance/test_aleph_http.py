"""HTTP through the node, to a program and back (contract, section 2.6; checklist, items 29 and 31 to 34)."""

import concurrent.futures
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aleph_lab import LAB, connection, say, to_end, until
from tests.aleph_node import AlephNode, aleph_node

SIZES = [0, 1, 200_000, 250_000, (1 << 20) + 1, 50 << 20]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


@pytest.fixture(scope="module")
def lab(node: AlephNode) -> str:
    return node.deploy(LAB)


def pieces(data: bytes) -> Iterator[bytes]:
    """Give a body whose length is not told."""
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


def line(lab: str, path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Give the head of a request."""
    return "\r\n".join([f"{method} /vm/{lab}{path} HTTP/{version}", "host: localhost", *headers, "", ""]).encode()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("told", [True, False], ids=["length", "chunks"])
def test_bodies_arrive_as_they_were_sent_and_so_do_answers(node: AlephNode, lab: str, size: int, told: bool) -> None:
    data = os.urandom(size)
    arrived = node.client.post(f"/vm/{lab}/digest", content=data if told else pieces(data))
    assert arrived.json() == [size, hashlib.sha256(data).hexdigest()]
    back = node.client.post(f"/vm/{lab}/returned", content=data if told else pieces(data))
    assert back.content == data


def test_a_body_is_answered_while_it_is_still_being_sent(node: AlephNode, lab: str) -> None:
    with connection(node.url) as client:
        client.sendall(line(lab, "/echo", "transfer-encoding: chunked", "connection: close", method="POST"))
        client.sendall(b"5\r\nfirst\r\n")
        assert until(client, b"first").startswith(b"HTTP/1.1 200")
        client.sendall(b"6\r\nsecond\r\n")
        until(client, b"second")
        client.sendall(b"0\r\n\r\n")
        assert to_end(client).endswith(b"0\r\n\r\n")


def test_no_client_smuggles_a_request_in_its_body(node: AlephNode, lab: str) -> None:
    forged = b"GET /vm/x/cookies HTTP/1.1\r\nmoorage: http run - http 1.2.3.4 1\r\n\r\n"
    for token in ("content-length", "transfer-encoding, content-length", "host, moorage"):
        sent = line(lab, "/returned", f"content-length: {len(forged)}", f"connection: close, {token}", method="POST")
        assert say(node.url, sent + forged).endswith(b"\r\n\r\n" + forged)
        assert node.get(lab, "/told").text == "fine"


def test_a_program_may_answer_before_it_has_read_all_of_a_body(node: AlephNode, lab: str) -> None:
    assert node.client.post(f"/vm/{lab}/first", content=os.urandom(20 << 20)).text == "enough"
    assert node.get(lab, "/told").text == "fine"


def test_events_come_as_they_are_sent(node: AlephNode, lab: str) -> None:
    with node.client.stream("GET", f"/vm/{lab}/sse") as answer:
        events = answer.iter_text()
        assert next(events) == "data: first\n\n"
        assert node.get(lab, "/go").text == "gone"
        assert "".join(events) == "data: last\n\n"


@pytest.mark.parametrize("query", ["", "?answering"])
@pytest.mark.parametrize("body", ["", "data"])
def test_a_program_sees_that_its_client_has_left_and_serves_others(
    node: AlephNode, lab: str, query: str, body: str
) -> None:
    with connection(node.url) as client:
        client.sendall(line(lab, f"/stay{query}", f"content-length: {len(body)}", method="POST") + body.encode())
        assert node.get(lab, "/came").text == "came"
    assert node.get(lab, "/left").text == "left"


def test_a_client_that_leaves_while_its_program_is_started_is_not_answered_for_ever(node: AlephNode) -> None:
    program = node.deploy(LAB + "\n# its own\n")
    with connection(node.url) as client:
        client.sendall(line(program, "/endless"))
    assert any(node.get(program, "/told").text == "fine" and not _held(node, program) for _ in range(500))


def _held(node: AlephNode, program: str) -> int:
    """Count the requests that a program is busy with."""
    states = node.served.node.services.states()
    return next(each.leases for each in states if each.key.startswith(f"aleph:{program}"))


def test_background_work_delays_no_answer(node: AlephNode, lab: str) -> None:
    began = time.monotonic()
    assert [node.get(lab, "/after").text for _ in range(3)] == ["fine"] * 3
    assert time.monotonic() - began < 4


def test_requests_of_one_program_run_at_the_same_time(node: AlephNode, lab: str) -> None:
    node.get(lab, "/told")
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        began = time.monotonic()
        answers = list(threads.map(lambda _: node.get(lab, "/slow").text, range(20)))
        took = time.monotonic() - began
    assert answers == ["slow"] * 20
    assert took < 2  # one after the other they would take four


def test_headers_of_answers_are_kept_in_their_order_and_ours_are_added(node: AlephNode, lab: str) -> None:
    answer = node.get(lab, "/cookies")
    raw = [(name.lower(), value) for name, value in answer.headers.raw]
    own = [(b"set-cookie", b"a=1"), (b"x-own", b"between"), (b"set-cookie", b"b=2")]
    assert [header for header in raw if header in own] == own
    assert answer.headers["content-length"] == "4"
    assert answer.headers["aleph-program-itemhash"] == lab
    assert len(answer.headers["aleph-program-code-ref"]) == 64
    assert answer.headers["aleph-run-id"].startswith("run")
    assert not [name for name, _ in raw if name.startswith(b"moorage")]
    assert raw.count((b"date", answer.headers["date"].encode())) == 1


def test_a_packed_body_stays_as_it_is(node: AlephNode, lab: str) -> None:
    with node.client.stream("GET", f"/vm/{lab}/packed") as answer:
        assert b"".join(answer.iter_raw()).startswith(b"\x1f\x8b")
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "accept-encoding")
    assert node.get(lab, "/packed").text == "packed " * 100


def test_pages_of_the_programs_own_pass_whatever_their_status(node: AlephNode, lab: str) -> None:
    answer = node.get(lab, "/nowhere")
    assert (answer.status_code, answer.content, answer.headers["x-own"]) == (404, b"\x00\xff no", "1")
    assert answer.headers["content-type"] == "image/x-none"
    for status in (201, 204, 304, 307, 400, 418, 503):
        found = node.get(lab, f"/pages/{status}")
        assert (found.status_code, found.content, found.headers["x-own"]) == (status, b"", "1")


@pytest.mark.parametrize("path", ["/told", "/open_ended", "/cookies", "/pages/204", "/pages/304", "/nowhere"])
def test_no_body_comes_where_there_is_none_and_the_connection_lives_on(node: AlephNode, lab: str, path: str) -> None:
    with connection(node.url) as client:
        client.sendall(line(lab, path, method="HEAD"))
        head = until(client, b"\r\n\r\n")
        assert head.endswith(b"\r\n\r\n")
        client.sendall(line(lab, "/told", "connection: close"))
        assert to_end(client).startswith(b"HTTP/1.1 200")


def test_requests_that_were_sent_at_once_are_answered_one_after_the_other(node: AlephNode, lab: str) -> None:
    paths = ["/slow", "/told", "/open_ended", "/pages/204"]
    requests = b"".join(line(lab, path) for path in paths) + line(lab, "/cookies", "connection: close")
    read = say(node.url, requests)
    assert [read.count(part) for part in (b"HTTP/1.1 200", b"HTTP/1.1 204")] == [4, 1]
    assert read.index(b"slow") < read.index(b"first ") < read.index(b"HTTP/1.1 204") < read.index(b"set-cookie")


@pytest.mark.parametrize(("path", "body"), [("/told", b"fine"), ("/open_ended", b"first last"), ("/pages/204", b"")])
def test_clients_of_http_1_0_are_served(node: AlephNode, lab: str, path: str, body: bytes) -> None:
    head, _, rest = say(node.url, line(lab, path, version="1.0")).partition(b"\r\n\r\n")
    assert rest == body
    assert b"transfer-encoding" not in head


def test_a_client_may_ask_whether_to_send_its_body(node: AlephNode, lab: str) -> None:
    with connection(node.url) as client:
        client.sendall(line(lab, "/echo", "content-length: 4", "expect: 100-continue", method="POST"))
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        client.sendall(b"data")
        assert b"data" in until(client, b"data")


def test_an_offer_to_upgrade_is_an_ordinary_request_to_a_program_that_takes_none(node: AlephNode, lab: str) -> None:
    with connection(node.url) as client:
        client.sendall(line(lab, "/told", "connection: upgrade", "upgrade: h2c"))
        until(client, b"fine")
        client.sendall(line(lab, "/cookies", "connection: close"))
        assert b"set-cookie" in to_end(client)


def test_what_a_program_says_is_in_its_log_with_the_run_that_said_it(node: AlephNode, lab: str) -> None:
    runs = {name: node.get(lab, f"/says?{name}").headers["aleph-run-id"] for name in ("one", "other")}
    found = {each.text: each for each in node.log(lab)}
    for name, run in runs.items():
        said = found[f"half a line of {name}"]
        assert (said.source, said.run) == ("stdout", run)
    assert (found["an error"].source, found["an error"].run) == ("stderr", runs["other"])
    assert time.time() - 60 < found["an error"].time <= time.time()
