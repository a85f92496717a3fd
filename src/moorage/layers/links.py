"""Symbolic links inside a source tree: they may point around in it, never out of it."""

import os
from pathlib import Path

from moorage.blobs.beneath import leads_out, open_root
from moorage.blobs.names import shown
from moorage.errors import FileBadPath


def inner_link(root: Path, path: str) -> str:
    """Read the target of a link at `path` below `root`, after making sure that no step of following it leaves `root`.

    A link to something that is not there passes. Raises FileBadPath for an absolute target, for one that leads out
    (also by way of other links, also if it comes back in), and for circles.
    """
    target = os.readlink(root / path)  # noqa: PTH115 - a Path would tidy it, and the digest covers it as it is
    directory = open_root(root)
    try:
        if not leads_out(directory, path):
            return target
    finally:
        os.close(directory)
    raise FileBadPath(
        f"{shown(path)} is a link that leads out of the app, or in circles.",
        hint="Replace the link with the file itself, or link within the app.",
        path=shown(path),
    )
