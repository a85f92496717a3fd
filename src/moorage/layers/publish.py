"""How a directory appears under its name: whole and durable, or not at all."""

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
_libc = ctypes.CDLL(None, use_errno=True)


def publish(staged: Path, target: Path) -> None:
    """Rename a finished directory to `target`; one that is there already was made of the same and is kept.

    Everything is flushed to the disk first, so that after a power cut no half-written layer bears a name.
    """
    _flush(staged, _libc.syncfs)
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        discard(staged)
    _flush(target.parent, os.fsync)


def discard(directory: Path) -> None:
    """Remove a directory, however deep an untrusted process nested it or closed it to us."""
    with suppress(RecursionError):
        shutil.rmtree(directory, ignore_errors=True)
    if directory.is_symlink():  # what it leads to is somebody else's
        directory.unlink()
    elif directory.exists():
        # coreutils does not recurse; and what an app made unreadable is opened first.
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--", directory], check=True, capture_output=True)


def empty(directory: Path) -> Path:
    """Make a directory, or remove what a crashed node left in it, and return it."""
    discard(directory)
    directory.mkdir(parents=True)
    return directory


def _flush(directory: Path, flush: Callable[[int], object]) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(fd)
    finally:
        os.close(fd)
