"""The network's REST surface (contract, sections 4 and 5), byte by byte, on a real node with real containers.

Items 1, 4, 5 and 6 of the acceptance checklist (section 8).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from moorage.api.access import Tokens
from tests.infernet import (
    DELEGATED,
    JOB,
    Container,
    Exchange,
    Node,
    Seen,
    containers,
    free_port,
    golden,
    infernet,
    until,
)

UUID = re.compile(rb'\{"id":"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"\}\n')


@pytest.fixture(scope="module")
def boxes() -> Iterator[dict[str, Container]]:
    with containers("a", "b") as boxes:
        yield boxes


@pytest.fixture(scope="module")
def node(boxes: dict[str, Container], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    url = boxes["a"].url
    settings = [
        {"id": "a", "url": url, "description": "says \u00fc", "image": "org/a:1"},
        {"id": "b", "url": boxes["b"].url},
        {"id": "inner", "url": url, "external": False},
        {"id": "prover", "url": url, "generates_proofs": True},
        {"id": "home", "url": url, "allowed_ips": ["127.0.0.7", "127.0.8.9/24", "10.0.0.0/8", "fd00::/8"]},
        {"id": "gone", "url": f"http://127.0.0.1:{free_port()}"},
    ]
    server = {"max_batch": 4, "trusted_proxies": ["127.0.0.99", "::ffff:127.0.98.0/120"]}
    with infernet(tmp_path_factory.mktemp("surface"), settings, server=server) as node:
        yield node


@pytest.fixture(autouse=True)
def fresh(boxes: dict[str, Container]) -> Iterator[None]:
    yield
    for box in boxes.values():
        box.reset()


def post(node: Node, body: Any, path: str = "/api/jobs") -> httpx.Response:
    return node.client.post(path, json=body)


# what there is


def test_health_is_told_in_the_exact_bytes(node: Node) -> None:
    golden(node.client.get("/health"), 200, '{"status":"healthy"}')


def test_info_tells_of_the_containers_in_their_order_and_never_fails(node: Node) -> None:
    shown = [("says \\u00fc", "true", "a", "org/a:1"), ("", "true", "b", ""), ("", "false", "inner", ""),
             ("", "true", "prover", ""), ("", "true", "home", ""), ("", "true", "gone", "")]  # fmt: skip
    listed = ",".join(
        f'{{"description":"{text}","external":{external},"id":"{name}","image":"{image}"}}'
        for text, external, name, image in shown
    )
    answer = node.client.get("/info")
    version = answer.json()["version"]
    assert re.fullmatch(r"moorage \S+", version)
    golden(
        answer,
        200,
        f'{{"chain":{{"address":"","enabled":false}},"containers":[{listed}],"pending":{{"offchain":0,"onchain":0}},'
        f'"version":"{version}"}}',
    )


def test_info_counts_the_jobs_that_run(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = boxes["a"].held
    job = node.submit("a")
    assert node.client.get("/info").json()["pending"] == {"offchain": 1, "onchain": 0}
    boxes["a"].gate.set()
    node.result(job)
    assert node.client.get("/info").json()["pending"] == {"offchain": 0, "onchain": 0}


def test_resources_are_those_of_every_container_that_answers_in_time(node: Node, boxes: dict[str, Container]) -> None:
    boxes["b"].answer = boxes["b"].held
    answer = node.client.get("/resources", params={"model_id": "a/b&c=\u00fc"})
    boxes["b"].gate.set()
    names = ["a", "home", "inner", "prover"]
    golden(answer, 200, "{" + ",".join(f'"{name}":{{"name":"a"}}' for name in names) + "}")
    assert answer.elapsed.total_seconds() < 1
    path = "/service-resources?model_id="
    assert {seen.path for seen in boxes["a"].seen} == {f"{path}a/b%26c%3D%C3%BC"}


def test_resources_are_asked_without_a_model_if_none_is_named(node: Node, boxes: dict[str, Container]) -> None:
    def broken(exchange: Exchange, seen: Seen) -> None:
        exchange.reply(b"not JSON" if len(boxes["b"].seen) == 1 else b"{}", 200 if len(boxes["b"].seen) == 1 else 500)

    boxes["b"].answer = broken
    for _ in range(2):
        assert "b" not in node.client.get("/resources").json()
    assert [seen.path for seen in boxes["b"].seen] == ["/service-resources"] * 2


# jobs


def test_a_job_is_answered_with_its_id_alone(node: Node) -> None:
    answer = post(node, JOB)
    assert answer.status_code == 200
    assert UUID.fullmatch(answer.content)
    assert answer.headers["content-type"] == "application/json"


def test_a_result_is_told_in_the_exact_bytes(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = lambda exchange, _: exchange.reply(
        '{"z":"\u00fc\U0001f600","a":[1.0,null,true],"n":%d}'.encode() % 2**256
    )
    job = node.submit("a")
    node.result(job)
    output = f'{{"a":[1.0,null,true],"n":{2**256},"z":"\\u00fc\\ud83d\\ude00"}}'
    result = f'"result":{{"container":"a","output":{output}}},"status":"success"'
    golden(node.client.get("/api/jobs", params={"id": job}), 200, f'[{{"id":"{job}",{result}}}]')
    answer = node.client.get("/api/jobs", params={"id": job, "intermediate": "true"})
    golden(answer, 200, f'[{{"id":"{job}","intermediate_results":[],{result}}}]')


def test_a_running_job_and_a_failed_one_are_told_in_the_exact_bytes(node: Node, boxes: dict[str, Container]) -> None:
    boxes["a"].answer = boxes["a"].held
    job = node.submit("a")
    golden(
        node.client.get("/api/jobs", params={"id": job}), 200, f'[{{"id":"{job}","result":null,"status":"running"}}]'
    )
    boxes["b"].answer = lambda exchange, _: exchange.reply(b'{"code":"500"}', 500)
    failed = node.submit("b")
    node.result(failed)
    error = '"error":"HTTP 500: {\\"code\\":\\"500\\"}"'
    golden(
        node.client.get("/api/jobs", params={"id": failed}),
        200,
        f'[{{"id":"{failed}","result":{{"container":"b",{error}}},"status":"failed"}}]',
    )


def test_a_batch_is_answered_in_its_order_whatever_each_item_comes_to(node: Node) -> None:
    items = [JOB, {"containers": ["zz"], "data": {}}, {"containers": "a", "data": {}}, DELEGATED]
    answer = node.client.post("/api/jobs/batch", content=json.dumps(items))
    assert answer.status_code == 200
    first, *others = answer.json()
    assert UUID.fullmatch(json.dumps(first, separators=(",", ":")).encode() + b"\n")
    assert others[:2] == [
        {"error": "Container not supported", "params": {"container": "zz"}},
        {"error": "containers: Input should be a list", "params": {}},
    ]
    assert (others[2]["error"], list(others[2]["params"])) == ("Chain not enabled", ["delegated_subscription"])


def test_a_batch_is_told_in_the_exact_bytes(node: Node) -> None:
    def batch(body: bytes) -> httpx.Response:
        return node.client.post("/api/jobs/batch", content=body)

    golden(batch(b"[]"), 200, "[]")
    golden(batch(b" [ {} ] "), 200, '[{"error":"containers: Field required","params":{}}]')
    golden(batch(b"{}"), 400, '{"error":"Expected a list"}')
    golden(batch(b"[1,2,3,4,5]"), 413, '{"error":"body: holds more than 4 items"}')
    bad = batch(b'[{"containers":["a"],"data":{}}, {"a":oops}, ["\xc3\xbc"]]')
    good, *others = bad.json()
    assert list(good) == ["id"]
    assert [list(other) for other in others] == [["error", "params"]] * 2
    assert others[0]["error"].startswith("body: is not JSON")
    assert batch(b"[1,2").status_code == 400
    assert batch(b"").status_code == 400


# other paths, methods and limits


def test_an_unknown_path_or_method_is_told_in_json(node: Node) -> None:
    golden(node.client.get("/api/nothing"), 404, '{"error":"There is nothing at /api/nothing"}')
    golden(node.client.post("/api/jobs/", json=JOB), 404, '{"error":"There is nothing at /api/jobs/"}')
    for method, path, allowed in [
        ("PUT", "/api/jobs", "GET, POST, DELETE"), ("GET", "/api/jobs/batch", "POST"),
        ("GET", "/api/jobs/stream", "POST"), ("GET", "/api/status", "PUT"), ("POST", "/health", "GET"),
        ("DELETE", "/info", "GET"), ("PUT", "/resources", "GET"),
    ]:  # fmt: skip
        answer = node.client.request(method, path)
        golden(answer, 405, f'{{"error":"{path} does not take {method}"}}')
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/health", "/info", "/resources", "/api/jobs"])
def test_head_tells_what_get_would_without_the_body(node: Node, path: str) -> None:
    head, get = node.client.head(path), node.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_every_route_but_the_status_carries_its_rate_limit(node: Node) -> None:
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/health", None), ("GET", "/info", None), ("GET", "/resources", None), ("GET", "/api/jobs", None),
        ("POST", "/api/jobs", JOB), ("POST", "/api/jobs", "no object"), ("POST", "/api/jobs/batch", [JOB]),
        ("POST", "/api/jobs/stream", JOB), ("DELETE", "/api/jobs", None),
    ]  # fmt: skip
    for method, path, body in asked:
        headers = node.client.request(method, path, json=body).headers
        assert headers["ratelimit-limit"] == "100000", (method, path)
        assert int(headers["ratelimit-remaining"]) < 100_000
        assert headers["ratelimit-reset"] == "1"
    status = node.client.put("/api/status", json={"id": "x", "status": "success", "containers": []})
    assert status.status_code == 200
    assert not [name for name in status.headers if name.startswith("ratelimit")]


def test_over_the_limit_is_told_for_each_route_and_client_apart(tmp_path: Path) -> None:
    limit = {"rate_limit": {"num_requests": 3, "period": 60}}
    with infernet(tmp_path, [], server=limit) as node, node.at("127.0.0.2") as client, node.at("127.0.0.3") as other:
        for left in ("2", "1", "0"):
            answer = client.get("/api/jobs")
            assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (200, left)
        over = client.get("/api/jobs")
        golden(over, 429, '{"error":"Too many requests"}')
        assert 1 <= int(over.headers["retry-after"]) <= 20
        assert over.headers["ratelimit-remaining"] == "0"
        assert client.head("/api/jobs").status_code == 429, "it is the same route"
        assert client.post("/api/jobs", json=JOB).status_code == 405
        assert other.get("/api/jobs").status_code == 200
        for _ in range(5):
            assert node.client.put("/api/status", json={"id": "x", "status": "success", "containers": []}).is_success


# refusals (5.2)


@pytest.mark.parametrize(
    ("names", "proof", "body"),
    [
        ([], False, '{"error":"No containers specified","params":{}}'),
        (["a", "zz"], False, '{"error":"Container not supported","params":{"container":"zz"}}'),
        (["inner", "zz"], True, '{"error":"Container not supported","params":{"container":"zz"}}'),
        (["inner", "home"], True, '{"error":"First container must be external","params":{"first_container":"inner"}}'),
        (["prover", "home"], True, '{"error":"Container does not generate proof","params":{"container":"home"}}'),
        (["a", "home"], False,
         '{"error":"Container not allowed for address","params":{"address":"127.0.0.1","container":"home"}}'),
        (["\u00fc"], False, '{"error":"Container not supported","params":{"container":"\\u00fc"}}'),
    ],
)  # fmt: skip
def test_a_refusal_has_the_exact_words_of_the_network(node: Node, names: list[str], proof: bool, body: str) -> None:
    """Item 6: text, parameters, order."""
    request = {"containers": names, "data": {}, "requires_proof": proof}
    golden(post(node, request), 405, body)
    golden(post(node, request, "/api/jobs/stream"), 405, body)
    golden(post(node, [request], "/api/jobs/batch"), 200, f"[{body}]")


def test_only_the_last_container_has_to_prove_and_only_the_first_to_be_external(node: Node) -> None:
    for names in (["a", "inner", "prover"], ["prover"]):
        assert post(node, {"containers": names, "data": {}, "requires_proof": True}).status_code == 200


def test_a_delegated_subscription_is_refused_while_there_is_no_chain(node: Node) -> None:
    posted = {key: DELEGATED[key] for key in ("signature", "subscription")}
    document = {"error": "Chain not enabled", "params": {"delegated_subscription": posted}}
    golden(post(node, DELEGATED), 405, json.dumps(document, separators=(",", ":"), sort_keys=True))
    text = '{"error":"Streaming only supported for OffchainJob requests."}'
    golden(post(node, DELEGATED, "/api/jobs/stream"), 405, text)


def test_what_fits_both_shapes_is_an_off_chain_job(node: Node) -> None:
    assert list(post(node, {**DELEGATED, "containers": ["a"]}).json()) == ["id"]


# who asks


def test_who_may_use_a_container_is_told_by_address_and_range(node: Node) -> None:
    """Item 5."""
    request = {"containers": ["home"], "data": {}}
    for address, status in [("127.0.0.7", 200), ("127.0.8.200", 200), ("127.0.0.8", 405), ("127.0.9.9", 405)]:
        with node.at(address) as client:
            assert client.post("/api/jobs", json=request).status_code == status, address


@pytest.mark.parametrize(
    ("proxy", "hops", "address"),
    [
        ("127.0.0.99", "10.1.2.3", "10.1.2.3"), ("127.0.98.7", "10.1.2.3", "10.1.2.3"),
        ("127.0.0.99", "10.1.2.3, 127.0.98.1", "10.1.2.3"), ("127.0.0.99", "10.1.2.3,11.0.0.1", "11.0.0.1"),
        ("127.0.0.99", "::ffff:10.1.2.3", "10.1.2.3"), ("127.0.0.99", "fd00::7", "fd00::7"),
        ("127.0.0.99", "fe80::7", "fe80::7"), ("127.0.0.98", "10.1.2.3", "127.0.0.98"),
        ("127.0.0.99", "", "127.0.0.99"), ("127.0.0.99", None, "127.0.0.99"),
    ],
)  # fmt: skip
def test_another_address_is_believed_only_of_a_trusted_proxy(
    node: Node, proxy: str, hops: str | None, address: str
) -> None:
    headers = {} if hops is None else {"x-forwarded-for": hops}
    with node.at(proxy) as client:
        answer = client.post("/api/jobs", json={"containers": ["home"], "data": {}}, headers=headers)
    if address in {"10.1.2.3", "fd00::7"}:
        assert answer.status_code == 200
    else:
        params = f'{{"address":"{address}","container":"home"}}'
        golden(answer, 405, f'{{"error":"Container not allowed for address","params":{params}}}')


def test_a_client_cannot_put_an_address_of_its_own_before_that_of_the_proxy(node: Node) -> None:
    headers = [("x-forwarded-for", "10.1.2.3"), ("x-forwarded-for", "11.0.0.1")]
    with node.at("127.0.0.99") as client:
        answer = client.post("/api/jobs", json={"containers": ["home"], "data": {}}, headers=headers)
    assert answer.json()["params"]["address"] == "11.0.0.1"


def test_an_address_that_is_none_is_told(node: Node) -> None:
    with node.at("127.0.0.99") as client:
        answer = client.get("/info", headers={"x-forwarded-for": "unknown"})
    golden(answer, 400, '{"error":"Could not get client IP address"}')
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(node.served.socket))) as client:
        golden(client.get("http://node/info"), 400, '{"error":"Could not get client IP address"}')


def test_ids_and_addresses_in_a_body_change_nothing(node: Node, boxes: dict[str, Container]) -> None:
    """Item 5."""
    other = node.submit("a")
    more = {"id": other, "ip": "127.0.0.7", "type": "DelegatedSubscription", "unknown": 1}
    answer = post(node, {**JOB, **more})
    assert answer.json()["id"] != other
    node.result(answer.json()["id"])
    assert boxes["a"].seen[-1].body == b'{"source":1,"destination":1,"data":{},"requires_proof":false}'
    assert post(node, {"containers": ["home"], "data": {}, **more}).status_code == 405


def test_a_client_over_ipv6_has_lists_of_its_own(tmp_path: Path, boxes: dict[str, Container]) -> None:
    with infernet(tmp_path, [{"id": "a", "url": boxes["a"].url, "allowed_ips": ["::1"]}], listen="::1") as node:
        job = node.submit("a")
        assert node.client.get("/api/jobs").json() == [job]


def test_a_page_of_a_browser_follows_the_rules_of_the_node(node: Node) -> None:
    foreign = {"origin": "http://evil.example"}
    answer = node.client.post("/api/jobs", json=JOB, headers=foreign)
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert node.client.delete("/api/jobs", headers=foreign).status_code == 403
    assert node.client.put("/api/status", json={}, headers=foreign).status_code == 403
    own = {"origin": node.served.url}
    assert node.client.post("/api/jobs", json=JOB, headers=own).status_code == 200
    for rebound in ({"host": "evil.example"}, {"host": "evil.example", "sec-fetch-site": "same-origin"}):
        assert node.client.get("/info", headers=rebound).status_code == 421
        assert node.client.post("/api/jobs", json=JOB, headers=rebound).status_code == 421


def test_beyond_loopback_the_network_is_open_and_the_node_is_not(tmp_path: Path, boxes: dict[str, Container]) -> None:
    with infernet(tmp_path, [{"id": "a", "url": boxes["a"].url}], listen="0.0.0.0") as node:
        assert node.client.get("/v1/jobs").status_code == 401
        assert node.client.get("/health").status_code == 200
        assert node.done("a", x=1) == {"container": "a", "output": {"given": {"x": 1}}}
        browser = node.client.post("/api/jobs", json=JOB, headers={"sec-fetch-site": "cross-site"})
        assert browser.status_code == 401
        with node.raw(b"GET /api/../v1/jobs HTTP/1.1\r\nhost: localhost\r\n\r\n") as connection:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 404 ")


def test_a_token_of_the_node_closes_its_own_api_and_not_the_network(
    tmp_path: Path, boxes: dict[str, Container]
) -> None:
    with infernet(tmp_path, [{"id": "a", "url": boxes["a"].url}]) as node:
        store = node.served.node.store
        node.served.portal.call(lambda: Tokens(store).add("somebody", operator=False))
        until(lambda: node.client.get("/v1/jobs").status_code == 401)  # tokens are looked up every other second
        assert node.done("a", x=1)["output"] == {"given": {"x": 1}}
        page = node.client.post("/api/jobs", json=JOB, headers={"origin": "http://evil.example"})
        assert page.status_code == 401
