"""Which files are results, and how they are published (contract, section 2.5)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moorage.errors import DiskFull, OutputsNotPublished
from moorage.networks.golem.files.publishing import changed, publish, snapshot, staged, stale
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

PUBLISH = """
import sys; from pathlib import Path; from moorage.networks.golem.files.publishing import publish
publish(Path(sys.argv[1]), Path(sys.argv[2]), leave_out=set())
"""


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    directory = tmp_path / "task" / "task_outputs"
    directory.mkdir(parents=True)
    return directory


def _write(directory: Path, *paths: str, content: str | None = None) -> None:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(path if content is None else content)


def _files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_a_file_has_changed_that_appeared_was_replaced_or_written_to(outputs: Path) -> None:
    _write(outputs, "same", "gone", "written", "sub/replaced", "in place")
    before = snapshot(outputs)
    assert set(before) == {"same", "gone", "written", "sub/replaced", "in place"}
    status = (outputs / "in place").stat()
    _write(outputs, "new", "sub/new")
    _write(outputs, "written", content="more")
    _write(outputs, "aside", content="sub/replaced")
    shutil.copystat(outputs / "sub/replaced", outputs / "aside")
    (outputs / "aside").rename(outputs / "sub/replaced")
    _write(outputs, "in place", content="IN PLACE")
    os.utime(outputs / "in place", ns=(status.st_atime_ns, status.st_mtime_ns))
    (outputs / "gone").unlink()
    after = snapshot(outputs)
    assert changed(before, after) == ("in place", "new", "sub/new", "sub/replaced", "written")
    assert changed(after, snapshot(outputs)) == ()


def test_ten_thousand_files_are_looked_at_in_no_time(outputs: Path) -> None:
    for number in range(10_000):
        (outputs / f"{number}").touch()
    begun = time.process_time()
    assert len(snapshot(outputs)) == 10_000
    assert time.process_time() - begun < 2


def test_files_are_stale_if_every_subtask_that_wrote_them_was_discarded() -> None:
    attributions = [("kept", "a"), ("both", "a"), ("both", "b"), ("gone", "b"), ("gone", "c")]
    assert stale(attributions, {"b", "c", "unknown"}) == {"gone"}
    assert stale(attributions, set()) == set()


def test_results_are_laid_out_anew_without_what_is_left_out(outputs: Path, tmp_path: Path) -> None:
    _write(outputs, "a", "sub/deep/b", "stale", "sub/stale")
    (outputs / "link").symlink_to("sub/deep/b")
    (outputs / "empty").mkdir()
    os.mkfifo(outputs / "fifo")
    clean = tmp_path / "staged"
    _write(clean, "what a killed node left")
    assert staged(outputs, clean, {"stale", "sub/stale"}) == ("'fifo'",)
    assert _files(clean) == {"a": "a", "sub/deep/b": "sub/deep/b", "link": "sub/deep/b"}
    assert not (clean / "link").is_symlink()
    assert (clean / "a").samefile(outputs / "a")


def test_results_are_published_as_copies_with_their_sub_directories(outputs: Path, tmp_path: Path) -> None:
    _write(outputs, "a", "sub/deep/b", "stale", ".hidden")
    (outputs / "tool").write_text("#!")
    (outputs / "tool").chmod(0o700)
    target = tmp_path / "new" / "out"
    publish(outputs, target, leave_out={"stale"})
    assert _files(target) == {"a": "a", "sub/deep/b": "sub/deep/b", ".hidden": ".hidden", "tool": "#!"}
    assert (target / "tool").stat().st_mode & 0o100
    assert not (target / "a").stat().st_mode & 0o111
    assert not (target / "a").samefile(outputs / "a")
    assert {path.name for path in target.iterdir()} == {"a", "sub", ".hidden", "tool"}


def test_published_files_replace_those_of_the_same_name_and_no_others(outputs: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    _write(outputs, "a", "sub/b", "link")
    _write(target, "a", "sub/other", content="old")
    _write(tmp_path, "elsewhere", content="the user's own")
    (target / "link").symlink_to(elsewhere)
    publish(outputs, target, leave_out=set())
    assert _files(target) == {"a": "a", "sub/b": "sub/b", "sub/other": "old", "link": "link"}
    assert elsewhere.read_text() == "the user's own"


@pytest.mark.parametrize(("result", "there"), [("z", "z/file"), ("z/file", "z")])
def test_nothing_is_published_over_a_directory_or_below_a_file(
    outputs: Path, tmp_path: Path, result: str, there: str
) -> None:
    target = tmp_path / "out"
    _write(outputs, "a", result)
    _write(target, "a", there, content="old")
    with pytest.raises(OutputsNotPublished, match=str(target / "z")):
        publish(outputs, target, leave_out=set())
    assert _files(target) == {"a": "old", there: "old"}


def test_an_output_directory_that_cannot_be_made_is_named(outputs: Path, tmp_path: Path) -> None:
    _write(tmp_path, "file")
    with pytest.raises(OutputsNotPublished, match=str(tmp_path / "file")):
        publish(outputs, tmp_path / "file" / "out", leave_out=set())


def test_results_that_are_not_there_any_more_are_none(outputs: Path, tmp_path: Path) -> None:
    outputs.rmdir()
    assert snapshot(outputs) == {}
    assert staged(outputs, tmp_path / "staged", set()) == ()
    publish(outputs, tmp_path / "out", leave_out=set())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_node_that_is_killed_while_it_publishes_leaves_whole_files_and_the_next_one_the_complete_set(
    outputs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    for number in range(3000):
        (outputs / f"{number}").write_text("x" * 5000)
    while not _killed_in_the_middle(outputs, target):
        shutil.rmtree(target)
    kept = [path for path in target.iterdir() if path.is_file()]
    assert all(path.stat().st_size == 5000 for path in kept)
    publish(outputs, target, leave_out=set())
    assert _files(target) == _files(outputs)
    assert len(list(target.iterdir())) == 3000


def _killed_in_the_middle(outputs: Path, target: Path) -> bool:
    """Kill what publishes as soon as it has begun; tell whether it was not done."""
    command = [sys.executable, "-c", PUBLISH, str(outputs), str(target)]
    with subprocess.Popen(command) as publishing:
        while not target.is_dir() or not any(path for part in target.iterdir() for path in _listed(part)):
            assert publishing.poll() in {None, 0}
        publishing.kill()
    return publishing.returncode == -signal.SIGKILL


def _listed(part: Path) -> list[Path]:
    return list(part.iterdir()) if part.is_dir() else [part]


async def on_a_full_disk(disk: Path) -> None:
    outputs, target = disk / "task" / "task_outputs", disk / "out"
    _write(outputs, "big", content="x" * (3 << 20))
    _write(target, "big", content="old")
    with pytest.raises(DiskFull):
        publish(outputs, target, leave_out=set())
    assert _files(target) == {"big": "old"}


def test_no_space_for_the_results_is_said_so_and_what_was_there_stays(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")
