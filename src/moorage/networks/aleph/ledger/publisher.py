"""The one way into the ledger: messages are verified, judged in their order, and kept (contract, sections 2 to 4)."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Literal, TypeVar

from moorage.blobs.base import Blobs
from moorage.model.jobs import JSON
from moorage.networks.aleph.ledger import adoption, writes
from moorage.networks.aleph.ledger.adoption import Adopted
from moorage.networks.aleph.ledger.examination import (
    FORMAT,
    Examined,
    Receipt,
    Submission,
    details_of,
    examine,
    receipt_of,
)
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.records import File, Record
from moorage.networks.aleph.ledger.writes import Entry
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.envelope import BROADCAST, BadMessage, MessageType, parse
from moorage.networks.aleph.messages.hashes import hash_kind
from moorage.networks.aleph.messages.rules import Message, Pending, Processed, Rejected, names_of, same_address

T = TypeVar("T")

MAX_REMEMBERED = 1000
"""Characters of a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happened to a message."""

    kind: Literal["processed", "forgotten"]
    item_hash: str
    type: MessageType
    message: Mapping[str, JSON]
    """The message object as the API shows it; of a forgotten one as it was before."""
    unsigned: bool = False


Listener = Callable[[Change], None]
Subscribers = Callable[[Mapping[str, JSON]], Sequence[str]]


def _is_short(value: JSON) -> bool:
    """Tell whether a value of what is no message may be remembered: nobody signed it, and it may be as long as any."""
    return isinstance(value, float | int) or (isinstance(value, str) and len(value) <= MAX_REMEMBERED)


def _nobody(message: Mapping[str, JSON]) -> Sequence[str]:
    return ()


class Publisher:
    """Takes messages and files one by one, and tells whoever listens what came of it."""

    def __init__(self, ledger: Ledger, blobs: Blobs) -> None:
        self.subscribers: Subscribers = _nobody
        """Tells for a message object which programs it is to be delivered to; asked in the loop, before it is kept."""
        self._ledger, self._blobs = ledger, blobs
        self._lock = asyncio.Lock()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call back in the loop with each change once it is durable, in order; what is given ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def publish(self, document: JSON, *, program: str | None = None, file: File | None = None) -> Receipt:
        """Take a message, and the file that came together with a STORE.

        `program` is the hash of the program through whose guest API it came. Raises WrongFile, DiskFull,
        StoreUnavailable.
        """
        try:
            envelope = parse(document)
        except BadMessage as error:
            return await self._malformed(document, error)
        return await self._receive(Submission(envelope=envelope, received=time.time(), program=program, file=file))

    async def adopt(self, text: bytes, files: Mapping[str, Path]) -> Adopted:
        """Load a program of any generation for the operator, who is trusted, from a message or a bare document.

        `files` are what its references lead to: each is kept as the file of that reference, whether or not the
        reference is its hash. Raises BadProgram, MessageRefused, DiskFull, StoreUnavailable.
        """
        document = await asyncio.to_thread(adoption.read, text)
        submission = Submission(envelope=document.envelope, received=time.time(), unsigned=document.unsigned)
        for ref, path in files.items() if await self._acceptable(submission) else ():
            digest, size = await self._blobs.put_file(path)
            await self.add_file(File(hash=ref, digest=digest, size=size, alias=ref != digest))
        return adoption.adopted(await self._receive(submission), document)

    async def add_file(self, file: File) -> None:
        """Keep where the bytes of a file are that came without a message, and take what waited for it.

        Raises DiskFull, StoreUnavailable.
        """
        await _whole(self._add_file(replace(file, kept=True)))

    async def settle(self) -> None:
        """Judge again all that waits, as is due once at the start: the node may have ended before it was done."""
        async with self._lock:
            for n in self._ledger.all_pending():
                await self._settle(deque(await self._again(n)))

    # one by one

    async def _acceptable(self, submission: Submission) -> bool:
        """Tell whether a message would not be refused as things stand; nothing is kept."""
        examined = await self._ledger.examine(partial(examine, blobs=self._blobs, submission=submission))
        if isinstance(examined, Receipt):
            return examined.status in {"processed", "pending"}
        return not isinstance(examined.verdict, Rejected)

    async def _receive(self, submission: Submission) -> Receipt:
        return await _whole(self._in_order(submission))

    async def _in_order(self, submission: Submission) -> Receipt:
        async with self._lock:
            receipt, names = await self._take(submission)
            await self._settle(deque(names))
            if submission.file is None or submission.file.hash not in receipt.missing:
                return receipt
            # It had come before, and waited for the file that it now came with.
            await self._keep(submission.file)
            receipt, _ = await self._take(submission)
        return receipt

    async def _add_file(self, file: File) -> None:
        async with self._lock:
            await self._keep(file)

    async def _keep(self, file: File) -> None:
        known = self._ledger.own_file(file.hash) is not None
        await self._ledger.write(partial(writes.add_file, file=file))
        await self._settle(deque(() if known else (file.hash,)))

    async def _malformed(self, document: JSON, error: BadMessage) -> Receipt:
        """Remember also what is no message, if it has a hash that may be asked for."""
        details = details_of(error.problems)
        given = document if isinstance(document, dict) else {}
        item_hash = given.get("item_hash")
        item_hash = item_hash if isinstance(item_hash, str) and hash_kind(item_hash) else None
        if item_hash is not None:
            message = {key: value for key in BROADCAST if _is_short(value := given.get(key))}
            await self._ledger.write(
                partial(
                    writes.reject,
                    item_hash=item_hash,
                    message=message,
                    received=time.time(),
                    code=FORMAT,
                    details=details,
                )
            )
        return Receipt(status="rejected", item_hash=item_hash, error_code=FORMAT, details=details)

    async def _take(self, submission: Submission) -> tuple[Receipt, Iterable[str]]:
        """Take one message; give also the names of what is here now and may be waited for."""
        examined = await self._ledger.examine(partial(examine, blobs=self._blobs, submission=submission))
        if isinstance(examined, Receipt):
            return examined, ()
        receipt = receipt_of(examined, submission.envelope.item_hash)
        match examined.verdict:
            case Processed():
                return receipt, await self._process(submission, examined)
            case Pending() as verdict:
                if not self._waits_so(submission, verdict):
                    await self._ledger.write(partial(_wait, submission=submission, examined=examined, verdict=verdict))
                return receipt, _files(submission)
        await self._ledger.write(partial(_reject, submission=submission, examined=examined, receipt=receipt))
        return receipt, ()

    async def _process(self, submission: Submission, examined: Examined) -> list[str]:
        facts, envelope = examined.facts, submission.envelope
        assert facts is not None
        files = await self._files(submission, examined)
        shown = envelope.shown(examined.content, size=examined.size)
        due = () if submission.unsigned else self.subscribers(shown)
        programs = [each for each in due if not self._is_own(each, facts.message, submission.program)]

        def write(connection: Connection) -> None:
            writes.keep_processed(connection, _entry(submission, examined))
            for file in files:
                writes.add_file(connection, file)
            writes.forget(connection, examined.targets, by=envelope.item_hash)
            writes.add_deliveries(connection, envelope.item_hash, programs)

        await self._ledger.write(write)
        unsigned = submission.unsigned
        self._tell(
            Change(kind="processed", item_hash=envelope.item_hash, type=envelope.type, message=shown, unsigned=unsigned)
        )
        for target in examined.targets:
            self._tell(_forgotten(target))
        return [*_names(facts.message), *(file.hash for file in files)]

    def _is_own(self, program: str, message: Message, through: str | None) -> bool:
        """Tell whether any version of a program published a message itself (contract, section 2.9)."""
        original = rules.original(self._ledger, program)
        versions = {original, program, *(each.item_hash for each in self._ledger.referring(original))}
        names = [name for version in versions for name in names_of(version)]
        return through in versions or any(
            same_address(name, who) for name in names for who in (message.owner, message.sender)
        )

    async def _files(self, submission: Submission, examined: Examined) -> list[File]:
        """Give the files that come with a message; the code that a draft holds becomes one."""
        assert examined.facts is not None
        files = [] if submission.file is None else [submission.file]
        loaded = examined.facts.loaded
        if loaded and loaded.inline_code:
            digest, size = await self._blobs.put_bytes(loaded.inline_code.content.encode())
            files.append(File(hash=digest, digest=digest, size=size, kept=True))
        return files

    # what waited

    async def _settle(self, names: deque[str]) -> None:
        """Judge again what waited for these, and what waited for that, and so on."""
        while names:
            for n in self._ledger.awaiting(names.popleft()):
                names += await self._again(n)

    async def _again(self, n: int) -> Iterable[str]:
        waited = self._ledger.numbered(n)
        if waited is None or waited.status != "pending":
            return ()
        _, names = await self._take(
            Submission(
                envelope=waited.envelope,
                received=waited.received,
                program=waited.program,
                unsigned=waited.unsigned,
                n=n,
            )
        )
        return names

    def _waits_so(self, submission: Submission, verdict: Pending) -> bool:
        """Tell whether a message waits already, and for the same, so that there is nothing to write."""
        waited = None if submission.n is None else self._ledger.numbered(submission.n)
        if waited is None or waited.code != verdict.code:
            return False
        return self._ledger.awaited_by(waited.n) == frozenset(verdict.missing)

    def _tell(self, change: Change) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(change)
            except Exception as error:
                context = {"message": "A listener of the publisher failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """See to the end what has begun, even if whoever asked for it is gone: what is durable must be told."""
    return await asyncio.shield(asyncio.create_task(work))


def _names(message: Message) -> list[str]:
    """List by what names others may wait for a message."""
    content = message.content
    return [message.item_hash, content.item_hash] if isinstance(content, Store) else [message.item_hash, *_key(message)]


def _key(message: Message) -> list[str]:
    key = getattr(message.content, "key", None)
    return [] if key is None else [key]


def _files(submission: Submission) -> list[str]:
    return [] if submission.file is None else [submission.file.hash]


def _forgotten(target: Record) -> Change:
    return Change(
        kind="forgotten",
        item_hash=target.envelope.item_hash,
        type=target.envelope.type,
        message=target.shown,
        unsigned=target.unsigned,
    )


def _entry(submission: Submission, examined: Examined) -> Entry:
    return Entry(
        n=submission.n,
        envelope=submission.envelope,
        received=submission.received,
        facts=examined.facts,
        content=examined.text,
        size=examined.size,
        unsigned=submission.unsigned,
        program=submission.program,
    )


def _wait(connection: Connection, submission: Submission, examined: Examined, verdict: Pending) -> None:
    writes.keep_pending(connection, _entry(submission, examined), code=verdict.code, missing=verdict.missing)
    if submission.file is not None:
        writes.add_file(connection, submission.file)


def _reject(connection: Connection, submission: Submission, examined: Examined, receipt: Receipt) -> None:
    writes.drop(connection, submission.n)
    envelope = submission.envelope
    content = examined.content if envelope.item_type == "inline" else None  # a stored one may be long
    shown = envelope.shown(content, size=examined.size) if content is not None else envelope.without_content
    assert receipt.error_code is not None
    assert receipt.details is not None
    writes.reject(
        connection,
        envelope.item_hash,
        shown,
        received=submission.received,
        code=receipt.error_code,
        details=receipt.details,
    )
