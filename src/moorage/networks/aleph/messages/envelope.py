"""The envelope of a message: what came is read, and what we return is written, here (contract, sections 2.1 and 3.1).

Nothing is verified: that a hash and a signature fit is looked at after the shape (section 2.2).
"""

import difflib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from moorage.model.jobs import JSON
from moorage.networks.aleph.messages.hashes import hash_kind
from moorage.networks.aleph.messages.problems import Place, Problem
from moorage.networks.aleph.messages.program import Chain, ItemHash

MessageType = Literal["POST", "AGGREGATE", "STORE", "PROGRAM", "INSTANCE", "FORGET"]
ItemType = Literal["inline", "storage", "ipfs"]


BROADCAST = ("sender", "chain", "signature", "type", "item_content", "item_type", "item_hash", "time", "channel")
"""The keys that clients publish."""

MAX_ITEM_CONTENT = 200_000
"""Characters of an inline content."""
MAX_CHANNEL = 128
MAX_SIGNED = 4096
"""Characters of a sender and of a signature; those of every chain are far shorter."""
MAX_TIME = 9_223_372_036.0
"""Seconds since 1970 that a message may bear."""
MAX_DEPTH = 100
"""Levels of lists and objects within each other; whatever is read here can be written within other JSON again."""
MAX_PROBLEMS = 100
"""Problems that are told of one message, so that a hostile one costs little."""

_TOO_DEEP = f"must not be nested deeper than {MAX_DEPTH} levels"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


# What is wrong with a message


class BadMessage(ValueError):
    """A message that is not what the contract asks for: rejected with code 0 (section 4.3)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(f"{problem.path or 'message'}: {problem.text}" for problem in problems))
        self.problems = tuple(problems)


_NO_OBJECT, _NO_LIST, _UNKNOWN = "must be an object", "must be a list", "is not a known key"
_RULES: Mapping[str, str] = {
    "bool_type": "must be true or false", "float_type": "must be a number", "int_type": "must be an integer",
    "dataclass_type": _NO_OBJECT, "dict_type": _NO_OBJECT, "list_type": _NO_LIST, "tuple_type": _NO_LIST,
    "extra_forbidden": _UNKNOWN, "unexpected_keyword_argument": _UNKNOWN, "missing": "is required",
    "greater_than_equal": "must be at least {ge}", "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}", "string_type": "must be a string",
    "string_too_long": "must have at most {max_length} characters", "too_long": "must have at most {max_length} items",
}  # fmt: skip
"""Pydantic's rules in the words of JSON."""


def problems_of(failure: ValidationError, *, known: Collection[str], under: Place = ()) -> list[Problem]:
    """Put a failure into the words of the contract; an unknown key is told the nearest of the `known` ones."""
    errors = failure.errors(include_url=False, include_input=False)
    return [_problem(error, known, under) for error in errors[:MAX_PROBLEMS]]


def _problem(error: ErrorDetails, known: Collection[str], under: Place) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    loc = tuple(step if isinstance(step, int) else _clipped(step) for step in error["loc"])
    hint = nearest(str(loc[-1]), known) if _RULES.get(kind) == _UNKNOWN else context.get("hint")
    rule = _RULES[kind].format(**context) if kind in _RULES else error["msg"]
    return Problem(place=under + loc, rule=rule, type=kind, fix=hint)


def not_an_object(loc: Place) -> Problem:
    """Say that something else stands where an object must."""
    return Problem(place=loc, rule=_NO_OBJECT, type="dict_type")


def _clipped(text: str) -> str:
    """Shorten a key, for it may be as long as a message, and make it text that can be written."""
    shown = text if len(text) <= 64 else f"{text[:64]}..."
    return _LONE_SURROGATE.sub("\ufffd", shown)


def nearest(word: str, known: Collection[str]) -> str:
    """Hint at the known word that is nearest to one that is not known."""
    by_lower = {name.lower(): name for name in sorted(known)}
    found = difflib.get_close_matches(word[:64].lower(), sorted(by_lower), n=1, cutoff=0.0)
    return f"did you mean `{by_lower[found[0]]}`?"


# Kinds of values


def speakable(text: str) -> str:
    """Refuse what has no UTF-8, and so can neither be hashed nor stored."""
    if _LONE_SURROGATE.search(text):
        raise PydanticCustomError("lone_surrogate", "must not hold a lone surrogate")
    return text


def _among(names: Sequence[str]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in names:
            context = {"expected": ", ".join(names), "hint": nearest(value, names)}
            raise PydanticCustomError("choice", "must be one of {expected}", context)
        return value

    return BeforeValidator(check)


def _supported(value: Any) -> Any:
    if value == "V-PROGRAM":
        raise PydanticCustomError("unsupported", "V-PROGRAM messages are not supported")
    return value


def _seconds(value: Any) -> float:
    seconds = _moment(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise PydanticCustomError("time", "must be seconds since 1970 or a date and time in ISO 8601")
    if not 0 <= seconds <= MAX_TIME:
        raise PydanticCustomError("time_range", "must lie between 1970 and 2262", {"hint": "count in seconds"})
    return float(seconds)


_DATETIME: TypeAdapter[datetime] = TypeAdapter(datetime)
"""Takes the spellings of ISO 8601 that the network's own parser takes."""


def _moment(text: str) -> float | None:
    try:
        moment = _DATETIME.validate_python(text)
    except ValidationError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _bounded(text: str) -> str:
    if len(text) > MAX_SIGNED:
        raise PydanticCustomError("string_too_long", "too long", {"max_length": MAX_SIGNED})
    return text


def _short(text: str) -> str:
    if len(text) > MAX_ITEM_CONTENT:
        hint = "upload the content and send its hash with `item_type` storage"
        raise PydanticCustomError("message_too_long", "Message too long", {"hint": hint})
    return text


SPEAKABLE = AfterValidator(speakable)
Text = Annotated[str, SPEAKABLE]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Confirmation:
    """Where a chain took the message down; read only to see that it is one."""

    chain: Annotated[str, _among(get_args(Chain))]
    height: Whole
    hash: JSON
    time: Annotated[float, Strict()] | None = None
    publisher: Text | None = None


class _Fields(BaseModel, extra="forbid"):
    chain: Annotated[str, _among(get_args(Chain))]
    sender: Annotated[Text, AfterValidator(_bounded)]
    type: Annotated[MessageType, _among(get_args(MessageType)), BeforeValidator(_supported)]
    channel: Annotated[str, Field(max_length=MAX_CHANNEL), SPEAKABLE] | None = None
    signature: Annotated[Text, AfterValidator(_bounded)]
    time: Annotated[float, PlainValidator(_seconds)]
    item_type: Annotated[ItemType, _among(get_args(ItemType))] | None = None
    item_content: Annotated[Text, AfterValidator(_short)] | None = None
    item_hash: ItemHash
    content: JSON = None
    confirmations: list[_Confirmation] | None = None
    confirmed: Flag | None = None
    size: Whole | None = None
    id_: JSON = Field(default=None, alias="_id")
    hash_type: Literal["sha256"] | None = None
    forgotten_by: list[Text] | None = None


KEYS = frozenset(field.alias or name for name, field in _Fields.model_fields.items())
"""All that an envelope may hold."""


# Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message as it was published; its hash and its signature are yet to be verified."""

    chain: str
    sender: str
    type: MessageType
    channel: str | None
    signature: str
    time: float
    """Seconds since 1970, as the sender says; neither the hash nor the signature covers it."""
    item_type: ItemType
    item_content: str | None
    """The exact text that an inline message is hashed by."""
    item_hash: str
    content: Mapping[str, JSON] | None
    """What `item_content` says; None where the content is stored and must be fetched by its hash."""
    given_content: Mapping[str, JSON] | None
    """The `content` that came with a stored one: no proof of anything. None for inline messages."""

    @property
    def broadcast(self) -> dict[str, JSON]:
        """The nine keys that clients publish, and no other (section 3.1)."""
        return {key: getattr(self, key) for key in BROADCAST}

    @property
    def without_content(self) -> dict[str, JSON]:
        """What is left to tell of a message that was forgotten (section 4.2)."""
        return self.broadcast | {"item_content": None}

    def shown(self, content: Mapping[str, JSON] | None = None, *, size: int | None = None) -> dict[str, JSON]:
        """Give the message object that we return: these keys and no other, or clients refuse it (section 4.2).

        Content and size, in bytes, are those of `item_content`; for a stored content they must be given.
        """
        document = self.content if content is None else content
        assert document is not None
        counted = len(self.item_content.encode()) if size is None and self.item_content is not None else size
        assert counted is not None
        added = {"content": document, "size": counted, "confirmed": False, "confirmations": []}
        return self.broadcast | added


def parse(document: JSON) -> Envelope:
    """Read an envelope: the nine keys that clients publish or the form with all that nodes add.

    `item_type` is inferred where it is missing; `item_content` is the truth, whatever `content` says.
    Raises BadMessage with all that is wrong at once (up to MAX_PROBLEMS).
    """
    if not isinstance(document, dict):
        raise BadMessage([not_an_object(())])
    fields, problems = _fields(document)
    content, content_problems = _inline_content(document)
    problems += [*content_problems, *_contradictions(document)]
    if problems or fields is None:
        raise BadMessage(problems[:MAX_PROBLEMS])
    item_type = _item_type(document)
    assert item_type is not None
    shared = {key: getattr(fields, key) for key in BROADCAST if key != "item_type"}
    given = fields.content if content is None else None
    return Envelope(**shared, item_type=item_type, content=content, given_content=given)


def _fields(document: dict[str, JSON]) -> tuple[_Fields | None, list[Problem]]:
    try:
        return _Fields.model_validate(document), []
    except ValidationError as failure:
        return None, problems_of(failure, known=KEYS)


def _item_type(document: Mapping[str, JSON]) -> ItemType | None:
    """Take the type that is named, or infer it; None where what it is inferred from is no good itself."""
    named, item_hash = document.get("item_type"), document.get("item_hash")
    if named is not None:
        return cast("ItemType", named) if named in get_args(ItemType) else None
    if document.get("item_content") is not None:
        return "inline"
    return hash_kind(item_hash) if isinstance(item_hash, str) else None


def _contradictions(document: Mapping[str, JSON]) -> Iterator[Problem]:
    """Find what is right by itself and wrong together."""
    item_type, item_hash, text = _item_type(document), document.get("item_hash"), document.get("item_content")
    kind = hash_kind(item_hash) if isinstance(item_hash, str) else None
    if item_type == "inline" and text is None:
        hint = "send the exact text that `item_hash` is the sha256 of"
        yield Problem(place=("item_content",), rule="is required for an inline message", type="missing", fix=hint)
    if item_type in {"storage", "ipfs"} and text is not None:
        rule, hint = f"must be null where `item_type` is {item_type}", "send `item_type` inline, or store the content"
        yield Problem(place=("item_content",), rule=rule, type="not_inline", fix=hint)
    if item_type and kind and kind != ("storage" if item_type == "inline" else item_type):
        rule = f"must be {'a CID' if item_type == 'ipfs' else 'a sha256'}, for `item_type` is {item_type}"
        yield Problem(place=("item_hash",), rule=rule, type="item_hash")
    if document.get("confirmed") is True and document.get("confirmations") in (None, []):
        yield Problem(place=("confirmed",), rule="must not be true without confirmations", type="confirmed")
    if text is None and (given := document.get("content")) is not None:
        if not isinstance(given, dict):
            yield not_an_object(("content",))
        elif _deep(given):
            yield _too_deep("content")


def _inline_content(document: Mapping[str, JSON]) -> tuple[Mapping[str, JSON] | None, Sequence[Problem]]:
    text = document.get("item_content")
    if not isinstance(text, str) or len(text) > MAX_ITEM_CONTENT:
        return None, []
    try:
        return read_content(text), []
    except BadMessage as error:
        return None, error.problems


def read_content(text: str, *, key: str = "item_content") -> dict[str, JSON]:
    """Read the text of a content; `key` is where the envelope has it.

    Raises BadMessage.
    """
    try:
        content = read_json(text)
    except json.JSONDecodeError as error:
        raise _no_json(key, f"{error.msg} in line {error.lineno}, column {error.colno}") from None
    except TooDeep:
        raise BadMessage([_too_deep(key)]) from None
    except ValueError:
        raise _no_json(key, "it holds a number that is not finite or has too many digits") from None
    if not isinstance(content, dict):
        raise BadMessage([Problem(place=(key,), rule="must hold an object", type="dict_type")])
    if "\\u" in text and _LONE_SURROGATE.search(json.dumps(content, ensure_ascii=False)):
        raise BadMessage([Problem(place=(key,), rule="must not hold a lone surrogate", type="lone_surrogate")])
    return content


class TooDeep(ValueError):
    """JSON that is nested deeper than MAX_DEPTH levels."""


def read_json(text: str | bytes) -> JSON:
    """Read JSON whose numbers are finite, and which is nested no deeper than MAX_DEPTH levels.

    Raises ValueError: TooDeep, or json.JSONDecodeError for what is no JSON.
    """
    try:
        document: JSON = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise TooDeep(_TOO_DEEP) from None
    if isinstance(document, dict | list) and _deep(document):
        raise TooDeep(_TOO_DEEP)
    return document


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("it holds a number that is not finite")
    return value


def _no_json(key: str, reason: str) -> BadMessage:
    return BadMessage([Problem(place=(key,), rule="must be valid JSON", type="json_invalid", fix=reason)])


def _too_deep(key: str) -> Problem:
    return Problem(place=(key,), rule=_TOO_DEEP, type="too_deep")


def _deep(document: JSON) -> bool:
    """Look level by level, since a recursive search would meet the very limit that is guarded here."""
    level: list[dict[str, JSON] | list[JSON]] = [document]
    for _ in range(MAX_DEPTH):
        parts = (node.values() if isinstance(node, dict) else node for node in level)
        level = [part for part in chain.from_iterable(parts) if isinstance(part, dict | list)]
    return bool(level)
