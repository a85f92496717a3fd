"""Symbolic links inside a source tree: they may point around in it, never out of it."""

import os
from pathlib import Path

from moorage.blobs.names import shown
from moorage.errors import FileBadPath


def inner_link(root: Path, path: str) -> str:
    """Read the target of a link at `path` below `root`, after making sure that following it stays below `root`.

    Raises FileBadPath for an absolute target and for one that leads out, also by way of other links.
    """
    target = os.readlink(root / path)  # noqa: PTH115 - a Path would tidy it, and the digest covers it as it is
    base = os.path.realpath(root)
    end = os.path.realpath(root / path)
    if target.startswith("/") or os.path.commonpath((base, end)) != base:
        raise FileBadPath(
            f"{shown(path)} is a link that leads out of the app.",
            hint="Replace the link with the file itself, or link within the app.",
            path=shown(path),
        )
    return target
