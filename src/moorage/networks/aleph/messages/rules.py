"""What may follow from a message, given those that are here already (contract, sections 2.3, 3.6, 3.7 and 4.3).

References are followed one step and never on: an update always points at the original, so no chain or loop of them
can keep anything here busy.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from moorage.model.jobs import JSON
from moorage.networks.aleph.messages.contents import Aggregate, Forget, Instance, Post, Store
from moorage.networks.aleph.messages.envelope import MessageType
from moorage.networks.aleph.messages.hashes import hash_kind, host_label

PERMISSION = 2
NO_AMEND_TARGET, AMEND_TARGET_UNKNOWN, AMEND_OF_AMEND = 100, 101, 102
STORE_UNKNOWN, STORE_UPDATE_OF_UPDATE, STORE_PAYMENT = 200, 201, 202
VERSION_UNKNOWN, VOLUME_UNKNOWN, AMEND_NOT_ALLOWED, VERSION_OF_VERSION = 300, 301, 302, 303
NO_FORGET_TARGET, FORGET_TARGET_UNKNOWN, FORGET_OF_FORGET, FORGET_NOT_ALLOWED = 500, 501, 502, 503


# What is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What rules must know of a PROGRAM or INSTANCE."""

    address: str
    time: float
    allow_amend: bool
    replaces: str | None = None
    """The original that this is a version of; an empty text is none."""
    files: frozenset[str] = frozenset()
    """References it cannot do without: code, data, immutable volumes and parents, but no runtime (section 2.3)."""

    @classmethod
    def of(cls, instance: Instance) -> "Machine":
        """Take an instance, which is never run: it waits for no file."""
        return cls(
            address=instance.address, time=instance.time, allow_amend=instance.allow_amend, replaces=instance.replaces
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message, as far as rules go."""

    item_hash: str
    type: MessageType
    chain: str
    sender: str
    channel: str | None = None
    content: Post | Aggregate | Store | Forget | Machine

    @property
    def owner(self) -> str:
        """Whose message it is, whoever sent it."""
        return self.content.address

    @property
    def time(self) -> float:
        """When the owner says it was made; the envelope's time, which nothing covers, is not asked."""
        return self.content.time


class Ledger(Protocol):
    """The messages that are processed and not forgotten, each list in the order they were received."""

    def message(self, item_hash: str) -> Message | None:
        """Look one up."""

    def forgotten(self, item_hash: str) -> bool:
        """Tell whether it was here and is forgotten."""

    def referring(self, ref: str) -> Iterable[Message]:
        """List POSTs and STOREs whose `ref`, and programs and instances whose `replaces`, is this."""

    def elements(self, owner: str, key: str) -> Iterable[Message]:
        """List the AGGREGATEs of an owner, whose address has no case, under a key."""

    def using(self, ref: str) -> Iterable[Message]:
        """List the programs of which this is one of the `files`."""

    def has_file(self, file_hash: str) -> bool:
        """Tell whether a file of this hash is stored, whatever message brought it."""


# Verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """The message holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The message waits for others, and is judged again as they come."""

    code: int
    missing: tuple[str, ...]
    """Hashes it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The message is refused for good."""

    code: int
    reason: str
    facts: Mapping[str, JSON] | None = None

    @property
    def details(self) -> dict[str, JSON]:
        """What the answer tells beside the code."""
        return {"errors": [self.facts or self.reason]}


Verdict = Processed | Pending | Rejected

PROCESSED = Processed()


def judge(ledger: Ledger, message: Message, *, program: str | None = None) -> Verdict:
    """Decide on a message whose hash and signature are verified.

    `program` is the hash of the local program through whose guest API it came, if it came so.
    """
    if not authorised(ledger, message, program=program):
        return _foreign(f"{message.sender} may not send {message.type} messages of {message.owner}")
    match message.content:
        case Post() as post:
            return _post(ledger, message, post)
        case Store() as store:
            return _store(ledger, message, store)
        case Machine() as machine:
            return _machine(ledger, message, machine)
        case Forget() as forget:
            return _forget(ledger, message, forget, program)
        case Aggregate():
            return PROCESSED


def _foreign(reason: str) -> Rejected:
    return Rejected(code=PERMISSION, reason=reason)


# Authorisation


def same_address(one: str, other: str) -> bool:
    """Compare addresses, which have no case."""
    return one.lower() == other.lower()


def names_of(program: str) -> frozenset[str]:
    """Give the addresses of a program: its hash and, if that is a sha256, its host label (section 3.2)."""
    if hash_kind(program) != "storage":
        return frozenset({program})
    return frozenset({program, host_label(program)})


def authorised(ledger: Ledger, message: Message, *, program: str | None = None) -> bool:
    """Tell whether the sender may publish this in the name of the owner (section 3.6).

    The targets of a FORGET are another matter: they are looked at one by one.
    """
    if _speaks_for(message, message.owner, program):
        return True
    return not _grants(message) and any(_admits(entry, message) for entry in _authorizations(ledger, message.owner))


def _speaks_for(message: Message, owner: str, program: str | None) -> bool:
    return same_address(message.sender, owner) or (program is not None and owner in names_of(program))


def _grants(message: Message) -> bool:
    """Tell whether a message says who else may publish, which only the owner may touch."""
    return isinstance(message.content, Aggregate) and message.content.key == "security"


def _authorizations(ledger: Ledger, owner: str) -> list[Mapping[str, JSON]]:
    found = merged(ledger.elements(owner, "security")).get("authorizations")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _admits(entry: Mapping[str, JSON], message: Message) -> bool:
    """Ask every filter that is set; one that is neither a list nor unset admits nothing."""
    address, chain = entry.get("address"), entry.get("chain")
    if not isinstance(address, str) or not same_address(address, message.sender):
        return False
    right_chain = chain in (None, "", message.chain)
    return right_chain and _listed(entry.get("types"), message.type) and _covers(entry, message)


def _covers(entry: Mapping[str, JSON], message: Message) -> bool:
    if not _listed(entry.get("channels"), message.channel):
        return False
    match message.content:
        case Post(type=kind):
            return _listed(entry.get("post_types"), kind)
        case Aggregate(key=key):
            return _listed(entry.get("aggregate_keys"), key)
    return True


def _listed(names: JSON, name: str | None) -> bool:
    return not names or (isinstance(names, list) and name in names)


# Amends


def _post(ledger: Ledger, message: Message, post: Post) -> Verdict:
    if post.type != "amend":
        return PROCESSED
    if post.target is None:
        return Rejected(code=NO_AMEND_TARGET, reason="an amend needs the hash of a POST as `ref`")
    original = ledger.message(post.target)
    if original is None or not isinstance(original.content, Post):
        return Pending(code=AMEND_TARGET_UNKNOWN, missing=(post.target,))
    if original.content.type == "amend":
        return Rejected(code=AMEND_OF_AMEND, reason=f"{post.target} is an amend itself: amend its original")
    return _of_same_owner(message, original)


def _store(ledger: Ledger, message: Message, store: Store) -> Verdict:
    if store.payment and store.payment.type == "superfluid":
        return Rejected(code=STORE_PAYMENT, reason="a STORE is paid with hold or credit")
    if store.original is None:
        return PROCESSED
    original = ledger.message(store.original)
    if original is None or not isinstance(original.content, Store):
        return Pending(code=STORE_UNKNOWN, missing=(store.original,))
    if original.content.original is not None:
        return Rejected(code=STORE_UPDATE_OF_UPDATE, reason=f"{store.original} is an update: update its original")
    return _of_same_owner(message, original)


def _machine(ledger: Ledger, message: Message, machine: Machine) -> Verdict:
    amend = _version(ledger, message, machine.replaces) if machine.replaces else PROCESSED
    if amend != PROCESSED:
        return amend
    missing = tuple(sorted(ref for ref in machine.files if not _stored(ledger, ref)))
    return Pending(code=VOLUME_UNKNOWN, missing=missing) if missing else PROCESSED


def _version(ledger: Ledger, message: Message, replaced: str) -> Verdict:
    original = ledger.message(replaced)
    if original is None or original.type != message.type or not isinstance(original.content, Machine):
        return Pending(code=VERSION_UNKNOWN, missing=(replaced,))
    if original.content.replaces:
        return Rejected(code=VERSION_OF_VERSION, reason=f"{replaced} is an amend itself: replace its original")
    latest = current_version(ledger, original).content
    if not (isinstance(latest, Machine) and latest.allow_amend):
        return Rejected(code=AMEND_NOT_ALLOWED, reason=f"{replaced} does not allow amends")
    return _of_same_owner(message, original)


def _of_same_owner(message: Message, original: Message) -> Verdict:
    if same_address(message.owner, original.owner):
        return PROCESSED
    return _foreign(f"{original.item_hash} belongs to {original.owner}")


def _stored(ledger: Ledger, ref: str) -> bool:
    found = ledger.message(ref)
    return (found is not None and isinstance(found.content, Store)) or ledger.has_file(ref)


# Forgetting


def targets(ledger: Ledger, forget: Forget) -> list[Message]:
    """List what a FORGET makes forgotten: what it names, each once, and nothing that depends on it (section 3.7).

    An aggregate is named by its key under the FORGET's own owner, or by the hash of one of its messages.
    """
    named = [ledger.message(item_hash) for item_hash in forget.hashes]
    for key in forget.aggregates:
        named += _aggregate(ledger, forget, key)
    return list({found.item_hash: found for found in named if found}.values())


def _aggregate(ledger: Ledger, forget: Forget, key: str) -> list[Message]:
    single = ledger.message(key)
    found = [*ledger.elements(forget.address, key)]
    return [*found, single] if single and isinstance(single.content, Aggregate) else found


def _forget(ledger: Ledger, message: Message, forget: Forget, program: str | None) -> Verdict:
    if not forget.hashes and not forget.aggregates:
        return Rejected(code=NO_FORGET_TARGET, reason="a FORGET needs a target")
    missing = [item_hash for item_hash in forget.hashes if not ledger.message(item_hash)]
    missing += [key for key in forget.aggregates if not _aggregate(ledger, forget, key)]
    unknown = tuple(dict.fromkeys(target for target in missing if not ledger.forgotten(target)))
    if unknown:
        return Pending(code=FORGET_TARGET_UNKNOWN, missing=unknown)
    found = targets(ledger, forget)
    going = {target.item_hash for target in found}
    for target in found:
        if isinstance(target.content, Forget):
            return Rejected(code=FORGET_OF_FORGET, reason=f"{target.item_hash} is a FORGET")
        if not _may_forget(ledger, message, target, program):
            return _foreign(f"{message.sender} may not forget messages of {target.owner}")
        if user := _user(ledger, target, going):
            return Rejected(code=FORGET_NOT_ALLOWED, reason=f"File {target.item_hash} used on vm {user}")
    return PROCESSED


def _may_forget(ledger: Ledger, message: Message, target: Message, program: str | None) -> bool:
    """Ask for a delegate's right to FORGET, and to the channel and kind of the message that is to go.

    A program may forget what is its own, and nothing of the node's, whose key signs for it.
    """
    if program is not None and message.owner in names_of(program):
        return target.owner in names_of(program)
    if _speaks_for(message, target.owner, program):
        return True
    entries = () if _grants(target) else _authorizations(ledger, target.owner)
    return any(_admits(entry, message) and _covers(entry, target) for entry in entries)


def _user(ledger: Ledger, target: Message, going: Collection[str]) -> str | None:
    """Find a program that would lose a file; one that goes with it does not count."""
    users = ledger.using(target.item_hash) if isinstance(target.content, Store) else ()
    return next((user.item_hash for user in users if user.item_hash not in going), None)


# What holds now


def _newest(messages: Iterable[Message]) -> Message | None:
    """Take the greatest `content.time`; of equals, the one that was received first."""
    return max(messages, key=lambda message: message.time, default=None)


def _following(ledger: Ledger, original: Message) -> list[Message]:
    """List what its owner put in place of an original."""
    later = [message for message in ledger.referring(original.item_hash) if message.type == original.type]
    return [message for message in later if same_address(message.owner, original.owner)]


def merged(elements: Iterable[Message]) -> dict[str, JSON]:
    """Lay the elements of an aggregate over each other, shallowly and by `content.time`; of equals the first wins."""
    found: dict[str, JSON] = {}
    for _, element in sorted(enumerate(elements), key=lambda received: (received[1].time, -received[0])):
        assert isinstance(element.content, Aggregate)
        found |= element.content.content
    return found


def current_post(ledger: Ledger, original: Message) -> Message:
    """Find the POST whose content an original shows: its newest amend, or itself."""
    posts = _following(ledger, original)
    return (
        _newest(post for post in posts if isinstance(post.content, Post) and post.content.type == "amend") or original
    )


def resolve(ledger: Ledger, ref: str, *, use_latest: bool) -> Message | None:
    """Find the STORE message of a reference (section 2.3).

    None if it is not here, or if the reference is no message's but that of a file.
    """
    original = ledger.message(ref)
    if original is None or not isinstance(original.content, Store):
        return None
    return (use_latest and _newest(_following(ledger, original))) or original


def current_version(ledger: Ledger, original: Message) -> Message:
    """Find the version of a program that its original's address serves: the newest of all, the original included."""
    return _newest([original, *_following(ledger, original)]) or original


def origin(machine: Machine, item_hash: str) -> str:
    """Give the hash that a program's volumes and data belong to, so that they survive its amends (section 2.5)."""
    return machine.replaces or item_hash


def original(ledger: Ledger, item_hash: str) -> str:
    """Give the program that a message is a version of: itself, if it amends none or is none."""
    found = ledger.message(item_hash)
    return origin(found.content, item_hash) if found is not None and isinstance(found.content, Machine) else item_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """Why an address serves no program, as the answer says it (section 5)."""

    status: int
    text: str


def served(ledger: Ledger, item_hash: str) -> Message | Unserved:
    """Find the version that the URL of a program serves: an amend is itself, an original its current version.

    What is pending is not known here: ask for that first.
    """
    found = ledger.message(item_hash)
    if found is None and ledger.forgotten(item_hash):
        return Unserved(status=410, text=f"Program {item_hash} has been forgotten")
    if found is None:
        return Unserved(status=404, text=f"Hash not found: {item_hash}")
    if found.type != "PROGRAM" or not isinstance(found.content, Machine):
        return Unserved(status=400, text=f"Message {item_hash} is not a program")
    return found if found.content.replaces else current_version(ledger, found)
