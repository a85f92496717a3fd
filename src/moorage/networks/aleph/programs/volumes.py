"""Volumes that outlive instances: directories by program and name (contract, section 2.5)."""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from moorage.blobs.base import Blobs
from moorage.blobs.space import disk_full
from moorage.layers.once import Once, Progress
from moorage.layers.publish import discard, empty, publish
from moorage.networks.aleph.programs.export import Archive, archive
from moorage.networks.aleph.programs.files import settle, unpack
from moorage.sandbox.disk import UNKNOWN, DiskWatch, usage_of

Fill = Callable[[Path], Awaitable[None]]
"""Makes a directory that is not there yet, with what a new volume begins with."""

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Volumes:
    """Persistent volumes below one directory.

    They belong to the original of a program: its versions share them.
    """

    def __init__(self, root: Path, blobs: Blobs) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._blobs = root, blobs
        self._staging = empty(root / ".staging")
        self._once = Once()

    async def open(self, origin: str, name: str, fill: Fill | None = None) -> Path:
        """Give the directory of a volume.

        One that is not here is made of its last snapshot, else by `fill`, else empty. Raises what `fill` does,
        DiskFull, and NotFound if the bytes of the snapshot are gone.
        """
        path = self._path(origin, name)

        async def make(_: Progress) -> str:
            await self._make(path, fill)
            return path.name

        if not path.is_dir():
            await self._once.do(str(path), make, lambda _: None)
        return path

    async def snapshot(self, origin: str, name: str) -> Archive | None:
        """Store what a volume holds now; None if it is not here. Equal contents are stored once.

        Raises like `archive`.
        """
        path = self._path(origin, name)
        if not path.is_dir():
            return None
        made = await archive(path, "tar.gzip", self._blobs)
        await asyncio.to_thread(_keep, _record(path), made)
        return made

    async def erase(self, origin: str) -> None:
        """Remove the volumes of a program that does not run, and forget their snapshots."""
        doomed = Path(mkdtemp(dir=self._staging))
        with contextlib.suppress(FileNotFoundError):
            self._path(origin).rename(doomed / "volumes")
        await asyncio.to_thread(discard, doomed)

    def _path(self, *names: str) -> Path:
        return self._root.joinpath(*map(_component, names))

    async def _make(self, path: Path, fill: Fill | None) -> None:
        place = Path(mkdtemp(dir=self._staging))
        staged = place / "volume"
        try:
            with disk_full():
                path.parent.mkdir(exist_ok=True)
                if _record(path).exists():
                    await asyncio.to_thread(self._restore, _record(path), staged)
                elif fill is not None:
                    await fill(staged)
                else:
                    staged.mkdir()
                await asyncio.to_thread(publish, staged, path)
        finally:
            await asyncio.to_thread(discard, place)

    def _restore(self, record: Path, staged: Path) -> None:
        unpack(self._blobs.path(json.loads(record.read_bytes())["digest"]), staged)
        settle(staged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A directory that a program may fill."""

    path: Path
    limit: int
    """Bytes."""


@contextlib.asynccontextmanager
async def watched(rooms: Iterable[Room], on_excess: Callable[[], None]) -> AsyncIterator[None]:
    """Call back when a directory grows over its limit, for as long as the context lasts.

    One that is over it already may be read and emptied: it must not grow further. One that cannot be measured may not.
    """
    sizes = [(room, await asyncio.to_thread(usage_of, room.path)) for room in rooms]
    limits = [(room.path, room.limit if size == UNKNOWN else max(room.limit, size)) for room, size in sizes]
    watches = [DiskWatch(path, limit, on_excess) for path, limit in limits]
    try:
        yield
    finally:
        for watch in watches:
            watch.stop()


def _component(name: str) -> str:
    """Make the name of a directory of any text; only of those that cannot be one it is not the text itself."""
    return name if _SAFE.fullmatch(name) else f"sha256.{hashlib.sha256(name.encode()).hexdigest()}"


def _record(volume: Path) -> Path:
    """Tell where the last snapshot of a volume is noted."""
    return volume.with_name(f"{volume.name}.snapshot")


def _keep(record: Path, snapshot: Archive) -> None:
    """Note a snapshot, whole or not at all."""
    staged = record.with_name(f"{record.name}.new")
    staged.write_text(json.dumps({"digest": snapshot.digest, "size": snapshot.size}))
    staged.replace(record)
