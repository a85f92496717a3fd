"""Aleph as this node serves it: the network's API, the programs, and what starts them (contract, section 4)."""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from moorage.model.jobs import Result
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.control.app import Control
from moorage.networks.aleph.control.operator import Operator
from moorage.networks.aleph.facade.app import Facade
from moorage.networks.aleph.guest.api import GuestApi
from moorage.networks.aleph.guest.cache import Cache
from moorage.networks.aleph.guest.server import GuestServer
from moorage.networks.aleph.key import open_key
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Change, Publisher
from moorage.networks.aleph.local import Local
from moorage.networks.aleph.programs import jobs
from moorage.networks.aleph.programs.capacity import Capacity
from moorage.networks.aleph.programs.deployments import Refusal, Resolver
from moorage.networks.aleph.programs.files import Files
from moorage.networks.aleph.programs.jobs import Apps
from moorage.networks.aleph.programs.launching import Launcher
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.relay import Message, Receive, Send
from moorage.networks.aleph.programs.replays import Replays
from moorage.networks.aleph.programs.requirements import this_cpu, unmet
from moorage.networks.aleph.programs.runs import Runs
from moorage.networks.aleph.programs.runtimes import Runtimes
from moorage.networks.aleph.programs.serving import Serving, program_of_host, refuse, target_of
from moorage.networks.aleph.programs.triggers import Clock, Reactor
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.networks.base import Context, Port, Services, Surface
from moorage.networks.manifest import validated
from moorage.sandbox.base import Exit, ProcessSpec

log = structlog.get_logger(__name__)

PACKAGES = Path(__file__).with_name("runtime.txt")
"""Packages of the built-in runtime."""
PATHS = ("/version",)
API = ("/api/v0/", "/api/ws0/")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""By what this node is known without more; owners sign the name by which they call it."""
BELOW = ("/vm/", *API, "/about/", "/v2/about/", "/control/", "/status/")
WHAT_IS_SERVED = frozenset({"PROGRAM", "STORE"})
"""Messages that change what addresses serve."""


class AlephSurface:
    """Everything of Aleph that runs as long as the node does."""

    def __init__(self, port: Port) -> None:
        root = port.directory
        self._port = port
        self.settings = validated(Settings, port.config, file="configuration", under="networks.aleph")
        self.key = open_key(root / "key")
        self.ledger = Ledger.open(root)
        self.publisher = Publisher(self.ledger, port.blobs)
        self._facade = Facade(self.publisher, self.ledger, port.blobs)
        self._cache = Cache.open(root)
        self._guests = GuestServer(
            GuestApi(self._facade, self.publisher, self.ledger, port.blobs, key=self.key, cache=self._cache)
        )
        self.registry = self._registry(root)
        self._control = Control(
            self.registry,
            port.services,
            self.ledger,
            self.volumes,
            hosts={*LOOPBACK, *self.settings.domains},
            directory=root,
        )
        self.local = Local(self.publisher, self.ledger, port.blobs, self.key)
        self.runs = Runs(self.ledger, self.publisher, port.blobs, self.files.squashfs)
        self._operator = Operator(self.local, self._replays())
        self.apps = Apps(port, self.ledger, self.registry)
        self._reactor = Reactor(self.ledger, self.registry, self.apps)
        self._clock = Clock(self.registry, self.apps)
        self._serving = Serving(self.registry.find, port.services, self.runs, self.settings)
        self._layer: asyncio.Task[Path] | None = None
        self.publisher.subscribers = self._reactor.subscribers
        self.publisher.listen(self._changed)

    def surface(self) -> Surface:
        """Give the routes and the background work."""
        proxies = [str(each) for each in self.settings.trusted_proxies]
        return Surface(
            app=ProxyHeadersMiddleware(self._answer, proxies) if proxies else self._answer,  # type: ignore[arg-type]
            paths=PATHS,
            below=BELOW,
            routers=(self._operator.router(),),
            claims=self._claims,
            visits=self._visits,
            tasks=(self._work,),
            settled=self._reactor.settled,
            close=self._close,
            admits=_everybody if self.settings.public else None,
        )

    async def run(self, ctx: Context) -> Result:
        """Make the run of a program that a job asks for."""
        return await jobs.run(ctx, self)

    @property
    def services(self) -> Services:
        """Long-running instances of programs."""
        return self._port.services

    async def address(self) -> str:
        """Give the URL at which programs are called."""
        return await self._port.address()

    def _registry(self, root: Path) -> Registry:
        self.files = Files(root / "trees", self._run)
        self.volumes = Volumes(root / "volumes", self._port.blobs)
        met = partial(unmet, cpu=this_cpu(), node=self.settings.registration)
        resolver = Resolver(self.ledger, self._port.blobs, self.settings.addresses, met)
        runtimes = Runtimes(root / "runtimes", self.settings.runtimes, run=self._run, images=self._port)
        launcher = Launcher(
            root,
            self.settings,
            files=self.files,
            volumes=self.volumes,
            runtimes=runtimes,
            capacity=Capacity(self._port.memory, self._port.services),
            python=self._python,
            guest_api=self._guests.serve,
        )
        return Registry(
            root,
            ledger=self.ledger,
            resolver=resolver,
            launcher=launcher,
            services=self._port.services,
            settings=self.settings,
        )

    def _replays(self) -> Replays:
        return Replays(
            self.ledger,
            self._port.blobs,
            registry=self.registry,
            runs=self.runs,
            services=self._port.services,
            volumes=self.volumes,
        )

    def _claims(self, scope: Mapping[str, Any]) -> bool:
        return program_of_host(scope, self.settings.domains) is not None

    def _visits(self, scope: Mapping[str, Any]) -> bool:
        return target_of(scope, self.settings.domains) is not None

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        target = target_of(scope, self.settings.domains)
        if target is None:
            await self._own(scope, receive, send)
        elif scope["moorage.stopping"].done():
            await refuse(send, Refusal(status=503, error="Server is draining, try another node"))
        else:
            await self._serving.answer(target, scope, receive, send)

    async def _own(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what is no program's."""
        api = scope["path"] in PATHS or scope["path"].startswith(API)
        app: ASGIApp = self._facade if api else self._control
        if any(name == b"upgrade" and value.lower() == b"websocket" for name, value in scope["headers"]):
            scope["moorage.link"].websocket(app)
        else:
            await app(scope, receive, send)

    async def _work(self) -> None:
        """Keep programs running that want to be, and deliver events and times, as long as the node runs."""
        await self.publisher.settle()
        self.registry.keep_persistent()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reactor.work())
            group.create_task(self._clock.work())

    async def _close(self) -> None:
        if self._layer is not None:
            self._layer.cancel()
            await asyncio.gather(self._layer, return_exceptions=True)
        await self._cache.close()
        await self.ledger.close()

    def _changed(self, change: Change) -> None:
        forgotten = change.kind == "forgotten"
        if change.type == "PROGRAM":
            self._building()  # so that its first caller need not wait for it
        if change.type in WHAT_IS_SERVED or forgotten:
            self.registry.refresh()
            self.registry.keep_persistent()
            self._clock.changed()
        self._reactor.changed(programs=change.type == "PROGRAM" or forgotten)

    async def _python(self) -> Path:
        """Give the layer of the built-in runtime, which is built once."""
        return await asyncio.shield(self._building())

    def _building(self) -> asyncio.Task[Path]:
        if self._layer is None or (self._layer.done() and (self._layer.cancelled() or self._layer.exception())):
            self._layer = asyncio.ensure_future(self._port.python(self.settings.packages or PACKAGES))
            self._layer.add_done_callback(_told)
        return self._layer

    async def _run(self, spec: ProcessSpec) -> Exit:
        """Run a process of our own on what strangers sent, isolated."""
        process = await self._port.start(spec, output=lambda _, __: None)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise


def _told(building: "asyncio.Task[Path]") -> None:
    """Say why there is no runtime; whoever needs it hears of it, too."""
    if not building.cancelled() and (error := building.exception()) is not None:
        log.warning("the runtime of programs cannot be made", reason=str(error))


def _everybody(scope: Mapping[str, Any]) -> bool:
    return True
