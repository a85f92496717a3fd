"""Find the Python that environments are made of."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

import uv

from moorage.errors import PythonNotFound
from moorage.sandbox.base import ReadOnly

_PROBE = """
import importlib.util, json, pathlib, platform, sys, sysconfig
pip = importlib.util.find_spec("ensurepip")
bundled = pathlib.Path(pip.origin).with_name("_bundled") if pip else "/nonexistent"
wheels = pathlib.Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled)
print(json.dumps({
    "version": platform.python_version(),
    "prefix": sys.base_prefix,
    "abi": sysconfig.get_config_var("SOABI"),
    "wheels": str(wheels) if any(wheels.glob("pip-*.whl")) and any(wheels.glob("setuptools-*.whl")) else None,
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python of this machine that is no virtual environment."""

    version: str
    """Major and minor, such as `3.11`."""
    executable: Path
    prefix: Path
    """The directory that holds all of it."""
    tag: str
    """What it is, to the byte: version, binary interface and place, as an environment refers to it by path."""
    wheels: Path | None
    """Directory with the wheels of pip and setuptools that it brings along for new environments, if it does."""

    @property
    def mounts(self) -> tuple[ReadOnly, ...]:
        """What a sandbox must show of it, at the same path, besides /usr, which every sandbox shows."""
        if self.prefix.is_relative_to("/usr"):
            return ()
        return (ReadOnly(source=self.prefix, target=str(self.prefix)),)


async def find_python(version: str) -> Interpreter:
    """Find a Python by major and minor version: the one this node runs on if it fits, else what uv finds.

    Raises PythonNotFound.
    """
    async for candidate in _candidates(version):
        interpreter = await _probe(candidate, version)
        if interpreter is not None:
            return interpreter
    raise PythonNotFound(f"Python {version} is not on this machine.")


async def _candidates(version: str) -> AsyncIterator[Path]:
    yield Path(sys.base_prefix, "bin", f"python{version}")
    found = await _output(uv.find_uv_bin(), "python", "find", "--system", "--no-project", "--no-config", version)
    if found:
        yield Path(found.strip())


async def _probe(executable: Path, version: str) -> Interpreter | None:
    """Ask an interpreter what it is; a wrapper (such as a shim) answers for the real one behind it."""
    answer = await _output(str(executable), "-I", "-c", _PROBE) if executable.exists() else None
    if not answer:
        return None
    facts = json.loads(answer)
    prefix = Path(facts["prefix"]).resolve()
    real = prefix / "bin" / f"python{version}"
    if not facts["version"].startswith(f"{version}.") or not real.exists():
        return None
    return Interpreter(
        version=version,
        executable=real,
        prefix=prefix,
        tag=f"{facts['version']} {facts['abi']} {real}",
        wheels=Path(facts["wheels"]) if facts["wheels"] else None,
    )


async def _output(*command: str) -> str | None:
    """Run a quick command, in a thread: one that nobody waits for any more then ends before the loop does."""
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    done = await asyncio.to_thread(
        subprocess.run, command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=environment, check=False
    )
    return done.stdout.decode() if done.returncode == 0 else None
