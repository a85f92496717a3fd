"""The network's own REST surface, by which its clients use this node (contract, section 4)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from moorage import __version__
from moorage.errors import JobFinished, MoorageError, NotFound
from moorage.model.apps import App
from moorage.model.jobs import JSON, Job, JobSpec, Mode
from moorage.model.limits import KIB
from moorage.networks.base import Port, Surface
from moorage.networks.infernet import chain, policy, wire
from moorage.networks.infernet.calls import Calls
from moorage.networks.infernet.chain import SMALL, result_of
from moorage.networks.infernet.config import Config, read
from moorage.networks.infernet.fleet import OPERATOR, Fleet
from moorage.networks.infernet.manifest import NETWORK
from moorage.networks.infernet.outlets import Message, Outlet, Receive, Send, StreamedResponse
from moorage.networks.infernet.policy import Client, Refusal
from moorage.networks.infernet.rates import RateLimiter
from moorage.networks.infernet.reports import Reports
from moorage.networks.infernet.service import ContainerError
from moorage.networks.infernet.wire import BadBody, DelegatedRequest, JobResult, OffchainRequest, dump
from moorage.networks.manifest import Table, validated
from moorage.store.base import JobFilter, Page

log = structlog.get_logger(__name__)

PATHS = ("/health", "/info", "/resources", "/api/")
RESOURCES_WITHIN = 0.8
"""Seconds that a container has to tell what it offers; the network's client waits one for all of them."""
LONGEST_WAIT = 60.0
LISTED = 1000
"""Ids that a list holds unless it is asked for fewer or more."""
MOST_LISTED = 10_000
QUICK = 64 * KIB
"""Bytes of a body that is read in the event loop; a longer one is read beside it."""
TIDY_EVERY = 60.0
CLIENT = "client"
"""Label of a job with the address that sent it."""

_OF_BROWSERS = frozenset({b"origin", b"sec-fetch-site"})

Handler = Callable[[Request, Client], Awaitable[Response | StreamedResponse]]


class Settings(Table):
    """`[networks.infernet]` in the node's configuration."""

    config: Path
    """The `config.json` to serve."""


class _Stop(Exception):
    """Ends a request with an answer."""

    def __init__(self, status: int, body: JSON, **headers: str) -> None:
        super().__init__(status)
        self.body, self.response = body, _json(body, status, headers)


class InfernetSurface:
    """Answers clients as the network's own node does, from containers that this node runs."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._path = validated(
            Settings, port.config, file="configuration", under=f"networks.{NETWORK}"
        ).config.absolute()
        self._config: Config = read(self._path)
        self._fleet = Fleet(port, self._config, self._path)
        self._open = False
        """Whether jobs are accepted."""
        self._outlets: dict[str, Outlet] = {}
        limit = self._config.server.rate_limit
        self._rates = RateLimiter(num_requests=limit.num_requests, period=limit.period)
        self._reports = Reports(port.directory / "reports.db")
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
        return Surface(app=self._answer, paths=PATHS, tasks=(self._work,), admits=self._admits)

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
            for name, container in self._fleet.containers.items():
                await self._port.open_lane(f"{NETWORK}:{name}", width=container.moorage.concurrency)
            self._open = True
            await self._end_strays()
            await self._fleet.settle()
            while True:
                await self._tidy()
                await asyncio.sleep(TIDY_EVERY)
        finally:
            await self._fleet.close()
            self._reports.close()

    async def _end_strays(self) -> None:
        """Let jobs go on, and so fail, that an earlier node left for containers which are not configured any more."""
        opened, page = {f"{NETWORK}:{name}" for name in self._fleet.containers}, Page()
        where = JobFilter(owner=OPERATOR.name, network=NETWORK, ended=False)
        while jobs := await self._port.list_jobs(where, page):
            for lane in {job.lane for job in jobs if job.lane is not None} - opened:
                await self._port.open_lane(lane, width=1)
                opened.add(lane)
            page = Page(before=jobs[-1].id)

    async def _tidy(self) -> None:
        kept = self._config.results
        before = time.time() - kept.ttl
        try:
            await self._port.forget_jobs(caller=OPERATOR, before=before, keep=kept.max)
            self._reports.forget(before=before, keep=kept.max)
        except MoorageError as error:
            log.warning("old results are kept for now", reason=error.message)

    def _admits(self, scope: Mapping[str, Any]) -> bool:
        """Let clients in as the network's own node does; a page of a browser is no such client."""
        path, client = scope["path"], scope.get("client")
        if not any(path == own or (own.endswith("/") and path.startswith(own)) for own in PATHS):
            return False
        host = b""
        for name, value in scope["headers"]:
            if name in _OF_BROWSERS:
                return False
            if name == b"host":
                host = value
        return client is not None and (_names_loopback(host) or not self._is_on_this_machine(client[0], scope))

    def _is_on_this_machine(self, address: str, scope: Mapping[str, Any]) -> bool:
        """Tell whether it may be a browser of this machine that asks, on behalf of a page that calls us by its name."""
        try:
            client = policy.client(address)
        except ValueError:
            return True
        here = client.is_loopback or address == (scope.get("server") or ("",))[0]
        return here and not any(client in proxy for proxy in self._config.server.trusted_proxies)

    # what every request goes through

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        request = Request(scope, receive)
        response = await self._response(request)
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response | StreamedResponse:
        path, method = request.scope["path"], request.scope["method"]
        handlers = self._routes.get(path)
        if handlers is None:
            return _json({"error": f"There is nothing at {path}"}, 404)
        route = "GET" if method == "HEAD" else method
        handler = handlers.get(route)
        if handler is None:
            return _json({"error": f"{path} does not take {method}"}, 405, {"allow": ", ".join(handlers)})
        request.scope["endpoint"] = handler  # so that it is counted under its path
        client = self._client(request)
        if client is None:
            return _json({"error": "Could not get client IP address"}, 400)
        if path == "/api/status":
            return await _settled(handler, request, client)
        verdict = self._rates.take(f"{route} {path}", str(client), time.monotonic())
        if not verdict.allowed:
            return _json({"error": "Too many requests"}, 429, verdict.headers)
        response = await _settled(handler, request, client)
        response.raw_headers += [(name.encode(), value.encode()) for name, value in verdict.headers.items()]
        return response

    def _client(self, request: Request) -> Client | None:
        """Tell who asks: the other end of the connection, or whom a trusted proxy names."""
        if request.client is None:
            return None
        try:
            client = policy.client(request.client.host)
            proxies = self._config.server.trusted_proxies
            forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
            hops = [hop.strip() for hop in forwarded.split(",")] if forwarded.strip() else []
            while hops and any(client in proxy for proxy in proxies):
                client = policy.client(hops.pop())
        except ValueError:
            return None
        return client

    async def _body(self, request: Request, *, json: bool) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if json and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise BadBody("content-type: should be application/json", status=415)
        most = self._config.server.max_body
        too_large = BadBody(f"body: is longer than {most} bytes", status=413)
        if request.headers.get("content-length", "").isdecimal() and int(request.headers["content-length"]) > most:
            raise too_large
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
        except ClientDisconnect:
            raise BadBody("body: ended before it was complete") from None
        return bytes(body)

    # routes

    async def _health(self, request: Request, client: Client) -> Response:
        return _json({"status": "healthy"}) if self._fleet.settled else _json({"status": "unhealthy"}, 503)

    async def _info(self, request: Request, client: Client) -> Response:
        shown = ("id", "description", "external", "image")
        containers = [{key: getattr(each, key) for key in shown} for each in self._fleet.running()]
        load = self._port.lane_load()
        return _json(
            {
                "chain": {"address": "", "enabled": False},
                "containers": containers,
                "pending": {"offchain": load.waiting + load.running, "onchain": 0},
                "version": f"moorage {__version__}",
            }
        )

    async def _resources(self, request: Request, client: Client) -> Response:
        model_id = request.query_params.get("model_id")
        names = list(self._fleet.containers)
        found = await asyncio.gather(*(self._resources_of(name, model_id) for name in names))
        return _json({name: answer for name, answer in zip(names, found, strict=True) if answer is not None})

    async def _resources_of(self, name: str, model_id: str | None) -> JSON:
        calls = self._fleet.calls(name)
        if calls is None:
            return None
        with suppress(ContainerError, BadBody):
            return await calls.resources(model_id, within=RESOURCES_WITHIN)
        return None

    async def _post(self, request: Request, client: Client) -> Response:
        found = await _parsed(wire.parse, await self._body(request, json=True))
        refusal = self._refusal(found, client)
        if refusal is not None:
            return _json(refusal.document, 405)
        assert isinstance(found, OffchainRequest)
        return _json({"id": await self._submit(found, client, mode="run")})

    async def _batch(self, request: Request, client: Client) -> Response:
        limit = self._config.server.max_batch
        items = await _parsed(partial(wire.parse_batch, limit=limit), await self._body(request, json=False))
        return _json(await asyncio.gather(*(self._item(item, client) for item in items)))

    async def _item(self, item: wire.Request | BadBody, client: Client) -> JSON:
        if isinstance(item, BadBody):
            return {"error": item.text, "params": {}}
        refusal = self._refusal(item, client)
        if refusal is not None:
            return refusal.document
        assert isinstance(item, OffchainRequest)
        try:
            return {"id": await self._submit(item, client, mode="run")}
        except MoorageError as error:
            return {"error": error.message, "params": {}}
        except _Stop as stop:
            return {**stop.body, "params": {}}

    async def _stream(self, request: Request, client: Client) -> Response | StreamedResponse:
        found = await _parsed(wire.parse, await self._body(request, json=True))
        if isinstance(found, DelegatedRequest):
            return _json({"error": "Streaming only supported for OffchainJob requests."}, 405)
        refusal = self._refusal(found, client)
        if refusal is not None:
            return _json(refusal.document, 405)
        if len(found.containers) > 1:
            return _json({"error": "containers: only one can stream"}, 400)
        container = self._fleet.containers[found.containers[0]]
        job_id, outlet = str(uuid4()), Outlet(container.moorage.stream_idle_timeout)
        self._outlets[job_id] = outlet
        try:
            await self._submit(found, client, mode="stream", job_id=job_id)
        except BaseException:
            del self._outlets[job_id]
            raise
        return StreamedResponse(
            job_id,
            outlet,
            result=partial(self._streamed, job_id),
            cancel=partial(self._stop, job_id),
            strict=request.query_params.get("strict") in {"1", "true"},
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

    async def _results(self, request: Request, client: Client) -> Response:
        query = request.query_params
        ids = query.getlist("id")
        if not ids:
            return _json(await self._ids(client, query))
        intermediate = query.get("intermediate", "").lower() == "true"
        wait = _number(query, "wait", 0.0, LONGEST_WAIT)
        ids = list(dict.fromkeys(ids))
        if len(ids) > LISTED:
            raise BadBody(f"id: holds more than {LISTED} ids")
        if wait:
            await self._wait(request, ids, wait)
        results = [await self._result(job_id, client) for job_id in ids]
        return _json([result.document(intermediate=intermediate) for result in results if result is not None])

    async def _cancel(self, request: Request, client: Client) -> Response:
        """Cancel jobs: they fail; those that have ended stay as they are."""
        ids = [each for each in dict.fromkeys(request.query_params.getlist("id")) if await self._own(each) is not None]
        for job_id in ids:
            await self._stop(job_id)
        await self._wait(request, ids, 1.0)
        results = [await self._result(job_id, client) for job_id in ids]
        return _json([result.document(intermediate=False) for result in results if result is not None])

    async def _put_status(self, request: Request, client: Client) -> Response:
        if not any(client in source for source in self._config.status_sources):
            return _json({"error": "Unauthorized"}, 403)
        report = wire.parse_status(await self._body(request, json=False))
        if await self._own(report.id) is None:
            self._reports.keep(str(client), report)
        return _json(None)

    # jobs

    def _refusal(self, found: wire.Request, client: Client) -> Refusal | None:
        if isinstance(found, OffchainRequest):
            return policy.offchain(found, sender=client, configured=self._fleet.containers)
        return policy.delegated(
            found, chain_enabled=False, now=time.time(), resolve=lambda _: None, configured=self._fleet.containers
        )

    async def _submit(self, found: OffchainRequest, client: Client, *, mode: Mode, job_id: str | None = None) -> str:
        """Accept a job durably and give its id.

        Raises _Stop while the node starts and when too many jobs wait.
        """
        if not self._open or self._fleet.app_id is None:
            raise _Stop(503, {"error": "The node is starting"}, **{"retry-after": "1"})
        lane = f"{NETWORK}:{found.containers[0]}"
        if self._port.lane_load(lane).waiting >= self._config.server.max_queue:
            raise _Stop(503, {"error": "The queue is full"}, **{"retry-after": "1"})
        request = chain.Request(containers=found.containers, data=found.data, requires_proof=found.requires_proof)
        spec = JobSpec(
            app_id=self._fleet.app_id,
            parameters=request.parameters,
            limits=SMALL,
            lost_retries=0,
            labels={CLIENT: str(client)},
            mode=mode,
        )
        return (await self._port.submit(spec, caller=OPERATOR, job_id=job_id or str(uuid4()), lane=lane)).id

    async def _own(self, job_id: str) -> Job | None:
        try:
            job = await self._port.get_job(job_id)
        except NotFound:
            return None
        return job if job.owner == OPERATOR.name else None

    async def _result(self, job_id: str, client: Client) -> JobResult | None:
        if self._port.end_of(job_id) is not None:
            return JobResult(id=job_id, status="running")
        job = await self._own(job_id)
        return self._reports.find(str(client), job_id) if job is None else result_of(job)

    async def _wait(self, request: Request, ids: Sequence[str], seconds: float) -> None:
        """Wait until none of the jobs runs, the time is up, or the server stops."""
        stopping, until = request.scope["moorage.stopping"], time.monotonic() + seconds
        for job_id in ids:
            end = self._port.end_of(job_id)
            if end is not None:
                left = max(0.0, until - time.monotonic())
                await asyncio.wait({end, stopping}, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def _stop(self, job_id: str) -> None:
        with suppress(JobFinished):
            await self._port.cancel(job_id, caller=OPERATOR)

    async def _ids(self, client: Client, query: Mapping[str, str]) -> list[str]:
        """List a client's own jobs, latest first."""
        pending = {"true": True, "false": False}.get(query.get("pending", "").lower())
        limit = int(_number(query, "limit", LISTED, MOST_LISTED))
        ended = None if pending is None else not pending
        where = JobFilter(owner=OPERATOR.name, network=NETWORK, labels={CLIENT: str(client)}, ended=ended)
        try:
            jobs = await self._port.list_jobs(where, Page(limit=limit, before=query.get("after")))
        except NotFound:
            raise BadBody("after: there is no such job") from None
        ids = [job.id for job in jobs]
        if "after" in query:
            return ids
        return ids + self._reports.ids(str(client), pending=pending, limit=limit - len(ids))


@lru_cache(maxsize=256)
def _names_loopback(host: bytes) -> bool:
    try:
        name = urlsplit(f"//{host.decode('latin-1')}").hostname or ""
        return name == "localhost" or policy.client(name).is_loopback
    except ValueError:
        return False


async def _settled(handler: Handler, request: Request, client: Client) -> Response | StreamedResponse:
    """Give what a handler answers, also where it refuses."""
    try:
        return await handler(request, client)
    except _Stop as stop:
        return stop.response
    except BadBody as error:
        return _json({"error": error.text}, error.status)
    except MoorageError as error:
        return _json({"error": error.message}, 503, {"retry-after": "1"})


async def _parsed(parse: Callable[[bytes], Any], body: bytes) -> Any:
    return parse(body) if len(body) <= QUICK else await asyncio.to_thread(parse, body)


def _number(query: Mapping[str, str], name: str, default: float, most: float) -> float:
    """Read a number from a query.

    Raises BadBody.
    """
    text = query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:  # also NaN
        raise BadBody(f"{name}: should be a number, 0 or more")
    return min(value, most)


def _json(body: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dump(body), status, headers=dict(headers or {}), media_type="application/json")
