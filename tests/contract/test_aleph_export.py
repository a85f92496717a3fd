"""Directories become stored archives: the same one the same archive, and nothing of the machine in it (section 2.5)."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moorage.blobs.local import LocalBlobs
from moorage.errors import ArchiveTooLarge, BadApp
from moorage.networks.aleph.programs.export import Archive, Place, archive
from moorage.networks.aleph.programs.files import Files
from tests.aleph_files import a_sandbox, content, filled, no_run, runs_in, stored

pytestmark = pytest.mark.anyio

ENCODINGS = ["zip", "tar.gzip", "squashfs"]
RESULTS = {"main.py": "app = 1\n", "deep/er/file": b"\0\xff", "empty": ""}

names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["Cc"]), min_size=1, max_size=8
)
paths = st.lists(names.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(paths, st.binary(max_size=2000), max_size=12)


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", owner=None)


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    async with a_sandbox(tmp_path / "node") as sandbox:
        yield Files(tmp_path / "trees", runs_in(sandbox))


async def archived(place: Path | Place, encoding, blobs: LocalBlobs, files: Files) -> Archive:
    return await archive(place, encoding, blobs, squashfs=files.squashfs)


async def reread(made: Archive, blobs: LocalBlobs, files: Files) -> Path:
    return await files.tree(stored(blobs.path(made.digest)), None)


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_what_was_archived_is_found_again(tmp_path, blobs, files, encoding):
    source = filled(tmp_path / "source", RESULTS)
    (source / "folder").mkdir()
    (source / "deep" / "link").symlink_to("../main.py")
    (source / "main.py").chmod(0o700)
    made = await archived(source, encoding, blobs, files)
    tree = await reread(made, blobs, files)
    assert content(tree) == content(source)
    assert (tree / "main.py").stat().st_mode & 0o111
    assert not (tree / "empty").stat().st_mode & 0o111
    assert made.left_out == ()
    assert made.size == blobs.size(made.digest)


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_equal_directories_make_the_same_archive_whatever_their_times_modes_and_order(
    tmp_path, blobs, files, encoding
):
    one = filled(tmp_path / "one", RESULTS)
    other = filled(tmp_path / "other", dict(reversed(RESULTS.items())))
    os.utime(other / "empty", (1, 1))
    (other / "empty").chmod(0o4606)
    (other / "deep").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(other / "main.py", 1, 2)
    made = [await archived(source, encoding, blobs, files) for source in (one, other, one)]
    assert made[0] == made[1] == made[2]
    (other / "empty").write_text("no more")
    assert (await archived(other, encoding, blobs, files)).digest != made[0].digest


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_empty_directory_can_be_archived(tmp_path, blobs, files, encoding):
    made = await archived(filled(tmp_path / "source", {}), encoding, blobs, files)
    assert content(await reread(made, blobs, files)) == {}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees, encoding=st.sampled_from(["zip", "tar.gzip"]))
def test_any_directory_is_found_again(tree: dict[str, bytes], encoding):
    async def scenario(root: Path) -> None:
        blobs, files = LocalBlobs(root / "blobs", owner=None), Files(root / "trees", no_run)
        source = root / "source"
        source.mkdir()
        for path, data in tree.items():
            with contextlib.suppress(NotADirectoryError, FileExistsError, IsADirectoryError):
                filled(source, {path: data})
        made = await archived(source, encoding, blobs, files)
        assert content(await reread(made, blobs, files)) == content(source)
        assert made == await archived(source, encoding, blobs, files)

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(scenario(Path(root)))


async def test_plain_is_the_only_file(tmp_path, blobs, files):
    source = filled(tmp_path / "source", {"folder/result": "42"})
    made = await archived(source, "plain", blobs, files)
    assert blobs.path(made.digest).read_text() == "42"
    filled(source, {"other": "43"})
    with pytest.raises(BadApp, match="one file"):
        await archived(source, "plain", blobs, files)
    with pytest.raises(BadApp, match="one file"):
        await archived(filled(tmp_path / "empty", {}), "plain", blobs, files)


async def test_entries_at_the_top_can_be_left_out(tmp_path, blobs, files):
    source = filled(tmp_path / "source", {"moorage.toml": "", "a/moorage.toml": ""})
    made = await archive(source, "zip", blobs, leave_out=("moorage.toml",))
    assert content(await reread(made, blobs, files)) == {"a": None, "a/moorage.toml": b""}


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_nothing_of_the_machine_gets_into_an_archive(tmp_path, blobs, files, encoding):
    secret = filled(tmp_path / "secrets", {"key": "secret"})
    source = filled(tmp_path / "source", {"kept": "x"})
    (source / "file").symlink_to(secret / "key")
    (source / "folder").symlink_to(secret)
    (source / "climb").symlink_to("../secrets/key")
    (source / "kept link").symlink_to("kept")
    (source / "chain").symlink_to("file")
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(source / "socket"))
    (source / "a\nname").write_text("x")
    (source / os.fsdecode(b"\xff")).write_text("x")
    made = await archived(source, encoding, blobs, files)
    assert content(await reread(made, blobs, files)) == {"kept": b"x", "kept link": "kept"}
    assert len(made.left_out) == 8
    assert b"secret" not in blobs.path(made.digest).read_bytes()


async def test_a_directory_that_is_a_link_is_not_archived(tmp_path, blobs, files):
    volume = filled(tmp_path / "volume", {})
    (volume / "out").symlink_to("/etc")
    for place in (volume / "out", Place(directory=volume, below="out"), Place(directory=volume, below="missing")):
        with pytest.raises(BadApp, match="no directory"):
            await archived(place, "zip", blobs, files)


async def test_a_directory_below_a_volume_is_archived(tmp_path, blobs, files):
    volume = filled(tmp_path / "volume", {"out/a": "1", "b": "2"})
    made = await archived(Place(directory=volume, below="out"), "tar.gzip", blobs, files)
    assert content(await reread(made, blobs, files)) == {"a": b"1"}


async def test_files_that_their_owner_closed_are_archived(tmp_path, blobs, files):
    source = filled(tmp_path / "source", {"closed/file": "x"})
    (source / "closed" / "file").chmod(0)
    (source / "closed").chmod(0)
    made = await archived(source, "zip", blobs, files)
    assert content(await reread(made, blobs, files))["closed/file"] == b"x"


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_MEMBERS"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_directory_over_the_limits_is_refused(tmp_path, files, encoding, limit, monkeypatch):
    blobs = LocalBlobs(tmp_path / "blobs", owner=None)
    source = filled(tmp_path / "source", RESULTS)
    monkeypatch.setattr(f"moorage.networks.aleph.programs.export.{limit}", 2)
    with pytest.raises(ArchiveTooLarge):
        await archived(source, encoding, blobs, files)
    assert not list((tmp_path / "trees" / ".staging").iterdir())


async def test_a_file_that_shrinks_meanwhile_ends_the_archive(tmp_path, files):
    source = filled(tmp_path / "source", {"log": os.urandom(8 << 20)})

    class Shrinking(LocalBlobs):
        async def put(self, chunks, *, expect=None):
            async def shrunk():
                async for chunk in chunks:
                    os.truncate(source / "log", 0)
                    yield chunk

            return await super().put(shrunk(), expect=expect)

    with pytest.raises(BadApp, match="shrank"):
        await archived(source, "tar.gzip", Shrinking(tmp_path / "blobs", owner=None), files)
