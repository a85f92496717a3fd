"""Routes by which messages come in (contract, sections 4.2 and 4.3)."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moorage.model.jobs import JSON
from moorage.networks.aleph.facade.answers import Json, Refused, body, parsed_aside
from moorage.networks.aleph.ledger.examination import Receipt
from moorage.networks.aleph.ledger.publisher import Publisher

STATUS = {"processed": 200, "pending": 202, "rejected": 422, "forgotten": 410}
PROGRAM = "moorage.aleph.program"
"""Where the scope of a request names the program through whose guest API it comes."""


class Publishing:
    """Takes messages."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/api/v0/messages", self._post, methods=["POST"]),
            Route("/api/v0/ipfs/pubsub/pub", self._pub, methods=["POST"]),
            Route("/api/v0/p2p/pubsub/pub", self._pub, methods=["POST"]),
        ]

    async def _post(self, request: Request) -> Response:
        document = await _document(request)
        given = document.get("message") if isinstance(document, dict) else None
        return told(await self._publisher.publish(given, program=request.scope.get(PROGRAM)))

    async def _pub(self, request: Request) -> Response:
        """Take a message as clients published it in earlier years: as text, or as an object."""
        document = await _document(request)
        data = document.get("data") if isinstance(document, dict) else None
        given = await _read(data) if isinstance(data, str) else data
        receipt = await self._publisher.publish(given, program=request.scope.get(PROGRAM))
        return told(receipt) if receipt.status in {"rejected", "forgotten"} else Json(PUBLISHED)


PUBLISHED: dict[str, JSON] = {"status": "success", "failed": []}


def told(receipt: Receipt, *, status: int | None = None) -> Json:
    """Say what became of a message; the status follows from that unless it is given."""
    answer: dict[str, Any] = {"publication_status": PUBLISHED, "message_status": receipt.status}
    if receipt.status in {"rejected", "forgotten"}:
        answer |= {"error_code": receipt.error_code, "details": receipt.details}
    return Json(answer, status or STATUS[receipt.status])


async def _document(request: Request) -> Any:
    return await _read(await body(request))


async def _read(text: str | bytes) -> Any:
    """Read JSON; what is none is no message either, and is treated so."""
    try:
        return await parsed_aside(text)
    except Refused:
        return None
