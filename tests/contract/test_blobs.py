"""What every blob store does."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from moorage.blobs.base import Blobs
from moorage.blobs.local import LocalBlobs
from moorage.errors import BlobMismatch, FileBadPath, InputUnavailable, NotFound
from moorage.model.jobs import FileRef

pytestmark = pytest.mark.anyio

MAKERS: dict[str, Callable[[Path], Blobs]] = {"local": lambda root: LocalBlobs(root, owner=None)}


@pytest.fixture(params=MAKERS)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return MAKERS[request.param](tmp_path / "blobs")


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_stream_is_stored_under_the_sha256_of_its_bytes(blobs: Blobs) -> None:
    chunks = (b"a" * 700_000, b"", b"b" * 700_000, b"c" * 3_000_000, b"d")
    data = b"".join(chunks)
    digest, size = await blobs.put(stream(*chunks))
    assert (digest, size) == (sha256(data), len(data))
    assert blobs.path(digest).read_bytes() == data
    assert blobs.size(digest) == len(data)


async def test_an_empty_stream_is_a_blob_too(blobs: Blobs) -> None:
    digest, size = await blobs.put(stream())
    assert (digest, size) == (sha256(b""), 0)
    assert blobs.size(digest) == 0


async def test_the_same_bytes_have_one_place_whichever_way_they_come(blobs: Blobs, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"same")
    with file.open("rb") as opened:
        digests = {
            (await blobs.put(stream(b"sa", b"me")))[0],
            (await blobs.put_bytes(b"same"))[0],
            (await blobs.put_bytes(b"same"))[0],
            (await blobs.put_file(file))[0],
            (await blobs.put_file(opened.fileno()))[0],
        }
    assert digests == {sha256(b"same")}


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, (3 << 20) + 17])
async def test_a_value_and_a_file_of_any_size_come_back_whole(blobs: Blobs, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert await blobs.put_bytes(data) == (sha256(data), size)
    assert await blobs.put_file(tmp_path / "file") == (sha256(data), size)
    assert blobs.path(sha256(data)).read_bytes() == data


async def test_an_open_file_is_stored_from_its_beginning_and_stays_open(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"whole")
    with (tmp_path / "file").open("rb") as opened:
        opened.seek(3)
        digest, _ = await blobs.put_file(opened.fileno())
        assert opened.read() == b"le"
    assert digest == sha256(b"whole")


async def test_bytes_that_are_not_what_was_announced_are_refused_and_not_kept(blobs: Blobs) -> None:
    with pytest.raises(BlobMismatch):
        await blobs.put(stream(b"other"), expect=sha256(b"announced"))
    assert blobs.size(sha256(b"other")) is None
    assert blobs.size(sha256(b"announced")) is None
    assert await blobs.put(stream(b"announced"), expect=sha256(b"announced")) == (sha256(b"announced"), 9)


async def test_a_stream_that_breaks_off_leaves_nothing(blobs: Blobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(broken())
    assert blobs.size(sha256(b"half")) is None


@pytest.mark.parametrize("digest", ["0" * 64, "", "../../../etc/passwd", "A" * 64, "0" * 63 + "/", "0" * 64 + "\n"])
async def test_what_is_not_here_is_not_found_whatever_it_is_called(blobs: Blobs, digest: str) -> None:
    assert blobs.size(digest) is None
    with pytest.raises(NotFound):
        blobs.path(digest)


async def test_files_are_laid_out_by_name_without_a_copy(blobs: Blobs, tmp_path: Path) -> None:
    one, two = (await blobs.put_bytes(b"one"))[0], (await blobs.put_bytes(b"two"))[0]
    tree = tmp_path / "work" / "input"
    files = (
        FileRef(path="a.txt", digest=one, size=3),
        FileRef(path="d/e/b.txt", digest=two, size=3),
        FileRef(path="d/again.txt", digest=one, size=3),
    )
    blobs.link(files, tree)
    assert {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == {
        "a.txt": b"one",
        "d/e/b.txt": b"two",
        "d/again.txt": b"one",
    }
    assert (tree / "a.txt").samefile(blobs.path(one))


async def test_a_file_that_is_not_here_is_named(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(InputUnavailable, match=r"d/gone\.txt"):
        blobs.link((FileRef(path="d/gone.txt", digest="0" * 64, size=1),), tmp_path / "input")


async def test_no_file_is_laid_outside_the_directory(blobs: Blobs, tmp_path: Path) -> None:
    digest, _ = await blobs.put_bytes(b"x")
    for path in ("../out", "/tmp/out", "a/../../out"):
        with pytest.raises(FileBadPath):
            blobs.link((FileRef(path=path, digest=digest, size=1),), tmp_path / "input")
    assert not (tmp_path / "out").exists()
