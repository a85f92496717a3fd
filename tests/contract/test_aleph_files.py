"""Files of programs are unpacked once, safely, and shown to the sandbox's user (contract, section 2.4)."""

import asyncio
import os
import shutil
import tarfile
import zipfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest

from moorage.errors import ArchiveTooLarge, BadArchive, FileBadPath, MoorageError, SandboxUnavailable
from moorage.networks.aleph.programs.files import PLAIN, Files
from moorage.networks.aleph.programs.squashfs import Run
from moorage.sandbox.base import SANDBOX_UID
from tests.aleph_files import a_sandbox, content, filled, no_run, runs_in, squashfs, stored

pytestmark = pytest.mark.anyio

CODE = {"main.py": "app = 1\n", "packages/lib/__init__.py": "", "run.sh": "#!/bin/sh\n"}


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    async with a_sandbox(tmp_path / "node") as sandbox:
        yield runs_in(sandbox)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Give files whose archives need no tool."""
    return Files(tmp_path / "trees", no_run)


def zipped(path: Path, names: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, *members: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def nothing_left(files: Path) -> bool:
    return [path.name for path in files.iterdir()] == [".staging"] and not list((files / ".staging").iterdir())


# What is unpacked


@pytest.mark.parametrize("encoding", ["zip", "tar.gzip", "squashfs", None])
@pytest.mark.parametrize("packed", ["zip", "tar.gzip", "tar", "squashfs"])
async def test_an_archive_is_unpacked_as_what_it_is_whatever_is_said_of_it(tmp_path, run, packed, encoding):
    source = filled(tmp_path / "source", CODE)
    (source / "run.sh").chmod(0o4711)
    (source / "link").symlink_to("packages/lib")
    path = {
        "zip": lambda: archive_of(source, tmp_path / "a", "zip"),
        "tar.gzip": lambda: archive_of(source, tmp_path / "a", "gztar"),
        "tar": lambda: archive_of(source, tmp_path / "a", "tar"),
        "squashfs": lambda: squashfs(tmp_path / "a.squashfs", source),
    }[packed]()
    tree = await Files(tmp_path / "trees", run).tree(stored(path), encoding)
    found = content(tree)
    if packed == "zip":  # the library follows links
        found.pop("link", None), found.pop("link/__init__.py", None)
    else:
        assert found.pop("link") == "packages/lib"
    assert found == {**{name: data.encode() for name, data in CODE.items()}, "packages": None, "packages/lib": None}
    assert (tree / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tree / "main.py").stat().st_mode & 0o7777 == 0o644


def archive_of(source: Path, target: Path, kind: str) -> Path:
    return Path(shutil.make_archive(str(target), kind, source))


async def test_everything_belongs_to_the_user_of_the_sandbox(tmp_path, run):
    source = filled(tmp_path / "source", CODE)
    for path in (archive_of(source, tmp_path / "a", "zip"), squashfs(tmp_path / "a.squashfs", source)):
        tree = await Files(tmp_path / "trees", run).tree(stored(path), None)
        owners = {path.lstat().st_uid for path in (tree, *tree.rglob("*"))}
        assert owners == {SANDBOX_UID if os.geteuid() == 0 else os.geteuid()}


async def test_a_plain_file_is_a_directory_with_it_and_can_be_started(tmp_path, files):
    path = zipped(tmp_path / "a.zip", {"main.py": ""})
    tree = await files.tree(stored(path), "plain")
    assert content(tree) == {PLAIN: path.read_bytes()}
    assert (tree / PLAIN).stat().st_mode & 0o777 == 0o755
    assert content(await files.tree(stored(path), "zip")) == {"main.py": b""}


async def test_what_is_no_archive_is_plain_where_nothing_is_said(tmp_path, files):
    for text in (b"", b"model weights", b"PK but no zip"):
        (tmp_path / "file").write_bytes(text)
        assert content(await files.tree(stored(tmp_path / "file"), None)) == {PLAIN: text}


async def test_a_top_directory_stays(tmp_path, files):
    tree = await files.tree(stored(zipped(tmp_path / "a.zip", {"app/main.py": ""})), "zip")
    assert content(tree) == {"app": None, "app/main.py": b""}


async def test_an_archive_of_more_than_ten_megabytes_is_unpacked(tmp_path, files):
    data = os.urandom(12 << 20)
    tree = await files.tree(stored(zipped(tmp_path / "a.zip", {"data": data})), "zip")
    assert (tree / "data").read_bytes() == data


# Once


async def test_a_file_is_unpacked_once_and_found_again_by_another_node(tmp_path, monkeypatch):
    path = stored(zipped(tmp_path / "a.zip", CODE))
    files = Files(tmp_path / "trees", no_run)
    made = []
    make = files._make
    monkeypatch.setattr(files, "_make", lambda *args, **more: made.append(args) or make(*args, **more))
    trees = await asyncio.gather(*(files.tree(path, "zip") for _ in range(20)))
    assert len(set(trees)) == 1
    assert len(made) == 1
    path.path.unlink()
    assert await Files(tmp_path / "trees", no_run).tree(path, "zip") == trees[0]


async def test_a_file_that_takes_long_holds_up_no_other(tmp_path):
    begun, end = asyncio.Event(), asyncio.Event()

    async def run(_):
        begun.set()
        await end.wait()
        raise SandboxUnavailable

    image = squashfs(tmp_path / "a.squashfs", filled(tmp_path / "source", CODE))
    files = Files(tmp_path / "trees", run)
    slow = asyncio.ensure_future(files.tree(stored(image), "squashfs"))
    await begun.wait()
    assert "main.py" in content(await files.tree(stored(zipped(tmp_path / "a.zip", CODE)), "zip"))
    end.set()
    with pytest.raises(SandboxUnavailable):
        await slow


async def test_what_a_crash_left_half_done_is_removed(tmp_path):
    (tmp_path / "trees" / ".staging" / "half").mkdir(parents=True)
    Files(tmp_path / "trees", no_run)
    assert nothing_left(tmp_path / "trees")


# What is refused

HOSTILE = {
    "climbs": (FileBadPath, lambda path: zipped(path, {"../escaped": "x"})),
    "climbs inside": (FileBadPath, lambda path: zipped(path, {"a/../../escaped": "x"})),
    "absolute": (FileBadPath, lambda path: tarred(path, member("/tmp/escaped"))),
    "links out": (FileBadPath, lambda path: tarred(path, member("l", tarfile.SYMTYPE, "../../etc/passwd"))),
    "links to the root": (FileBadPath, lambda path: tarred(path, member("l", tarfile.SYMTYPE, "/etc"))),
    "writes through a link": (
        MoorageError, lambda path: tarred(path, member("l", tarfile.SYMTYPE, "/tmp"), member("l/escaped")),
    ),
    "hard link": (BadArchive, lambda path: tarred(path, member("h", tarfile.LNKTYPE, "/etc/passwd"))),
    "device": (BadArchive, lambda path: tarred(path, member("null", tarfile.CHRTYPE))),
    "fifo": (BadArchive, lambda path: tarred(path, member("fifo", tarfile.FIFOTYPE))),
    "cut off": (BadArchive, lambda path: cut(zipped(path, {"a": os.urandom(10_000)}))),
    "cut off tar": (BadArchive, lambda path: cut(tarred(path, member("a"), data=os.urandom(10_000)))),
    "no archive": (BadArchive, lambda path: path.write_bytes(os.urandom(5000)) and path),
    "empty": (BadArchive, lambda path: path.write_bytes(b"") or path),
}  # fmt: skip


def cut(path: Path) -> Path:
    os.truncate(path, path.stat().st_size // 2)
    return path


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path, files, kind):
    error, make = HOSTILE[kind]
    with pytest.raises(error):
        await files.tree(stored(make(tmp_path / "archive")), "zip")
    assert nothing_left(tmp_path / "trees")
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "trees"}


@pytest.mark.parametrize("pack", ["zip", "tar", "squashfs"])
async def test_a_bomb_is_refused_by_its_ratio(tmp_path, run, monkeypatch, pack):
    monkeypatch.setattr("moorage.networks.aleph.programs.files.UNSUSPICIOUS", 1 << 20)
    source = filled(tmp_path / "source", {"zeros": bytes(32 << 20)})
    path = {
        "zip": lambda: zipped(tmp_path / "bomb", {"zeros": bytes(32 << 20)}),
        "tar": lambda: tarred(tmp_path / "bomb", member("zeros"), data=bytes(32 << 20)),
        "squashfs": lambda: squashfs(tmp_path / "bomb", source),
    }[pack]()
    with pytest.raises(ArchiveTooLarge):
        await Files(tmp_path / "trees", run).tree(stored(path), "zip")
    assert nothing_left(tmp_path / "trees")


@pytest.mark.parametrize("limit", ["MAX_MEMBERS", "MAX_BYTES"])
@pytest.mark.parametrize("pack", ["zip", "squashfs"])
async def test_an_archive_of_too_many_or_too_large_files_is_refused(tmp_path, run, monkeypatch, pack, limit):
    monkeypatch.setattr(f"moorage.networks.aleph.programs.files.{limit}", 50)
    names: dict[str, str | bytes] = {f"{number}": "0123456789" for number in range(60)}
    source = filled(tmp_path / "source", names)
    path = zipped(tmp_path / "a", names) if pack == "zip" else squashfs(tmp_path / "a", source)
    with pytest.raises(ArchiveTooLarge):
        await Files(tmp_path / "trees", run).tree(stored(path), "zip")
    assert nothing_left(tmp_path / "trees")


IMAGES = {
    "links out": (FileBadPath, lambda source: (source / "l").symlink_to("../outside")),
    "links to the root": (FileBadPath, lambda source: (source / "l").symlink_to("/etc/passwd")),
    "fifo": (BadArchive, lambda source: os.mkfifo(source / "fifo")),
    "line feed": (BadArchive, lambda source: (source / "a\n-rw-r--r--").write_text("x")),
}


@pytest.mark.parametrize("kind", IMAGES)
async def test_a_hostile_image_is_refused_and_leaves_nothing(tmp_path, run, kind):
    error, spoil = IMAGES[kind]
    spoil(filled(tmp_path / "source", CODE))
    with pytest.raises(error):
        await Files(tmp_path / "trees", run).tree(stored(squashfs(tmp_path / "a", tmp_path / "source")), "squashfs")
    assert nothing_left(tmp_path / "trees")


async def test_a_device_in_an_image_is_refused(tmp_path, run):
    options = ("-p", "null c 666 0 0 1 3")
    image = squashfs(tmp_path / "a", filled(tmp_path / "source", CODE), *options)
    with pytest.raises(BadArchive, match="device"):
        await Files(tmp_path / "trees", run).tree(stored(image), "squashfs")


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
async def test_a_damaged_image_is_refused(tmp_path, run, damage):
    source = filled(tmp_path / "source", {f"{number}": os.urandom(5000) for number in range(50)})
    image = squashfs(tmp_path / "a", source)
    if damage == "cut off":
        cut(image)
    else:
        data = image.read_bytes()
        image.write_bytes(data[:96] + os.urandom(len(data) - 96))
    with pytest.raises(BadArchive):
        await Files(tmp_path / "trees", run).tree(stored(image), "squashfs")
    assert nothing_left(tmp_path / "trees")
