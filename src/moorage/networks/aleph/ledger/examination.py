"""Everything that is looked at before a message is taken, in the contract's order (contract, sections 2.2 and 4.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moorage.blobs.base import Blobs
from moorage.errors import NotFound
from moorage.model.jobs import JSON
from moorage.networks.aleph.ledger import facts, parents
from moorage.networks.aleph.ledger.facts import Facts
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.ledger.records import File, Record, Status
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Forget, Store
from moorage.networks.aleph.messages.envelope import BadMessage, Envelope, read_content
from moorage.networks.aleph.messages.hashes import sha256
from moorage.networks.aleph.messages.problems import Problem
from moorage.networks.aleph.messages.rules import PROCESSED, Pending, Processed, Rejected, Verdict

FORMAT, SIGNATURE, CONTENT_UNAVAILABLE, FILE_UNAVAILABLE, FORGOTTEN = 0, 1, 3, 4, 504
MAX_STORED_CONTENT = 10_000_000
"""Bytes of a content that is a file of its own."""


class WrongFile(ValueError):
    """The file that came with a STORE is not the one it is of; `str()` of it goes to the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A message that wants to be taken."""

    envelope: Envelope
    received: float
    program: str | None = None
    """The program through whose guest API it comes."""
    file: File | None = None
    """What came together with a STORE."""
    unsigned: bool = False
    """Whether the operator vouches for it, and nobody's signature."""
    n: int | None = None
    """Its number if it has waited here, and so was verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a message."""

    status: Status
    item_hash: str | None
    error_code: int | None = None
    """Why it is refused or waits (contract, section 4.3)."""
    details: Mapping[str, JSON] | None = None
    missing: tuple[str, ...] = ()
    """What it waits for."""
    duplicate: bool = False
    """Whether it was here already, so that nothing follows from it."""

    @property
    def reasons(self) -> str:
        """Say why it is refused, for people."""
        errors = self.details["errors"] if self.details else [self.status]
        assert isinstance(errors, list)
        return "; ".join(map(_reason, errors))


def _reason(error: JSON) -> str:
    if not isinstance(error, dict):
        return str(error)
    return str(error["msg"]) if "msg" in error else ", ".join(f"{key} {value}" for key, value in error.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A message that was looked at, and what is to become of it."""

    verdict: Verdict
    problems: Sequence[Problem] = ()
    """What is wrong with it where that is more than one reason."""
    facts: Facts | None = None
    content: Mapping[str, JSON] | None = None
    text: str | None = None
    """Of a stored content."""
    size: int | None = None
    targets: tuple[Record, ...] = ()
    """What it makes forgotten."""


def examine(lookups: Lookups, blobs: Blobs, submission: Submission) -> Examined | Receipt:
    """Look at a message; what was settled before has its receipt at once.

    Takes 9 ms for a signature. Raises WrongFile.
    """
    envelope = submission.envelope
    if submission.file is not None:
        require_file(envelope, submission.file.hash)
    if submission.n is None:
        known = _known(lookups, submission)
        if known is not None:
            return known
        if reason := unverified(envelope, unsigned=submission.unsigned):
            return Examined(verdict=reason, content=envelope.content)
    try:
        content, text, size = _content(lookups, blobs, envelope)
    except BadMessage as error:
        return Examined(verdict=_bad(error), problems=error.problems)
    if content is None:
        return Examined(verdict=Pending(code=CONTENT_UNAVAILABLE, missing=(envelope.item_hash,)))
    try:
        found = facts.read(envelope, content, unsigned=submission.unsigned)
    except BadMessage as error:
        return Examined(verdict=_bad(error), problems=error.problems, content=content, text=text, size=size)
    verdict = _judged(lookups, submission, found)
    targets = _targets(lookups, found) if verdict == PROCESSED else ()
    return Examined(verdict=verdict, facts=found, content=content, text=text, size=size, targets=targets)


def require_file(envelope: Envelope, file_hash: str) -> None:
    """Refuse a file that is not the one a STORE is of; which that is, a stored content cannot tell here.

    Raises WrongFile.
    """
    declared = (envelope.content or {}).get("item_hash")
    if declared is not None and file_hash != declared:
        raise WrongFile(f"File hash does not match ({file_hash} != {declared})")


def _known(lookups: Lookups, submission: Submission) -> Receipt | None:
    """Answer for a message that is here: only the very same one is a duplicate, another can bear its hash."""
    envelope = submission.envelope
    earlier = lookups.record(envelope.item_hash)
    if earlier is None:
        return _waiting(lookups, submission)
    if earlier.status == "forgotten":
        details: Mapping[str, JSON] = {"errors": [f"{envelope.item_hash} has been forgotten"]}
        return _receipt(envelope, "forgotten", error_code=FORGOTTEN, details=details)
    if _same(earlier, submission):
        return _receipt(envelope, "processed")
    if earlier.unsigned and earlier.envelope.item_type == envelope.item_type:
        return None  # what the operator loaded gives way to what its owner publishes
    details = {"errors": [f"{envelope.item_hash} was published with another signature"]}
    return _receipt(envelope, "rejected", error_code=SIGNATURE, details=details)


def _waiting(lookups: Lookups, submission: Submission) -> Receipt | None:
    envelope = submission.envelope
    same = next((each for each in lookups.pending(envelope.item_hash) if _same(each, submission)), None)
    if same is None:
        return None
    return _receipt(envelope, "pending", error_code=same.code, missing=lookups.waits_for(envelope.item_hash))


def _same(earlier: Record, submission: Submission) -> bool:
    """Compare what is signed, and by whom; what the operator vouches for is no signature of anybody else."""
    names = ("signature", "sender", "chain", "type")
    same = all(getattr(earlier.envelope, name) == getattr(submission.envelope, name) for name in names)
    return same and earlier.unsigned == submission.unsigned


def _receipt(
    envelope: Envelope,
    status: Status,
    *,
    error_code: int | None = None,
    details: Mapping[str, JSON] | None = None,
    missing: tuple[str, ...] = (),
) -> Receipt:
    return Receipt(
        status=status,
        item_hash=envelope.item_hash,
        error_code=error_code,
        details=details,
        missing=missing,
        duplicate=True,
    )


def unverified(envelope: Envelope, *, unsigned: bool = False) -> Rejected | None:
    """Verify that the hash is that of the content as it came, and, unless it is `unsigned`, that the sender signed it.

    Takes 9 ms.
    """
    if envelope.item_content is not None and (found := sha256(envelope.item_content)) != envelope.item_hash:
        return Rejected(code=FORMAT, reason=f"item_hash: item_content has the hash {found}")
    if unsigned:
        return None
    # A slow import: only what publishes pays for it.
    from moorage.networks.aleph.messages.signatures import BadSignature, CannotVerify, verify

    try:
        verify(
            chain=envelope.chain,
            sender=envelope.sender,
            message_type=envelope.type,
            item_hash=envelope.item_hash,
            signature=envelope.signature,
        )
    except (BadSignature, CannotVerify) as error:
        return Rejected(code=SIGNATURE, reason=str(error))
    return None


def _bad(error: BadMessage) -> Rejected:
    return Rejected(code=FORMAT, reason=str(error))


def _content(
    lookups: Lookups, blobs: Blobs, envelope: Envelope
) -> tuple[Mapping[str, JSON] | None, str | None, int | None]:
    """Give the content, its text where it is stored, and its size; nothing of what is not here."""
    if envelope.item_content is not None:
        return envelope.content, None, len(envelope.item_content.encode())
    found = lookups.own_file(envelope.item_hash)
    if found is None:
        return None, None, None
    digest, size = found
    if size > MAX_STORED_CONTENT:
        rule = f"must have at most {MAX_STORED_CONTENT} bytes"
        raise BadMessage([Problem(place=("item_hash",), rule=rule, type="too_long")])
    try:
        data = blobs.path(digest).read_bytes()
    except NotFound:
        return None, None, None
    return *_text(data), size


def _text(data: bytes) -> tuple[Mapping[str, JSON], str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        problem = Problem(place=("item_hash",), rule="must be of a file in UTF-8", type="json_invalid")
        raise BadMessage([problem]) from None
    return read_content(text, key="item_hash"), text


def _judged(lookups: Lookups, submission: Submission, found: Facts) -> Verdict:
    verdict = rules.judge(lookups, found.message, program=submission.program)
    store, file = found.message.content, submission.file
    if verdict == PROCESSED and found.loaded is not None:
        return parents.judge(lookups, found.loaded.program)
    if verdict != PROCESSED or not isinstance(store, Store):
        return verdict
    brought = file is not None and file.hash == store.item_hash
    if brought or lookups.own_file(store.item_hash) is not None:
        return PROCESSED
    return Pending(code=FILE_UNAVAILABLE, missing=(store.item_hash,))


def _targets(lookups: Lookups, found: Facts) -> tuple[Record, ...]:
    if not isinstance(found.message.content, Forget):
        return ()
    named = rules.targets(lookups, found.message.content)
    return tuple(record for each in named if (record := lookups.record(each.item_hash)))


def receipt_of(examined: Examined, item_hash: str) -> Receipt:
    """Put a verdict into the words of the API."""
    match examined.verdict:
        case Processed():
            return Receipt(status="processed", item_hash=item_hash)
        case Pending(code=code, missing=missing):
            return Receipt(status="pending", item_hash=item_hash, error_code=code, missing=missing)
        case Rejected() as verdict:
            return Receipt(
                status="rejected",
                item_hash=item_hash,
                error_code=verdict.code,
                details=details_of(examined.problems) if examined.problems else verdict.details,
            )


def details_of(problems: Sequence[Problem]) -> dict[str, JSON]:
    """Tell what is wrong with a message (contract, section 5)."""
    return {"errors": [problem.document for problem in problems]}
