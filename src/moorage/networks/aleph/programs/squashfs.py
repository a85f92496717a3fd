"""Squashfs images, read and written by squashfs-tools in a sandbox: they parse what strangers sent."""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from tempfile import mkdtemp

from moorage.blobs.beneath import open_file, open_root
from moorage.blobs.space import disk_full
from moorage.errors import ArchiveTooLarge, BadArchive, InternalError, SandboxUnavailable
from moorage.layers.publish import discard
from moorage.model.limits import GIB, MIB, Limits
from moorage.sandbox.base import Exit, Mount, ProcessSpec, ReadOnly, Writable

Run = Callable[[ProcessSpec], Awaitable[Exit]]
"""Runs a process in isolation to its end; cancelled, it kills the process."""

MAGIC = b"hsqs"
TIMEOUT = 900
"""Seconds that one run of a tool may take."""
MAX_LISTING = 64 * MIB
IN, OUT = "/in", "/out"
"""Where a tool sees what it reads, and the directory that it writes into."""

_ENTRY = re.compile(rb"([-dl])[-rwxsStT]{9} +\d+/\d+ +(\d+) [-\d]{10} [:\d]{5} /out/tree")
_SPECIAL = re.compile(rb"[bcps][-rwxsStT]{9} ")


class Squashfs:
    """Unpacks and makes images, in private directories below one."""

    def __init__(self, staging: Path, run: Run) -> None:
        self._staging, self._run = staging, run

    async def unpack(
        self, image: Path, target: Path, *, max_members: int, max_bytes: int, devices: bool = False
    ) -> None:
        """Unpack an image as the new directory `target`; what is in it is still to be checked.

        `target` is on the same file system as ours. With `devices` the image may hold some, which are left out.
        Raises BadArchive, ArchiveTooLarge, DiskFull, SandboxUnavailable.
        """
        with self._place() as out:
            mounts = (ReadOnly(source=image, target=IN), Writable(source=out, target=OUT))
            unpack = f"unsquashfs -da 64 -fr 64 -no-xattrs -no-progress -d {OUT}/tree"
            await self._unsquash(f"{unpack} -lln {IN} > {OUT}/listing", mounts, MAX_LISTING)
            await asyncio.to_thread(_check_listing, out, max_members, max_bytes, devices=devices)
            await self._unsquash(f"{unpack} {'-no-exit-code ' if devices else ''}{IN}", mounts, max_bytes)
            (out / "tree").rename(target)

    @contextlib.asynccontextmanager
    async def packed(self, tar: Iterable[bytes], *, max_bytes: int) -> AsyncIterator[int]:
        """Make an image of a tar; give a descriptor of it, which is closed when the context ends.

        The same tar gives the same image. Raises DiskFull, SandboxUnavailable, and whatever reading the tar does.
        """
        with self._place() as out:
            await asyncio.to_thread(_write, out / "tar", tar)
            mounts = (ReadOnly(source=out / "tar", target=IN), Writable(source=out, target=OUT))
            times = "-all-time 0 -mkfs-time 0"
            command = f"sqfstar -mem 256M -all-root -root-mode 755 {times} -no-progress {OUT}/image < {IN}"
            if await self._tool(command, mounts, max_bytes):
                raise InternalError("The squashfs image could not be made.")
            image = _open(out, "image")
            try:
                yield image
            finally:
                os.close(image)

    async def _unsquash(self, command: str, mounts: tuple[Mount, ...], max_file: int) -> None:
        if await self._tool(command, mounts, max_file):
            raise BadArchive("The squashfs image is damaged, cut off or in part of a kind that is not unpacked.")

    async def _tool(self, command: str, mounts: tuple[Mount, ...], max_file: int) -> int:
        """Run a command line of the node's own, and give its exit status."""
        if shutil.which("unsquashfs") is None or shutil.which("sqfstar") is None:
            raise SandboxUnavailable(
                "Squashfs images cannot be used: squashfs-tools (4.5 or newer) is not installed.",
                hint="Install it: apt install squashfs-tools",
            )
        return await run_tool(self._run, command, mounts, max_file=max_file)

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        place = Path(mkdtemp(dir=self._staging))
        try:
            with disk_full():
                yield place
        finally:
            discard(place)


async def run_tool(run: Run, command: str, mounts: tuple[Mount, ...], *, max_file: int) -> int:
    """Run a command line of the node's own in OUT, and give its exit status; no file grows beyond `max_file` bytes."""
    spec = ProcessSpec(
        argv=("timeout", "--signal=KILL", str(TIMEOUT), "sh", "-c", f"exec {command}"),
        cwd=OUT,
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        mounts=mounts,
        limits=Limits(memory=GIB, disk=max_file),
    )
    return (await run(spec)).status


def _check_listing(out: Path, max_members: int, max_bytes: int, *, devices: bool) -> None:
    """Refuse an image that would take too much, or has an entry that no archive may have.

    A name with a line feed makes a line that is none of an entry, and is refused too.
    """
    size = 0
    with os.fdopen(_open(out, "listing"), "rb") as listing:
        for number, line in enumerate(listing):
            if _SPECIAL.match(line):
                if devices:
                    continue
                raise BadArchive("The squashfs image holds a device, FIFO or socket.")
            entry = _ENTRY.match(line)
            if entry is None:
                raise BadArchive("The squashfs image holds a name with a control character.")
            size += int(entry[2]) if entry[1] == b"-" else 0
            if number > max_members or size > max_bytes:
                raise ArchiveTooLarge(f"The squashfs image holds more than {max_members} members or {max_bytes} bytes.")


def _open(out: Path, name: str) -> int:
    root = open_root(out)
    try:
        file = open_file(root, name)
    finally:
        os.close(root)
    if file is None:
        raise BadArchive("Reading the squashfs image came to nothing.")
    return file


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)
