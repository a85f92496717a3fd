"""What a person types about files and arguments, made into what a job takes."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moorage.errors import BadUsage, FileBadPath, FileDuplicate, SourceNotFound


def input_files(values: Iterable[str]) -> dict[str, Path]:
    """Map the name that each `--input` has below `input/` to its file on this machine.

    A value is a file, a folder (its files keep their relative paths) or NAME=PATH of either.
    Raises SourceNotFound, FileBadPath, FileDuplicate.
    """
    files: dict[str, Path] = {}
    for value in values:
        _add(files, *_named(value))
    return files


def named_files(values: Mapping[str, Path]) -> dict[str, Path]:
    """Do the same where each file or folder has its name already."""
    files: dict[str, Path] = {}
    for name, path in values.items():
        _add(files, name, path)
    return files


def _add(files: dict[str, Path], name: str | None, path: Path) -> None:
    for each, file in _expand(name, path):
        if each in files:
            raise FileDuplicate(f"Both {files[each]} and {file} would be input/{each}.")
        files[each] = file


def settings(values: Iterable[str]) -> dict[str, str]:
    """Split `KEY=VALUE` pairs; of the same key the last counts.

    Raises BadUsage.
    """
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise BadUsage(f"{value!r} is not KEY=VALUE.", hint="For an empty value write KEY= with nothing after it.")
        pairs[key] = text
    return pairs


def data(value: str | None) -> Mapping[str, Any] | None:
    """Read `--data`: a JSON object, or @FILE that holds one, or @- for standard input.

    Raises BadUsage, SourceNotFound.
    """
    if value is None:
        return None
    try:
        parsed = json.loads(_text(value))
    except ValueError as error:
        raise BadUsage(f"--data is not valid JSON: {error}", hint="""Quote it for the shell: '{"key": 1}'.""") from None
    if not isinstance(parsed, dict):
        raise BadUsage("--data is not a JSON object.", hint="""Give an object such as '{"key": 1}'.""")
    return parsed


def _text(value: str) -> str:
    if not value.startswith("@"):
        return value
    if value == "@-":
        return sys.stdin.read()
    try:
        return Path(value[1:]).read_text()
    except OSError as error:
        raise SourceNotFound(f"--data {value}: {error.strerror}.") from None


def _named(value: str) -> tuple[str | None, Path]:
    """Split NAME=PATH; a path that exists as it stands is a path, whatever its name holds."""
    name, equals, path = value.partition("=")
    if equals and name and not os.path.lexists(value):
        return name, Path(path)
    return None, Path(value)


def _expand(name: str | None, path: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield _safe(name or path.name), _regular(path)
        return
    for directory, subdirectories, names in os.walk(path):
        subdirectories.sort()
        for file in (Path(directory, entry) for entry in sorted(names)):
            relative = file.relative_to(path).as_posix()
            yield _safe(f"{name}/{relative}" if name else relative), _regular(file)


def _regular(path: Path) -> Path:
    if path.is_file():
        return path
    if path.exists():
        raise FileBadPath(f"{path} is neither a file nor a folder.", hint="Copy what it gives into a file first.")
    raise SourceNotFound(f"There is no file or folder {path}.", hint="Check --input.")


def _safe(name: str) -> str:
    """Refuse names that no request can carry; everything else about names is the node's to judge."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FileBadPath(f"The name {name!r} is not UTF-8.", hint="Rename the file.") from None
    return name
