"""`kill -9` of a node that serves clients of Infernet: no job is forgotten, none runs twice, none runs for ever."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.test_crash import processes_of
from tests.infernet_node import Served, folder_container, healthy

CLIENTS = 16
WIDTH = 4
"""Jobs that a container is given at once."""
INTERRUPTED = "Interrupted by node restart"
STOPS_WITHIN = 5.0
ZERO = "0x" + "00" * 20
DELEGATED = {
    "subscription": {
        "owner": ZERO, "active_at": 0, "period": 0, "frequency": 1, "redundancy": 1, "containers": "0x" + "11" * 32,
        "lazy": False, "verifier": ZERO, "payment_amount": 0, "payment_token": ZERO, "wallet": ZERO,
    },
    "signature": {"nonce": 7, "expiry": 2**32 - 1, "v": 27, "r": 1, "s": 2},
    "data": {},
}  # fmt: skip


class Container:
    """A container that somebody else runs; it outlives the node. Jobs whose data say `slow` wait for `gate`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.inside: set[str] = set()
        self.gate = threading.Event()
        self.url = ""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        data = request["data"]
        self.asked[data["key"]] += 1
        self.inside.add(data["key"])
        if data.get("slow"):
            self.gate.wait(60)
        self.inside.discard(data["key"])
        return {"key": data["key"]}


@contextmanager
def listening() -> Iterator[Container]:
    container = Container()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if request["destination"] == 2:
                self.stream()
                return
            body = json.dumps(container.answer(request)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def stream(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while not container.gate.wait(0.02):
                self.wfile.write(b"5\r\nbytes\r\n")
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Say nothing of connections that broke with the node."""

    with Server(("127.0.0.1", 0), Handler) as server:
        container.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield container
        finally:
            container.gate.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def container() -> Iterator[Container]:
    with listening() as container:
        yield container


def config(container: Container, *names: str, concurrency: int = WIDTH) -> dict[str, Any]:
    entries = [{"id": name, "url": container.url, "concurrency": concurrency} for name in names]
    return {"manage_containers": False, "containers": entries}


class Clients:
    """What 16 clients, each with connections of its own, have been told."""

    def __init__(self, url: str, numbers: Iterator[int]) -> None:
        self._url, self._numbers = url, numbers
        self.keys: dict[str, str] = {}
        """Id of each acknowledged job to its key."""
        self.read: dict[str, Any] = {}
        """Results that were read while the node ran, by id."""

    def submit_until_it_ends(self) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._client, range(CLIENTS)))

    def _client(self, client: int) -> None:
        unread: list[str] = []
        with httpx.Client(base_url=self._url, timeout=10) as http:
            try:
                for turn in count(1):
                    key, slow = f"job-{next(self._numbers)}", turn % 20 == client
                    body = {"containers": ["slow" if slow else "quick"], "data": {"key": key, "slow": slow}}
                    answer = http.post("/api/jobs", json=body)
                    assert answer.status_code == 200, answer.text
                    self.keys[answer.json()["id"]] = key
                    if not slow:
                        unread.append(answer.json()["id"])
                    if turn % 10 == 0:
                        found = http.get("/api/jobs", params=[("id", job_id) for job_id in unread[:20]]).json()
                        self.read |= {each["id"]: each for each in found if each["status"] != "running"}
                        unread = [job_id for job_id in unread if job_id not in self.read]
            except (httpx.TransportError, json.JSONDecodeError):
                return  # the node is gone


def results(node: Served, ids: list[str], wait: float = 0.0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place in range(0, len(ids), 100):
        query = [("id", job_id) for job_id in ids[place : place + 100]]
        answer = node.http.get("/api/jobs", params=[*query, ("wait", wait)])
        assert answer.status_code == 200, answer.text
        found |= {each["id"]: each for each in answer.json()}
    return found


def ended(node: Served, ids: list[str]) -> dict[str, Any]:
    """Wait until none of the jobs runs; give all results."""
    results(node, ids, wait=30)
    return results(node, ids)


def crash(home: Path, container: Container, numbers: Iterator[int]) -> Clients:
    """Have clients submit to a node, and kill it meanwhile; give what they know."""
    container.gate.clear()
    with healthy(home, config(container, "quick", "slow")) as node:
        clients = Clients(node.url, numbers)
        submitting = threading.Thread(target=clients.submit_until_it_ends)
        submitting.start()
        node.until(lambda: len(clients.read) > 100 and len(container.inside) >= WIDTH)
        node.kill()
        submitting.join()
    asked = -1
    while asked != (asked := container.asked.total()):  # what was on its way has come in
        time.sleep(0.2)
    return clients


def test_a_node_that_is_killed_again_and_again_keeps_its_word_to_every_client(
    tmp_path: Path, container: Container
) -> None:
    home, numbers = tmp_path / "home", count()
    known: dict[str, Any] = {}
    for _ in range(3):
        clients = crash(home, container, numbers)
        inside = container.inside & {*clients.keys.values()}
        waiting = {key for key in clients.keys.values() if not container.asked[key]}
        assert 0 < len(inside) <= WIDTH
        assert len(waiting) > WIDTH  # the slow ones that had no room, at least
        container.gate.set()
        with healthy(home, config(container, "quick", "slow")) as node:
            found = ended(node, [*clients.keys, *known])
            assert set(found) == {*clients.keys, *known}, "an acknowledged job is forgotten"
            assert {each["status"] for each in found.values()} <= {"success", "failed"}
            interrupted = {"container": "slow", "error": INTERRUPTED}, {"container": "quick", "error": INTERRUPTED}
            never_asked = 0
            for job_id, key in clients.keys.items():
                outcome = found[job_id]["result"]
                assert outcome.get("output") == {"key": key} or outcome in interrupted
                assert key not in inside or outcome == interrupted[0]
                never_asked += key in waiting and outcome in interrupted
            assert never_asked <= 2 * WIDTH, "more than had left the queue did not run"
            changed = [job_id for job_id, result in {**known, **clients.read}.items() if found[job_id] != result]
            assert changed == [], "what had been read has changed"
            assert node.http.get("/info").json()["pending"] == {"offchain": 0, "onchain": 0}
            assert node.http.get("/api/jobs", params={"pending": "true"}).json() == []
            known = found
        assert {key: times for key, times in container.asked.items() if times > 1} == {}, "a job ran twice"


def test_a_node_that_is_asked_to_end_under_load_ends_soon_and_keeps_its_word(
    tmp_path: Path, container: Container
) -> None:
    home = tmp_path / "home"
    with healthy(home, config(container, "quick", "slow")) as node:
        clients = Clients(node.url, count())
        submitting = threading.Thread(target=clients.submit_until_it_ends)
        submitting.start()
        node.until(lambda: len(clients.read) > 100 and len(container.inside) >= WIDTH)
        took = node.stop()
        submitting.join()
    assert took < STOPS_WITHIN
    assert "Traceback" not in node.said
    container.gate.set()
    with healthy(home, config(container, "quick", "slow")) as node:
        found = ended(node, [*clients.keys])
        assert set(found) == set(clients.keys)
        wrong = [
            each
            for each in found.values()
            if "output" not in each["result"] and each["result"].get("error") != INTERRUPTED
        ]
        assert wrong == []
        assert [job_id for job_id, result in clients.read.items() if found[job_id] != result] == []
    assert max(container.asked.values()) == 1


def test_a_stream_that_was_cut_is_failed_and_one_that_waited_has_nobody_to_go_to(
    tmp_path: Path, container: Container
) -> None:
    home = tmp_path / "home"
    body = {"containers": ["one"], "data": {"key": "x"}}
    with (
        healthy(home, config(container, "one", concurrency=1)) as node,
        httpx.Client(base_url=node.url, timeout=30) as http,
        http.stream("POST", "/api/jobs/stream", json=body) as cut,
        http.stream("POST", "/api/jobs/stream", json=body) as waiting,
    ):
        parts = cut.iter_raw()
        ids = [next(parts).decode(), next(waiting.iter_raw()).decode()]
        assert next(parts).startswith(b"bytes")
        node.kill()
        with pytest.raises(httpx.TransportError):
            list(parts)
    ids = [job_id.removesuffix("\n") for job_id in ids]
    container.gate.set()
    with healthy(home, config(container, "one", concurrency=1)) as node:
        found = ended(node, ids)
        assert [found[job_id]["result"] for job_id in ids] == [
            {"container": "one", "error": INTERRUPTED},
            {"container": "one", "error": "Client disconnected"},
        ]


def test_a_chain_that_was_interrupted_keeps_what_it_had_and_names_the_container_it_was_in(
    tmp_path: Path, container: Container
) -> None:
    home = tmp_path / "home"
    with healthy(home, config(container, "one", "two")) as node:
        job_id = node.submit("one", "two", key="a", slow=True)
        node.until(lambda: container.inside == {"a"})
        node.kill()
    container.gate.set()
    with healthy(home, config(container, "one", "two")) as node:
        result = node.result(job_id)
        assert result["status"] == "failed"
        assert result["result"] == {"container": "one", "error": INTERRUPTED}
        assert result["intermediate_results"] == []


def test_jobs_for_a_container_that_is_configured_no_more_do_not_run_for_ever(
    tmp_path: Path, container: Container
) -> None:
    home = tmp_path / "home"
    with healthy(home, config(container, "stays", "goes", concurrency=1)) as node:
        ids = [node.submit(name, key=f"{name}-{turn}", slow=True) for name in ("stays", "goes") for turn in range(3)]
        chained = node.submit("stays", "goes", key="chained")
        node.until(lambda: len(container.inside) == 2)
        node.kill()
    container.gate.set()
    with healthy(home, config(container, "stays")) as node:
        found = ended(node, [*ids, chained])
        errors = [found[job_id]["result"].get("error") for job_id in ids]
        assert errors[:4] == [INTERRUPTED, None, None, INTERRUPTED]
        assert all("goes" in error for error in errors[4:])
        assert "goes" in found[chained]["result"]["error"]


def test_after_a_crash_results_are_there_whatever_is_configured_and_refusals_are_the_same(
    tmp_path: Path, container: Container
) -> None:
    home = tmp_path / "home"
    with healthy(home, config(container, "old")) as node:
        job_id = node.submit("old", key="a")
        before, refused = node.result(job_id), node.http.post("/api/jobs", json=DELEGATED)
        node.kill()
    assert before["status"] == "success"
    assert (refused.status_code, refused.json()["error"]) == (405, "Chain not enabled")
    with healthy(home, config(container, "new")) as node:
        assert node.result(job_id) == before
        assert node.http.post("/api/jobs", json=DELEGATED).content == refused.content
        assert node.output("new", key="b") == {"key": "b"}


def test_a_container_of_a_folder_goes_with_a_node_that_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    entry = folder_container(tmp_path / "app", "app")
    with healthy(home, {"containers": [entry]}) as node:
        job_id = node.submit("app", sleep=60)
        node.until(lambda: '"sleep"' in node.service("app").log_tail)
        assert processes_of(node.data_dir)
        node.kill()
    deadline = time.monotonic() + 10
    while processes_of(node.data_dir) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(node.data_dir) == []
    with healthy(home, {"containers": [entry]}) as node:
        assert node.result(job_id)["result"] == {"container": "app", "error": INTERRUPTED}
        assert node.output("app")["by"] == ["app"]
