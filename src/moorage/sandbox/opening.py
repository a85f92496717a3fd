"""The sandboxes of a node, fitted to what its machine was seen to allow."""

import asyncio
import shutil
import tempfile
from hashlib import blake2b
from pathlib import Path

from moorage.errors import MoorageError
from moorage.sandbox.base import Exit, Overlay, ProcessSpec, Sandbox
from moorage.sandbox.bubblewrap import Bubblewrap, Features
from moorage.sandbox.cgroups import open_cgroups
from moorage.sandbox.etc import make_etc
from moorage.sandbox.host import Host
from moorage.sandbox.processes import Spawner
from moorage.sandbox.seccomp import write_filter

TRIAL = "cd /trial && echo changed >> file && rm -r gone && mkdir gone && echo new > gone/new"


async def open_sandboxes(*, data_dir: Path, run_dir: Path, warm: int = 0) -> dict[str, Sandbox]:
    """Make the node's sandboxes, which share one spawner and one place for cgroups; closing one closes both.

    `data_dir` names the node, for its cgroups; in `run_dir` (made if need be, on the file system of the workspaces) the
    sandboxes keep a directory `sandbox` of their own. Up to `warm` Python interpreters are kept waiting (warm.py).
    """
    files = run_dir / "sandbox"
    cgroups = open_cgroups(node_id(data_dir))
    filtered = await asyncio.to_thread(_make_files, files)
    spawner = Spawner(cgroups)
    seccomp = files / "seccomp" if filtered else None
    bubblewrap = Bubblewrap(spawner, etc=files / "etc", seccomp=seccomp, warm=warm)
    await fit(bubblewrap, files)
    return {"bubblewrap": bubblewrap, "host": Host(spawner, homes=files / "homes")}


def node_id(data_dir: Path) -> str:
    """Name a node by its data directory, as its cgroups and containers are marked."""
    return blake2b(str(data_dir.resolve()).encode(), digest_size=6).hexdigest()


async def fit(bubblewrap: Bubblewrap, files: Path) -> None:
    """Use of bubblewrap and the kernel what works here, by trying from best to least."""
    for features in (Features(), Features(disable_userns=False), Features(overlay=False)):
        bubblewrap.features = features
        if await tried(bubblewrap, files):
            return
    bubblewrap.features = Features(overlay=False, disable_userns=False)


async def tried(bubblewrap: Bubblewrap, files: Path) -> bool:
    """Run a process that changes its overlay and tell whether it could."""
    place = Path(tempfile.mkdtemp(prefix="trial-", dir=files))
    try:
        return (await _trial(bubblewrap, place)).status == 0
    except MoorageError:
        return False
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


async def _trial(bubblewrap: Bubblewrap, place: Path) -> Exit:
    overlay = Overlay(lower=(place / "lower",), upper=place / "upper", work=place / "work", target="/trial")
    (place / "lower" / "gone").mkdir(parents=True)
    (place / "lower" / "gone" / "old").touch()
    (place / "lower" / "file").touch()
    overlay.upper.mkdir()
    overlay.work.mkdir()
    spec = ProcessSpec(argv=("/bin/sh", "-c", TRIAL), cwd="/", env={"PATH": "/usr/bin:/bin"}, mounts=(overlay,))
    process = await bubblewrap.start(spec, name=place.name, output=lambda _stream, _data: None)
    return await process.wait()


def _make_files(files: Path) -> bool:
    if files.exists():
        shutil.rmtree(files)
    files.mkdir(parents=True)
    make_etc(files / "etc")
    return write_filter(files / "seccomp")
