"""What makes a folder an Infernet app, and how a reference, an address or a `config.json` becomes one.

An app is a folder with a `config.json` in the network's own form, or one with the code of a single container and a
`moorage.toml` that says how it starts.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moorage.blobs.names import shown
from moorage.errors import BadApp, BadManifest, SourceNotFound
from moorage.model.jobs import JSON
from moorage.networks.base import Manifest, PythonEnvironment
from moorage.networks.infernet import config
from moorage.networks.infernet.config import Config, Container
from moorage.networks.manifest import NAME as APP_FILE
from moorage.networks.manifest import Table, network_of, read_app_file

NETWORK = "infernet"
FILE = "config.json"
REQUIREMENTS = "requirements.txt"
IGNORED = (".venv", "__pycache__", ".git")
"""Top-level entries that are no part of an app."""
ONLY = "app"
"""Id of the container of a folder that gives it none: the name of the folder is another wherever it is stored."""

_IMAGE = re.compile(
    r"(?:(?:[a-zA-Z0-9][a-zA-Z0-9-]*\.)*[a-zA-Z0-9][a-zA-Z0-9-]*(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
"""A reference as Docker takes it."""


class Knobs(Table, extra="allow"):
    """`[infernet]` in moorage.toml: the keys of a container in `config.json`; checked as those are."""


def is_app(source: Path) -> bool:
    """Tell whether a folder is an Infernet app: moorage.toml says so, or there is a `config.json` with containers."""
    if not source.is_dir():
        return False
    network = network_of(source)
    return network == NETWORK or (network is None and _lists_containers(source / FILE))


def read(source: Path) -> Manifest:
    """Read and validate an app's folder.

    Raises BadManifest naming what is wrong and how to mend it.
    """
    found = configured(source)
    return Manifest(
        network=NETWORK,
        name=source.name,
        environments=dict(_environments(source, found)),
        data={"containers": [_facts(container) for container in found.containers]},
        ignore=IGNORED,
        warnings=found.warnings,
        operator_only=tuple(_operator_only(found)),
    )


@lru_cache(maxsize=64)
def installed(source: Path) -> Config:
    """Give what an installed app, whose files never change, says of its containers."""
    return configured(source)


def configured(source: Path) -> Config:
    """Give what an app's folder says of its containers.

    Raises BadManifest.
    """
    if (source / FILE).is_file() and network_of(source) is None:
        found = config.read(source / FILE)
        if not found.containers:
            raise BadManifest(f"{FILE}: `containers`: lists none.")
        return _contained(found, source)
    if not (source / APP_FILE).is_file():
        raise BadManifest(
            f"{source.name} has neither {FILE} nor {APP_FILE}.",
            hint=f'Say how it starts, in {APP_FILE}: network = "infernet" and command = ["python", "app.py"].',
        )
    return _contained(_from_app_file(source), source)


def _operator_only(found: Config) -> Iterator[str]:
    """Say what of the operator's an app would use: its network, its devices, its engine's settings and volumes."""
    for container in found.containers:
        extras = container.moorage
        if not found.manage_containers:
            yield f"requests to an address ({container.id})"
        elif extras.network == "internet" or (extras.network is None and extras.directory is None):
            yield f"access to the network ({container.id})"
        asked = {"gpu": container.gpu, "volumes": container.volumes, "moorage.isolation": extras.isolation}
        yield from (f"`{key}` ({container.id})" for key, value in asked.items() if value)


def layer_of(container: Container) -> str:
    """Name the role of the layer with a local container's Python environment."""
    return f"python:{container.id}"


def pack(source: str, target: Path) -> str | None:
    """Lay out a `config.json`, an address or an image as an app's folder; give its name, or None for anything else.

    Raises SourceNotFound, BadManifest.
    """
    if os.path.exists(source):  # noqa: PTH110 - a Path raises where a URL is too long for a file's name
        return _pack_file(Path(source), target)
    if source.startswith(("http://", "https://")):
        return _pack_one(target, {"id": _name(source), "url": source}, managed=False)
    if looks_like_path(source):
        raise SourceNotFound(f"There is no file or folder {source}.")
    if _IMAGE.fullmatch(source):
        return _pack_one(target, {"id": _name(source), "image": source}, managed=True)
    return None


def looks_like_path(source: str) -> bool:
    """Tell whether a source that is not there was surely meant as a file or folder and not as an image."""
    return source.startswith(("/", ".", "~")) or source.endswith(("/", ".json", ".toml", ".zip", ".tar", ".gz"))


def _lists_containers(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "containers" in document


def _from_app_file(source: Path) -> Config:
    app_file, knobs = read_app_file(source, NETWORK, Knobs)
    table: dict[str, Any] = dict(knobs.model_extra or {})
    if app_file.command is None and not table.keys() & {"image", "url"}:
        raise BadManifest(
            f"{APP_FILE}: `command` is missing.", hint='Say how the container starts: command = ["python", "app.py"].'
        )
    limits = app_file.limits.model_dump(include={"memory", "cpus", "pids", "timeout"}, exclude_none=True)
    extras = {**limits, "network": app_file.network_access.policy, **_table(table.get("moorage"))}
    if app_file.command is not None:
        extras["directory"] = "."
        table["command"] = shlex.join(app_file.command)
    table = {"id": ONLY, **table, "moorage": extras}
    document = {"containers": [table], "manage_containers": "url" not in table}
    try:
        found = config.parse(document, source / APP_FILE)
    except BadManifest as error:
        raise BadManifest(error.message.replace("containers[0]", NETWORK)) from None
    if found.warnings:
        raise BadManifest(found.warnings[0].replace("containers[0]", NETWORK))
    return found


def _contained(found: Config, source: Path) -> Config:
    """Refuse an app that would reach out of its folder into the machine of whoever runs it.

    Raises BadManifest.
    """
    for container in found.containers:
        folder = container.moorage.directory
        if folder is not None and not folder.resolve().is_relative_to(source.resolve()):
            raise BadManifest(f"Container {container.id}: `moorage.directory` is outside of the app's folder.")
        if folder is not None and container.moorage.isolation is not None:
            raise BadManifest(
                f"Container {container.id}: an app does not choose its isolation.",
                hint="Choose it with `--isolation` when you run it.",
            )
        for volume in container.volumes:
            if "/" in volume.partition(":")[0]:
                raise BadManifest(
                    f"Container {container.id}: the volume {shown(volume)} is a folder of this machine.",
                    hint="Only the operator can give one: serve the file with `moorage serve --infernet-config`.",
                )
    return found


def _environments(source: Path, found: Config) -> Iterator[tuple[str, PythonEnvironment]]:
    """Give each container that runs from a folder a Python of its own, with its requirements if it has any."""
    for container in found.containers:
        folder = container.moorage.directory
        if folder is not None:
            yield layer_of(container), PythonEnvironment(requirements=_requirements(source, folder))


def _requirements(source: Path, folder: Path) -> str | None:
    """Find the requirements file of a folder, as its path within the app."""
    named = None
    if (source / APP_FILE).is_file():
        named = read_app_file(source, NETWORK, Knobs)[0].python
    path = (folder / (named or REQUIREMENTS)).resolve()
    if path.is_relative_to(source.resolve()) and path.is_file():
        return path.relative_to(source.resolve()).as_posix()
    if named is not None:
        raise BadManifest(f"{APP_FILE}: `python` names {named!r}, which is no file of the app.")
    return None


def _facts(container: Container) -> dict[str, JSON]:
    """Give what anybody may know of a container: no secrets."""
    extras = container.moorage
    limits = {"memory": extras.memory, "cpus": extras.cpus, "pids": extras.pids}
    facts = {"id": container.id, "image": container.image, "description": container.description}
    return {**facts, "limits": {name: value for name, value in limits.items() if value is not None}}


def _pack_one(target: Path, container: dict[str, JSON], *, managed: bool) -> str:
    target.mkdir(parents=True)
    document = {"manage_containers": managed, "containers": [container]}
    (target / FILE).write_text(json.dumps(document))
    return str(container["id"])


def _pack_file(path: Path, target: Path) -> str | None:
    if path.suffix != ".json" or not path.is_file():
        return None
    return _pack_config(path, target) if "containers" in config.load(path) else None


def _pack_config(path: Path, target: Path) -> str:
    """Copy what a file says of its containers, and the folders that it names; what only a node needs is left out."""
    found = config.read(path)
    target.mkdir(parents=True)
    listed = zip(config.load(path)["containers"], found.containers, strict=True)
    containers = [pack_container(entry, container, target) for entry, container in listed]
    (target / FILE).write_text(json.dumps({"manage_containers": found.manage_containers, "containers": containers}))
    return _identifier(path.resolve().parent.name or path.stem)


def pack_container(entry: Mapping[str, JSON], container: Container, target: Path) -> Mapping[str, JSON]:
    """Copy the folder of a container that has one to its id below `target`; give its entry with the new place."""
    folder = container.moorage.directory
    if folder is None:
        return entry
    if _identifier(container.id) != container.id:
        raise BadManifest(
            f"Container {shown(container.id)}: the id of one with `moorage.directory` names a folder.",
            hint="Use letters, digits, `.`, `_` and `-`.",
        )
    try:
        shutil.copytree(folder, target / container.id, ignore=shutil.ignore_patterns(*IGNORED), symlinks=True)
    except OSError as error:  # also what copytree makes of several
        raise BadApp(f"The folder of container {container.id} cannot be copied: {_first(error)}.") from None
    return {**entry, "moorage": {**_table(entry.get("moorage")), "directory": container.id}}


def _first(error: OSError) -> str:
    """Say what went wrong first: copytree gives a list of places and reasons."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][2])
    return str(error)


def _name(reference: str) -> str:
    """Name a container after its image, without registry and tag, or after the host of its address."""
    if "://" in reference:
        return _identifier(re.split(r"[/?#]", reference.partition("://")[2])[0])
    return _identifier(reference.partition("@")[0].rpartition("/")[2].partition(":")[0])


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "container"


def _table(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise BadManifest(f"{APP_FILE}: `{NETWORK}.moorage` must be a table, not {shown(str(value))}.")
    return dict(value or {})
