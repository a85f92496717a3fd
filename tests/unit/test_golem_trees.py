"""The directories of a task (contract, sections 1, 2.2 and 3.4)."""

import os
from pathlib import Path

import pytest

from moorage.errors import DiskFull, FileBadPath
from moorage.networks.golem.files.trees import TLS, TaskTree, remove_tls
from moorage.sandbox.base import SANDBOX_UID
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

TASK = "8c5a3f0e-0000-4000-8000-000000000001"
SUBTASK = "8c5a3f0e-0000-4000-8000-000000000002"


@pytest.fixture
def tree(tmp_path: Path) -> TaskTree:
    made = TaskTree(tmp_path / "tasks" / "job")
    made.make()
    return made


def _blob(tmp_path: Path, content: str) -> Path:
    blob = tmp_path / f"blob-{content}"
    blob.write_text(content)
    return blob


def _files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_a_task_has_its_four_directories_and_all_resources_when_it_is_there(tree: TaskTree, tmp_path: Path) -> None:
    tree.make_task(TASK, {"in.txt": _blob(tmp_path, "a"), "folder/deep/in.txt": _blob(tmp_path, "b")})
    assert [path.name for path in tree.work.iterdir()] == [TASK]
    assert {path.name for path in tree.task(TASK).iterdir()} == {
        "task_inputs", "subtask_inputs", "task_outputs", "subtask_outputs",
    }  # fmt: skip
    assert _files(tree.task(TASK)) == {"task_inputs/in.txt": "a", "task_inputs/folder/deep/in.txt": "b"}


def test_an_app_that_changes_a_resource_changes_a_copy(tree: TaskTree, tmp_path: Path) -> None:
    blob = _blob(tmp_path, "original")
    tree.make_task(TASK, {"in.txt": blob})
    with (tree.task(TASK) / "task_inputs/in.txt").open("r+") as file:
        file.write("CHANGED")
    assert blob.read_text() == "original"


def test_a_task_that_was_made_by_half_is_made_anew_and_one_that_is_there_is_kept(
    tree: TaskTree, tmp_path: Path
) -> None:
    blob = _blob(tmp_path, "a")
    with pytest.raises(FileNotFoundError):
        tree.make_task(TASK, {"a": blob, "b": tmp_path / "missing"})
    assert list(tree.work.iterdir()) == []
    tree.make_task(TASK, {"a": blob})
    assert _files(tree.task(TASK)) == {"task_inputs/a": "a"}
    (tree.task(TASK) / "database").write_text("the app's own")
    tree.make_task(TASK, {"a": blob})
    assert _files(tree.task(TASK)) == {"task_inputs/a": "a", "database": "the app's own"}


def test_a_resource_never_leaves_task_inputs(tree: TaskTree, tmp_path: Path) -> None:
    with pytest.raises(FileBadPath):
        tree.make_task(TASK, {"../x": _blob(tmp_path, "a")})


def test_a_slot_keeps_what_its_app_has_left_and_gets_a_directory_for_each_subtask(tree: TaskTree) -> None:
    tree.prepare_slot(3)
    assert [path.name for path in tree.slot(3).iterdir()] == ["subtask_inputs"]
    (tree.slot(3) / "cache").write_text("kept")
    tree.prepare_slot(3)
    tree.prepare_subtask(3, SUBTASK)
    assert {path.name for path in tree.slot(3).iterdir()} == {"subtask_inputs", "cache", SUBTASK}
    assert list((tree.slot(3) / SUBTASK).iterdir()) == []
    assert not tree.slot(2).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's apps are that user")
def test_what_apps_see_belongs_to_the_user_that_they_are(tree: TaskTree, tmp_path: Path) -> None:
    tree.make_task(TASK, {"folder/in.txt": _blob(tmp_path, "a")})
    tree.prepare_subtask(0, SUBTASK)
    seen = [tree.work, *tree.work.rglob("*"), tree.slot(0), *tree.slot(0).rglob("*")]
    assert len(seen) == 11
    assert {(path.stat().st_uid, path.stat().st_gid) for path in seen} == {(SANDBOX_UID, SANDBOX_UID)}


@pytest.mark.parametrize("what", ["file", "link", "directory", "fifo", "link out"])
def test_nothing_makes_an_app_speak_tls_whatever_an_earlier_one_has_left(tree: TaskTree, what: str) -> None:
    tree.prepare_slot(0)
    outside = tree.root / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    for name in TLS:
        path = tree.slot(0) / name
        match what:
            case "file":
                path.write_text("key")
            case "link":
                path.symlink_to("nowhere")
            case "directory":
                (path / "deep").mkdir(parents=True)
                (path / "deep" / "file").write_text("x")
            case "fifo":
                os.mkfifo(path)
            case _:
                path.symlink_to(outside)
    (tree.slot(0) / "other.pem").write_text("the app's own")
    remove_tls(tree.slot(0))
    assert {path.name for path in tree.slot(0).iterdir()} == {"subtask_inputs", "other.pem"}
    assert _files(outside) == {"kept": "kept"}
    assert [path.name for path in tree.slot(0).parent.iterdir()] == ["0"]


def test_of_a_task_that_is_removed_nothing_is_left(tree: TaskTree, tmp_path: Path) -> None:
    tree.make_task(TASK, {"a": _blob(tmp_path, "a")})
    closed = tree.task(TASK) / "closed" / "inner"
    closed.mkdir(parents=True)
    closed.chmod(0)
    closed.parent.chmod(0)
    tree.remove()
    assert not tree.root.exists()
    tree.remove()


async def on_a_full_disk(disk: Path) -> None:
    tree = TaskTree(disk / "job")
    tree.make()
    blob = disk / "blob"
    blob.write_bytes(b"x" * (3 << 20))
    with pytest.raises(DiskFull):
        tree.make_task(TASK, {"a": blob})
    assert list(tree.work.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="where an ordinary user may mount, there is no other user")
def test_no_space_for_the_resources_is_said_so(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")
