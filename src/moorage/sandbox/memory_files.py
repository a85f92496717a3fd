"""Bytes on their way to another process: files in memory, without a name, sealed against change."""

import asyncio
import fcntl
import os

BIG = 1 << 20
"""Bytes that take less than a millisecond to write."""
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


async def memory_file(content: bytes) -> int:
    """Hold bytes in a file without a name that nobody can change any more, leaving the event loop air to breathe."""
    descriptor = os.memfd_create("moorage", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for start in range(0, len(content), BIG):
            _write(descriptor, content[start : start + BIG])
            await asyncio.sleep(0)
        return _seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def sealed(content: bytes) -> int:
    """Hold a small number of bytes in a file without a name that nobody can change any more."""
    descriptor = os.memfd_create("moorage", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    _write(descriptor, content)
    return _seal(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _seal(descriptor: int) -> int:
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor
