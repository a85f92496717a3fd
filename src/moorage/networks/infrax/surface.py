"""The network's own HTTP surface, by which an InfraX router drives this node (contract, section 4.1)."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from moorage.errors import MoorageError, NodeStopping
from moorage.model.ids import new_id
from moorage.networks.base import Port, Surface
from moorage.networks.infrax import arguments, wire
from moorage.networks.infrax.config import SurfaceConfig
from moorage.networks.infrax.errands import ROUTER_ID, Errands, safe_names
from moorage.networks.infrax.journal import Entry, Journal
from moorage.networks.infrax.router import Router
from moorage.networks.infrax.slots import Slots

log = structlog.get_logger(__name__)

MAX_BODY = 8 << 20
"""Bytes of a request; arguments and file lists are far smaller, files are fetched from the router."""

Errand = Callable[[], Awaitable[None]]


class RouterSurface:
    """Answers the router at once and works in the background, a slot for each errand."""

    def __init__(self, port: Port, config: SurfaceConfig) -> None:
        self._config = config
        self._router = Router(config)
        self._errands = Errands(port, self._router)
        self._slots = Slots(config.slots, self._router.tell_state)
        self._journal = Journal(port.directory)
        self._jobs: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._admission = asyncio.Lock()

    def surface(self) -> Surface:
        """Give the routes and the background work."""
        routes = APIRouter(include_in_schema=False)
        routes.add_api_route("/__health", _health, methods=["GET"])
        routes.add_api_route("/app", self._list_apps, methods=["GET"])
        routes.add_api_route("/app/{app_id}", self._change_app, methods=["POST", "DELETE"])
        routes.add_api_route("/job", self._post_job, methods=["POST"])
        return Surface(routers=(routes,), tasks=(self._work,), admits=self._admits)

    async def _work(self) -> None:
        """Go on with what an earlier node left, register, and end with the node."""
        try:
            for entry in self._journal.read():
                self._begin_job(entry)
            await self._slots.announce()
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._router.close()

    def _admits(self, scope: Mapping[str, Any]) -> bool:
        """Let the operator's `allowed_sources` reach these routes without a token; a browser is no router."""
        path, client = scope["path"], scope.get("client")
        if not (path in {"/__health", "/app", "/job"} or path.startswith("/app/")) or client is None:
            return False
        if any(name == b"origin" for name, _ in scope["headers"]):
            return False
        return any(ip_address(client[0]) in network for network in self._config.allowed_sources)

    async def _list_apps(self) -> Response:
        return _json([app.meta[ROUTER_ID] for app in await self._errands.installed()])

    async def _change_app(self, request: Request, app_id: str) -> Response:
        async with self._admission:
            if self._slots.busy:
                return _detail(409, "Node is busy")
            installed = bool(await self._errands.installed(app_id))
            if request.method == "POST":
                if installed:
                    return _detail(200, "App is already installed")
                self._begin(lambda: self._errands.install(app_id))
            else:
                if not installed:
                    return _detail(404, "App is not installed")
                self._begin(lambda: self._errands.remove(app_id))
        return _json(None)

    async def _post_job(self, request: Request) -> Response:
        """Take on a job; the checks are in the order of section 4.1."""
        try:
            document = await _document(request)
        except (ValueError, RecursionError) as error:
            return _invalid([{"type": "json_invalid", "loc": [], "msg": f"JSON decode error: {error}", "input": {}}])
        async with self._admission:
            known = isinstance(document, dict) and str(document.get("id")) in self._jobs
            if self._slots.busy and not known:
                return _detail(409, "Node is busy")
            try:
                job = wire.Job.model_validate(document)
            except ValidationError as error:
                return _invalid(error.errors(include_url=False, include_context=False))
            return _json(job.model_dump(), 201) if known else await self._admit(job)

    async def _admit(self, job: wire.Job) -> Response:
        parameters = wire.arguments_of(job)
        try:
            safe_names(job.files or [])
            arguments.parse(parameters.get("kwargs"), parameters.get("args"))
        except MoorageError as error:
            where, value = ("files", None) if error.code.startswith("file_") else ("meta", job.meta)
            return _invalid([{"type": error.code, "loc": [where], "msg": error.message, "input": value}])
        if not await self._errands.installed(job.app_id):
            return _detail(404, "App is not installed")
        entry = Entry(job=job, ours=new_id("job"))
        await asyncio.to_thread(self._journal.write, entry)
        self._begin_job(entry)
        return _json(job.model_dump(), 201)

    def _begin_job(self, entry: Entry) -> None:
        async def errand() -> None:
            """Keep the journal's entry unless the router knows the result: the next start reports it."""
            try:
                await self._errands.perform(entry)
                await asyncio.to_thread(self._journal.drop, entry.job.id)
            finally:
                self._jobs.discard(entry.job.id)

        self._jobs.add(entry.job.id)
        self._begin(errand)

    def _begin(self, errand: Errand) -> None:
        self._slots.take()
        task = asyncio.ensure_future(self._carry_out(errand))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, errand: Errand) -> None:
        """See an errand through; whatever becomes of it, its slot is free afterwards and the router knows."""
        try:
            await self._slots.announce()
            await errand()
        except NodeStopping:
            return  # its journal entry stays: the next start goes on with it
        except MoorageError as error:
            log.warning("router's request failed", reason=error.message)
        except Exception:
            log.exception("router's request failed inside the node")
        finally:
            self._slots.give()
        await self._slots.announce()


async def _health() -> Response:
    return Response()


async def _document(request: Request) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ValueError(f"the body is longer than {MAX_BODY} bytes")
    return json.loads(body, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")


def _detail(status: int, text: str) -> Response:
    return _json({"detail": text}, status)


def _invalid(problems: Sequence[Mapping[str, Any]]) -> Response:
    """Answer 422 in the network's own form."""
    shown = ("type", "loc", "msg", "input")
    found = [{**{key: problem[key] for key in shown}, "loc": ["body", *problem["loc"]]} for problem in problems]
    return _json({"detail": found}, 422)
