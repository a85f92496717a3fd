"""What makes a folder a Golem app, and how a descriptor becomes one.

An app is a folder with the network's own descriptor as `app.json`, or one with its code and a moorage.toml that says
how it starts. Then the descriptor is made of that: the app's environment is `local`, or the image that the folder
stands for.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage.errors import BadManifest, SourceNotFound
from moorage.model.jobs import JSON
from moorage.networks.base import Manifest, PythonEnvironment
from moorage.networks.golem import descriptor
from moorage.networks.golem.descriptor import Descriptor
from moorage.networks.golem.prerequisites import DOCKER_CPU, LATEST, LOCAL, parse
from moorage.networks.manifest import NAME as APP_FILE
from moorage.networks.manifest import Table, network_of, read_app_file

NETWORK = "golem"
FILE = "app.json"
REQUIREMENTS = "requirements.txt"
IGNORED = (".git", ".venv", "__pycache__")
"""Top-level entries that are no part of an app."""
TOP_SCORE = 10000.0


class Described(Table):
    """`[golem]` in moorage.toml: what a descriptor says, for an app that runs from its folder."""

    name: str
    """Part of the app's id, so it cannot be left to the name of the folder."""
    version: str = "0.0"
    description: str = ""
    author: str = ""
    license: str = ""
    image: str | None = None
    """`name:tag` that the folder stands for, wherever a task or the app itself asks for that image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of an installed app."""

    descriptor: Descriptor
    command: tuple[str, ...] = ()
    """How it starts from its folder; nothing if it does not."""
    image: str | None = None
    """The image for which its folder stands."""
    limits: Mapping[str, JSON]


def is_app(source: Path) -> bool:
    """Tell whether a folder is a Golem app."""
    if not source.is_dir():
        return False
    network = network_of(source)
    return network == NETWORK or (network is None and looks_like_descriptor(source / FILE))


def read(source: Path) -> Manifest:
    """Read and validate an app's folder. Raises BadManifest."""
    facts, requirements = _facts(source)
    python = {"python": PythonEnvironment(requirements=requirements)} if facts.command else {}
    return Manifest(
        network=NETWORK,
        name=facts.descriptor.name,
        environments=python,
        data={
            "app_id": facts.descriptor.app_id,
            "aliases": list(facts.descriptor.aliases),
            "descriptor": dict(facts.descriptor.document),
            "command": list(facts.command),
            "image": facts.image,
            "limits": dict(facts.limits),
        },
        ignore=IGNORED,
        warnings=tuple(f"{FILE}: unknown key `{key}` is ignored" for key in facts.descriptor.ignored),
    )


def facts_of(data: Mapping[str, Any]) -> Facts:
    """Give what an installed app's manifest says."""
    return Facts(
        descriptor=descriptor.parse(json.dumps(data["descriptor"]), file=FILE),
        command=tuple(data["command"]),
        image=data["image"],
        limits=data["limits"],
    )


def pack(source: str, target: Path) -> str | None:
    """Lay a descriptor's file out as an app's folder; give its name, or None for anything else.

    Raises SourceNotFound, BadManifest.
    """
    path = Path(source) if source.endswith(".json") and len(source) < 4096 else None
    if path is None:
        return None
    if not os.path.lexists(path):
        raise SourceNotFound(f"There is no file or folder {source}.")
    if not path.is_file() or not looks_like_descriptor(path):
        return None
    found = descriptor.parse(path.read_bytes(), file=source)
    target.mkdir(parents=True)
    shutil.copyfile(path, target / FILE)
    return found.name


def looks_like_descriptor(path: Path) -> bool:
    """Tell whether a file is a descriptor at all, so that its mistakes are worth telling."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "requestor_env" in document


def _facts(source: Path) -> tuple[Facts, str | None]:
    if (source / FILE).is_file() and network_of(source) is None:
        return Facts(descriptor=descriptor.parse((source / FILE).read_bytes(), file=FILE), limits={}), None
    if not (source / APP_FILE).is_file():
        raise BadManifest(f"{source.name} has neither {FILE} nor {APP_FILE}.", hint=f"A descriptor is called {FILE}.")
    app_file, table = read_app_file(source, NETWORK, Described)
    if not app_file.command:
        raise BadManifest(
            f"{APP_FILE}: `command` is missing.", hint='Say how the app starts: command = ["python", "app.py"].'
        )
    limits = app_file.limits.model_dump(exclude_none=True)
    found = descriptor.parse(json.dumps(_document(table, app_file.command)), file=APP_FILE)
    image = table.image and parse(DOCKER_CPU, found.requestor_prereq).reference
    facts = Facts(descriptor=found, command=app_file.command, image=image, limits=limits)
    return facts, _requirements(source, app_file.python)


def _document(table: Described, command: tuple[str, ...]) -> dict[str, JSON]:
    """Make the descriptor of an app that runs from its folder."""
    return {
        "name": table.name,
        "requestor_env": DOCKER_CPU if table.image else LOCAL,
        "requestor_prereq": _image(table.image) if table.image else {"command": list(command)},
        "max_benchmark_score": TOP_SCORE,
        **table.model_dump(include={"version", "description", "author", "license"}),
    }


def _image(reference: str) -> dict[str, JSON]:
    """Take a reference apart; what follows the last colon is a tag unless it holds a slash."""
    image, colon, tag = reference.rpartition(":")
    return {"image": image, "tag": tag} if colon and "/" not in tag else {"image": reference, "tag": LATEST}


def _requirements(source: Path, named: str | None) -> str | None:
    path = named or REQUIREMENTS
    if (source / path).resolve().is_relative_to(source.resolve()) and (source / path).is_file():
        return path
    if named is not None:
        raise BadManifest(f"{APP_FILE}: `python` names {named!r}, which is no file of the app.")
    return None


def ids_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Give all ids by which tasks may name an installed app."""
    return (data["app_id"], *data["aliases"])


def beside(task: Path, app_id: str) -> Path | None:
    """Find the app of a task file in its folder: that folder itself, or a descriptor."""
    folder = task.absolute().parent
    if is_app(folder) and app_id in _ids(folder):
        return folder
    for path in sorted(folder.glob("*.json")):
        if looks_like_descriptor(path):
            with contextlib.suppress(BadManifest):
                found = descriptor.parse(path.read_bytes(), file=str(path))
                if app_id in (found.app_id, *found.aliases):
                    return path
    return None


def _ids(folder: Path) -> tuple[str, ...]:
    try:
        found = _facts(folder)[0].descriptor
    except BadManifest:
        return ()
    return (found.app_id, *found.aliases)
