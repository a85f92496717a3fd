"""What containers are sent and what their answers come to (contract, sections 2.2, 3.2 and 3.3), on a real node.

Items 2, 3 and 4 of the acceptance checklist (section 8), as far as they are off-chain.
"""

import gzip
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from moorage.networks.infernet.calls import MAX_REPLY
from tests.infernet import Answer, Container, Exchange, Node, Seen, containers, free_port, infernet, until

TIMEOUT = 0.4
BIG = 2**256 - 1


@pytest.fixture(scope="module")
def boxes() -> Iterator[dict[str, Container]]:
    with containers("a", "b", "c") as boxes:
        yield boxes


@pytest.fixture(scope="module")
def node(boxes: dict[str, Container], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    a = boxes["a"].url
    settings = [
        *({"id": name, "url": box.url, "generates_proofs": True} for name, box in boxes.items()),
        {"id": "secret", "url": f"{a}/base/", "bearer": "pass-word"},
        {"id": "hasty", "url": a, "moorage": {"timeout": TIMEOUT}},
        {"id": "lenient", "url": a, "accept_error_status": True},
        {"id": "gone", "url": f"http://127.0.0.1:{free_port()}"},
        {"id": "narrow", "url": boxes["b"].url, "moorage": {"concurrency": 3}},
    ]
    with infernet(tmp_path_factory.mktemp("chains"), settings, server={"max_queue": 20}) as node:
        yield node


@pytest.fixture(autouse=True)
def fresh(boxes: dict[str, Container], node: Node) -> Iterator[None]:
    yield
    for box in boxes.values():
        box.reset()
    until(lambda: node.client.get("/info").json()["pending"]["offchain"] == 0)


def reply(body: bytes, status: int = 200, media_type: str | None = "application/json", **more: str) -> Answer:
    return lambda exchange, _: exchange.reply(body, status, media_type, **more)


def failed(answer: Any) -> str:
    """Give the error of a job that failed."""
    assert list(answer) == ["container", "error"]
    assert answer["error"]
    error: str = answer["error"]
    return error


# what is sent


@pytest.mark.parametrize(
    ("given", "sent"),
    [('"requires_proof":true', "true"), ('"requires_proof":false', "false"), ('"requires_proof":null', "false"),
     ('"x":1', "false")],
    ids=["true", "false", "null", "missing"],
)  # fmt: skip
def test_a_container_is_sent_the_exact_body(node: Node, boxes: dict[str, Container], given: str, sent: str) -> None:
    body = f'{{"containers":["a"],"data":{{"z":{BIG},"a":"\u00fc\\ud83d","m":[1.0,null]}},{given}}}'
    answer = node.client.post("/api/jobs", content=body, headers={"content-type": "application/json"})
    node.result(answer.json()["id"])
    (seen,) = boxes["a"].seen
    data = f'{{"z":{BIG},"a":"\\u00fc\\ud83d","m":[1.0,null]}}'
    assert seen.body == f'{{"source":1,"destination":1,"data":{data},"requires_proof":{sent}}}'.encode()
    assert (seen.method, seen.path, seen.headers["content-type"]) == ("POST", "/service_output", "application/json")
    assert seen.headers["content-length"] == str(len(seen.body))
    assert "authorization" not in seen.headers


def test_each_container_of_a_chain_is_sent_what_the_one_before_gave(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = reply(b'{ "b" : [1.50, "\xc3\xbc"], "a":{} }')
    boxes["b"].answer = reply(b'"text"')
    boxes["c"].answer = reply(b"[]")
    job = node.client.post("/api/jobs", json={"containers": ["a", "b", "c"], "data": {"x": 1}, "requires_proof": True})
    result = node.result(job.json()["id"], intermediate="true")
    bodies = ['{"x":1}', '{"b":[1.5,"\\u00fc"],"a":{}}', '"text"']
    assert [box.seen[0].body.decode() for box in boxes.values()] == [
        f'{{"source":1,"destination":1,"data":{data},"requires_proof":true}}' for data in bodies
    ]
    assert result["result"] == {"container": "c", "output": []}
    assert result["intermediate_results"] == [
        {"container": "a", "output": {"b": [1.5, "\u00fc"], "a": {}}}, {"container": "b", "output": "text"},
    ]  # fmt: skip


def test_a_remote_container_is_asked_below_its_url_with_its_bearer(node: Node, boxes: dict[str, Container]) -> None:
    node.done("secret")
    node.client.get("/resources")
    mine = [seen for seen in boxes["a"].seen if seen.path.startswith("/base")]
    assert [(seen.path, seen.headers["authorization"]) for seen in mine] == [
        ("/base/service_output", "Bearer pass-word"), ("/base/service-resources", "Bearer pass-word"),
    ]  # fmt: skip
    assert all("authorization" not in seen.headers for seen in boxes["a"].seen if seen not in mine)


def test_connections_are_used_again(node: Node, boxes: dict[str, Container]) -> None:
    for _ in range(5):
        node.done("a")
    assert len({seen.connection for seen in boxes["a"].seen}) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_on_the_same_host_is_followed_with_the_body(
    node: Node, boxes: dict[str, Container], status: int
) -> None:
    def slash(exchange: Exchange, seen: Seen) -> None:
        if seen.path.endswith("/"):
            exchange.json({"given": seen.document["data"]})
        else:
            exchange.reply(b"moved", status, "text/html", Location="/service_output/")

    boxes["a"].answer = slash
    assert node.done("a", x=1) == {"container": "a", "output": {"given": {"x": 1}}}
    first, second = boxes["a"].seen
    assert (second.method, second.body, second.headers["content-type"]) == ("POST", first.body, "application/json")


@pytest.mark.parametrize(
    ("location", "path"), [("{url}", "/"), ("{url}?a=b", "/?a=b"), ("/\u00e9 x", "/%C3%A9%20x"), ("/a%2Fb", "/a%2Fb")]
)
def test_a_redirect_may_be_written_in_any_way(
    node: Node, boxes: dict[str, Container], location: str, path: str
) -> None:
    def moved(exchange: Exchange, seen: Seen) -> None:
        if seen.path == "/service_output":
            target = location.format(url=boxes["a"].url)
            exchange.reply(b"", 308, None, Location=target.encode().decode("latin-1"))
        else:
            exchange.json({"at": seen.path})

    boxes["a"].answer = moved
    assert node.done("a") == {"container": "a", "output": {"at": path}}


def test_no_other_redirect_is_followed(node: Node, boxes: dict[str, Container]) -> None:
    targets = [boxes["b"].url + "/service_output", "http://127.0.0.1:1/", "//evil.example/x", "/service_output", ""]
    for target in targets:
        boxes["a"].answer = reply(b"moved", 308, "text/html", Location=target)
        assert failed(node.done("a")) == "HTTP 308: moved"
    boxes["a"].answer = lambda exchange, seen: exchange.reply(b"", 308, None, Location=seen.path + "x")
    assert failed(node.done("a")).startswith("More than 5 redirects")
    boxes["a"].answer = reply(b"other", 303, None, Location="/x")
    assert failed(node.done("a")) == "HTTP 303: other"
    assert boxes["b"].seen == []


# what is answered (3.3)


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (reply(b'{"code":"400"}'), {"code": "400"}), (reply(b"{}", 201, "application/vnd.x+json; a=b"), {}),
        (reply(b'"text"'), "text"), (reply(b"5"), 5), (reply(b"[1]"), [1]), (reply(b"null"), None), (reply(b""), None),
        (reply(gzip.compress(b'{"a":1}'), **{"Content-Encoding": "gzip"}), {"a": 1}),
    ],
)  # fmt: skip
def test_json_of_any_kind_is_an_output(node: Node, boxes: dict[str, Container], answer: Answer, output: Any) -> None:
    boxes["a"].answer = answer
    assert node.done("a") == {"container": "a", "output": output}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(b'{"code":"500","x":1}', 500), 'HTTP 500: {"code":"500","x":1}'), (reply(b"", 404, None), "HTTP 404: "),
        (reply(b"<h1>oops", 502, "text/html"), "HTTP 502: <h1>oops"),
        (reply(b"{}", 200, "text/plain"), "Attempt to decode JSON with unexpected mimetype: text/plain"),
        (reply(b"{}", 200, None), "Attempt to decode JSON with unexpected mimetype: (none)"),
        (reply(b"{oops"), "{oops"), (reply(b"\xff\xfe"), "\ufffd\ufffd"), (reply(b"[NaN]"), "[NaN]"),
        (reply(b"x" * 10_000), "x" * 4096), (reply(b"y" * 10_000, 500), "HTTP 500: " + "y" * 4086),
        (reply(b"[" * 200 + b"]" * 200), "[" * 200 + "]" * 200),
    ],
)  # fmt: skip
def test_anything_else_is_an_error_with_a_text(
    node: Node, boxes: dict[str, Container], answer: Answer, error: str
) -> None:
    boxes["a"].answer = answer
    assert failed(node.done("a")) == error


def test_an_error_status_is_an_output_where_the_operator_says_so(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = reply(b'{"code":"500"}', 500)
    assert node.done("lenient") == {"container": "lenient", "output": {"code": "500"}}
    boxes["a"].answer = reply(b"oops", 500, "text/plain")
    assert failed(node.done("lenient")) == "HTTP 500: oops"


def test_integers_stay_exact_on_their_way(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = reply(b'{"z":%d,"a":-%d}' % (BIG, BIG))
    job = node.submit("a")
    node.result(job)
    answer = node.client.get("/api/jobs", params={"id": job})
    assert b'"output":{"a":-%d,"z":%d}' % (BIG, BIG) in answer.content


def test_a_container_that_cannot_be_reached_fails_its_jobs(node: Node) -> None:
    assert failed(node.done("gone")).startswith("Cannot connect to host ")


def half(exchange: Exchange, seen: Seen) -> None:
    exchange.begin(200, **{"Content-Length": "100"})
    exchange.wfile.write(b'{"a":')


def half_and_silence(exchange: Exchange, seen: Seen) -> None:
    half(exchange, seen)
    exchange.until_left()


def half_and_gone(exchange: Exchange, seen: Seen) -> None:
    half(exchange, seen)
    exchange.drop()


def half_chunk(exchange: Exchange, seen: Seen) -> None:
    exchange.begin(200, **{"Transfer-Encoding": "chunked"})
    exchange.wfile.write(b"10\r\n{")
    exchange.drop()


def drips(exchange: Exchange, seen: Seen) -> None:
    exchange.begin(200, **{"Transfer-Encoding": "chunked"})
    while not exchange.box.gate.wait(0.02):
        exchange.chunk(b" ")


def nonsense(exchange: Exchange, seen: Seen) -> None:
    exchange.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    exchange.drop()


def silent(exchange: Exchange, seen: Seen) -> None:
    exchange.until_left()


@pytest.mark.parametrize(
    ("answer", "start"),
    [(silent, f"Timeout after {TIMEOUT} s"), (half_and_silence, f"Timeout after {TIMEOUT} s"),
     (drips, f"Timeout after {TIMEOUT} s"), (half_and_gone, "The connection broke: "),
     (half_chunk, "The connection broke: "),
     (nonsense, "The connection broke: "), (lambda exchange, _: exchange.drop(), "The connection broke: ")],
    ids=["silent", "half, then silent", "drips", "half", "half a chunk", "no HTTP", "hangs up"],
)  # fmt: skip
def test_a_container_that_misbehaves_fails_its_job_with_a_text(
    node: Node, boxes: dict[str, Container], answer: Answer, start: str
) -> None:
    boxes["a"].answer = answer
    begun = time.monotonic()
    assert failed(node.done("hasty")).startswith(start)
    assert time.monotonic() - begun < 2
    boxes["a"].gate.set()
    boxes["a"].reset()
    assert "output" in node.done("hasty"), "the next one gets another connection"


def endless(exchange: Exchange, seen: Seen) -> None:
    exchange.begin(200, **{"Transfer-Encoding": "chunked"})
    while True:
        exchange.chunk(b" " * 2**20)


def bomb(exchange: Exchange, seen: Seen) -> None:
    exchange.reply(gzip.compress(b" " * 2**27), **{"Content-Encoding": "gzip"})


@pytest.mark.parametrize("answer", [endless, bomb])
def test_an_answer_without_end_fails_and_does_not_fill_the_memory(
    node: Node, boxes: dict[str, Container], answer: Answer
) -> None:
    boxes["a"].answer = answer
    process = psutil.Process()
    before, most = process.memory_info().rss, [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert failed(node.done("a")) == f"The answer is longer than {MAX_REPLY // 2**20} MiB"
    finally:
        over.set()
        watching.join()
    assert most[0] - before < 256 * 2**20


# chains


@pytest.mark.parametrize("position", range(3))
def test_the_first_failure_ends_a_chain(node: Node, boxes: dict[str, Container], position: int) -> None:
    """Item 4."""
    names = ["a", "b", "c"]
    boxes[names[position]].answer = reply(b"broken", 500)
    job = node.submit(*names, n=0)
    plain, full = node.result(job), node.result(job, intermediate="true")
    error = {"container": names[position], "error": "HTTP 500: broken"}
    assert plain == {"id": job, "status": "failed", "result": error}
    given: Any = {"n": 0}
    earlier = []
    for name in names[:position]:
        given = {"given": given}
        earlier.append({"container": name, "output": given})
    assert full == {**plain, "intermediate_results": earlier}
    assert [len(boxes[name].seen) for name in names] == [1] * (position + 1) + [0] * (2 - position)


@pytest.mark.parametrize("output", ["text", 5, -0.5, None, True, [], {}, [[{"a": [None]}]], "\ud800", BIG, ""])
def test_an_output_of_any_type_is_passed_on_as_it_is(node: Node, boxes: dict[str, Container], output: Any) -> None:
    boxes["a"].answer = lambda exchange, _: exchange.json(output)
    assert node.done("a", "b") == {"container": "b", "output": {"given": output}}


def test_a_container_may_come_twice(node: Node, boxes: dict[str, Container]) -> None:
    assert node.done("a", "b", "a", x=1)["output"] == {"given": {"given": {"given": {"x": 1}}}}


def test_a_chain_that_is_cancelled_keeps_what_it_has(node: Node, boxes: dict[str, Container]) -> None:
    boxes["b"].answer = boxes["b"].held
    job = node.submit("a", "b", "c", x=1)
    boxes["b"].until(1)
    node.client.delete("/api/jobs", params={"id": job})
    assert node.result(job, intermediate="true") == {
        "id": job,
        "status": "failed",
        "result": {"container": "b", "error": "Job cancelled"},
        "intermediate_results": [{"container": "a", "output": {"given": {"x": 1}}}],
    }
    assert boxes["c"].seen == []


# queues


def test_a_container_gets_no_more_at_once_than_it_may_and_the_rest_in_order(
    node: Node, boxes: dict[str, Container]
) -> None:
    box = boxes["b"]
    inside, most = [0], [0]
    lock = threading.Lock()

    def counted(exchange: Exchange, seen: Seen) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        box.gate.wait(20)
        with lock:
            inside[0] -= 1
        exchange.json(None)

    box.answer = counted
    ids = [node.submit("narrow", n=n) for n in range(12)]
    box.until(3)
    time.sleep(0.05)
    assert len(box.seen) == 3
    assert node.done("a", n=0)["output"] == {"given": {"n": 0}}, "another container is not held up"
    box.gate.set()
    for job in ids:
        node.result(job)
    assert most[0] <= 3
    order = [seen.document["data"]["n"] for seen in box.seen]
    assert sorted(order) == list(range(12))
    assert all(abs(n - place) < 3 for place, n in enumerate(order)), "no more out of order than those at once can be"


def test_a_full_queue_refuses_until_there_is_room(node: Node, boxes: dict[str, Container]) -> None:
    boxes["b"].answer = boxes["b"].held
    job = {"containers": ["narrow"], "data": {}}
    for _ in range(23):
        node.submit("narrow")
    for path in ("/api/jobs", "/api/jobs/stream"):
        answer = node.client.post(path, json=job)
        assert (answer.status_code, answer.content) == (503, b'{"error":"The queue is full"}\n')
        assert answer.headers["retry-after"] == "1"
    batch = node.client.post("/api/jobs/batch", json=[job])
    assert (batch.status_code, batch.json()) == (200, [{"error": "The queue is full", "params": {}}])
    boxes["b"].gate.set()
    until(lambda: node.client.post("/api/jobs", json=job).status_code == 200)


def test_a_batch_does_not_pass_the_limit_of_the_queue(node: Node, boxes: dict[str, Container]) -> None:
    boxes["b"].answer = boxes["b"].held
    answers = node.client.post("/api/jobs/batch", json=[{"containers": ["narrow"], "data": {}}] * 50).json()
    accepted = [answer for answer in answers if "id" in answer]
    assert len(accepted) == 23, "three at once and twenty that wait"
    assert answers[23:] == [{"error": "The queue is full", "params": {}}] * 27
    boxes["b"].gate.set()
