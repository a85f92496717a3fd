"""Uploaded archives: the good ones unpack, and every kind of bad one is refused and leaves nothing."""

import gzip
import io
import os
import random
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from moorage.blobs.local import LocalBlobs
from moorage.errors import (
    ArchiveTooLarge,
    BadArchive,
    DiskFull,
    FileBadPath,
    FileDuplicate,
    InputUnavailable,
    MoorageError,
)
from moorage.layers.archives import from_files, unpack
from moorage.model.jobs import FileRef
from tests.small_disk import run_on_small_disk

LINK, HARD_LINK, FIFO, DEVICE, FOLDER = (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.DIRTYPE,
)

Entry = tuple[str, bytes] | tuple[str, bytes, dict[str, object]]
Writer = Callable[[Path, Iterable[Entry]], Path]


def tar(path: Path, entries: Iterable[Entry], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content, *extra in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in (extra[0] if extra else {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_gz(path: Path, entries: Iterable[Entry]) -> Path:
    return tar(path, entries, "w:gz")


def make_zip(path: Path, entries: Iterable[Entry]) -> Path:
    kinds = {LINK: 0o120777, FIFO: 0o010644, DEVICE: 0o020644, FOLDER: 0o040755}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, *extra in entries:
            facts = extra[0] if extra else {}
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            mode = kinds.get(facts.get("type"), 0o100000 | int(str(facts.get("mode", 0o644))))  # type: ignore[call-overload]
            info.external_attr = mode << 16
            archive.writestr(info, str(facts.get("linkname", "")).encode() or content)
    return path


WRITERS: dict[str, Writer] = {"zip": make_zip, "tar": tar, "tar.gz": tar_gz}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Writer:
    return WRITERS[request.param]


def link(name: str, target: str) -> Entry:
    return (name, b"", {"type": LINK, "linkname": target})


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(archive: Path, error: type[MoorageError], match: str | None = None, **limits: int) -> None:
    """Check that an archive is refused with this error, and that nothing of it is left."""
    room = archive.parent / "room"
    room.mkdir()
    with pytest.raises(error, match=match):
        unpack(archive, room / "target", **limits)  # type: ignore[arg-type]
    assert list(room.iterdir()) == []


# what is taken


def test_files_come_out_with_bytes_directories_and_executable_bits(write: Writer, tmp_path: Path) -> None:
    entries: list[Entry] = [
        ("main.py", b"print(1)"),
        ("pkg/deep/ü.txt", os.urandom(3_000_000)),
        ("run.sh", b"#!/bin/sh", {"mode": 0o6755}),
        ("empty", b""),
    ]
    target = tmp_path / "target"
    unpack(write(tmp_path / "archive.bin", entries), target)
    assert contents(target) == {entry[0]: entry[1] for entry in entries}
    assert (target / "run.sh").stat().st_mode & 0o7700 == 0o700
    assert (target / "main.py").stat().st_mode & 0o7700 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"archive.bin", "target"}


def test_a_single_top_directory_that_holds_the_entry_is_stripped(write: Writer, tmp_path: Path) -> None:
    entries: list[Entry] = [
        ("app-1.0/", b"", {"type": FOLDER}),
        ("app-1.0/main.py", b"m"),
        ("app-1.0/d/x", b"x"),
        link("app-1.0/l", "d/x"),
    ]
    unpack(write(tmp_path / "a", entries), tmp_path / "target")
    assert contents(tmp_path / "target") == {"main.py": b"m", "d/x": b"x", "l": b"x"}


@pytest.mark.parametrize(
    "names",
    [["main.py", "app/main.py"], ["app/main.py", "README"], ["app/other.py"], ["app/sub/main.py"], ["main.py/main.py"]],
)
def test_nothing_else_is_stripped(write: Writer, tmp_path: Path, names: list[str]) -> None:
    unpack(write(tmp_path / "a", [(name, b"") for name in names]), tmp_path / "target")
    assert set(contents(tmp_path / "target")) == set(names)


def test_the_entry_that_decides_is_the_callers(write: Writer, tmp_path: Path) -> None:
    unpack(write(tmp_path / "a", [("top/moorage.toml", b"")]), tmp_path / "target", entry="moorage.toml")
    assert set(contents(tmp_path / "target")) == {"moorage.toml"}


def test_what_tar_makes_of_the_current_directory_is_taken(tmp_path: Path) -> None:
    folder: Entry = ("./", b"", {"type": FOLDER})
    unpack(tar(tmp_path / "a", [folder, ("./main.py", b"m"), ("./d/x", b"x")]), tmp_path / "target")
    assert contents(tmp_path / "target") == {"main.py": b"m", "d/x": b"x"}


def test_links_that_stay_inside_are_kept(write: Writer, tmp_path: Path) -> None:
    entries = [
        link("first", "d/file"),
        ("d/file", b"f"),
        link("d/up", "../first"),
        link("folder", "d"),
        link("no", "where"),
    ]
    unpack(write(tmp_path / "a", entries), tmp_path / "target")
    target = tmp_path / "target"
    assert (target / "d/up").read_bytes() == (target / "folder/file").read_bytes() == b"f"
    assert (target / "no").is_symlink()


def test_a_zip_whose_names_are_utf8_without_saying_so_is_read_as_utf8(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("ü/ß.txt", b"x")])
    without_flag = archive.read_bytes().replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")
    archive.write_bytes(without_flag)
    assert all(info.flag_bits == 0 for info in zipfile.ZipFile(archive).infolist())
    unpack(archive, tmp_path / "target")
    assert contents(tmp_path / "target") == {"ü/ß.txt": b"x"}


# names


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "a/./b", "a//b", "back\\slash", "a\nb", "a" * 256]
)
def test_unsafe_names_are_refused(write: Writer, tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / "a", [("main.py", b""), (name, b"evil")]), FileBadPath)
    assert not Path("/tmp/evil").exists()


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    bad = tar(tmp_path / "a.tar", [("caf\udce9", b"")])
    refused(bad, FileBadPath, "UTF-8")
    (tmp_path / "room").rmdir()
    archive = make_zip(tmp_path / "a.zip", [("caf?", b"")])
    archive.write_bytes(archive.read_bytes().replace(b"caf?", b"caf\xe9"))
    refused(archive, FileBadPath, "UTF-8")
    (tmp_path / "room").rmdir()
    archive.write_bytes(make_zip(tmp_path / "b.zip", [("ü", b"")]).read_bytes().replace("ü".encode(), b"\xff\xfe"))
    refused(archive, BadArchive)


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "./a"], ["a/b", "a"], ["a", "a/b"]])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_given_twice_are_refused(write: Writer, tmp_path: Path, names: list[str]) -> None:
    refused(write(tmp_path / "a", [(name, b"") for name in names]), FileDuplicate)


# links and special members


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "d/../../outside", "..", "/"])
def test_links_that_lead_out_are_refused(write: Writer, tmp_path: Path, target: str) -> None:
    refused(write(tmp_path / "a", [("main.py", b""), ("d/x", b""), link("out", target)]), FileBadPath, "'out'")


def test_a_chain_of_links_that_leads_out_is_refused(write: Writer, tmp_path: Path) -> None:
    chain = [("s/t/file", b""), link("s/t/root", "../.."), link("s/t/out", "root/.."), ("main.py", b"")]
    refused(write(tmp_path / "a", chain), FileBadPath)


def test_a_link_that_leads_out_once_the_top_directory_is_stripped_is_refused(write: Writer, tmp_path: Path) -> None:
    refused(write(tmp_path / "a", [("top/main.py", b""), link("top/l", "../top/main.py")]), FileBadPath)


@pytest.mark.parametrize("names", [("l", "l/x"), ("d/l", "d/l/deep/x")])
def test_a_member_below_a_link_is_refused_and_not_written_through_it(
    write: Writer, tmp_path: Path, names: tuple[str, str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    refused(write(tmp_path / "a", [link(names[0], str(outside)), (names[1], b"evil")]), FileBadPath)
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_a_file_or_the_other_way_round_is_refused(write: Writer, tmp_path: Path) -> None:
    refused(write(tmp_path / "a", [link("x", "/etc/passwd"), ("x/../y", b"")]), FileBadPath)
    (tmp_path / "room").rmdir()
    refused(write(tmp_path / "b", [("d/x", b""), link("d", "elsewhere")]), FileDuplicate)


@pytest.mark.parametrize("kind", [FIFO, DEVICE])
def test_devices_and_fifos_are_refused(write: Writer, tmp_path: Path, kind: bytes) -> None:
    refused(write(tmp_path / "a", [("main.py", b""), ("odd", b"", {"type": kind})]), BadArchive, "'odd'")


def test_hard_links_are_refused(tmp_path: Path) -> None:
    hard: Entry = ("hard", b"", {"type": HARD_LINK, "linkname": "main.py"})
    refused(tar(tmp_path / "a", [("main.py", b""), hard]), BadArchive, "'hard'")


# size


def test_too_many_members_are_refused(write: Writer, tmp_path: Path) -> None:
    entries: list[Entry] = [(f"f{number}", b"") for number in range(11)]
    refused(write(tmp_path / "a", entries), ArchiveTooLarge, max_members=10)
    unpack(write(tmp_path / "b", entries[:10]), tmp_path / "target", max_members=10)


def test_a_zip_of_a_million_members_is_refused_before_it_is_read(tmp_path: Path) -> None:
    count = 1_000_000
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    start = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    size = count * len(entry)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, len(start))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(start) + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archive = tmp_path / "a.zip"
    archive.write_bytes(start + entry * count + wide + locator + end)
    before = time.process_time()
    refused(archive, ArchiveTooLarge, "100000 members")
    assert time.process_time() - before < 2  # the library alone takes five times as long


def test_a_tar_of_a_million_members_is_refused_without_unpacking_them_all(tmp_path: Path) -> None:
    header = tarfile.TarInfo("d")
    header.type = FOLDER
    block = header.tobuf()
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as archive:
        for _ in range(1000):
            archive.write(block * 1000)
    refused(tmp_path / "a.tar.gz", ArchiveTooLarge, "100000 members")


def test_a_bomb_is_refused_by_what_it_really_unpacks_to(write: Writer, tmp_path: Path) -> None:
    refused(write(tmp_path / "a", [("zeros", bytes(50 << 20))]), ArchiveTooLarge, max_bytes=1 << 20)


def test_a_zip_that_lies_about_sizes_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("zeros", bytes(8 << 20))])
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<L", 8 << 20), struct.pack("<L", 10)))
    refused(archive, BadArchive)


def test_a_zip_of_overlapping_members_counts_every_one(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("kernel", bytes(1 << 20))
        kernel = content.infolist()[0]
        for number in range(100):
            again = zipfile.ZipInfo(f"{number:06}")  # as long as `kernel`
            for fact in ("compress_type", "compress_size", "file_size", "CRC", "header_offset", "external_attr"):
                setattr(again, fact, getattr(kernel, fact))
            content.filelist.append(again)
            content.NameToInfo[again.filename] = again
    refused(archive, MoorageError, max_bytes=10 << 20)


def test_a_sparse_member_counts_as_what_it_pretends_to_be(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 30)
    assert os.system(f"tar -C '{tmp_path}' -Scf '{tmp_path}/a.tar' sparse") == 0
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
    refused(tmp_path / "a.tar", ArchiveTooLarge, max_bytes=10 << 20)


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 64 << 20
    with gzip.open(tmp_path / "a.tar.gz", "wb") as archive:
        archive.write(header.tobuf(tarfile.USTAR_FORMAT))
        archive.write(bytes(64 << 20))
    refused(tmp_path / "a.tar.gz", BadArchive, "header")


def test_headers_upon_headers_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(1024))
    refused(tmp_path / "a.tar", BadArchive)


# damage


@pytest.mark.parametrize("content", [b"", b"x", b"hello world" * 1000, b"\x1f\x8b", b"PK\x03\x04", b"PK", bytes(100)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", BadArchive)


@pytest.mark.parametrize("kind", ["w:bz2", "w:xz"])
def test_formats_that_are_not_promised_are_refused(tmp_path: Path, kind: str) -> None:
    refused(tar(tmp_path / "a", [("main.py", b"")], kind), BadArchive)


def test_a_cut_off_archive_is_refused_wherever_it_is_cut(write: Writer, tmp_path: Path) -> None:
    whole = write(tmp_path / "a", [("main.py", os.urandom(700)), ("d/x", os.urandom(700)), ("e", b"")]).read_bytes()
    useful = len(whole.rstrip(b"\0")) + 1
    for number, cut in enumerate(range(1, min(useful, len(whole)), 61)):
        piece = tmp_path / f"cut{number}"
        piece.mkdir()
        (piece / "a").write_bytes(whole[:cut])
        refused(piece / "a", BadArchive)


def test_no_damage_whatever_does_more_than_refuse(write: Writer, tmp_path: Path) -> None:
    chance = random.Random(7)
    whole = write(tmp_path / "a", [("main.py", b"m" * 99), ("d/x", os.urandom(300)), link("l", "d/x")]).read_bytes()
    for number in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(min(len(data), 4096))] = chance.randrange(256)
        (tmp_path / "damaged").write_bytes(data)
        target = tmp_path / f"target{number}"
        try:
            unpack(tmp_path / "damaged", target)
        except MoorageError:
            assert not target.exists()
    assert not list(tmp_path.glob(".unpack-*"))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("main.py", b"x")])
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refused(archive, BadArchive, "encrypted")


def test_a_zip_with_a_compression_that_cannot_be_bounded_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("main.py", bytes(1 << 20))
    refused(tmp_path / "a.zip", BadArchive, "unusual")


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("main.py", b"right bytes")
    archive.write_bytes(archive.read_bytes().replace(b"right bytes", b"wrong bytes"))
    refused(archive, BadArchive)
    (tmp_path / "room").rmdir()
    packed = tar_gz(tmp_path / "a.tar.gz", [("main.py", b"x")]).read_bytes()
    checksum = struct.pack("<L", zlib.crc32(gzip.decompress(packed)))
    (tmp_path / "a.tar.gz").write_bytes(packed.replace(checksum, b"\0\1\2\3"))
    refused(tmp_path / "a.tar.gz", BadArchive)


async def on_a_full_disk(disk: Path) -> None:
    make_zip(disk / "a.zip", [("main.py", b""), ("zeros", bytes(16 << 20))])
    (disk / "room").mkdir()
    with pytest.raises(DiskFull):
        unpack(disk / "a.zip", disk / "room/target")
    assert list((disk / "room").iterdir()) == []


def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")


# lists of files


@pytest.mark.anyio
async def test_a_source_is_laid_out_of_blobs(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs", owner=None)
    files = [
        FileRef(path=path, digest=(await blobs.put_bytes(path.encode()))[0], size=len(path))
        for path in ("main.py", "pkg/x.py", "pkg/data/ü")
    ]
    from_files(tuple(files), blobs, tmp_path / "target")
    assert contents(tmp_path / "target") == {file.path: file.path.encode() for file in files}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("paths", "error"),
    [
        (["main.py", "../x"], FileBadPath),
        (["a", "a/b"], FileDuplicate),
        (["a", "a"], FileDuplicate),
        (["main.py", "gone"], InputUnavailable),
    ],
)
async def test_a_bad_list_of_files_is_refused_and_leaves_nothing(
    tmp_path: Path, paths: list[str], error: type[MoorageError]
) -> None:
    blobs = LocalBlobs(tmp_path / "blobs", owner=None)
    digest, _ = await blobs.put_bytes(b"x")
    files = tuple(FileRef(path=path, digest="0" * 64 if path == "gone" else digest, size=1) for path in paths)
    with pytest.raises(error):
        from_files(files, blobs, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]
