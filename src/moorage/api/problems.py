"""Errors as `application/problem+json` (RFC 9457): every answer that is not a success looks the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, TypeAdapter
from starlette.exceptions import HTTPException

from moorage.errors import (
    Invalid,
    Malformed,
    MethodNotAllowed,
    MoorageError,
    NotFound,
)

MEDIA_TYPE = "application/problem+json"


class InvalidPart(BaseModel):
    """One part of a request that is not valid."""

    pointer: str | None = None
    """JSON pointer into the request body."""
    parameter: str | None = None
    """Name of the path, query or header parameter."""
    detail: str


class Problem(BaseModel):
    """What went wrong, in the words of the error catalogue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:moorage:error:not_found",
                    "title": "There is no such thing here.",
                    "status": 404,
                    "detail": "There is no job job_0192f7c1a3b47c0e8f51c2d3e4f50617.",
                    "code": "not_found",
                    "hint": "List what there is with `moorage job list`.",
                    "retryable": False,
                    "errors": [],
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = None
    retryable: bool
    errors: Sequence[InvalidPart] = ()
    """For a request that is not valid: which parts of it."""


PROBLEM = TypeAdapter(Problem)
TITLES: Mapping[int, str] = {
    400: "The request cannot be understood",
    401: "A token is needed",
    403: "This caller may not do that",
    404: "There is no such thing",
    409: "The present state does not allow it",
    413: "The request is too large",
    415: "The request body is not JSON",
    416: "The file is shorter than that",
    421: "The request names a host that this node is not",
    422: "The request is not valid",
    500: "The node failed",
    503: "The node cannot do that now",
    507: "No space is left on the node's disk",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route can answer, besides those that every route can."""
    everywhere = (400, 401, 403, 421, 422, 500, 503)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": TITLES[status], "content": content} for status in sorted({*everywhere, *statuses})}


def problem(error: MoorageError, parts: Sequence[InvalidPart] = ()) -> Response:
    """Render an error."""
    body = Problem(
        type=f"urn:moorage:error:{error.code}",
        title=(type(error).__doc__ or "").strip(),
        status=error.status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        retryable=error.retryable,
        errors=parts,
    )
    return Response(PROBLEM.dump_json(body), error.status, headers=_headers(error), media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make an application answer every error as a problem."""
    app.add_exception_handler(MoorageError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


def _headers(error: MoorageError) -> dict[str, str]:
    if error.status == 401:
        return {"www-authenticate": "Bearer"}
    return {"retry-after": "1"} if error.status == 503 else {}


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MoorageError)
    return problem(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not _ours(request):
        return await http_exception_handler(request, error)
    answer = problem(_translated(request, error))
    answer.headers.update(error.headers or {})
    return answer


def _translated(request: Request, error: HTTPException) -> MoorageError:
    match error.status_code:
        case 404:
            return NotFound(f"There is nothing at {request.url.path}.", hint="See /openapi.json for what there is.")
        case 405:
            return MethodNotAllowed(f"{request.url.path} does not take {request.method}.")
        case _:
            return Malformed(str(error.detail))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if not _ours(request):
        return await request_validation_exception_handler(request, error)
    found = error.errors()
    parts = [_part(item["loc"], item["msg"]) for item in found]
    return problem(Invalid(_summary(parts)), parts)


def _ours(request: Request) -> bool:
    """Tell whether a path belongs to the node's own API; a network's own clients know the framework's own form."""
    path: str = request.scope["path"]
    return path.startswith("/v1/") or path in {"/v1", "/metrics", "/openapi.json"}


def _part(loc: Sequence[str | int], message: str) -> InvalidPart:
    where, *path = loc
    if where == "body":
        return InvalidPart(pointer="".join(f"/{_escape(str(step))}" for step in path), detail=message)
    return InvalidPart(parameter=str(path[0]) if path else str(where), detail=message)


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _summary(parts: Sequence[InvalidPart]) -> str:
    first = parts[0]
    where = first.parameter or (first.pointer or "").strip("/").replace("/", ".") or "body"
    more = f" (and {len(parts) - 1} more)" if len(parts) > 1 else ""
    return f"{where}: {first.detail}{more}"
