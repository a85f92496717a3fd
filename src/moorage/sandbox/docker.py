"""Containers of OCI images, run by Docker Engine or by another program with its API, such as Podman.

Whatever the image says, a container has no capabilities, cannot gain privileges, is held to `cpus`, `memory` and
`pids`, and is published on 127.0.0.1 only. Its user is that of the image, which may be root in the container.

Networks:

    internet    reaches what this machine reaches, also what listens on this machine's own addresses (not on loopback);
                other containers of the node do not reach it
    none        reaches no other machine and no other container, but what listens on this machine's other addresses.
                Nothing is published: the node reaches it at the container's own address, which a rootless engine and
                one in a virtual machine do not let it do

Containers, unlike processes in other sandboxes, do not end with whoever started them. So each has labels that name
the node, a guard (docker_guard.py) removes them when the node is gone, and the next node removes what is left.
"""

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from moorage.errors import SandboxUnavailable
from moorage.sandbox import docker_guard
from moorage.sandbox.base import ImageSpec, OutputSink, Process
from moorage.sandbox.docker_guard import NODE, RUN

if TYPE_CHECKING:  # half a second to import, and most nodes start no container
    from moorage.sandbox.containers import Container
    from moorage.sandbox.docker_engine import Engine

SOCKETS = ("/var/run/docker.sock", "{run}/docker.sock", "/run/podman/podman.sock", "{run}/podman/podman.sock")
"""Where engines listen; `{run}` is the user's own run-time directory."""
CONTAINERD = "/run/containerd/containerd.sock"
STOP = 10.0
"""Seconds that the guard may take to end."""


class Docker:
    """The containers of one node, which `node` names: a hash of its data directory.

    The engine is looked for when it is needed: it may be started later than the node.
    """

    def __init__(self, *, node: str) -> None:
        self._node, self._run = node, uuid4().hex
        self._opening = asyncio.Lock()
        self._engine: Engine | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._running: set[Container] = set()

    async def start(self, spec: ImageSpec, *, output: OutputSink, progress: Callable[[str], None]) -> Process:
        """Pull the image if need be, and start a container of it; `progress` is told what is being done.

        An image is pulled when the node first starts it, and when it is gone; if it cannot be pulled, the local one
        is used. Raises SandboxUnavailable if no engine answers, if there is no image, if a foreign container has the
        name, if a volume would hand out the engine itself, and with what the engine says against it.
        """
        refuse_sockets(spec.volumes)
        engine = await self._opened()
        await engine.fetch(spec, progress)
        self._watch(engine.url)
        container = await engine.run(spec, output)
        self._running.add(container)
        container.when_over(lambda: self._running.discard(container))
        return container

    async def image(self, name: str) -> str:
        """Have an image, as `start` does; give its id, which differs wherever its content does.

        Raises SandboxUnavailable.
        """
        engine = await self._opened()
        await engine.fetch(ImageSpec(image=name, name=""), lambda _: None)
        return await engine.identity(name)

    async def export(self, image: str, target: Path) -> None:
        """Write the files of an image, which `image` gave, as the tar `target`; nothing of it is run.

        Raises SandboxUnavailable, DiskFull.
        """
        engine = await self._opened()
        self._watch(engine.url)
        await engine.export(image, target)

    async def reap(self) -> int:
        """Remove all containers and networks that an earlier node left; return how many containers.

        0 if no engine answers.
        """
        with contextlib.suppress(OSError, http.client.HTTPException, SandboxUnavailable):
            return await asyncio.to_thread(self._remove_all, endpoint(), spare=f"{RUN}={self._run}")
        return 0

    async def close(self) -> None:
        """Remove all containers and networks of this node at once, end the guard and leave the engine."""
        running = list(self._running)
        for container in running:
            container.kill()
        if self._engine:
            with contextlib.suppress(OSError, http.client.HTTPException):  # gone, and its containers with it
                await asyncio.to_thread(self._remove_all, self._engine.url)
            await asyncio.gather(*(container.wait() for container in running), return_exceptions=True)
            await self._engine.close()
            self._engine = None
        if self._guard:
            await asyncio.to_thread(_dismiss, self._guard)
            self._guard = None

    async def _opened(self) -> "Engine":
        from moorage.sandbox.docker_engine import Engine

        async with self._opening:
            if self._engine is None:
                self._engine = await Engine.open(endpoint(), node=self._node, run=self._run)
            return self._engine

    def _watch(self, url: str) -> None:
        """Have a guard that removes the containers when this process is gone."""
        if self._guard and self._guard.poll() is None:
            return
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", docker_guard.__file__, url, self._run],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # so that Ctrl-C in a terminal reaches the node only
        )

    def _remove_all(self, url: str, spare: str | None = None) -> int:
        count = docker_guard.remove_containers(url, f"{NODE}={self._node}", spare=spare)
        docker_guard.remove_networks(url, f"{NODE}={self._node}")
        return count


def endpoint() -> str:
    """Tell where the engine is: DOCKER_HOST, the first of its usual sockets that is there, or else the most usual.

    Raises SandboxUnavailable for an engine on another machine, whose ports and volumes are not ours.
    """
    usual = _sockets()
    found = next((path for path in usual if os.access(path, os.F_OK)), usual[0])
    url = os.environ.get("DOCKER_HOST") or f"unix://{found}"
    if url.startswith(("ssh://", "https://", "npipe://")) or os.environ.get("DOCKER_TLS_VERIFY") == "1":
        raise SandboxUnavailable(
            f"Containers cannot be run by an engine on another machine ({url}).",
            hint="Set DOCKER_HOST to the socket of an engine on this machine, and unset DOCKER_TLS_VERIFY.",
        )
    return url


async def describe_engine() -> str:
    """Say which engine answers, and with which storage and cgroup drivers.

    Raises SandboxUnavailable if none does.
    """
    from moorage.sandbox.docker_engine import Engine

    engine = await Engine.open(endpoint(), node="", run="")
    try:
        return await engine.describe()
    finally:
        await engine.close()


def refuse_sockets(volumes: tuple[str, ...]) -> None:
    """Raise SandboxUnavailable for a volume in which an engine's socket is: who has that has the whole machine."""
    used = [url.removeprefix("unix://")] if (url := endpoint()).startswith("unix://") else []
    sockets = [Path(path).resolve() for path in (*_sockets(), CONTAINERD, *used)]
    for volume in volumes:
        source = Path(volume.partition(":")[0])
        if source.is_absolute() and ":" in volume and any(path.is_relative_to(source.resolve()) for path in sockets):
            raise SandboxUnavailable(
                f"Volume {volume} would hand the container engine, and with it this machine, to the container.",
                hint="Mount a directory that does not contain the engine's socket.",
            )


def _sockets() -> tuple[str, ...]:
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return tuple(path.format(run=run) for path in SOCKETS)


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    """Tell a guard that nothing is left to do."""
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
        guard.communicate(b".", timeout=STOP)
    guard.kill()
    guard.wait()
