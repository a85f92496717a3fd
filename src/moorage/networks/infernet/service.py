"""What a container is sent and what its reply means (contract, sections 3.2 and 3.3)."""

import json
import re
from enum import IntEnum

from moorage.model.jobs import JSON
from moorage.model.limits import KIB
from moorage.networks.infernet.wire import BadBody, Failure, Output, load

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
MAX_ERROR = 4 * KIB
"""Bytes of an error text in UTF-8."""

_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json", re.ASCII | re.IGNORECASE)


class ContainerError(Exception):
    """A container gave nothing; `failure` says why."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.failure = _failure(text)


class Place(IntEnum):
    """Where a container's input comes from or its output goes to."""

    CHAIN = 0
    OFFCHAIN = 1
    STREAM = 2


def request_body(
    data: JSON | bytes,
    *,
    source: Place,
    destination: Place,
    requires_proof: bool,
    position: int = 0,
    length: int = 1,
) -> bytes:
    """Write what the container at a position of a job's chain is sent (section 3.2).

    Only the first container sees the job's source and only the last its destination. Input from the chain is given
    as bytes and sent in hexadecimal.
    """
    first, last = position == 0, position == length - 1
    body = {
        "source": source if first else Place.OFFCHAIN,
        "destination": destination if last else Place.OFFCHAIN,
        "data": data.hex() if isinstance(data, bytes) else data,
    }
    if destination is not Place.STREAM:
        body["requires_proof"] = requires_proof
    return _ENCODER.encode(body).encode()


def take(status: int, media_type: str | None, body: bytes, *, accept_error_status: bool = False) -> Output | Failure:
    """Judge a container's reply by the table of section 3.3; `media_type` is the `Content-Type` as it came.

    `accept_error_status` takes JSON with whatever status, as the network's own node does.
    """
    media_type = (media_type or "").partition(";")[0].strip()
    is_json = _JSON_TYPE.fullmatch(media_type) is not None
    if not 200 <= status < 300 and not (accept_error_status and is_json):
        return _failure(error_of(status, body))
    if not is_json:
        return _failure(f"Attempt to decode JSON with unexpected mimetype: {media_type or '(none)'}")
    if not body.strip():
        return Output(value=None)
    try:
        return Output(value=load(body))
    except BadBody:
        return _failure(_text(body))


def error_of(status: int, body: bytes) -> str:
    """Write the error of a reply with an error status."""
    return f"HTTP {status}: {_text(body)}"


def _failure(text: str) -> Failure:
    return Failure(error=text.encode(errors="replace")[:MAX_ERROR].decode(errors="ignore"))


def _text(body: bytes) -> str:
    return body[: MAX_ERROR + 4].decode(errors="replace")  # 4 more: no character is cut within what is kept
