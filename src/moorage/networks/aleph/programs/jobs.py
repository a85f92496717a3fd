"""Runs of programs that are jobs: events, times of a schedule, an operator's calls (contract, 2.9 and 2.10)."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from moorage.errors import (
    AppUnavailable,
    IdempotencyConflict,
    JobCancelled,
    JobTimedOut,
    MoorageError,
    ProgramFailed,
    ProgramNotStarted,
    ProgramTimedOut,
    ProgramUnavailable,
    ServiceUnavailable,
)
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.jobs import JSON, FileRef, JobSpec, Result
from moorage.model.limits import MIB, Limits, Timeouts
from moorage.model.states import RUNNABLE
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.local import Local
from moorage.networks.aleph.programs.calls import Call, recorded
from moorage.networks.aleph.programs.connections import Head
from moorage.networks.aleph.programs.deployments import Refusal
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.logs import Line
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.runs import Export, Runs
from moorage.networks.aleph.programs.samples import completed
from moorage.networks.base import Context, Port, Services
from moorage.sandbox.base import Stream
from moorage.store.base import AppFilter, JobFilter, Page

T = TypeVar("T")

NETWORK = "aleph"
FILE = "message.json"
TRIGGERS = frozenset({"message", "cron"})
"""Of jobs that the network itself submits."""
OPERATOR = Caller(name="aleph:", operator=True)
"""Owner of the apps and jobs of published programs; no token can have this name."""
SMALL = Limits(cpus=0.01, memory=MIB, pids=1, disk=MIB, tmp=MIB)
"""What a job takes of the engine: the program runs beside it, within limits of its own."""
RETRIES = 1000
"""How often an event whose run was lost with the node is delivered again: until it ends."""
EXPORTS = {"zip": "export.zip", "tar.gzip": "export.tar.gz", "squashfs": "export.squashfs", "plain": "export"}
"""Names of exports as outputs of jobs, by their encoding."""
LONGEST = 16 * MIB
"""Bytes of an answer that is kept with its job."""


def run_id(*parts: str) -> str:
    """Name a run after what causes it, so that no cause has two."""
    return f"run-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:40]}"


class Apps:
    """The apps in whose name programs have jobs: one of each program, made when it first has one."""

    def __init__(self, port: Port, ledger: Ledger, registry: Registry) -> None:
        self._port, self._ledger, self._registry = port, ledger, registry
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
            labels=self._labels(item_hash, parameters["trigger"]),
        )
        try:
            await self._port.submit(spec, caller=OPERATOR, job_id=run)
        except IdempotencyConflict:
            return  # an earlier version of the node accepted it, and wrote it down in another way
        except AppUnavailable:
            del self._known[item_hash]  # the operator took it away: the next try makes another
            raise

    async def busy(self, item_hash: str, trigger: str) -> bool:
        """Tell whether a run of any version of a program that this trigger caused is not over."""
        where = JobFilter(owner=OPERATOR.name, labels=self._labels(item_hash, trigger), ended=False)
        return bool(await self._port.list_jobs(where, Page(limit=1)))

    def _labels(self, item_hash: str, trigger: str) -> dict[str, str]:
        return {"program": self._registry.original(item_hash), "trigger": trigger}

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
    runs: Runs

    @property
    def services(self) -> Services:
        """Long-running instances of programs."""

    async def address(self) -> str:
        """Give the URL at which programs are called."""


async def run(ctx: Context, home: Home) -> Result:
    """Make the run that a job of a program asks for; what comes of it is the job's value."""
    parameters = ctx.job.spec.parameters
    if parameters["trigger"] in TRIGGERS:  # for the program, whatever its version was when they came
        program = home.registry.newest(parameters["program"])
    else:
        program = await home.local.address(ctx.app.name, ctx.layers)
    found = home.registry.find(program)
    if isinstance(found, Refusal):
        return Result(error=ProgramUnavailable(f"{found.error}.").info)
    ctx.started()
    if parameters["trigger"] == "serve":
        return await _serve(ctx, home, found, program)
    with _listening(ctx, found, run=ctx.job.id):
        return await _once(ctx, home, found, program)


async def _serve(ctx: Context, home: Home, instance: Instance, program: str) -> Result:
    """Keep a program running, and show what it says, until the job is cancelled: that is its success."""
    serving = asyncio.Event()

    async def serve() -> None:
        async with home.services.acquire(instance.spec):
            ctx.log("stdout", f"{await home.address()}/vm/{program}/\n".encode())
            serving.set()
            await ctx.cancelled.wait()

    with _listening(ctx, instance, run=None):
        try:
            await cancellable(ctx, serve())
        except JobCancelled as error:
            return Result(value={"program": program}, error=None if serving.is_set() else error.info)
        except MoorageError as error:
            return Result(error=told(error).info)
    return Result(value={"program": program})


async def _once(ctx: Context, home: Home, instance: Instance, program: str) -> Result:
    body = bytearray()

    def keep(data: bytes) -> None:
        body.extend(data[: max(0, LONGEST - len(body))])
        if ctx.job.spec.parameters["trigger"] == "request":
            ctx.log("stdout", data)

    trigger = ctx.job.spec.parameters["trigger"]
    request = _call(ctx, home.ledger, program)
    asking = recorded(home.runs, home.services, instance, request, trigger=trigger, write=keep)
    execution = ctx.job.spec.timeouts.execution
    try:
        async with asyncio.timeout(execution):
            head, export = await cancellable(ctx, asking)
    except TimeoutError:
        return Result(error=JobTimedOut(f"The job did not end within {execution:g} s.").info, timed_out=True)
    except MoorageError as error:
        return Result(error=told(error).info, timed_out=isinstance(error, ProgramTimedOut))
    ctx.collecting()
    try:
        return _result(ctx, instance, head, bytes(body), export)
    except ProgramFailed as error:
        return Result(error=error.info)


@contextlib.contextmanager
def _listening(ctx: Context, instance: Instance, *, run: str | None) -> Iterator[None]:
    """Write into the job's log what the program says, for one of its runs or for all."""
    trigger = ctx.job.spec.parameters["trigger"]
    ours, answers = trigger in TRIGGERS, trigger in {"request", "event"}

    def tell(line: Line) -> None:
        if run in (None, line.run) or (line.run is None and not ours):
            stream: Stream = "stdout" if line.source == "stdout" and not answers else "stderr"
            ctx.log(stream, f"{line.text}\n".encode())

    unlisten = instance.log.listen(tell)
    try:
        yield
    finally:
        unlisten()


def told(error: MoorageError) -> MoorageError:
    """Say of a program that did not start that this is its own fault: what it needs was made ready before."""
    if isinstance(error, ServiceUnavailable):
        return ProgramNotStarted(f"The program did not start. {error.message}")
    return error


async def cancellable(ctx: Context, asking: Coroutine[Any, Any, T]) -> T:
    """Wait for something, unless the job is cancelled. Raises JobCancelled."""
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
            return delivery(replace(call, message=parameters["message"]), record.shown if record else None)
        case "event":
            return delivery(call, completed(parameters["event"]))
        case "cron":
            return appointment(call, parameters["path"], parameters["slot"])
    return replace(
        call,
        method=request["method"],
        path=request["path"],
        headers=tuple(map(tuple, request.get("headers", ()))),
        body=request.get("body", "").encode(),
    )


def delivery(call: Call, message: JSON) -> Call:
    """Make a call the delivery of a message, in the words of the API (contract, section 2.9)."""
    headers = (("content-type", "application/json"), ("aleph-event", "aleph.message"))
    body = json.dumps(message, ensure_ascii=False).encode()
    return replace(call, kind="event", method="POST", headers=headers, body=body)


def appointment(call: Call, path: str, slot: int) -> Call:
    """Make a call one of a schedule, for the slot at these Unix seconds (contract, section 2.10)."""
    return replace(call, path=path, headers=(("aleph-event", "cron"), ("aleph-event-time", str(slot))))


def _handled(text: str) -> JSON:
    """Read what the handler of a message sent. Raises ProgramFailed: the program shares a process with its host."""
    try:
        return json.loads(text)["result"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ProgramFailed("What its handler sent cannot be read, or is too long.") from None


def _result(ctx: Context, instance: Instance, head: Head, body: bytes, export: Export | None) -> Result:
    text, trigger = body.decode(errors="replace"), ctx.job.spec.parameters["trigger"]
    value: dict[str, JSON] = {
        "program": instance.deployment.item_hash,
        "refs": instance.deployment.refs,
        "status": head.status,
    }
    if trigger in {"message", "event"} and instance.asgi:
        value["result"] = _handled(text) if head.status == 200 else None
        if trigger == "event":
            ctx.log("stdout", f"{json.dumps(value['result'], ensure_ascii=False)}\n".encode())
    else:
        value["headers"] = [[name.decode("latin-1"), each.decode("latin-1")] for name, each in head.headers]
        value["body"] = text
    failed = head.status >= 500 or (trigger != "request" and head.status >= 400)
    error = ProgramFailed(f"The program answered with status {head.status}.") if failed else None
    if export is None:
        return Result(value=value, error=error.info if error else None)
    file = FileRef(path=EXPORTS[export.encoding], digest=export.file_hash, size=export.size)
    return Result(value={**value, "export": export.document}, error=error.info if error else None, outputs=(file,))
