"""The seam to whatever keeps a process apart: what it can see, reach and use up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Literal, Protocol

from moorage.model.limits import Limits

SANDBOX_UID = 60_999
"""User and group that isolated processes have on a node that runs as root; no distribution or systemd range has it."""

HOME = "/home/app"
"""Home directory in a sandbox: private, empty at the start, writable up to `limits.tmp`."""

PRIVATE = ("/tmp", HOME, "/dev/shm")  # noqa: S108 - in the sandbox
"""Directories that a sandbox makes anew, each limited to `limits.tmp`."""

Stream = Literal["stdout", "stderr"]
OutputSink = Callable[[Stream, bytes], None]
"""Called in the event loop with each chunk as the process writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly:
    """A directory or file of this machine, seen at `target` and not writable."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Writable:
    """A directory of this machine, seen at `target` and writable.

    On a node that runs as root, an isolated process's directory is given to SANDBOX_UID if it belongs to root.
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
    """

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    target: str
    make: tuple[str, ...] = ()
    """Directories that the sandbox makes in `upper` before the start, for the process to write into."""


Mount = ReadOnly | Writable | Overlay


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
    network: Literal["none", "internet"] = "none"
    """`internet` is for building layers only: what the machine reaches of other machines, but nothing of its own."""


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

    async def connect(self, port: int) -> socket:
        """Connect to 127.0.0.1 and this port in the process's own network; give a stream that does not block.

        The bytes take no way round: the connection is made in there and handed out.
        Raises ConnectionRefusedError while nothing listens, another OSError when the process is gone.
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
