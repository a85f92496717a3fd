"""What the tests of the sandboxes share: running a process to its end, and looking for what it left on the machine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil

from moorage.model.limits import Limits
from moorage.sandbox.base import Exit, Mount, OutputSink, Process, ProcessSpec, ReadOnly, Sandbox, Stream

PATH = "/usr/bin:/bin"
PREFIX = Path(sys.base_prefix)
PYTHON = f"{PREFIX}/bin/python3"
"""The interpreter that runs these tests, which may be the machine's own or somebody's in a home directory."""
INTERPRETER: tuple[Mount, ...] = () if Path("/usr") == PREFIX else (ReadOnly(source=PREFIX, target=str(PREFIX)),)


@dataclass
class Ran:
    """A process that has ended and what it wrote."""

    exit: Exit
    stdout: bytes
    stderr: bytes

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()


@dataclass
class Output:
    """Collects both streams."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)

    def __call__(self, stream: Stream, data: bytes) -> None:
        (self.stdout if stream == "stdout" else self.stderr).extend(data)


def spec(
    *argv: str, mounts: tuple[Mount, ...] = (), env: Mapping[str, str] | None = None, **more: object
) -> ProcessSpec:
    """Describe a process; programs of the machine and PYTHON are there."""
    fields = {"cwd": "/home/app", **more}
    return ProcessSpec(argv=argv, env={"PATH": PATH, **(env or {})}, mounts=(*INTERPRETER, *mounts), **fields)


async def start(sandbox: Sandbox, request: ProcessSpec, output: OutputSink) -> Process:
    return await sandbox.start(request, name=f"att-{uuid4().hex}", output=output)


async def run(sandbox: Sandbox, request: ProcessSpec) -> Ran:
    output = Output()
    process = await start(sandbox, request, output)
    exited = await process.wait()
    return Ran(exited, bytes(output.stdout), bytes(output.stderr))


async def sh(sandbox: Sandbox, script: str, **more: object) -> Ran:
    return await run(sandbox, spec("sh", "-c", script, **more))


async def py(sandbox: Sandbox, script: str, **more: object) -> Ran:
    return await run(sandbox, spec(PYTHON, "-c", script, **more))


def marker() -> str:
    """Make a duration to sleep that no other process on the machine sleeps: its process can be found by it."""
    return f"9{uuid4().int % 10**9}.5"


def alive(mark: str) -> list[psutil.Process]:
    """Find the processes that have the marker on their command line."""
    return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or ())]


def small(**changes: object) -> Limits:
    return Limits(**{"memory": 256 << 20, **changes})
