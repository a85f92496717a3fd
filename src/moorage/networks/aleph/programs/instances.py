"""Versions of programs as this node runs them (contract, section 2.11)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from socket import SocketKind, socket
from typing import Any

from moorage.errors import ServiceUnavailable
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.programs.connections import Broken, Connection, Overdue, Pool
from moorage.networks.aleph.programs.deployments import Deployment
from moorage.networks.aleph.programs.launching import PORT, SHUTDOWN, STARTUP, Begun, Launcher
from moorage.networks.aleph.programs.logs import ProgramLog
from moorage.networks.aleph.programs.ports import Ports, forwarded
from moorage.networks.aleph.programs.turns import Turns
from moorage.networks.base import Endpoint, Services, ServiceSpec, accepts
from moorage.sandbox.base import ProcessSpec

GRACE = SHUTDOWN + 2
"""Seconds after which a program that was told to end is killed."""
KEPT = {"asgi": 3600.0, "binary": 1.5}
"""Seconds that an idle connection is kept: those to the node's own host of ASGI programs end with it only, those to
any server less than common ones keep them."""
SERVICE = "aleph"


@dataclass(slots=True, kw_only=True)
class Instance:
    """One version of a program; at most one process of it runs at a time."""

    deployment: Deployment
    log: ProgramLog
    begun: Begun = field(default_factory=Begun)
    pool: Pool
    spec: ServiceSpec
    ports: Ports = field(default_factory=dict)
    """Where its ports are published, once it was started."""
    exporting: Turns[Any] | None = None
    """Archives what its runs export, once the first of them has ended (see `runs`)."""

    @property
    def asgi(self) -> bool:
        """Whether it is reached through the node's own host."""
        return self.begun.interface == "asgi"


def service_key(deployment: Deployment) -> str:
    """Name the service that runs a version of a program."""
    return f"{SERVICE}:{deployment.key}"


def make_instance(
    deployment: Deployment, log: ProgramLog, *, key: str, launcher: Launcher, services: Services, settings: Settings
) -> Instance:
    """Describe how a version of a program is run, as the service of this key; nothing is started."""
    ending: set[asyncio.Task[None]] = set()

    def end() -> None:
        log.say("It has filled a volume, or its own disk, beyond what it may, and is ended.")
        task = asyncio.ensure_future(services.kill(key))
        ending.add(task)
        task.add_done_callback(ending.discard)

    begun = Begun(on_excess=end)
    pool = Pool(keep=KEPT["asgi"])
    ports: Ports = {}

    @contextlib.asynccontextmanager
    async def reach(port: int, kind: SocketKind) -> AsyncIterator[socket]:
        async with services.acquire(spec):
            with await services.connect(key, port, kind) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[ProcessSpec]:
        wanted = deployment.program.resources.published_ports
        async with (
            launcher.capacity.held(key, deployment.program),
            launcher.prepared(deployment, log, begun) as process,
            forwarded(wanted, ports, reach),
        ):
            pool.keep, pool.trusted = KEPT[begun.interface], begun.interface == "asgi"
            try:
                yield process
            finally:
                pool.close()

    spec = ServiceSpec(
        key=key,
        process=prepared,
        port=PORT,
        ready=partial(_is_ready, begun, pool, settings.start_timeout + STARTUP),
        ready_within=settings.start_timeout,
        idle_after=settings.idle_timeout,
        grace=GRACE,
        patient=deployment.program.on.persistent,
        output=log.write,
    )
    return Instance(deployment=deployment, log=log, begun=begun, pool=pool, spec=spec, ports=ports)


@contextlib.asynccontextmanager
async def connected(services: Services, instance: Instance) -> AsyncIterator[Connection]:
    """Hold a running instance, with a connection to it that the caller gives back or aborts.

    One that takes no connection has ended, though that is not known yet, or listens no more: it is started anew.
    Raises ServiceUnavailable, and what is wrong with the program's files.
    """
    async with contextlib.AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(services.acquire(instance.spec))
        try:
            connection = await instance.pool.take(endpoint)
        except ServiceUnavailable:
            await services.kill(instance.spec.key)
            endpoint = await stack.enter_async_context(services.acquire(instance.spec))
            connection = await instance.pool.take(endpoint)
        yield connection


async def _is_ready(begun: Begun, pool: Pool, within: float, endpoint: Endpoint) -> bool:
    return await (accepts(endpoint) if begun.interface == "binary" else _answers(pool, endpoint, within=within))


async def _answers(pool: Pool, endpoint: Endpoint, *, within: float) -> bool:
    """Ask the host of an ASGI program, which answers once the program serves."""
    try:
        connection = await pool.take(endpoint)
    except ServiceUnavailable:  # it has ended already
        return False
    try:
        request = b"GET / HTTP/1.1\r\nmoorage: ready - - http localhost 0\r\nhost: localhost\r\n\r\n"
        connection.begin(request, silence=within, bodiless=False)
        status = (await connection.head()).status
        while (await connection.read())[1]:
            pass
    except (Broken, Overdue):
        connection.abort()
        return False
    except asyncio.CancelledError:
        connection.abort()
        raise
    pool.give_back(connection)
    return status == 200
