"""What the tests of the sandboxes share: running a process to its end, and looking for what it left on the machine."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import psutil

from moorage.layers.python import make_base
from moorage.model.limits import Limits
from moorage.sandbox.base import Exit, Mount, OutputSink, Process, ProcessSpec, ReadOnly, Sandbox, Stream
from moorage.sandbox.bubblewrap import Bubblewrap, Features
from moorage.sandbox.cgroups import Cgroups
from moorage.sandbox.warm import kind_of

PATH = "/usr/bin:/bin"
PREFIX = Path(sys.base_prefix)
PYTHON = f"{PREFIX}/bin/python3"
"""The interpreter that runs these tests, which may be the machine's own or somebody's in a home directory."""
INTERPRETER: tuple[Mount, ...] = () if Path("/usr") == PREFIX else (ReadOnly(source=PREFIX, target=str(PREFIX)),)


ENV = "/opt/env"
EXECUTE = """
import os, signal, sys
assert "_ctypes" in sys.modules, "this was not forked from a warm interpreter"
for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python's own start ignores them
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


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


@dataclass(frozen=True)
class Environment:
    """What a process needs to use a Python environment, and what its interpreter needs to be kept warm."""

    mounts: tuple[ReadOnly, ...]
    interpreter: tuple[ReadOnly, ...]


def make_environment(directory: Path, script: str = EXECUTE, packages: Mapping[str, str] | None = None) -> Environment:
    """Make a Python environment with `script` in it as run.py, and files in site-packages."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", directory / "env"], check=True)
    make_base(directory / "env", directory / "base")
    (directory / "env" / "run.py").write_text(script)
    (site_packages,) = (directory / "env" / "lib").glob("python3*/site-packages")
    for name, text in (packages or {}).items():
        (site_packages / name).write_text(text)
    python = tuple(mount for mount in INTERPRETER if isinstance(mount, ReadOnly))
    env, base = (ReadOnly(source=directory / name, target=ENV) for name in ("env", "base"))
    return Environment(mounts=(env, *python), interpreter=(base, *python))


class Forking:
    """Bubblewrap whose processes are all forked from warm interpreters, and then execute what they are asked to."""

    name = "bubblewrap"

    def __init__(self, bubblewrap: Bubblewrap, environment: Environment) -> None:
        self.bubblewrap = bubblewrap
        self._environment = environment

    @property
    def cgroups(self) -> Cgroups:
        return self.bubblewrap.cgroups

    @property
    def features(self) -> Features:
        return self.bubblewrap.features

    @property
    def _seccomp(self) -> Path | None:
        return self.bubblewrap._seccomp

    @_seccomp.setter
    def _seccomp(self, path: Path | None) -> None:
        self.bubblewrap._seccomp = path

    async def start(self, request: ProcessSpec, *, name: str, output: OutputSink) -> Process:
        mounts = tuple(mount for mount in request.mounts if mount not in INTERPRETER)
        argv = (f"{ENV}/bin/python", f"{ENV}/run.py", *request.argv)
        python = self._environment
        request = replace(request, argv=argv, mounts=(*mounts, *python.mounts), interpreter=python.interpreter)
        if kind_of(request) and "\0" not in "".join(request.env.values()):
            await warmed(self.bubblewrap, request)
        return await self.bubblewrap.start(request, name=name, output=output)

    async def reap(self) -> int:
        return await self.bubblewrap.reap()

    async def close(self) -> None:
        await self.bubblewrap.close()


async def warmed(bubblewrap: Bubblewrap, request: ProcessSpec) -> int:
    """Wait until an interpreter waits for such processes; give its process."""
    async with asyncio.timeout(30):
        while (found := bubblewrap._interpreters.find(request)) is None:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    found.end()
    assert found.interpreter.inner is not None
    return found.interpreter.inner


def spec(
    *argv: str, mounts: tuple[Mount, ...] = (), env: Mapping[str, str] | None = None, **more: object
) -> ProcessSpec:
    """Describe a process; programs of the machine and PYTHON are there."""
    fields = {"cwd": "/home/app", **more}
    return ProcessSpec(argv=argv, env={"PATH": PATH, **(env or {})}, mounts=(*INTERPRETER, *mounts), **fields)


def in_tree(script: str, *mounts: Mount, **more: object) -> ProcessSpec:
    """Describe a shell that is root in a file system of its own, which `mounts` bring, with the machine's programs."""
    places = [Path(path) for path in ("/usr", "/bin", "/lib", "/lib64") if Path(path).exists()]
    machine = [ReadOnly(source=place, target=str(place)) for place in places]
    return spec("/bin/sh", "-c", script, mounts=(*machine, *mounts), **{"cwd": "/", "root": True, **more})


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


def cgroups_called(name: str) -> list[Path]:
    """Find cgroups by name; others may come and go meanwhile."""
    return [Path(path) for path, _, _ in os.walk("/sys/fs/cgroup") if Path(path).name == name]


def small(**changes: object) -> Limits:
    return Limits(**{"memory": 256 << 20, **changes})
