"""What messages say, by their type (contract, section 3.6); a PROGRAM is read elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, Strict, TypeAdapter, ValidationError, with_config
from pydantic_core import PydanticCustomError

from moorage.model.jobs import JSON
from moorage.networks.aleph.messages.envelope import (
    MAX_TIME,
    SPEAKABLE,
    BadMessage,
    Flag,
    MessageType,
    Text,
    Whole,
    not_an_object,
    problems_of,
    speakable,
)
from moorage.networks.aleph.messages.hashes import hash_kind
from moorage.networks.aleph.messages.problems import Problem
from moorage.networks.aleph.messages.program import ItemHash

MAX_TARGETS = 1000
"""Messages, or aggregates, that one FORGET may name."""
MAX_REASON = 1000
MAX_REPLACES = 128

Time = Annotated[float, Strict(), Field(ge=0, le=MAX_TIME)]


def _reference(value: Any) -> JSON:
    if value is not None and not isinstance(value, str | dict):
        raise PydanticCustomError("reference", "must be a string or an object")
    return speakable(value) if isinstance(value, str) else value


def _key(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise PydanticCustomError("aggregate_key", 'must be a string or an object such as {"name": "key"}')
    return name


def _few(value: Any) -> Any:
    """Count before looking at each, for a hostile list would be long and all wrong; null is none."""
    if isinstance(value, list) and len(value) > MAX_TARGETS:
        raise PydanticCustomError("too_long", "too long", {"max_length": MAX_TARGETS})
    return () if value is None else value


Hashes = Annotated[tuple[ItemHash, ...], BeforeValidator(_few)]
Keys = Annotated[tuple[Text, ...], BeforeValidator(_few)]
Object = dict[Any, JSON]


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Data of its owner; one of type `amend` replaces the whole content of another."""

    address: Text
    time: Time
    type: Text
    content: JSON = None
    ref: Annotated[JSON, PlainValidator(_reference)] = None
    """A string, or an object that describes another message."""

    @property
    def target(self) -> str | None:
        """The hash of the message that is referred to; None if none is."""
        found = self.ref.get("item_hash") if isinstance(self.ref, dict) else self.ref
        return found if found and isinstance(found, str) else None


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Values that are laid over those that the owner published under the same key."""

    address: Text
    time: Time
    key: Annotated[Text, BeforeValidator(_key)]
    """A plain string, though it may come as `{"name": ...}`."""
    content: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """How the owner would pay; never charged here."""

    type: Literal["hold", "superfluid", "credit"]
    chain: Text | None = None
    receiver: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A file that the owner keeps on the network; unknown keys are ignored."""

    address: Text
    time: Time
    item_type: Literal["storage", "ipfs"]
    item_hash: ItemHash
    """Of the file."""
    size: Annotated[Whole, Field(ge=0)] | None = None
    content_type: Text | None = None
    ref: Text | None = None
    """The STORE message that this updates, or a name that the owner chose."""
    metadata: Object | None = None
    payment: Payment | None = None

    @property
    def original(self) -> str | None:
        """The hash of the STORE message that this updates; None if it updates none."""
        return self.ref if self.ref and hash_kind(self.ref) else None


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Messages, and aggregates by their key, of which nothing but the envelope is to be left."""

    address: Text
    time: Time
    hashes: Hashes = ()
    aggregates: Keys = ()
    reason: Annotated[str, Field(max_length=MAX_REASON), SPEAKABLE] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The image that a file system begins as."""

    ref: ItemHash
    use_latest: Annotated[Flag, BeforeValidator(lambda value: True if value is None else value)] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFilesystem:
    """What an instance boots from."""

    parent: Parent
    persistence: Text
    size_mib: Annotated[Whole, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A virtual machine, which is kept and never run; unknown keys are ignored."""

    address: Text
    time: Time
    allow_amend: Flag
    environment: Object
    resources: Object
    rootfs: RootFilesystem
    replaces: Annotated[str, Field(max_length=MAX_REPLACES), SPEAKABLE] | None = None


Content = Post | Aggregate | Store | Forget | Instance

_KINDS: Mapping[str, type[Content]] = {
    "POST": Post,
    "AGGREGATE": Aggregate,
    "STORE": Store,
    "FORGET": Forget,
    "INSTANCE": Instance,
}
_ADAPTERS: Mapping[str, TypeAdapter[Content]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}


def parse(kind: MessageType, content: JSON) -> Content | Mapping[str, JSON]:
    """Read the content of a message of this type; that of a PROGRAM is given back as it is, for its own loader.

    Raises BadMessage with all that is wrong at once, its paths beginning at `content`.
    """
    if not isinstance(content, dict):
        raise BadMessage([not_an_object(("content",))])
    if kind == "PROGRAM":
        return content
    problems = _wrong_file(content) if kind == "STORE" else []
    try:
        found = _ADAPTERS[kind].validate_python(content)
    except ValidationError as failure:
        known = {field.name for field in fields(_KINDS[kind])}
        raise BadMessage([*problems_of(failure, known=known, under=("content",)), *problems]) from None
    if problems:
        raise BadMessage(problems)
    return found


def _wrong_file(content: Mapping[str, JSON]) -> list[Problem]:
    """See whether a file is stored as its hash says, where both are right by themselves."""
    item_type, item_hash = content.get("item_type"), content.get("item_hash")
    kind = hash_kind(item_hash) if isinstance(item_hash, str) else None
    if kind is None or item_type not in ("storage", "ipfs") or item_type == kind:
        return []
    rule = f"must be {'a sha256' if kind == 'ipfs' else 'a CID'}, for `item_type` is {item_type}"
    return [Problem(place=("content", "item_hash"), rule=rule, type="item_hash")]
