"""Workspaces go whatever an app made of them, and are measured while it runs."""

import asyncio
import os
from pathlib import Path

import pytest

from moorage.node.workspace import make_workspace, remove_workspace
from moorage.sandbox.disk import DiskWatch, usage_of

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
