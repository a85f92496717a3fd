"""Jobs as clients follow, list, cancel and report them (contract, sections 2.9, 4.7 and 4.8), on a real node."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from moorage.networks.infernet import desk, surface
from moorage.networks.infernet.reports import Reports
from moorage.networks.infernet.wire import JobResult, StatusReport
from tests.infernet import JOB, Container, Exchange, Node, Seen, containers, golden, infernet, until


@pytest.fixture(scope="module")
def boxes() -> Iterator[dict[str, Container]]:
    with containers("a", "b") as boxes:
        yield boxes


@pytest.fixture(scope="module")
def node(boxes: dict[str, Container], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    sources = ["127.0.0.0/28", "::1"]
    with infernet(tmp_path_factory.mktemp("jobs"), settings(boxes), status_sources=sources) as node:
        yield node


def settings(boxes: dict[str, Container]) -> list[dict[str, Any]]:
    return [{"id": name, "url": box.url, "moorage": {"concurrency": 2}} for name, box in boxes.items()]


@pytest.fixture(autouse=True)
def fresh(boxes: dict[str, Container], node: Node) -> Iterator[None]:
    yield
    for box in boxes.values():
        box.reset()
    until(lambda: node.client.get("/info").json()["pending"]["offchain"] == 0)


def told(node: Node, *ids: str, **query: Any) -> list[tuple[str, str]]:
    answer = node.client.get("/api/jobs", params={"id": ids, **query})
    assert answer.status_code == 200
    return [(each["id"], each["status"]) for each in answer.json()]


# GET


def test_several_results_come_in_the_order_of_the_request_without_those_unknown(
    node: Node, boxes: dict[str, Container]
) -> None:
    boxes["a"].answer = boxes["a"].held
    running, done = node.submit("a"), node.submit("b")
    node.result(done)
    assert told(node, "unknown", running, done, "\u00fc\0") == [(running, "running"), (done, "success")]
    assert told(node, done, running, done) == [(done, "success"), (running, "running")]
    golden(node.client.get("/api/jobs", params={"id": "unknown"}), 200, "[]")


def test_results_are_there_for_whoever_knows_the_id_and_lists_for_who_sent_the_job(node: Node) -> None:
    with node.at("127.0.1.1") as other, node.at("127.0.1.2") as third:
        ids = [other.post("/api/jobs", json=JOB).json()["id"] for _ in range(3)]
        for job_id in ids:
            node.result(job_id)
        golden(other.get("/api/jobs"), 200, '["' + '","'.join(reversed(ids)) + '"]')
        golden(third.get("/api/jobs"), 200, "[]")
        assert not set(ids) & set(node.client.get("/api/jobs").json())


def test_a_list_is_of_what_runs_or_has_ended_or_both(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = boxes["a"].held
    with node.at("127.0.1.3") as client:
        done, running = (client.post("/api/jobs", json={**JOB, "containers": [name]}).json()["id"] for name in "ba")
        node.result(done)
        for pending, ids in [(None, [running, done]), ("true", [running]), ("false", [done]), ("x", [running, done])]:
            assert client.get("/api/jobs", params={} if pending is None else {"pending": pending}).json() == ids


def test_a_list_comes_in_pages(node: Node) -> None:
    with node.at("127.0.1.4") as client:
        ids = [client.post("/api/jobs", json=JOB).json()["id"] for _ in range(5)][::-1]
        assert client.get("/api/jobs", params={"limit": 2}).json() == ids[:2]
        assert client.get("/api/jobs", params={"limit": 2, "after": ids[1]}).json() == ids[2:4]
        assert client.get("/api/jobs", params={"after": ids[3]}).json() == ids[4:]
        assert client.get("/api/jobs", params={"after": ids[4]}).json() == []
        assert client.get("/api/jobs", params={"limit": 0}).json() == []
        golden(client.get("/api/jobs", params={"after": "x"}), 400, '{"error":"after: there is no such job"}')


@pytest.mark.parametrize("number", ["x", "-1", "nan", "", "1e", "\u0661x"])
def test_a_bad_number_is_refused(node: Node, number: str) -> None:
    for query in ({"limit": number}, {"id": "x", "wait": number}):
        answer = node.client.get("/api/jobs", params=query)
        golden(answer, 400, f'{{"error":"{[*query][-1]}: should be a number, 0 or more"}}')
    assert node.client.get("/api/jobs", params={"limit": "inf"}).status_code == 200


def test_waiting_answers_as_soon_as_the_jobs_have_ended(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = boxes["a"].held
    ids = [node.submit("a"), node.submit("b")]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(told, node, *ids, wait=30)
        boxes["a"].until(1)
        assert not waiting.done()
        boxes["a"].gate.set()
        begun = time.monotonic()
        assert waiting.result() == [(ids[0], "success"), (ids[1], "success")]
    assert time.monotonic() - begun < 1


def test_waiting_ends_after_its_time(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = boxes["a"].held
    ids, begun = [node.submit("a"), node.submit("a")], time.monotonic()
    assert told(node, *ids, wait=0.1) == [(ids[0], "running"), (ids[1], "running")]
    assert 0.1 <= time.monotonic() - begun < 1


# DELETE


def test_jobs_that_run_or_wait_are_cancelled_and_those_that_ended_stay(node: Node, boxes: dict[str, Container]) -> None:
    box = boxes["a"]
    left: list[bool] = []
    box.answer = lambda exchange, _: left.append(exchange.until_left())
    done = node.submit("b")
    running = [node.submit("a") for _ in range(2)]
    box.until(2)
    waiting = [node.submit("a") for _ in range(2)]
    answer = node.client.delete("/api/jobs", params={"id": [waiting[0], running[0], "unknown", done]})
    failed = '"result":{"container":"a","error":"Job cancelled"},"status":"failed"'
    kept = '"result":{"container":"b","output":{"given":{}}},"status":"success"'
    golden(answer, 200, f'[{{"id":"{waiting[0]}",{failed}}},{{"id":"{running[0]}",{failed}}},{{"id":"{done}",{kept}}}]')
    until(lambda: left == [True])
    box.until(3)  # the other one that waited has the place
    ids = [running[1], waiting[1]]
    assert told(node, *ids) == [(ids[0], "running"), (ids[1], "running")]
    node.client.delete("/api/jobs", params={"id": ids})
    assert told(node, *ids) == [(ids[0], "failed"), (ids[1], "failed")]
    golden(node.client.delete("/api/jobs"), 200, "[]")


def test_a_job_is_cancelled_at_whatever_moment(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = lambda exchange, _: exchange.drop() if exchange.until_left() else None
    ids = [node.submit("a") for _ in range(30)]
    for job_id in ids:  # each makes room for the next, which may just be beginning
        assert [each["status"] for each in node.client.delete("/api/jobs", params={"id": job_id}).json()] == ["failed"]
    assert {status for _, status in told(node, *ids)} == {"failed"}


# PUT /api/status


def report(client: Any, job_id: str, status: str = "success", **more: Any) -> Any:
    return client.put("/api/status", json={"id": job_id, "status": status, "containers": ["x"], **more})


def test_a_container_reports_jobs_that_only_its_own_address_sees(node: Node) -> None:
    with node.at("127.0.0.5") as box, node.at("127.0.0.6") as other:
        golden(report(box, "mine", "running", result=5), 200, "null")
        golden(box.get("/api/jobs", params={"id": "mine"}), 200, '[{"id":"mine","result":null,"status":"running"}]')
        assert box.get("/api/jobs", params={"pending": "true"}).json() == ["mine"]
        report(box, "mine", "failed")
        golden(box.get("/api/jobs", params={"id": "mine"}), 200, '[{"id":"mine","result":null,"status":"failed"}]')
        assert box.get("/api/jobs").json() == box.get("/api/jobs", params={"pending": "false"}).json() == ["mine"]
        assert other.get("/api/jobs", params={"id": "mine"}).json() == other.get("/api/jobs").json() == []
        report(other, "mine")
        assert box.get("/api/jobs", params={"id": "mine"}).json()[0]["status"] == "failed"


def test_only_the_sources_of_the_configuration_may_report(node: Node) -> None:
    with node.at("127.0.2.1") as stranger:
        golden(report(stranger, "x"), 403, '{"error":"Unauthorized"}')
        golden(stranger.put("/api/status", content=b"nonsense"), 403, '{"error":"Unauthorized"}')


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"id":"x","status":"done","containers":[]}', "Status is invalid"),
        (b'{"id":"x","status":5,"containers":[]}', "Status is invalid"),
        (b'{"status":"success","containers":[]}', "Could not store job status"),
        (b'{"id":5,"status":"success","containers":[]}', "Could not store job status"),
        (b'{"id":"x","status":"success"}', "Could not store job status"),
        (b'{"id":"\\ud800","status":"success","containers":[]}', "Could not store job status"),
        (b"[]", "Could not store job status"),
        (b"", "Could not store job status"), (b"{", "Could not store job status"),
    ],
)  # fmt: skip
def test_a_report_that_is_none_is_refused_in_the_words_of_the_network(node: Node, body: bytes, text: str) -> None:
    golden(node.client.put("/api/status", content=body), 400, f'{{"error":"{text}"}}')


def test_a_report_changes_no_job_of_the_node(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = boxes["a"].held
    running, done = node.submit("a"), node.submit("b")
    node.result(done)
    for job_id in (running, done):
        golden(report(node.client, job_id, "failed"), 200, "null")
    assert told(node, running, done) == [(running, "running"), (done, "success")]
    assert len(node.client.get("/api/jobs").json()) == len(set(node.client.get("/api/jobs").json()))


def pushed(job_id: str, status: Any) -> StatusReport:
    return StatusReport(id=job_id, status=status, containers=("x",))


def test_a_job_that_was_reported_to_run_vanishes_after_a_quarter_of_an_hour(tmp_path: Path) -> None:
    now = [1000.0]
    with contextlib.closing(Reports(tmp_path / "reports.db", clock=lambda: now[0])) as reports:
        reports.keep("c", pushed("runs", "running"))
        reports.keep("c", pushed("ended", "success"))
        now[0] += 899
        assert reports.find("c", "runs") == JobResult(id="runs", status="running")
        assert reports.ids("c", pending=True, limit=9) == ["runs"]
        now[0] += 1
        assert reports.find("c", "runs") is None
        assert reports.find("c", "ended") == JobResult(id="ended", status="success")
        assert reports.ids("c", pending=None, limit=9) == ["ended"]
        assert reports.ids("c", pending=True, limit=9) == []


def test_reports_are_forgotten_by_age_and_number_and_survive_a_restart(tmp_path: Path) -> None:
    now = [1000.0]
    with contextlib.closing(Reports(tmp_path / "reports.db", clock=lambda: now[0])) as reports:
        for number in range(6):
            now[0] += 1
            reports.keep("c", pushed(str(number), "failed"))
        reports.forget(before=1002, keep=100)
        assert reports.ids("c", pending=None, limit=9) == ["5", "4", "3", "2", "1"]
        reports.forget(before=0, keep=2)
    with contextlib.closing(Reports(tmp_path / "reports.db")) as reports:
        assert reports.ids("c", pending=False, limit=9) == ["5", "4"]


def test_a_job_that_is_cancelled_just_as_its_turn_comes_does_not_run(
    node: Node, boxes: dict[str, Container], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node.served.node.store
    claim = store.claim

    def claimed_and_cancelled(job_id: str, *, place: str) -> Any:
        claimed = claim(job_id, place=place)
        store.cancel(job_id, message="At once.")  # in the same commit
        return claimed

    boxes["a"].answer = boxes["a"].held
    running = [node.submit("a"), node.submit("a")]
    waiting = node.submit("a")
    boxes["a"].until(2)
    monkeypatch.setattr(store, "claim", claimed_and_cancelled)
    boxes["a"].gate.set()
    assert node.result(waiting)["result"] == {"container": "a", "error": "Job cancelled"}
    assert [node.result(job_id)["status"] for job_id in running] == ["success"] * 2
    assert len(boxes["a"].seen) == 2


# retention and restarts


@pytest.mark.parametrize("recent", [0, 1, 1000])
def test_a_result_is_told_the_same_whether_it_is_at_hand_or_not(
    node: Node, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(desk, "RECENT", recent)
    given = [{"a": 1}, {"a": "x" * desk.SHORT}, {"a": [[]] * desk.SHORT}, {"a": {str(key): key for key in range(5000)}}]
    ids = [node.submit("a", **data) for data in given]
    for _ in range(2):
        for job_id, data in zip(ids, given, strict=True):
            assert node.result(job_id)["result"]["output"] == {"given": data}


@pytest.mark.parametrize(("kept", "left"), [({"max": 2}, 2), ({"ttl": 1}, 1)])  # the latest of all stays
def test_old_results_are_forgotten_by_age_and_number(
    tmp_path: Path, boxes: dict[str, Container], monkeypatch: pytest.MonkeyPatch, kept: dict[str, int], left: int
) -> None:
    monkeypatch.setattr(surface, "TIDY_EVERY", 0.05)
    with infernet(tmp_path, settings(boxes), results=kept) as node:
        ids = [node.result(node.submit("a"))["id"] for _ in range(4)]
        until(lambda: told(node, *ids) == [(job_id, "success") for job_id in ids[-left:]])
        assert node.client.get("/api/jobs").json() == ids[::-1][:left]


def test_the_node_forgets_results_over_its_limit(tmp_path: Path, boxes: dict[str, Container]) -> None:
    with infernet(tmp_path, settings(boxes), results={"max": 3}) as node:
        ids = [node.submit("a") for _ in range(5)]
        for job_id in ids:
            node.result(job_id)
        assert len(node.client.get("/api/jobs").json()) == 5
    with infernet(tmp_path, settings(boxes), results={"max": 3}) as node:  # it tidies as it starts, then each minute
        until(lambda: node.client.get("/api/jobs").json() == ids[:1:-1])


def test_results_reports_and_lists_survive_a_restart(tmp_path: Path, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = lambda exchange, _: exchange.reply(b"oops", 500)
    with infernet(tmp_path, settings(boxes)) as node:
        jobs = [node.submit("b"), node.submit("b", "a")]
        report(node.client, "pushed")
        results = [node.result(job_id, intermediate="true") for job_id in jobs]
    with infernet(tmp_path, settings(boxes)) as node:
        assert node.client.get("/api/jobs").json() == [*reversed(jobs), "pushed"]
        assert [node.result(job_id, intermediate="true") for job_id in jobs] == results
        assert told(node, "pushed") == [("pushed", "success")]


def hangs(exchange: Exchange, seen: Seen) -> None:
    exchange.until_left()


def test_what_waits_runs_after_a_restart_and_what_was_in_a_container_has_failed(
    tmp_path: Path, boxes: dict[str, Container]
) -> None:
    box = boxes["a"]
    box.answer = hangs
    with infernet(tmp_path, settings(boxes)) as node:
        inside = [node.submit("b", "a"), node.submit("a")]
        box.until(2)
        inside.append(node.submit("a"))  # it has left the queue, and waits for a place in the container
        waiting = [node.submit("a", number=number) for number in range(3)]
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    box.reset()
    with infernet(tmp_path, settings(boxes)) as node:
        for job_id in inside:
            result = node.result(job_id)
            assert (result["status"], result["result"]["error"]) == ("failed", "Interrupted by node restart")
        assert [node.result(job_id)["result"]["output"] for job_id in waiting] == [
            {"given": {"number": number}} for number in range(3)
        ]
        assert sorted(seen.document["data"]["number"] for seen in box.seen) == [0, 1, 2]


def test_a_job_that_waits_for_a_container_which_is_gone_after_a_restart_fails(
    tmp_path: Path, boxes: dict[str, Container]
) -> None:
    boxes["a"].answer = hangs
    with infernet(tmp_path, settings(boxes)) as node:
        for _ in range(2):
            node.submit("a")
        boxes["a"].until(2)
        waiting = node.submit("a")
    with infernet(tmp_path, settings({"b": boxes["b"]})) as node:
        assert node.result(waiting)["result"] == {
            "container": "a",
            "error": "Container a is not available: it is not in the configuration.",
        }
