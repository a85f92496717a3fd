"""The two forms of a program as a source: its message, or a folder that describes itself in moorage.toml."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moorage.errors import BadManifest, SourceNotFound
from moorage.model.jobs import JSON
from moorage.model.limits import MIB
from moorage.networks.aleph.config import DEFAULT_RUNTIME
from moorage.networks.aleph.messages.drafts import load
from moorage.networks.aleph.messages.program import ImmutableVolume, PersistentVolume, Program
from moorage.networks.aleph.messages.schema import Reading
from moorage.networks.aleph.messages.schema import read as read_content
from moorage.networks.base import Manifest, PythonEnvironment
from moorage.networks.manifest import NAME as APP_FILE
from moorage.networks.manifest import AppFile, network_of, read_app_file

NETWORK = "aleph"
FILE = "message.json"
"""A program's message in an app's folder."""
FILES = "files"
"""Folder of the files that came along with a message, each named by the reference that it stands for."""
REQUIREMENTS = "requirements.txt"
IGNORED = (".git", ".venv", "__pycache__", ".moorage")
UNRESOLVED = "0" * 64
"""Stands for the hash of code that is yet to be packed."""
DEFAULTS: Mapping[str, Mapping[str, JSON]] = {
    "on": {"http": True},
    "environment": {},
    "resources": {"vcpus": 1, "memory": 256, "seconds": 30},
    "runtime": {"ref": DEFAULT_RUNTIME, "comment": ""},
}
"""What a folder need not say of its program."""
OURS = ("address", "time", "replaces")
OUR_CODE = ("ref", "content", "encoding")
"""What a folder cannot say, of its program and of its code."""


class Described(BaseModel):
    """`[aleph]` in moorage.toml: keys of a PROGRAM's content, and the shorthand `entrypoint`."""

    model_config = ConfigDict(extra="allow", frozen=True)


def is_app(source: Path) -> bool:
    """Tell whether a folder is a program: one that says so, or one with a message that is one."""
    if not source.is_dir():
        return False
    return network_of(source) == NETWORK or (source / FILE).is_file()


def read(source: Path) -> Manifest:
    """Read and validate an app's folder.

    Raises BadManifest naming the file, the key and the fix.
    """
    if (source / FILE).is_file():
        loaded = load((source / FILE).read_bytes())
        return Manifest(network=NETWORK, name=source.name, data={}, warnings=tuple(map(str, loaded.warnings)))
    content, app_file = described(source)
    requirements = _requirements(source, app_file)
    environments = {"python": PythonEnvironment(requirements=requirements)} if requirements else {}
    return Manifest(
        network=NETWORK,
        name=source.name,
        environments=environments,
        data={"content": content},
        ignore=IGNORED,
        warnings=tuple(map(str, as_program(content).warnings)),
    )


def described(source: Path) -> tuple[dict[str, JSON], AppFile]:
    """Give the content of the message that a folder describes, but for its owner, its time and its code's hash.

    Raises BadManifest.
    """
    app_file, table = read_app_file(source, NETWORK, Described)
    content = _content(dict(table.model_extra or {}), app_file)
    reading = as_program(content)
    if reading.problems:
        placed = (replace(each, place=(NETWORK, *each.place)) for each in reading.problems)
        raise BadManifest("\n".join(f"{APP_FILE}: {each}" for each in placed))
    return content, app_file


def as_program(content: Mapping[str, JSON]) -> Reading:
    """Read what a folder's message will say."""
    return read_content({**content, "address": "0x", "time": 0}, generation="accepted", inline=False)


def _content(table: dict[str, Any], app_file: AppFile) -> dict[str, JSON]:
    _leave_to_node(table)
    _refuse_dates(table, "aleph")
    code = {"encoding": "zip", "ref": UNRESOLVED, "use_latest": True, **_table(table, "code")}
    if "entrypoint" in table:
        code["entrypoint"] = table.pop("entrypoint")
    if app_file.command:
        code |= {"entrypoint": shlex.join(app_file.command), "interface": "binary"}
    if "entrypoint" not in code:
        raise BadManifest(
            f"{APP_FILE}: `aleph.entrypoint` is missing.",
            hint='Say what is served: entrypoint = "main:app", or command = ["./server"].',
        )
    filled = {key: {**values, **_table(table, key)} for key, values in DEFAULTS.items()}
    _limit(filled["resources"], app_file)
    if app_file.network_access.policy == "internet":
        filled["environment"]["internet"] = True
    return {"type": "vm-function", "allow_amend": True, **table, **filled, "code": code}


def _refuse_dates(value: Any, place: str) -> None:
    """Refuse the only thing that TOML has and JSON has not."""
    if isinstance(value, date | time):
        raise BadManifest(f"{APP_FILE}: `{place}` is a date or time.", hint="Write it as text, in quotes.")
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            _refuse_dates(part, f"{place}.{key}")


def _leave_to_node(table: Mapping[str, Any]) -> None:
    """Refuse what the node says of a program that it publishes itself."""
    said = [key for key in OURS if key in table] + [f"code.{key}" for key in OUR_CODE if key in _table(table, "code")]
    if said:
        raise BadManifest(
            f"{APP_FILE}: `{NETWORK}.{said[0]}` is the node's to say, which publishes the program.",
            hint="Leave it out; or run the whole message, as a JSON file.",
        )


def _limit(resources: dict[str, JSON], app_file: AppFile) -> None:
    """Put in what the folder says under `[limits]`, which all networks share."""
    limits = app_file.limits
    if limits.memory is not None:
        resources["memory"] = max(1, limits.memory // MIB)
    if limits.cpus is not None:
        resources["vcpus"] = max(1, round(limits.cpus))
    if limits.timeout is not None:
        resources["seconds"] = max(1, round(limits.timeout))


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise BadManifest(f"{APP_FILE}: `aleph.{key}` must be a table.")
    return dict(value)


def _requirements(source: Path, app_file: AppFile) -> str | None:
    named = app_file.python or REQUIREMENTS
    if (source / named).resolve().is_relative_to(source.resolve()) and (source / named).is_file():
        return named
    if app_file.python is not None:
        raise BadManifest(f"{APP_FILE}: `python` names {named!r}, which is no file of the app.")
    return None


# From a message to a folder


def pack(source: str, target: Path) -> str | None:
    """Lay a message's file out as an app's folder, with the files beside it that are named by its references.

    Gives its name, or None if it is no message of a program. Raises SourceNotFound, BadProgram.
    """
    path = Path(source) if source.endswith(".json") and len(source) < 4096 else None
    if path is None:
        return None
    if not os.path.lexists(path):
        raise SourceNotFound(f"There is no file or folder {source}.")
    if not path.is_file() or not _looks_like_one(path):
        return None
    loaded = load(path.read_bytes())
    (target / FILES).mkdir(parents=True)
    shutil.copyfile(path, target / FILE)
    for ref in references(loaded.program).values():
        for found in _beside(path, ref):
            shutil.copyfile(found, target / FILES / ref)
    return path.stem


def references(program: Program) -> dict[str, str]:
    """Give what a program's message refers to files by: where it does, and the reference."""
    return dict(_references(program))


def _references(program: Program) -> Iterator[tuple[str, str]]:
    yield "code.ref", program.code.ref
    if program.data is not None:
        yield "data.ref", program.data.ref
    for index, volume in enumerate(program.volumes):
        if isinstance(volume, ImmutableVolume):
            yield f"volumes[{index}].ref", volume.ref
        elif isinstance(volume, PersistentVolume) and volume.parent is not None:
            yield f"volumes[{index}].parent.ref", volume.parent.ref


def _beside(message: Path, ref: str) -> list[Path]:
    """Find the file beside a message that is called like a reference, with any ending."""
    found = [path for path in message.parent.glob(f"{ref}*") if path.name.partition(".")[0] == ref]
    return sorted(path for path in found if path.is_file())[:1]


def _looks_like_one(path: Path) -> bool:
    """Tell whether a document is a message at all, so that its mistakes are worth telling."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    kinds = (document.get("type"), _type_within(document.get("content")))
    return "item_hash" in document or any(kind in ("PROGRAM", "vm-function") for kind in kinds)


def _type_within(content: Any) -> Any:
    return content.get("type") if isinstance(content, dict) else None
