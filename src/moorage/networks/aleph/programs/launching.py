"""What a program finds when it starts: files, volumes, variables, sockets and limits (contract, sections 2.4 to 2.8).

Nothing here runs code of the program: it only says what the sandbox is to show.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import moorage.guest
from moorage.errors import MoorageError
from moorage.layers.publish import discard, empty
from moorage.layers.python import PythonRuntime, python_runtime
from moorage.model.limits import MIB, Limits
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.messages.hashes import BadHash, host_label
from moorage.networks.aleph.messages.program import Interface, Program, volume_name
from moorage.networks.aleph.programs.capacity import Capacity, memory_of
from moorage.networks.aleph.programs.deployments import Deployment
from moorage.networks.aleph.programs.export import Place as ExportPlace
from moorage.networks.aleph.programs.files import Files
from moorage.networks.aleph.programs.layout import Layout, lay_out
from moorage.networks.aleph.programs.logs import ProgramLog
from moorage.networks.aleph.programs.runtimes import Runtimes
from moorage.networks.aleph.programs.volumes import Volumes, watched
from moorage.sandbox.base import LISTENER, SANDBOX_UID, Mount, Overlay, ProcessSpec, ReadOnly, Writable

HOST = "/run/moorage"
"""Where the sandbox shows the host of ASGI programs."""
GUEST_API = "/tmp/socat-socket"  # noqa: S108 - in the sandbox; programs have it written in them
HOME = "/root"
PIDS = 1024
BACKLOG = 1024
STARTUP, SHUTDOWN = 30.0, 10.0
"""Seconds that a program has for its own start-up and shutdown."""
PORT = 8080
"""Where an executable listens."""
SNAPSHOT_EVERY = 600.0
"""Seconds between two snapshots of volumes that are stored."""

LONG = 1.0
"""Seconds after which a program's log tells what its start waits for."""
INSTALLING = "The Python runtime is being installed; this is done once, and takes a minute."

UNPORTABLE = (
    "This node's Python is part of its /usr and cannot be shown in another root file system: the program runs on the "
    "built-in runtime. With a Python that uv installed it would run on its own."
)
UNREPEATABLE = "It is reproducible and has the internet, whose answers may differ from run to run."

GuestApi = Callable[[socket.socket, str], contextlib.AbstractAsyncContextManager[None]]
"""Serves the guest API of a program, named by its hash, on a listening socket."""


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one start of a program has its private files on this machine."""

    directory: Path
    held: int
    """A descriptor of it: sockets are bound through it, for its path may be longer than theirs can be."""
    sockets: list[socket.socket] = field(default_factory=list)

    def listen(self, name: str) -> socket.socket:
        """Listen on a Unix socket of this name."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sockets.append(listener)
        listener.bind(f"/proc/self/fd/{self.held}/{name}")
        listener.listen(BACKLOG)
        listener.setblocking(False)
        return listener


@contextlib.asynccontextmanager
async def _place(root: Path) -> AsyncIterator[Place]:
    directory = Path(mkdtemp(dir=root))
    place = Place(directory=directory, held=os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        yield place
    finally:
        for each in place.sockets:
            each.close()
        os.close(place.held)
        await asyncio.to_thread(discard, directory)  # the program may have left much in it


class Launcher:
    """Makes ready what programs need to start."""

    def __init__(
        self,
        root: Path,
        settings: Settings,
        *,
        files: Files,
        volumes: Volumes,
        runtimes: Runtimes,
        capacity: Capacity,
        python: Callable[[], Awaitable[Path]],
        guest_api: GuestApi,
    ) -> None:
        self._settings, self._files, self._volumes, self._runtimes = settings, files, volumes, runtimes
        self.capacity = capacity
        self._python, self._guest_api = python, guest_api
        self._instances = empty(root / "instances")

    @contextlib.asynccontextmanager
    async def prepared(self, deployment: Deployment, log: ProgramLog, begun: "Begun") -> AsyncIterator[ProcessSpec]:
        """Lay out everything for one start; it is removed when the context ends.

        `begun` is told what is needed in order to talk to the program.
        Raises what is wrong with its files: BadArchive and others.
        """
        async with _place(self._instances) as place:
            layout, layer, root = await asyncio.gather(
                lay_out(deployment, self._files, self._volumes, place.directory),
                self._runtime(log),
                self._runtimes.root_of(deployment, log),
            )
            _warn(deployment.program, log)
            python = python_runtime(layer)
            if root and layout.interface == "asgi" and not python.portable:
                log.say(UNPORTABLE)
                root = None
            begun.interface, begun.export = layout.interface, layout.export
            api = place.listen("api")
            _open_to_sandbox(place.directory / "api")
            async with (
                self._guest_api(api, deployment.item_hash),
                watched(layout.rooms, begun.on_excess),
                self._snapshots(deployment, log),
            ):
                try:
                    yield self._spec(deployment, layout, python, root, place)
                finally:
                    log.flush()

    async def _runtime(self, log: ProgramLog) -> Path:
        """Give the layer of the runtime, and say what is waited for where that takes long."""
        told = asyncio.get_running_loop().call_later(LONG, log.say, INSTALLING)
        try:
            return await self._python()
        finally:
            told.cancel()

    @contextlib.asynccontextmanager
    async def _snapshots(self, deployment: Deployment, log: ProgramLog) -> AsyncIterator[None]:
        """Store volumes that ask for it now and then, and when the program has ended (contract, section 2.5)."""
        volumes = enumerate(deployment.program.volumes)
        names = [volume_name(each, number) for number, each in volumes if getattr(each, "persistence", None) == "store"]
        if not names:
            yield
            return

        async def store() -> None:
            for name in names:
                try:
                    await self._volumes.snapshot(deployment.origin, name)
                except MoorageError as error:
                    log.say(f"The volume {name} is not stored: {error.message}")

        async def now_and_then() -> None:
            while True:
                await asyncio.sleep(SNAPSHOT_EVERY)
                await store()

        task = asyncio.ensure_future(now_and_then())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store()

    def _spec(
        self, deployment: Deployment, layout: Layout, python: PythonRuntime, root: Path | None, place: Place
    ) -> ProcessSpec:
        program = deployment.program
        asgi = layout.interface == "asgi"
        mounts: tuple[Mount, ...] = (*layout.mounts, Writable(source=place.directory / "api", target=GUEST_API))
        if root is not None:
            upper, work = place.directory / "system", place.directory / "system-work"
            mounts = (Overlay(lower=(root,), upper=upper, work=work, target="/"), *mounts)
        if asgi or root is None:
            mounts = (*mounts, *python.mounts)
        if asgi:
            mounts = (*mounts, ReadOnly(source=Path(moorage.guest.__path__[0], "asgi"), target=f"{HOST}/asgi"))
        if program.authorized_keys:
            mounts = (*mounts, _keys(program, place.directory))
        return ProcessSpec(
            argv=(python.python, f"{HOST}/asgi") if asgi else layout.argv,
            cwd=layout.cwd,
            env=environment(deployment, python),
            mounts=mounts,
            stdin=self._configuration(program, layout) if asgi else b"",
            limits=_limits(program),
            network="internet" if program.environment.internet else "none",
            listener=place.listen("listener") if asgi else None,
            root=True,
            hostname=_label(deployment.item_hash),
        )

    def _configuration(self, program: Program, layout: Layout) -> bytes:
        """Tell the host of ASGI programs what to serve (guest/asgi)."""
        document = {
            **layout.host,
            "listener": LISTENER,
            "seconds": program.resources.seconds,
            "import_timeout": self._settings.start_timeout,
            "startup_timeout": STARTUP,
            "shutdown_timeout": SHUTDOWN,
            "traceback": self._settings.traceback,
        }
        return json.dumps(document).encode()


@dataclass(slots=True)
class Begun:
    """What is known of a program once it was laid out."""

    interface: Interface = "asgi"
    export: ExportPlace | None = None
    on_excess: Callable[[], None] = lambda: None
    """Called when the program has filled more of a disk than it may."""


def environment(deployment: Deployment, python: PythonRuntime) -> dict[str, str]:
    """Give the variables that a program starts with; those of its message win (contract, section 2.8)."""
    program = deployment.program
    fixed = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"} if program.environment.reproducible else {}
    return {
        **python.env,
        "PATH": f"{python.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": HOME,
        "ALEPH_INIT_VERSION": "2.0.0",
        "ALEPH_API_HOST": "http://localhost",
        "ALEPH_API_UNIX_SOCKET": GUEST_API,
        "ALEPH_REMOTE_CRYPTO_HOST": "http://localhost",
        "ALEPH_REMOTE_CRYPTO_UNIX_SOCKET": GUEST_API,
        "ALEPH_ADDRESS_TO_USE": _label(deployment.item_hash),
        **fixed,
        **program.variables,
    }


def _label(item_hash: str) -> str:
    try:
        return host_label(item_hash)
    except BadHash:  # a CID has none
        return item_hash.lower()[:63]


def _limits(program: Program) -> Limits:
    memory = program.resources.memory * MIB
    return Limits(
        cpus=float(program.resources.vcpus), memory=memory_of(program), pids=PIDS, tmp=min(memory, Limits().tmp)
    )


def _warn(program: Program, log: ProgramLog) -> None:
    if program.environment.reproducible and program.environment.internet:
        log.say(UNREPEATABLE)


def _keys(program: Program, directory: Path) -> Mount:
    path = directory / "authorized_keys"
    path.write_text("".join(f"{key}\n" for key in program.authorized_keys))
    path.chmod(0o644)
    return ReadOnly(source=path, target=f"{HOME}/.ssh/authorized_keys")


def _open_to_sandbox(path: Path) -> None:
    """Let the sandbox's user connect to a socket; nobody else reaches the directory that it is in."""
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, SANDBOX_UID, SANDBOX_UID)
