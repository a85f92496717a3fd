"""The API of the network's nodes as one application (contract, section 4.2)."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moorage.blobs.base import Blobs
from moorage.errors import MoorageError
from moorage.networks.aleph.facade import answers
from moorage.networks.aleph.facade.answers import Refused
from moorage.networks.aleph.facade.holdings import Holdings
from moorage.networks.aleph.facade.live import Live
from moorage.networks.aleph.facade.messages import Messages
from moorage.networks.aleph.facade.publishing import Publishing
from moorage.networks.aleph.facade.uploads import Limits, Uploads
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Publisher


class Facade:
    """Answers the network's clients; anybody reads, and whoever signs writes.

    A scope that names a program as `moorage.aleph.program` is one of its guest API: what it publishes is its own.
    """

    def __init__(self, publisher: Publisher, ledger: Ledger, blobs: Blobs, *, limits: Limits | None = None) -> None:
        parts = (
            Publishing(publisher),
            Uploads(publisher, blobs, limits or Limits()),
            Messages(ledger),
            Holdings(ledger, blobs),
            Live(publisher, ledger),
        )
        self._app = Starlette(
            routes=[route for part in parts for route in part.routes()],
            exception_handlers={
                Refused: answers.refused,
                HTTPException: answers.unrouted,
                MoorageError: answers.troubled,
                ClientDisconnect: _gone,
                Exception: _failed,
            },
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or websocket, as an ASGI application."""
        await self._app(scope, receive, send)


async def _gone(request: Request, reason: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _failed(request: Request, reason: Exception) -> Response:
    return answers.error(500, "Internal error")
