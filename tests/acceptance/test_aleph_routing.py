"""How requests find a program, what it sees of its place, and who may ask (contract, sections 2.6, A5 to A7, and 4.1).

Items 29, 30, 41 and 49 of the acceptance checklist.
"""

import concurrent.futures
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.aleph_lab import LAB, host_of, say
from tests.aleph_node import RAW, AlephNode, aleph_node, zipped
from tests.serving import Served

PROXY = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
FOREIGN = {"origin": "https://elsewhere.example"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


@pytest.fixture(scope="module")
def lab(node: AlephNode) -> str:
    return node.deploy(LAB)


def by_name(node: AlephNode, item_hash: str, path: str = "/", **headers: str) -> httpx.Response:
    return node.client.get(path, headers={"host": host_of(item_hash), **headers})


# What a program sees


def test_a_program_sees_all_of_its_request(node: AlephNode, lab: str) -> None:
    headers = [("X-One", "1"), ("Cookie", "a=1"), ("X-One", "2")]
    answer = node.client.request("REPORT", f"/vm/{lab}/scope/a%2Fb?a=1%262", headers=headers)
    scope = answer.json()
    sent = [[name.decode().lower(), value.decode()] for name, value in answer.request.headers.raw]
    assert scope["headers"] == [header for header in sent if header[0] != "connection"]
    port = int(node.url.rpartition(":")[2])
    facts = [scope[key] for key in ("type", "http_version", "method", "scheme", "path", "raw_path")]
    assert facts == ["http", "1.1", "REPORT", "http", "/scope/a/b", "/scope/a%2Fb"]
    assert (scope["query_string"], scope["root_path"], scope["state"]) == ("a=1%262", f"/vm/{lab}", {})
    assert (scope["server"], scope["client"][0]) == (["127.0.0.1", port], "127.0.0.1")
    assert set(scope["asgi"]) == {"version", "spec_version"}
    assert [scope["kinds"][key] for key in ("query_string", "raw_path", "path")] == ["bytes", "bytes", "str"]
    assert "body" not in scope


def test_by_name_a_program_is_at_the_root(node: AlephNode, lab: str) -> None:
    scope = by_name(node, lab, "/scope/a%2Fb").json()
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == ("/scope/a/b", "/scope/a%2Fb", "")
    assert scope["server"] == [host_of(lab), 80]


def test_nobody_is_believed_whom_the_operator_does_not_trust(node: AlephNode, lab: str) -> None:
    scope = node.get(lab, "/scope", headers=PROXY).json()
    assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")
    assert ["x-forwarded-for", "203.0.113.9"] in scope["headers"]


STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

async def show(request):
    return JSONResponse(str(request.url_for("inner:item", item="7")))

inner = [Route("/items/{item}", show, name="item"), Route("/slash/", show)]
app = Starlette(routes=[Route("/", show), Mount("/inner", routes=inner, name="inner")])
"""
FASTAPI = """
from fastapi import APIRouter, FastAPI, Request

app, inner = FastAPI(), APIRouter(prefix="/inner")

@app.get("/")
@inner.get("/items/{item}", name="item")
@inner.get("/slash/")
async def show(request: Request):
    return str(request.url_for("item", item="7"))

app.include_router(inner)
"""
DJANGO = """
import django
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, APPEND_SLASH=True, SECRET_KEY="x",
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
django.setup()
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path, reverse

def show(request, item=None):
    return JsonResponse(request.build_absolute_uri(reverse("item", args=["7"])), safe=False)

urlpatterns = [path("", show), path("inner/items/<item>", show, name="item"), path("inner/slash/", show)]
app = get_asgi_application()
"""


def packages(*names: str) -> bytes:
    """Pack installed packages."""
    files = {}
    for name in names:
        root = Path(importlib.import_module(name).__path__[0])
        files |= {f"{name}/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*.py")}
    return zipped(files)


@pytest.fixture(scope="module")
def django(node: AlephNode) -> str:
    volume = {"ref": node.file(packages("django", "asgiref", "sqlparse")), "mount": "/opt/packages"}
    return node.deploy(DJANGO, volumes=[volume])


def test_frameworks_find_their_ways_and_make_links_under_both_kinds_of_address(node: AlephNode, django: str) -> None:
    for program in (node.deploy(STARLETTE), node.deploy(FASTAPI), django):
        for root, host in ((f"/vm/{program}", "localhost:4000"), ("", host_of(program))):
            found = {path: _get(node, root + path, host) for path in ("/", "/inner/items/7", "/inner/slash/")}
            assert {path: (each.status_code, each.text) for path, each in found.items()} == {
                path: (200, json.dumps(f"http://{host}{root}/inner/items/7")) for path in found
            }
            slash = _get(node, f"{root}/inner/slash", host)
            assert slash.status_code in {301, 307}
            assert httpx.URL(slash.headers["location"]).path == f"{root}/inner/slash/"
            assert _get(node, f"{root}/nowhere", host).status_code == 404


def _get(node: AlephNode, path: str, host: str) -> httpx.Response:
    return node.client.get(path, headers={"host": host})


# Addresses


def test_the_whole_of_its_host_is_the_programs(node: AlephNode, lab: str) -> None:
    for path in ("/status/config", "/about/executions/list", "/api/v0/messages.json", "/v1/node", "/vm/x", "/metrics"):
        answer = by_name(node, lab, path)
        assert (answer.status_code, answer.headers["x-own"]) == (404, "1")
    assert by_name(node, lab, "/told").headers["aleph-program-itemhash"] == lab
    assert node.client.get("/told", headers={"host": f"{host_of(lab).upper()}:4000"}).text == "fine"
    assert node.client.get("/v1/node", headers={"host": "localhost"}).json()["version"]


def test_a_path_may_be_empty_and_a_host_may_stand_for_nothing(node: AlephNode, lab: str) -> None:
    assert node.get(lab, "").json()["path"] == "/"
    assert node.get(lab, "?a=1").json()["query_string"] == "a=1"
    for label in ("0" * 52, "é" * 26):
        request = f"GET / HTTP/1.1\r\nhost: {label}.localhost\r\nconnection: close\r\n\r\n"
        answer = say(node.url, request.encode())
        assert answer.startswith(b"HTTP/1.1 404")
        assert answer.endswith(b'{"error": "404: Invalid message reference"}')
    unknown = by_name(node, "ab" * 32)
    assert (unknown.status_code, unknown.json()) == (404, {"error": f"Hash not found: {'ab' * 32}"})


# Who may ask


def test_a_page_of_any_site_may_ask_a_program_but_not_change_the_node(node: AlephNode, lab: str) -> None:
    for answer in (
        node.client.post(f"/vm/{lab}/returned", headers={**FOREIGN, "authorization": "Bearer mine"}, content=b"data"),
        node.client.post("/returned", headers={**FOREIGN, "host": host_of(lab)}, content=b"data"),
    ):
        assert (answer.status_code, answer.text) == (200, "data")
    scope = node.get(lab, "/scope", headers={"authorization": "Bearer mine"}).json()
    assert ["authorization", "Bearer mine"] in scope["headers"]
    for path in ("/api/v0/messages", "/v1/blobs"):
        refused = node.client.post(path, headers=FOREIGN, json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")


def test_by_a_foreign_name_nobody_reaches_a_program_of_this_machine(node: AlephNode, lab: str) -> None:
    for path in (f"/vm/{lab}/told", "/api/v0/messages.json"):
        refused = node.client.get(path, headers={"host": "elsewhere.example"})
        assert (refused.status_code, refused.json()["code"]) == (421, "foreign_host")


def test_where_there_are_tokens_a_program_is_reached_with_one_and_never_learns_it(
    tmp_path: Path, aleph_layers: Path
) -> None:
    settings: dict[str, Any] = {"trusted_proxies": ["127.0.0.0/8"]}
    with aleph_node(tmp_path / "data", layers=aleph_layers, **settings) as own:
        lab = own.deploy(LAB, more={"interface": "asgi"})
        own.publish(own.wallet.post("hello", time=own.now()))
        scope = own.get(lab, "/scope", headers=PROXY).json()
        assert (scope["client"][0], scope["scheme"]) == ("203.0.113.9", "https")
        token = _token(own.served)
        assert own.get(lab, "/told").status_code == 401
        assert by_name(own, lab, "/told").status_code == 401
        scope = own.get(lab, "/scope", headers={"authorization": f"Bearer {token}"}).json()
        assert "authorization" not in dict(scope["headers"])


def test_on_a_public_node_strangers_publish_and_call(tmp_path: Path, aleph_layers: Path) -> None:
    settings: dict[str, Any] = {"public": True, "domains": {}}
    with aleph_node(tmp_path / "data", layers=aleph_layers, **settings) as own:
        _token(own.served)
        own.client.headers.update({**FOREIGN, "host": "node.example"})
        lab = own.deploy(LAB)
        assert own.get(lab, "/told").text == "fine"
        assert by_name(own, lab, "/told").text == "fine"
        assert own.client.get("/v1/apps").status_code == 401


def test_a_domain_of_the_operators_leads_to_its_program(tmp_path: Path, aleph_layers: Path) -> None:
    with aleph_node(tmp_path / "data", layers=aleph_layers) as own:
        program = own.deploy()
    with aleph_node(tmp_path / "data", layers=aleph_layers, domains={"App.example": program}) as own:
        for host in ("app.example", "APP.example:8000"):
            answer = own.client.get("/v1/node", headers={"host": host})
            assert (answer.status_code, answer.text) == (200, "hello")


def _token(served: Served) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(served.socket)), base_url="http://node") as operator:
        return str(operator.post("/v1/tokens", json={"name": "alice"}).json()["token"])


# Starts


def test_many_who_come_first_start_one(node: AlephNode) -> None:
    program = node.deploy(f"print('starts', flush=True)\n{RAW}")
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: node.get(program), range(20)))
    assert {answer.text for answer in answers} == {"hello"}
    assert [line.text for line in node.log(program)] == ["starts"]


def test_programs_start_beside_each_other(node: AlephNode) -> None:
    slow = node.deploy(f"import time\nprint('starts', flush=True)\ntime.sleep(3)\n{RAW}")
    quick = node.deploy(f"{RAW}\n# quick\n")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        first = threads.submit(node.get, slow)
        assert node.get(quick).text == "hello"
        assert time.monotonic() - began < 3
        assert not first.done()
        assert first.result().text == "hello"
