"""Where on this machine a process may make cgroups: what is mounted, where it is itself, what was delegated to it."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moorage.sandbox.monitor import descendants

WANTED = frozenset({"memory", "pids", "cpu"})
LEAF = "moorage-node"
"""Where the node itself goes when it has to leave its own cgroup: in version 2 only leaves may hold processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A mounted cgroup tree with the controllers that we want from it."""

    version: Literal[1, 2]
    mount: Path
    own: Path
    """Directory of this process's own cgroup."""
    controllers: frozenset[str]


def hierarchies(proc: Path = Path("/proc/self")) -> Iterator[Hierarchy]:
    """Read which trees are mounted and have something for us."""
    membership = _membership((proc / "cgroup").read_text())
    seen: set[frozenset[str]] = set()
    for version, root, mount, options in _mounts((proc / "mountinfo").read_text()):
        names = frozenset(options if version == 1 else {""})
        path = next((membership[name] for name in names if name in membership), "/")
        own = Path(mount, _below(root, path))
        controllers = WANTED & (names if version == 1 else frozenset(_words(own / "cgroup.controllers")))
        if controllers and controllers not in seen:
            seen.add(controllers)
            yield Hierarchy(version=version, mount=Path(mount), own=own, controllers=controllers)


def find_parent(hierarchy: Hierarchy, name: str) -> tuple[Path, frozenset[str]] | None:
    """Make the directory `name` where this process may, and tell which controllers limit the groups below it.

    None if it may nowhere.
    """
    for base in _candidates(hierarchy):
        with contextlib.suppress(OSError):
            (base / name).mkdir(exist_ok=True)
            controllers = _usable(hierarchy, base, base / name)
            if controllers and os.access(base / name / "cgroup.procs", os.W_OK):
                return base / name, controllers
        with contextlib.suppress(OSError):
            (base / name).rmdir()
    return None


def _candidates(hierarchy: Hierarchy) -> Iterator[Path]:
    """List where to try: below ourselves, and beside everything else if we are root."""
    own = hierarchy.own
    if hierarchy.version == 2 and own.name == LEAF:
        yield own.parent
        return
    if hierarchy.version == 2 and not _is_root(own):
        _vacate(own)
    yield own
    if os.geteuid() == 0:
        yield hierarchy.mount


def _usable(hierarchy: Hierarchy, base: Path, path: Path) -> frozenset[str]:
    if hierarchy.version == 1:
        return hierarchy.controllers
    _delegate(base)
    return _delegate(path)


def _delegate(directory: Path) -> frozenset[str]:
    """Turn on the controllers for what is below a directory of version 2; return those that are on."""
    file = directory / "cgroup.subtree_control"
    for name in sorted(WANTED & set(_words(directory / "cgroup.controllers")) - set(_words(file))):
        with contextlib.suppress(OSError):
            file.write_text(f"+{name}")
    return WANTED & set(_words(file))


def _vacate(own: Path) -> None:
    """Move into a leaf if nobody else is in our cgroup, so that it may have limited groups below it."""
    with contextlib.suppress(OSError):
        members = {int(word) for word in _words(own / "cgroup.procs")}
        if WANTED & set(_words(own / "cgroup.subtree_control")) or members - {os.getpid(), *descendants(os.getpid())}:
            return
        (own / LEAF).mkdir(exist_ok=True)
        for pid in members:
            (own / LEAF / "cgroup.procs").write_text(str(pid))


def _is_root(directory: Path) -> bool:
    return not (directory / "cgroup.type").exists()


def _membership(text: str) -> dict[str, str]:
    """Map controllers to the path of our cgroup; version 2 is the controller without a name."""
    rows = (line.split(":", 2) for line in text.splitlines())
    return {name: path for _, names, path in rows for name in names.split(",")}


def _mounts(text: str) -> Iterator[tuple[Literal[1, 2], str, str, frozenset[str]]]:
    for line in text.splitlines():
        place, _, kind = line.partition(" - ")
        _, _, _, root, mount, *_ = place.split(" ")
        name, _, options = kind.split(" ", 2)
        if name == "cgroup":
            yield 1, _unescape(root), _unescape(mount), frozenset(options.split(","))
        elif name == "cgroup2":
            yield 2, _unescape(root), _unescape(mount), frozenset()


def _below(root: str, path: str) -> str:
    """Turn our path in the tree into one below a mount that shows the tree from `root` on."""
    if "/.." in path:  # a cgroup namespace began below us: what is mounted is all that we can see
        return ""
    if root == "/":
        return path.lstrip("/")
    return path.removeprefix(root).lstrip("/") if f"{path}/".startswith(f"{root}/") else ""


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
