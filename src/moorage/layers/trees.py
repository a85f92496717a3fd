"""Source trees as layers: an app's files under the name of their digest."""

import asyncio
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from tempfile import mkdtemp

from moorage.blobs.local import CHUNK
from moorage.blobs.names import safe_path, shown
from moorage.blobs.space import disk_full
from moorage.errors import BadApp, MoorageError, NotFound
from moorage.layers.links import inner_link
from moorage.layers.publish import discard, empty, publish

_NAME = re.compile(r"tree-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A stored source tree: its layer name, the digest of its files, their total size in bytes and their number."""

    name: str
    digest: str
    size: int
    files: int


class Trees:
    """Source trees below one directory of layers.

    The digest is that of the InfraX contract (section 1.3): SHA-256 over one line per regular file,
    `<sha256 hex> <x or -> <size> <relative path>`, sorted by the UTF-8 bytes of the path. A symbolic link, which the
    contract leaves open, adds the line `<sha256 hex of its target> l <bytes of its target> <relative path>`: a tree
    without links has exactly the contract's digest, and two different trees never share a name. For the same reason
    a stored tree has no empty directories, and of modes it keeps only whether a file is executable.
    """

    def __init__(self, root: Path, *, owner: int | None) -> None:
        self._root = root
        self._owner = owner
        self._staging = empty(root / ".trees")

    @staticmethod
    def name(digest: str) -> str:
        """Name the layer that holds the tree with this digest."""
        return f"tree-{digest}"

    def path(self, name: str) -> Path:
        """Give the directory of a stored tree, to be read only. Raises NotFound."""
        path = self._root / name
        if not _NAME.fullmatch(name) or not path.is_dir():
            raise NotFound(f"There is no tree {shown(name)}.", hint="Add the app again from its source.")
        return path

    async def add(self, source: Path, ignore: Iterable[str] = ()) -> Tree:
        """Store a copy of the files below `source`, leaving out the top-level entries named in `ignore`.

        Its files belong to the owner that the trees were opened with. Raises FileBadPath, DiskFull, and BadApp for a
        link that leads out of the source and for anything that is no file, directory or link.
        """
        return await asyncio.to_thread(self._add, source, frozenset(ignore))

    async def verify(self, name: str) -> bool:
        """Tell whether a stored tree is there and still has the digest that it is named by."""
        return await asyncio.to_thread(self._verify, name)

    def _add(self, source: Path, ignore: frozenset[str]) -> Tree:
        tree = describe(source, ignore)
        if self._verify(tree.name):
            return tree
        with disk_full():
            staged = Path(mkdtemp(dir=self._staging))
            try:
                return self._store(source, ignore, staged / "tree")
            finally:
                discard(staged)

    def _store(self, source: Path, ignore: frozenset[str], staged: Path) -> Tree:
        _copy(source, staged, ignore)
        self._settle(staged)
        tree = describe(staged)  # of what is stored: the source may have changed meanwhile
        target = self._root / tree.name
        if target.exists() and not self._verify(tree.name):
            target.rename(staged.with_name("altered"))
        publish(staged, target)
        return tree

    def _settle(self, staged: Path) -> None:
        """Make directories readable to all, and give everything to the owner."""
        for path in (staged, *staged.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
            if self._owner is not None:
                os.chown(path, self._owner, self._owner, follow_symlinks=False)

    def _verify(self, name: str) -> bool:
        try:
            return describe(self.path(name)).name == name
        except (MoorageError, OSError):
            return False


def describe(root: Path, ignore: Collection[str] = ()) -> Tree:
    """Work out the digest of the files below a directory without storing them. Raises FileBadPath, BadApp."""
    lines = []
    total = 0
    for path in sorted(_entries(root, ignore), key=str.encode):
        line, size = _line(root, path)
        lines.append(line)
        total += size
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Tree(name=Trees.name(digest), digest=digest, size=total, files=len(lines))


def _entries(root: Path, ignore: Collection[str]) -> Iterator[str]:
    """Yield the relative paths of all files and links, in no order."""
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if not folder and entry.name in ignore:
                    continue
                path = safe_path(f"{folder}/{entry.name}" if folder else entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                else:
                    yield path


def _line(root: Path, path: str) -> tuple[str, int]:
    file = root / path
    if file.is_symlink():
        target = os.fsencode(inner_link(root, path))
        return f"{hashlib.sha256(target).hexdigest()} l {len(target)} {path}\n", 0
    with _opened(file, path) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return f"{digest} {'x' if _executable(opened) else '-'} {opened.tell()} {path}\n", opened.tell()


def _copy(source: Path, staged: Path, ignore: frozenset[str]) -> None:
    staged.mkdir()
    for path in _entries(source, ignore):
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / path).is_symlink():
            target.symlink_to(inner_link(source, path))
        else:
            _copy_file(source, path, target)


def _copy_file(source: Path, path: str, target: Path) -> None:
    with _opened(source / path, path) as opened, target.open("xb") as copy:
        shutil.copyfileobj(opened, copy, CHUNK)
        os.fchmod(copy.fileno(), 0o755 if _executable(opened) else 0o644)


@contextmanager
def _opened(file: Path, path: str) -> Iterator[BufferedReader]:
    """Open a regular file; O_NONBLOCK lets a FIFO be told from it without waiting for a writer."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise BadApp(f"{shown(path)} cannot be read.", hint="Make it readable, or leave it out.") from error
    except OSError as error:
        if error.errno != errno.ENXIO:  # a socket, or a device without a driver
            raise
        raise _special(path) from error
    with os.fdopen(fd, "rb") as opened:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _special(path)
        yield opened


def _special(path: str) -> BadApp:
    return BadApp(f"{shown(path)} is neither a file nor a directory.", hint="Remove it from the app's folder.")


def _executable(opened: BufferedReader) -> bool:
    return bool(os.fstat(opened.fileno()).st_mode & stat.S_IXUSR)
