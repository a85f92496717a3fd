"""The four generations of program documents, each read as one Program (contract, sections 2.1 and 3.4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from moorage.blobs.names import shown
from moorage.errors import BadManifest
from moorage.networks.aleph.messages.hashes import sha256
from moorage.networks.aleph.messages.problems import Place, Problem
from moorage.networks.aleph.messages.program import Generation, Program
from moorage.networks.aleph.messages.schema import read, unknown_key

UNSUPPORTED = "Unsupported message: expected PROGRAM or vm-function"
NEVER_RUN = {"INSTANCE": "An INSTANCE is stored, but never run.", "V-PROGRAM": "V-PROGRAM is not supported."}

RENAMED = {
    "code": {"latest_amend": "use_latest", "address": "ref"},
    "runtime": {"latest_amend": "use_latest", "address": "ref"},
    "data": {"latest_amend": "use_latest", "address": "ref"},
    "on": {"aleph": "message"},
}
"""The drafts' spelling of keys in these objects, and the accepted one."""
OUTER = ("address", "time", "type")
"""What stands around the nested `content` of a draft and belongs into the accepted form."""
KNOWN_OUTER = {*OUTER, "content", "ref"}


class BadProgram(BadManifest):
    """The document is not a valid program."""

    hint = "Correct each line; a path counts from the document as it was written."

    def __init__(self, problems: tuple[Problem, ...] = (), *, generation: Generation | None = None) -> None:
        self.problems, self.generation = problems, generation
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineCode:
    """Code that the document itself holds."""

    content: str
    sha256: str
    """Of its UTF-8 bytes; the `code.ref` of the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A program, and what became of its document."""

    program: Program
    generation: Generation
    warnings: tuple[Problem, ...] = ()
    """What the document says in vain."""
    inline_code: InlineCode | None = None
    moved: Mapping[Place, Place] = field(repr=False)
    """From places in the accepted form to those in the document; the longest beginning counts."""

    def origin(self, place: Place) -> Place:
        """Find where in the document what stands at a place of the accepted form is, or would be, written."""
        return _origin(self.moved, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """The part of a document that describes the program, and where it stands."""

    content: Mapping[str, Any]
    place: Place
    generation: Generation


@dataclass(slots=True, kw_only=True)
class _Translation:
    """A body on its way to the accepted form."""

    content: dict[str, Any]
    moved: dict[Place, Place]
    """From places in the accepted form to those in the body; the longest beginning counts."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    inline: InlineCode | None = None

    def origin(self, place: Place) -> Place:
        """Find in the body what stands at a place of the accepted form."""
        return _origin(self.moved, place)


def _origin(moved: Mapping[Place, Place], place: Place) -> Place:
    size = next(size for size in range(len(place), -1, -1) if place[:size] in moved)
    return moved[place[:size]] + place[size:]


def load(document: Any) -> Loaded:
    """Read a program of any generation, from JSON text (str, bytes) or from what such text holds.

    An envelope's `item_content` counts, not its `content`; the latter where there is no `item_content`, as with a
    message whose content is a file of its own. Neither hash nor signature is checked here.
    Raises BadProgram with all that is wrong, each at its place in the document.
    """
    body = _body(_parsed(document, ()) if isinstance(document, str | bytes) else document)
    draft = _translate(body)
    reading = read(draft.content, generation=body.generation, inline=draft.inline is not None)

    def located(problem: Problem) -> Problem:
        return _moved(problem, body.place + draft.origin(problem.place))

    own = tuple(_moved(problem, body.place + problem.place) for problem in draft.problems)
    problems = own + tuple(map(located, reading.problems))
    if problems or reading.program is None:
        raise BadProgram(problems, generation=body.generation)
    warnings = (_moved(warning, body.place + warning.place) for warning in draft.warnings)
    return Loaded(
        program=reading.program,
        generation=body.generation,
        warnings=(*warnings, *map(located, reading.warnings)),
        inline_code=draft.inline,
        moved={place: body.place + origin for place, origin in draft.moved.items()},
    )


def _moved(problem: Problem, place: Place) -> Problem:
    return Problem(place=place, rule=problem.rule, fix=problem.fix, type=problem.type)


def _refused(rule: str, *place: str, fix: str | None = None, kind: str = "value_error") -> BadProgram:
    return BadProgram((Problem(place=place, rule=rule, fix=fix, type=kind),))


# Which generation it is


def _parsed(text: Any, place: tuple[str, ...]) -> Any:
    if not isinstance(text, str | bytes):
        raise _refused("must be a string with JSON", *place)
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _refused(f"is not valid JSON: {error}", *place, kind="json_invalid") from None


def _body(document: Any) -> _Body:
    """Find the content and its generation; the first that matches counts (section 2.1)."""
    if not isinstance(document, dict):
        raise _refused("must be a JSON object")
    kind = document.get("type")
    if isinstance(kind, str) and kind in NEVER_RUN:
        raise _unsupported(kind, "type")
    enveloped = _is_envelope(document)
    place: tuple[str, ...] = ("content",) if enveloped else ()
    content = _content(document) if enveloped else document
    if kind == "PROGRAM" or "code" in content:
        return _Body(content=content, place=place, generation="hybrid" if _has_draft_spelling(content) else "accepted")
    nested = content.get("content")
    if kind == "POST" and content.get("type") == "vm-function" and isinstance(nested, dict):
        return _Body(content=content, place=place, generation="draft-2")
    if not enveloped and kind == "vm-function" and isinstance(nested, dict) and "code" in nested:
        return _Body(content=content, place=place, generation="draft-1" if _is_first(nested) else "draft-2")
    place = (*place, "type") if kind == "POST" else ("type",)
    raise _unsupported(content.get("type") if kind == "POST" else kind, *place)


def _is_envelope(document: Mapping[str, Any]) -> bool:
    """Tell an envelope from a bare content, which has `code` itself or the type `vm-function`."""
    if document.get("type") == "PROGRAM":
        return True
    holds = "content" in document or "item_content" in document
    return holds and document.get("type") != "vm-function" and "code" not in document


def _content(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """Take what was signed: `content` may have been edited by hand afterwards."""
    text = envelope.get("item_content")
    content = envelope.get("content") if text is None else _parsed(text, ("item_content",))
    if content is None:
        fix = "Fetch the file that `item_hash` names, and put what it holds into `content`."
        raise _refused("is missing", "content", fix=fix, kind="missing")
    if not isinstance(content, dict):
        raise _refused("must be an object", "content")
    return content


def _unsupported(kind: Any, *place: str) -> BadProgram:
    if not isinstance(kind, str):
        reason = "it has no type" if kind is None else "its type is no text"
        return _refused(f"{UNSUPPORTED}, but {reason}", *place, kind="unsupported")
    fixes = {**NEVER_RUN, "vm-function": "It needs `code`, in the document or in its `content`."}
    return _refused(f"{UNSUPPORTED}, not {shown(kind)}", *place, fix=fixes.get(kind), kind="unsupported")


def _is_first(content: Mapping[str, Any]) -> bool:
    code, runtime = _table(content, "code"), _table(content, "runtime")
    return "address" in code or "content" in code or "address" in runtime


def _has_draft_spelling(content: Mapping[str, Any]) -> bool:
    renamed = any(old in _table(content, key) for key, names in RENAMED.items() for old in names)
    return renamed or "content" in _table(content, "code")


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


# The way to the accepted form


def _translate(body: _Body) -> _Translation:
    if body.generation == "accepted":
        return _Translation(content=dict(body.content), moved={(): ()})
    draft = _hoisted(body) if body.generation in ("draft-1", "draft-2") else _flat(body)
    for key in RENAMED:
        if isinstance(draft.content.get(key), dict):
            draft.content[key] = dict(draft.content[key])
            _rename(draft, key)
    _take_inline_code(draft)
    _fill(draft.content, follows_updates=body.generation != "hybrid")
    return draft


def _flat(body: _Body) -> _Translation:
    return _Translation(content={"type": "vm-function", **body.content}, moved={(): ()})


def _hoisted(body: _Body) -> _Translation:
    """Lift the nested content, and into it what its frame says."""
    frame, inner = body.content, body.content["content"]
    draft = _Translation(content=dict(inner), moved={(): ("content",)})
    draft.problems += [unknown_key((key,), KNOWN_OUTER) for key in frame if key not in KNOWN_OUTER]
    for key in OUTER:
        if key in frame or key not in inner:
            draft.moved[key,] = (key,)
        if key in frame:
            draft.content[key] = frame[key]
    metadata = inner.get("metadata")
    if frame.get("ref") is not None and isinstance(metadata, dict | None):
        # What the seed's `ref` means is said nowhere: it is kept, but replaces no program.
        draft.content["metadata"] = {**(metadata or {}), "ref": frame["ref"]}
        if metadata is None:
            draft.moved["metadata",] = ("ref",)
    return draft


def _rename(draft: _Translation, key: str) -> None:
    """Spell the keys of an object as accepted; where both spellings are given the old one stays, as an unknown key."""
    table = draft.content[key]
    for old, new in RENAMED[key].items():
        if old in table and table.get(new) is None:
            draft.moved[key, new] = (*draft.origin((key,)), old)
            table[new] = table.pop(old)


def _take_inline_code(draft: _Translation) -> None:
    code = draft.content.get("code")
    if not isinstance(code, dict) or "content" not in code or code.get("ref") is not None:
        return
    place = (*draft.origin(("code",)), "content")
    content = code.pop("content")
    draft.moved["code", "ref"] = place
    try:
        draft.inline = InlineCode(content=content, sha256=sha256(content))
    except (TypeError, UnicodeEncodeError):
        code["ref"] = "0" * 64  # so that it is not missed as well
        draft.problems.append(Problem(place=place, rule="must be a string of Unicode text", type="string_type"))
        return
    code["ref"] = draft.inline.sha256
    if code.get("encoding") not in (None, "plain"):
        rule = "ignored: code within the document is plain text"
        draft.warnings.append(Problem(place=(*draft.origin(("code",)), "encoding"), rule=rule, type="ignored"))
    code["encoding"] = "plain"


def _fill(content: dict[str, Any], *, follows_updates: bool) -> None:
    """Set what an older form may leave out."""
    _default(content, allow_amend=False, environment={}, resources={})
    runtime = content.get("runtime")
    if isinstance(runtime, dict):
        _default(runtime, comment="")
    for key in ("code", "data"):
        if follows_updates and isinstance(content.get(key), dict):
            _default(content[key], use_latest=True)


def _default(table: dict[str, Any], **values: Any) -> None:
    table.update({key: value for key, value in values.items() if table.get(key) is None})
