"""Long-running instances of apps, shared by the jobs that need them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from socket import AF_UNIX, SOCK_STREAM, SocketKind, socket

import structlog

from moorage.errors import MoorageError, ServiceUnavailable, UnknownIsolation
from moorage.model.ids import new_id
from moorage.networks.base import Endpoint, ServiceSpec, ServiceState
from moorage.sandbox.base import Exit, ImageSpec, Load, Process, ProcessSpec, Sandbox, Stream
from moorage.sandbox.docker import Docker

log = structlog.get_logger(__name__)

PROBE_EVERY = 0.02
"""Seconds between the first looks whether a starting service answers."""
PROBE_SHARE = 0.1
"""Part of the time since its start after which one that is slow is looked at again: many that start at once would
otherwise slow each other down."""
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the first, second, … start after a failure; the last one is kept."""
STABLE = 10.0
"""Seconds that a service has to run for its end not to count as one failure more in a row."""
TAIL = 8 * 1024
RUNS = frozenset({"starting", "ready"})


@dataclass(slots=True, kw_only=True)
class _Service:
    """A service; as an endpoint, it is that of the process which runs now."""

    spec: ServiceSpec
    start: asyncio.Task[None] | None = None
    """The start that is under way, for all who wait for it."""
    process: Process | None = None
    listener: str | None = None
    """Path of the socket that the process was given to listen on."""
    ended: asyncio.Task[None] | None = None
    """Done when nothing of the process is left."""
    keeper: asyncio.Task[None] | None = None
    leases: int = 0
    restarts: int = 0
    failures: int = 0
    state: str = "stopped"
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and made anew, whenever the state changes."""
    reason: str | None = None
    fault: MoorageError | None = None
    """Why the last start came to nothing."""
    started_at: float | None = None
    tail: bytearray = field(default_factory=bytearray)
    idle: asyncio.TimerHandle | None = None
    retired: bool = False

    def become(self, state: str, reason: str | None = None) -> None:
        self.state, self.reason = state, reason
        self.changed.set()
        self.changed = asyncio.Event()

    def unset_idle(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None

    def started(self, start: asyncio.Task[None]) -> None:
        self.start = None
        if not start.cancelled():
            start.exception()  # nobody may be left who asks for it

    def doing(self, what: str) -> None:
        self.reason = what

    def log(self, stream: Stream, chunk: bytes) -> None:
        self.tail += chunk
        del self.tail[:-TAIL]
        if self.spec.output is not None:
            self.spec.output(stream, chunk)

    async def connect(self) -> socket:
        return await self.reach(None, SOCK_STREAM)

    async def reach(self, port: int | None, kind: SocketKind) -> socket:
        if self.process is None:
            raise ServiceUnavailable(f"Service {self.spec.key} does not run.")
        try:
            if port is None and self.listener is not None:
                return _connected(self.listener)
            return await self.process.connect(port or self.spec.port, kind)
        except OSError as error:
            raise ServiceUnavailable(f"Service {self.spec.key} takes no connection: {error.strerror}.") from error


class LocalServices:
    """Starts a service when the first job needs it and stops it when none has for a while, unless it is kept.

    Implements `networks.base.Services`. A service that dies is started again when it is next needed, or at once if it
    is kept, with a growing pause after each failure in a row.
    """

    def __init__(self, sandboxes: dict[str, Sandbox], docker: Docker, isolation: str) -> None:
        self._sandboxes, self._docker, self._isolation = sandboxes, docker, isolation
        self._services: dict[str, _Service] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def acquire(self, spec: ServiceSpec) -> AsyncIterator[Endpoint]:
        """Hold a ready service for as long as the context lasts, starting it if need be.

        Raises ServiceUnavailable with what it said last, SandboxUnavailable.
        """
        service = self._service(spec)
        service.leases += 1
        service.unset_idle()
        try:
            if service.state != "ready":
                await (self._begun(service) if service.keeper is None else _settled(service))
            yield service
        finally:
            service.leases -= 1
            if not service.leases and service.keeper is None:
                self._stop_later(service)

    def keep(self, spec: ServiceSpec) -> None:
        """Start a service and keep it running until the node stops."""
        service = self._service(spec)
        service.unset_idle()
        if service.keeper is None:
            if service.state != "ready":
                service.become("starting")
            service.keeper = asyncio.ensure_future(self._keep(service))

    async def stop(self, key: str) -> bool:
        """Stop a service and wait for its end; tell whether it ran."""
        service = self._services.get(key)
        if service is None:
            return False
        if service.keeper is not None:
            service.keeper.cancel()
            service.keeper = None
        ran = service.state in RUNS
        await _given_up(service)
        self._stop(service)
        if service.ended is not None:
            await asyncio.shield(service.ended)
        return ran

    async def kill(self, key: str) -> None:
        """End what runs of a service at once, and wait for that."""
        service = self._services.get(key)
        if service is None or service.process is None or service.ended is None:
            return
        service.process.kill()
        await asyncio.shield(service.ended)

    def retire(self, key: str) -> None:
        """Stop a service for good as soon as nobody holds it."""
        service = self._services.get(key)
        if service is None:
            return
        service.retired = True
        if service.keeper is not None:
            service.keeper.cancel()
            service.keeper = None
        if not service.leases:
            self._stop_later(service)

    async def connect(self, key: str, port: int, kind: SocketKind = SOCK_STREAM) -> socket:
        """Connect to any port in the network of a service that runs.

        Raises ServiceUnavailable.
        """
        if key not in self._services:
            raise ServiceUnavailable(f"Service {key} does not run.")
        return await self._services[key].reach(port, kind)

    def states(self) -> tuple[ServiceState, ...]:
        """Tell of every service that was ever needed."""
        return tuple(_state(service) for _, service in sorted(self._services.items()))

    async def measured(self) -> tuple[ServiceState, ...]:
        """Tell of every service that was ever needed, and what each uses now."""
        services = [service for _, service in sorted(self._services.items())]
        loads = await asyncio.gather(*map(_load, services))
        return tuple(replace(_state(service), load=load) for service, load in zip(services, loads, strict=True))

    def state(self, key: str) -> ServiceState | None:
        """Tell of one service."""
        return _state(self._services[key]) if key in self._services else None

    async def load(self, key: str) -> Load:
        """Tell what a service uses now."""
        return await _load(self._services[key]) if key in self._services else Load()

    async def close(self) -> None:
        """Stop every service."""
        services = list(self._services.values())
        under_way = [task for each in services for task in (each.keeper, each.start) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        for service in services:
            service.unset_idle()
            self._stop(service)
        await asyncio.gather(*(service.ended for service in services if service.ended), *self._leaving)

    def _service(self, spec: ServiceSpec) -> _Service:
        """Give the service of this key, for which the last spec counts that was given while it did not run."""
        service = self._services.get(spec.key)
        if service is None:
            service = self._services[spec.key] = _Service(spec=spec)
        elif service.state not in RUNS and service.keeper is None:
            service.spec, service.retired = spec, False
        return service

    async def _begun(self, service: _Service) -> None:
        """Start a service, or wait for the start that is under way; that ends well or ill for all who wait."""
        if service.start is None:
            service.start = asyncio.ensure_future(self._start(service))
            service.start.add_done_callback(service.started)
        start = service.start
        await asyncio.wait({start})
        if start.cancelled():
            raise ServiceUnavailable("It was stopped while it started.")
        start.result()

    async def _keep(self, service: _Service) -> None:
        told = ""
        while True:
            try:
                if service.state != "ready":
                    await self._begun(service)
            except MoorageError as error:
                if error.message != told:
                    log.warning("service not available", service=service.spec.key, reason=error.message)
                told = error.message
                service.become("failed", told)
            except Exception:
                log.exception("service failed inside the node", service=service.spec.key)
                service.failures += 1
                service.become("failed", "The node failed while it started it; see its log.")
            if service.ended is not None:
                await asyncio.shield(service.ended)

    async def _start(self, service: _Service) -> None:
        if service.spec.patient:
            await asyncio.sleep(BACK_OFF[min(service.failures, len(BACK_OFF) - 1)])
        if service.ended is not None:  # its end must not be taken for ours
            self._stop(service)  # where its start was given up before it was ready
            await asyncio.shield(service.ended)
        service.become("starting")
        service.fault = None
        service.restarts += service.started_at is not None
        try:
            service.process, over = await self._launch(service)
        except BaseException as error:
            service.fault = error if isinstance(error, MoorageError) else None
            service.become("failed", service.fault.message if service.fault else "It was not started.")
            service.failures += not isinstance(error, asyncio.CancelledError)
            raise
        service.ended = asyncio.ensure_future(self._await_end(service, service.process, over))
        service.started_at = time.time()
        try:
            await self._await_ready(service)
        except BaseException:
            self._stop(service, "failed", "Its start was given up.")
            raise

    async def _launch(self, service: _Service) -> tuple[Process, contextlib.AsyncExitStack]:
        """Start the process; what was prepared for it is undone when the stack that comes with it is closed."""
        wanted = service.spec.process
        if isinstance(wanted, ImageSpec):
            started = await self._docker.start(wanted, output=service.log, progress=service.doing)
            return started, contextlib.AsyncExitStack()
        async with contextlib.AsyncExitStack() as stack:
            spec = wanted if isinstance(wanted, ProcessSpec) else await stack.enter_async_context(wanted())
            service.listener = None if spec.listener is None else spec.listener.getsockname()
            process = await self._sandbox(service.spec).start(spec, name=new_id("svc"), output=service.log)
            if spec.listener is not None:
                spec.listener.close()  # what waits there is to end with the process, which has it now
            return process, stack.pop_all()

    async def _await_ready(self, service: _Service) -> None:
        begun, late = time.monotonic(), False
        deadline = begun + service.spec.ready_within
        while service.state == "starting":
            if await service.spec.ready(service) and service.state == "starting":
                service.become("ready")
                if not service.leases and service.keeper is None:  # whoever wanted it has left
                    self._stop_later(service)
                return
            if time.monotonic() > deadline:
                self._stop(service, "failed", f"It did not answer within {service.spec.ready_within:g} seconds.")
                late = True
            else:
                await asyncio.sleep(max(PROBE_EVERY, PROBE_SHARE * (time.monotonic() - begun)))
        service.failures += 1
        service.fault = ServiceUnavailable(service.reason, late=late)
        raise service.fault

    async def _await_end(self, service: _Service, process: Process, over: contextlib.AsyncExitStack) -> None:
        begun = time.monotonic()
        try:
            reason = _ending(await process.wait())
        except MoorageError as error:  # it was lost with what had started it
            reason = error.message
        if service.process is process and service.state in RUNS:
            if service.state == "ready":  # else whoever waits for it counts the failure
                service.failures = 0 if time.monotonic() - begun > STABLE else service.failures + 1
            service.become("failed", reason)
        service.listener = None if service.process is process else service.listener
        try:
            await over.aclose()
        except Exception:
            log.exception("what a service needed is not undone", service=service.spec.key)

    def _stop_later(self, service: _Service) -> None:
        service.unset_idle()
        if service.retired:
            self._retire(service)
        elif not service.spec.idle_after:
            self._stop(service)
        else:
            service.idle = asyncio.get_running_loop().call_later(service.spec.idle_after, self._stop, service)

    def _retire(self, service: _Service) -> None:
        """Forget a service that nobody holds, and see to its end."""
        if self._services.get(service.spec.key) is service:
            del self._services[service.spec.key]
        task = asyncio.ensure_future(self._leave(service))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, service: _Service) -> None:
        await _given_up(service)
        self._stop(service)
        if service.ended is not None:
            await asyncio.shield(service.ended)

    def _stop(self, service: _Service, state: str = "stopped", reason: str | None = None) -> None:
        if service.state in RUNS:
            service.become(state, reason)
        process, grace = service.process, service.spec.grace
        if process is None or service.ended is None or service.ended.done():
            return
        if not grace:
            process.kill()
            return
        process.terminate()
        timer = asyncio.get_running_loop().call_later(grace, process.kill)
        service.ended.add_done_callback(lambda _: timer.cancel())

    def _sandbox(self, spec: ServiceSpec) -> Sandbox:
        name = spec.isolation or self._isolation
        if name not in self._sandboxes:
            raise UnknownIsolation(f"This node has no sandbox called {name!r}.")
        return self._sandboxes[name]


async def _given_up(service: _Service) -> None:
    """Cancel the start of a service that is under way."""
    if service.start is not None:
        service.start.cancel()
        await asyncio.wait({service.start})


async def _settled(service: _Service) -> None:
    """Wait for a kept service while it starts.

    Raises why its start has failed, ServiceUnavailable if it has ended since.
    """
    while service.state == "starting":
        await service.changed.wait()
    if service.state != "ready":
        raise service.fault or ServiceUnavailable(service.reason or f"Service {service.spec.key} is {service.state}.")


def _state(service: _Service) -> ServiceState:
    return ServiceState(
        key=service.spec.key,
        state=service.state,
        leases=service.leases,
        restarts=service.restarts,
        started_at=service.started_at,
        reason=service.reason,
        log_tail=service.tail.decode(errors="replace"),
        idle_since=_idle_since(service),
    )


def _idle_since(service: _Service) -> float | None:
    if service.state != "ready" or service.leases or service.keeper is not None or service.idle is None:
        return None
    return service.idle.when() - service.spec.idle_after


def _ending(ended: Exit) -> str:
    if ended.out_of_memory:
        return "It used more memory than it may and was killed."
    return f"Its process ended with status {ended.status}."


def _connected(path: str) -> socket:
    """Connect to a Unix socket, whose listener takes a connection at once or has too many waiting."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


async def _load(service: _Service) -> Load:
    if service.process is None or service.state not in RUNS:
        return Load()
    return await service.process.load()
