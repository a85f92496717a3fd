"""The app's own file `moorage.toml`: what every network shares of it."""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from moorage.errors import BadManifest
from moorage.model.jobs import JSON, JobSpec
from moorage.model.limits import Limits, Timeouts

NAME = "moorage.toml"

_DEFAULTS = Limits()

Size = Annotated[ByteSize, Field(gt=0)]
"""Bytes as a number, or with a unit as in the API: `1MB` is 10^6 bytes, `1MiB` is 2^20."""
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Table(BaseModel):
    """One table of the file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DeclaredLimits(Table):
    """`[limits]`: what the app needs where a job does not say otherwise; see `moorage.model.limits`."""

    cpus: Annotated[float, Field(gt=0)] | None = None
    memory: Size | None = None
    pids: Count | None = None
    disk: Size | None = None
    tmp: Size | None = None
    open_files: Count | None = None
    output_bytes: Size | None = None
    output_files: Count | None = None
    log_bytes: Size | None = None
    timeout: Seconds | None = None
    """Execution timeout in seconds."""


class NetworkAccess(Table):
    """`[network-access]`: what the app asks to reach; the operator decides."""

    policy: Literal["none", "internet"] = "none"


class AppFile(Table):
    """The whole file, without the table that is named after the network."""

    network: str
    command: tuple[str, ...] | None = None
    """Program and arguments, for networks that leave the choice to the app."""
    python: str | None = None
    """Path of the requirements file within the app."""
    limits: DeclaredLimits = DeclaredLimits()
    network_access: NetworkAccess = Field(default=NetworkAccess(), alias="network-access")


T = TypeVar("T", bound=BaseModel)


def network_of(source: Path) -> str | None:
    """Tell which network a source's moorage.toml names; None without a readable one."""
    try:
        network = tomllib.loads((source / NAME).read_text("utf-8")).get("network")
    except (OSError, ValueError):
        return None
    return network if isinstance(network, str) else None


def read_app_file(source: Path, network: str, own: type[T]) -> tuple[AppFile, T]:
    """Read moorage.toml, and the table named after the network as `own`; defaults where there is no file.

    Raises BadManifest naming the file, the key and, for an unknown key, the nearest known one.
    """
    document = _parse(source / NAME) if (source / NAME).exists() else {"network": network}
    table: Any = document.pop(network, {})
    app_file = validated(AppFile, document, file=NAME)
    if app_file.network != network:
        raise BadManifest(
            f"{NAME}: `network` is {app_file.network!r}, but the app is taken as {network}.",
            hint=f"Run it with --network {app_file.network}, or change `network`.",
        )
    return app_file, validated(own, table, file=NAME, under=network)


def validated(model: type[T], table: Any, *, file: str, under: str = "") -> T:
    """Validate one table of a configuration file.

    Raises BadManifest naming the file, the key and, for an unknown key, the nearest known one.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise _explained(model, problem, file, under) from None


def unknown_key(key: str, known: Collection[str]) -> str:
    """Say that a (dotted) key is not known, and which known one is nearest to its last part."""
    nearest = difflib.get_close_matches(key.rpartition(".")[2], sorted(known), n=1, cutoff=0.0)
    return f"unknown key `{key}`; did you mean `{nearest[0]}`? Known: {', '.join(sorted(known))}."


def with_declared(spec: JobSpec, limits: Mapping[str, JSON]) -> JobSpec:
    """Put what the app declares in `[limits]` where the job left the node's default."""
    asked = {name: value for name, value in limits.items() if name != "timeout" and _is_default(spec, name)}
    if "timeout" in limits and spec.timeouts.execution == Timeouts().execution:
        spec = replace(spec, timeouts=replace(spec.timeouts, execution=limits["timeout"]))
    return replace(spec, limits=replace(spec.limits, **asked)) if asked else spec


def _is_default(spec: JobSpec, name: str) -> bool:
    return bool(getattr(spec.limits, name) == getattr(_DEFAULTS, name))


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadManifest(f"{NAME} cannot be read: {reason}.") from None


def _explained(model: type[BaseModel], problem: Any, file: str, under: str) -> BadManifest:
    where = tuple(str(part) for part in problem["loc"])
    key = ".".join(filter(None, (under, *where)))
    if problem["type"] == "extra_forbidden":
        return BadManifest(f"{file}: {unknown_key(key, _keys(model, where[:-1]))}")
    if problem["type"] == "missing":
        return BadManifest(f"{file}: `{key}` is missing.")
    return BadManifest(f"{file}: `{key}`: {problem['msg']}." if key else f"{file}: {problem['msg']}.")


def _keys(model: type[BaseModel], path: tuple[str, ...]) -> set[str]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if not path:
        return set(fields)
    annotation = fields[path[0]].annotation
    inner = next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))
    return _keys(inner, path[1:])
