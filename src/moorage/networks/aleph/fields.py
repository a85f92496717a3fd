"""The fields of a message one by one: where each is written, where its value came from, and what it does here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from moorage.networks.aleph import duties
from moorage.networks.aleph.messages.contents import Content
from moorage.networks.aleph.messages.drafts import Loaded
from moorage.networks.aleph.messages.envelope import Envelope
from moorage.networks.aleph.messages.problems import Place, path_of
from moorage.networks.aleph.messages.program import Program, cron_path, interface, volume_mounts
from moorage.networks.aleph.messages.schema import ABOUT_NODE

Origin = Literal["given", "default", "renamed", "hoisted", "computed"]
"""Where a value came from: the document as it is, the defaults of its generation, a key that drafts spell otherwise,
a nested content, or the code that the document itself holds."""

SHOWN_OF_ENVELOPE = ("chain", "sender", "channel", "time", "item_type")
NOT_GIVEN = "Nothing is said, and nothing follows."


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a message."""

    place: Place
    """Where it is, or would be, in the document as it was written."""
    name: str
    """Its path in the content of the accepted form."""
    value: Any
    """As it is understood; JSON but for tuples."""
    origin: Origin
    meaning: str
    """What this node does with it."""

    @property
    def path(self) -> str:
        """The place as text."""
        return path_of(self.place)

    @property
    def document(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {
            "path": self.path,
            "name": self.name,
            "value": self.value,
            "origin": self.origin,
            "meaning": self.meaning,
        }


def envelope_fields(envelope: Envelope, document: Mapping[str, Any]) -> tuple[Field, ...]:
    """List what surrounds a content."""
    return tuple(
        Field(
            place=(name,),
            name=name,
            value=getattr(envelope, name),
            origin=_given(document, (name,)),
            meaning=duties.ENVELOPE[name],
        )
        for name in SHOWN_OF_ENVELOPE
    )


def other_fields(kind: str, content: Content, document: Mapping[str, Any]) -> tuple[Field, ...]:
    """List the fields of a content that is no program, in its envelope."""
    return tuple(
        Field(
            place=("content", *place),
            name=path_of(place),
            value=value,
            origin=_given(document, ("content", *place)),
            meaning=NOT_GIVEN if value is None else duties.OTHERS[kind][_key(place)],
        )
        for place, value in _leaves(content)
    )


def program_fields(loaded: Loaded, document: Mapping[str, Any]) -> tuple[Field, ...]:
    """List the fields of a program; of an envelope, `content` must be what it was read from."""
    return tuple(
        Field(
            place=loaded.origin(place),
            name=path_of(place),
            value=value,
            origin=_origin(loaded, document, place),
            meaning=_meaning(loaded.program, place, value),
        )
        for place, value in _leaves(loaded.program)
    )


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if is_dataclass(value):
        for item in fields(value):
            if place or item.name not in ABOUT_NODE:
                yield from _leaves(getattr(value, item.name), (*place, item.name))
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for index, item in enumerate(value):
            yield from _leaves(item, (*place, index))
    else:
        yield place, value


def _key(place: Place) -> str:
    """Name a field for what is said of it, whichever item of a list it is in."""
    return path_of(tuple(step for step in place if isinstance(step, str)))


# Where a value came from


def _origin(loaded: Loaded, document: Mapping[str, Any], place: Place) -> Origin:
    written, root = loaded.origin(place), loaded.origin(())
    if _given(document, written) == "default":
        return "default"
    if loaded.inline_code and place == ("code", "ref"):
        return "computed"
    if written[-1] != place[-1]:
        return "renamed"
    nested = loaded.generation in ("draft-1", "draft-2") and written[: len(root)] == root
    return "hoisted" if nested else "given"


def _given(document: Any, place: Place) -> Origin:
    """Look whether the document has a value there; null is none."""
    for step in place:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return "default"
    return "default" if document is None else "given"


# What it does


def _meaning(program: Program, place: Place, value: Any) -> str:
    key = "code.content" if program.inline and place == ("code", "ref") else _key(place)
    empty = value is None or value is False or value in ("", (), {})
    said = duties.OTHERWISE.get(key, NOT_GIVEN) if empty else duties.PROGRAM[key]
    detail = _detail(program, place)
    return " ".join(filter(None, (said.replace("{value}", str(value)), detail)))


def _detail(program: Program, place: Place) -> str | None:
    """Say what depends on the rest of the program."""
    match place:
        case ("code", "encoding"):
            return f"It is found at {_unpacked(program)}."
        case ("code", "entrypoint"):
            return _started(program)
        case ("code", "interface") if program.code.interface is None:
            return f"{interface(program) or 'It depends on the code'}, by the entrypoint."
        case ("on", "cron") if program.on.cron:
            return f"It is asked for `GET {cron_path(program)}`."
        case ("volumes", int(index), "mount") if program.volumes[index].mount is None:
            return f"This is `{volume_mounts(program)[index]}`."
        case ("code", "use_latest") if program.inline:
            return "Code that stands in the document has none."
    return None


def _started(program: Program) -> str:
    match interface(program):
        case "asgi" if ":" in program.code.entrypoint:
            return "An ASGI 3 callable, as `module:attribute`."
        case "asgi":
            return "An ASGI 3 callable, by its name in the code."
        case "binary":
            return "A file, or a command line; it must listen on port 8080."
    return "A callable or a file: the code tells which."


def _unpacked(program: Program) -> str:
    """Say where the code is found (contract, section 2.4)."""
    kind = interface(program)
    match program.code.encoding, kind:
        case "zip", "asgi":
            return "`/opt`, and unless it has its own `code` also at `/opt/code`"
        case "zip", None:
            return "`/opt` if it is a Python callable, else at `/opt/code`"
        case "plain", "asgi":
            return "`/opt/code`, as a module"
        case "plain", "binary":
            return "`/opt/code`, to be run"
    return "`/opt/code`"
