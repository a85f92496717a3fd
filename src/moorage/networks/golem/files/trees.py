"""The directories of a task, as its app and its providers expect them (contract, sections 1 and 2.2)."""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from uuid import uuid4

from moorage.blobs.beneath import opened_directory, opened_root
from moorage.blobs.names import contained
from moorage.blobs.space import disk_full
from moorage.layers.publish import discard, empty, publish
from moorage.sandbox.base import SANDBOX_UID

TASK_INPUTS, TASK_OUTPUTS = "task_inputs", "task_outputs"
SUBTASK_INPUTS, SUBTASK_OUTPUTS = "subtask_inputs", "subtask_outputs"
TLS = ("task_api_server_key.pem", "task_api_server_cert.pem", "task_api_client_cert.pem")
"""Files that make an app speak TLS if all of them are there (contract, section 3.4)."""
_FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class TaskTree:
    """The directories of one task, below `root`. Apps see `work` and the slots, and may change all that is in there."""

    root: Path

    @property
    def work(self) -> Path:
        """What the requestor finds at /golem/work."""
        return self.root / "work"

    @property
    def staged(self) -> Path:
        """Where the results are that are to be published; no app sees it."""
        return self.root / "staged"

    def task(self, task_id: str) -> Path:
        """Give the requestor's directory of the task, by the id that its app knows."""
        return self.work / task_id

    def task_outputs(self, task_id: str) -> Path:
        """Give the directory in which the app leaves its results."""
        return self.task(task_id) / TASK_OUTPUTS

    def output_of(self, task_id: str, subtask_id: str) -> Path:
        """Give the directory in which the app looks for the result of a subtask."""
        return self.task(task_id) / SUBTASK_OUTPUTS / subtask_id

    def slot(self, number: int) -> Path:
        """Give what the providers of a slot find at /golem/work."""
        return self.root / "slots" / str(number)

    def result(self, subtask_id: str, job_id: str) -> Path:
        """Give the directory of what a job has computed, until the app gets it; no app sees it."""
        return self.root / "results" / subtask_id / job_id

    def make(self) -> None:
        """Make what a task has before its app starts. Raises DiskFull."""
        with disk_full():
            self.work.mkdir(parents=True, exist_ok=True)
            own(self.work)
            for name in ("slots", "results"):
                (self.root / name).mkdir(exist_ok=True)

    def make_task(self, task_id: str, resources: Mapping[str, Path]) -> None:
        """Make the requestor's directory, with copies of the resources; it is there whole or not at all.

        `resources` are regular files by their paths below `task_inputs`. What is there already is left as it is.
        Raises FileBadPath, DiskFull.
        """
        if os.path.lexists(self.task(task_id)):
            return
        with disk_full():
            making = empty(self.root / "making")
            for name in (TASK_INPUTS, SUBTASK_INPUTS, TASK_OUTPUTS, SUBTASK_OUTPUTS):
                (making / name).mkdir()
            for path, source in resources.items():
                _copy_resource(source, making / TASK_INPUTS, path)
            for directory, _, _ in os.walk(making):
                own(Path(directory))
            publish(making, self.task(task_id))

    def prepare_slot(self, number: int) -> None:
        """Make what a slot has before its provider starts, as far as it is not there. Raises OSError, DiskFull."""
        self._prepare(number, SUBTASK_INPUTS)

    def prepare_subtask(self, number: int, subtask_id: str) -> None:
        """Make what a slot has before a subtask is computed there. Raises OSError, DiskFull."""
        self._prepare(number, SUBTASK_INPUTS)
        self._prepare(number, subtask_id)

    def remove(self) -> None:
        """Remove everything, whatever apps have made of it; what cannot be removed stays."""
        with suppress(OSError, CalledProcessError):
            discard(self.root)

    def _prepare(self, number: int, name: str) -> None:
        with disk_full():
            self.slot(number).mkdir(parents=True, exist_ok=True)
            own(self.slot(number))
            with opened_root(self.slot(number)) as slot, placed(slot, name):
                pass


def remove_tls(work: Path) -> None:
    """Remove what would make an app speak TLS, whatever it is; no app may see the parent of `work`."""
    for name in TLS:
        aside = work.with_name(f".{uuid4().hex}")
        with suppress(OSError, CalledProcessError):
            (work / name).rename(aside)
            remove(aside)


def remove(path: Path) -> None:
    """Remove anything that an app has made, from a place where it cannot interfere. Raises OSError."""
    if stat.S_ISDIR(path.lstat().st_mode):
        discard(path)
    else:
        path.unlink()  # `discard` would wait for whoever writes to a FIFO


@contextmanager
def placed(root: int, path: str) -> Iterator[int]:
    """Open a directory below `root` where an app may change everything, for putting something there.

    What is missing is made, in place of whatever is no directory. No link is followed. Raises OSError.
    """
    parts = path.split("/")
    for depth, name in enumerate(parts):
        with opened_directory(root, "/".join(parts[:depth])) as parent:
            _place(parent, name)
    with opened_directory(root, path) as directory:
        yield directory


def own(path: Path | str, *, parent: int | None = None, follow: bool = False) -> None:
    """Give a file or directory, below the directory `parent` if that is open, to the user that apps are."""
    if os.geteuid() == 0:
        os.chown(path, SANDBOX_UID, SANDBOX_UID, dir_fd=parent, follow_symlinks=follow)


def copy_file(source: int, target: Path) -> None:
    """Copy an open file as a new one, by a reflink where possible; bytes that are added meanwhile are left out."""
    status = os.fstat(source)
    mode = 0o777 if status.st_mode & stat.S_IXUSR else 0o666
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:
        _copy_bytes(source, copy, status.st_size)
    finally:
        os.close(copy)


def _copy_bytes(source: int, copy: int, size: int) -> None:
    offset = 0
    while offset < size and (sent := os.sendfile(copy, source, offset, size - offset)):
        offset += sent


def _copy_resource(source: Path, inputs: Path, path: str) -> None:
    target = inputs.joinpath(*contained(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as opened:
        copy_file(opened.fileno(), target)
    own(target)


def _place(parent: int, name: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return
        os.unlink(name, dir_fd=parent)
    os.mkdir(name, dir_fd=parent)
    own(name, parent=parent)
