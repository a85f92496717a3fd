"""What an app may leave in output/, and what is made of it (InfraX contract, section 5.3)."""

import asyncio
import os
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moorage.blobs.collect import MAX_WARNINGS, collect
from moorage.blobs.local import LocalBlobs
from moorage.errors import DiskFull, OutputsTooLarge
from moorage.model.jobs import FileRef
from moorage.sandbox.base import SANDBOX_UID
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio


@dataclass
class Bench:
    """An output directory, a store, and the warnings that were given."""

    root: Path
    warnings: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = self.root / "output"
        self.output.mkdir()
        self.blobs = LocalBlobs(self.root / "blobs", owner=None)

    async def collect(self, *, max_bytes: int = 1 << 30, max_files: int = 1000) -> tuple[FileRef, ...]:
        return await collect(
            self.output,
            self.blobs,
            max_bytes=max_bytes,
            max_files=max_files,
            warn=lambda *warning: self.warnings.append(warning),
        )

    async def contents(self) -> dict[str, bytes]:
        return {ref.path: self.blobs.path(ref.digest).read_bytes() for ref in await self.collect()}

    def warned(self) -> set[str]:
        return {data["path"] for topic, _, data in self.warnings if topic == "output.skipped"}

    def stored(self) -> int:
        return sum(path.is_file() for path in (self.root / "blobs/sha256").rglob("*"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_nested_hidden_and_empty_files_come_back_by_relative_path_and_empty_directories_do_not(
    bench: Bench,
) -> None:
    (bench.output / "sub/deep").mkdir(parents=True)
    (bench.output / "void").mkdir()
    for path in ("z", "sub/deep/a b.txt", ".hidden", "sub/ü", "back\\slash", "new\nline"):
        (bench.output / path).write_text(path)
    (bench.output / "empty").touch()
    refs = await bench.collect()
    assert [ref.path for ref in refs] == [
        ".hidden",
        "back\\slash",
        "empty",
        "new\nline",
        "sub/deep/a b.txt",
        "sub/ü",
        "z",
    ]
    assert all(bench.blobs.path(ref.digest).stat().st_size == ref.size for ref in refs)
    assert (await bench.contents())["sub/ü"] == "sub/ü".encode()
    assert bench.warnings == []


async def test_links_to_files_inside_are_stored_as_copies(bench: Bench) -> None:
    (bench.output / "d").mkdir()
    (bench.output / "d/file").write_bytes(b"inside")
    (bench.output / "plain").symlink_to("d/file")
    (bench.output / "d/up").symlink_to("../plain")
    (bench.output / "folder").symlink_to("d")
    (bench.output / "through").symlink_to("folder/file")
    assert await bench.contents() == dict.fromkeys(["d/file", "plain", "d/up", "through"], b"inside")
    assert bench.warned() == {"folder"}


async def test_links_that_lead_out_nowhere_or_round_in_circles_are_skipped_and_named(bench: Bench) -> None:
    secret = bench.root / "secret"
    secret.write_text("host")
    (bench.output / "d").mkdir()
    links = {
        "shadow": "/etc/shadow",
        "relative": "../secret",
        "absolute": str(bench.output / "kept"),
        "d/deep": "../../secret",
        "dangling": "nothing",
        "self": "self",
        "ping": "pong",
        "pong": "ping",
        "magic": "/proc/self/fd/0",
        "root": "/",
        "parent": "..",
        "via": "parent/secret",
    }
    for name, target in links.items():
        (bench.output / name).symlink_to(target)
    (bench.output / "kept").write_bytes(b"kept")
    assert await bench.contents() == {"kept": b"kept"}
    assert bench.warned() == set(links)


async def test_fifos_and_sockets_are_skipped_without_being_waited_for(bench: Bench) -> None:
    os.mkfifo(bench.output / "fifo")
    (bench.output / "to_fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(bench.output)  # a socket's path has at most 108 bytes
        try:
            listener.bind("socket")
        finally:
            os.chdir("/")
        async with asyncio.timeout(20):
            assert await bench.collect() == ()
    assert bench.warned() == {"fifo", "to_fifo", "socket"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make device nodes")
async def test_devices_and_whiteouts_are_skipped(bench: Bench) -> None:
    try:
        os.mknod(bench.output / "zero", 0o020666, os.makedev(1, 5))
        os.mknod(bench.output / "whiteout", 0o020000, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("this machine makes no device nodes")
    assert await bench.collect() == ()
    assert bench.warned() == {"zero", "whiteout"}


async def test_a_name_that_is_not_utf8_is_skipped_with_all_below_it(bench: Bench) -> None:
    folder = os.fsencode(bench.output)
    try:
        (Path(os.fsdecode(folder + b"/caf\xe9"))).write_text("x")
        (Path(os.fsdecode(folder + b"/dir\xff"))).mkdir()
    except OSError:
        pytest.skip("this file system refuses such names itself")
    (Path(os.fsdecode(folder + b"/dir\xff/inner"))).write_text("x")
    (bench.output / "fine").write_text("x")
    assert list(await bench.contents()) == ["fine"]
    assert bench.warned() == {"caf\\udce9", "dir\\udcff"}


@pytest.mark.parametrize("what", ["missing", "file", "link", "fifo"])
async def test_an_output_directory_that_is_gone_or_replaced_means_no_files_and_a_warning(
    bench: Bench, what: str
) -> None:
    bench.output.rmdir()
    elsewhere = bench.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "host").write_text("secret")
    match what:
        case "file":
            bench.output.write_text("not a directory")
        case "link":
            bench.output.symlink_to(elsewhere)
        case "fifo":
            os.mkfifo(bench.output)
        case _:
            pass
    assert await bench.collect() == ()
    assert [topic for topic, _, _ in bench.warnings] == ["output.missing"]


@pytest.mark.parametrize(("max_bytes", "max_files"), [(9, 10), (100, 1)])
async def test_too_many_bytes_or_files_fail_and_nothing_is_stored(bench: Bench, max_bytes: int, max_files: int) -> None:
    (bench.output / "a").write_bytes(b"12345")
    (bench.output / "b").write_bytes(b"67890")
    with pytest.raises(OutputsTooLarge):
        await bench.collect(max_bytes=max_bytes, max_files=max_files)
    assert bench.stored() == 0
    assert len(await bench.collect(max_bytes=10, max_files=2)) == 2


async def test_a_hole_counts_as_what_it_pretends_to_be(bench: Bench) -> None:
    with (bench.output / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OutputsTooLarge):
        await bench.collect()


async def test_files_and_directories_that_the_app_made_unreadable_are_read_all_the_same(bench: Bench) -> None:
    _make_unreadable(bench)
    assert await bench.contents() == {"d/file": b"hidden away"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_an_ordinary_user_reads_them_too_if_they_are_its_own() -> None:
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's own directories are closed to other users
        os.chown(open_to_all, SANDBOX_UID, SANDBOX_UID)
        os.seteuid(SANDBOX_UID)
        try:
            bench = Bench(Path(open_to_all))
            _make_unreadable(bench)
            assert await bench.contents() == {"d/file": b"hidden away"}
        finally:
            os.seteuid(0)


def _make_unreadable(bench: Bench) -> None:
    (bench.output / "d").mkdir()
    (bench.output / "d/file").write_bytes(b"hidden away")
    for path in ("d/file", "d", "."):
        (bench.output / path).chmod(0)


async def test_directories_nested_deeper_than_any_path_neither_crash_nor_hide_the_rest(bench: Bench) -> None:
    (bench.output / "zz").write_text("kept")
    at = os.open(bench.output, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("dd", dir_fd=at)
        deeper = os.open("dd", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)
    try:
        assert list(await bench.contents()) == ["zz"]
        assert len(bench.warnings) == 1
    finally:
        process = await asyncio.create_subprocess_exec("rm", "-rf", bench.output)
        assert await process.wait() == 0


async def test_of_a_thousand_odd_entries_the_first_hundred_are_named_and_the_rest_counted(bench: Bench) -> None:
    for number in range(MAX_WARNINGS + 900):
        (bench.output / f"l{number}").symlink_to("/etc/shadow")
    assert await bench.collect() == ()
    assert len(bench.warnings) == MAX_WARNINGS + 1
    assert "900 more" in bench.warnings[-1][1]


async def test_a_directory_that_is_swapped_for_a_link_meanwhile_never_leads_out(bench: Bench) -> None:
    outside = bench.root / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"host")
    (bench.output / "d").mkdir()
    (bench.output / "d/file").write_bytes(b"app")
    (bench.output / "link").symlink_to("../outside")
    stop = threading.Event()

    def swap() -> None:
        real, link, spare = (bench.output / name for name in ("d", "link", "spare"))
        while not stop.is_set():
            real.rename(spare)
            link.rename(real)
            real.rename(link)
            spare.rename(real)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        collected = [await bench.contents() for _ in range(150)]
    finally:
        stop.set()
        swapper.join()
    assert {content for found in collected for content in found.values()} <= {b"app"}
    assert any(collected)


async def on_a_full_disk(disk: Path) -> None:
    bench = Bench(disk)
    (bench.output / "big").write_bytes(b"x" * (3 << 20))
    with pytest.raises(DiskFull):
        await bench.collect()
    assert bench.stored() == 0
    assert list((disk / "blobs/tmp").iterdir()) == []


async def test_no_space_left_while_collecting_is_said_so_and_leaves_nothing_half_stored(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")
