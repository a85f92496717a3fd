"""The private directory of one attempt."""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

from moorage.layers.publish import discard

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL, FLAGS = 0x80086601, 0x40086602, 0x20000, struct.Struct("l")


def spread(directory: Path) -> None:
    """Ask ext4 to put what is made below a directory far apart, as home directories are (`chattr +T`).

    Each attempt makes and removes a dozen small files and directories. Without a journal ext4 does not use a removed
    inode again for a minute, and searches past all of them in its group, which soon takes longer than the attempt.
    Other file systems have no such flag and no such need.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (flags,) = FLAGS.unpack(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, FLAGS.pack(0)))
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, FLAGS.pack(flags | FS_TOPDIR_FL))
    except OSError:
        return
    finally:
        os.close(descriptor)


def make_workspace(path: Path) -> None:
    """Make a fresh directory."""
    path.mkdir(mode=0o711)


def remove_workspace(path: Path) -> None:
    """Remove a directory whatever an app has made of it; what cannot be removed is left to the next start."""
    with suppress(OSError, CalledProcessError):
        discard(path)
