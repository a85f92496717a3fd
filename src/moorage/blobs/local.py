"""Blobs as files below one directory: `sha256/ab/cdef…`."""

import asyncio
import errno
import fcntl
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from moorage.blobs.names import contained
from moorage.blobs.space import disk_full
from moorage.errors import BlobMismatch, InputUnavailable, NotFound
from moorage.model.jobs import FileRef

CHUNK = 1 << 20
"""Bytes that are read, hashed and written at a time: what one transfer costs in memory."""

_SMALL = 1 << 16
"""Bytes that are hashed faster than a thread is reached."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FICLONE = 0x40049409
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM}
_numbers = itertools.count()

P = ParamSpec("P")
T = TypeVar("T")


class LocalBlobs:
    """Blobs on a local file system; one node at a time opens a directory.

    A blob is written to a temporary file, synced, renamed, and its directory synced: after a power cut it is there
    whole or not at all. Files have mode 0644 and belong to `owner` (uid and gid), so that an app which runs
    under that uid may change its own copy-up of an input; None leaves them to the node's own user.
    """

    def __init__(self, root: Path, *, owner: int | None) -> None:
        self._root = root / "sha256"
        self._tmp = root / "tmp"
        self._owner = owner
        shutil.rmtree(self._tmp, ignore_errors=True)  # what a crashed node left
        self._tmp.mkdir(parents=True)
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(parents=True, exist_ok=True)

    async def put(self, chunks: AsyncIterator[bytes], *, expect: str | None = None) -> tuple[str, int]:
        """Store a stream durably and return its digest and size.

        Raises BlobMismatch if `expect` is given and differs, DiskFull; nothing is kept then.
        """
        with self._writer() as writer:
            async for batch in _batches(chunks):
                await _uninterrupted(writer.write, batch)
            return await _uninterrupted(self._publish, writer, expect)

    async def put_file(self, path: int | Path) -> tuple[str, int]:
        """Store a copy (a reflink where possible) of a file, given by path or open descriptor.

        The digest is that of the bytes as stored, whatever happens to the file meanwhile. Raises DiskFull.
        """
        # A descriptor of our own: the caller may close theirs when it is cancelled, while the thread still reads.
        source = os.dup(path) if isinstance(path, int) else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return await asyncio.to_thread(self._store_file, source)

    async def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Store a small value; one that is here already costs a single system call. Raises DiskFull."""
        if len(data) <= _SMALL:
            digest = hashlib.sha256(data).hexdigest()
            if self._path(digest).exists():
                return digest, len(data)
        return await asyncio.to_thread(self._store_bytes, data)

    def path(self, digest: str) -> Path:
        """Give the path of the stored bytes, for reading only.

        Raises NotFound if they are not here.
        """
        if self.size(digest) is None:
            raise NotFound(f"There is no blob {digest[:64]!r}.", hint="Upload it first.")
        return self._path(digest)

    def size(self, digest: str) -> int | None:
        """Tell how many bytes are stored under a digest; None if there is no such blob."""
        if not _DIGEST.fullmatch(digest):
            return None
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def link(self, files: tuple[FileRef, ...], directory: Path) -> None:
        """Lay files out below `directory` without copying them (hard links): a tree to be read, never written.

        Directories are made as needed, belong to the blobs' owner and have mode 0755. Where the file system takes no
        link (another device, too many links) the file is copied. Raises InputUnavailable naming the file that is not
        here, FileBadPath for a name that leads out of `directory`, DiskFull.
        """
        made = {directory} if directory.is_dir() else set()
        with disk_full():
            for file in files:
                target = directory.joinpath(*contained(file.path))
                self._make_folder(target.parent, made)
                self._link(file, target)

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest[2:]

    def _make_folder(self, folder: Path, made: set[Path]) -> None:
        if folder in made:
            return
        missing = [parent for parent in (folder, *folder.parents) if not parent.is_dir()]
        for parent in reversed(missing):
            parent.mkdir()
            parent.chmod(0o755)
            self._own(parent)
        made.add(folder)

    def _own(self, file: int | Path) -> None:
        if self._owner is not None:
            os.chown(file, self._owner, self._owner)

    def _link(self, file: FileRef, target: Path) -> None:
        try:
            blob = self.path(file.digest)
        except NotFound as error:
            raise InputUnavailable(f"The bytes of {file.path} are not in the store.", path=file.path) from error
        try:
            os.link(blob, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            shutil.copy(blob, target)
            self._own(target)

    @contextmanager
    def _writer(self) -> Iterator["_Writer"]:
        with disk_full():
            writer = _Writer(self._tmp / f"{os.getpid()}-{next(_numbers)}")
            try:
                yield writer
            finally:
                writer.close()

    def _store_file(self, source: int) -> tuple[str, int]:
        try:
            with self._writer() as writer:
                writer.copy(source)
                return self._publish(writer)
        finally:
            os.close(source)

    def _store_bytes(self, data: bytes) -> tuple[str, int]:
        with self._writer() as writer:
            writer.write(data)
            return self._publish(writer)

    def _publish(self, writer: "_Writer", expect: str | None = None) -> tuple[str, int]:
        digest, size = writer.digest, writer.size
        if expect is not None and expect != digest:
            raise BlobMismatch(f"The bytes have the digest {digest}, not {expect}.", digest=digest)
        target = self._path(digest)
        if not target.exists():
            self._own(writer.fd)
            os.fchmod(writer.fd, 0o644)
            os.fsync(writer.fd)
            writer.path.rename(target)
            _sync_directory(target.parent)
        return digest, size


class _Writer:
    """A blob on its way: hashed as it is written; its temporary file is gone once it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        self._account(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self.fd, left) :]

    def copy(self, source: int) -> None:
        """Take over a whole file, as a reflink if the file system can; what is hashed is what is stored."""
        try:
            fcntl.ioctl(self.fd, _FICLONE, source)
        except OSError:
            for chunk in _chunks(source):
                self.write(chunk)
        else:
            for chunk in _chunks(self.fd):
                self._account(chunk)

    def _account(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        os.close(self.fd)
        self.path.unlink(missing_ok=True)


def _chunks(fd: int) -> Iterator[memoryview]:
    buffer, offset = memoryview(bytearray(CHUNK)), 0
    while count := os.preadv(fd, [buffer], offset):
        yield buffer[:count]
        offset += count


async def _batches(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small chunks, so that there is one hop to a thread per MiB."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


async def _uninterrupted(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread and wait for its end even when cancelled: it works on a descriptor that is closed next."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        with suppress(BaseException):
            work.result()
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
