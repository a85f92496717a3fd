"""Mounts within mounts: what must not be on the way to them.

Bubblewrap makes missing places, and would follow a link there out of the sandbox that it is about to make.
"""

import os.path
from collections.abc import Iterator, Sequence
from pathlib import Path

from moorage.errors import Invalid
from moorage.sandbox.base import Mount, Overlay, Scratch


def check(mounts: Sequence[Mount]) -> None:
    """Refuse mounts that would be made somewhere else than they say.

    Raises Invalid for a target that is no absolute path in its plainest form, for a link on the way to one, and for a
    root that was used before: there might be one.
    """
    for mount in mounts:
        if mount.target != os.path.normpath(mount.target) or not mount.target.startswith("/") or "//" in mount.target:
            raise Invalid(f"Nothing can be mounted at {mount.target}: it is no plain absolute path.")
        if mount.target == "/":
            _check_root(mount)
    for inner in mounts:
        for outer in mounts:
            if inner.target.startswith(f"{outer.target}/"):
                _check_way(inner.target, outer)


def _check_root(mount: Mount) -> None:
    if isinstance(mount, Overlay) and mount.upper.is_dir() and any(mount.upper.iterdir()):
        raise Invalid("A file system for / was used before.")


def _check_way(target: str, outer: Mount) -> None:
    names = target.removeprefix(f"{outer.target}/").split("/")
    for tree in _trees(outer):
        for count in range(1, len(names) + 1):
            if (path := tree.joinpath(*names[:count])).is_symlink():
                raise Invalid(f"Nothing can be mounted at {target}: {path} is a link.")


def _trees(mount: Mount) -> Iterator[Path]:
    """Give the directories of this machine that are to be seen there; those at `/` are hidden where it matters."""
    if isinstance(mount, Overlay):
        yield from (mount.upper, *mount.lower)
    elif not isinstance(mount, Scratch):
        yield mount.source
