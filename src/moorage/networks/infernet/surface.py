"""The network's own REST surface, by which its clients use this node (contract, section 4)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from uuid_utils import uuid4

from moorage import __version__
from moorage.errors import MoorageError, NotFound
from moorage.model.apps import App
from moorage.model.jobs import JSON
from moorage.model.limits import KIB
from moorage.networks.base import Port, Surface
from moorage.networks.infernet import wire
from moorage.networks.infernet.asgi import JsonResponse, Message, Receive, Request, Send
from moorage.networks.infernet.calls import Calls
from moorage.networks.infernet.chain import result_of
from moorage.networks.infernet.clients import Clients
from moorage.networks.infernet.config import Config, read
from moorage.networks.infernet.desk import LISTED, Desk, NotNow, number
from moorage.networks.infernet.fleet import Fleet
from moorage.networks.infernet.manifest import NETWORK
from moorage.networks.infernet.outlets import Outlet, StreamedResponse
from moorage.networks.infernet.policy import Client, text_of
from moorage.networks.infernet.rates import RateLimiter
from moorage.networks.infernet.service import ContainerError
from moorage.networks.infernet.wire import BadBody, DelegatedRequest, JobResult, OffchainRequest
from moorage.networks.manifest import Table, validated

log = structlog.get_logger(__name__)

PATHS, BELOW = ("/health", "/info", "/resources"), ("/api/",)
RESOURCES_WITHIN = 0.8
"""Seconds that a container has to tell what it offers; the network's client waits one for all of them."""
LONGEST_WAIT = 60.0
QUICK = 64 * KIB
"""Bytes of a body that is read in the event loop; a longer one is read beside it."""
TIDY_EVERY = 60.0
LATER = ((b"retry-after", b"1"),)

Handler = Callable[[Request, Client], Awaitable[JsonResponse | StreamedResponse]]


class Settings(Table):
    """`[networks.infernet]` in the node's configuration."""

    config: Path
    """The `config.json` to serve."""


class InfernetSurface:
    """Answers clients as the network's own node does, from containers that this node runs."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._path = validated(
            Settings, port.config, file="configuration", under=f"networks.{NETWORK}"
        ).config.absolute()
        self._config: Config = read(self._path)
        self._fleet = Fleet(port, self._config, self._path)
        self._outlets: dict[str, Outlet] = {}
        limit = self._config.server.rate_limit
        self._rates = RateLimiter(num_requests=limit.num_requests, period=limit.period)
        self._clients = Clients(self._config.server.trusted_proxies)
        self._desk = Desk(port, self._fleet, max_queue=self._config.server.max_queue)
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/health": {"GET": self._health},
            "/info": {"GET": self._info},
            "/resources": {"GET": self._resources},
            "/api/jobs": {"GET": self._results, "POST": self._post, "DELETE": self._cancel},
            "/api/jobs/batch": {"POST": self._batch},
            "/api/jobs/stream": {"POST": self._stream},
            "/api/status": {"PUT": self._put_status},
        }

    def surface(self) -> Surface:
        """Give the routes and the background work."""
        return Surface(app=self._answer, paths=PATHS, below=BELOW, tasks=(self._work,), admits=self._clients.admits)

    def serves(self, app: App) -> bool:
        """Tell whether a job of an app is for the containers of the configuration."""
        return app.id == self._fleet.app_id

    def calls(self, name: str) -> Calls:
        """Give what asks a container of the configuration.

        Raises NotFound.
        """
        calls = self._fleet.calls(name)
        if calls is None:
            reason = self._fleet.trouble(name) or "it is not in the configuration."
            raise NotFound(f"Container {name} is not available: {reason}")
        return calls

    def outlet(self, job_id: str) -> Outlet:
        """Give where the bytes of a streaming job go."""
        outlet = self._outlets.get(job_id)
        if outlet is None:  # an earlier node had its client
            outlet = Outlet(0.0)
            outlet.leave()
        return outlet

    async def _work(self) -> None:
        """Start the containers, let jobs run, and forget old results, as long as the node runs."""
        for warning in self._config.warnings:
            log.warning("configuration", message=warning)
        if self._config.chain.enabled:
            log.warning("configuration", message="chain.enabled: this version does not work on chain yet")
        try:
            await self._fleet.start()
            await self._desk.open()
            await self._fleet.settle()
            while True:
                await self._tidy()
                await asyncio.sleep(TIDY_EVERY)
        finally:
            self._fleet.close()
            self._desk.close()

    async def _tidy(self) -> None:
        try:
            await self._desk.tidy(self._config.results)
        except MoorageError as error:
            log.warning("old results are kept for now", reason=error.message)

    # what every request goes through

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        response = await self._response(Request(scope, receive))
        await response(scope, receive, send)

    async def _response(self, request: Request) -> JsonResponse | StreamedResponse:
        path, method = request.scope["path"], request.scope["method"]
        handlers = self._routes.get(path)
        if handlers is None:
            return JsonResponse.of({"error": f"There is nothing at {path}"}, 404)
        route = "GET" if method == "HEAD" else method
        handler = handlers.get(route)
        if handler is None:
            allowed = [(b"allow", ", ".join(handlers).encode())]
            return JsonResponse.of({"error": f"{path} does not take {method}"}, 405, allowed)
        request.scope["endpoint"] = handler  # so that it is counted under its path
        client = self._clients.of(request)
        if client is None:
            return JsonResponse.of({"error": "Could not get client IP address"}, 400)
        if path == "/api/status":
            return await _settled(handler, request, client)
        verdict = self._rates.take(f"{route} {path}", text_of(client), time.monotonic())
        if not verdict.allowed:
            return JsonResponse.of({"error": "Too many requests"}, 429, verdict.headers)
        response = await _settled(handler, request, client)
        response.raw_headers += verdict.headers
        return response

    async def _body(self, request: Request, *, json: bool) -> bytes:
        kind = request.header(b"content-type").partition(";")[0].strip().lower()
        if json and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise BadBody("content-type: should be application/json", status=415)
        return await request.body(self._config.server.max_body)

    # routes

    async def _health(self, request: Request, client: Client) -> JsonResponse:
        if not self._fleet.settled:
            return JsonResponse.of({"status": "unhealthy"}, 503)
        return JsonResponse.of({"status": "healthy"})

    async def _info(self, request: Request, client: Client) -> JsonResponse:
        shown = ("id", "description", "external", "image")
        containers = [{key: getattr(each, key) for key in shown} for each in self._fleet.running()]
        load = self._port.lane_load()
        return JsonResponse.of(
            {
                "chain": {"address": "", "enabled": False},
                "containers": containers,
                "pending": {"offchain": load.waiting + load.running, "onchain": 0},
                "version": f"moorage {__version__}",
            }
        )

    async def _resources(self, request: Request, client: Client) -> JsonResponse:
        model_id = dict(request.query()).get("model_id")
        names = list(self._fleet.containers)
        found = await asyncio.gather(*(self._resources_of(name, model_id) for name in names))
        return JsonResponse.of({name: answer for name, answer in zip(names, found, strict=True) if answer is not None})

    async def _resources_of(self, name: str, model_id: str | None) -> JSON:
        calls = self._fleet.calls(name)
        if calls is None:
            return None
        with suppress(ContainerError, BadBody):
            return await calls.resources(model_id, within=RESOURCES_WITHIN)
        return None

    async def _post(self, request: Request, client: Client) -> JsonResponse:
        found = await _parsed(wire.parse, await self._body(request, json=True))
        refusal = self._desk.refusal(found, client)
        if refusal is not None:
            return JsonResponse.of(refusal.document, 405)
        assert isinstance(found, OffchainRequest)
        return JsonResponse.of({"id": await self._desk.submit(found, client, mode="run")})

    async def _batch(self, request: Request, client: Client) -> JsonResponse:
        limit = self._config.server.max_batch
        items = await _parsed(partial(wire.parse_batch, limit=limit), await self._body(request, json=False))
        return JsonResponse.of(await asyncio.gather(*(self._item(item, client) for item in items)))

    async def _item(self, item: wire.Request | BadBody, client: Client) -> JSON:
        if isinstance(item, BadBody):
            return {"error": item.text, "params": {}}
        refusal = self._desk.refusal(item, client)
        if refusal is not None:
            return refusal.document
        assert isinstance(item, OffchainRequest)
        try:
            return {"id": await self._desk.submit(item, client, mode="run")}
        except MoorageError as error:
            return {"error": error.message, "params": {}}
        except NotNow as reason:
            return {"error": str(reason), "params": {}}

    async def _stream(self, request: Request, client: Client) -> JsonResponse | StreamedResponse:
        found = await _parsed(wire.parse, await self._body(request, json=True))
        if isinstance(found, DelegatedRequest):
            return JsonResponse.of({"error": "Streaming only supported for OffchainJob requests."}, 405)
        refusal = self._desk.refusal(found, client)
        if refusal is not None:
            return JsonResponse.of(refusal.document, 405)
        if len(found.containers) > 1:
            return JsonResponse.of({"error": "containers: only one can stream"}, 400)
        container = self._fleet.containers[found.containers[0]]
        job_id, outlet = str(uuid4()), Outlet(container.moorage.stream_idle_timeout)
        self._outlets[job_id] = outlet
        try:
            await self._desk.submit(found, client, mode="stream", job_id=job_id)
        except BaseException:
            del self._outlets[job_id]
            raise
        return StreamedResponse(
            job_id,
            outlet,
            result=partial(self._streamed, job_id),
            cancel=partial(self._desk.cancel, job_id),
            strict=dict(request.query()).get("strict") in {"1", "true"},
        )

    async def _streamed(self, job_id: str) -> JobResult:
        """Wait until a streaming job has ended."""
        try:
            end = self._port.end_of(job_id)
            if end is not None:
                await asyncio.wait({end})
            return result_of(await self._port.get_job(job_id))
        finally:
            del self._outlets[job_id]

    async def _results(self, request: Request, client: Client) -> JsonResponse:
        pairs = request.query()
        query, ids = dict(pairs), [value for name, value in pairs if name == "id"]
        if not ids:
            return JsonResponse.of(await self._desk.ids(client, query))
        intermediate = query.get("intermediate", "").lower() == "true"
        wait = number(query, "wait", 0.0, LONGEST_WAIT)
        ids = list(dict.fromkeys(ids))
        if len(ids) > LISTED:
            raise BadBody(f"id: holds more than {LISTED} ids")
        if wait:
            await self._desk.wait(ids, wait, stopping=request.scope["moorage.stopping"])
        return await self._answers(ids, client, intermediate=intermediate)

    async def _cancel(self, request: Request, client: Client) -> JsonResponse:
        """Cancel jobs: they fail; those that have ended stay as they are."""
        ids = [
            value
            for name, value in dict.fromkeys(request.query())
            if name == "id" and await self._desk.own(value) is not None
        ]
        for job_id in ids:
            await self._desk.cancel(job_id)
        await self._desk.wait(ids, 1.0, stopping=request.scope["moorage.stopping"])
        return await self._answers(ids, client)

    async def _answers(self, ids: Sequence[str], client: Client, *, intermediate: bool = False) -> JsonResponse:
        """Tell what became of jobs; nothing of those that are not known."""
        told = [await self._desk.answer(job_id, client, intermediate=intermediate) for job_id in ids]
        return JsonResponse(b"[" + b",".join(each for each in told if each is not None) + b"]\n")

    async def _put_status(self, request: Request, client: Client) -> JsonResponse:
        if not any(client in source for source in self._config.status_sources):
            return JsonResponse.of({"error": "Unauthorized"}, 403)
        report = wire.parse_status(await self._body(request, json=False))
        await self._desk.report(client, report)
        return JsonResponse.of(None)


async def _settled(handler: Handler, request: Request, client: Client) -> JsonResponse | StreamedResponse:
    """Give what a handler answers, also where it refuses."""
    try:
        return await handler(request, client)
    except NotNow as reason:
        return JsonResponse.of({"error": str(reason)}, 503, LATER)
    except BadBody as error:
        return JsonResponse.of({"error": error.text}, error.status)
    except MoorageError as error:
        return JsonResponse.of({"error": error.message}, 503, LATER)


async def _parsed(parse: Callable[[bytes], Any], body: bytes) -> Any:
    return parse(body) if len(body) <= QUICK else await asyncio.to_thread(parse, body)
