"""The control of programs and the node's information as one application (contract, sections 4.5 and 4.6)."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from moorage.errors import MoorageError
from moorage.networks.aleph.control.about import About
from moorage.networks.aleph.control.access import Gate, NotOwner
from moorage.networks.aleph.control.logs import Logs
from moorage.networks.aleph.control.machines import Machines
from moorage.networks.aleph.facade import answers
from moorage.networks.aleph.facade.answers import Refused
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.networks.base import Services


class Control:
    """Answers owners of programs, and whoever wants to know of the node; pages of any origin may ask.

    `hosts` are the names by which clients may know this node, `directory` is on the disk whose room is told of.
    """

    def __init__(
        self,
        registry: Registry,
        services: Services,
        ledger: Lookups,
        volumes: Volumes,
        *,
        hosts: Collection[str],
        directory: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        gate = Gate(ledger, hosts, clock)
        parts = (
            Machines(gate, registry, services, volumes),
            Logs(gate, registry, services, ledger),
            About(gate, registry, services, ledger, directory),
        )
        self._app = Starlette(
            routes=[route for part in parts for route in part.routes()],
            middleware=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])],
            exception_handlers={
                Refused: answers.refused,
                NotOwner: _not_owner,
                HTTPException: answers.unrouted,
                MoorageError: answers.troubled,
            },
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or websocket, as an ASGI application."""
        await self._app(scope, receive, send)


async def _not_owner(request: Request, reason: Exception) -> Response:
    return PlainTextResponse("Unauthorized sender", 403)
