"""Plain .tar streams, made while they are sent: no more than a block is in memory."""

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moorage.errors import BadApp, SourceNotFound

BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive: what it is called there, and where its bytes are (a link has a `target` instead)."""

    name: str
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    path: Path | None = None
    target: str | None = None


def tar_stream(members: Iterable[Member]) -> Iterator[bytes]:
    """Give the bytes of a .tar.

    Raises BadApp if a file is shorter than announced: it changed meanwhile.
    """
    for member in members:
        yield _header(member)
        if member.path is not None:
            yield from _content(member, member.path)
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def folder_members(folder: Path) -> Iterator[Member]:
    """List the files and links below a folder, sorted.

    Raises SourceNotFound for what cannot be read, BadApp naming a socket, device or FIFO.
    """
    for directory, folders, names in os.walk(folder, onerror=_unreadable):
        folders.sort()
        links = [name for name in folders if Path(directory, name).is_symlink()]
        for name in sorted(names + links):
            yield _member(folder, Path(directory, name))


def _member(folder: Path, path: Path) -> Member:
    status = path.lstat()
    name = str(path.relative_to(folder))
    if stat.S_ISLNK(status.st_mode):
        return Member(name=name, target=str(path.readlink()))
    if not stat.S_ISREG(status.st_mode):
        raise BadApp(f"{path} is neither file, folder nor link: it cannot be part of an app.")
    mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    return Member(name=name, size=status.st_size, mode=mode, mtime=mtime, path=path)


def _header(member: Member) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size, info.mode, info.mtime = member.size, member.mode, member.mtime
    if member.target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, member.target
    return info.tobuf(tarfile.PAX_FORMAT)


def _content(member: Member, path: Path) -> Iterator[bytes]:
    left = member.size
    with path.open("rb") as source:
        while left:
            block = source.read(min(BLOCK, left))
            if not block:
                raise BadApp(f"{path} changed while it was read.", retryable=True)
            left -= len(block)
            yield block


def _unreadable(error: OSError) -> None:
    raise SourceNotFound(f"{error.filename} cannot be read: {error.strerror}.") from None
