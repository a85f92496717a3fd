"""The seam to whatever keeps a process apart: what it can see, reach and use up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import SOCK_STREAM, SocketKind, socket
from typing import Literal, Protocol

from moorage.model.limits import Limits

SANDBOX_UID = 60_999
"""User and group that isolated processes have on a node that runs as root; no distribution or systemd range has it."""

HOME = "/home/app"
"""Home directory in a sandbox: private, empty at the start, writable up to `limits.tmp`."""

ROOT_HOME = "/root"
"""Home directory of a process that is root in its sandbox."""

PRIVATE = ("/tmp", HOME, "/dev/shm")  # noqa: S108 - in the sandbox
"""Directories that a sandbox makes anew, each limited to `limits.tmp`."""

LISTENER = 3
"""Descriptor at which a process finds the socket that it was given to listen on."""

HOSTNAME = "moorage"

Network = Literal["none", "internet", "machines"]
"""What a process reaches beside its own loopback; nothing of this machine's loopback in any case.

`internet`: public addresses, and the machine's name server; none of private networks and none of this machine's own.
`machines`: whatever other machines this one reaches, and this one by the addresses that they use for it.
"""

Stream = Literal["stdout", "stderr"]
OutputSink = Callable[[Stream, bytes], None]
"""Called in the event loop with each chunk as the process writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly:
    """A directory, file or Unix socket of this machine, seen at `target` and not writable.

    At `/` it takes the place of the machine's files, with empty directories where something else is mounted.
    """

    source: Path
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Writable:
    """A directory, file or Unix socket of this machine, seen at `target` and writable.

    On a node that runs as root, what an isolated process gets is given to SANDBOX_UID if it belongs to root.
    """

    source: Path
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """One writable tree at `target`, made of read-only `lower` trees (first wins) and a private `upper`.

    The process owns what it sees there and may change all of it that its owner may write (`u+w`).
    Where overlayfs is not to be had, the lower trees are copied into `upper` before the process starts.
    `upper` and `work` (empty, on the same file system) are made if need be.
    Whatever the process leaves in directories that no lower tree has is found in `upper` afterwards.
    At `/` it takes the place of the machine's files. Then `upper` has to be empty, and overlayfs to be had.
    """

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    target: str
    make: tuple[str, ...] = ()
    """Directories that the sandbox makes in `upper` before the start, for the process to write into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A private directory in memory, empty at the start; what it holds counts as the process's memory."""

    target: str
    size: int
    """Bytes that it holds at most."""


Mount = ReadOnly | Writable | Overlay | Scratch
"""A place that a process sees. Mounts may nest, in any order: a missing place is made where its surroundings are
writable, and a link on the way to it is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process to run in a sandbox. Paths in `argv`, `cwd` and `env` are the sandbox's own."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    """The whole environment: nothing is inherited."""
    mounts: tuple[Mount, ...] = ()
    interpreter: tuple[ReadOnly, ...] = ()
    """What a Python needs to be started ahead of need; then `argv` begins with that Python and a script.

    They say that the process may as well be forked from one that was started with these mounts and the same directory,
    variables and script, and then sees its own `mounts` over them (guest/interpreter.py).
    """
    stdin: bytes = b""
    """The whole of standard input, ready before the start and followed by end of file."""
    limits: Limits = field(default_factory=Limits)
    network: Network = "none"
    listener: socket | None = field(default=None, repr=False)
    """A listening socket that the process finds open as LISTENER; ours stays open."""
    root: bool = False
    """Whether it is user 0 in its sandbox, without any capability, at home in ROOT_HOME and with a writable `/`."""
    hostname: str = HOSTNAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Name and password for the registry that an image comes from."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """A container to run from an OCI image."""

    image: str
    name: str
    """Name of the container; one of this name that is not this node's own is never touched."""
    command: tuple[str, ...] = ()
    """Arguments for the image's entry point; empty leaves those of the image."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    volumes: tuple[str, ...] = ()
    """As `docker run -v` takes them."""
    gpu: bool = False
    """Whether it is given all GPUs."""
    user: str | None = None
    """User and group by number, such as `1000:1000`; None is that of the image."""
    port: int = 3000
    """Where it listens, inside."""
    host_port: int | None = None
    """Where on 127.0.0.1 it is published; None for nowhere, or wherever is free if that is how it is reached."""
    limits: Limits = field(default_factory=Limits)
    """`cpus`, `memory` and `pids` are enforced."""
    network: Literal["none", "internet"] = "internet"
    runtime: str | None = None
    """Name of the engine's runtime, such as `runsc`; None is its default."""
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a running process and all that it started use now; None where this machine cannot tell."""

    cpu: float | None = None
    """Seconds of processor time since the start."""
    memory: int | None = None
    """Bytes."""
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended; seconds and bytes, None where this machine cannot tell."""

    status: int
    """Exit code, or minus the number of the signal that ended it."""
    wall: float
    cpu: float | None = None
    peak_memory: int | None = None
    out_of_memory: bool = False
    """Whether the kernel killed one of its processes for the memory limit."""


class Process(Protocol):
    """A started process together with everything it starts."""

    async def wait(self) -> Exit:
        """Wait until the first process has ended; what it left behind is killed, its streams are drained (≤ 1 s).

        Raises SandboxUnavailable if it turned out that the process could not be executed.
        """

    async def connect(self, port: int, kind: SocketKind = SOCK_STREAM) -> socket:
        """Connect to 127.0.0.1 and this port in the process's own network; give a socket that does not block.

        The bytes take no way round: the connection is made in there and handed out.
        Raises ConnectionRefusedError while nothing listens (a datagram socket learns that later), another OSError when
        the process is gone.
        """

    async def load(self) -> Load:
        """Tell what it uses now."""

    def terminate(self) -> None:
        """Ask every process of it to end (SIGTERM)."""

    def kill(self) -> None:
        """End every process of it at once (SIGKILL)."""


class Sandbox(Protocol):
    """One kind of isolation on this machine."""

    name: str

    async def start(self, spec: ProcessSpec, *, name: str, output: OutputSink) -> Process:
        """Start a process.

        `name` is unique on the node (an attempt id) and names the cgroup, by which recovery finds leftovers.
        Raises SandboxUnavailable when this machine cannot make the sandbox, ArgumentsTooLong, Invalid (a NUL byte).
        """

    async def reap(self) -> int:
        """Kill everything that an earlier node on this data directory left running; return how many processes."""

    async def close(self) -> None:
        """Kill what still runs and give back cgroups and helper processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of `moorage doctor`: what this machine can or cannot enforce."""

    name: str
    """Short and stable, such as `cgroup.memory`."""
    ok: bool
    required: bool
    """Whether jobs cannot run isolated without it."""
    message: str
    fix: str | None = None
    """The exact command or setting that mends it."""
