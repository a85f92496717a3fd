"""What an address serves: a version of a program, with every file that it needs (contract, sections 2.3 and 3.7)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moorage.blobs.base import Blobs
from moorage.errors import NotFound
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.hashes import BadHash, kind_of
from moorage.networks.aleph.messages.program import (
    ImmutableVolume,
    PersistentVolume,
    Program,
    Requirements,
    is_address,
)
from moorage.networks.aleph.messages.rules import Machine

MISSING = "400: Code, runtime or data not available"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that a reference led to."""

    ref: str
    """Hash of the STORE message that brought it, or of the file itself where there is none."""
    digest: str
    """Of the blob that holds it."""
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One version of a program with what its references mean now."""

    item_hash: str
    origin: str
    """Hash that its volumes belong to."""
    program: Program
    files: Mapping[str, StoredFile]
    """By the reference in the message."""
    owner: str
    unsigned: bool = False
    key: str = field(init=False)
    """Differs wherever a new instance is due: with the version, and with what its references mean."""

    def __post_init__(self) -> None:
        """Name it."""
        meant = "\n".join(f"{ref} {file.digest}" for ref, file in sorted(self.files.items()))
        object.__setattr__(self, "key", f"{self.item_hash}@{hashlib.sha256(meant.encode()).hexdigest()[:12]}")

    @property
    def code_ref(self) -> str:
        """Give the reference of its code as it was resolved."""
        return self.files[self.program.code.ref].ref

    @property
    def refs(self) -> dict[str, str]:
        """Give what each reference in the message led to."""
        return {ref: file.ref for ref, file in self.files.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an address serves nothing now, as the answer says it (contract, section 5)."""

    status: int
    error: str
    retry_after: int | None = None


class Resolver:
    """Looks up what addresses serve."""

    def __init__(
        self,
        ledger: Ledger,
        blobs: Blobs,
        addresses: Mapping[str, str],
        unmet: Callable[[Requirements | None], str | None] = lambda _: None,
    ) -> None:
        self._ledger, self._blobs, self._unmet = ledger, blobs, unmet
        self._addresses = {address.lower(): ref for address, ref in addresses.items()}

    def deployment(self, address: str) -> Deployment | Refusal:
        """Find the program of an address, which comes from a stranger."""
        try:
            kind_of(address)
        except BadHash:
            return Refusal(status=400, error=f"Invalid message reference: {address}")
        found = rules.served(self._ledger, address)
        missing = self._ledger.waits_for(address) if isinstance(found, rules.Unserved) else ()
        if missing:
            text = f"Program {address} waits for {', '.join(missing)}"
            return Refusal(status=503, error=text, retry_after=5)
        if isinstance(found, rules.Unserved):
            return Refusal(status=found.status, error=found.text)
        return self.version(found.item_hash)

    def newest(self, item_hash: str) -> str | None:
        """Give the newest version of the program that a message is a version of."""
        message = self._ledger.message(item_hash)
        if message is None or not isinstance(message.content, Machine):
            return None
        origin = rules.origin(message.content, item_hash)
        original = self._ledger.message(origin)
        if original is not None:
            return rules.current_version(self._ledger, original).item_hash
        # Its amends outlive an original that is forgotten (contract, section 3.7).
        amends = [each for each in self._ledger.referring(origin) if isinstance(each.content, Machine)]
        return max(amends, key=lambda each: each.time, default=message).item_hash

    def original(self, item_hash: str) -> str:
        """Give the program that a message is a version of."""
        return rules.original(self._ledger, item_hash)

    def version(self, item_hash: str, refs: Mapping[str, str] | None = None) -> Deployment | Refusal:
        """Find a processed program by the hash of its own message, whatever version an address serves.

        `refs` says what its references are to lead to, where that is not what they do now.
        """
        loaded, message = self._ledger.program(item_hash), self._ledger.message(item_hash)
        if loaded is None or message is None or not isinstance(message.content, Machine):
            return Refusal(status=404, error=f"Hash not found: {item_hash}")
        files = {
            ref: self._file(ref, use_latest=latest) if refs is None else self._file(refs[ref], use_latest=False)
            for ref, latest in _references(loaded.program)
        }
        absent = [ref for ref, file in files.items() if file is None]
        if absent:
            return Refusal(status=400, error=MISSING)
        if runtime := self._runtime(loaded.program, refs):
            files[loaded.program.runtime.ref] = runtime
        if lacking := self._unmet(loaded.program.requirements):
            return Refusal(status=503, error=f"This node does not satisfy requirements.{lacking}")
        return Deployment(
            item_hash=item_hash,
            origin=rules.origin(message.content, item_hash),
            program=loaded.program,
            files={ref: file for ref, file in files.items() if file is not None},
            owner=message.owner,
            unsigned=self._ledger.unsigned(item_hash),
        )

    def _runtime(self, program: Program, refs: Mapping[str, str] | None) -> StoredFile | None:
        """Find the file of a runtime, without which a program runs as well."""
        ref = program.runtime.ref
        if refs is None:
            return self._file(ref, use_latest=program.runtime.use_latest)
        return self._file(refs[ref], use_latest=False) if ref in refs else None

    def _file(self, ref: str, *, use_latest: bool) -> StoredFile | None:
        if is_address(ref):
            named = self._addresses.get(ref.lower()) or self._ledger.newest_store_of(ref)
            if named is None:
                return None
            return self._file(named, use_latest=use_latest)
        store = rules.resolve(self._ledger, ref, use_latest=use_latest)
        item_hash = store.content.item_hash if store and isinstance(store.content, Store) else ref
        found = self._ledger.file(item_hash)
        if found is None:
            return None
        try:
            path = self._blobs.path(found[0])
        except NotFound:
            return None
        return StoredFile(ref=store.item_hash if store else ref, digest=found[0], path=path)


def _references(program: Program) -> Iterator[tuple[str, bool]]:
    """List what a program cannot run without, each with whether it follows updates; its runtime is not among it."""
    yield program.code.ref, program.code.use_latest
    if program.data is not None:
        yield program.data.ref, program.data.use_latest
    for volume in program.volumes:
        if isinstance(volume, ImmutableVolume):
            yield volume.ref, volume.use_latest
        elif isinstance(volume, PersistentVolume) and volume.parent is not None:
            yield volume.parent.ref, volume.parent.use_latest
