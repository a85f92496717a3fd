"""The containers of an operator's `config.json`, kept running for as long as the node serves it."""

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from moorage.errors import DiskFull, MoorageError, StoreUnavailable, error_for
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.jobs import JSON
from moorage.model.states import EDITABLE
from moorage.networks.base import Port, ServiceSpec
from moorage.networks.infernet.backends import address_of, calls_of, is_published, service_of
from moorage.networks.infernet.calls import Calls
from moorage.networks.infernet.config import Config, Container, load
from moorage.networks.infernet.manifest import FILE, NETWORK, pack_container
from moorage.networks.infernet.ports import assign_ports
from moorage.sandbox.base import Credentials
from moorage.store.base import AppFilter

log = structlog.get_logger(__name__)

OPERATOR = Caller(name="infernet:", operator=True)
"""Owner of the apps and jobs of a served configuration; no token can have this name."""
ANCHOR = "infernet-node"
"""The app in whose name the jobs run; what they ask are the containers of the configuration as it is now."""
NO_STORE = 1.0
"""Seconds between two tries to write while the store cannot, as on a full disk."""
WATCH_EVERY = 0.1


@dataclass(slots=True, kw_only=True)
class _Member:
    container: Container
    calls: Calls | None = None
    service: ServiceSpec | None = None
    trouble: str | None = None
    """Why it could not even be tried to start it."""


class Fleet:
    """Starts the containers, tells which of them run, and gives what asks them."""

    def __init__(self, port: Port, config: Config, path: Path) -> None:
        self._port, self._config, self._document = port, config, load(path)
        docker = config.docker
        self._credentials = None if docker is None else Credentials(username=docker.username, password=docker.password)
        self._members = {container.id: _Member(container=container) for container in config.containers}
        self.app_id: str | None = None
        """Id of the app for jobs, once there is one."""
        self.settled = False
        """Whether every container was ready once, or has failed to be."""

    @property
    def containers(self) -> Mapping[str, Container]:
        """What the operator says of each container."""
        return {name: member.container for name, member in self._members.items()}

    def calls(self, name: str) -> Calls | None:
        """Give what asks a container; None if there is none of this name, or not yet."""
        member = self._members.get(name)
        return None if member is None else member.calls

    def trouble(self, name: str) -> str | None:
        """Tell why a container could not even be tried to start, if it is so."""
        member = self._members.get(name)
        return None if member is None else member.trouble

    def running(self) -> list[Container]:
        """List those that run, in the order of the configuration; of those that others run, all."""
        return [member.container for member in self._members.values() if self._runs(member)]

    async def start(self) -> None:
        """Begin to start everything; a container that cannot be started harms no other."""
        ports = self._ports() if self._config.manage_containers else {}
        await asyncio.gather(*(self._begin(member, ports.get(name)) for name, member in self._members.items()))
        self.app_id = (await self._anchored()).id

    def close(self) -> None:
        """Close the connections; the services are the node's to stop."""
        for member in self._members.values():
            if member.calls is not None:
                member.calls.close()

    def _runs(self, member: _Member) -> bool:
        if member.service is None:
            return not self._config.manage_containers
        return self._state(member.service) == "ready"

    def _ports(self) -> dict[str, int]:
        """Choose the host ports of images; a folder's container has a network of its own."""
        taken = {self._config.server.port}
        published = [each for each in self._config.containers if is_published(each)]
        wanted = [container.port for container in published]
        assigned = assign_ports(wanted, lambda port: port in taken or _in_use(port))
        return {container.id: port for container, port in zip(published, assigned, strict=True)}

    async def _begin(self, member: _Member, host_port: int | None) -> None:
        container = member.container
        if not self._config.manage_containers:
            member.calls = calls_of(container, self._port.services, None, address_of(container))
            return
        try:
            layers = {} if container.moorage.directory is None else await self._install(container)
        except MoorageError as error:
            member.trouble = error.message
            log.warning("container unavailable", container=container.id, reason=error.message)
            return
        member.service = service_of(
            _within(container, layers),
            key=f"{NETWORK}:{container.id}",
            layers=layers,
            host_port=host_port,
            credentials=self._credentials,
        )
        member.calls = calls_of(container, self._port.services, member.service)
        self._port.services.keep(member.service)
        if host_port not in {None, container.port}:
            log.info("port is taken", container=container.id, wanted=container.port, given=host_port)

    async def _install(self, container: Container) -> Mapping[str, Path]:
        """Make an app of a container's folder, with its Python environment."""
        app = await self._app(f"{NETWORK}:{container.id}", await asyncio.to_thread(self._packed, container))
        return self._port.layer_paths(app)

    def _packed(self, container: Container) -> Path:
        (entry,) = (each for each in self._document["containers"] if each["id"] == container.id)
        source = self._port.staging()
        packed = pack_container(entry, container, source)
        (source / FILE).write_text(json.dumps({"containers": [{**packed, "volumes": []}]}))
        return source

    async def _anchored(self) -> App:
        """Give the app for jobs; a store or disk that cannot take it now is waited for."""
        while True:
            try:
                return await self._app(ANCHOR, self._anchor())
            except (DiskFull, StoreUnavailable) as error:
                log.warning("no job is accepted yet", reason=error.message)
                await asyncio.sleep(NO_STORE)

    def _anchor(self) -> Path:
        """Lay out the app for jobs: what is known of the containers, without any secret."""
        source = self._port.staging()
        containers = [{"id": name, "description": each.description} for name, each in self.containers.items()]
        (source / FILE).write_text(json.dumps({"manage_containers": False, "containers": containers or [_NOBODY]}))
        return source

    async def _app(self, name: str, source: Path) -> App:
        """Bring an app up to date, or add it.

        Raises InstallFailed, BadManifest, …
        """
        found = await self._port.list_apps(AppFilter(owner=OPERATOR.name, network=NETWORK, name=name))
        app = next((app for app in found if app.state in EDITABLE), None)
        if app is None:
            app = await self._port.add_app(source, caller=OPERATOR, network=NETWORK, name=name, meta={})
        else:
            app = await self._port.edit_app(app.id, source, caller=OPERATOR)
        app = await self._port.settled_app(app.id)
        if app.error is not None:
            raise error_for(app.error.code, 422)(app.error.message, hint=app.error.hint)
        return app

    async def settle(self) -> None:
        """Wait until every container is ready or has failed, and say once of those that are late."""
        begun = time.monotonic()
        late: set[str] = set()
        while starting := [member for member in self._members.values() if self._starts(member)]:
            if time.monotonic() - begun > self._config.startup_wait:
                for name in {member.container.id for member in starting} - late:
                    log.warning("container is late", container=name, seconds=self._config.startup_wait)
                    late.add(name)
            await asyncio.sleep(WATCH_EVERY)
        self.settled = True

    def _starts(self, member: _Member) -> bool:
        return member.service is not None and self._state(member.service) == "starting"

    def _state(self, service: ServiceSpec) -> str | None:
        state = self._port.services.state(service.key)
        return None if state is None else state.state


_NOBODY: dict[str, JSON] = {"id": "nobody"}
"""Stands in a configuration without containers, since an app has at least one."""


def _within(container: Container, layers: Mapping[str, Path]) -> Container:
    """Let a folder's container run from the files that were stored, not from those that may change."""
    if container.moorage.directory is None:
        return container
    extras = replace(container.moorage, directory=layers["app"] / container.id)
    return replace(container, moorage=extras)


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
