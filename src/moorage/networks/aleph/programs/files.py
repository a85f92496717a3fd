"""Files of programs, unpacked once and kept by their content (contract, section 2.4)."""

import asyncio
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

from moorage.blobs.space import disk_full
from moorage.errors import ArchiveTooLarge, BadArchive, DiskFull, InternalError
from moorage.layers import archives
from moorage.layers.links import inner_link
from moorage.layers.once import Once, Progress
from moorage.layers.publish import discard, empty, publish
from moorage.model.limits import GIB, MIB
from moorage.networks.aleph.messages.program import Encoding
from moorage.networks.aleph.programs.deployments import StoredFile
from moorage.networks.aleph.programs.squashfs import MAGIC, Run, Squashfs
from moorage.sandbox.base import SANDBOX_UID

MAX_MEMBERS = archives.MAX_MEMBERS
MAX_BYTES = 16 * GIB
"""What an archive may unpack to."""
MAX_RATIO, UNSUSPICIOUS = 200, 256 * MIB
"""How many times its own size an archive may unpack to, and the bytes that any may."""
PLAIN = "data"
"""Name of the file in a tree that was made of a plain one."""

_GZIP, _TAR, _TAR_AT = b"\x1f\x8b", b"ustar", 257
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}


class Files:
    """Trees below one directory, to be read only; the sandbox's user can read them."""

    def __init__(self, root: Path, run: Run) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._staging = root, empty(root / ".staging")
        self._once = Once()
        self.squashfs = Squashfs(self._staging, run)

    async def tree(self, file: StoredFile, encoding: Encoding | None) -> Path:
        """Give a directory with what a stored file holds; of a plain file, itself under the name PLAIN.

        How an archive is packed is told by its content, which leaves open only whether it is one; None tells that by
        the content too. Everything is executable that the archive says, and a plain file.
        Raises BadArchive, ArchiveTooLarge, FileBadPath, FileDuplicate, DiskFull, SandboxUnavailable.
        """
        plain = encoding == "plain" or (encoding is None and not is_archive(file.path))
        name = f"{'plain' if plain else 'archive'}-{file.digest}"

        async def make(_: Progress) -> str:
            await self._make(file.path, self._root / name, plain=plain)
            return name

        if not (self._root / name).is_dir():
            await self._once.do(name, make, lambda _: None)
        return self._root / name

    async def _make(self, file: Path, target: Path, *, plain: bool) -> None:
        place = Path(mkdtemp(dir=self._staging))
        try:
            with disk_full():
                staged = place / "tree"
                await (asyncio.to_thread(_copy_plain, file, staged) if plain else self._unpack(file, staged))
                await asyncio.to_thread(settle, staged)
                await asyncio.to_thread(publish, staged, target)
        finally:
            await asyncio.to_thread(discard, place)

    async def _unpack(self, file: Path, target: Path) -> None:
        limit = most_bytes(file)
        if _begins(file, MAGIC):
            await self.squashfs.unpack(file, target, max_members=MAX_MEMBERS, max_bytes=limit)
        else:
            await asyncio.to_thread(unpack, file, target)


def unpack(file: Path, target: Path) -> None:
    """Unpack a zip or tar as the new directory `target`. Raises like `Files.tree`."""
    # An empty name is always there, so that no top directory is stripped.
    archives.unpack(file, target, entry="", max_members=MAX_MEMBERS, max_bytes=most_bytes(file))


def most_bytes(file: Path) -> int:
    """Tell what an archive may unpack to."""
    return min(MAX_BYTES, max(UNSUSPICIOUS, MAX_RATIO * file.stat().st_size))


def is_archive(file: Path) -> bool:
    """Tell by its content whether a file is an archive that is unpacked."""
    return _begins(file, MAGIC, _GZIP) or _begins(file, _TAR, at=_TAR_AT) or zipfile.is_zipfile(file)


def settle(tree: Path) -> None:
    """Make an unpacked tree what the sandbox may see: its user's own, and with no bits but those of execution.

    Raises BadArchive for a device and the like, FileBadPath for a link that leads out, ArchiveTooLarge.
    """
    for number, path in enumerate(_paths(tree)):
        if number > MAX_MEMBERS:
            raise ArchiveTooLarge(f"The archive has more than {MAX_MEMBERS} members.")
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            inner_link(tree, str(path.relative_to(tree)))
        elif stat.S_ISREG(mode):
            path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
        elif not stat.S_ISDIR(mode):
            raise BadArchive("The archive holds a device, FIFO or socket.")
        own(path)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree as the new directory `target`, by reflinks where possible. Raises DiskFull."""
    command = ("cp", "-a", "--reflink=auto", "--", source, target)
    result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", env=_ENVIRONMENT)
    if result.returncode == 0:
        return
    if "No space left" in result.stderr or "quota exceeded" in result.stderr:
        raise DiskFull
    raise InternalError(f"A tree could not be copied: {result.stderr.strip()[-500:]}")


def own(path: Path) -> None:
    """Give a file, directory or link of the node's to the user that isolated processes are."""
    if os.geteuid() == 0:
        os.lchown(path, SANDBOX_UID, SANDBOX_UID)


def _paths(tree: Path) -> Iterator[Path]:
    """Go through a tree, directories first, and open each on the way."""
    pending = [tree]
    while pending:
        path = pending.pop()
        yield path
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
            pending.extend(path.iterdir())


def _copy_plain(file: Path, target: Path) -> None:
    target.mkdir()
    shutil.copyfile(file, target / PLAIN)
    (target / PLAIN).chmod(0o755)


def _begins(file: Path, *heads: bytes, at: int = 0) -> bool:
    with file.open("rb") as opened:
        opened.seek(at)
        return opened.read(max(map(len, heads))).startswith(heads)
