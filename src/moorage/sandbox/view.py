"""What a process finds in its file system: a plan in bubblewrap's words (bubblewrap.py has it as a table).

Mounts are made in the order of their depth, so that nothing covers what is to be seen within it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from moorage.sandbox.base import (
    HOME,
    HOSTNAME,
    PRIVATE,
    ROOT_HOME,
    Mount,
    Network,
    Overlay,
    ProcessSpec,
    ReadOnly,
    Scratch,
    Writable,
)
from moorage.sandbox.etc import hosts
from moorage.sandbox.staging import STAGE

MACHINE_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
CERTIFICATES = ("/etc/ssl/certs", "/etc/pki")
NETWORK_FILES: dict[Network, tuple[str, ...]] = {
    "none": (),
    "internet": CERTIFICATES,
    "machines": ("/etc/hosts", *CERTIFICATES),
}

Entry = tuple[str, tuple[str, ...]]
"""A place, and bubblewrap's options for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a process's file system is made."""

    options: tuple[str, ...]
    """For bubblewrap."""
    staged: tuple[dict[str, Any], ...] | None
    """What is staged before (staging.py), as the options number it; None for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A small file that is made for one process."""

    text: str
    target: str


def view(spec: ProcessSpec, mounts: Sequence[Mount], *, etc: Path, staged: bool, places: Sequence[str] = ()) -> View:
    """Plan what a process sees.

    `mounts` stand for those of the request, `etc` is the directory of etc.py, `staged` says whether sources have to be
    staged even where nothing in the plan needs it. `places` are directories to make besides.
    """
    tree = any(mount.target == "/" for mount in mounts)
    entries = [*_private(spec, tree=tree), *_common(), *(() if tree else _machine(spec, mounts))]
    entries += [(place, ("--dir", place)) for place in places]
    entries += [_tmpfs(mount.target, "0755", mount.size) for mount in mounts if isinstance(mount, Scratch)]
    bound = [*_etc(spec, etc, tree=tree), *(mount for mount in mounts if not isinstance(mount, Scratch))]
    points = {target: False for target, _ in entries} | {item.target: _is_file(item) for item in bound}
    items = tuple(_tree(item, points) if item.target == "/" else staged_form(item) for item in bound)
    staged = staged or any("source" not in item for item in items)
    sources = [f"{STAGE}/{number}" if staged else item["source"] for number, item in enumerate(items)]
    entries += map(_bind, bound, sources)
    entries.sort(key=lambda entry: entry[0].rstrip("/").count("/"))
    return View(
        options=tuple(chain(*(words for _, words in entries), _closing(spec, tree=tree))),
        staged=items if staged else None,
    )


def staged_form(mount: Mount | _Text) -> dict[str, Any]:
    """Describe a mount as staging.py takes it."""
    match mount:
        case Overlay():
            trees = {"lower": [str(path) for path in mount.lower], "upper": str(mount.upper), "work": str(mount.work)}
            return {**trees, "make": mount.make}
        case ReadOnly() | Writable():
            return {"source": str(mount.source), "writable": isinstance(mount, Writable)}
        case _Text():
            return {"text": mount.text}
        case Scratch():
            raise TypeError("nothing of this machine is mounted there")


def _tree(mount: Mount | _Text, points: dict[str, bool]) -> dict[str, Any]:
    """Describe the tree at `/`, with places for all that is mounted in it: what the tree has there may be a link."""
    form = staged_form(mount)
    trees = form if isinstance(mount, Overlay) else {"lower": [form["source"]], "upper": None}
    return {**trees, "points": {target: is_file for target, is_file in points.items() if target != "/"}}


def _is_file(mount: Mount | _Text) -> bool:
    return isinstance(mount, _Text) or (isinstance(mount, ReadOnly | Writable) and not mount.source.is_dir())


def _private(spec: ProcessSpec, *, tree: bool) -> Iterator[Entry]:
    """Give the directories that are made anew."""
    if spec.root and not tree:
        yield _tmpfs("/", "0755", spec.limits.tmp)
        yield "/run", ("--dir", "/run")
    for target in PRIVATE:
        if target != HOME or not spec.root:
            yield _tmpfs(target, "1777", spec.limits.tmp)
    if spec.root:
        yield ROOT_HOME, ("--perms", "0700", "--dir", ROOT_HOME)


def _common() -> Iterator[Entry]:
    yield "/proc", ("--proc", "/proc")
    yield "/dev", ("--dev", "/dev")


def _machine(spec: ProcessSpec, mounts: Sequence[Mount]) -> Iterator[Entry]:
    """Give what is the machine's own, and the usual link beside it."""
    yield "/usr", ("--ro-bind", "/usr", "/usr")
    for name in MACHINE_DIRECTORIES:
        path = Path("/", name)
        if path.is_symlink():
            yield str(path), ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield str(path), ("--ro-bind", str(path), str(path))
    if not any(mount.target == "/var" or mount.target.startswith("/var/tmp") for mount in mounts):  # noqa: S108
        yield "/var/tmp", ("--symlink", "/tmp", "/var/tmp")  # noqa: S108 - in the sandbox
    for name in NETWORK_FILES[spec.network]:
        yield name, ("--ro-bind-try", name, name)


def _etc(spec: ProcessSpec, etc: Path, *, tree: bool) -> Iterator[ReadOnly | _Text]:
    if tree:
        yield ReadOnly(source=etc / "resolv.conf", target="/etc/resolv.conf")
        yield _Text(text=f"{spec.hostname}\n", target="/etc/hostname")
    else:
        yield ReadOnly(source=etc, target="/etc")
    if tree or spec.hostname != HOSTNAME:
        yield _Text(text=hosts(spec.hostname), target="/etc/hosts")


def _tmpfs(target: str, mode: str, size: int) -> Entry:
    return target, ("--perms", mode, "--size", str(size), "--tmpfs", target)


def _bind(mount: Mount | _Text, source: str) -> Entry:
    writable = isinstance(mount, Writable | Overlay)
    return mount.target, ("--bind" if writable else "--ro-bind", source, mount.target)


def _closing(spec: ProcessSpec, *, tree: bool) -> tuple[str, ...]:
    """Make read-only at last what mount points had to be made in."""
    root = () if tree or spec.root else ("--remount-ro", "/")
    return (*root, "--remount-ro", "/dev")
