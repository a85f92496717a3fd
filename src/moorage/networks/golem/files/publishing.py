"""Which files are a task's results, and how they reach the user: whole, and nothing else (contract, section 2.5)."""

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from moorage.blobs.beneath import opened_directory, opened_for_reading, opened_handle, opened_root
from moorage.blobs.names import MAX_PATH, shown
from moorage.blobs.space import disk_full
from moorage.errors import OutputsNotPublished
from moorage.layers.publish import discard, empty
from moorage.networks.golem.files.trees import copy_file

_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM}
_NO_RESULT = {errno.EXDEV, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}
"""What is wrong with what an app has made, or changed meanwhile, and not with this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What changes with a file; times are nanoseconds."""

    inode: int
    size: int
    changed: int
    modified: int


def snapshot(task_outputs: Path) -> Mapping[str, Stamp]:
    """Look at all files and links below a directory, by their paths; one that is not there has none.

    An app may change the last two parts of `task_outputs`, and all below. A path that is not UTF-8, or is longer than
    MAX_PATH bytes, is never one of a result, and left out.
    """
    stamps = {}
    for _, path, entry in _walked(task_outputs):
        with _passing_over():
            if _is_name(path):
                stamps[path] = _stamp(entry)
    return stamps


def changed(before: Mapping[str, Stamp], after: Mapping[str, Stamp]) -> tuple[str, ...]:
    """Give the paths of what has appeared or was changed, sorted."""
    return tuple(sorted(path for path, stamp in after.items() if before.get(path) != stamp))


def stale(attributions: Iterable[tuple[str, str]], discarded: Set[str]) -> set[str]:
    """Give the paths that belong to discarded subtasks only, of pairs of a path and a subtask's id."""
    subtasks: dict[str, set[str]] = defaultdict(set)
    for path, subtask in attributions:
        subtasks[path].add(subtask)
    return {path for path, of in subtasks.items() if of <= discarded}


def staged(task_outputs: Path, target: Path, leave_out: Set[str]) -> tuple[str, ...]:
    """Lay the regular files below a directory out anew as the directory `target`, which no app may see.

    They are hard links where possible. A link that leads to a regular file inside becomes one; an empty directory is
    no result. Returns the paths, made readable, of what is neither left out nor laid out. Raises DiskFull.
    """
    with disk_full():
        return _laid_out(task_outputs, empty(target), leave_out, _link).skipped


def publish(task_outputs: Path, target: Path, *, leave_out: Set[str]) -> None:
    """Copy the regular files below a directory into the directory `target`, which is made with its parents.

    All are copied to a directory of a temporary name in `target` first, and renamed then; after an interruption, it is
    enough to do it again. A file of the same name is replaced, a directory keeps what else it has. The files belong to
    the node's user. Raises OutputsNotPublished, before anything is replaced, for a directory where a result is to be
    and the other way round, and for what the system says; DiskFull.
    """
    part = target / f".moorage-{hashlib.sha256(bytes(task_outputs)).hexdigest()[:16]}"
    with _not_published(target), disk_full():
        try:
            paths = _laid_out(task_outputs, empty(part), leave_out, _copy).done
            for path in paths:
                _make_room(target / path)
            for path in paths:
                (part / path).rename(target / path)
        finally:
            discard(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Laid:
    """Paths of what was laid out, and of what is no result."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]


Put = Callable[[int, Path], None]
"""Makes a file of what a handle stands for."""


def _laid_out(task_outputs: Path, target: Path, leave_out: Set[str], put: Put) -> _Laid:
    done, skipped = [], []
    for root, path, _ in _walked(task_outputs):
        if path in leave_out:
            continue
        if _is_name(path) and _was_put(root, path, target / path, put):
            done.append(path)
        else:
            skipped.append(shown(path))
    return _Laid(done=tuple(sorted(done)), skipped=tuple(sorted(skipped)))


def _was_put(root: int, path: str, target: Path, put: Put) -> bool:
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(opened_handle(root, path, follow=True))
        except OSError as error:
            if error.errno not in _NO_RESULT:
                raise
            return False
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        put(handle, target)
        return True


def _link(handle: int, target: Path) -> None:
    try:
        # Python follows the link that stands for the handle only if it is given some directory.
        os.link(f"/proc/self/fd/{handle}", target, src_dir_fd=handle, follow_symlinks=True)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(handle, target)


def _copy(handle: int, target: Path) -> None:
    with opened_for_reading(handle) as file:
        copy_file(file, target)


def _make_room(place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        raise OutputsNotPublished(f"{place} is a directory; a result of the task has the same name.")


@contextmanager
def _not_published(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename or target)
        raise OutputsNotPublished(f"{where} cannot be written: {error.strerror}.") from error


def _walked(task_outputs: Path) -> Iterator[tuple[int, str, os.DirEntry[str]]]:
    """Give all below a directory but its directories, with the open directory itself, and paths below it."""
    below = "/".join(task_outputs.parts[-2:])
    with opened_root(task_outputs.parents[1]) as parent, _passing_over(), opened_directory(parent, below) as root:
        pending = [""]
        while pending:
            folder = pending.pop()
            with _passing_over(), opened_directory(root, folder) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False) and _is_name(path):
                        pending.append(path)
                    else:
                        yield root, path, entry


@contextmanager
def _passing_over() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_RESULT:
            raise


def _is_name(path: str) -> bool:
    try:
        return len(path.encode()) <= MAX_PATH
    except UnicodeEncodeError:
        return False


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    status = entry.stat(follow_symlinks=False)
    return Stamp(inode=status.st_ino, size=status.st_size, changed=status.st_ctime_ns, modified=status.st_mtime_ns)
