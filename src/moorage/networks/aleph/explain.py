"""What a message means here and all that is wrong with it, without a node (contract, sections 2.1, 2.2 and 5)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pydantic_core import from_json

from moorage.model.jobs import JSON
from moorage.networks.aleph.config import DEFAULT_RUNTIME
from moorage.networks.aleph.fields import Field, envelope_fields, other_fields, program_fields
from moorage.networks.aleph.messages import contents, rules
from moorage.networks.aleph.messages.contents import Content, Instance
from moorage.networks.aleph.messages.drafts import RENAMED, BadProgram, Loaded, load
from moorage.networks.aleph.messages.envelope import BadMessage, Envelope, MessageType
from moorage.networks.aleph.messages.envelope import parse as parse_envelope
from moorage.networks.aleph.messages.hashes import sha256
from moorage.networks.aleph.messages.problems import Place, Problem, path_of
from moorage.networks.aleph.messages.program import Generation, is_address

Verdict = Literal["holds", "fails", "unknown", "absent"]
"""Of a hash or signature; unknown is what cannot be verified here, and never valid."""

_MESSAGE_KEYS = {"item_hash", "item_content", "content", "signature", "sender"}
_CONTENT_KEYS = {"type", "item_type", "content", "item_content"}
"""If one of these is wrong, nothing can be said of the content."""
_DRAFT_1 = {("code", "address"), ("code", "content"), ("runtime", "address")}
"""What only the first draft says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether a hash or signature holds."""

    verdict: Verdict
    message: str


NOT_REACHED = Proof(verdict="unknown", message="The envelope has to be right first.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What there is to say of a message; it is wrong if there are problems."""

    kind: str | None = None
    """Type of the message, `PROGRAM` also of a bare document; None if it is not one that we know."""
    generation: Generation | None = None
    """Of a program."""
    told_by: str | None = None
    """What kind and generation were told by."""
    item_hash: str | None = None
    """The message's own; of a bare document the one it is given here, the sha256 of its bytes."""
    hash: Proof = NOT_REACHED
    signature: Proof = NOT_REACHED
    fields: tuple[Field, ...] = ()
    warnings: tuple[Problem, ...] = ()
    """What is in vain, or not as it seems."""
    problems: tuple[Problem, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """Give everything as one JSON document."""
        return {
            "kind": self.kind,
            "generation": self.generation,
            "told_by": self.told_by,
            "item_hash": self.item_hash,
            "hash": asdict(self.hash),
            "signature": asdict(self.signature),
            "fields": [field.document for field in self.fields],
            "warnings": [_told(warning) for warning in self.warnings],
            "problems": [_told(problem) for problem in self.problems],
        }


def _told(problem: Problem) -> dict[str, JSON]:
    return {"path": problem.path, "rule": problem.rule, "fix": problem.fix, "type": problem.type}


def explain(text: str | bytes) -> Explanation:
    """Explain a message of any kind and generation, from its exact JSON text; whatever is wrong is told in it."""
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        fix = "Write plain JSON: no comments, no alternatives (`|`), no comma after the last item."
        return Explanation(problems=(_problem((), f"is not valid JSON: {error}", fix, "json_invalid"),))
    return _message(document) if _is_message(document) else _bare(document, text)


def _problem(place: Place, rule: str, fix: str | None = None, kind: str = "value_error") -> Problem:
    return Problem(place=place, rule=rule, fix=fix, type=kind)


def _is_message(document: Any) -> bool:
    """Tell a message from a bare document, even if the message lacks some keys."""
    if not isinstance(document, dict):
        return False
    kind = document.get("type")
    if kind == "vm-function" or ("code" in document and kind != "PROGRAM"):
        return False
    return kind in get_args(MessageType) or not document.keys().isdisjoint(_MESSAGE_KEYS)


# Bare documents


def _bare(document: Any, text: str | bytes) -> Explanation:
    found = _program(document, ())
    rule = "is not signed: it runs from the command line of its node, and is refused when published"
    unsigned = () if found.problems else (_problem((), rule, kind="unsigned"),)
    return Explanation(
        kind="PROGRAM" if found.generation else None,
        generation=found.generation,
        told_by=found.told_by,
        item_hash=sha256(text),
        hash=Proof(verdict="absent", message="A bare document is named by the sha256 of its bytes."),
        signature=Proof(verdict="absent", message="A bare document is unsigned."),
        fields=found.fields,
        warnings=(*found.warnings, *unsigned),
        problems=found.problems,
    )


# Messages


def _message(document: dict[str, Any]) -> Explanation:
    try:
        envelope = parse_envelope(document)
    except BadMessage as error:
        return _broken(document, error.problems)
    found = _content(document, envelope)
    hash_, signature = _hash(envelope), _signature(envelope)
    return Explanation(
        kind=envelope.type,
        generation=found.generation,
        told_by=found.told_by,
        item_hash=envelope.item_hash,
        hash=hash_,
        signature=signature,
        fields=(*envelope_fields(envelope, document), *found.fields),
        warnings=(*_envelope_warnings(document, envelope, signature), *found.warnings),
        problems=(*found.problems, *_unproven(hash_, signature)),
    )


def _broken(document: dict[str, Any], problems: tuple[Problem, ...]) -> Explanation:
    """Explain a message whose envelope is wrong; its program too, if that can be read."""
    kind = document["type"] if document.get("type") in get_args(MessageType) else None
    readable = kind == "PROGRAM" and _CONTENT_KEYS.isdisjoint(problem.place[0] for problem in problems)
    found = _program(document, ("content",)) if readable else _Findings()
    return Explanation(
        kind=kind,
        generation=found.generation,
        told_by=found.told_by,
        warnings=found.warnings,
        problems=(*problems, *found.problems),
    )


def _hash(envelope: Envelope) -> Proof:
    if envelope.item_content is None:
        message = "The content is a file of its own, which is not here."
        return Proof(verdict="unknown", message=message)
    digest = sha256(envelope.item_content)
    if digest == envelope.item_hash:
        return Proof(verdict="holds", message="It is the sha256 of `item_content`.")
    return Proof(verdict="fails", message=f"The sha256 of `item_content` is {digest}.")


def _signature(envelope: Envelope) -> Proof:
    from moorage.networks.aleph.messages.signatures import BadSignature, CannotVerify, verify

    try:
        verify(
            chain=envelope.chain,
            sender=envelope.sender,
            message_type=envelope.type,
            item_hash=envelope.item_hash,
            signature=envelope.signature,
        )
    except CannotVerify as error:
        return Proof(verdict="unknown", message=f"On {envelope.chain}: {str(error).removeprefix('chain: ')}.")
    except BadSignature as error:
        return Proof(verdict="fails", message=f"{error}.")
    return Proof(verdict="holds", message=f"{envelope.sender} signed it.")


def _unproven(hash_: Proof, signature: Proof) -> list[Problem]:
    problems = []
    if hash_.verdict == "fails":
        fix = "Put back the exact text that was signed, or sign the new one."
        problems.append(_problem(("item_hash",), "is not the hash of `item_content`", fix, "hash"))
    if signature.verdict == "fails":
        place, _, rule = signature.message.removesuffix(".").partition(": ")
        fix = "It covers chain, sender, type and item hash: sign again what was changed."
        problems.append(_problem(("sender",) if place == "sender" else ("signature",), rule, fix, "signature"))
    return problems


def _envelope_warnings(document: dict[str, Any], envelope: Envelope, signature: Proof) -> list[Problem]:
    warnings = []
    content = envelope.given_content if envelope.content is None else envelope.content
    if envelope.content is not None and document.get("content") not in (None, envelope.content):
        rule = "ignored: it differs from `item_content`, which counts"
        warnings.append(_problem(("content",), rule, kind="ignored"))
    if signature.verdict == "unknown":
        rule = "cannot be verified on this chain, so that this node refuses the message when it is published"
        warnings.append(_problem(("signature",), rule, kind="unverified"))
    owner = (content or {}).get("address")
    if isinstance(owner, str) and not rules.same_address(owner, envelope.sender):
        rule = f"is not the owner, {owner}: accepted only if the owner's `security` aggregate names the sender"
        warnings.append(_problem(("sender",), rule, kind="delegated"))
    return warnings


# Contents


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """What there is to say of a content."""

    generation: Generation | None = None
    told_by: str | None = None
    fields: tuple[Field, ...] = ()
    warnings: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()


def _content(document: Mapping[str, Any], envelope: Envelope) -> _Findings:
    told_by = f"the envelope's `type` is {envelope.type}"
    try:
        view = _view(document, ("content",))
    except ValueError as error:
        problem = _problem(("item_content",), f"is not valid JSON: {error}", kind="json_invalid")
        return _Findings(told_by=told_by, problems=(problem,))
    if view.get("content") is None:
        fix = "Fetch the file that `item_hash` names, and put what it holds into `content`."
        return _Findings(told_by=told_by, problems=(_problem(("content",), "is missing", fix, "missing"),))
    try:
        content = contents.parse(envelope.type, view["content"])
    except BadMessage as error:
        return _Findings(told_by=told_by, problems=error.problems)
    if isinstance(content, Mapping) or getattr(content, "type", None) == "vm-function":
        return _program(document, ("content",))
    return _Findings(
        told_by=told_by,
        fields=other_fields(envelope.type, content, view),
        warnings=_instance_warnings(content),
        problems=_broken_rules(content, envelope),
    )


def _view(document: Mapping[str, Any], base: Place) -> Mapping[str, Any]:
    """Give a document with the content that counts; `base` is where that stands, nowhere in a bare document.

    Raises ValueError.
    """
    text = document.get("item_content") if base else None
    return document if text is None else {**document, "content": from_json(text)}


def _instance_warnings(content: Content) -> tuple[Problem, ...]:
    if not isinstance(content, Instance):
        return ()
    return (_problem(("type",), "is kept and never run: only programs run here", kind="never_run"),)


def _broken_rules(content: Content, envelope: Envelope) -> tuple[Problem, ...]:
    """Find what no other message could put right, as if the owner were the sender."""
    if isinstance(content, Instance):
        return ()
    message = rules.Message(
        item_hash=envelope.item_hash,
        type=envelope.type,
        chain=envelope.chain,
        sender=content.address,
        channel=envelope.channel,
        content=content,
    )
    verdict = rules.judge(_Nothing(), message)
    if not isinstance(verdict, rules.Rejected):
        return ()
    return (_problem(("content",), f"is refused with code {verdict.code}: {verdict.reason}", kind="rejected"),)


class _Nothing:
    """A ledger in which nothing is."""

    def message(self, item_hash: str) -> None:
        return None

    def forgotten(self, item_hash: str) -> bool:
        return False

    def referring(self, ref: str) -> tuple[rules.Message, ...]:
        return ()

    def elements(self, owner: str, key: str) -> tuple[rules.Message, ...]:
        return ()

    def using(self, ref: str) -> tuple[rules.Message, ...]:
        return ()

    def has_file(self, file_hash: str) -> bool:
        return False


# Programs


def _program(document: Any, base: Place) -> _Findings:
    """Read a program, whose content stands at `base` in the document."""
    try:
        loaded = load(document)
    except BadProgram as error:
        told_by = error.generation and _told_by(_view(document, base), error.generation, base)
        return _Findings(generation=error.generation, told_by=told_by, problems=error.problems)
    view = _view(document, base)
    return _Findings(
        generation=loaded.generation,
        told_by=_told_by(view, loaded.generation, base),
        fields=program_fields(loaded, view),
        warnings=(*loaded.warnings, *_program_warnings(loaded)),
    )


def _told_by(document: Mapping[str, Any], generation: Generation, base: Place) -> str:
    content = document["content"] if base else document
    if generation in ("draft-1", "draft-2"):
        base, content = (*base, "content"), content["content"]
    signs = _spellings(content)
    if generation == "draft-1":
        return f"the nested content has {_listed(base, [sign for sign in signs if sign in _DRAFT_1])}"
    if generation == "draft-2":
        if document.get("type") == "POST":
            return "a POST of type vm-function holds a nested content"
        return "a document of type vm-function holds a nested content with no sign of the first draft"
    first = "the envelope's `type` is PROGRAM" if document.get("type") == "PROGRAM" else "`code` is not nested"
    return f"{first}; it has draft spellings: {_listed(base, signs)}" if signs else first


def _spellings(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what is spelt as in the drafts."""
    tables = {key: content[key] for key in RENAMED if isinstance(content.get(key), dict)}
    found = [(key, old) for key, table in tables.items() for old in RENAMED[key] if old in table]
    return [*found, ("code", "content")] if "content" in tables.get("code", {}) else found


def _listed(base: Place, names: list[tuple[str, str]]) -> str:
    return ", ".join(f"`{path_of((*base, *name))}`" for name in names)


def _program_warnings(loaded: Loaded) -> list[Problem]:
    code, data, runtime = loaded.program.code, loaded.program.data, loaded.program.runtime
    warnings = []
    for key, part in (("code", code), ("data", data)):
        if part and is_address(part.ref):
            rule = "is an address: the newest STORE that it owns is taken"
            fix = "Say what it means in [networks.aleph.addresses]."
            warnings.append(_problem(loaded.origin((key, "ref")), rule, fix, "alias"))
    if runtime.ref != DEFAULT_RUNTIME:
        rule = f"is not the SDK's default {DEFAULT_RUNTIME[:8]}…: the built-in Python runtime stands in"
        fix = "Map it with [networks.aleph.runtimes] if the program needs another."
        warnings.append(_problem(loaded.origin(("runtime", "ref")), rule, fix, "runtime"))
    return warnings
