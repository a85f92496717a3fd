"""What clients get of programs that fail, end or take too long (contract, sections 2.6, A18 to A23, and 5)."""

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from moorage.networks.aleph.messages.hashes import sha256
from tests.aleph import Wallet
from tests.aleph_lab import LAB, connection, until
from tests.aleph_node import RAW, AlephNode, aleph_node, zipped

TEXT = "text/plain; charset=utf-8"
DIED = (502, "VM did not respond and was shut down")
LATE = (504, "Program did not respond within `resource.seconds`")
FAILED, NEVER_READY = "500: Error during vm initialisation", "500: Error during runtime initialisation"
MISSING = "400: Code, runtime or data not available"
SHORT = {"seconds": 1, "memory": 128}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    data_dir = tmp_path_factory.mktemp("node") / "data"
    with aleph_node(data_dir, layers=aleph_layers, max_body=1 << 20, start_timeout=3) as running:
        yield running


@pytest.fixture(scope="module")
def lab(node: AlephNode) -> str:
    return node.deploy(LAB, resources=SHORT)


def refused(answer: httpx.Response, status: int, error: str) -> bool:
    """Tell whether an answer is the node's own, and says this."""
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == "application/json"
    return "aleph-run-id" not in answer.headers


def said(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == TEXT
    return answer.status_code, answer.text


# Addresses that serve nothing


@pytest.mark.parametrize("address", ["nothing", "A" * 64, "a" * 63, "%2e%2e", ""])
def test_an_address_that_is_no_hash_is_refused(node: AlephNode, address: str) -> None:
    assert refused(node.client.get(f"/vm/{address}/x"), 400, f"Invalid message reference: {address}")


def test_a_hash_of_nothing_and_one_of_another_message_are_refused(node: AlephNode) -> None:
    unknown, post = "ab" * 32, node.publish(node.wallet.post("hello", time=node.now()))
    assert refused(node.get(unknown), 404, f"Hash not found: {unknown}")
    assert refused(node.get(post), 400, f"Message {post} is not a program")
    assert refused(node.client.get("/api/v0/nothing"), 404, "404: Not Found")


def test_a_forgotten_program_is_gone(node: AlephNode) -> None:
    program = node.deploy()
    assert node.get(program).text == "hello"
    node.publish(node.wallet.forget({"item_hash": program}, time=node.now()))
    assert refused(node.get(program), 410, f"Program {program} has been forgotten")


def test_a_program_whose_code_is_not_here_yet_asks_for_patience_and_serves_once_it_is(node: AlephNode) -> None:
    stored = node.client.post("/api/v0/storage/add_file", content=RAW.encode()).json()["hash"]
    store = node.wallet.store(stored, time=node.now())
    message = node.wallet.program(store["item_hash"], time=node.now())
    program = node.publish(message, expect=202)
    answer = node.get(program)
    assert refused(answer, 503, f"Program {program} waits for {store['item_hash']}")
    assert int(answer.headers["retry-after"]) > 0
    node.publish(store)
    assert node.get(program).text == "hello"


def test_a_program_that_takes_no_http_says_so(node: AlephNode) -> None:
    program = node.deploy(on={"http": False})
    expected = f"Program {program} does not accept HTTP requests (on.http is false)"
    assert refused(node.get(program), 403, expected)


def test_code_that_is_lost_is_told_of(node: AlephNode) -> None:
    code = f"{RAW}\n# to be lost\n"
    program = node.deploy(code)
    node.served.node.blobs.path(sha256(code)).unlink()
    assert refused(node.get(program), 400, MISSING)


# Programs that do not start

BAD = {
    "raises": ("raise ValueError('a reason')", "a reason"),
    "exits": ("import sys; sys.exit(0)", "SystemExit"),
    "syntax": ("def (", "SyntaxError"),
    "nothing": ("other = 1", "has no attribute 'app'"),
    "no callable": ("app = 1", "cannot be called"),
    "startup": (
        """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "a reason"})
""",
        "a reason",
    ),
}


@pytest.mark.parametrize(("code", "reason"), BAD.values(), ids=BAD)
def test_a_program_that_does_not_start_is_the_owners_to_know_why(node: AlephNode, code: str, reason: str) -> None:
    program = node.deploy(code)
    assert refused(node.get(program), 500, FAILED)
    assert any(reason in line.text for line in node.log(program))


@pytest.mark.parametrize("entrypoint", ["main:missing", "missing:app", "main:app.missing"])
def test_an_entrypoint_that_names_nothing_is_told_of(node: AlephNode, entrypoint: str) -> None:
    assert refused(node.get(node.deploy({"main.py": RAW}, entrypoint=entrypoint)), 500, FAILED)


ARCHIVES = {
    "zip": b"PK\x03\x04 broken",
    "squashfs": b"hsqs" + bytes(200),
    "tar.gzip": b"\x1f\x8b broken",
    "tar.gz": b"",
}


@pytest.mark.parametrize(("encoding", "data"), ARCHIVES.items(), ids=ARCHIVES)
def test_a_broken_archive_is_told_of(node: AlephNode, encoding: str, data: bytes) -> None:
    assert refused(node.get(node.deploy(data + b"\n", encoding=encoding)), 500, FAILED)


def test_a_path_that_leads_out_of_an_archive_is_told_of(node: AlephNode) -> None:
    archive = zipped({"main.py": RAW, "../../out.py": "harm"})
    assert refused(node.get(node.deploy(archive, encoding="zip")), 500, FAILED)


def test_a_program_that_hangs_while_it_is_imported_is_given_up_and_tried_again(node: AlephNode) -> None:
    program = node.deploy("import time\nprint('importing', flush=True)\ntime.sleep(3600)")
    assert refused(node.get(program), 500, NEVER_READY)
    assert any("time.sleep(3600)" in line.text or "line 3" in line.text for line in node.log(program))
    assert refused(node.get(program), 500, NEVER_READY)
    assert [line.text for line in node.log(program)].count("importing") == 2


def test_all_who_wait_for_a_start_are_told_that_it_failed(node: AlephNode) -> None:
    program = node.deploy("import time\nprint('importing', flush=True)\ntime.sleep(0.5)\nraise ValueError")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: node.get(program), range(8)))
    assert all(refused(answer, 500, FAILED) for answer in answers)
    assert [line.text for line in node.log(program)].count("importing") == 1


# Programs that fail


def test_an_exception_is_told_of_without_its_traceback_which_the_owner_finds(node: AlephNode, lab: str) -> None:
    for path in ("/raises", "/stock"):
        answer = node.get(lab, path)
        run = answer.headers["aleph-run-id"]
        withheld = f"Traceback withheld, request {run}; the owner can read it in the program log."
        assert said(answer) == (500, f"Internal error in program. {withheld}")
        lines = [line.text for line in node.log(lab) if line.run == run]
        assert lines[0].startswith("Traceback")
        assert "ValueError: a secret" in lines
        assert node.get(lab, "/told").text == "fine"


def test_the_operator_may_show_tracebacks_to_everybody(tmp_path: Path, aleph_layers: Path) -> None:
    with aleph_node(tmp_path / "data", layers=aleph_layers, traceback="public") as own:
        answer = own.get(own.deploy(LAB), "/raises")
    assert said(answer)[0] == 500
    assert answer.text.startswith("Traceback (most recent call last):")
    assert answer.text.endswith("ValueError: a secret\n")


def test_an_error_page_of_the_programs_own_passes(node: AlephNode, lab: str) -> None:
    answer = node.get(lab, "/own")
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (500, "Sorry", "1")


def test_a_program_that_returns_without_an_answer_is_told_of(node: AlephNode, lab: str) -> None:
    assert said(node.get(lab, "/silent")) == (500, "Program returned without sending a response")


@pytest.mark.parametrize("path", ["/half", "/stalls"])
def test_an_answer_that_breaks_off_does_not_look_complete(node: AlephNode, lab: str, path: str) -> None:
    with node.client.stream("GET", f"/vm/{lab}{path}") as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()
    assert node.get(lab, "/told").text == "fine"


@pytest.mark.parametrize("path", ["/exits", "/dies", "/killed", "/eats"])
def test_a_program_that_ends_is_started_anew_for_the_next_request(node: AlephNode, lab: str, path: str) -> None:
    for _ in range(3):
        assert said(node.get(lab, path)) == DIED
        assert node.get(lab, "/told").text == "fine"


def test_all_whom_a_program_leaves_by_its_end_are_told(node: AlephNode, lab: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(node.get, lab, "/stay") for _ in range(4)]
        for _ in waiting:
            node.get(lab, "/came")
        assert said(node.get(lab, "/dies")) == DIED
        assert {said(each.result()) for each in waiting} == {DIED}
    assert node.get(lab, "/told").text == "fine"


def test_a_program_that_never_answers_is_cancelled(node: AlephNode, lab: str) -> None:
    assert said(node.get(lab, "/never")) == LATE
    assert node.get(lab, "/cancelled").text == "cancelled"


def test_a_program_that_blocks_its_loop_is_ended_and_disturbs_no_other(node: AlephNode, lab: str) -> None:
    other = node.deploy(f"{RAW}\n# another\n")
    assert node.get(other).text == "hello"
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(node.get, lab, "/blocks")
        assert node.get(other).text == "hello"
        assert not blocked.done()
        assert said(blocked.result()) == LATE
    assert node.get(lab, "/told").text == "fine"


# Bodies that are too long


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(node: AlephNode, lab: str) -> None:
    head = f"POST /vm/{lab}/digest HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
    with connection(node.url) as client:
        client.sendall(f"{head}content-length: {(1 << 20) + 1}\r\n\r\n".encode())
        answer = until(client, b"}")
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b'{"error": "Request body is too large"}')


@pytest.mark.parametrize("more", [1, 5 << 20])
def test_a_body_that_turns_out_too_long_is_refused(node: AlephNode, lab: str, more: int) -> None:
    data = os.urandom((1 << 20) + more)
    for content in (data, iter([data[:1000], data[1000:500_000], data[500_000:]])):
        assert refused(node.client.post(f"/vm/{lab}/digest", content=content), 413, "Request body is too large")
    assert node.client.post(f"/vm/{lab}/digest", content=data[: 1 << 20]).json()[0] == 1 << 20


# Messages


def test_a_message_with_mistakes_is_refused_with_all_of_them(node: AlephNode) -> None:
    wallet = Wallet(2)
    message = wallet.program("ab" * 32, on={"http": "perhaps"}, colour="red")
    answer = node.client.post("/api/v0/messages", json={"sync": True, "message": message})
    assert (answer.status_code, answer.json()["message_status"]) == (422, "rejected")
    errors = answer.json()["details"]["errors"]
    assert {tuple(each["loc"]) for each in errors} >= {("content", "on", "http"), ("content", "colour")}
    assert all(each["msg"] and each["type"] for each in errors)
