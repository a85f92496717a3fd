"""Long-running instances of apps, shared by the jobs that need them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from socket import socket

import structlog

from moorage.errors import MoorageError, ServiceUnavailable, UnknownIsolation
from moorage.model.ids import new_id
from moorage.networks.base import Endpoint, ServiceSpec, ServiceState
from moorage.sandbox.base import ImageSpec, Load, Process, Sandbox, Stream
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


@dataclass(slots=True, kw_only=True)
class _Service:
    """A service; as an endpoint, it is that of the process which runs now."""

    spec: ServiceSpec
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    process: Process | None = None
    ended: asyncio.Task[None] | None = None
    keeper: asyncio.Task[None] | None = None
    leases: int = 0
    restarts: int = 0
    failures: int = 0
    state: str = "stopped"
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and made anew, whenever the state changes."""
    reason: str | None = None
    started_at: float | None = None
    tail: bytearray = field(default_factory=bytearray)
    idle: asyncio.TimerHandle | None = None

    def become(self, state: str, reason: str | None = None) -> None:
        self.state, self.reason = state, reason
        self.changed.set()
        self.changed = asyncio.Event()

    def doing(self, what: str) -> None:
        self.reason = what

    def log(self, _: Stream, chunk: bytes) -> None:
        self.tail += chunk
        del self.tail[:-TAIL]

    async def connect(self) -> socket:
        if self.process is None:
            raise ServiceUnavailable(f"Service {self.spec.key} does not run.")
        try:
            return await self.process.connect(self.spec.port)
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

    @contextlib.asynccontextmanager
    async def acquire(self, spec: ServiceSpec) -> AsyncIterator[Endpoint]:
        """Hold a ready service for as long as the context lasts, starting it if need be.

        Raises ServiceUnavailable with what it said last, SandboxUnavailable.
        """
        service = self._services.setdefault(spec.key, _Service(spec=spec))
        service.leases += 1
        if service.idle is not None:
            service.idle.cancel()
        try:
            if service.keeper is not None:
                await _settled(service)
            else:
                async with service.lock:
                    if service.state != "ready":
                        await self._start(service)
            yield service
        finally:
            service.leases -= 1
            if not service.leases and service.keeper is None:
                self._stop_later(service)

    def keep(self, spec: ServiceSpec) -> None:
        """Start a service and keep it running until the node stops."""
        service = self._services.setdefault(spec.key, _Service(spec=spec))
        if service.idle is not None:
            service.idle.cancel()
        if service.keeper is None:
            if service.state != "ready":
                service.become("starting")
            service.keeper = asyncio.ensure_future(self._keep(service))

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

    async def close(self) -> None:
        """Stop every service."""
        keepers = [service.keeper for service in self._services.values() if service.keeper]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for service in self._services.values():
            if service.idle is not None:
                service.idle.cancel()
            self._stop(service)
        await asyncio.gather(*(service.ended for service in self._services.values() if service.ended))

    async def _keep(self, service: _Service) -> None:
        told = ""
        while True:
            try:
                async with service.lock:
                    if service.state != "ready":
                        await self._start(service)
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
        await asyncio.sleep(BACK_OFF[min(service.failures, len(BACK_OFF) - 1)])
        if service.ended is not None:  # its end must not be taken for ours
            self._stop(service)  # where whoever started it was cancelled before it was ready
            await service.ended
        service.become("starting")
        service.restarts += service.started_at is not None
        try:
            service.process = await self._launch(service)
        except MoorageError as error:
            service.become("failed", error.message)
            service.failures += 1
            raise
        service.ended = asyncio.ensure_future(self._await_end(service, service.process))
        service.started_at = time.time()
        await self._await_ready(service)

    async def _launch(self, service: _Service) -> Process:
        spec = service.spec.process
        if isinstance(spec, ImageSpec):
            return await self._docker.start(spec, output=service.log, progress=service.doing)
        return await self._sandbox(service.spec).start(spec, name=new_id("svc"), output=service.log)

    async def _await_ready(self, service: _Service) -> None:
        begun = time.monotonic()
        deadline = begun + service.spec.ready_within
        while service.state == "starting":
            if await service.spec.ready(service) and service.state == "starting":
                service.become("ready")
                return
            if time.monotonic() > deadline:
                self._stop(service, "failed", f"It did not answer within {service.spec.ready_within:g} seconds.")
            else:
                await asyncio.sleep(max(PROBE_EVERY, PROBE_SHARE * (time.monotonic() - begun)))
        service.failures += 1
        raise ServiceUnavailable(service.reason)

    async def _await_end(self, service: _Service, process: Process) -> None:
        begun = time.monotonic()
        try:
            reason = f"Its process ended with status {(await process.wait()).status}."
        except MoorageError as error:  # it was lost with what had started it
            reason = error.message
        if service.process is process and service.state in {"starting", "ready"}:
            if service.state == "ready":  # else whoever waits for it counts the failure
                service.failures = 0 if time.monotonic() - begun > STABLE else service.failures + 1
            service.become("failed", reason)

    def _stop_later(self, service: _Service) -> None:
        loop = asyncio.get_running_loop()
        service.idle = loop.call_later(service.spec.idle_after, self._stop, service)

    def _stop(self, service: _Service, state: str = "stopped", reason: str | None = None) -> None:
        if service.state in {"starting", "ready"}:
            service.become(state, reason)
        if service.process is not None:
            service.process.kill()

    def _sandbox(self, spec: ServiceSpec) -> Sandbox:
        name = spec.isolation or self._isolation
        if name not in self._sandboxes:
            raise UnknownIsolation(f"This node has no sandbox called {name!r}.")
        return self._sandboxes[name]


async def _settled(service: _Service) -> None:
    """Wait for a kept service while it starts.

    Raises ServiceUnavailable with the reason if it has failed.
    """
    while service.state == "starting":
        await service.changed.wait()
    if service.state != "ready":
        raise ServiceUnavailable(service.reason or f"Service {service.spec.key} is {service.state}.")


def _state(service: _Service) -> ServiceState:
    return ServiceState(
        key=service.spec.key,
        state=service.state,
        leases=service.leases,
        restarts=service.restarts,
        started_at=service.started_at,
        reason=service.reason,
        log_tail=service.tail.decode(errors="replace"),
    )


async def _load(service: _Service) -> Load:
    if service.process is None or service.state not in {"starting", "ready"}:
        return Load()
    return await service.process.load()
