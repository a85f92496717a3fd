"""Every error has the same form, and none tells what it should not."""

import inspect
import json

import httpx
import pytest
from fastapi import FastAPI, Query, Request, Response
from starlette.responses import StreamingResponse

from moorage import errors
from moorage.api import problems
from moorage.api.guard import Guard
from moorage.api.metrics import Metrics
from moorage.api.routing import BODY_LIMIT, read, takes
from moorage.api.schemas import JobBody, TokenBody

pytestmark = pytest.mark.anyio

KINDS = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.MoorageError)),
    key=lambda kind: kind.code,
)


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Guard, metrics=Metrics())
    takes(TokenBody)
    takes(JobBody)

    @app.get("/v1/number")
    async def number(limit: int = Query(ge=1)) -> int:
        return limit

    @app.get("/foreign/number")
    async def foreign(limit: int) -> int:
        return limit

    @app.post("/v1/token")
    async def token(request: Request) -> Response:
        return Response((await read(request, TokenBody)).name)

    @app.post("/v1/job")
    async def job(request: Request) -> Response:
        body = await read(request, JobBody)
        return Response(json.dumps(body.limits.model_dump() if body.limits else None))

    @app.get("/v1/defect")
    async def defect() -> None:
        raise RuntimeError("the secret is 42")

    @app.get("/v1/broken-stream")
    async def broken() -> Response:
        async def stream():
            yield b"one"
            raise RuntimeError("the secret is 42")

        return StreamingResponse(stream())

    return app


@pytest.fixture
async def http(app: FastAPI):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://node") as http:
        yield http


def checked(answer: httpx.Response, status: int, code: str) -> dict:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:moorage:error:{code}")
    assert body["title"]
    assert body["detail"]
    return body


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
async def test_every_error_of_the_catalogue_survives_the_wire(kind: type[errors.MoorageError]) -> None:
    error = kind("It went wrong.", hint="Do better.")
    body = json.loads(bytes(problems.problem(error).body))
    assert (body["code"], body["detail"], body["hint"]) == (kind.code, "It went wrong.", "Do better.")
    assert body["retryable"] is error.retryable
    if kind is not errors.MoorageError:
        assert errors.error_for(body["code"], body["status"]) is kind


async def test_an_unknown_code_gets_a_class_of_its_own() -> None:
    kind = errors.error_for("barge_sank", 418)
    assert (kind.code, kind.status) == ("barge_sank", 418)
    assert errors.error_for("barge_sank", 418) is kind


async def test_unknown_paths_and_methods(http: httpx.AsyncClient) -> None:
    checked(await http.get("/v1/nothing"), 404, "not_found")
    answer = await http.delete("/v1/number")
    checked(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


async def test_a_parameter_is_named(http: httpx.AsyncClient) -> None:
    body = checked(await http.get("/v1/number", params={"limit": "0"}), 422, "invalid")
    assert body["errors"][0]["parameter"] == "limit"
    assert body["detail"].startswith("limit: ")


async def test_a_field_is_named_by_its_json_pointer(http: httpx.AsyncClient) -> None:
    wrong = {"app_id": "a", "labels": {"a/b~c": 5}, "limits": {"memory": "much"}, "colour": "red"}
    body = checked(await http.post("/v1/job", json=wrong), 422, "invalid")
    pointers = {part["pointer"] for part in body["errors"]}
    assert pointers == {"/labels/a~1b~0c", "/limits/memory", "/colour"}
    assert "(and 2 more)" in body["detail"]


@pytest.mark.parametrize(
    "sent", [b"", b"{", b'{"name": NaN}', b'{"name": "\\ud800"}', b"\xff\xfe", b"[" * 10_000 + b"]" * 10_000]
)
async def test_what_is_not_json_is_malformed(http: httpx.AsyncClient, sent: bytes) -> None:
    answer = await http.post("/v1/token", content=sent, headers={"content-type": "application/json"})
    checked(answer, 400, "malformed")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
async def test_a_body_that_is_not_called_json_is_refused(http: httpx.AsyncClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    checked(await http.post("/v1/token", content=b'{"name": "a"}', headers=headers), 415, "unsupported_media_type")


async def test_a_huge_body_is_refused(http: httpx.AsyncClient) -> None:
    sent = b'{"name": "' + b"a" * BODY_LIMIT + b'"}'
    checked(
        await http.post("/v1/token", content=sent, headers={"content-type": "application/json"}),
        413,
        "payload_too_large",
    )


async def test_a_defect_shows_no_traceback(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/defect")
    body = checked(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "err_" in body["detail"]


async def test_a_defect_in_a_stream_breaks_it_off(http: httpx.AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="the secret"):
        await http.get("/v1/broken-stream")


async def test_a_networks_own_paths_keep_the_form_that_its_clients_know(http: httpx.AsyncClient) -> None:
    assert (await http.get("/foreign/nothing")).json() == {"detail": "Not Found"}
    invalid = await http.get("/foreign/number")
    assert (invalid.status_code, invalid.json()["detail"][0]["loc"]) == (422, ["query", "limit"])


@pytest.mark.parametrize(
    ("written", "meant"),
    [(512, 512), ("512", 512), ("512MiB", 512 << 20), ("1GB", 10**9), ("1.5 KiB", 1536), ("2g", 2 * 10**9)],
)
async def test_sizes_may_be_written_with_units(http: httpx.AsyncClient, written: object, meant: int) -> None:
    answer = await http.post("/v1/job", json={"app_id": "a", "limits": {"memory": written}})
    assert answer.json()["memory"] == meant


@pytest.mark.parametrize("written", [0, -1, "0", "-5MiB", "9" * 40, "5 parsecs", "", None, [], 1.5, "nan"])
async def test_a_size_that_is_none_is_refused(http: httpx.AsyncClient, written: object) -> None:
    answer = await http.post("/v1/job", json={"app_id": "a", "limits": {"memory": written}})
    assert answer.status_code == (200 if written is None else 422)


@pytest.mark.parametrize(("written", "meant"), [(0.5, 0.5), (2, 2.0), ("500m", 0.5), ("1.5", 1.5)])
async def test_cpus_may_be_written_in_thousandths(http: httpx.AsyncClient, written: object, meant: float) -> None:
    answer = await http.post("/v1/job", json={"app_id": "a", "limits": {"cpus": written}})
    assert answer.json()["cpus"] == meant


@pytest.mark.parametrize("written", [0, -1, "m", "0m", "many", "nan", "inf", 10**6])
async def test_cpus_that_are_none_are_refused(http: httpx.AsyncClient, written: object) -> None:
    answer = await http.post("/v1/job", json={"app_id": "a", "limits": {"cpus": written}})
    checked(answer, 422, "invalid")
