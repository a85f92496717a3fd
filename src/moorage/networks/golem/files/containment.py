"""Files that pass from one app to another: none leads out of its directory, none stays shared (contract, 2.4).

Apps run while their files are taken. So directories are held open and passed through no link that leads out, and files
are looked at only by their handles. Whatever else an app may do to its own files meanwhile, harms only itself.
"""

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from moorage.blobs.beneath import opened_directory, opened_for_reading, opened_handle, opened_root
from moorage.blobs.names import shown
from moorage.blobs.space import disk_full
from moorage.networks.golem.files.trees import SUBTASK_INPUTS, copy_file, own, placed, remove

WORK = "/golem/work/"
"""What an absolute path of a result may begin with."""
UNSURE = 1_000_000_000
"""Nanoseconds after a change within which another one may bear the same time."""

Code = Literal["bad_output", "bad_resource", "resource_missing"]


class BadOutput(Exception):
    """A file that an app named cannot be taken; says which, and what is wrong with it."""

    def __init__(self, code: Code, name: str, problem: str) -> None:
        self.code = code
        super().__init__(f"{shown(name)} {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A result that was taken: its name, its size in bytes, and its digest if that was wanted."""

    name: str
    size: int
    sha256: str | None


def output_name(reply: str) -> str:
    """Give the path of a result below its slot's directory. Raises BadOutput."""
    path = reply.removeprefix(WORK)
    if path.startswith("/"):
        raise BadOutput("bad_output", reply, "is not below /golem/work.")
    return _relative(path, reply, "bad_output")


def collect(source: Path, reply: str, target: Path, *, max_bytes: int, digest: bool) -> Collected:
    """Move the one file that an app named as its result from `source` to the directory `target`, under its own name.

    An app may change what is in `source`, and the last three parts of `target`, which are made if need be; no app may
    see the parents of either, which are on one file system. A result that is there already was moved by an earlier
    node, if it is not in `source` any more. One that has several names is copied, so that it is shared with nobody.
    Raises BadOutput for anything but a regular file of at most `max_bytes`, DiskFull.
    """
    name = output_name(reply)
    with _refusing("bad_output", reply), disk_full(), _opened_place(target) as place:
        with suppress(FileNotFoundError):
            _move(source, name, place, max_bytes)
        return _collected(place, posixpath.basename(name), digest)


def deliver(task: Path, slot: Path, resources: Sequence[str]) -> None:
    """Copy the files that a task's app named for a subtask from its `subtask_inputs` to those of a slot.

    Each gets the same path, and its mere name as well unless another one needs that. A copy that is there already is
    made again only if the file may have changed. Nothing is removed but what is in the way.
    An app may change what is in `task` and `slot`, and `task` itself; no app may see the parent of `slot`.
    Raises BadOutput, DiskFull.
    """
    for place, name in _places([_resource(each) for each in resources]).items():
        with _refusing("bad_resource", name), disk_full(), _opened_inputs(task) as inputs:
            try:
                _deliver(inputs, name, slot, place)
            except IsADirectoryError:
                if place == name:
                    raise


def _resource(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise BadOutput("bad_resource", name, "is not the name of a file in subtask_inputs.")
    return _relative(name, name, "bad_resource")


def _relative(path: str, name: str, code: Code) -> str:
    """Leave out what means nothing; what `..` means, the kernel knows best. Raises BadOutput."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts or "\0" in path or posixpath.normpath(path).split("/")[0] in {".", ".."}:
        raise BadOutput(code, name, "is not the name of a file.")
    return "/".join(parts)


def _places(names: Sequence[str]) -> dict[str, str]:
    """Give the resource that comes to each place (contract, section 2.4)."""
    places = {name: name for name in names}
    for name in names:
        places.setdefault(posixpath.basename(name), name)
    return places


@contextmanager
def _refusing(code: Code, name: str) -> Iterator[None]:
    """Turn what the system says of a file into BadOutput."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadOutput("resource_missing" if code == "bad_resource" else code, name, "is not there.") from error
    except OSError as error:
        leads_out = error.errno in {errno.EXDEV, errno.ELOOP}
        problem = "leads out of its directory" if leads_out else f"cannot be taken: {error.strerror}"
        raise BadOutput(code, name, f"{problem}.") from error
    except UnicodeEncodeError as error:
        raise BadOutput(code, name, "is not the name of a file.") from error


@contextmanager
def _opened_place(target: Path) -> Iterator[int]:
    with opened_root(target.parents[2]) as root, placed(root, "/".join(target.parts[-3:])) as place:
        yield place


def _move(source: Path, name: str, place: int, max_bytes: int) -> None:
    folder, base = posixpath.split(name)
    with (
        opened_root(source) as root,
        opened_handle(root, folder or ".", follow=True) as parent,
        opened_handle(parent, base, follow=False) as handle,
    ):
        status = _checked(handle, "bad_output", name)
        if status.st_size > max_bytes:
            raise BadOutput("bad_output", name, f"has {status.st_size} bytes; {max_bytes} are allowed.")
        move = _rename if status.st_nlink == 1 else _move_copy
        move(handle, parent, base, place, source)


def _checked(handle: int, code: Code, name: str) -> os.stat_result:
    status = os.fstat(handle)
    if stat.S_ISLNK(status.st_mode):
        raise BadOutput(code, name, "is a link.")
    if not stat.S_ISREG(status.st_mode):
        raise BadOutput(code, name, "is not a regular file.")
    return status


def _rename(handle: int, parent: int, base: str, place: int, source: Path) -> None:
    """Move a file, and take away what the app has put in its place meanwhile, if it has."""
    _settle(handle)
    os.rename(base, base, src_dir_fd=parent, dst_dir_fd=place)
    if not os.path.samestat(os.fstat(handle), os.stat(base, dir_fd=place, follow_symlinks=False)):
        aside = _aside(source)
        os.rename(base, aside, src_dir_fd=place)
        remove(aside)
        raise BadOutput("bad_output", base, "was changed while it was taken.")


def _settle(handle: int) -> None:
    """Let the requestor read and change a file, which has no powers of its own."""
    path = Path(f"/proc/self/fd/{handle}")
    path.chmod(stat.S_IMODE(os.fstat(handle).st_mode) & 0o777 | 0o600)
    own(path, follow=True)


def _move_copy(handle: int, parent: int, base: str, place: int, source: Path) -> None:
    _put_copy(handle, place, base, _aside(source))
    with suppress(OSError):  # the app may have changed what bears the name
        os.unlink(base, dir_fd=parent)


def _put_copy(handle: int, place: int, base: str, aside: Path) -> None:
    """Copy a file to `base`, with the time at which it was changed; nobody ever sees a half of it."""
    status = os.fstat(handle)
    try:
        with opened_for_reading(handle) as file:
            copy_file(file, aside)
        own(aside)
        os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(aside, base, dst_dir_fd=place)
    finally:
        aside.unlink(missing_ok=True)


def _aside(directory: Path) -> Path:
    """Name a place beside a directory, on its file system, where no app can interfere."""
    return directory.with_name(f".{uuid4().hex}")


def _collected(place: int, name: str, digest: bool) -> Collected:
    with opened_handle(place, name, follow=False) as handle:
        size = _checked(handle, "bad_output", name).st_size
        return Collected(name=name, size=size, sha256=_digest(handle) if digest else None)


def _digest(handle: int) -> str:
    with opened_for_reading(handle) as file, os.fdopen(file, "rb", closefd=False) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _opened_inputs(task: Path) -> Iterator[int]:
    with opened_root(task.parent) as work, opened_directory(work, f"{task.name}/{SUBTASK_INPUTS}") as inputs:
        yield inputs


def _deliver(inputs: int, name: str, slot: Path, place: str) -> None:
    folder, base = posixpath.split(f"{SUBTASK_INPUTS}/{place}")
    with opened_handle(inputs, name, follow=True) as handle, opened_root(slot) as root:
        status = _checked(handle, "bad_resource", name)
        with placed(root, folder) as directory:
            if not _is_there(status, directory, base):
                _put_copy(handle, directory, base, _aside(slot))


def _is_there(status: os.stat_result, directory: int, base: str) -> bool:
    """Tell whether a copy is there, made long enough after the last change to be of the file as it is."""
    try:
        copy = os.stat(base, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    same = (copy.st_size, copy.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    return stat.S_ISREG(copy.st_mode) and same and copy.st_ctime_ns - status.st_mtime_ns > UNSURE
