"""Apps that try to get at files of this machine, or of each other, by what they leave in their directories."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moorage.blobs.beneath import opened_root
from moorage.networks.golem.files import containment
from moorage.networks.golem.files.containment import BadOutput, collect, deliver
from moorage.networks.golem.files.publishing import publish, snapshot, staged
from moorage.networks.golem.files.trees import TaskTree

SECRET = "the host's own"
TRIES = 150

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def tree(tmp_path: Path) -> TaskTree:
    made = TaskTree(tmp_path / "job")
    made.make()
    made.make_task("task", {})
    made.prepare_slot(0)
    return made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """Give a directory that must be the same afterwards."""
    directory = tmp_path / "host"
    (directory / "subtask").mkdir(parents=True)
    (directory / "x").write_text(SECRET)
    yield directory
    assert (directory / "x").read_text() == SECRET
    assert {str(path.relative_to(directory)) for path in directory.rglob("*")} == {"subtask", "x"}
    assert (directory / "x").stat().st_uid == os.geteuid()


def _collect(tree: TaskTree, reply: str = "x") -> str:
    """Collect a result, and give its content as the requestor finds it."""
    target = tree.output_of("task", "subtask")
    return (target / collect(tree.slot(0), reply, target, max_bytes=1 << 20, digest=True).name).read_text()


def _deliver(tree: TaskTree, name: str = "x") -> str:
    """Deliver a resource, and give its content as the provider finds it."""
    deliver(tree.task("task"), tree.slot(0), [name])
    return (tree.slot(0) / "subtask_inputs" / name).read_text()


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _make_special(path: Path, what: str) -> None:
    match what:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                os.chdir(path.parent)  # a socket's path has at most 108 bytes
                try:
                    listener.bind(path.name)
                finally:
                    os.chdir("/")
        case "device":
            if os.geteuid() != 0:
                pytest.skip("only root may make device nodes")
            try:
                os.mknod(path, 0o020666, os.makedev(1, 5))
            except PermissionError:
                pytest.skip("this machine makes no device nodes")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(what)


SPECIAL = ["fifo", "socket", "device", "directory"]
LINKS = [
    "x",
    "inside",
    "/etc/passwd",
    "../../host/x",
    "/proc/self/environ",
    "/proc/self/fd/0",
    "/proc/1/root/etc/passwd",
]


@pytest.mark.parametrize("what", SPECIAL + LINKS)
def test_no_result_is_a_link_or_anything_but_a_regular_file(tree: TaskTree, host: Path, what: str) -> None:
    (tree.slot(0) / "inside").write_text("inside")
    _make_special(tree.slot(0) / "x", what)
    with pytest.raises(BadOutput) as raised:
        _collect(tree)
    assert raised.value.code == "bad_output"
    assert list(tree.output_of("task", "subtask").iterdir()) == []
    assert os.path.lexists(tree.slot(0) / "x")


@pytest.mark.parametrize("what", SPECIAL + [link for link in LINKS if link != "inside"])
def test_no_resource_leads_out_or_is_anything_but_a_regular_file(tree: TaskTree, host: Path, what: str) -> None:
    _make_special(tree.task("task") / "subtask_inputs" / "x", what)
    with pytest.raises(BadOutput):
        _deliver(tree)
    assert list((tree.slot(0) / "subtask_inputs").iterdir()) == []


@pytest.mark.parametrize("link", ["../../../host", "/", "/proc/self/cwd", "/proc/self/root", "..", "."])
def test_no_directory_on_the_way_to_a_file_leads_out(tree: TaskTree, host: Path, link: str) -> None:
    way = {".": "x", "..": "1/x"}.get(link, f"{os.path.relpath(host / 'x', '/')}" if link.startswith("/") else "x")
    for place in (tree.slot(0), tree.task("task") / "subtask_inputs"):
        (place / "way").symlink_to(link)
    (tree.slot(0).parent / "1").mkdir()
    (tree.slot(0).parent / "1" / "x").write_text(SECRET)
    (tree.task("task") / "1").mkdir()
    (tree.task("task") / "1" / "x").write_text(SECRET)
    with pytest.raises(BadOutput):
        _collect(tree, f"way/{way}")
    with pytest.raises(BadOutput):
        _deliver(tree, f"way/{way}")


@pytest.mark.parametrize("replaced", ["task", "task/subtask_outputs", "task/subtask_outputs/subtask"])
def test_a_requestor_cannot_have_a_result_put_elsewhere(tree: TaskTree, host: Path, replaced: str) -> None:
    place = tree.work / replaced
    if place.exists():
        place.rename(tree.work / "aside")
    place.symlink_to(host)
    (tree.slot(0) / "x").write_text("result")
    assert _collect(tree) == "result"
    assert tree.output_of("task", "subtask").resolve().is_relative_to(tree.work)


@pytest.mark.parametrize("replaced", ["task", "task/subtask_inputs"])
def test_a_requestor_cannot_have_files_of_the_host_delivered(tree: TaskTree, host: Path, replaced: str) -> None:
    (tree.work / replaced).rename(tree.work / "aside")
    (tree.work / replaced).symlink_to(host)
    (host / "subtask_inputs").symlink_to(".")
    with pytest.raises(BadOutput):
        _deliver(tree)
    (host / "subtask_inputs").unlink()


@pytest.mark.parametrize("what", ["link to directory", "link to file", "file", "fifo"])
def test_a_provider_cannot_have_a_resource_put_elsewhere(tree: TaskTree, host: Path, what: str) -> None:
    inputs = tree.slot(0) / "subtask_inputs"
    inputs.rmdir()
    match what:
        case "link to directory":
            inputs.symlink_to(host)
        case "link to file":
            inputs.mkdir()
            (inputs / "x").symlink_to(host / "x")
        case "file":
            inputs.write_text("in the way")
        case _:
            os.mkfifo(inputs)
    (tree.task("task") / "subtask_inputs" / "x").write_text("resource")
    tree.prepare_subtask(0, "subtask")
    assert _deliver(tree) == "resource"


@pytest.mark.parametrize("prepared", ["subtask_inputs", "subtask"])
def test_a_provider_cannot_have_directories_made_elsewhere(tree: TaskTree, host: Path, prepared: str) -> None:
    (tree.slot(0) / "subtask_inputs").rmdir()
    (tree.slot(0) / prepared).symlink_to(host)
    tree.prepare_subtask(0, "subtask")
    assert (tree.slot(0) / prepared).is_dir()
    assert not (tree.slot(0) / prepared).is_symlink()


@pytest.mark.parametrize("replaced", ["task", "task/task_outputs"])
def test_results_are_never_files_of_the_host(tree: TaskTree, host: Path, tmp_path: Path, replaced: str) -> None:
    (tree.work / replaced).rename(tree.work / "aside")
    (tree.work / replaced).symlink_to(host)
    (host / "task_outputs").symlink_to(".")
    outputs = tree.task_outputs("task")
    assert snapshot(outputs) == {}
    staged(outputs, tree.staged, set())
    publish(outputs, tmp_path / "out", leave_out=set())
    (host / "task_outputs").unlink()
    assert list(tree.staged.iterdir()) == list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("what", SPECIAL + LINKS)
def test_what_leads_out_of_the_results_or_is_no_regular_file_is_not_published(
    tree: TaskTree, host: Path, tmp_path: Path, what: str
) -> None:
    outputs = tree.task_outputs("task")
    (outputs / "fine").write_text("fine")
    (tree.task("task") / "x").write_text("the app's, but no result")
    _make_special(outputs / "x", what)
    (outputs / "up").symlink_to("../x")
    (outputs / "folder").symlink_to(host)
    assert "'up'" in staged(outputs, tree.staged, set())
    publish(outputs, tmp_path / "out", leave_out=set())
    assert _names(tree.staged) == _names(tmp_path / "out") == ["fine"]


def test_odd_names_are_no_trouble(tree: TaskTree, tmp_path: Path) -> None:
    for name in ("new\nline", "-rf", "*", "back\\slash", "ü" * 127, "x" * 255, " ", "...", "\x1b[31m", "\u202e"):
        (tree.slot(0) / name).write_text("result")
        assert _collect(tree, name) == "result"
        (tree.task("task") / "subtask_inputs" / name).write_text("resource")
        assert _deliver(tree, name) == "resource"
        (tree.task_outputs("task") / name).write_text("output")
    publish(tree.task_outputs("task"), tmp_path / "out", leave_out=set())
    assert _names(tmp_path / "out") == _names(tree.task_outputs("task"))
    for name in ("x" * 256, "x/" * 3000 + "x", "\ud800"):
        with pytest.raises(BadOutput):
            _collect(tree, name)
        with pytest.raises(BadOutput):
            _deliver(tree, name)


def test_names_that_are_not_utf8_and_directories_deeper_than_any_path_are_passed_over(
    tree: TaskTree, tmp_path: Path
) -> None:
    outputs = tree.task_outputs("task")
    (outputs / "fine").write_text("fine")
    try:
        Path(os.fsdecode(os.fsencode(outputs) + b"/caf\xe9")).write_text("x")
    except OSError:
        pytest.skip("this file system refuses such names itself")
    _nest(outputs, 3000)
    _nest(tree.slot(0) / "subtask_inputs", 3000)
    assert set(snapshot(outputs)) == {"fine"}
    assert len(staged(outputs, tree.staged, set())) == 2
    publish(outputs, tmp_path / "out", leave_out=set())
    assert _names(tree.staged) == _names(tmp_path / "out") == ["fine"]
    tree.remove()
    assert not tree.root.exists()


def _nest(directory: Path, depth: int) -> None:
    at = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("dd", dir_fd=at)
        deeper = os.open("dd", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)


def test_a_file_that_its_app_has_closed_to_all_is_taken_all_the_same(tree: TaskTree, tmp_path: Path) -> None:
    outputs = tree.task_outputs("task")
    for file in (tree.slot(0) / "x", tree.task("task") / "subtask_inputs" / "x", outputs / "x"):
        file.write_text("content")
        file.chmod(0)
    assert _collect(tree) == _deliver(tree) == "content"
    outputs.chmod(0)
    publish(outputs, tmp_path / "out", leave_out=set())
    assert (tmp_path / "out" / "x").read_text() == "content"


@contextmanager
def _swapping(one: Path, other: Path) -> Iterator[None]:
    """Have an app exchange two names all the time."""
    stop, spare = threading.Event(), one.with_name("spare")

    def swap() -> None:
        while not stop.is_set():
            for source, target in ((one, spare), (other, one), (spare, other)):
                try:
                    source.rename(target)
                except OSError:
                    continue

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        yield
    finally:
        stop.set()
        swapper.join()


def _outcomes(take: Callable[[], str]) -> set[str]:
    """Try often; give all that ever came of it, but refusals."""
    found = set()
    for _ in range(TRIES):
        try:
            found.add(take())
        except (BadOutput, OSError):
            continue
    return found


@pytest.mark.parametrize("other", ["link", "directory", "fifo", "file"])
def test_a_result_that_is_swapped_between_the_look_at_it_and_its_move_is_refused(
    tree: TaskTree, host: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    slot, target = tree.slot(0), tree.output_of("task", "subtask")
    (slot / "x").write_text("result")
    if other == "file":
        (slot / "other").write_text("too large, say")
    else:
        _make_special(slot / "other", str(host / "x") if other == "link" else other)
    monkeypatch.setattr(containment, "_settle", lambda _: (slot / "x").unlink() or (slot / "other").rename(slot / "x"))
    with pytest.raises(BadOutput, match="was changed while it was taken"):
        _collect(tree)
    assert _names(target) == []
    assert _names(slot.parent) == ["0"]


@pytest.mark.parametrize("other", ["link", "directory", "fifo"])
def test_a_result_that_is_swapped_while_it_is_taken_is_the_result_or_refused(
    tree: TaskTree, host: Path, other: str
) -> None:
    slot, target = tree.slot(0), tree.output_of("task", "subtask")

    def take() -> str:
        (slot / "fresh").write_text("result")
        (slot / "fresh").rename(slot / "x")
        taken = collect(slot, "x", target, max_bytes=1 << 20, digest=False)
        file = target / taken.name
        assert file.is_file()
        assert not file.is_symlink()
        content = file.read_text()
        file.unlink()
        return content

    _make_special(slot / "other", str(host / "x") if other == "link" else other)
    with _swapping(slot / "x", slot / "other"):
        assert _outcomes(take) <= {"result"}
    assert not os.path.lexists(target / "x") or not (target / "x").is_symlink()
    assert [path.name for path in slot.parent.iterdir()] == ["0"]


def test_a_result_is_never_put_elsewhere_by_a_directory_that_is_swapped_meanwhile(tree: TaskTree, host: Path) -> None:
    outputs = tree.task("task") / "subtask_outputs"
    outputs.with_name("other").symlink_to(host)

    def take() -> str:
        (tree.slot(0) / "x").write_text("result")
        return _collect(tree)

    with _swapping(outputs, outputs.with_name("other")):
        assert _outcomes(take) <= {"result", SECRET}  # the test itself reads through the link, too


def test_a_resource_is_never_read_or_put_elsewhere_by_what_is_swapped_meanwhile(tree: TaskTree, host: Path) -> None:
    requested, delivered = tree.task("task") / "subtask_inputs", tree.slot(0) / "subtask_inputs"
    (requested / "x").write_text("resource")
    (requested / "other").symlink_to(host / "x")
    delivered.with_name("other").symlink_to(host)
    seen: set[str | None] = set()

    def take() -> str:
        deliver(tree.task("task"), tree.slot(0), ["x"])
        for place in ("subtask_inputs", "other", "spare"):
            seen.add(_delivered(tree.slot(0) / place))
        return ""

    with _swapping(requested / "x", requested / "other"), _swapping(delivered, delivered.with_name("other")):
        _outcomes(take)
    assert seen == {None, "resource"}


def _delivered(directory: Path) -> str | None:
    """Read what was put into a directory, unless that is a link now."""
    try:
        with opened_root(directory) as root:
            file = os.open("x", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root)
    except OSError:
        return None
    with os.fdopen(file) as opened:
        return opened.read()


def test_results_that_are_swapped_while_they_are_published_are_results_or_left_out(
    tree: TaskTree, host: Path, tmp_path: Path
) -> None:
    outputs, target = tree.task_outputs("task"), tmp_path / "out"
    (outputs / "d").mkdir()
    (outputs / "d" / "x").write_text("output")
    (outputs / "other").symlink_to(host)

    def take() -> str:
        staged(outputs, tree.staged, set())
        publish(outputs, target, leave_out=set())
        found = [path.read_text() for place in (tree.staged, target) for path in place.rglob("*") if path.is_file()]
        return " ".join(sorted(set(found)))

    with _swapping(outputs / "d", outputs / "other"):
        assert _outcomes(take) <= {"", "output"}
