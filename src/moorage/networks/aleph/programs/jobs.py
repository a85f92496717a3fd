"""Runs of programs that are jobs: events, times of a schedule, an operator's calls (contract, 2.9 and 2.10)."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from moorage.errors import JobCancelled, MoorageError, ProgramFailed, ProgramTimedOut, ProgramUnavailable
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.jobs import JSON, JobSpec, Result
from moorage.model.limits import MIB, Limits, Timeouts
from moorage.model.states import RUNNABLE
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.local import Local
from moorage.networks.aleph.programs.calls import Call, call
from moorage.networks.aleph.programs.connections import Head
from moorage.networks.aleph.programs.deployments import Refusal
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.logs import Line
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.base import Context, Port, Services
from moorage.sandbox.base import Stream
from moorage.store.base import AppFilter

NETWORK = "aleph"
FILE = "message.json"
OPERATOR = Caller(name="aleph:", operator=True)
"""Owner of the apps and jobs of published programs; no token can have this name."""
SMALL = Limits(cpus=0.01, memory=MIB, pids=1, disk=MIB, tmp=MIB)
"""What a job takes of the engine: the program runs beside it, within limits of its own."""
RETRIES = 1000
"""How often an event whose run was lost with the node is delivered again: until it ends."""
LONGEST = 16 * MIB
"""Bytes of an answer that is kept with its job."""


def run_id(*parts: str) -> str:
    """Name a run after what causes it, so that no cause has two."""
    return f"run-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:40]}"


class Apps:
    """The apps in whose name programs have jobs: one of each program, made when it first has one."""

    def __init__(self, port: Port, ledger: Ledger) -> None:
        self._port, self._ledger = port, ledger
        self._known: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def submit(self, item_hash: str, run: str, parameters: Mapping[str, JSON], *, timeout: float) -> None:
        """Accept a run of a program as a job; one with this id that is there already is the same.

        Raises MoorageError.
        """
        spec = JobSpec(
            app_id=await self._app(item_hash),
            parameters=parameters,
            limits=SMALL,
            timeouts=Timeouts(execution=timeout),
            lost_retries=RETRIES,
        )
        await self._port.submit(spec, caller=OPERATOR, job_id=run)

    async def _app(self, item_hash: str) -> str:
        async with self._lock:
            if item_hash not in self._known:
                self._known[item_hash] = (await self._found(item_hash) or await self._added(item_hash)).id
            return self._known[item_hash]

    async def _found(self, item_hash: str) -> App | None:
        where = AppFilter(owner=OPERATOR.name, network=NETWORK, name=item_hash)
        return next((app for app in await self._port.list_apps(where) if app.state in RUNNABLE), None)

    async def _added(self, item_hash: str) -> App:
        source = self._port.staging()
        record = self._ledger.record(item_hash)
        if record is None:
            raise ProgramUnavailable(f"Program {item_hash} is not here.")
        (source / FILE).write_text(json.dumps(record.shown))
        app = await self._port.add_app(source, caller=OPERATOR, network=NETWORK, name=item_hash, meta={})
        return await self._port.settled_app(app.id)


class Home(Protocol):
    """What runs of programs need."""

    registry: Registry
    ledger: Ledger
    local: Local

    @property
    def services(self) -> Services:
        """Long-running instances of programs."""

    async def address(self) -> str:
        """Give the URL at which programs are called."""


async def run(ctx: Context, home: Home) -> Result:
    """Make the run that a job of a program asks for; what comes of it is the job's value."""
    parameters = ctx.job.spec.parameters
    program = parameters.get("program") or await home.local.address(ctx.app.name, ctx.layers)
    found = home.registry.find(program)
    if isinstance(found, Refusal):
        return Result(error=ProgramUnavailable(f"{found.error}.").info)
    ctx.started()
    if parameters["trigger"] == "serve":
        return await _serve(ctx, home, found, program)
    with _listening(ctx, found, run=ctx.job.id):
        return await _once(ctx, home, found, program)


async def _serve(ctx: Context, home: Home, instance: Instance, program: str) -> Result:
    """Keep a program running, and show what it says, until the job is cancelled."""
    with _listening(ctx, instance, run=None):
        try:
            async with home.services.acquire(instance.spec):
                ctx.log("stdout", f"{await home.address()}/vm/{program}/\n".encode())
                await ctx.cancelled.wait()
        except MoorageError as error:
            return Result(error=error.info)
    return Result(error=JobCancelled().info)


async def _once(ctx: Context, home: Home, instance: Instance, program: str) -> Result:
    body = bytearray()

    def keep(data: bytes) -> None:
        body.extend(data[: max(0, LONGEST - len(body))])

    asking = call(home.services, instance, _call(ctx, home.ledger, program), keep)
    try:
        head = await _cancellable(ctx, asking)
    except MoorageError as error:
        return Result(error=error.info, timed_out=isinstance(error, ProgramTimedOut))
    ctx.collecting()
    return _result(ctx, instance, head, bytes(body))


@contextlib.contextmanager
def _listening(ctx: Context, instance: Instance, *, run: str | None) -> Iterator[None]:
    """Write into the job's log what the program says, for one of its runs or for all."""
    call = ctx.job.spec.parameters["trigger"] == "request"

    def tell(line: Line) -> None:
        if run in (None, line.run) or (line.run is None and call):
            stream: Stream = "stdout" if line.source == "stdout" and not call else "stderr"
            ctx.log(stream, f"{line.text}\n".encode())

    unlisten = instance.log.listen(tell)
    try:
        yield
    finally:
        unlisten()


async def _cancellable(ctx: Context, asking: Coroutine[Any, Any, Head]) -> Head:
    """Wait for an answer, unless the job is cancelled."""
    task, cancelled = asyncio.ensure_future(asking), asyncio.ensure_future(ctx.cancelled.wait())
    try:
        await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise JobCancelled
        return task.result()
    finally:
        task.cancel()
        cancelled.cancel()
        await asyncio.gather(task, cancelled, return_exceptions=True)


def _call(ctx: Context, ledger: Ledger, program: str) -> Call:
    parameters = ctx.job.spec.parameters
    request: Mapping[str, Any] = parameters.get("request") or {}
    call = Call(run=ctx.job.id, address=program)
    match parameters["trigger"]:
        case "message":
            record = ledger.record(parameters["message"])
            text = json.dumps(record.shown if record else None, ensure_ascii=False).encode()
            headers = (("content-type", "application/json"), ("aleph-event", "aleph.message"))
            return replace(call, kind="event", method="POST", headers=headers, body=text)
        case "cron":
            moment = str(parameters["slot"])
            headers = (("aleph-event", "cron"), ("aleph-event-time", moment))
            return replace(call, path=parameters["path"], headers=headers)
    return replace(
        call,
        method=request["method"],
        path=request["path"],
        headers=tuple(map(tuple, request.get("headers", ()))),
        body=request.get("body", "").encode(),
    )


def _result(ctx: Context, instance: Instance, head: Head, body: bytes) -> Result:
    text = body.decode(errors="replace")
    if ctx.job.spec.parameters["trigger"] == "request":
        ctx.log("stdout", body if body.endswith(b"\n") else body + b"\n")
    value: dict[str, JSON] = {
        "program": instance.deployment.item_hash,
        "refs": instance.deployment.refs,
        "status": head.status,
    }
    if ctx.job.spec.parameters["trigger"] == "message" and instance.asgi:
        value["result"] = json.loads(text)["result"] if head.status == 200 else None
    else:
        value["headers"] = [[name.decode("latin-1"), each.decode("latin-1")] for name, each in head.headers]
        value["body"] = text
    failed = head.status >= 500 or (ctx.job.spec.parameters["trigger"] != "request" and head.status >= 400)
    error = ProgramFailed(f"The program answered with status {head.status}.") if failed else None
    return Result(value=value, error=error.info if error else None)
