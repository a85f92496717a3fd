"""The accepted form of a program: from a JSON document to a Program by the rules of the contract, section 3.5."""

import difflib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cronsim import CronSim, CronSimError
from pydantic import TypeAdapter, ValidationError

from moorage.blobs.names import shown
from moorage.networks.aleph.messages.problems import Place, Problem
from moorage.networks.aleph.messages.program import (
    Code,
    CpuRequirements,
    Data,
    Environment,
    EphemeralVolume,
    Export,
    Generation,
    GpuRequirements,
    ImmutableVolume,
    NodeRequirements,
    Parent,
    Payment,
    PersistentVolume,
    Program,
    PublishedPort,
    Requirements,
    Resources,
    Runtime,
    Triggers,
    volume_kind,
)

"""Keys and indexes that lead to a value in a document."""

ABOUT_NODE = {"generation", "inline"}
"""Fields of a Program that are no keys of a document."""
MEANINGLESS = ("hypervisor", "trusted_execution")
"""Keys of `environment` that belong to instances; a program may have them."""
CRON_EXAMPLE = "Give five fields: minute, hour, day of month, month and day of week, as in `5 4 * * *`."

_VOLUMES: dict[str | None, type] = {
    "immutable": ImmutableVolume,
    "ephemeral": EphemeralVolume,
    "persistent": PersistentVolume,
}


class _AnyVolume:
    """Stands for the kind of volume that the keys tell."""


_INNER: dict[type, dict[str, type]] = {
    Program: {
        "code": Code, "on": Triggers, "environment": Environment, "resources": Resources, "runtime": Runtime,
        "data": Data, "export": Export, "volumes": _AnyVolume, "payment": Payment, "requirements": Requirements,
    },
    Resources: {"published_ports": PublishedPort},
    PersistentVolume: {"parent": Parent},
    Requirements: {"cpu": CpuRequirements, "node": NodeRequirements, "gpu": GpuRequirements},
}  # fmt: skip
"""What objects are in which keys, be it one or a list of them."""
_CLOSED = {
    Program, Triggers, _AnyVolume, *_VOLUMES.values(), Requirements, CpuRequirements, NodeRequirements, GpuRequirements,
}  # fmt: skip
"""Where a key that is not known is refused; elsewhere it is ignored."""

_CRON_NUMBER = re.compile(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,9})?")
_CRON_NAMED = re.compile(r"(\*|([0-9]{1,2}|[A-Za-z]{3})(-([0-9]{1,2}|[A-Za-z]{3}))?)(/[0-9]{1,9})?")
_CRON = (_CRON_NUMBER, _CRON_NUMBER, _CRON_NUMBER, _CRON_NAMED, _CRON_NAMED)
"""What a member of a list may look like in each field: CronSim also knows seconds, `L`, `LW` and `#`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What came of reading a document; places count from it."""

    program: Program | None = None
    """None if there are problems."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    """What the document says in vain."""


def read(content: Any, *, generation: Generation = "accepted", inline: bool = False) -> Reading:
    """Read a program in the accepted form, with all that is wrong with it at once.

    A reference may be an address if the generation is another: then the document was one of the older forms.
    """
    own = {"generation": generation, "inline": inline}
    problems, program = list[Problem](), None
    try:
        given = {**_without_nulls(content, Program), **own} if isinstance(content, dict) else content
        program = _adapter().validate_python(given, context={"aliases": generation != "accepted"})
    except ValidationError as error:
        problems += [_problem(item) for item in error.errors(include_url=False, include_context=True)]
    problems += _unknown_keys(content, refused=True)
    problems += _bad_cron(content)
    problems += _bad_regex(content)
    if problems:
        return Reading(problems=tuple(problems))
    return Reading(program=program, warnings=(*_unknown_keys(content, refused=False), *_in_vain(content)))


def unknown_key(place: Place, known: Collection[str], *, outcome: str = "") -> Problem:
    """Say that the last key of a place is not known, and which known one is nearest to it."""
    near = difflib.get_close_matches(str(place[-1]), sorted(known), n=1)
    fix = f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(sorted(known))}."
    return Problem(place=place, rule=f"unknown key{outcome}", fix=fix, type="extra_forbidden")


@cache
def _adapter() -> TypeAdapter[Program]:
    return TypeAdapter(Program)


def _shape(table: Mapping[str, Any], shape: type) -> type:
    return _VOLUMES.get(volume_kind(table), _AnyVolume) if shape is _AnyVolume else shape


def _keys(shape: type) -> set[str]:
    if shape is _AnyVolume:
        return {key for kind in _VOLUMES.values() for key in _keys(kind)}
    return {item.name for item in fields(shape)} - ABOUT_NODE


@cache
def _not_null(shape: type) -> frozenset[str]:
    """List the keys for which null is no value, but says the same as leaving them out.

    `ephemeral` is none of them: it must be true where it stands.
    """
    if shape is _AnyVolume:
        return frozenset()
    filled = (item.name for item in fields(shape) if item.default_factory is not MISSING or item.default is not MISSING)
    nullable = {item.name for item in fields(shape) if item.default is None}
    return frozenset(filled) - nullable - {"ephemeral"}


def _without_nulls(value: Any, shape: type) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item, shape) if isinstance(item, dict) else item for item in value]
    if not isinstance(value, dict):
        return value
    shape = _shape(value, shape)
    inner, absent = _INNER.get(shape, {}), _not_null(shape)
    return {
        key: _without_nulls(item, inner[key]) if key in inner else item
        for key, item in value.items()
        if item is not None or key not in absent
    }


def _tables(value: Any, shape: type, place: Place = ()) -> Iterator[tuple[Mapping[str, Any], type, Place]]:
    """Go through the objects of a document whose keys the contract names."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield from _tables(item, shape, (*place, index))
    if not isinstance(value, dict):
        return
    shape = _shape(value, shape)
    yield value, shape, place
    for key, inner in _INNER.get(shape, {}).items():
        yield from _tables(value.get(key), inner, (*place, key))


def _unknown_keys(content: Any, *, refused: bool) -> Iterator[Problem]:
    for table, shape, place in _tables(content, Program):
        if (shape in _CLOSED) is not refused:
            continue
        known = _keys(shape)
        also = MEANINGLESS if shape is Environment else ()
        for key in table:
            if key not in known and key not in also:
                yield unknown_key((*place, key), known, outcome="" if refused else ", ignored")


def _in_vain(content: Mapping[str, Any]) -> Iterator[Problem]:
    environment = content["environment"]
    for key in MEANINGLESS:
        if environment.get(key) is not None:
            rule = "ignored: it is for instances, and says nothing of a program"
            yield Problem(place=("environment", key), rule=rule, type="ignored")
    if environment.get("reproducible") and environment.get("internet"):
        rule = "what comes from the internet may differ from run to run"
        yield Problem(place=("environment", "reproducible"), rule=rule, type="not_reproducible")


def _bad_cron(content: Any) -> Iterator[Problem]:
    for table, shape, place in _tables(content, Program):
        cron = table.get("cron") if shape is Triggers else None
        if isinstance(cron, str) and (reason := _cron_reason(cron)):
            rule = f"is no cron expression: {reason}"
            yield Problem(place=(*place, "cron"), rule=rule, fix=CRON_EXAMPLE, type="cron")


def _cron_reason(cron: str) -> str | None:
    parts = cron.split()
    if len(parts) != len(_CRON):
        return f"it has {len(parts)} fields"
    for part, member in zip(parts, _CRON, strict=True):
        if not all(member.fullmatch(term) for term in part.split(",")):
            return f"{shown(part)} is no number, range, list or step"
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        return str(error).lower()
    return None


def _bad_regex(content: Any) -> Iterator[Problem]:
    for table, shape, place in _tables(content, Program):
        pattern = table.get("address_regex") if shape is NodeRequirements else None
        if isinstance(pattern, str) and (reason := _regex_reason(pattern)):
            rule = f"is no regular expression: {reason}"
            yield Problem(place=(*place, "address_regex"), rule=rule, type="regex")


def _regex_reason(pattern: str) -> str | None:
    if len(pattern) > 256:  # reported for its length
        return None
    with warnings.catch_warnings(action="ignore"):  # what Python may read otherwise one day
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    return None


def _problem(item: Any) -> Problem:
    place = _place(item["loc"])
    return Problem(place=place, rule=_rule(item), fix=_fix(item, place), type=item["type"])


def _place(where: Place) -> Place:
    """Find where a value stands in the document: pydantic also names the kind of volume, and keys as such."""
    match where:
        case ("volumes", int(index), str(), *rest):
            return ("volumes", index, *rest)
        case ("variables", key, "[key]"):
            return ("variables", key)
    return where


def _rule(item: Any) -> str:
    words = {
        "missing": "is missing",
        "dataclass_type": "must be an object",
        "dict_type": "must be an object",
        "mapping_type": "must be an object",
        "tuple_type": "must be a list",
    }
    return words.get(item["type"]) or re.sub(r"^\w+ should (?=be|have|match)", "must ", item["msg"])


def _fix(item: Any, place: Place) -> str | None:
    value = item["input"]
    match item["type"]:
        case "missing":
            return f"Add `{place[-1]}`."
        case "item_hash" if re.fullmatch("[0-9A-F]{64}", value.upper()):
            return "Write it in lower case."
        case "literal_error" if isinstance(value, str):
            near = difflib.get_close_matches(value.lower(), re.findall("'([^']*)'", item["ctx"]["expected"]), n=1)
            return f"Did you mean `{near[0]}`?" if near else None
        case "int_type" if isinstance(value, str | float):
            return "Write it as a whole number, without quotes and decimal point."
        case "volume_kind":
            return "Give `ref` for an immutable volume, and `size_mib` for one that can be written."
    return None
