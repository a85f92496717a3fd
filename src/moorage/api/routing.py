"""What every route shares: the node and caller of a request, strict JSON in, prerendered JSON out."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from moorage.api.problems import documented
from moorage.errors import Forbidden, Malformed, PayloadTooLarge, UnsupportedMediaType
from moorage.model.callers import Caller
from moorage.node.node import Node

BODY_LIMIT = 8 << 20
"""Bytes of a JSON request body; anything larger belongs into a blob."""

BODIES: dict[type[BaseModel], TypeAdapter[Any]] = {}
"""Models of request bodies, as routes have described them."""

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


def here(request: Request) -> tuple[Node, Caller]:
    """Give the node that serves a request and who asks; access control has put both there."""
    return request.app.state.node, request.scope["moorage.caller"]


def operated(request: Request) -> Node:
    """Give the node to an operator only.

    Raises Forbidden.
    """
    node, caller = here(request)
    if not caller.operator:
        raise Forbidden(f"{caller.name} is no operator of this node.")
    return node


def rendered(adapter: TypeAdapter[T], value: T, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON, straight from the dataclasses to bytes."""
    return Response(adapter.dump_json(value), status, headers, media_type="application/json")


def answers(adapter: TypeAdapter[T], example: T, *problems: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Describe what a route answers: an example of success, and the problems it can have."""
    content = {"application/json": {"example": adapter.dump_python(example, mode="json")}}
    return {status: {"description": "Success", "content": content}, **documented(*problems)}


def streams(media_type: str, example: str, *problems: int) -> dict[int | str, dict[str, Any]]:
    """Describe a route that answers with a stream of bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}, "example": example}}
    return {200: {"description": "Success", "content": content}, **documented(*problems)}


def takes(kind: type[BaseModel], *parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the JSON body of a route that reads it with `read`, and its headers.

    The framework could do both from a signature, at several times the cost of what a submission may take.
    """
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
    BODIES.setdefault(kind, TypeAdapter(kind))
    return {"requestBody": {"required": True, "content": content}, "parameters": list(parameters)}


def header(name: str, description: str, example: str) -> dict[str, Any]:
    """Describe an optional header."""
    schema = {"type": "string", "minLength": 1, "maxLength": 255}
    return {"in": "header", "name": name, "description": description, "schema": schema, "example": example}


async def read(request: Request, kind: type[B]) -> B:
    """Read the JSON body: bounded, and strictly JSON (no NaN, no lone surrogates, no endless nesting).

    Raises PayloadTooLarge, UnsupportedMediaType, Malformed, RequestValidationError.
    """
    if not _is_json(request.headers.get("content-type", "")):
        raise UnsupportedMediaType
    try:
        body: B = BODIES[kind].validate_python(from_json(await _bounded(request), allow_inf_nan=False))
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from None
    except ValueError as error:
        raise Malformed(f"The request body is not valid JSON: {error}.") from None
    return body


async def _bounded(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise PayloadTooLarge
    return bytes(body)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
