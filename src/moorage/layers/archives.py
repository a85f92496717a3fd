"""Unpack what people upload: `.zip`, `.tar` and `.tar.gz`, told apart by content and never trusted.

The libraries of Python read the formats; every name, kind and size is checked here. Names must be UTF-8 in both
formats, in a zip also where its UTF-8 flag is not set (many tools write UTF-8 and leave the flag out; what is
in an old code page is refused rather than guessed).
"""

import errno
import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Literal, cast

from moorage.blobs.base import Blobs
from moorage.blobs.local import CHUNK
from moorage.blobs.names import refuse_duplicates, safe_path, shown
from moorage.blobs.space import disk_full
from moorage.errors import ArchiveTooLarge, BadArchive, FileBadPath, FileDuplicate, MoorageError
from moorage.layers.links import inner_link
from moorage.layers.publish import discard
from moorage.model.jobs import FileRef
from moorage.model.limits import GIB, KIB

MAX_MEMBERS = 100_000
MAX_BYTES = 4 * GIB
MAX_LINK = 4096
"""Bytes of the target of a symbolic link, as the kernel takes them."""

_BLOCK = 512
_ZIP, _EMPTY_ZIP, _GZIP, _ZIP_ENTRY = b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"PK\x01\x02"
_ENCRYPTED, _UTF8 = 0x1, 0x800
_COMPRESSION = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""The methods that Python unpacks piece by piece; of the others a few bytes can fill the memory."""


def unpack(
    archive: Path, target: Path, *, entry: str = "main.py", max_members: int = MAX_MEMBERS, max_bytes: int = MAX_BYTES
) -> None:
    """Unpack an archive as the new directory `target`; call it in a thread.

    A single top directory that holds `entry`, while the root does not, is stripped (InfraX contract, section 1.1).
    Executable bits are kept; owners, times and other mode bits are not. `max_bytes` counts what is really unpacked,
    whatever the headers say. Raises BadArchive, ArchiveTooLarge, FileBadPath, FileDuplicate, DiskFull; `target` is
    not there then.
    """
    staged = Path(mkdtemp(dir=target.parent, prefix=".unpack-"))
    try:
        with disk_full():
            tree = _Tree(staged / "tree", max_members, max_bytes)
            with _broken_archive():
                _read(archive, tree)
            tree.finish(entry).rename(target)
    finally:
        discard(staged)


def from_files(files: tuple[FileRef, ...], blobs: Blobs, target: Path) -> None:
    """Lay blobs out as the new source directory `target`, the networks' own form of an app.

    Raises FileBadPath, FileDuplicate, InputUnavailable; `target` is not there then.
    """
    refuse_duplicates(safe_path(file.path) for file in files)
    staged = Path(mkdtemp(dir=target.parent, prefix=".unpack-"))
    try:
        (staged / "tree").mkdir()
        blobs.link(files, staged / "tree")
        (staged / "tree").rename(target)
    finally:
        discard(staged)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """One member of an archive: its name as the archive has it, and how to read its bytes."""

    name: str
    kind: Literal["file", "directory", "link"]
    executable: bool = False
    open: Callable[[], IO[bytes]]


class _Tree:
    """A directory that is filled from an archive, with the checks that all formats share."""

    def __init__(self, root: Path, max_members: int, max_bytes: int) -> None:
        self.max_members, self.max_bytes = max_members, max_bytes
        self._root = root
        self._members = 0
        self._left = max_bytes
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._links: dict[str, str] = {}
        root.mkdir()

    def add(self, member: _Member) -> None:
        self._members += 1
        if self._members > self.max_members:
            raise ArchiveTooLarge(f"The archive has more than {self.max_members} members.")
        name = _without_dot(member.name)
        if member.kind == "directory":
            self._make_folder(safe_path(name) if name else "")
            return
        path = safe_path(name)
        if path in self._files or path in self._folders or path in self._links:
            raise FileDuplicate(f"The archive holds {shown(path)} twice.", path=shown(path))
        self._make_folder(path.rpartition("/")[0])
        with member.open() as content:
            if member.kind == "link":
                self._links[path] = _link_target(path, content)
            else:
                self._write(path, content, 0o755 if member.executable else 0o644)

    def finish(self, entry: str) -> Path:
        """Make the links, now that nothing is written through them any more, and give the root of the source."""
        for path, target in self._links.items():
            (self._root / path).symlink_to(target)
        root = self._root
        tops = list(root.iterdir())
        if len(tops) == 1 and not tops[0].is_symlink() and not (root / entry).exists() and (tops[0] / entry).exists():
            root = tops[0]
        for path in self._links:
            inner_link(root, str((self._root / path).relative_to(root)))
        return root

    def _make_folder(self, path: str) -> None:
        at = ""
        for part in path.split("/") if path not in self._folders and path else ():
            at = f"{at}/{part}" if at else part
            if at in self._links:
                raise FileBadPath(f"The archive has a member below the link {shown(at)}.", path=shown(at))
            if at in self._files:
                raise FileDuplicate(f"The archive holds {shown(at)} as a file and as a directory.", path=shown(at))
            (self._root / at).mkdir(exist_ok=True)
            self._folders.add(at)

    def _write(self, path: str, content: IO[bytes], mode: int) -> None:
        self._files.add(path)
        fd = os.open(self._root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            while chunk := content.read(CHUNK):
                self._left -= len(chunk)
                if self._left < 0:
                    raise ArchiveTooLarge(f"The archive unpacks to more than {self.max_bytes} bytes.")
                file.write(chunk)


def _without_dot(name: str) -> str:
    """Drop what `tar -c .` puts before every name, and the slash after that of a directory."""
    name = "" if name == "." else name
    return name.removeprefix("./").removesuffix("/")


def _link_target(path: str, content: IO[bytes]) -> str:
    target = content.read(MAX_LINK + 1)
    if not target or len(target) > MAX_LINK or b"\0" in target:
        raise BadArchive(f"The link {shown(path)} has no usable target.")
    return os.fsdecode(target)


@contextmanager
def _broken_archive() -> Iterator[None]:
    """Say in our words whatever the libraries raise when an archive is not what it should be."""
    try:
        yield
    except MoorageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise  # the disk's fault, not the archive's
        raise BadArchive("The archive is damaged, cut off or of an unknown format.") from error


def _read(archive: Path, tree: _Tree) -> None:
    with archive.open("rb") as file:
        magic = file.read(4)
    if magic in {_ZIP, _EMPTY_ZIP}:
        _read_zip(archive, tree)
    elif magic.startswith(_GZIP):
        with gzip.open(archive) as content:
            _read_tar(content, tree)
    else:
        with archive.open("rb") as content:
            _read_tar(content, tree)


class _ZipFile(FileIO):
    """A zip file whose table of contents is refused before the library makes objects of a million entries."""

    max_members = MAX_MEMBERS

    def read(self, size: int | None = -1, /) -> bytes:
        large = size is not None and size > self.max_members * KIB
        data = b"" if large else super().read(size) or b""
        if large or data.count(_ZIP_ENTRY) > self.max_members:
            raise ArchiveTooLarge(f"The archive has more than {self.max_members} members.")
        return data


def _read_zip(archive: Path, tree: _Tree) -> None:
    with _ZipFile(archive) as file:
        file.max_members = tree.max_members
        with zipfile.ZipFile(file) as content:
            for info in content.infolist():
                tree.add(_zip_member(content, info))


def _zip_member(content: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    name = _zip_name(info)
    if info.flag_bits & _ENCRYPTED:
        raise BadArchive(f"{shown(name)} is encrypted.", hint="Make the archive without a password.")
    if info.compress_type not in _COMPRESSION:
        raise BadArchive(f"{shown(name)} is compressed in an unusual way.", hint="Use the usual `deflate`.")
    mode = info.external_attr >> 16
    kinds: dict[int, Literal["file", "directory", "link"]] = {
        0: "directory" if name.endswith("/") else "file",
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "link",
    }
    kind = kinds.get(stat.S_IFMT(mode))
    if kind is None:
        raise _special(name)
    return _Member(name=name, kind=kind, executable=bool(mode & stat.S_IXUSR), open=lambda: content.open(info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Read a name as UTF-8 whether or not the archive says so; the library reads it as code page 437 if not."""
    name = info.orig_filename
    return name if info.flag_bits & _UTF8 else os.fsdecode(name.encode("cp437"))


class _TarFile:
    """The bytes of a tar with bounds on how much of it is read, and at once: the library trusts its headers."""

    def __init__(self, content: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self._content, self._limit = content, limit
        self._last = b""

    def read(self, size: int) -> bytes:
        if size > CHUNK:
            raise BadArchive("The archive has a header of more than 1 MiB.")
        self._last = self._content.read(size)
        self._check()
        return self._last

    def seek(self, position: int) -> int:
        self._content.seek(position)
        self._check()
        return position

    def tell(self) -> int:
        return self._content.tell()

    def _check(self) -> None:
        if self.tell() > self._limit:
            raise ArchiveTooLarge(f"The archive unpacks to more than {self._limit} bytes.")

    def check_end(self) -> None:
        """Make sure that reading stopped at the mark of the end, and that what is left (a checksum) is sound."""
        if self._last != bytes(_BLOCK):
            raise BadArchive("The archive is damaged or cut off.")
        while self.read(CHUNK):
            pass


def _read_tar(content: IO[bytes] | gzip.GzipFile, tree: _Tree) -> None:
    file = _TarFile(content, tree.max_bytes + tree.max_members * 4 * KIB)
    with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:", encoding="utf-8") as tar:
        while (info := tar.next()) is not None:
            tree.add(_tar_member(tar, info))
            tar.members.clear()  # type: ignore[attr-defined] # the library would keep them all in memory
    file.check_end()


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if info.issym():
        target = os.fsencode(info.linkname)
        return _Member(name=info.name, kind="link", open=lambda: BytesIO(target))
    if info.isdir():
        return _Member(name=info.name, kind="directory", open=BytesIO)
    if not info.isreg():
        raise _special(info.name)
    executable = bool(info.mode & stat.S_IXUSR)
    return _Member(name=info.name, kind="file", executable=executable, open=lambda: _tar_content(tar, info))


def _tar_content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(info)
    assert content is not None  # it is a regular file
    return content


def _special(name: str) -> BadArchive:
    return BadArchive(f"{shown(name)} is a hard link, device or FIFO.")
