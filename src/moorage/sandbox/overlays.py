"""What stands in for overlayfs where the kernel or the file system does not let us have it: a copy."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from moorage.errors import DiskFull, SandboxUnavailable
from moorage.sandbox.base import Mount, Overlay, ReadOnly, Scratch, Writable

MOST_NAMES = 500
"""Names on one command line; each may be 255 bytes long."""


async def materialised(mounts: Sequence[Mount], *, owner: int | None) -> tuple[ReadOnly | Writable | Scratch, ...]:
    """Copy the lower trees of every overlay into its upper directory (a reflink where possible), and bind that.

    `owner` is who gets the copies, if not the node's own user. Raises DiskFull, SandboxUnavailable (also for a tree at
    `/`, where a copy would not do: places for mounts have to be made in it).
    """
    if any(mount.target == "/" for mount in mounts):
        raise SandboxUnavailable("A root file system of a process's own needs bubblewrap and overlayfs.")
    return tuple([await _materialise(mount, owner) if isinstance(mount, Overlay) else mount for mount in mounts])


def open_work_directories(mounts: Sequence[Mount]) -> None:
    """Let the owner remove what overlayfs left: directories that nobody may list."""
    for mount in mounts:
        if isinstance(mount, Overlay):
            for path, names, _ in os.walk(mount.work):
                for name in names:
                    with contextlib.suppress(OSError):
                        Path(path, name).chmod(0o700)


async def _materialise(mount: Overlay, owner: int | None) -> Writable:
    await asyncio.to_thread(_copy, mount, owner)
    return Writable(source=mount.upper, target=mount.target)


def _copy(mount: Overlay, owner: int | None) -> None:
    for path in (mount.upper, *(mount.upper / name for name in mount.make)):
        path.mkdir(mode=0o755, exist_ok=True)
    for lower in mount.lower:
        for names, source, target in _missing(lower, mount.upper):
            _run("cp", "-a", "--reflink=auto", "-t", str(target), "--", *(str(source / name) for name in names))
    if owner is not None:
        _run("chown", "-hR", f"{owner}:{owner}", "--", str(mount.upper))


def _missing(source: Path, target: Path) -> Iterator[tuple[list[str], Path, Path]]:
    """Find what `source` has and `target` has not, as names below pairs of directories; what is there stays."""
    missing = []
    for name in sorted(os.listdir(source)):  # noqa: PTH208 - names are what we need
        if not os.path.lexists(target / name):
            missing.append(name)
        elif _is_directory(source / name) and _is_directory(target / name):
            yield from _missing(source / name, target / name)
    for start in range(0, len(missing), MOST_NAMES):
        yield missing[start : start + MOST_NAMES], source, target


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _run(*command: str) -> None:
    environment = {"LC_ALL": "C", "PATH": os.defpath}
    result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", env=environment)
    if result.returncode == 0:
        return
    if "No space left" in result.stderr or "quota exceeded" in result.stderr:
        raise DiskFull(result.stderr.strip()[-500:])
    raise SandboxUnavailable(f"The work directory could not be filled: {result.stderr.strip()[-500:]}")
