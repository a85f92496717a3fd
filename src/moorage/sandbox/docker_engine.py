"""An engine with Docker's API: whether it answers, its images and networks, and containers made of them.

Nothing that aiodocker or aiohttp raises leaves this module.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiodocker
import aiohttp
import structlog
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from moorage.blobs.space import disk_full
from moorage.errors import SandboxUnavailable
from moorage.sandbox.base import ImageSpec, OutputSink
from moorage.sandbox.containers import TROUBLE, Container, container_config, reason, remove
from moorage.sandbox.docker_guard import NODE, RUN

OLDEST = (1, 40)
"""The API of Docker 19.03, the first that knows GPUs."""
ANSWER, WORK = 10.0, 120.0
"""Seconds that the engine may take to say who it is, and to do anything but pulling an image."""
UNLIMITED = aiohttp.ClientTimeout(total=None, sock_read=WORK)
CHUNK = 1 << 20
TELL_EVERY = 1.0
"""Seconds between two words on how far an image was pulled."""
NAME = "moorage.name"
UNREACHABLE = 900
"""What aiodocker makes of a connection that failed."""
INSTALL = "Install and start one (Debian: apt install docker.io && systemctl start docker), or set DOCKER_HOST."
JOIN = "Add the node's user to the engine's group (usermod -aG docker USER) and log in anew."

log = structlog.get_logger(__name__)


class Engine:
    """An engine that has answered, and what one life of a node has with it."""

    def __init__(self, client: aiodocker.Docker, url: str, *, node: str, run: str) -> None:
        self.url = url
        self._client = client
        self._node, self._labels = node, {NODE: node, RUN: run}
        self._fetched: set[str] = set()
        self._networking = asyncio.Lock()

    @classmethod
    async def open(cls, url: str, *, node: str, run: str) -> Self:
        """Connect to the engine at `url`.

        Raises SandboxUnavailable if none answers there, or one that is too old.
        """
        engine = cls(_client(url), url, node=node, run=run)
        try:
            async with asyncio.timeout(ANSWER):
                await engine._check_version()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def close(self) -> None:
        """End the connections to it."""
        await self._client.close()
        if self._client.connector:
            await self._client.connector.close()

    async def describe(self) -> str:
        """Say what it is and how it stores files and limits processes."""
        with _trouble(self.url, "The engine does not tell about itself"):
            info = await self._client.system.info()
        drivers = f"{info['Driver']}, {info['CgroupDriver']} (version {info.get('CgroupVersion', 1)})"
        return f"Engine {info['ServerVersion']} at {self.url}: {drivers}."

    async def fetch(self, spec: ImageSpec, progress: Callable[[str], None]) -> None:
        """Have the image, by a pull if it is asked for the first time or gone.

        Raises SandboxUnavailable if it can neither be pulled nor is here.
        """
        with _trouble(self.url, f"Image {spec.image} cannot be looked for"):
            if spec.image in self._fetched and await self._has(spec.image):
                return
            try:
                await self._pull(spec, progress)
            except TROUBLE as error:
                if not await self._has(spec.image):
                    raise SandboxUnavailable(
                        f"Image {spec.image} cannot be pulled, and there is no local one: {reason(error)}",
                        hint="Check its name, the registry and the credentials, or load it with `docker load`.",
                        retryable=True,
                    ) from error
                log.info("image not pulled, using the local one", image=spec.image, reason=reason(error))
        self._fetched.add(spec.image)

    async def run(self, spec: ImageSpec, output: OutputSink) -> Container:
        """Start a container.

        Raises SandboxUnavailable if it cannot be started, and if a container that is not this node's has its name.
        """
        with _trouble(self.url, f"Container {spec.name} cannot be started"):
            network = await self._network(spec.network)
            made = await self._create(spec.name, container_config(spec, network, self._labels | {NAME: spec.name}))
            container = Container(self._client, made, spec.name, output)
            try:
                await container.start(spec, network)
            except BaseException:
                await container.discard()
                raise
            return container

    async def identity(self, image: str) -> str:
        """Give the id of an image that is here, which differs wherever its content does."""
        with _trouble(self.url, f"Image {image} cannot be looked at"):
            return str((await self._client.images.inspect(image))["Id"])

    async def export(self, image: str, target: Path) -> None:
        """Write the files of an image that is here as the tar `target`; nothing of it is run.

        Raises SandboxUnavailable, DiskFull.
        """
        with _trouble(self.url, f"The files of image {image} cannot be had"):
            config = {"Image": image, "Cmd": ["-"], "Labels": self._labels, "NetworkDisabled": True}
            container = await self._client.containers.create(config)  # type: ignore[arg-type]
            try:
                async with (
                    self._client._query(f"containers/{container.id}/export", timeout=UNLIMITED) as answer,
                    answer,
                ):
                    with disk_full(), target.open("wb") as file:
                        async for chunk in answer.content.iter_chunked(CHUNK):
                            await asyncio.to_thread(file.write, chunk)
            finally:
                await remove(container)

    async def _check_version(self) -> None:
        with _trouble(self.url, "The engine does not tell its version"):
            try:
                version = (await self._client.version())["ApiVersion"]
                known = tuple(map(int, version.split("."))) >= OLDEST
            except (TypeError, KeyError, ValueError) as error:
                raise SandboxUnavailable(f"What answers at {self.url} is no container engine.", hint=INSTALL) from error
        if not known:
            raise SandboxUnavailable(
                f"The container engine at {self.url} is too old: it has API {version}, not 1.40 or newer.",
                hint="Install Docker 20.10 or newer (Debian: apt install docker.io).",
            )

    async def _has(self, image: str) -> bool:
        try:
            await self._client.images.inspect(image)
        except DockerError as error:
            if error.status not in (400, 404):
                raise
            return False
        return True

    async def _pull(self, spec: ImageSpec, progress: Callable[[str], None]) -> None:
        progress(f"pulling {spec.image}")
        name, auth, told = spec.image, None, 0.0
        if spec.credentials:
            auth = {"username": spec.credentials.username, "password": spec.credentials.password}
            name = name if "/" in name else f"docker.io/{name}"  # aiodocker sends them to a named registry only
        async for step in self._client.images.pull(name, auth=auth, stream=True):
            detail = step.get("progressDetail") or {}
            if detail.get("total") and time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                share = 100 * detail.get("current", 0) // detail["total"]
                progress(f"pulling {spec.image}: layer {step.get('id')}, {share} %")

    async def _network(self, kind: str) -> str:
        """Have a network whose members cannot reach each other; give its name."""
        name = f"moorage-{self._node}" if kind == "internet" else f"moorage-{self._node}-{kind}"
        config = {
            "Name": name,
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": kind == "none",
            "Options": {"com.docker.network.bridge.enable_icc": "false"},
            "Labels": self._labels,
        }
        async with self._networking:
            try:
                await self._client.networks.create(config)
            except DockerError as error:
                if error.status != 409:  # it is there
                    raise
        return name

    async def _create(self, name: str, config: dict[str, Any]) -> DockerContainer:
        """Make a container, in the place of one that an earlier start left."""
        containers = self._client.containers
        try:
            return await containers.create(config, name=name)
        except DockerError as error:
            if error.status != 409:
                raise
        other = await containers.get(name)
        if (other["Config"]["Labels"] or {}).get(NODE) != self._node:
            raise SandboxUnavailable(
                f"Container {name} is there already and is not this node's.",
                hint=f"Give the service another name, or remove that container: docker rm -f {name}",
            )
        await remove(other)
        return await containers.create(config, name=name)


def _client(url: str) -> aiodocker.Docker:
    """Make a client with as many connections as there are containers, and none kept open that the engine may close."""
    connector: aiohttp.BaseConnector
    if url.startswith("unix://"):
        connector = aiohttp.UnixConnector(url.removeprefix("unix://"), limit=0, force_close=True)
        url = "unix://localhost"
    else:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiodocker.Docker(url=url, connector=connector, timeout=aiohttp.ClientTimeout(total=WORK))


@contextlib.contextmanager
def _trouble(url: str, what: str) -> Iterator[None]:
    """Turn what goes wrong into SandboxUnavailable."""
    try:
        yield
    except DockerError as error:
        if error.status == UNREACHABLE:
            raise _unreachable(url, error) from error
        raise SandboxUnavailable(f"{what}: {reason(error)}") from error
    except TROUBLE as error:
        raise SandboxUnavailable(f"{what}: {reason(error)}", retryable=True) from error


def _unreachable(url: str, error: DockerError) -> SandboxUnavailable:
    cause = getattr(error.__context__, "os_error", error.__context__)
    denied = isinstance(cause, PermissionError)
    what = f"The container engine at {url} refuses this user" if denied else f"No container engine answers at {url}"
    why = getattr(cause, "strerror", None) or reason(error)
    return SandboxUnavailable(f"{what}: {why}.", hint=JOIN if denied else INSTALL, retryable=True)
