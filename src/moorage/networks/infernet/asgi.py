"""Requests and answers of the network's own clients, as the server gives and takes them (contract, section 4)."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from moorage.model.jobs import JSON
from moorage.networks.infernet.wire import BadBody, dump

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Request:
    """What a client asks."""

    scope: Message
    receive: Receive

    def header(self, name: bytes) -> str:
        """Give a header by its name in lower case; where it stands several times, all joined by commas."""
        return ",".join([value.decode("latin-1") for own, value in self.scope["headers"] if own == name])

    def query(self) -> list[tuple[str, str]]:
        """Give names and values as they stand in the query."""
        return parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)

    async def body(self, most: int) -> bytes:
        """Read the body, of so many bytes at most.

        Raises BadBody.
        """
        too_large = BadBody(f"body: is longer than {most} bytes", status=413)
        length = self.header(b"content-length")
        if length.isdecimal() and int(length) > most:
            raise too_large
        body, more = bytearray(), True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise BadBody("body: ended before it was complete")
            body += message.get("body", b"")
            if len(body) > most:
                raise too_large
            more = message.get("more_body", False)
        return bytes(body)


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
