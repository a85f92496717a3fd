"""Blobs on a local disk: what is left behind, who owns them, what a full disk does, what a big file costs."""

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.blobs.local import LocalBlobs
from moorage.errors import BlobMismatch, DiskFull
from moorage.model.jobs import FileRef
from moorage.sandbox.base import SANDBOX_UID
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def temporaries(root: Path) -> list[str]:
    return [path.name for path in (root / "tmp").iterdir()]


async def test_a_blob_lies_under_its_digest_and_can_be_read_by_all(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        digest, _ = await LocalBlobs(tmp_path, owner=None).put_bytes(b"hello")
    finally:
        os.umask(before)
    blob = tmp_path / "sha256" / digest[:2] / digest[2:]
    assert blob.read_bytes() == b"hello"
    assert blob.stat().st_mode & 0o7777 == 0o644


@as_root
async def test_blobs_and_the_directories_around_their_links_belong_to_the_sandboxed_user(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs", owner=SANDBOX_UID)
    (tmp_path / "file").write_bytes(b"file")
    digests = [(await blobs.put_bytes(b"a"))[0], (await blobs.put_file(tmp_path / "file"))[0]]
    digests.append((await blobs.put(stream(b"s")))[0])
    blobs.link((FileRef(path="d/e/a", digest=digests[0], size=1),), tmp_path / "input")
    made = [blobs.path(digest) for digest in digests] + [tmp_path / "input" / part for part in (".", "d", "d/e")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(SANDBOX_UID, SANDBOX_UID)}
    assert (tmp_path / "input/d").stat().st_mode & 0o7777 == 0o755


async def test_no_temporary_file_is_left_whether_it_went_well_or_not(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, owner=None)
    await blobs.put(stream(b"x"))
    await blobs.put(stream(b"x"))
    await blobs.put_bytes(b"y")
    with pytest.raises(BlobMismatch):
        await blobs.put(stream(b"z"), expect="0" * 64)
    with pytest.raises(IsADirectoryError):
        await blobs.put_file(tmp_path)
    assert temporaries(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, owner=None)
    first_written = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield os.urandom(1 << 20)
            first_written.set()

    upload = asyncio.create_task(blobs.put(endless()))
    await first_written.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert temporaries(tmp_path) == []
    assert [path for path in (tmp_path / "sha256").rglob("*") if path.is_file()] == []


async def test_what_a_crashed_node_left_is_removed_and_its_blobs_are_kept(tmp_path: Path) -> None:
    digest, _ = await LocalBlobs(tmp_path, owner=None).put_bytes(b"kept")
    (tmp_path / "tmp" / "4711-0").write_bytes(b"half")
    blobs = LocalBlobs(tmp_path, owner=None)
    assert temporaries(tmp_path) == []
    assert blobs.path(digest).read_bytes() == b"kept"


async def test_the_digest_is_that_of_the_stored_bytes_even_if_the_file_changes_meanwhile(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs", owner=None)
    file = tmp_path / "changing"
    file.write_bytes(b"\0" * (32 << 20))
    stop = threading.Event()

    def change() -> None:
        with file.open("r+b", buffering=0) as opened:
            while not stop.is_set():
                opened.seek(int.from_bytes(os.urandom(3)) * 2)
                opened.write(os.urandom(4096))

    changer = threading.Thread(target=change)
    changer.start()
    try:
        digest, size = await blobs.put_file(file)
    finally:
        stop.set()
        changer.join()
    stored = blobs.path(digest).read_bytes()
    assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (digest, size)


async def test_many_at_once_store_the_same_bytes_once(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, owner=None)
    stored = await asyncio.gather(*(blobs.put(stream(b"one", b"two")) for _ in range(40)))
    assert len(set(stored)) == 1
    assert len([path for path in (tmp_path / "sha256").rglob("*") if path.is_file()]) == 1
    assert temporaries(tmp_path) == []


async def test_where_no_link_can_be_made_the_file_is_copied(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    directory = other / f"moorage-test-{os.getpid()}"
    blobs = LocalBlobs(tmp_path, owner=None)
    digest, _ = await blobs.put_bytes(b"far")
    try:
        blobs.link((FileRef(path="a/b", digest=digest, size=3),), directory)
        assert (directory / "a/b").read_bytes() == b"far"
    finally:
        for path in (directory / "a/b", directory / "a", directory):
            path.unlink() if path.is_file() else path.rmdir()


async def on_a_full_disk(disk: Path) -> None:
    blobs = LocalBlobs(disk / "blobs", owner=None)
    kept, _ = await blobs.put_bytes(b"kept")
    big = disk / "big"
    big.write_bytes(b"x" * (3 << 20))
    for attempt in (
        lambda: blobs.put(stream(*(os.urandom(1 << 20) for _ in range(4)))),
        lambda: blobs.put_bytes(os.urandom(4 << 20)),
        lambda: blobs.put_file(big),
    ):
        with pytest.raises(DiskFull) as caught:
            await attempt()
        assert caught.value.retryable
        assert temporaries(disk / "blobs") == []
    assert [path.name for path in (disk / "blobs/sha256").rglob("*") if path.is_file()] == [kept[2:]]
    big.unlink()
    await blobs.put_bytes(os.urandom(2 << 20))


async def test_a_full_disk_is_said_so_and_keeps_no_half_of_anything(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")


_MEASURE = """
import asyncio, os, resource, sys
from pathlib import Path
from moorage.blobs.local import LocalBlobs

async def chunks():
    for _ in range(4096):
        yield bytes(65536)

async def main(root):
    blobs = LocalBlobs(root / "blobs", owner=None)
    await blobs.put_bytes(b"warm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await blobs.put(chunks())
    with (root / "sparse").open("wb") as file:
        file.truncate((256 << 20) + 1)
    await blobs.put_file(root / "sparse")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_file_of_256_mib_costs_a_few_mib_of_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) < 16 * 1024
