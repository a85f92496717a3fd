"""Long-running instances of apps, shared by the jobs that need them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from socket import socket

import structlog

from moorage.errors import MoorageError, ServiceUnavailable, UnknownIsolation
from moorage.model.ids import new_id
from moorage.networks.base import Endpoint, ServiceSpec
from moorage.sandbox.base import Process, Sandbox, Stream

log = structlog.get_logger(__name__)

PROBE_EVERY = 0.02
"""Seconds between two looks whether a starting service answers."""
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the first, second, … start after a failure; the last one is kept."""
STABLE = 10.0
"""Seconds that a service has to run for its end not to count as one failure more in a row."""
TAIL = 8 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """What the node tells of one service."""

    key: str
    state: str
    """`starting`, `ready`, `failed` or `stopped`."""
    leases: int
    restarts: int
    started_at: float | None
    reason: str | None
    log_tail: str


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
    reason: str | None = None
    started_at: float | None = None
    tail: bytearray = field(default_factory=bytearray)
    idle: asyncio.TimerHandle | None = None

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

    def __init__(self, sandboxes: dict[str, Sandbox], isolation: str) -> None:
        self._sandboxes, self._isolation = sandboxes, isolation
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
            service.keeper = asyncio.ensure_future(self._keep(service))

    def list(self) -> list[ServiceState]:
        """Tell of every service that was ever needed."""
        return [
            ServiceState(
                key=key,
                state=service.state,
                leases=service.leases,
                restarts=service.restarts,
                started_at=service.started_at,
                reason=service.reason,
                log_tail=service.tail.decode(errors="replace"),
            )
            for key, service in sorted(self._services.items())
        ]

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
        while True:
            try:
                async with service.lock:
                    if service.state != "ready":
                        await self._start(service)
            except MoorageError as error:
                service.reason = error.message
                log.warning("service not available", service=service.spec.key, reason=error.message)
            if service.ended is not None:
                await asyncio.shield(service.ended)

    async def _start(self, service: _Service) -> None:
        await asyncio.sleep(BACK_OFF[min(service.failures, len(BACK_OFF) - 1)])
        if service.ended is not None:
            await service.ended  # of the one before: its end must not be taken for ours
        service.state, service.reason = "starting", None
        service.restarts += service.started_at is not None
        try:
            sandbox = self._sandbox(service.spec)
            service.process = await sandbox.start(service.spec.process, name=new_id("svc"), output=service.log)
        except MoorageError as error:
            service.state, service.reason = "failed", error.message
            service.failures += 1
            raise
        service.ended = asyncio.ensure_future(self._await_end(service, service.process))
        service.started_at = time.time()
        await self._await_ready(service)

    async def _await_ready(self, service: _Service) -> None:
        deadline = time.monotonic() + service.spec.ready_within
        while service.state == "starting":
            if await service.spec.ready(service) and service.state == "starting":
                service.state = "ready"
                return
            if time.monotonic() > deadline:
                service.reason = f"It did not answer within {service.spec.ready_within:g} seconds."
                self._stop(service, "failed")
            else:
                await asyncio.sleep(PROBE_EVERY)
        service.failures += 1
        said = bytes(service.tail[-500:]).decode(errors="replace").strip()
        raise ServiceUnavailable(f"{service.reason} It said last: {said or 'nothing'}")

    async def _await_end(self, service: _Service, process: Process) -> None:
        begun = time.monotonic()
        try:
            reason = f"Its process ended with status {(await process.wait()).status}."
        except MoorageError as error:  # it was lost with what had started it
            reason = error.message
        if service.process is process and service.state in {"starting", "ready"}:
            if service.state == "ready":  # else whoever waits for it counts the failure
                service.failures = 0 if time.monotonic() - begun > STABLE else service.failures + 1
            service.state, service.reason = "failed", reason

    def _stop_later(self, service: _Service) -> None:
        loop = asyncio.get_running_loop()
        service.idle = loop.call_later(service.spec.idle_after, self._stop, service)

    def _stop(self, service: _Service, state: str = "stopped") -> None:
        if service.state in {"starting", "ready"}:
            service.state = state
        if service.process is not None:
            service.process.kill()

    def _sandbox(self, spec: ServiceSpec) -> Sandbox:
        name = spec.isolation or self._isolation
        if name not in self._sandboxes:
            raise UnknownIsolation(f"This node has no sandbox called {name!r}.")
        return self._sandboxes[name]
