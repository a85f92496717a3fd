"""Answers in JSON as the network's own node writes them (contract, section 4)."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from moorage.model.jobs import JSON
from moorage.networks.infernet.wire import dump

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class JsonResponse:
    """An answer that is there as a whole."""

    def __init__(self, body: bytes, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._body, self._status = body, status
        length = (b"content-length", b"%d" % len(body))
        self.raw_headers: Headers = [*headers, length, (b"content-type", b"application/json")]
        """All headers; more can be added."""

    @classmethod
    def of(cls, document: JSON, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> "JsonResponse":
        """Make an answer of a document."""
        return cls(dump(document), status, headers)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send it as ASGI has it."""
        await send({"type": "http.response.start", "status": self._status, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._body})
