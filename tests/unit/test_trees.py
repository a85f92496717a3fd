"""Source trees: one name per content, nothing in them that leads out, and no copy that is altered unnoticed."""

import asyncio
import hashlib
import os
import socket
from pathlib import Path

import pytest

from moorage.errors import BadApp, DiskFull, FileBadPath, NotFound
from moorage.layers.trees import Tree, Trees
from moorage.sandbox.base import SANDBOX_UID
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

IGNORE = ("input", "output", ".venv", "__pycache__")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "pkg").mkdir(parents=True)
    (source / "main.py").write_text("print('hi')\n")
    (source / "pkg/ä.txt").write_text("data")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o750)
    return source


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path / "layers", owner=None)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left_in_staging(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "layers/.trees").iterdir())


async def test_the_digest_is_that_of_the_contract(trees: Trees, source: Path) -> None:
    main, data, run = (sha256((source / path).read_bytes()) for path in ("main.py", "pkg/ä.txt", "run.sh"))
    lines = f"{main} - 12 main.py\n{data} - 4 pkg/ä.txt\n{run} x 10 run.sh\n"
    digest = sha256(lines.encode())
    assert await trees.add(source) == Tree(name=f"tree-{digest}", digest=digest, size=26, files=3)


async def test_paths_are_sorted_by_their_bytes(trees: Trees, tmp_path: Path) -> None:
    names = ["a/b", "a.txt", "a-b", "Z", "\uffee", "\U0001f600", "é"]
    for name in names:
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"")
    lines = [f"{sha256(b'')} - 0 {name}\n" for name in sorted(names, key=str.encode)]
    assert (await trees.add(tmp_path / "s")).digest == sha256("".join(lines).encode())


async def test_a_stored_tree_is_a_copy_with_plain_modes(trees: Trees, source: Path) -> None:
    (source / "main.py").chmod(0o4600)
    before = os.umask(0o077)
    try:
        tree = await trees.add(source)
    finally:
        os.umask(before)
    stored = trees.path(tree.name)
    assert (stored / "pkg/ä.txt").read_text() == "data"
    modes = {path: (stored / path).stat().st_mode & 0o7777 for path in (".", "pkg", "main.py", "run.sh")}
    assert modes == {".": 0o755, "pkg": 0o755, "main.py": 0o644, "run.sh": 0o755}
    (source / "main.py").write_text("changed")
    assert (stored / "main.py").read_text() == "print('hi')\n"


async def test_ignored_names_count_at_the_top_only(trees: Trees, source: Path) -> None:
    plain = await trees.add(source)
    for name in IGNORE:
        (source / name).mkdir()
        (source / name / "x").write_text("x")
    os.mkfifo(source / "input/fifo")
    assert await trees.add(source, IGNORE) == plain
    (source / "pkg/output").mkdir()
    (source / "pkg/output/x").write_text("x")
    assert await trees.add(source, IGNORE) != plain


@pytest.mark.parametrize("change", ["content", "name", "mode", "more", "link", "other_link", "link_text"])
async def test_different_trees_have_different_names(trees: Trees, source: Path, change: str) -> None:
    (source / "alias").symlink_to("main.py")
    first = await trees.add(source)
    match change:
        case "content":
            (source / "main.py").write_text("print('ho')\n")
        case "name":
            (source / "main.py").rename(source / "main2.py")
        case "mode":
            (source / "main.py").chmod(0o755)
        case "more":
            (source / "pkg/empty").touch()
        case "link":
            (source / "alias").unlink()
        case "other_link":
            (source / "alias").unlink()
            (source / "alias").symlink_to("run.sh")
        case "link_text":
            (source / "alias").unlink()
            (source / "alias").write_text("main.py")
    second = await trees.add(source)
    assert second.name != first.name
    assert await trees.verify(first.name)
    assert await trees.verify(second.name)


async def test_what_the_digest_does_not_cover_is_not_stored(trees: Trees, source: Path) -> None:
    first = await trees.add(source)
    (source / "empty/deep").mkdir(parents=True)
    (source / "main.py").chmod(0o600)
    os.utime(source / "main.py", (1, 1))
    assert await trees.add(source) == first
    assert not (trees.path(first.name) / "empty").exists()


@pytest.mark.parametrize(
    "target", ["/etc/shadow", "../outside", "pkg/../../outside", "up/outside", "/", "../source/main.py", "bad"]
)
async def test_a_link_that_leads_out_is_refused_and_named(
    trees: Trees, source: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "outside").write_text("secret")
    (source / "pkg/here").symlink_to(".")
    (source / "up").symlink_to("pkg/here/../..")
    (source / "bad").symlink_to(target)
    with pytest.raises(FileBadPath, match=r"'(bad|up)'"):
        await trees.add(source)
    assert left_in_staging(tmp_path) == []


async def test_links_that_stay_inside_are_kept_as_they_are(trees: Trees, source: Path) -> None:
    (source / "pkg/up").symlink_to("./../main.py")
    (source / "folder").symlink_to("pkg")
    (source / "dangling").symlink_to("later")
    stored = trees.path((await trees.add(source)).name)
    assert str((stored / "pkg/up").readlink()) == "../main.py"
    assert (stored / "folder/up").read_text() == "print('hi')\n"
    assert str((stored / "dangling").readlink()) == "later"


@pytest.mark.parametrize("kind", ["fifo", "socket"])
async def test_what_is_no_file_is_refused_and_named(trees: Trees, source: Path, tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(source / "odd")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(source)
            listener.bind("odd")
            os.chdir("/")
    async with asyncio.timeout(20):
        with pytest.raises(BadApp, match="'odd'"):
            await trees.add(source)
    assert left_in_staging(tmp_path) == []


async def test_names_that_no_app_may_have_are_refused(trees: Trees, source: Path) -> None:
    (source / "back\\slash").touch()
    with pytest.raises(FileBadPath):
        await trees.add(source)


@pytest.mark.parametrize("what", ["content", "mode", "more", "less", "link", "gone"])
async def test_an_altered_tree_is_noticed_and_mended_by_adding_it_again(
    trees: Trees, source: Path, tmp_path: Path, what: str
) -> None:
    tree = await trees.add(source)
    stored = trees.path(tree.name)
    assert await trees.verify(tree.name)
    match what:
        case "content":
            (stored / "main.py").write_text("print('HI')\n")
        case "mode":
            (stored / "main.py").chmod(0o755)
        case "more":
            (stored / "__pycache__").mkdir()
            (stored / "__pycache__/main.pyc").touch()
        case "less":
            (stored / "main.py").unlink()
        case "link":
            (stored / "main.py").rename(stored / "x")
            (stored / "main.py").symlink_to("/etc/passwd")
        case _:
            stored.rename(tmp_path / "gone")
    assert not await trees.verify(tree.name)
    assert await trees.add(source) == tree
    assert await trees.verify(tree.name)
    assert left_in_staging(tmp_path) == []


async def test_twenty_at_once_store_one_tree(trees: Trees, source: Path, tmp_path: Path) -> None:
    added = await asyncio.gather(*(trees.add(source) for _ in range(20)))
    assert len(set(added)) == 1
    assert await trees.verify(added[0].name)
    assert {path.name for path in (tmp_path / "layers").iterdir()} == {added[0].name, ".trees"}
    assert left_in_staging(tmp_path) == []


async def test_what_a_crashed_node_left_half_made_is_removed(trees: Trees, source: Path, tmp_path: Path) -> None:
    tree = await trees.add(source)
    half = tmp_path / "layers/.trees/half"
    half.mkdir()
    (half / "closed").mkdir(mode=0)
    again = Trees(tmp_path / "layers", owner=None)
    assert left_in_staging(tmp_path) == []
    assert await again.verify(tree.name)


@pytest.mark.parametrize("name", ["tree-" + "0" * 64, "../layers", "", ".trees", "tree-x"])
async def test_what_is_no_stored_tree_is_not_found(trees: Trees, name: str) -> None:
    with pytest.raises(NotFound):
        trees.path(name)
    assert not await trees.verify(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_a_stored_tree_belongs_to_the_sandboxed_user(source: Path, tmp_path: Path) -> None:
    (source / "alias").symlink_to("main.py")
    trees = Trees(tmp_path / "layers", owner=SANDBOX_UID)
    stored = trees.path((await trees.add(source)).name)
    assert {path.lstat().st_uid for path in (stored, *stored.rglob("*"))} == {SANDBOX_UID}


async def on_a_full_disk(disk: Path) -> None:
    source = disk / "source"
    source.mkdir()
    (source / "main.py").write_bytes(os.urandom(3 << 20))
    trees = Trees(disk / "layers", owner=None)
    with pytest.raises(DiskFull):
        await trees.add(source)
    assert [path.name for path in (disk / "layers").iterdir()] == [".trees"]
    assert list((disk / "layers/.trees").iterdir()) == []


async def test_a_full_disk_leaves_no_half_made_tree(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")
