"""What to make of a file system that is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from moorage.errors import DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def disk_full() -> Iterator[None]:
    """Turn what the system says of a full disk or a used-up quota into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull from error
        raise
