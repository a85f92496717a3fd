"""Root file systems of programs: what their runtimes stand for on this node (contract, section 2.3).

They are the operator's, or were stored as runtimes are on the network. Unlike in the archives of programs, links may be
absolute there, and devices are left out: the node itself follows no link of theirs, and the sandbox shows them alone.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from moorage.blobs.space import disk_full
from moorage.errors import BadArchive, MoorageError, SourceNotFound
from moorage.layers.once import Once, Progress
from moorage.layers.publish import discard, empty, publish
from moorage.networks.aleph.config import DEFAULT_RUNTIME
from moorage.networks.aleph.programs.deployments import Deployment
from moorage.networks.aleph.programs.files import MAX_BYTES, most_bytes
from moorage.networks.aleph.programs.logs import ProgramLog
from moorage.networks.aleph.programs.squashfs import IN, MAGIC, OUT, Run, Squashfs, run_tool
from moorage.sandbox.base import ReadOnly, Writable

BUILT_IN = "python"
IMAGE = "image:"
MAX_MEMBERS = 400_000
UNKNOWN = (
    "The runtime {ref} is not on this node: the program runs on the built-in one. "
    "The operator can map it to a root file system, or to `python`, in [networks.aleph.runtimes]."
)
UNTAR = f"tar -x -p --no-same-owner --anchored --exclude=dev/* --exclude=./dev/* -f {IN} -C {OUT}"


class Images(Protocol):
    """The container engine, as networks.base.Port has it."""

    async def image(self, name: str) -> str:
        """Have an image; give its id."""

    async def export(self, image: str, target: Path) -> None:
        """Write the files of an image as the tar `target`."""


class Runtimes:
    """The root file systems below one directory, each unpacked when it is first needed."""

    def __init__(self, root: Path, mapped: Mapping[str, str], *, run: Run, images: Images) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._staging = root, empty(root / ".staging")
        self._mapped = {DEFAULT_RUNTIME: BUILT_IN, **mapped}
        self._run, self._images = run, images
        self._squashfs = Squashfs(self._staging, run)
        self._once = Once()

    async def root_of(self, deployment: Deployment, log: ProgramLog) -> Path | None:
        """Give the root file system of a program; None for the built-in runtime, which has that of the machine.

        A runtime that is not to be had keeps no program from running: the log says why it runs on the built-in one.
        """
        ref = deployment.program.runtime.ref
        stored = deployment.files.get(ref)
        meant = self._mapped.get(ref)
        if meant == BUILT_IN:
            return None
        try:
            if meant is not None:
                return await self._tree(meant)
            if stored is not None and _is_squashfs(stored.path):
                return await self._unpacked(stored.digest, file=stored.path)
        except (MoorageError, OSError) as error:
            log.say(f"The runtime {ref} cannot be used, the program runs on the built-in one: {error}")
            return None
        log.say(UNKNOWN.format(ref=ref))
        return None

    async def _tree(self, meant: str) -> Path:
        if meant.startswith(IMAGE):
            image = await self._images.image(meant.removeprefix(IMAGE))
            return await self._unpacked(image, image=image)
        path = Path(meant)
        if path.is_dir():
            return path
        if not path.is_file():
            raise SourceNotFound(f"There is no file or directory {path}.")
        status = path.stat()
        return await self._unpacked(f"{path} {status.st_size} {status.st_mtime_ns}", file=path)

    async def _unpacked(self, identity: str, *, file: Path | None = None, image: str = "") -> Path:
        """Give the tree of a file or image, which `identity` tells from others."""
        target = self._root / hashlib.sha256(identity.encode()).hexdigest()

        async def make(_: Progress) -> str:
            with self._place() as place:
                packed = file or place / "image.tar"
                if file is None:
                    await self._images.export(image, packed)
                await self._unpack(packed, place)
                await asyncio.to_thread(publish, place / "tree", target)
            return target.name

        if not target.is_dir():
            await self._once.do(target.name, make, lambda _: None)
        return target

    async def _unpack(self, file: Path, place: Path) -> None:
        tree = place / "tree"
        if _is_squashfs(file):
            limit = most_bytes(file)
            await self._squashfs.unpack(file, tree, max_members=MAX_MEMBERS, max_bytes=limit, devices=True)
        else:
            tree.mkdir()
            mounts = (ReadOnly(source=file, target=IN), Writable(source=tree, target=OUT))
            if await run_tool(self._run, UNTAR, mounts, max_file=MAX_BYTES):
                raise BadArchive(f"{file.name} is no squashfs image or tar, or is damaged.")
        tree.chmod(0o755)

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        place = Path(mkdtemp(dir=self._staging))
        try:
            with disk_full():
                yield place
        finally:
            discard(place)


def _is_squashfs(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC
