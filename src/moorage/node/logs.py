"""What an app writes to stdout and stderr: live while it runs, bounded on disk, stored when it ends."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from moorage.blobs.base import Blobs
from moorage.model.jobs import FileRef
from moorage.sandbox.base import Stream

IN_MEMORY = 64 * 1024
CHUNK = 64 * 1024


class Spool:
    """One stream: its first `cap // 2` bytes, and of all later bytes the last `cap // 2` (a ring).

    The source of the rule is the InfraX contract, section 3.4. Small streams never touch the disk.
    """

    def __init__(self, directory: Path, name: str, cap: int) -> None:
        self._directory, self._name = directory, name
        self._half = cap // 2
        self._memory = bytearray()
        self._file: int | None = None
        self.total = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._file is None and self.total + len(chunk) <= min(IN_MEMORY, self._half):
            self._memory += chunk
            self.total += len(chunk)
            return
        if self._file is None:
            self._spill()
        for piece in self._pieces(chunk):
            os.pwrite(self._fd, piece, self._place(self.total))
            self.total += len(piece)

    def read(self, position: int) -> tuple[bytes, int]:
        """Give some bytes from a position on, and the position after them.

        Where bytes were dropped, a line that says how many stands in their place; b"" means there is no more yet.
        """
        if self._file is None:
            return bytes(self._memory[position : position + CHUNK]), min(self.total, position + CHUNK)
        kept_from = max(self._half, self.total - self._half)
        if self._half <= position < kept_from:
            return f"\n[{kept_from - position} bytes omitted]\n".encode(), kept_from
        size = min(CHUNK, self.total - position, self._run(position))
        return os.pread(self._fd, size, self._place(position)), position + size

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            os.close(self._file)
            self._path.unlink(missing_ok=True)
            self._file = None

    @property
    def _path(self) -> Path:
        return self._directory / self._name

    @property
    def _fd(self) -> int:
        assert self._file is not None
        return self._file

    def _spill(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.pwrite(self._file, self._memory, 0)
        self._memory = bytearray()

    def _place(self, position: int) -> int:
        """Map a position of the stream to its place in the file: the first half, then the ring."""
        return position if position < self._half else self._half + (position - self._half) % self._half

    def _run(self, position: int) -> int:
        """Count the bytes from a position to the end of the first half or of the ring."""
        return self._half - position % self._half

    def _pieces(self, chunk: bytes) -> list[memoryview]:
        view, pieces, position = memoryview(chunk), [], self.total
        while view:
            size = min(len(view), self._run(position))
            pieces.append(view[:size])
            view, position = view[size:], position + size
        return pieces


class AttemptLog:
    """Both streams of one running attempt, with followers."""

    def __init__(self, directory: Path, cap: int) -> None:
        self._spools: dict[Stream, Spool] = {
            "stdout": Spool(directory, "stdout.log", cap),
            "stderr": Spool(directory, "stderr.log", cap),
        }
        self._grown: asyncio.Event | None = None
        self._followers = 0
        self._closing = False
        self.ended = False
        self.error: OSError | None = None
        """Set when the disk took no more; what comes after is dropped, so that the app is never stalled."""

    def write(self, stream: Stream, chunk: bytes) -> None:
        """Take the next bytes of a stream."""
        if self.error is None:
            try:
                self._spools[stream].write(chunk)
            except OSError as error:
                self.error = error
        self._wake()

    @property
    def longest(self) -> int:
        """Count the bytes written to the stream that got most."""
        return max(spool.total for spool in self._spools.values())

    def end(self) -> None:
        """Tell followers that nothing more will come."""
        self.ended = True
        self._wake()

    def close(self) -> None:
        """Give the disk space back, as soon as the last follower has read to the end."""
        self._closing = True
        if not self._followers:
            for spool in self._spools.values():
                spool.close()

    async def follow(self, streams: tuple[Stream, ...], *, live: bool) -> AsyncIterator[tuple[Stream, bytes]]:
        """Give what there is and, if `live`, what comes, until the attempt ends."""
        self._followers += 1
        try:
            async for item in self._follow(streams, live=live):
                yield item
        finally:
            self._followers -= 1
            if self._closing:
                self.close()

    async def _follow(self, streams: tuple[Stream, ...], *, live: bool) -> AsyncIterator[tuple[Stream, bytes]]:
        positions: dict[Stream, int] = dict.fromkeys(streams, 0)
        while True:
            ended, quiet = self.ended, True
            for stream in streams:
                chunk, positions[stream] = self._spools[stream].read(positions[stream])
                if chunk:
                    quiet = False
                    yield stream, chunk
            if quiet and (ended or not live):
                return
            if quiet:
                await self._growth()

    async def store(self, stream: Stream, blobs: Blobs) -> FileRef | None:
        """Keep a stream as a blob; None if nothing was written."""
        spool = self._spools[stream]
        if not spool.total:
            return None
        if spool.total <= IN_MEMORY:
            digest, size = await blobs.put_bytes(spool.read(0)[0])
        else:
            digest, size = await blobs.put(_chunks(spool))
        return FileRef(path=stream, digest=digest, size=size)

    def _wake(self) -> None:
        if self._grown is not None:
            self._grown.set()
            self._grown = None

    async def _growth(self) -> None:
        if self.ended:
            return
        if self._grown is None:
            self._grown = asyncio.Event()
        await self._grown.wait()


async def _chunks(spool: Spool) -> AsyncIterator[bytes]:
    position = 0
    while True:
        chunk, position = spool.read(position)
        if not chunk:
            return
        yield chunk
