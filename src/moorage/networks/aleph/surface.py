"""Aleph as this node serves it: the network's API, the programs, and what starts them (contract, section 4)."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from moorage.model.jobs import Result
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.facade.app import Facade
from moorage.networks.aleph.guest.api import GuestApi
from moorage.networks.aleph.guest.cache import Cache
from moorage.networks.aleph.guest.server import GuestServer
from moorage.networks.aleph.key import open_key
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Change, Publisher
from moorage.networks.aleph.local import Local
from moorage.networks.aleph.programs import jobs
from moorage.networks.aleph.programs.deployments import Refusal, Resolver
from moorage.networks.aleph.programs.files import Files
from moorage.networks.aleph.programs.jobs import Apps
from moorage.networks.aleph.programs.launching import Launcher
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.relay import Message, Receive, Send
from moorage.networks.aleph.programs.serving import Serving, program_of_host, refuse, target_of
from moorage.networks.aleph.programs.triggers import Clock, Reactor
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.networks.base import Context, Port, Surface
from moorage.networks.manifest import validated
from moorage.sandbox.base import Exit, ProcessSpec

PACKAGES = Path(__file__).with_name("runtime.txt")
"""Packages of the built-in runtime."""
PATHS = ("/version",)
API = ("/api/v0/", "/api/ws0/")
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
        self.local = Local(self.publisher, self.ledger, port.blobs, self.key)
        self.apps = Apps(port, self.ledger)
        self._reactor = Reactor(self.ledger, self.registry, self.apps)
        self._clock = Clock(port, self.registry, self.apps)
        self._serving = Serving(self.registry.find, port.services, self.settings)
        self._layer: asyncio.Task[Path] | None = None
        self.publisher.subscribers = self._reactor.subscribers
        self.publisher.listen(self._changed)

    def surface(self) -> Surface:
        """Give the routes and the background work."""
        return Surface(
            app=self._answer, paths=PATHS, below=BELOW, claims=self._claims, tasks=(self._work,), close=self._close
        )

    async def run(self, ctx: Context) -> Result:
        """Make the run of a program that a job asks for."""
        return await jobs.run(ctx, self)

    @property
    def services(self) -> Any:
        """Long-running instances of programs."""
        return self._port.services

    async def address(self) -> str:
        """Give the URL at which programs are called."""
        return await self._port.address()

    def _registry(self, root: Path) -> Registry:
        self.files = Files(root / "trees", self._run)
        self.volumes = Volumes(root / "volumes", self._port.blobs)
        resolver = Resolver(self.ledger, self._port.blobs, self.settings.addresses)
        launcher = Launcher(
            root,
            self.settings,
            files=self.files,
            volumes=self.volumes,
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

    def _claims(self, scope: Mapping[str, Any]) -> bool:
        return program_of_host(scope, self.settings.domains) is not None

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
        app: ASGIApp = self._facade
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
        if change.type in WHAT_IS_SERVED or forgotten:
            self.registry.refresh()
            self.registry.keep_persistent()
            self._clock.changed()
        self._reactor.changed(programs=change.type == "PROGRAM" or forgotten)

    async def _python(self) -> Path:
        """Give the layer of the built-in runtime, which is built once."""
        if self._layer is None or (self._layer.done() and (self._layer.cancelled() or self._layer.exception())):
            self._layer = asyncio.ensure_future(self._port.python(self.settings.packages or PACKAGES))
        return await asyncio.shield(self._layer)

    async def _run(self, spec: ProcessSpec) -> Exit:
        """Run a process of our own on what strangers sent, isolated."""
        process = await self._port.start(spec, output=lambda _, __: None)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
