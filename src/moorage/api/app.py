"""The node's HTTP application: its own API under /v1, figures, and whatever its networks serve."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Receive, Scope, Send

from moorage import __version__
from moorage.api import apps, blobs, events, jobs, metrics, node, problems, results, services
from moorage.api.access import Tokens
from moorage.api.guard import Guard
from moorage.api.routing import BODIES
from moorage.networks.base import Surface
from moorage.node.node import Node

DESCRIPTION = """One compute node for apps of several networks: isolated, durable, on one job model.

Upload bytes as *blobs*, keep code as an *app*, run it as a *job*, follow its *events*, take its *outputs*.
Every error is an `application/problem+json` document with a `code`, a `hint` and whether a retry can help.
On loopback no token is needed as long as none was made; elsewhere send `Authorization: Bearer TOKEN`."""


def create_app(served: Node) -> FastAPI:
    """Make the application of a node; requests must come through `moorage.api.access`, which says who asks."""
    app = FastAPI(
        title="Moorage", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None, lifespan=None
    )
    app.state.node, app.state.tokens = served, Tokens(served.store)
    app.state.stopping, app.state.metrics = asyncio.Event(), metrics.Metrics()
    problems.install(app)
    app.add_middleware(Guard, metrics=app.state.metrics)
    # The framework's own way to a route costs about as much as accepting a job does; it goes on to document this one.
    app.add_route("/v1/jobs", jobs.submit_job, methods=["POST"], include_in_schema=False)
    for part in (jobs, results, apps, blobs, events, services, node, metrics):
        app.include_router(part.router, tags=[part.__name__.rpartition(".")[2]])
    for surface in served.surfaces:
        for router in surface.routers:
            app.include_router(router)
    app.openapi = lambda: _documented(app)  # type: ignore[method-assign]
    return app


class Front:
    """Sends each request to whom it is for: a network's own application, or that of the node.

    `gate` stands before each of them; it is told whose rules count there.
    """

    def __init__(
        self, app: FastAPI, surfaces: Sequence[Surface], gate: Callable[[ASGIApp, Sequence[Surface]], ASGIApp]
    ) -> None:
        self._stopping = asyncio.ensure_future(app.state.stopping.wait())
        self._app = gate(app, [each for each in surfaces if each.app is None])
        others = [(each, gate(Guard(each.app, app.state.metrics), [each])) for each in surfaces if each.app is not None]
        # What is claimed belongs to one network as a whole, whatever paths another has.
        self._ways = [(each.claims, other) for each, other in others if each.claims is not None]
        self._ways += [(each.answers, other) for each, other in others]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        scope["moorage.stopping"] = self._stopping
        for leads, other in self._ways:
            if leads(scope):
                await other(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _documented(app: FastAPI) -> dict[str, Any]:
    """Give the OpenAPI document, with what the framework does not know: the form of bodies and problems, and tokens."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        parts = document["components"]
        kinds: list[type[BaseModel]] = [problems.Problem, *BODIES]
        _, schemas = models_json_schema(
            [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
        )
        parts["schemas"] |= schemas["$defs"]
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"token": []}]
    return app.openapi_schema or {}
