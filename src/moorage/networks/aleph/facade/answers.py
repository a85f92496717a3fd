"""Answers in JSON, and what requests ask for in their queries and bodies (contract, section 4.2)."""

import asyncio
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from moorage.errors import MoorageError
from moorage.model.limits import KIB, MIB
from moorage.networks.aleph.messages.envelope import read_json
from moorage.networks.aleph.messages.hashes import hash_kind

MAX_BODY = 2 * MIB
"""Bytes of a body in JSON; clients store contents that are longer than a fraction of it."""
LONG = 64 * KIB
"""Bytes of JSON up to which it is read in the event loop."""


class Refused(Exception):
    """The request is refused; `text` goes to the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Json(Response):
    """An answer in JSON; escaped, for contents may hold what has no UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write a document, or take one that is written."""
        return content if isinstance(content, bytes) else dumps(content)


def dumps(document: Any) -> bytes:
    """Write a document."""
    return json.dumps(document, separators=(",", ":")).encode()


def error(status: int, text: str) -> Json:
    """Say why there is nothing else to say."""
    return Json({"error": text}, status)


async def refused(request: Request, reason: Exception) -> Response:
    """Answer a request that was refused."""
    assert isinstance(reason, Refused)
    return error(reason.status, reason.text)


async def unrouted(request: Request, reason: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(reason, HTTPException)
    answer = error(reason.status_code, f"{reason.status_code}: {reason.detail}")
    answer.headers.update(reason.headers or {})
    return answer


async def troubled(request: Request, reason: Exception) -> Response:
    """Answer a request that met trouble of this node."""
    assert isinstance(reason, MoorageError)
    return error(reason.status, reason.message)


def iso(seconds: float) -> str:
    """Write a moment as clients read it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


# What is asked for


def asked_hash(request: Request, name: str = "hash") -> str:
    """Take the hash out of a path.

    Raises Refused.
    """
    item_hash = str(request.path_params[name])
    if hash_kind(item_hash) is None:
        raise Refused(400, "Invalid hash")
    return item_hash


def listed(query: QueryParams, *names: str) -> list[str]:
    """Take the values of a list that is separated by commas, under any of its names."""
    return [value for name in names for text in query.getlist(name) for value in text.split(",") if value]


def seconds(query: QueryParams, name: str) -> float | None:
    """Take a moment; None if there is none.

    Raises Refused.
    """
    text = query.get(name)
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    return found if math.isfinite(found) else _no(name, "seconds since 1970")


def whole(query: Mapping[str, Any], name: str, default: int, *, least: int = 0) -> int:
    """Take a whole number.

    Raises Refused.
    """
    text = str(query.get(name) or default)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        _no(name, f"a whole number, at least {least}")
    return int(text)


def flag(query: QueryParams, name: str) -> bool:
    """Take a choice that is off unless it is asked for."""
    return query.get(name, "").lower() in {"true", "1", "yes"}


def _no(name: str, what: str) -> NoReturn:
    raise Refused(422, f"{name} must be {what}")


async def body(request: Request, *, most: int = MAX_BODY) -> bytes:
    """Read a whole body.

    Raises Refused.
    """
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > most:
            raise Refused(413, f"The body is longer than {most} bytes")
    return bytes(read)


def parsed(text: str | bytes) -> Any:
    """Read JSON.

    Raises Refused.
    """
    try:
        return read_json(text)
    except ValueError as failure:
        raise Refused(422, f"The request is not valid JSON: {failure}") from None


async def parsed_aside(text: str | bytes) -> Any:
    """Read JSON; what is long, beside the event loop.

    Raises Refused.
    """
    return parsed(text) if len(text) <= LONG else await asyncio.to_thread(parsed, text)
