"""Python environments as layers: built by uv in a sandbox, named by what went into them, shared by apps.

InfraX contract, section 2, steps 2 to 4.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from moorage.blobs.names import shown
from moorage.blobs.space import disk_full
from moorage.errors import InstallFailed, NotFound
from moorage.guest.interpreter import HOOK
from moorage.layers.building import ENV, PLACE, Build, BuildLog
from moorage.layers.interpreters import Interpreter, find_python
from moorage.layers.once import Once, Progress
from moorage.layers.publish import discard, empty, publish
from moorage.layers.requirements import names_an_index, refers_to_local
from moorage.sandbox.base import HOME, SANDBOX_UID, ReadOnly, Sandbox

BUILDER = "2"
"""Version of the recipe below: another one makes other layers."""

SEED = ("pip<25", "setuptools<66")
"""What a virtual environment of Python 3.11 holds; apps rely on it, `pkg_resources` among it."""

PAUSES = (2.0, 5.0)
"""Seconds before the second and the third try, when the network is to blame (InfraX contract, section 1.3)."""

Work = Callable[[Build], Awaitable[str]]

_NAME = re.compile(r"python-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonRuntime:
    """What a process needs to run in an environment."""

    mounts: tuple[ReadOnly, ...]
    interpreter: tuple[ReadOnly, ...]
    """What is mounted for an interpreter that waits for work in this environment; nothing if none can."""
    bin: str
    """The directory to put first in PATH."""
    python: str
    """The interpreter to start."""

    @property
    def portable(self) -> bool:
        """Whether the interpreter is among the mounts: else it is the machine's own, which only its /usr has."""
        return len(self.mounts) > 1

    @property
    def env(self) -> dict[str, str]:
        """Give the variables that a process in this environment is started with."""
        return {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": HOME,
            "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        }


@lru_cache(maxsize=256)
def python_runtime(layer: Path) -> PythonRuntime:
    """Tell what a sandbox must show, and what to start in it, to run in the environment `layer`.

    `layer` is a path that `PythonEnvironments.path` gave.
    """
    facts = json.loads(layer.with_name("layer.json").read_bytes())
    shown_too = tuple(ReadOnly(source=Path(path), target=path) for path in facts["mounts"])
    base = layer.with_name("base")
    return PythonRuntime(
        mounts=(ReadOnly(source=layer, target=ENV), *shown_too),
        interpreter=(ReadOnly(source=base, target=ENV), *shown_too) if facts.get("warm") else (),
        bin=f"{ENV}/bin",
        python=f"{ENV}/bin/python",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """An environment that is asked for; `local` is the digest of the app's files if the requirements refer to them."""

    interpreter: Interpreter
    requirements: str
    text: str
    tree: Path
    local: str

    @property
    def key(self) -> str:
        return _digest(self.interpreter.tag, self.text, self.local)


class PythonEnvironments:
    """Environments below one directory of layers, and the resolved locks that name them.

    Open it when no process of an earlier node is left (`Sandbox.reap`): half-made environments are removed then.
    """

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self._root = root
        self._sandbox = sandbox
        self._building = empty(root / ".python" / "building")
        self._locks = root / ".python" / "locks"
        self._logs = root / ".python" / "logs"
        for private in (self._locks, self._logs):  # an index URL may hold a password
            private.mkdir(mode=0o700, exist_ok=True)
        self._interpreters: dict[str, Interpreter] = {}
        self._once = Once()

    def path(self, name: str) -> Path:
        """Give the directory of an environment, to be mounted read-only as `python_runtime` says. Raises NotFound."""
        path = self._root / name / "env"
        if not _NAME.fullmatch(name) or not path.is_dir():
            raise NotFound(f"There is no Python environment {shown(name)}.", hint="Add the app again.")
        return path

    async def ensure(
        self, *, version: str, requirements: str | None, tree: Path, tree_digest: str, progress: Progress
    ) -> str:
        """Give the name of the layer with a Python of this version and the packages of an app; build it if need be.

        `requirements` is the path of the requirements file within `tree`, the app's stored files; None asks for the
        bare environment. Raises PythonNotFound, InstallFailed with uv's own message (`detail["log"]` is the path of
        the whole log), DiskFull; nothing half-made is left.
        """
        interpreter = await self._interpreter(version)
        if requirements is None:
            return await self._layer(interpreter, "", None, "", progress)
        text = await asyncio.to_thread(_read, tree / requirements)
        request = _Request(
            interpreter=interpreter,
            requirements=requirements,
            text=text,
            tree=tree,
            local=tree_digest if refers_to_local(text) else "",
        )
        lock = await self._lock(request, progress)
        return await self._layer(interpreter, lock, tree if request.local else None, request.local, progress)

    async def _interpreter(self, version: str) -> Interpreter:
        if version not in self._interpreters:
            self._interpreters[version] = await find_python(version)
        return self._interpreters[version]

    async def _lock(self, request: _Request, progress: Progress) -> str:
        """Resolve requirements, once for each text: the same text runs with the same packages for good."""
        path = self._locks / request.key
        if not path.exists():
            await self._once.do(request.key, lambda tell: self._resolve(request, path, tell), progress)
        return await asyncio.to_thread(_read, path)

    async def _resolve(self, request: _Request, path: Path, tell: Progress) -> str:
        async def work(build: Build) -> str:
            lock = await _compile(build, request)
            await asyncio.to_thread(_keep, path, lock)
            return path.name

        tell(f"Resolving {request.requirements} for Python {request.interpreter.version}.")
        return await self._build(path.name, request.interpreter, request.tree, work, tell)

    async def _layer(
        self, interpreter: Interpreter, lock: str, tree: Path | None, local: str, progress: Progress
    ) -> str:
        name = f"python-{_digest(interpreter.tag, lock, local)}"

        async def work(build: Build) -> str:
            await _install(build, lock)
            await asyncio.to_thread(_publish, build, self._root / name)
            return name

        if not (self._root / name).exists():
            await self._once.do(name, lambda tell: self._build(name, interpreter, tree, work, tell), progress)
        return name

    async def _build(self, name: str, interpreter: Interpreter, tree: Path | None, work: Work, tell: Progress) -> str:
        for pause in PAUSES:
            try:
                return await self._try(name, interpreter, tree, work, tell)
            except InstallFailed as error:
                if not error.retryable:
                    raise
                tell(f"The network failed: trying again in {pause:g} seconds.")
                await asyncio.sleep(pause)
        return await self._try(name, interpreter, tree, work, tell)

    async def _try(self, name: str, interpreter: Interpreter, tree: Path | None, work: Work, tell: Progress) -> str:
        with disk_full():
            log = BuildLog(self._logs / f"{name}.log", tell)
            directory = await asyncio.to_thread(_make_place, self._building)
            build = Build(sandbox=self._sandbox, interpreter=interpreter, directory=directory, log=log, tree=tree)
            try:
                return await work(build)
            finally:
                log.close()
                await asyncio.to_thread(discard, directory)


async def _compile(build: Build, request: _Request) -> bytes:
    """Resolve requirements to exact versions with the hashes of their files: the lock."""
    options = ["--python", str(build.interpreter.executable), "--generate-hashes", "--no-annotate", "--no-header"]
    if request.local or names_an_index(request.text):
        options += ["--emit-index-url", "--emit-find-links"]
    return await build.uv("pip", "compile", request.requirements, *options, online=True)


async def _install(build: Build, lock: str) -> None:
    """Make the environment where jobs will see it, as its scripts hold absolute paths."""
    # Written before anything runs in there: later a link could wait in its place.
    (build.place / "requirements.lock").write_text(lock, errors="surrogateescape")
    install = ("pip", "install", "--python", f"{ENV}/bin/python")
    wheels = build.interpreter.wheels
    seed = ("--no-index", "--find-links", str(wheels), "pip", "setuptools") if wheels else SEED
    await build.uv("venv", ENV, "--python", str(build.interpreter.executable))
    await asyncio.to_thread(make_base, build.place / "env", build.directory / "base")
    await build.uv(*install, "--compile-bytecode", *seed, online=not wheels)
    if lock:
        packages = ("--no-deps", "--requirements", f"{PLACE}/requirements.lock")
        await build.uv(*install, "--compile-bytecode", *packages, online=True)


def make_base(env: Path, base: Path) -> None:
    """Copy an environment as the base in which a warm interpreter waits (guest/interpreter.py).

    To be done while nothing is installed in it: what packages bring may run in their own app only.
    """
    shutil.copytree(env, base, symlinks=True)
    for packages in (base / "lib").glob("python3.*/site-packages"):
        (packages / "moorage.pth").write_text(HOOK)
        (packages / "moorage.pth").chmod(0o644)


def _publish(build: Build, target: Path) -> None:
    env, staged = build.place / "env", build.directory / "layer"
    if env.is_symlink() or not env.is_dir():
        raise InstallFailed("The build did away with its own environment.")
    staged.mkdir()
    for directory in (staged, env):
        directory.chmod(0o755)
    env.rename(staged / "env")
    (build.directory / "base").rename(staged / "base")
    facts = {
        "interpreter": build.interpreter.tag,
        "mounts": [str(mount.source) for mount in build.interpreter.mounts],
        "warm": _starts_alike(staged / "env", staged / "base"),
    }
    (staged / "layer.json").write_text(json.dumps(facts))
    publish(staged, target)


def _starts_alike(env: Path, base: Path) -> bool:
    """Tell whether packages have left alone what Python reads before it looks at them.

    What they have put in its place may be anything, and is not opened.
    """
    ours, theirs = (path / "pyvenv.cfg" for path in (base, env))
    try:
        status = theirs.lstat()
        plain = stat.S_ISREG(status.st_mode) and status.st_size == ours.stat().st_size
        links = {path.joinpath("bin", "python").readlink() for path in (env, base)}
        return (
            plain
            and len(links) == 1
            and not (env / "bin" / "pyvenv.cfg").exists()
            and (theirs.read_bytes() == ours.read_bytes())
        )
    except OSError:
        return False


def _make_place(building: Path) -> Path:
    directory = Path(mkdtemp(dir=building))
    for name in ("place", "place/tmp", "upper", "work"):
        (directory / name).mkdir()
        if os.geteuid() == 0:
            os.chown(directory / name, SANDBOX_UID, SANDBOX_UID)
    return directory


def _keep(path: Path, lock: bytes) -> None:
    """Store a lock whole or not at all."""
    staged = path.with_suffix(".new")
    staged.write_bytes(lock)
    staged.replace(path)


def _read(path: Path) -> str:
    return path.read_bytes().decode(errors="surrogateescape")


def _digest(*parts: str) -> str:
    words = "\0".join((BUILDER, *parts))
    return hashlib.sha256(words.encode(errors="surrogateescape")).hexdigest()
