"""The network's HTTP surface (contract, section 4), on a real node and against a stub of the network's router.

Item 15 of the acceptance checklist (section 8), and item 16 for what the router asked for.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moorage.api.access import Tokens
from moorage.api.server import serve
from moorage.errors import BadManifest
from moorage.networks.infrax.config import SurfaceConfig, read_config
from moorage.node.config import load_config
from moorage.node.node import Node

pytestmark = pytest.mark.anyio

ETH = "0xNode"
MAIN = """
import json, os, sys
kwargs = json.load(sys.stdin)
print("hello", kwargs.get("name"))
print("trouble", file=sys.stderr)
os.makedirs("output/deep")
for name in os.listdir("input"):
    with open(f"input/{name}") as source, open(f"output/deep/{name}", "w") as target:
        target.write(source.read().upper())
sys.exit(kwargs.get("code", 0))
"""


@dataclass
class StubRouter:
    """What the node's calls met, and what they are answered."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    apps: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    uploaded: list[tuple[str | None, str | None, bytes]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """Paths that are answered with status 500."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Files are given out once it is set."""
    noticed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: Request) -> Response:
        path, method = request.url.path, request.method
        name, body = f"{method} {path}", await self._body(request)
        if path.startswith("/file/"):
            await self.gate.wait()
        self.calls.append((name, body))
        self.headers.append(request.headers.get("x-eth-address"))
        self.noticed.set()
        return Response(status_code=500) if path in self.broken else self._content(method, path, body)

    def _content(self, method: str, path: str, body: Any) -> Response:
        last = path.rpartition("/")[2]
        if path == "/node":
            return JSONResponse({"id": "n1", **body["node"], "state": "IDLE"}, 201)
        if method == "GET" and path.startswith("/app/"):
            return JSONResponse(self.apps.get(last))
        if path.startswith("/file/"):
            return Response(self.files[last]) if last in self.files else Response("no such file", 404)
        if path == "/file":
            return JSONResponse([{"id": f"out-{number}"} for number in range(len(self.uploaded))], 201)
        return JSONResponse(None)

    async def _body(self, request: Request) -> Any:
        if request.headers.get("content-type", "").startswith("multipart/"):
            async with request.form() as form:
                parts = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
                self.uploaded = [(part.filename, part.content_type, await part.read()) for part in parts]
                return sorted(part.filename or "" for part in parts)
        return await request.json() if await request.body() else None

    def names(self, start: int = 0) -> list[str]:
        return [name + (f" {body['state']}" if name.startswith("PUT") and "state" in (body or {}) else "")
                for name, body in self.calls[start:]]  # fmt: skip

    async def until(self, name: str, *, count: int = 1) -> None:
        """Wait until a call was made so many times."""
        async with asyncio.timeout(120):
            while self.names().count(name) < count:
                self.noticed.clear()
                await self.noticed.wait()

    def body(self, name: str) -> Any:
        return [body for seen, body in self.calls if seen == name][-1]

    def offer_app(self, app_id: str = "a1", main: str = MAIN, **meta: Any) -> None:
        self.files[f"{app_id}-main"] = main.encode()
        self.apps[app_id] = {
            "id": app_id, "eth_address": "0xAuthor", "name": "Shout", "description": None, "meta": meta,
            "spec_id": "s1", "ts": 1, "last_modified": 1, "files": [
                {"id": f"{app_id}-main", "name": "main.py", "path": None, "content_type": None, "size": len(main)}],
        }  # fmt: skip


@contextlib.asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serve an application on a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", loop="none"))
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.ensure_future(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def router() -> AsyncIterator[StubRouter]:
    stub = StubRouter()
    stub.gate.set()
    methods = ["GET", "POST", "PUT", "DELETE"]
    async with serving(Starlette(routes=[Route("/{path:path}", stub.answer, methods=methods)])) as stub.url:
        yield stub
        stub.gate.set()  # a test that failed must not leave a request waiting


def settings(router_url: str, **more: Any) -> dict[str, Any]:
    return {"surface": True, "router_url": router_url, "eth_address": ETH, "external_port": 8420, "ram": "32GB",
            "float_types": {"FP32": True}, **more}  # fmt: skip


@contextlib.asynccontextmanager
async def surface(data_dir: Path, router_url: str, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run a node with the surface on, and give a client of it."""
    config = load_config(None, data_dir=data_dir, networks={"infrax": settings(router_url, **more)})
    async with (
        Node.open(config) as node,
        serve(node, host="127.0.0.1", port=0) as listening,
        httpx.AsyncClient(base_url=listening.url or "", timeout=60) as client,
    ):
        yield client


@pytest.fixture
def data_dir(tmp_path: Path, layers_dir: Path) -> Path:
    """A data directory of its own for each test, in which Python environments are there already."""
    path = tmp_path / "data"
    path.mkdir()
    (path / "layers").symlink_to(layers_dir)
    return path


@pytest.fixture
async def client(data_dir: Path, router: StubRouter) -> AsyncIterator[httpx.AsyncClient]:
    async with surface(data_dir, router.url) as client:
        await router.until("PUT /node/state IDLE")
        router.offer_app()
        yield client


def job(job_id: str = "j1", **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "app_id": "a1", "eth_address": "0xUser", "meta": {"kwargs": {"name": "Ada"}},
            "time_to_give_up": None, "state": "CREATED", "start_ts": None, "ts": 1, "last_modified": 1, "files": None,
            **fields}  # fmt: skip


def file(file_id: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"id": file_id, "name": name, "path": None, "content_type": None, "size": 0, **fields}


async def install(client: httpx.AsyncClient, router: StubRouter, app_id: str = "a1") -> None:
    idle = router.names().count("PUT /node/state IDLE")
    assert (await client.post(f"/app/{app_id}")).status_code == 200
    await router.until("PUT /node/state IDLE", count=idle + 1)


async def run(client: httpx.AsyncClient, router: StubRouter, document: Mapping[str, Any]) -> list[str]:
    """Have a job done and give the names of the calls that it led to."""
    start, idle = len(router.calls), router.names().count("PUT /node/state IDLE")
    answer = await client.post("/job", json=document)
    assert answer.status_code == 201, answer.text
    await router.until("PUT /node/state IDLE", count=idle + 1)
    return router.names(start)


async def test_the_node_registers_at_start_and_says_that_it_is_idle(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    assert router.names() == ["POST /node", "PUT /node/state IDLE"]
    body = router.body("POST /node")
    assert body["port"] == 8420
    assert list(body["node"]) == ["eth_address", "spec", "cpu", "gpu"]
    assert body["node"]["spec"] == {"ram": 32, "vram": 0, "FP80": False, "FP64": False, "FP32": True, "FP16": False,
                                    "FP8": False, "FP4": False, "BF16": False, "TF32": False, "NF4": False}  # fmt: skip
    assert set(router.headers) == {ETH}


async def test_health_is_an_empty_answer(client: httpx.AsyncClient) -> None:
    answer = await client.get("/__health")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_other_paths_and_methods_are_answered_as_the_network_does(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nothing")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    for method, path, allowed in [("GET", "/job", {"POST"}), ("PUT", "/app/a1", {"POST", "DELETE"})]:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
        assert set(answer.headers["allow"].replace(" ", "").split(",")) == allowed


async def test_an_app_is_installed_in_the_background_and_then_listed(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    assert (await client.get("/app")).json() == []
    start = len(router.calls)
    answer = await client.post("/app/a1")
    assert (answer.status_code, answer.text) == (200, "null")
    await router.until("PUT /node/state IDLE", count=2)
    assert router.names(start) == ["PUT /node/state BUSY", "GET /app/a1", "GET /file/a1-main", "PUT /node/n1/app/a1",
                                   "PUT /node/state IDLE"]  # fmt: skip
    assert router.body("PUT /node/state") == {"node_id": "n1", "state": "IDLE"}
    assert (await client.get("/app")).json() == ["a1"]
    again = await client.post("/app/a1")
    assert (again.status_code, again.json()) == (200, {"detail": "App is already installed"})


async def test_a_failed_installation_is_told_and_leaves_nothing_installed(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    """Section 6, items 4 to 6."""
    cases: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda app: router.files.clear(), "GET /file/a1-main"),
        (lambda app: router.apps.clear(), "does not know"),
        (lambda app: app["files"][0].update(name="other.py"), "main.py"),
        (lambda app: app["files"][0].update(path="../.."), "'..'"),
        (lambda app: app["files"][0].update(size=10**6), "GET /file/a1-main"),
        (lambda app: app["files"].append(app["files"][0]), "twice"),
    ]
    for spoil, text in cases:
        router.offer_app()
        spoil(router.apps["a1"])
        await install(client, router)
        assert router.names()[-2:] == ["PUT /app/a1", "PUT /node/state IDLE"]
        told = router.body("PUT /app/a1")
        assert told["type"] == "INSTALL_ERROR"
        assert text in told["error"]
        assert (await client.get("/app")).json() == []
        assert (await client.post("/job", json=job())).json() == {"detail": "App is not installed"}


async def test_an_app_is_removed_in_the_background(client: httpx.AsyncClient, router: StubRouter) -> None:
    missing = await client.delete("/app/a1")
    assert (missing.status_code, missing.json()) == (404, {"detail": "App is not installed"})
    await install(client, router)
    start = len(router.calls)
    answer = await client.delete("/app/a1")
    assert (answer.status_code, answer.text) == (200, "null")
    await router.until("PUT /node/state IDLE", count=3)
    assert router.names(start) == ["PUT /node/state BUSY", "DELETE /node/n1/app/a1", "PUT /node/state IDLE"]
    assert (await client.get("/app")).json() == []


async def test_a_job_is_echoed_run_and_reported_in_the_order_of_the_contract(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    await install(client, router)
    router.files |= {"in-1": b"one", "in-2": b"two"}
    document = job(files=[file("in-1", "a.txt"), file("in-2", "b", path=None)], unknown="field")
    del document["time_to_give_up"]
    start = len(router.calls)
    answer = await client.post("/job", json=document)
    assert answer.status_code == 201
    assert answer.json() == job(files=[file("in-1", "a.txt"), file("in-2", "b")])
    assert list(answer.json()) == list(job())
    await router.until("PUT /node/state IDLE", count=3)
    assert router.names(start) == [
        "PUT /node/state BUSY", "GET /file/in-1", "GET /file/in-2", "PUT /job/j1 FINISHING", "POST /file",
        "POST /job/j1/result", "PUT /job/j1 FINISHED", "PUT /node/state IDLE",
    ]  # fmt: skip
    assert router.body("PUT /job/j1") == {**answer.json(), "state": "FINISHED"}
    assert sorted(router.uploaded, key=str) == [
        ("deep/a.txt", "text/plain", b"ONE"), ("deep/b", "application/octet-stream", b"TWO")
    ]  # fmt: skip
    result = router.body("POST /job/j1/result")
    assert list(result) == ["job_id", "execution_time", "output", "success", "error", "file_ids"]
    assert result.pop("execution_time") > 0
    assert result == {"job_id": "j1", "output": "hello Ada\n\ntrouble\n", "success": True, "error": None,
                      "file_ids": ["out-0", "out-1"]}  # fmt: skip


async def test_defaults_of_the_app_reach_a_job_that_says_nothing(client: httpx.AsyncClient, router: StubRouter) -> None:
    router.offer_app(kwargs={"name": "default"})
    await install(client, router)
    calls = await run(client, router, job(meta=None))
    assert "POST /file" not in calls
    assert router.body("POST /job/j1/result")["output"].startswith("hello default\n")


async def test_a_failing_app_is_reported_with_its_exit_code_and_its_outputs(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    await install(client, router)
    router.files["in"] = b"x"
    await run(client, router, job(meta={"kwargs": {"code": 3}}, files=[file("in", "x")]))
    result = router.body("POST /job/j1/result")
    assert (result["success"], result["error"]) == (False, "Job failed with exit code 3")
    assert result["file_ids"] == ["out-0"]


async def test_time_to_give_up_ends_a_job(client: httpx.AsyncClient, router: StubRouter) -> None:
    router.offer_app(main="import time; time.sleep(600)")
    await install(client, router)
    await run(client, router, job(time_to_give_up=1))
    result = router.body("POST /job/j1/result")
    assert (result["success"], result["error"]) == (False, "Job timed out after 1 seconds")


async def test_an_input_that_cannot_be_had_fails_the_job_before_it_starts(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    await install(client, router)
    calls = await run(client, router, job(files=[file("gone", "notes.txt")]))
    assert calls == ["PUT /node/state BUSY", "GET /file/gone", "POST /job/j1/result", "PUT /job/j1 FINISHED",
                     "PUT /node/state IDLE"]  # fmt: skip
    assert router.body("POST /job/j1/result") == {
        "job_id": "j1", "execution_time": 0.0, "output": None, "success": False,
        "error": "Failed to download input file notes.txt", "file_ids": [],
    }  # fmt: skip


async def test_outputs_that_the_router_does_not_take_fail_the_job(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    await install(client, router)
    router.files["in"] = b"x"
    router.broken.add("/file")
    calls = await run(client, router, job(files=[file("in", "x")]))
    assert calls.count("POST /file") > 1, "an upload is tried again"
    result = router.body("POST /job/j1/result")
    assert (result["success"], result["error"]) == (False, "Failed to upload output files")
    assert calls[-2:] == ["PUT /job/j1 FINISHED", "PUT /node/state IDLE"]


async def test_a_result_that_the_router_does_not_take_leaves_the_node_idle(
    client: httpx.AsyncClient, router: StubRouter
) -> None:
    await install(client, router)
    router.broken.add("/job/j1/result")
    assert (await run(client, router, job()))[-2:] == ["PUT /job/j1 FINISHED", "PUT /node/state IDLE"]
    assert (await run(client, router, job("j2")))[-2:] == ["PUT /job/j2 FINISHED", "PUT /node/state IDLE"]


async def test_a_result_that_the_router_could_not_take_is_reported_by_the_next_start(
    data_dir: Path, router: StubRouter
) -> None:
    router.offer_app()
    async with surface(data_dir, router.url) as client:
        await router.until("PUT /node/state IDLE")
        await install(client, router)
        router.broken.add("/job/j1/result")
        await run(client, router, job())
    router.broken.clear()
    tried = router.names().count("POST /job/j1/result")
    async with surface(data_dir, router.url):
        await router.until("POST /job/j1/result", count=tried + 1)
        assert router.body("POST /job/j1/result")["success"]


async def test_a_router_that_is_down_leaves_the_node_idle(data_dir: Path) -> None:
    stub = StubRouter()
    stub.gate.set()
    stub.offer_app()
    async with contextlib.AsyncExitStack() as stack:
        router_stack = await stack.enter_async_context(contextlib.AsyncExitStack())
        routes = [Route("/{path:path}", stub.answer, methods=["GET", "POST", "PUT", "DELETE"])]
        stub.url = await router_stack.enter_async_context(serving(Starlette(routes=routes)))
        client = await stack.enter_async_context(surface(data_dir, stub.url))
        await stub.until("PUT /node/state IDLE")
        await install(client, stub)
        await router_stack.aclose()
        assert (await client.post("/job", json=job())).status_code == 201
        assert (await client.post("/job", json=job("j2"))).json() == {"detail": "Node is busy"}
        async with asyncio.timeout(120):
            while (await client.post("/job", json=job("j2"))).status_code == 409:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.1)


async def test_a_busy_node_takes_nothing_else(client: httpx.AsyncClient, router: StubRouter) -> None:
    await install(client, router)
    router.files["in"] = b"x"
    router.gate.clear()
    first = job(files=[file("in", "x")])
    assert (await client.post("/job", json=first)).status_code == 201
    for method, path in [("POST", "/app/a1"), ("POST", "/app/other"), ("DELETE", "/app/a1"), ("DELETE", "/app/other")]:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()) == (409, {"detail": "Node is busy"})
    assert (await client.get("/app")).json() == ["a1"]
    same = await client.post("/job", json=first)
    assert same.status_code == 201, "the same job again while it runs starts nothing"
    router.gate.set()
    await router.until("PUT /node/state IDLE", count=3)
    assert router.names().count("POST /job/j1/result") == 1


async def test_the_checks_come_in_the_order_of_the_contract(client: httpx.AsyncClient, router: StubRouter) -> None:
    wrong = job("j2", app_id="other", ts="never")
    assert (await client.post("/job", json=job("j2", app_id="other"))).json() == {"detail": "App is not installed"}
    assert (await client.post("/job", json=wrong)).status_code == 422
    router.gate.clear()
    await client.post("/app/a1")
    assert (await client.post("/job", json=wrong)).json() == {"detail": "Node is busy"}
    assert (await client.post("/job", content=b"{")).status_code == 422
    router.gate.set()
    await router.until("PUT /node/state IDLE", count=2)
    assert (await client.post("/job", json=wrong)).status_code == 422


async def test_of_requests_at_the_same_moment_one_gets_the_slot(client: httpx.AsyncClient, router: StubRouter) -> None:
    """Section 6, item 10."""
    await install(client, router)
    router.files["in"] = b"x"
    router.gate.clear()
    jobs = [job(f"j{number}", files=[file("in", "x")]) for number in range(8)]
    answers = await asyncio.gather(*(client.post("/job", json=document) for document in jobs))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]
    router.gate.set()
    await router.until("PUT /node/state IDLE", count=3)


async def test_a_finished_job_that_is_sent_again_runs_again(client: httpx.AsyncClient, router: StubRouter) -> None:
    await install(client, router)
    await run(client, router, job())
    await run(client, router, job())
    assert router.names().count("POST /job/j1/result") == 2


INVALID: list[tuple[dict[str, Any], list[Any], str]] = [
    ({"id": 5}, ["body", "id"], "string_type"),
    ({"state": "DONE"}, ["body", "state"], "literal_error"),
    ({"time_to_give_up": -1}, ["body", "time_to_give_up"], "greater_than_equal"),
    ({"files": [{"id": "f"}]}, ["body", "files", 0, "name"], "missing"),
    ({"meta": []}, ["body", "meta"], "dict_type"),
    ({"id": []}, ["body", "id"], "string_type"),
    ({"meta": {"kwargs": []}}, ["body", "meta"], "kwargs_bad_type"),
    ({"meta": {"kwargs": {"k": "x" * 1025}}}, ["body", "meta"], "kwarg_too_long"),
    ({"meta": {"args": {}}}, ["body", "meta"], "kwargs_bad_type"),
    ({"meta": {"kwargs": {"k": "\ud800"}}}, ["body", "meta"], "kwarg_invalid_text"),
    ({"files": [file("f", "../x")]}, ["body", "files"], "file_bad_path"),
    ({"files": [file("f", "x"), file("g", "x")]}, ["body", "files"], "file_duplicate"),
]


async def test_a_job_that_is_not_valid_is_refused_in_the_form_of_the_network(client: httpx.AsyncClient) -> None:
    for change, where, kind in INVALID:
        answer = await client.post("/job", content=json.dumps(job(**change)))
        assert answer.status_code == 422, change
        problem = answer.json()["detail"][0]
        assert list(problem) == ["type", "loc", "msg", "input"]
        assert (problem["loc"], problem["type"]) == (where, kind)


async def test_a_body_that_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b'{"ts": Infinity}', b" " * (9 << 20)):
        answer = await client.post("/job", content=body)
        assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "json_invalid"), body[:20]


async def test_required_keys_may_be_null_but_not_missing(client: httpx.AsyncClient) -> None:
    document = job()
    del document["start_ts"]
    answer = await client.post("/job", json=document)
    assert answer.json()["detail"][0]["loc"] == ["body", "start_ts"]


async def test_more_slots_take_more_jobs(data_dir: Path, router: StubRouter) -> None:
    router.offer_app()
    router.files["in"] = b"x"
    async with surface(data_dir, router.url, slots=2) as client:
        await client.post("/app/a1")
        await router.until("PUT /node/n1/app/a1")
        router.gate.clear()
        for name in ("j0", "j1"):
            async with asyncio.timeout(60):  # the installation gives its slot back when the router knows of it
                while (await client.post("/job", json=job(name, files=[file("in", "x")]))).status_code == 409:  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.02)
        assert (await client.post("/job", json=job("j2", files=[file("in", "x")]))).status_code == 409
        router.gate.set()
        await router.until("PUT /job/j0 FINISHED")
        await router.until("PUT /job/j1 FINISHED")


async def test_a_job_that_outlives_the_node_is_finished_and_reported_once_by_the_next(
    data_dir: Path, router: StubRouter
) -> None:
    """Item 16."""
    router.offer_app()
    router.files["in"] = b"x"
    async with surface(data_dir, router.url) as client:
        await router.until("PUT /node/state IDLE")
        await install(client, router)
        router.gate.clear()
        assert (await client.post("/job", json=job(files=[file("in", "x")]))).status_code == 201
    router.gate.set()
    async with surface(data_dir, router.url) as client:
        await router.until("PUT /job/j1 FINISHED")
        await router.until("PUT /node/state IDLE", count=3)
        assert router.body("POST /job/j1/result")["success"]
        assert (await client.get("/app")).json() == ["a1"]
    start = len(router.calls)
    async with surface(data_dir, router.url):
        await router.until("PUT /node/state IDLE", count=4)
        assert router.names(start) == ["POST /node", "PUT /node/state IDLE"]


async def test_a_job_that_ran_while_the_node_stopped_is_run_again_and_reported_once(
    data_dir: Path, router: StubRouter
) -> None:
    """Item 16: the same job of ours, in a second attempt."""
    router.offer_app(main="import time; time.sleep(600)")
    async with surface(data_dir, router.url) as client:
        await router.until("PUT /node/state IDLE")
        await install(client, router)
        assert (await client.post("/job", json=job(time_to_give_up=3))).status_code == 201
        async with asyncio.timeout(60):
            while "running" not in (await client.get("/v1/jobs")).text:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.02)
    assert "POST /job/j1/result" not in router.names()
    async with surface(data_dir, router.url) as client:
        await router.until("PUT /job/j1 FINISHED")
        assert len((await client.get("/v1/jobs")).json()) == 1
    assert router.names().count("POST /job/j1/result") == 1
    assert router.body("POST /job/j1/result")["error"] == "Job timed out after 3 seconds"


async def test_the_surface_is_off_unless_the_operator_wants_it(data_dir: Path) -> None:
    async with (
        Node.open(load_config(None, data_dir=data_dir)) as node,
        serve(node, host="127.0.0.1", port=0) as listening,
        httpx.AsyncClient(base_url=listening.url or "") as client,
    ):
        assert (await client.get("/__health")).status_code == 404
        assert (await client.post("/job", json=job())).status_code == 404


async def test_where_tokens_are_needed_only_allowed_sources_go_without(data_dir: Path, router: StubRouter) -> None:
    """Section 4.1: the network's own clients send no token."""
    for sources, status in ((["127.0.0.0/8"], 200), (["10.0.0.0/8", "::1/128"], 401)):
        config = load_config(
            None, data_dir=data_dir, networks={"infrax": settings(router.url, allowed_sources=sources)}
        )
        async with Node.open(config) as node:
            secret = await Tokens(node.store).add(f"for {status}", operator=True)
            async with (
                serve(node, host="127.0.0.1", port=0) as listening,
                httpx.AsyncClient(base_url=listening.url or "") as client,
            ):
                for path in ("/app", "/__health"):
                    assert (await client.get(path)).status_code == status
                    assert (await client.get(path, headers={"authorization": f"Bearer {secret}"})).status_code == 200
                    assert (await client.get(path, headers={"origin": "https://page.example"})).status_code == 401
                assert (await client.get("/v1/jobs")).status_code == 401


def test_the_networks_own_configuration_file_can_be_pasted() -> None:
    table = {
        "surface": True,
        "router_url": "https://router.example",
        "host": {"external_port": 80, "internal_ip": "0.0.0.0", "internal_port": 8420, "local_only": False,
                 "app_dir": "/apps"},
        "compute_node": {"eth_address": "0x1", "cpu": "c", "gpu": "g", "ram": "32GB", "vram": "8GB"},
        "float_types": {"FP16": True},
    }  # fmt: skip
    config = read_config(table)
    assert (config.external_port, config.eth_address, config.ram, config.vram) == (80, "0x1", 32, 8)
    assert config.node_def.spec.FP16
    assert not config.node_def.spec.FP32


def test_local_only_means_no_router() -> None:
    assert not read_config({"surface": True, "host": {"local_only": True}}).surface


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"surface": True}, "router_url and eth_address"),
        ({"router_ulr": "x"}, "`router_url`"),
        ({"slots": 0}, "`networks.infrax.slots`"),
        ({"ram": "much"}, "`networks.infrax.ram`"),
        ({"router_url": "router"}, "`networks.infrax.router_url`"),
        ({"allowed_sources": ["here"]}, "`networks.infrax.allowed_sources.0`"),
        ({"float_types": {"FP31": True}}, "`FP32`"),
        ({"host": 5}, "`networks.infrax.host`"),
    ],
)
def test_a_wrong_configuration_is_named(table: dict[str, Any], named: str) -> None:
    with pytest.raises(BadManifest) as caught:
        read_config(table)
    assert named in caught.value.message


def test_the_defaults_are_those_of_the_network() -> None:
    assert (SurfaceConfig().surface, SurfaceConfig().slots, SurfaceConfig().external_port) == (False, 1, 8420)
