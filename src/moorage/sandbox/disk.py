"""How much disk space a directory takes, and the watch over what a process writes into one."""

import asyncio
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

WATCH_EVERY = 1.0
"""Seconds between two measurements; a job that is over sooner is never measured."""
UNKNOWN = sys.maxsize
"""The size of a directory in which something is kept from us: more than any limit."""
_HIDDEN = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


def usage_of(directory: Path) -> int:
    """Sum up the disk space (bytes) of everything below a directory, without following links.

    A file with several names counts once, and not at all if one of them is elsewhere: those are stored bytes, which
    cost the attempt nothing, and no app can make such a name. A file that is open but has no name any more is not seen.
    A directory that we may not read, or that is deeper than a path can name, could hold anything: gives UNKNOWN then.
    """
    try:
        return _sum(directory)
    except OSError:
        return UNKNOWN


def _sum(directory: Path) -> int:
    total = 0
    names: Counter[int] = Counter()
    for entry in _entries(directory):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            _pass_over(error)
            continue
        names[status.st_ino] += 1
        if names[status.st_ino] == status.st_nlink or entry.is_dir(follow_symlinks=False):
            total += status.st_blocks * 512
    return total


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    pending = [str(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError as error:
            _pass_over(error)


def _pass_over(error: OSError) -> None:
    """Let be missing what was removed meanwhile, but nothing that is kept from us."""
    if error.errno in _HIDDEN:
        raise error


class DiskWatch:
    """Calls back once when a directory has grown over its limit.

    A quota would be stricter, but needs file-system features that few machines have switched on; this one works
    everywhere and may overshoot by what an app writes in a second.
    """

    def __init__(self, directory: Path, limit: int, on_excess: Callable[[], None]) -> None:
        self._directory, self._limit, self._on_excess = directory, limit, on_excess
        self.exceeded = False
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_EVERY, self._begin)

    def stop(self) -> None:
        """End the watch."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while not self.exceeded:
            if await asyncio.to_thread(usage_of, self._directory) > self._limit:
                self.exceeded = True
                self._on_excess()
            else:
                await asyncio.sleep(WATCH_EVERY)
