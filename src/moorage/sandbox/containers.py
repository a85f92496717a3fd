"""One container that runs, as a process: its streams, its end, its port."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from socket import AF_INET, SOCK_STREAM, SocketKind, socket
from typing import Any

import aiodocker
import aiohttp
import structlog
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream

from moorage.errors import MoorageError, SandboxUnavailable
from moorage.sandbox.base import Exit, ImageSpec, Load, OutputSink
from moorage.sandbox.spawned import from_shell

DRAIN = 1.0
"""Seconds that streams are read on after the container has ended."""
LOOPBACK = "127.0.0.1"
TROUBLE = (DockerError, aiohttp.ClientError, OSError, json.JSONDecodeError)
"""What aiodocker raises."""
LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}

log = structlog.get_logger(__name__)


class Container:
    """A container that runs, as a `Process`; it is removed when it has ended."""

    def __init__(self, client: aiodocker.Docker, container: DockerContainer, name: str, output: OutputSink) -> None:
        self._client, self._container, self._name = client, container, name
        self._output = output
        self._stream = container.attach(stdout=True, stderr=True)
        self._places: dict[int, tuple[str, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._killing: asyncio.Task[None] | None = None
        self._life: asyncio.Task[Exit | MoorageError] | None = None

    async def start(self, spec: ImageSpec, network: str) -> None:
        """Start it; its streams are listened to before."""
        await self._stream.__aenter__()
        await self._container.start()
        begun = time.monotonic()
        self._places = _places(await self._container.show(), spec, network)
        self._life = asyncio.create_task(self._live(begun))

    async def discard(self) -> None:
        """Remove it: its start did not come about."""
        await _hang_up(self._stream)
        with contextlib.suppress(*TROUBLE):
            await remove(self._container)

    async def wait(self) -> Exit:
        """Wait until it has ended and is removed.

        Raises SandboxUnavailable if it was removed by somebody else, or if the engine is gone.
        """
        assert self._life
        outcome = await asyncio.shield(self._life)
        if isinstance(outcome, MoorageError):
            raise outcome
        return outcome

    async def connect(self, port: int, kind: SocketKind = SOCK_STREAM) -> socket:
        """Connect to the port that is published, or reached at the container's own address; does not block.

        The engine may take a connection before the container does, and then closes it.
        Raises ConnectionRefusedError for every other port, and OSError when the container is gone.
        """
        if self._life is None or self._life.done():
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if port not in self._places or kind is not SOCK_STREAM:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connection = socket(AF_INET, SOCK_STREAM)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._places[port])
        except BaseException:
            connection.close()
            raise
        return connection

    async def load(self) -> Load:
        """Tell what it uses now; memory includes its cached files."""
        path, query = f"containers/{self._container.id}/stats", {"stream": False, "one-shot": True}
        try:  # aiodocker's own way does not know one-shot, without which the engine waits a second
            stats = await self._client._query_json(path, params=query)
        except TROUBLE:
            return Load()
        cpu = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        return Load(
            cpu=cpu / 1e9 if cpu else None,
            memory=stats.get("memory_stats", {}).get("usage"),
            pids=stats.get("pids_stats", {}).get("current"),
        )

    def when_over(self, callback: Callable[[], object]) -> None:
        """Call back when it has ended and is removed."""
        assert self._life
        self._life.add_done_callback(lambda _: callback())

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""
        self._do(self._container.kill(signal="SIGTERM"))

    def kill(self) -> None:
        """End and remove it at once."""
        if self._killing is None and self._life and not self._life.done():
            self._killing = self._do(remove(self._container))

    def _do(self, order: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Have the engine do something, whose outcome its end will tell."""
        task = asyncio.create_task(_attempt(order, self._name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _live(self, begun: float) -> Exit | MoorageError:
        listening = asyncio.create_task(_listen(self._stream, self._output))
        try:
            state = await self._ended()
            wall = time.monotonic() - begun
            await asyncio.wait({listening}, timeout=DRAIN)
            removed = await remove(self._container)
        except TROUBLE as error:
            return SandboxUnavailable(f"Container {self._name} was lost: {reason(error)}", retryable=True)
        finally:
            listening.cancel()
            await _hang_up(self._stream)
        if self._killing:
            return _exit(state or {"ExitCode": 128 + signal.SIGKILL}, wall)
        if state is None or not removed:
            return SandboxUnavailable(f"Container {self._name} was removed while it ran.", retryable=True)
        return _exit(state, wall)

    async def _ended(self) -> dict[str, Any] | None:
        """Wait for its end; None if it is not there any more."""
        try:
            await self._container.wait()
            state: dict[str, Any] = (await self._container.show())["State"]
        except DockerError as error:
            if error.status != 404:
                raise
            return None
        return state


def container_config(spec: ImageSpec, network: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Say in the words of the API what container is to be made."""
    port = f"{spec.port}/tcp"
    host: dict[str, Any] = {
        "NetworkMode": network,
        "PortBindings": {port: [{"HostIp": LOOPBACK, "HostPort": str(spec.host_port or "")}]},
        "Binds": [volume for volume in spec.volumes if ":" in volume],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": spec.limits.memory,
        "MemorySwap": spec.limits.memory,
        "NanoCpus": int(min(spec.limits.cpus, os.cpu_count() or 1) * 1e9),  # more than there are is refused
        "PidsLimit": spec.limits.pids,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": LOG,
    }
    if spec.runtime:
        host["Runtime"] = spec.runtime
    if spec.gpu:
        host["DeviceRequests"] = [{"Count": -1, "Capabilities": [["gpu"]]}]
    if spec.network == "none":
        del host["PortBindings"]
    return {
        "Image": spec.image,
        "Cmd": list(spec.command) or None,
        "User": spec.user or "",
        "Env": [f"{key}={text}" for key, text in spec.env.items()],
        "Labels": dict(labels),
        "ExposedPorts": {port: {}},
        "Volumes": {volume: {} for volume in spec.volumes if ":" not in volume},
        "HostConfig": host,
    }


def _places(shown: Mapping[str, Any], spec: ImageSpec, network: str) -> dict[int, tuple[str, int]]:
    """Tell where its port is reached; nowhere if it has ended already."""
    settings = shown["NetworkSettings"]
    if spec.network == "none":
        address = (settings["Networks"].get(network) or {}).get("IPAddress")
        return {spec.port: (address, spec.port)} if address else {}
    published = (settings.get("Ports") or {}).get(f"{spec.port}/tcp")
    return {spec.port: (LOOPBACK, int(published[0]["HostPort"]))} if published else {}


def _exit(state: Mapping[str, Any], wall: float) -> Exit:
    return Exit(status=from_shell(state["ExitCode"]), wall=wall, out_of_memory=state.get("OOMKilled", False))


async def _listen(stream: Stream, output: OutputSink) -> None:
    with contextlib.suppress(*TROUBLE):
        while message := await stream.read_out():
            output("stderr" if message.stream == 2 else "stdout", message.data)


async def _hang_up(stream: Stream) -> None:
    with contextlib.suppress(AssertionError):  # aiodocker's own, where the engine has hung up already
        await stream.close()


async def remove(container: DockerContainer) -> bool:
    """Remove a container and wait until it is gone; tell whether it was we who did it."""
    try:
        await container.delete(force=True, v=True)
    except DockerError as error:
        if error.status not in (404, 409):
            raise
    else:
        return True
    with contextlib.suppress(DockerError):  # 404: it is gone
        await container.wait(condition="removed")
    return False


async def _attempt(order: Coroutine[Any, Any, object], name: str) -> None:
    try:
        await order
    except TROUBLE as error:
        if not isinstance(error, DockerError) or error.status not in (404, 409):  # it has ended
            log.warning("container not ended", container=name, reason=reason(error))


def reason(error: BaseException) -> str:
    """Say what the engine, or the way to it, has against something."""
    return str(error.message if isinstance(error, DockerError) else error) or type(error).__name__
