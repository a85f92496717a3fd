"""Open what an untrusted process left behind, without being led out of its directory.

`openat2` does the resolving (Linux 5.6): no component of a path may leave the directory, however it is swapped
meanwhile. Everything is opened as a mere handle (O_PATH) first, so that no FIFO blocks and no device is touched.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPENAT2 = 437
"""The number of the system call, the same on every architecture."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_TRIES = 1000
"""The kernel gives up on `..` (EAGAIN) whenever something is renamed or mounted anywhere meanwhile."""
_HANDLE = os.O_PATH | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_root(directory: Path) -> int:
    """Open the directory itself, which must not be a link. Raises OSError."""
    return os.open(directory, _HANDLE | os.O_DIRECTORY | os.O_NOFOLLOW)


@contextmanager
def opened_root(directory: Path) -> Iterator[int]:
    """Open the directory itself, as `open_root` does, for as long as it is needed. Raises OSError."""
    root = open_root(directory)
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def opened_handle(root: int, path: str, *, follow: bool) -> Iterator[int]:
    """Open whatever is at a path below `root` as a mere handle, through links that stay below.

    Whether its last part may be a link, too, says `follow`; without, the handle is that of the link.
    Raises OSError, with EXDEV for what leads out.
    """
    flags = _HANDLE if follow else _HANDLE | os.O_NOFOLLOW
    handle = _open_beneath(root, path, flags, _NO_MAGICLINKS)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def opened_for_reading(handle: int) -> Iterator[int]:
    """Open the regular file that a handle stands for. Raises OSError."""
    file = _reopen(handle, 0, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def opened_directory(root: int, path: str) -> Iterator[int]:
    """Open a directory below `root` (or `root` itself: an empty path) for listing, through no link. Raises OSError."""
    handle = _open_beneath(root, path, _HANDLE | os.O_DIRECTORY, _NO_SYMLINKS) if path else os.dup(root)
    try:
        directory = _reopen(handle, os.O_DIRECTORY, 0o700)
    finally:
        os.close(handle)
    try:
        yield directory
    finally:
        os.close(directory)


def open_file(root: int, path: str) -> int | None:
    """Open a regular file below `root` for reading, through links that stay below.

    None for what is not there, leads out, cannot be read or is something else.
    """
    handle = _regular(root, path)
    if handle is None:
        return None
    try:
        return _reopen(handle, 0, 0o600)
    except OSError:
        return None
    finally:
        os.close(handle)


def size_of_file(root: int, path: str) -> int | None:
    """Tell the apparent size of the regular file that a path below `root` leads to; None for anything else."""
    handle = _regular(root, path)
    if handle is None:
        return None
    try:
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def leads_out(root: int, path: str) -> bool:
    """Tell whether following `path` below `root`, link by link, would leave `root` or never end.

    What is not there at all leads nowhere, and so not out.
    """
    try:
        os.close(_open_beneath(root, path, _HANDLE, _NO_MAGICLINKS))
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR}
    return False


def _regular(root: int, path: str) -> int | None:
    try:
        handle = _open_beneath(root, path, _HANDLE, _NO_MAGICLINKS)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def _open_beneath(root: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags=flags, resolve=resolve | _BENEATH)
    for _ in range(_TRIES):
        fd: int = _libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


def _reopen(handle: int, flags: int, mode: int) -> int:
    """Open for reading exactly what the handle stands for, also where its owner took the right to away."""
    name = f"/proc/self/fd/{handle}"
    try:
        return os.open(name, _READ | flags)
    except PermissionError:
        os.chmod(name, mode)  # noqa: PTH101 - a descriptor, not a path
        return os.open(name, _READ | flags)
