"""One build of a layer: uv in a sandbox, with the network where it needs it, a private directory, and a log."""

import asyncio
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uv

from moorage.errors import DiskFull, InstallFailed
from moorage.layers.indexes import index_environment, index_mounts
from moorage.layers.interpreters import Interpreter
from moorage.layers.once import Progress
from moorage.model.ids import new_id
from moorage.model.limits import GIB, KIB, MIB, Limits
from moorage.sandbox.base import HOME, Mount, Overlay, ProcessSpec, ReadOnly, Sandbox, Stream, Writable
from moorage.sandbox.supervise import Outcome, supervise

APP, PLACE, ENV = "/app", "/opt", "/opt/env"
"""Where a build, and later a job, sees the app's files; the build's own directory; the environment in it."""

TIMEOUT = 1800.0
"""Seconds that one step of a build may take."""

LIMITS = Limits(cpus=float(os.cpu_count() or 1), memory=4 * GIB, pids=1024, disk=16 * GIB)
MAX_OUTPUT = 16 * MIB
"""Bytes that are kept of a log, and of what a step prints as its result."""
MAX_PROGRESS = 500
"""Lines that are passed on as progress; the log has them all."""

_UV = "/run/uv"
_NETWORK = re.compile(
    r"error sending request|dns error|tcp connect error|connection (?:reset|closed|refused)|timed out"
    r"|HTTP status server error|Could not resolve host|Temporary failure",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"No space left on device|os error 28|Disk quota exceeded")


class BuildLog:
    """What a build said: whole (up to a cap) in a file, line by line as progress, its end as the error message."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self._progress = progress
        self._file = path.open("wb", buffering=0)
        self._left = MAX_OUTPUT
        self._told = 0
        self._partial = b""
        self._tail: deque[str] = deque(maxlen=60)

    def write(self, data: bytes) -> None:
        """Take in some bytes of output."""
        with suppress(OSError):  # a full disk shows in the build itself
            self._file.write(data[: self._left])
        self._left -= min(self._left, len(data))
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._partial) > 64 * KIB:
            self._take(self._partial)
            self._partial = b""

    def close(self) -> None:
        """Take in what is left without an end of line."""
        if self._partial:
            self._take(self._partial)
        self._partial = b""
        self._file.close()

    def message(self) -> str:
        """Give uv's own error message: from the last line that begins one to the end, at most 4,000 characters."""
        lines = list(self._tail)
        starts = [number for number, line in enumerate(lines) if line.startswith("error:")]
        return "\n".join(lines[starts[-1] if starts else -20 :]).removeprefix("error: ")[-4000:]

    def _take(self, line: bytes) -> None:
        text = line[:4096].decode(errors="replace").rstrip()
        if not text:
            return
        self._tail.append(text)
        self._told += 1
        if self._told <= MAX_PROGRESS:
            self._progress(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What is needed to run uv in a sandbox, for one layer.

    `directory` is private and holds `place` (seen writable at /opt), `upper` and `work` (for what changes at /app).
    Nothing in it outlives the build but what is taken out. The cache, too, is the build's own: code of a package that
    is built from source could change what others find in a shared one.
    """

    sandbox: Sandbox
    interpreter: Interpreter
    directory: Path
    log: BuildLog
    tree: Path | None = None
    """The app's files, if they matter: seen at /app, changes go nowhere."""

    @property
    def place(self) -> Path:
        """What the sandbox sees at /opt."""
        return self.directory / "place"

    async def uv(self, *arguments: str, online: bool = False) -> bytes:
        """Run uv and return what it prints on standard output; `online` says whether it may use the network.

        Raises InstallFailed with uv's own message (retryable if the network is to blame), DiskFull, SandboxUnavailable.
        """
        output = bytearray()

        def sink(stream: Stream, data: bytes) -> None:
            if stream == "stderr":
                self.log.write(data)
            else:
                output.extend(data[: MAX_OUTPUT - len(output)])

        process = await self.sandbox.start(self._spec(arguments, online), name=new_id("build"), output=sink)
        outcome = await supervise(process, timeout=TIMEOUT, cancelled=asyncio.Event())
        if outcome.cut or outcome.exit.status != 0:
            self.log.close()
            raise self._failure(outcome)
        return bytes(output)

    def _spec(self, arguments: tuple[str, ...], online: bool) -> ProcessSpec:
        return ProcessSpec(
            argv=(_UV, *arguments),
            cwd=APP if self.tree else PLACE,
            env=_environment(),
            mounts=tuple(self._mounts()),
            limits=LIMITS,
            network="machines" if online else "none",
        )

    def _mounts(self) -> Iterator[Mount]:
        yield Writable(source=self.place, target=PLACE)
        yield ReadOnly(source=Path(uv.find_uv_bin()).resolve(), target=_UV)
        yield from self.interpreter.mounts
        yield from index_mounts(os.environ)
        if self.tree:
            upper, work = self.directory / "upper", self.directory / "work"
            yield Overlay(lower=(self.tree,), upper=upper, work=work, target=APP)

    def _failure(self, outcome: Outcome) -> InstallFailed | DiskFull:
        message, log = self.log.message(), str(self.log.path)
        if outcome.cut:
            return InstallFailed(f"The build took longer than {TIMEOUT:g} seconds.", log=log)
        if outcome.exit.out_of_memory:
            return InstallFailed(f"The build used more than {LIMITS.memory // GIB} GiB of memory.", log=log)
        if _NO_SPACE.search(message):
            return DiskFull(f"No space is left to build the environment: {message}", log=log)
        return InstallFailed(message or None, retryable=bool(_NETWORK.search(message)), log=log)


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": HOME,
        "TMPDIR": f"{PLACE}/tmp",  # noqa: S108 - in the sandbox
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "UV_CACHE_DIR": f"{PLACE}/cache",  # beside the environment, so that files are linked rather than copied
        "UV_LINK_MODE": "hardlink",
        "UV_PYTHON_DOWNLOADS": "never",
        **index_environment(os.environ),
    }
