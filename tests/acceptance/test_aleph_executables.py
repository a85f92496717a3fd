"""Executables that speak HTTP by themselves, through the node (contract, section 2.7; checklist, 16, 17 and 38)."""

import concurrent.futures
import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.aleph_lab import connection, host_of, until
from tests.aleph_node import AlephNode, aleph_node
from tests.aleph_probe import packed

SERVER = r"""#!/usr/bin/env python3
import gzip, hashlib, json, os, socket, sys, threading, time

counts, went = {}, threading.Event()

def answer(*parts, status=b"200 OK", headers=b"content-length: %d", end=b"\r\n"):
    body = b"".join(parts)
    headers = headers % len(body) if b"%d" in headers else headers
    return b"HTTP/1.1 " + status + end + headers.replace(b"\r\n", end) + end + end + body

def rest(connection, head, found):
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(found) < length:
        found += connection.recv(1 << 20)
    return found

def serve(connection):
    head, _, found = connection.recv(65536).partition(b"\r\n\r\n")
    path = head.split()[1].partition(b"?")[0].split(b"/")[1].decode()
    counts[path] = counts.get(path, 0) + 1
    reply = globals()["do_" + path](connection, head, found)
    if reply:
        connection.sendall(reply)
    connection.shutdown(socket.SHUT_WR)
    connection.close()

def do_head(connection, head, found):
    return answer(head)

def do_arguments(connection, head, found):
    return answer(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("COLOUR")]).encode())

def do_redirect(connection, head, found):
    return answer(b"there", status=b"302 Found", headers=b"location: /head\r\ncontent-length: %d")

def do_slow(connection, head, found):
    time.sleep(6)
    return answer(b"slow")

def do_drop(connection, head, found):
    pass

def do_counts(connection, head, found):
    return answer(json.dumps(counts).encode())

def do_packed(connection, head, found):
    return answer(gzip.compress(b"packed"), headers=b"content-encoding: gzip\r\nvary: x\r\ncontent-length: %d")

def do_bare(connection, head, found):
    return answer(b"bare", headers=b"content-type: text/plain", end=b"\n")

def do_old(connection, head, found):
    return b"HTTP/1.0 200 Fine\r\n\r\n" + b"old " * 50_000

def do_early(connection, head, found):
    return answer(b"no", status=b"413 No")

def do_digest(connection, head, found):
    return answer(hashlib.sha256(rest(connection, head, found)).hexdigest().encode())

def do_unchanged(connection, head, found):
    return b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\netag: x\r\n\r\n"

def do_stream(connection, head, found):
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    went.wait()
    connection.sendall(b"4\r\nlast\r\n0\r\n\r\n")

def do_go(connection, head, found):
    went.set()
    return answer(b"gone")

def do_stay(connection, head, found):
    connection.recv(1)
    went.set()

def do_wait(connection, head, found):
    went.wait()
    return answer(b"left")

def do_never(connection, head, found):
    time.sleep(3600)

def do_rubbish(connection, head, found):
    return b"rubbish\r\n\r\n"

def do_half(connection, head, found):
    return b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"

def do_exit(connection, head, found):
    print("exiting", flush=True)
    os._exit(0)

print("listening", flush=True)
print("an error", file=sys.stderr, flush=True)
listener = socket.create_server(("", 8080))
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]]).start()
"""
DEAF = """#!/usr/bin/env python3
import socket, time

with socket.create_server(("", 8080)) as listener:
    request = b""
    while not request:
        connection = listener.accept()[0]
        request = connection.recv(65536)
connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\ndeaf from now on")
connection.close()
print("deaf", flush=True)
time.sleep(3600)
"""
TEN = {"seconds": 10, "memory": 128}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    data_dir = tmp_path_factory.mktemp("node") / "data"
    with aleph_node(data_dir, layers=aleph_layers, start_timeout=3) as running:
        yield running


@pytest.fixture(scope="module")
def server(node: AlephNode) -> str:
    return node.deploy(SERVER, entrypoint="serve.py", resources=TEN)


def test_a_request_arrives_as_it_was_sent_with_who_sent_it(node: AlephNode, server: str) -> None:
    headers = [("X-One", "1"), ("X-One", "2"), ("X-Forwarded-For", "10.0.0.1"), ("Accept-Encoding", "br")]
    head = node.get(server, "/head/%2e%2Fa//b?a=1%262&b", headers=headers).text.split("\r\n")
    assert head[0] == "GET /head/%2e%2Fa//b?a=1%262&b HTTP/1.1"
    lower = [line.lower() for line in head]
    port = node.url.rpartition(":")[2]
    assert [lower.count(line) for line in (f"host: 127.0.0.1:{port}", "x-one: 1", "x-one: 2")] == [1, 1, 1]
    assert {line for line in lower if line.startswith("x-forwarded")} == {
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        f"x-forwarded-prefix: /vm/{server}",
    }
    assert "accept-encoding: br" in lower
    assert not [line for line in lower if line.startswith(("moorage", "connection"))]


def test_by_its_host_name_an_executable_has_no_prefix(node: AlephNode, server: str) -> None:
    head = node.client.get("/head", headers={"host": host_of(server)}).text
    assert head.startswith("GET /head HTTP/1.1\r\n")
    assert f"host: {host_of(server)}" in head
    assert "/vm/" not in head


def test_the_answer_passes_as_it_is(node: AlephNode, server: str) -> None:
    redirect = node.get(server, "/redirect")
    assert (redirect.status_code, redirect.headers["location"], redirect.text) == (302, "/head", "there")
    with node.client.stream("GET", f"/vm/{server}/packed") as answer:
        assert gzip.decompress(b"".join(answer.iter_raw())) == b"packed"
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "x")
    unchanged = node.get(server, "/unchanged")
    assert (unchanged.status_code, unchanged.headers["etag"]) == (304, "x")
    assert unchanged.headers["aleph-program-itemhash"] == server


def test_a_simple_server_is_understood(node: AlephNode, server: str) -> None:
    assert node.get(server, "/bare").text == "bare"
    assert node.get(server, "/old").text == "old " * 50_000


@pytest.mark.parametrize("size", [0, 1, 250_000, 50 << 20])
def test_a_body_arrives_as_it_was_sent(node: AlephNode, server: str, size: int) -> None:
    data = os.urandom(size)
    assert node.client.post(f"/vm/{server}/digest", content=data).text == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [10, 100_000, 5 << 20])
def test_a_server_may_answer_without_reading_the_body(node: AlephNode, server: str, size: int) -> None:
    for _ in range(5):
        answer = node.client.post(f"/vm/{server}/early", content=os.urandom(size))
        assert (answer.status_code, answer.text) == (413, "no")


def test_an_answer_is_passed_on_as_it_comes(node: AlephNode) -> None:
    program = node.deploy(SERVER, entrypoint="stream.py")
    with node.client.stream("GET", f"/vm/{program}/stream") as answer:
        read = answer.iter_text()
        assert next(read) == "first"
        assert node.get(program, "/go").text == "gone"
        assert next(read) == "last"


def test_a_server_sees_that_its_client_has_left(node: AlephNode) -> None:
    program = node.deploy(SERVER, entrypoint="stay.py")
    with connection(node.url) as client:
        client.sendall(f"GET /vm/{program}/stay HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        while json.loads(node.get(program, "/counts").text).get("stay") != 1:
            pass
    assert node.get(program, "/wait").text == "left"


def test_requests_take_the_time_that_the_program_has(node: AlephNode, server: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: node.get(server, "/slow"), range(3)))
    assert [answer.text for answer in answers] == ["slow"] * 3


def test_a_server_that_does_not_answer_in_time_is_left_to_others(node: AlephNode) -> None:
    program = node.deploy(SERVER, entrypoint="late.py", resources={"seconds": 1, "memory": 128})
    answer = node.get(program, "/never")
    assert (answer.status_code, answer.text) == (504, "Program did not respond within `resource.seconds`")
    assert json.loads(node.get(program, "/counts").text) == {"never": 1, "counts": 1}


def test_nothing_is_asked_twice(node: AlephNode, server: str) -> None:
    for path in ("/drop", "/rubbish"):
        answer = node.client.post(f"/vm/{server}{path}", content=b"data")
        assert (answer.status_code, answer.text) == (502, "VM did not respond and was shut down")
    counts = json.loads(node.get(server, "/counts").text)
    assert (counts["drop"], counts["rubbish"]) == (1, 1)


def test_an_answer_that_breaks_off_does_not_look_complete(node: AlephNode, server: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        node.get(server, "/half")


def test_an_executable_that_ends_is_started_anew(node: AlephNode) -> None:
    program = node.deploy(SERVER, entrypoint="exit.py")
    for number in range(1, 4):
        answer = node.get(program, "/exit")
        assert (answer.status_code, answer.text) == (502, "VM did not respond and was shut down")
        assert json.loads(node.get(program, "/counts").text) == {"counts": 1}
        assert [line.text for line in node.log(program)].count("listening") == number + 1
    assert {("stdout", "exiting"), ("stderr", "an error")} <= {(line.source, line.text) for line in node.log(program)}


def test_an_executable_that_listens_no_more_is_started_anew(node: AlephNode) -> None:
    program = node.deploy(DEAF, entrypoint="deaf.py")
    for _ in range(2):
        assert node.get(program).text == "deaf from now on"
    assert [line.text for line in node.log(program)][:1] == ["deaf"]


def test_many_who_find_an_executable_gone_start_one(node: AlephNode) -> None:
    program = node.deploy(SERVER, entrypoint="gone.py")
    assert node.get(program, "/exit").status_code == 502
    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: node.get(program, "/head"), range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert [line.text for line in node.log(program)].count("listening") == 2


def test_an_executable_that_never_listens_is_given_up(node: AlephNode) -> None:
    program = node.deploy("#!/bin/sh\nexec sleep 3600\n", entrypoint="serve.sh")
    answer = node.get(program)
    assert (answer.status_code, answer.json()) == (503, {"error": "Program is not listening on port 8080"})
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("code", ["#!/bin/sh\nexit 3\n", "#!/no/such/thing\n"])
def test_an_executable_that_does_not_run_is_told_of(node: AlephNode, code: str) -> None:
    answer = node.get(node.deploy(code, entrypoint="serve.sh"))
    assert (answer.status_code, answer.json()) == (500, {"error": "500: Error during vm initialisation"})


def test_two_executables_listen_on_the_same_port_at_once_also_without_the_bit(node: AlephNode) -> None:
    images = [packed({"serve.py": f"{SERVER}\n# {number}\n"}, "squashfs") for number in range(2)]
    programs = [node.deploy(image, entrypoint="serve.py", encoding="squashfs") for image in images]
    assert [node.get(program, "/head").status_code for program in programs] == [200, 200]
    assert {f"aleph:{program}" for program in programs} <= {key.partition("@")[0] for key in node.processes()}


@pytest.mark.parametrize(
    ("entrypoint", "more", "expected"),
    [
        ("serve.py", {"args": ["-x", "a b"]}, [["-x", "a b"], "/"]),
        ("serve.py --flag 'a b'", {"args": ["c"]}, [["--flag", "a b", "c"], "/opt/code"]),
        ("python3 serve.py --flag", {"args": ["c"]}, [["--flag", "c"], "/opt/code"]),
    ],
)
def test_an_entrypoint_may_bring_arguments(
    node: AlephNode, entrypoint: str, more: dict[str, object], expected: list[object]
) -> None:
    more = {**more, "interface": "binary"}
    program = node.deploy({"serve.py*": SERVER}, entrypoint=entrypoint, more=more, variables={"COLOUR": "red"})
    assert json.loads(node.get(program, "/arguments").text) == [*expected, "red"]


def test_an_executable_stays_usable_when_a_client_leaves_in_the_middle_of_its_body(
    node: AlephNode, server: str
) -> None:
    with connection(node.url) as client:
        head = f"POST /vm/{server}/digest HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
        client.sendall(f"{head}content-length: 100000\r\n\r\n".encode())
        until(client, b"100 Continue")
        client.sendall(b"x" * 1000)
    assert node.get(server, "/head").status_code == 200
