"""How results and resources pass between apps (contract, section 2.4)."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from moorage.errors import DiskFull
from moorage.networks.golem.files.containment import BadOutput, Collected, collect, deliver, output_name
from moorage.networks.golem.files.trees import TaskTree
from moorage.sandbox.base import SANDBOX_UID
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Bench:
    """A task with one slot."""

    tree: TaskTree

    @property
    def slot(self) -> Path:
        return self.tree.slot(0)

    @property
    def inputs(self) -> Path:
        return self.tree.task("task") / "subtask_inputs"

    @property
    def delivered(self) -> Path:
        return self.slot / "subtask_inputs"

    @property
    def target(self) -> Path:
        return self.tree.output_of("task", "subtask")

    def put(self, path: str, content: str = "result") -> Path:
        file = self.slot / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def offer(self, path: str, content: str, *, age: float = 60) -> None:
        """Write a resource that was last changed some seconds ago."""
        file = self.inputs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        when = time.time_ns() - int(age * 1e9)
        os.utime(file, ns=(when, when))

    def collect(self, reply: str, *, max_bytes: int = 1 << 20, digest: bool = False) -> Collected:
        return collect(self.slot, reply, self.target, max_bytes=max_bytes, digest=digest)

    def deliver(self, *names: str) -> None:
        deliver(self.tree.task("task"), self.slot, names)

    def files(self) -> dict[str, str]:
        found = self.delivered.rglob("*")
        return {str(path.relative_to(self.delivered)): path.read_text() for path in found if path.is_file()}


def _bench(root: Path) -> Bench:
    tree = TaskTree(root / "job")
    tree.make()
    tree.make_task("task", {})
    tree.prepare_slot(0)
    return Bench(tree)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return _bench(tmp_path)


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("x.zip", "x.zip"),
        ("./x.zip", "x.zip"),
        ("sub/x.zip", "sub/x.zip"),
        ("sub//./x.zip", "sub/x.zip"),
        ("/golem/work/x.zip", "x.zip"),
        ("/golem/work/sub/x.zip", "sub/x.zip"),
        ("sub/../x.zip", "sub/../x.zip"),
        (" ", " "),
    ],
)
def test_a_result_is_named_below_the_work_directory(reply: str, name: str) -> None:
    assert output_name(reply) == name


@pytest.mark.parametrize(
    "reply",
    ["", ".", "./", "/", "/etc/passwd", "/golem/work", "/golem/work/", "/golem/workers/x", "..", "../x", "a/../../x",
     "a/..", "/golem/work/../x", "x\0y"],
)  # fmt: skip
def test_a_result_is_never_named_elsewhere(reply: str) -> None:
    with pytest.raises(BadOutput) as raised:
        output_name(reply)
    assert raised.value.code == "bad_output"
    assert repr(reply) in str(raised.value)


@pytest.mark.parametrize("reply", ["x.zip", "./x.zip", "sub/x.zip", "/golem/work/x.zip", "sub/../x.zip"])
def test_a_result_is_moved_to_where_the_requestor_looks_under_its_own_name(bench: Bench, reply: str) -> None:
    bench.put("sub/other", "kept")
    file = bench.put(reply.removeprefix("/golem/work/"))
    inode = file.stat().st_ino
    assert bench.collect(reply) == Collected(name="x.zip", size=6, sha256=None)
    assert not file.exists()
    assert [path.name for path in bench.target.iterdir()] == ["x.zip"]
    assert (bench.target / "x.zip").read_text() == "result"
    assert (bench.target / "x.zip").stat().st_ino == inode
    assert [path.name for path in bench.slot.parent.iterdir()] == ["0"]


def test_the_digest_of_a_result_is_told_if_it_is_wanted(bench: Bench) -> None:
    bench.put("x")
    assert bench.collect("x", digest=True).sha256 == hashlib.sha256(b"result").hexdigest()


def test_an_empty_result_is_one(bench: Bench) -> None:
    bench.put("x", "")
    assert bench.collect("x").size == 0


def test_a_result_may_be_reached_through_a_link_that_stays_inside(bench: Bench) -> None:
    bench.put("real/x")
    (bench.slot / "link").symlink_to("real")
    assert bench.collect("link/x").name == "x"
    assert (bench.target / "x").read_text() == "result"


def test_a_result_as_large_as_allowed_is_taken_and_a_larger_one_stays(bench: Bench) -> None:
    bench.put("x", "12345")
    with pytest.raises(BadOutput, match="has 5 bytes; 4 are allowed"):
        bench.collect("x", max_bytes=4)
    assert (bench.slot / "x").exists()
    assert bench.collect("x", max_bytes=5).size == 5


def test_a_hole_counts_as_what_it_pretends_to_be(bench: Bench) -> None:
    bench.put("x")
    os.truncate(bench.slot / "x", 1 << 40)
    with pytest.raises(BadOutput, match="are allowed"):
        bench.collect("x")


def test_a_constant_name_never_means_the_result_of_an_earlier_subtask(bench: Bench) -> None:
    bench.put("out")
    bench.collect("out")
    with pytest.raises(BadOutput, match="is not there"):
        collect(bench.slot, "out", bench.tree.output_of("task", "next"), max_bytes=9, digest=False)


def test_a_result_that_an_earlier_node_has_moved_is_taken_as_it_is(bench: Bench) -> None:
    bench.put("sub/x")
    first = bench.collect("sub/x", digest=True)
    assert bench.collect("sub/x", digest=True) == first


def test_a_result_is_moved_on_from_a_place_that_no_app_sees(bench: Bench) -> None:
    bench.put("x")
    between = bench.tree.result("subtask", "job")
    collect(bench.slot, "x", between, max_bytes=9, digest=True)
    assert [path.name for path in between.iterdir()] == ["x"]
    collect(between, "x", bench.target, max_bytes=9, digest=False)
    assert (bench.target / "x").read_text() == "result"


def test_a_result_with_several_names_is_shared_with_nobody(bench: Bench) -> None:
    file = bench.put("x")
    (bench.slot / "other").hardlink_to(file)
    bench.collect("x")
    (bench.slot / "other").write_text("changed")
    assert (bench.target / "x").read_text() == "result"
    assert not file.exists()
    assert [path.name for path in bench.slot.parent.iterdir()] == ["0"]


def test_the_requestor_may_read_and_change_a_result_which_has_no_powers(bench: Bench) -> None:
    file = bench.put("x")
    file.chmod(0o6011)
    bench.collect("x")
    status = (bench.target / "x").stat()
    assert status.st_mode & 0o7777 == 0o611
    if os.geteuid() == 0:
        assert (status.st_uid, bench.target.stat().st_uid) == (SANDBOX_UID, SANDBOX_UID)


def test_resources_come_to_the_same_paths_and_to_their_mere_names(bench: Bench) -> None:
    for path in ("a", "sub/b", "sub/a", "one/c", "two/c", "not asked for"):
        bench.offer(path, path)
    bench.deliver("a", "./sub/b", "sub/a", "one/c", "two/c")
    assert bench.files() == {
        **{path: path for path in ("a", "sub/b", "sub/a", "one/c", "two/c")},
        "b": "sub/b",
        "c": "one/c",
    }
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in bench.delivered.rglob("*")} == {SANDBOX_UID}


def test_the_same_mere_name_means_the_file_that_was_named_last(bench: Bench) -> None:
    bench.offer("1/in", "first")
    bench.offer("2/in", "second")
    bench.deliver("1/in")
    bench.deliver("2/in")
    assert bench.files() == {"1/in": "first", "2/in": "second", "in": "second"}


def test_a_mere_name_that_is_a_directory_is_not_free(bench: Bench) -> None:
    bench.offer("x/y", "file")
    bench.offer("y/z", "other")
    bench.deliver("x/y", "y/z")
    assert bench.files() == {"x/y": "file", "y/z": "other", "z": "other"}


def test_a_provider_that_changes_a_resource_changes_a_copy(bench: Bench) -> None:
    bench.offer("a", "original")
    bench.deliver("a")
    with (bench.delivered / "a").open("r+") as file:
        file.write("CHANGED!")
    assert (bench.inputs / "a").read_text() == "original"


def test_a_resource_is_copied_again_only_if_it_may_have_changed(bench: Bench) -> None:
    bench.offer("a", "first")
    bench.deliver("a")
    inode = (bench.delivered / "a").stat().st_ino
    bench.deliver("a")
    assert (bench.delivered / "a").stat().st_ino == inode
    bench.offer("a", "other", age=30)
    bench.deliver("a")
    assert bench.files() == {"a": "other"}


def test_a_resource_that_changes_twice_at_once_is_copied_twice(bench: Bench) -> None:
    now = time.time_ns()
    for content in ("first", "other"):
        bench.offer("a", content)
        os.utime(bench.inputs / "a", ns=(now, now))
        bench.deliver("a")
        assert bench.files() == {"a": content}


def test_what_a_provider_has_made_of_a_resource_is_put_right_the_next_time(bench: Bench) -> None:
    bench.offer("a", "first")
    bench.deliver("a")
    (bench.delivered / "a").write_text("spoilt")
    (bench.delivered / "own").write_text("kept")
    bench.deliver("a")
    assert bench.files() == {"a": "first", "own": "kept"}


def test_a_link_that_stays_inside_is_delivered_as_the_file_it_leads_to(bench: Bench) -> None:
    bench.offer("real", "content")
    (bench.inputs / "link").symlink_to("real")
    bench.deliver("link")
    assert bench.files() == {"link": "content"}
    assert not (bench.delivered / "link").is_symlink()


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../x", "a/../b", "..", "x\0y", "sub", "\ud800", "x" * 256])
def test_what_names_no_resource_is_refused(bench: Bench, name: str) -> None:
    bench.offer("sub/file", "x")
    bench.offer("b", "x")
    with pytest.raises(BadOutput) as raised:
        bench.deliver(name)
    assert raised.value.code == "bad_resource"
    assert bench.files() == {}


@pytest.mark.parametrize("name", ["missing", "missing/too"])
def test_a_resource_that_is_not_there_is_missing(bench: Bench, name: str) -> None:
    with pytest.raises(BadOutput, match="is not there") as raised:
        bench.deliver(name)
    assert raised.value.code == "resource_missing"


def test_no_resources_are_no_trouble(bench: Bench) -> None:
    bench.inputs.rmdir()
    bench.deliver()


async def on_a_full_disk(disk: Path) -> None:
    bench = _bench(disk)
    bench.offer("big", "x" * (3 << 20))
    with pytest.raises(DiskFull):
        bench.deliver("big")
    assert bench.files() == {}
    assert [path.name for path in bench.slot.parent.iterdir()] == ["0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="where an ordinary user may mount, there is no other user")
def test_no_space_for_a_resource_is_said_so_and_leaves_no_half_of_it(tmp_path: Path) -> None:
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "5m")
