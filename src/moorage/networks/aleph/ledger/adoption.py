"""Programs that the operator loads from files of their own (contract, sections 2.1 and 2.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from json import loads

from moorage.errors import BadManifest
from moorage.model.jobs import JSON
from moorage.networks.aleph.ledger.examination import Receipt
from moorage.networks.aleph.messages import drafts
from moorage.networks.aleph.messages.drafts import BadProgram, Loaded
from moorage.networks.aleph.messages.envelope import BadMessage, Envelope, parse
from moorage.networks.aleph.messages.hashes import sha256


class MessageRefused(BadManifest):
    """The message is refused."""

    hint = "Publish it anew, signed by its owner, or load the bare content, which has no signature."


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A program that the operator loaded."""

    item_hash: str
    missing: tuple[str, ...] = ()
    """What it waits for; empty once it can run."""
    warnings: tuple[str, ...] = ()
    """What the operator should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that was read."""

    envelope: Envelope
    unsigned: bool
    warnings: tuple[str, ...] = ()


def read(text: bytes) -> Document:
    """Read a program in a message, or in a bare document, whose hash is that of its exact bytes.

    Raises BadProgram, MessageRefused.
    """
    loaded = drafts.load(text)
    document = loads(text)
    warnings = tuple(map(str, loaded.warnings))
    if "item_hash" not in document:
        return Document(envelope=_bare(text.decode(), loaded), unsigned=True, warnings=warnings)
    return _verified(_envelope(document), warnings)


def adopted(receipt: Receipt, document: Document) -> Adopted:
    """Say what came of it.

    Raises MessageRefused.
    """
    item_hash = document.envelope.item_hash
    if receipt.status in {"rejected", "forgotten"}:
        raise MessageRefused(f"The message {item_hash} is refused: {receipt.reasons}.")
    return Adopted(item_hash=item_hash, missing=receipt.missing, warnings=document.warnings)


def _envelope(document: Mapping[str, JSON]) -> Envelope:
    try:
        return parse({**document, "signature": document.get("signature") or ""})
    except BadMessage as error:
        raise BadProgram(error.problems) from None


def _verified(envelope: Envelope, warnings: tuple[str, ...]) -> Document:
    """Look whether the signature is one, or cannot be told to be one."""
    from moorage.networks.aleph.messages.signatures import BadSignature, CannotVerify, verify

    if not envelope.signature:
        return Document(envelope=envelope, unsigned=True, warnings=(*warnings, "It has no signature."))
    try:
        verify(
            chain=envelope.chain,
            sender=envelope.sender,
            message_type=envelope.type,
            item_hash=envelope.item_hash,
            signature=envelope.signature,
        )
    except BadSignature as error:
        raise MessageRefused(f"The message {envelope.item_hash} is refused: {error}.") from None
    except CannotVerify as error:
        return Document(envelope=envelope, unsigned=True, warnings=(*warnings, str(error)))
    return Document(envelope=envelope, unsigned=False, warnings=warnings)


def _bare(text: str, loaded: Loaded) -> Envelope:
    """Put a bare document into an envelope, so that it is kept as others are."""
    return Envelope(
        chain="ETH",
        sender=loaded.program.address,
        type="PROGRAM",
        channel=None,
        signature="",
        time=loaded.program.time,
        item_type="inline",
        item_content=text,
        item_hash=sha256(text),
        content=loads(text),
        given_content=None,
    )
