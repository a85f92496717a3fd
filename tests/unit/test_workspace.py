"""Workspaces go whatever an app made of them, and are measured while it runs."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from moorage.node.recovery import recover
from moorage.node.workspace import make_workspace, remove_workspace
from moorage.sandbox.disk import UNKNOWN, DiskWatch, usage_of
from moorage.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


def test_a_workspace_full_of_traps_is_removed(tmp_path: Path):
    workspace = tmp_path / "attempt"
    make_workspace(workspace)
    locked = workspace / "locked" / "deep"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    (workspace / "link").symlink_to("/etc")
    os.mkfifo(workspace / "fifo")
    locked.chmod(0)
    locked.parent.chmod(0)
    remove_workspace(workspace)
    assert not workspace.exists()
    assert Path("/etc").is_dir()


def nest(directory: Path, name: str, depth: int) -> None:
    """Make directories below each other, also where no path can name them."""
    inner = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=inner)
        outer, inner = inner, os.open(name, os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)


async def test_a_node_starts_however_deep_an_earlier_job_nested_its_files(tmp_path: Path):
    work, staging = tmp_path / "work", tmp_path / "staging"
    for directory in (work / "attempt", staging / "upload"):
        directory.mkdir(parents=True)
        nest(directory, "d", 3000)
    (work / "stray").touch()
    store = SqliteStore.open(tmp_path / "moorage.db")
    await recover(store, work=work, staging=staging)
    await store.close()
    assert [*work.iterdir(), *staging.iterdir()] == []


def test_what_no_path_can_name_could_hold_anything(tmp_path: Path):
    nest(tmp_path, "d" * 200, 25)
    assert usage_of(tmp_path) == UNKNOWN
    remove_workspace(tmp_path / ("d" * 200))


def test_what_may_not_be_read_could_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("moorage.sandbox.disk.os.scandir", refuse)  # root may read everything
    assert usage_of(tmp_path) == UNKNOWN


def test_usage_counts_what_was_written_and_neither_links_nor_stored_bytes(tmp_path: Path):
    (tmp_path / "w").mkdir()
    (tmp_path / "stored").write_bytes(b"x" * 1_000_000)
    os.link(tmp_path / "stored", tmp_path / "w" / "input")
    (tmp_path / "w" / "link").symlink_to(tmp_path / "stored")
    before = usage_of(tmp_path / "w")
    (tmp_path / "w" / "written").write_bytes(b"x" * 500_000)
    assert 500_000 <= usage_of(tmp_path / "w") - before < 600_000


def test_a_second_name_does_not_hide_what_was_written(tmp_path: Path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "written").write_bytes(b"x" * 500_000)
    os.link(tmp_path / "w" / "written", tmp_path / "w" / "again")
    assert 500_000 <= usage_of(tmp_path / "w") < 600_000


async def test_the_watch_calls_back_once_when_the_limit_is_passed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("moorage.sandbox.disk.WATCH_EVERY", 0.01)
    excess = asyncio.Event()
    watch = DiskWatch(tmp_path, 100_000, excess.set)
    (tmp_path / "big").write_bytes(b"x" * 200_000)
    await asyncio.wait_for(excess.wait(), 10)
    assert watch.exceeded
    watch.stop()


def test_a_link_is_removed_and_what_it_leads_to_is_left_as_it_is(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    (tmp_path / "link").symlink_to(closed)
    remove_workspace(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert closed.stat().st_mode & 0o777 == 0o500
