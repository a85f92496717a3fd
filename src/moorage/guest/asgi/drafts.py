"""Answers as the first draft of the network had them: `send({"output": ...})` (contract, section 2.6, A28)."""

import base64
import json

from . import log
from .program import Message, Send

DATA = b"moorage-output-data"
"""Header that brings the node what is to be kept as the artifact of the run, in base64."""
MOST = 32 * 1024
"""Bytes of it."""


def is_output(message: Message) -> bool:
    """Tell whether an event without a type is such an answer."""
    return "output" in message or "output_data" in message


class Outputs:
    """What a program has put out; texts and bytes are joined, and the first tells what kind all of it is."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._kind = b"text/plain; charset=utf-8"
        self._data = b""

    def add(self, message: Message) -> None:
        """Take one."""
        self._data += message.get("output_data") or b""
        if "output" not in message:
            return
        kind, part = _encoded(message["output"])
        if not self._parts:
            self._kind = kind
        self._parts.append(part)

    async def send(self, send: Send) -> None:
        """Answer with it."""
        body = b"".join(self._parts)
        headers = [(b"content-type", self._kind), (b"content-length", b"%d" % len(body))]
        if len(self._data) > MOST:
            log.say(f"The output data is not kept: it has {len(self._data)} bytes, of at most {MOST}.")
        elif self._data:
            headers.append((DATA, base64.b64encode(self._data)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _encoded(value: object) -> tuple[bytes, bytes]:
    match value:
        case str():
            return b"text/plain; charset=utf-8", value.encode()
        case bytes() | bytearray() | memoryview():
            return b"application/octet-stream", bytes(value)
    return b"application/json", json.dumps(value).encode()
