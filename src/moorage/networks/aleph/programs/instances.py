"""Versions of programs as this node runs them (contract, section 2.11)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.programs.connections import Broken, Overdue, Pool
from moorage.networks.aleph.programs.deployments import Deployment
from moorage.networks.aleph.programs.launching import PORT, SHUTDOWN, STARTUP, Begun, Launcher
from moorage.networks.aleph.programs.logs import ProgramLog
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

    @property
    def asgi(self) -> bool:
        """Whether it is reached through the node's own host."""
        return self.begun.interface == "asgi"


def service_key(deployment: Deployment) -> str:
    """Name the service that runs a version of a program."""
    return f"{SERVICE}:{deployment.key}"


def make_instance(
    deployment: Deployment, log: ProgramLog, launcher: Launcher, services: Services, settings: Settings
) -> Instance:
    """Describe how a version of a program is run; nothing is started."""
    key = service_key(deployment)
    ending: set[asyncio.Task[bool]] = set()

    def end() -> None:
        log.say("It has filled a volume, or its own disk, beyond what it may, and is ended.")
        task = asyncio.ensure_future(services.stop(key, kill=True))
        ending.add(task)
        task.add_done_callback(ending.discard)

    begun = Begun(on_excess=end)
    pool = Pool(keep=3600.0)

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[ProcessSpec]:
        async with launcher.prepared(deployment, log, begun) as spec:
            pool.keep = KEPT[begun.interface]
            try:
                yield spec
            finally:
                pool.close()

    async def ready(endpoint: Endpoint) -> bool:
        if begun.interface == "binary":
            return await accepts(endpoint)
        return await _answers(pool, endpoint, within=settings.start_timeout + STARTUP)

    persistent = deployment.program.on.persistent
    spec = ServiceSpec(
        key=key,
        process=prepared,
        port=PORT,
        ready=ready,
        ready_within=settings.start_timeout,
        idle_after=settings.idle_timeout,
        grace=GRACE,
        patient=persistent,
        output=log.write,
    )
    return Instance(deployment=deployment, log=log, begun=begun, pool=pool, spec=spec)


async def _answers(pool: Pool, endpoint: Endpoint, *, within: float) -> bool:
    """Ask the host of an ASGI program, which answers once the program serves."""
    connection = await pool.take(endpoint)
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
