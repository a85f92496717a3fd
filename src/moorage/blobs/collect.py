"""Store what an app left in its output directory (InfraX contract, section 5.3)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moorage.blobs.base import Blobs
from moorage.blobs.beneath import open_file, open_root, opened_directory, size_of_file
from moorage.errors import OutputsTooLarge
from moorage.model.jobs import JSON, FileRef

MAX_WARNINGS = 100
"""Entries that are warned of one by one; the rest is counted."""

Warn = Callable[[str, str, dict[str, JSON]], None]


async def collect(directory: Path, blobs: Blobs, *, max_bytes: int, max_files: int, warn: Warn) -> tuple[FileRef, ...]:
    """Store every regular file below `directory` and return them sorted by path.

    Call it when the app's processes are dead. Hidden and empty files are kept, empty directories are not. No link is
    followed by the walk; a link to a regular file inside is stored as a copy. Everything else is skipped with
    `warn(topic, message, data)`; so is a `directory` that is missing or no directory any more, which means no files.
    Sizes are apparent ones (a hole counts). Raises OutputsTooLarge before anything is stored, DiskFull.
    """
    try:
        root = open_root(directory)
    except (FileNotFoundError, NotADirectoryError):
        warn("output.missing", "output/ is missing or no directory any more: no files are kept.", {})
        return ()
    try:
        # The thread has a descriptor of its own: ours is closed at once if the caller is cancelled.
        survey = await asyncio.to_thread(_survey, os.dup(root), max_bytes, max_files)
        refs = [ref async for ref in _stored(root, blobs, survey)]
    finally:
        os.close(root)
    _warn_of(survey, warn)
    return tuple(refs)


@dataclass(slots=True)
class _Survey:
    """What a walk found: paths of files to store, and what was skipped, with the reason."""

    max_bytes: int
    max_files: int
    bytes: int = 0
    files: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_in_all: int = 0

    def add(self, path: str, size: int) -> None:
        self.files.append(path)
        self.bytes += size
        if len(self.files) > self.max_files:
            raise _too_large(f"more than {self.max_files} files")
        if self.bytes > self.max_bytes:
            raise _too_large(f"more than {self.max_bytes} bytes")

    def skip(self, path: str, reason: str) -> None:
        self.skipped_in_all += 1
        if len(self.skipped) < MAX_WARNINGS:
            self.skipped.append((path, reason))


def _too_large(what: str) -> OutputsTooLarge:
    return OutputsTooLarge(f"The app left {what} in output/.")


def _survey(root: int, max_bytes: int, max_files: int) -> _Survey:
    """Walk below `root`, which is closed then; by whole paths, as an app may nest directories deeper than any stack."""
    survey = _Survey(max_bytes, max_files)
    pending = [""]
    try:
        while pending:
            folder = pending.pop()
            try:
                with opened_directory(root, folder) as directory:
                    pending.extend(_visit(root, folder, directory, survey))
            except OSError as error:
                survey.skip(folder, f"the directory cannot be opened ({error.strerror})")
    finally:
        os.close(root)
    return survey


def _visit(root: int, folder: str, directory: int, survey: _Survey) -> Iterator[str]:
    """Note the files of one directory and yield the directories in it."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_utf8(entry.name):
                survey.skip(path, "its name is not UTF-8")
            elif entry.is_dir(follow_symlinks=False):
                yield path
            else:
                _note(root, path, entry, survey)


def _note(root: int, path: str, entry: os.DirEntry[str], survey: _Survey) -> None:
    size = size_of_file(root, path)
    if size is not None:
        survey.add(path, size)
    elif entry.is_symlink():
        survey.skip(path, "a link that leads to no regular file inside output/")
    else:
        survey.skip(path, "not a regular file")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _stored(root: int, blobs: Blobs, survey: _Survey) -> AsyncIterator[FileRef]:
    for path in sorted(survey.files):
        file = open_file(root, path)
        if file is None:
            survey.skip(path, "it cannot be read")
            continue
        try:
            digest, size = await blobs.put_file(file)
        finally:
            os.close(file)
        yield FileRef(path=path, digest=digest, size=size)


def _warn_of(survey: _Survey, warn: Warn) -> None:
    for path, reason in survey.skipped:
        name = path.encode(errors="backslashreplace").decode()
        warn("output.skipped", f"output/{name} was skipped: {reason}.", {"path": name})
    if (more := survey.skipped_in_all - len(survey.skipped)) > 0:
        warn("output.skipped", f"{more} more entries of output/ were skipped.", {"count": more})
