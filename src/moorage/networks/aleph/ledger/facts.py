"""What a message says, as far as the ledger and the rules go (contract, sections 2.1, 3.4 and 3.6)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moorage.model.jobs import JSON
from moorage.networks.aleph.messages import contents, drafts
from moorage.networks.aleph.messages.contents import Aggregate, Content, Forget, Instance, Post, Store
from moorage.networks.aleph.messages.drafts import BadProgram, Loaded
from moorage.networks.aleph.messages.envelope import BadMessage, Envelope
from moorage.networks.aleph.messages.program import ImmutableVolume, PersistentVolume, Program, is_address
from moorage.networks.aleph.messages.rules import Machine, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a message says."""

    message: Message
    """As the rules know it: a POST that holds a program is a PROGRAM there (section 2.1)."""
    loaded: Loaded | None = None
    """The program, if it is one."""
    kind: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def ref(self) -> str | None:
        """The message that this one amends, updates or replaces, or a name that the owner chose."""
        match self.message.content:
            case Post(target=ref) | Store(ref=ref) | Machine(replaces=ref):
                return ref if ref and _storable(ref) else None
        return None

    @property
    def key(self) -> str | None:
        """The key of an aggregate."""
        return self.message.content.key if isinstance(self.message.content, Aggregate) else None

    @property
    def file(self) -> str | None:
        """The hash of a STORE's file."""
        return self.message.content.item_hash if isinstance(self.message.content, Store) else None

    @property
    def triggered(self) -> bool:
        """Whether it is a program that something else than a request starts."""
        on = self.loaded.program.on if self.loaded else None
        return on is not None and bool(on.message or on.cron or on.persistent)

    @property
    def uses(self) -> frozenset[str]:
        """The references of a program to what it cannot do without."""
        return self.message.content.files if isinstance(self.message.content, Machine) else frozenset()


def read(envelope: Envelope, content: Mapping[str, JSON], *, unsigned: bool = False) -> Facts:
    """Read the content of a message; `unsigned` ones may be bare documents of any generation.

    Raises BadMessage with all that is wrong at once.
    """
    loaded = _program(envelope, content, unsigned=unsigned)
    parsed = _machine(loaded.program) if loaded else _known(contents.parse(envelope.type, dict(content)))
    message = Message(
        item_hash=envelope.item_hash,
        type="PROGRAM" if loaded else envelope.type,
        chain=envelope.chain,
        sender=envelope.sender,
        channel=envelope.channel,
        content=parsed,
    )
    kind = content.get("type")
    return Facts(
        message=message,
        loaded=loaded,
        kind=kind if isinstance(kind, str) and _storable(kind) else None,
        tags=tuple(_tags(content.get("content"))),
    )


def _known(content: Content | Mapping[str, JSON]) -> Post | Aggregate | Store | Forget | Machine:
    assert not isinstance(content, Mapping)  # a PROGRAM has its own loader
    return Machine.of(content) if isinstance(content, Instance) else content


def _program(envelope: Envelope, content: Mapping[str, JSON], *, unsigned: bool) -> Loaded | None:
    if envelope.type == "PROGRAM":
        bare = unsigned and "code" not in content
        return _loaded(content if bare else {"type": "PROGRAM", "content": content})
    if envelope.type == "POST" and content.get("type") == "vm-function":
        try:
            return _loaded({"type": "POST", "content": content})
        except BadMessage:
            return None  # a POST may say what it likes
    return None


def _loaded(document: Mapping[str, JSON]) -> Loaded:
    try:
        return drafts.load(document)
    except BadProgram as error:
        raise BadMessage(error.problems) from None


def _machine(program: Program) -> Machine:
    needed = frozenset(ref for ref in _needed(program) if not is_address(ref))
    return Machine(
        address=program.address,
        time=program.time,
        allow_amend=program.allow_amend,
        replaces=program.replaces,
        files=needed,
    )


def _needed(program: Program) -> Iterator[str]:
    """List references; inline code is no reference, and an address may mean what only the operator knows."""
    if not program.inline:
        yield program.code.ref
    if program.data is not None:
        yield program.data.ref
    for volume in program.volumes:
        if isinstance(volume, ImmutableVolume):
            yield volume.ref
        elif isinstance(volume, PersistentVolume) and volume.parent is not None:
            yield volume.parent.ref


def _tags(content: JSON) -> list[str]:
    tags = content.get("tags") if isinstance(content, dict) else None
    return [tag for tag in tags if isinstance(tag, str) and _storable(tag)] if isinstance(tags, list) else []


def _storable(text: str) -> bool:
    """Tell whether a text has UTF-8: JSON may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
