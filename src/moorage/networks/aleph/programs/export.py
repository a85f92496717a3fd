"""Directories as archives in the store: equal contents give equal bytes (contract, section 2.5).

A program may write into a directory while it is archived. Nothing that it does there leads out: everything is opened
beneath the directory, links are kept as links, and those that lead out are left out.
"""

import asyncio
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path

from moorage.blobs.base import Blobs
from moorage.blobs.beneath import leads_out, open_file, open_root, opened_directory
from moorage.blobs.local import CHUNK
from moorage.blobs.names import safe_path, shown
from moorage.errors import ArchiveTooLarge, BadApp, FileBadPath
from moorage.model.limits import GIB
from moorage.networks.aleph.messages.program import Encoding
from moorage.networks.aleph.programs.files import MAX_MEMBERS
from moorage.networks.aleph.programs.squashfs import Squashfs

MAX_BYTES = 8 * GIB

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold."""
_UNIX = 3
_GZIP = 31
"""What tells zlib to write as gzip does; it says no time then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A directory as a stored file."""

    digest: str
    size: int
    left_out: tuple[str, ...] = ()
    """What no archive may have: devices and the like, links that lead out, names that are not safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory that programs write into: one of the node's, or one below it."""

    directory: Path
    below: str = ""


async def archive(
    place: Path | Place,
    encoding: Encoding,
    blobs: Blobs,
    *,
    squashfs: Squashfs | None = None,
    leave_out: tuple[str, ...] = (),
) -> Archive:
    """Store a directory as an archive, without those entries at its top that are to be left out.

    Names, contents, links and whether a file is executable are kept; owners, times and other bits are not.
    `plain` is the directory's only file as it is; `squashfs` needs the tool. Raises ArchiveTooLarge, DiskFull, and
    BadApp if there is no such directory, if it has not one file for `plain`, or if a file shrank meanwhile.
    """
    source = _Source(place if isinstance(place, Place) else Place(directory=place), leave_out)
    if encoding == "squashfs":
        assert squashfs is not None
        async with squashfs.packed(_tar(source.entries()), max_bytes=MAX_BYTES) as image:
            digest, size = await blobs.put_file(image)
    else:
        digest, size = await blobs.put(_in_threads(_FORMATS[encoding](source.entries())))
    return Archive(digest=digest, size=size, left_out=tuple(source.left_out))


# What is archived


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One member of an archive."""

    path: str
    kind: int
    """S_IFDIR, S_IFLNK or S_IFREG."""
    target: str = ""
    mode: int = 0o755
    size: int = 0
    content: Iterable[bytes] = ()
    """To be read before the next entry is asked for."""


@dataclass(slots=True)
class _Source:
    """A walk through a directory, which opens nothing before its first entry is asked for."""

    place: Place
    top_left_out: tuple[str, ...]
    left_out: list[str] = field(default_factory=list)

    def entries(self) -> Iterator[_Entry]:
        """Go through what is below in the order of paths: directories come before what is in them."""
        left = MAX_BYTES
        with _opened(self.place) as root:
            for entry in sorted(self._found(root), key=lambda entry: entry.path.encode()):
                if entry.kind != stat.S_IFREG:
                    yield entry
                elif (file := open_file(root, entry.path)) is None:
                    self.left_out.append(shown(entry.path))
                else:
                    with FileIO(file) as content:
                        filled = _filled(entry, content)
                        left -= filled.size
                        if left < 0:
                            raise _too_large(f"{MAX_BYTES} bytes")
                        yield filled

    def _found(self, root: int) -> Iterator[_Entry]:
        """Find what is below, by whole paths, as a program may nest directories deeper than any stack."""
        pending, found = [""], 0
        while pending:
            for entry in self._listed(root, pending.pop()):
                found += 1
                if found > MAX_MEMBERS:
                    raise _too_large(f"{MAX_MEMBERS} entries")
                if entry.kind == stat.S_IFDIR:
                    pending.append(entry.path)
                yield entry

    def _listed(self, root: int, folder: str) -> Iterator[_Entry]:
        try:
            with opened_directory(root, folder) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if path in self.top_left_out:
                        continue
                    if (found := _entry(root, directory, entry, path)) is not None:
                        yield found
                    elif len(self.left_out) < MAX_MEMBERS:
                        self.left_out.append(shown(path))
        except OSError:  # it is gone, or another thing by now
            self.left_out.append(shown(folder))


@contextmanager
def _opened(place: Place) -> Iterator[int]:
    with ExitStack() as stack:
        try:
            root = open_root(place.directory)
            stack.callback(os.close, root)
            directory = stack.enter_context(opened_directory(root, place.below))
        except OSError as error:
            raise BadApp("What is to be archived is not there, or no directory.") from error
        yield directory


def _entry(root: int, directory: int, entry: os.DirEntry[str], path: str) -> _Entry | None:
    """Describe what was found; None for what no archive may have."""
    with suppress(FileBadPath, UnicodeEncodeError):
        safe_path(path)
        if entry.is_dir(follow_symlinks=False):
            return _Entry(path=path, kind=stat.S_IFDIR)
        if entry.is_file(follow_symlinks=False):
            return _Entry(path=path, kind=stat.S_IFREG)
        if entry.is_symlink() and not leads_out(root, path):
            target = os.readlink(entry.name, dir_fd=directory)
            target.encode()
            return _Entry(path=path, kind=stat.S_IFLNK, target=target)
    return None


def _filled(entry: _Entry, file: FileIO) -> _Entry:
    status = os.fstat(file.fileno())
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    content = _content(file, status.st_size, entry.path)
    return replace(entry, mode=mode, size=status.st_size, content=content)


def _content(file: FileIO, size: int, path: str) -> Iterator[bytes]:
    """Read so many bytes, for the archive has said by then how many there are."""
    while size:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            raise BadApp(f"{shown(path)} shrank while it was read.", retryable=True)
        size -= len(chunk)
        yield chunk


def _too_large(what: str) -> ArchiveTooLarge:
    return ArchiveTooLarge(f"The directory holds more than {what}.", hint="Remove what need not be archived.")


# How it is written


def _tar(entries: Iterable[_Entry]) -> Iterator[bytes]:
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFREG: tarfile.REGTYPE}
    for entry in entries:
        info = tarfile.TarInfo(entry.path)
        info.type, info.linkname, info.mode, info.size = kinds[entry.kind], entry.target, entry.mode, entry.size
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from entry.content
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _tar_gzip(entries: Iterable[_Entry]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=_GZIP)
    for chunk in _tar(entries):
        yield packer.compress(chunk)
    yield packer.flush()


class _Sink(bytearray):
    """Takes in what a zip file writes until it is passed on."""

    def write(self, data: bytes) -> int:
        self.extend(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: files have it."""

    def taken(self) -> bytes:
        data = bytes(self)
        self.clear()
        return data


def _zip(entries: Iterable[_Entry]) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:  # type: ignore[call-overload]
        for entry in entries:
            with file.open(_zip_info(entry), "w") as member:
                for chunk in (entry.target.encode(), *entry.content):
                    member.write(chunk)
                    yield sink.taken()
    yield sink.taken()


def _zip_info(entry: _Entry) -> zipfile.ZipInfo:
    slash = "/" if entry.kind == stat.S_IFDIR else ""
    info = zipfile.ZipInfo(f"{entry.path}{slash}", _EPOCH)
    info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, _UNIX
    info.file_size = entry.size  # tells whether it takes the form for large files
    info.external_attr = (entry.kind | entry.mode) << 16
    return info


def _plain(entries: Iterable[_Entry]) -> Iterator[bytes]:
    files = 0
    for entry in entries:
        files += entry.kind == stat.S_IFREG
        if files > 1:
            break
        yield from entry.content
    if files != 1:
        raise BadApp("Only a directory with one file can be stored as `plain`.", hint="Use another encoding.")


_FORMATS: Mapping[Encoding, Callable[[Iterable[_Entry]], Iterator[bytes]]] = {
    "zip": _zip,
    "tar.gzip": _tar_gzip,
    "plain": _plain,
}


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read in threads, in pieces that are worth the way there."""
    pieces = _pieces(chunks)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for chunk in chunks:
        piece += chunk
        if len(piece) >= CHUNK:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)
