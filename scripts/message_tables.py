"""The tables of docs/reference/aleph-messages.md, written from the code between their marks."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from moorage.networks.aleph import duties
from moorage.networks.aleph.fields import program_fields
from moorage.networks.aleph.messages import contents, envelope, program
from moorage.networks.aleph.messages.drafts import RENAMED, load
from moorage.networks.aleph.messages.schema import ABOUT_NODE
from moorage.networks.aleph.messages.signatures import EVM_CHAINS

BLOCK = re.compile(r"(?<=<!-- table: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
HASHES = (program.ItemHash, program.Reference, envelope.ItemHash)
SHAPES: Mapping[str, tuple[type, str]] = {
    "program": (program.Program, ""),
    "code": (program.Code, "code."),
    "on": (program.Triggers, "on."),
    "environment": (program.Environment, "environment."),
    "resources": (program.Resources, "resources."),
    "published-ports": (program.PublishedPort, "resources.published_ports."),
    "runtime": (program.Runtime, "runtime."),
    "data": (program.Data, "data."),
    "export": (program.Export, "export."),
    "immutable": (program.ImmutableVolume, "volumes."),
    "ephemeral": (program.EphemeralVolume, "volumes."),
    "persistent": (program.PersistentVolume, "volumes."),
    "parent": (program.Parent, "volumes.parent."),
    "payment": (program.Payment, "payment."),
    "cpu": (program.CpuRequirements, "requirements.cpu."),
    "node": (program.NodeRequirements, "requirements.node."),
    "gpu": (program.GpuRequirements, "requirements.gpu."),
}
"""Names of tables, what each lists, and what stands before its keys in the content."""
OTHERS = {
    "post": contents.Post, "aggregate": contents.Aggregate, "store": contents.Store, "forget": contents.Forget,
}  # fmt: skip


def filled(page: str) -> str:
    """Write every table of the page anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{found[2]}{_table(found[1])}\n", page)


def _table(name: str) -> str:
    if name == "renamed":
        return "\n".join(_renamed())
    if name == "defaults":
        return "\n".join(_defaults())
    if name == "evm-chains":
        return ", ".join(sorted(EVM_CHAINS)) + "."
    if name in OTHERS:
        return "\n".join(_rows(OTHERS[name], "", duties.OTHERS[name.upper()], {}))
    shape, prefix = SHAPES[name]
    return "\n".join(_rows(shape, prefix, duties.PROGRAM, duties.OTHERWISE))


# Fields


def _rows(shape: type, prefix: str, said: Mapping[str, str], otherwise: Mapping[str, str]) -> Iterator[str]:
    schema, hints = TypeAdapter(shape).json_schema(), get_type_hints(shape, include_extras=True)
    yield "| field | type | default | what it does here |"
    yield "|---|---|---|---|"
    for name in (item.name for item in fields(shape) if item.name not in ABOUT_NODE):
        facts = schema["properties"][name]
        kind = "item hash" if _is_hash(hints[name]) else _type(facts)
        default = "required" if name in schema.get("required", ()) else _default(facts.get("default"))
        yield f"| `{name}` | {kind} | {default} | {_duty(prefix + name, kind, said, otherwise)} |"


def _is_hash(hint: Any) -> bool:
    return any(choice in HASHES for choice in (hint, *get_args(hint)))


def _type(facts: Mapping[str, Any]) -> str:
    if "anyOf" in facts:
        return " or ".join(_type(choice) for choice in facts["anyOf"] if choice != {"type": "null"})
    if "enum" in facts:
        names = facts["enum"]
        return "name of a chain" if "ETH" in names else ", ".join(f"`{name}`" for name in names)
    if "const" in facts:
        return f"`{facts['const']}`".replace("True", "true")
    match facts.get("type"):
        case "array":
            return f"list{_most('maxItems', facts)} of {_type(facts['items'])}"
        case "object":
            values = facts.get("additionalProperties")
            return f"object{_most('maxProperties', facts)}{f' of {_type(values)}' if isinstance(values, dict) else ''}"
        case "string":
            return f"string{_most('maxLength', facts)}"
        case "integer" | "number" as kind if "minimum" in facts:
            return f"{kind} {facts['minimum']}…{facts.get('maximum', '')}"
        case None:
            return "object" if "$ref" in facts or "oneOf" in facts else "any"
        case kind:
            return str(kind)


def _most(key: str, facts: Mapping[str, Any]) -> str:
    return f" ≤ {facts[key]}" if key in facts else ""


def _default(value: object) -> str:
    if value in (None, "", [], {}):
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _duty(key: str, kind: str, said: Mapping[str, str], otherwise: Mapping[str, str]) -> str:
    text, other = said.get(key, "").replace("{value}", "*n*"), otherwise.get(key)
    if kind == "boolean" and other:
        return f"true: {text} false: {other}"
    return " ".join(filter(None, (text, f"Without: {other}" if other else "")))


# Generations


def _renamed() -> Iterator[str]:
    yield "| draft | accepted |"
    yield "|---|---|"
    for table, names in RENAMED.items():
        for old, new in names.items():
            yield f"| `{table}.{old}` | `{table}.{new}` |"


def _defaults() -> Iterator[str]:
    """List the defaults in which the generations differ, as the shortest documents of each show them."""
    accepted, hybrid, draft = (_defaulted(document) for document in _shortest())
    yield "| field | accepted | hybrid | draft-1, draft-2 |"
    yield "|---|---|---|---|"
    for name in draft:
        row = [_shown(defaults, name) for defaults in (accepted, hybrid, draft)]
        if len(set(row)) > 1:
            yield f"| `{name}` | {' | '.join(row)} |"


def _shortest() -> Iterator[dict[str, Any]]:
    ref, frame = "0" * 64, {"address": "0x", "time": 0}
    content = {
        "code": {"encoding": "zip", "entrypoint": "main:app", "ref": ref},
        "on": {"http": True},
        "runtime": {"ref": ref},
        "data": {"encoding": "zip", "mount": "/data", "ref": ref},
    }
    required = {"allow_amend": True, "environment": {}, "resources": {}, "runtime": {"ref": ref, "comment": ""}}
    yield {"type": "vm-function", **frame, **content, **required}
    yield {"type": "vm-function", **frame, **content, "runtime": {"address": ref}}
    yield {"type": "vm-function", **frame, "content": content}


def _defaulted(document: dict[str, Any]) -> dict[str, Any]:
    return {item.name: item.value for item in program_fields(load(document), document) if item.origin == "default"}


def _shown(defaults: Mapping[str, Any], name: str) -> str:
    if name not in defaults:
        return "required"
    return _default(defaults[name]) or "empty"
