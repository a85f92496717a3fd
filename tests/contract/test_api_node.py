"""The node about itself: services, figures, tokens, its document, its sockets."""

import asyncio
import gc
import stat
from pathlib import Path

import httpx
import pytest

from moorage import __version__
from moorage.client import Client
from moorage.errors import AddressUnavailable, Forbidden, NodeUnreachable, NotFound, TokenRequired, Unauthorized
from moorage.model.apps import App
from moorage.node.config import NodeConfig
from moorage.node.node import Node
from tests.serving import Served


def test_the_node_tells_what_it_is(client: Client) -> None:
    node = client.node()
    assert (node.version, node.isolation) == (__version__, "bubblewrap")
    assert "infrax" in node.networks
    assert node.places[0].cpus > 0


def test_the_doctor_answers_over_http(client: Client) -> None:
    checks = client.doctor()
    assert checks
    assert all(check.message for check in checks)


@pytest.mark.anyio
async def test_a_node_asked_twice_at_once_for_its_address_listens_once(tmp_path: Path) -> None:
    async with Node.open(NodeConfig(data_dir=tmp_path / "node")) as node:
        calls = []

        async def listen() -> None:
            calls.append(1)
            await asyncio.sleep(0)
            node.url = "http://127.0.0.1:1"

        node.listen = listen
        assert await asyncio.gather(node.address(), node.address()) == ["http://127.0.0.1:1"] * 2
        assert calls == [1]


def test_services_are_listed(client: Client, served: Served) -> None:
    assert client.services() == []
    assert httpx.get(f"{served.url}/v1/services/none").json()["code"] == "not_found"


def test_figures_count_jobs_attempts_and_requests_by_route(client: Client, served: Served, app: App) -> None:
    client.wait_job(client.submit(app.id, limits={"cpus": "100m", "memory": "128MiB"}).id, timeout=60)
    figures = httpx.get(f"{served.url}/metrics").text
    assert 'moorage_jobs{state="succeeded"} 1.0' in figures
    assert 'moorage_attempts_total{state="succeeded"} 1.0' in figures
    assert "moorage_attempt_seconds_count 1.0" in figures
    assert 'moorage_http_requests_total{method="POST",route="/v1/jobs",status="201"} 1.0' in figures
    assert app.id not in figures
    httpx.get(f"{served.url}/wp-login.php")
    assert "wp-login" not in httpx.get(f"{served.url}/metrics").text


def test_tokens_are_made_shown_once_and_forgotten(served: Served) -> None:
    with Client(served.socket) as operator:
        secret = operator.add_token("dave")
        try:
            assert [(token["name"], token["operator"]) for token in operator.tokens()] == [("dave", False)]
            with Client(served.url, token=secret) as dave:
                assert dave.node().version == __version__
                for refused in (dave.tokens, dave.doctor, dave.services, lambda: dave.add_token("eve")):
                    with pytest.raises(Forbidden):
                        refused()
                with pytest.raises(Forbidden):
                    dave._node.call("GET", "/v1/events")
            with Client(served.url) as nobody, pytest.raises(Unauthorized):
                nobody.node()
        finally:
            operator.remove_token("dave")
        with pytest.raises(NotFound):
            operator.remove_token("dave")
        assert operator.tokens() == []


@pytest.mark.parametrize("name", ["", "local", "guest", "a b", "../x", "x" * 65])
def test_a_token_needs_a_proper_name_that_is_not_the_operators_own(served: Served, name: str) -> None:
    answer = httpx.post(f"{served.url}/v1/tokens", json={"name": name})
    assert answer.status_code == 422


def test_only_the_nodes_user_can_open_its_socket(served: Served) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600
    with Client(served.socket) as client:
        assert client.node().version == __version__


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # httpcore leaves a socket that found nobody open
def test_nobody_there_is_said_so(tmp_path: Path, served: Served) -> None:
    for address in ("http://127.0.0.1:9", tmp_path / "none.sock"):
        with Client(address) as client, pytest.raises(NodeUnreachable):
            client.node()
    gc.collect()


def test_an_address_that_is_taken_is_said_so(served: Served) -> None:
    from moorage.api.server import serve

    async def listen(host: str, port: int) -> None:
        async with serve(served.node, host=host, port=port):
            pass

    with pytest.raises(AddressUnavailable):
        served.portal.call(listen, "127.0.0.1", int(served.url.rpartition(":")[2]))
    with pytest.raises(TokenRequired):
        served.portal.call(listen, "0.0.0.0", 0)


def test_every_operation_is_documented_with_examples(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    missing = []
    for path, operations in document["paths"].items():
        if not path.startswith("/v1"):
            continue
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert "description" in operation, where
            missing += [f"{where}: parameter {p['name']}" for p in operation.get("parameters", []) if not _shown(p)]
            missing += [
                f"{where}: body" for body in _contents(operation.get("requestBody")) if not _known(document, body)
            ]
            for status, answer in operation["responses"].items():
                if status in {"200", "201"}:
                    missing += [f"{where}: {status}" for body in _contents(answer) if not _known(document, body)]
            assert {"400", "401", "403", "421", "422", "500", "503"} <= set(operation["responses"]), where
    assert missing == []


def _contents(part: dict | None) -> list[dict]:
    return list((part or {}).get("content", {}).values())


def _shown(parameter: dict) -> bool:
    return "example" in parameter or "examples" in parameter or "examples" in parameter["schema"]


def _known(document: dict, content: dict) -> bool:
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return "example" in content or "examples" in schema
