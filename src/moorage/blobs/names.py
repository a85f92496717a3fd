"""The one place where an untrusted file name becomes a relative path (InfraX contract, section 5.2).

Every entry uses it: app files, job files, archive members.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from moorage.errors import FileBadPath, FileDuplicate

MAX_COMPONENT = 255
"""Bytes of one part of a name, as Linux file systems take them."""

MAX_PATH = 2048
"""Bytes of a whole name: half of what the kernel takes, so that it still fits below the directory it is put in."""


def safe_path(name: str) -> str:
    """Return `name` unchanged if it is a relative POSIX path that stays where it is put.

    Raises FileBadPath, naming the entry, for: absolute paths, empty, `.` and `..` components, NUL, backslash,
    control characters, what is not UTF-8, components over 255 bytes, names over 2,048 bytes.
    """
    reason = _reason(name)
    if reason is not None:
        raise FileBadPath(f"{shown(name)}: {reason}.", path=shown(name))
    return name


def join(path: str | None, name: str) -> str:
    """Give the one safe path of a file that is described by a `path` and a `name`, as the networks' messages do.

    Raises FileBadPath like `safe_path`.
    """
    return safe_path(f"{path.removesuffix('/')}/{name}" if path else name)


def refuse_duplicates(names: Iterable[str]) -> None:
    """Check that files of these safe names can lie in one directory.

    Raises FileDuplicate for a name given twice and for a file that another name needs as a directory.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if name in files:
            raise FileDuplicate(f"{shown(name)} is given twice.", path=shown(name))
        files.add(name)
        folders.update(str(parent) for parent in PurePosixPath(name).parents)
    for clash in sorted(files & folders):
        raise FileDuplicate(f"{shown(clash)} is both a file and the directory of another file.", path=shown(clash))


def contained(path: str) -> tuple[str, ...]:
    """Split a path that a sandbox or the store named, and check only that it stays below where it is put.

    What an app calls its outputs is its own affair (a backslash is no danger), so this is laxer than `safe_path`.
    Raises FileBadPath.
    """
    parts = tuple(path.split("/"))
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in path:
        raise FileBadPath(f"{shown(path)} leads elsewhere.", path=shown(path))
    return parts


def shown(name: str) -> str:
    """Make any name fit for a message: quoted, escaped and cut to a readable length."""
    return repr(name if len(name) <= 200 else f"{name[:200]}…")


def _reason(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    if size > MAX_PATH:
        return f"the name is longer than {MAX_PATH} bytes"
    if name.startswith("/"):
        return "the path is absolute"
    if "\\" in name or any(unicodedata.category(letter) == "Cc" for letter in name):
        return "the name has a backslash or a control character"
    return next(filter(None, map(_component_reason, name.split("/"))), None)


def _component_reason(part: str) -> str | None:
    if part in {"", ".", ".."}:
        return f"the path has the component {part!r}"
    if len(part.encode()) > MAX_COMPONENT:
        return f"a component is longer than {MAX_COMPONENT} bytes"
    return None
