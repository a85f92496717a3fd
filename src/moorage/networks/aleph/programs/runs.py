"""Runs of programs as they are written down, and what they export (contract, sections 2.5 and 4.6).

Nothing of it keeps an answer waiting. What is kept of a request includes all its headers, also those by which a client
proves who it is: without them it could not be made again. No API shows it.
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from moorage.blobs.base import Blobs
from moorage.errors import Malformed, MoorageError
from moorage.model.jobs import JSON
from moorage.model.limits import MIB
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Publisher
from moorage.networks.aleph.ledger.records import File, Run
from moorage.networks.aleph.messages.program import Program
from moorage.networks.aleph.programs.connections import HOP, Head
from moorage.networks.aleph.programs.export import archive
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.relay import Message, Receive, Send
from moorage.networks.aleph.programs.squashfs import Squashfs
from moorage.networks.aleph.programs.turns import Turns

MOST = MIB
"""Bytes of a body that are kept; of a longer one there is only the digest."""
OUTPUT_DATA = b"moorage-output-data"
"""Header by which the host of ASGI programs brings what a program put out beside its answer (section 2.6, A28)."""


def is_recorded(program: Program) -> bool:
    """Tell whether requests of clients to a program are written down."""
    return program.export is not None or program.environment.reproducible


def described(
    *,
    address: str,
    method: str,
    path: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    kind: str = "http",
    message: str | None = None,
) -> dict[str, JSON]:
    """Describe a request, but for its body, so that it can be made again (see `replays`)."""
    kept = [[_text(name), _text(value)] for name, value in headers if name not in HOP]
    return {
        "kind": kind,
        "address": address,
        "method": method,
        "path": _text(path),
        "headers": kept,
        "message": message,
    }


class Body:
    """A body that passes by."""

    def __init__(self) -> None:
        self._digest, self._kept = hashlib.sha256(), bytearray()
        self.size = 0

    def take(self, data: bytes) -> None:
        """Take the next piece."""
        self._digest.update(data)
        self.size += len(data)
        if self.size <= MOST:
            self._kept += data
        else:
            self._kept.clear()

    async def stored(self, blobs: Blobs) -> dict[str, JSON]:
        """Keep it, unless it is too long, and tell of it. Raises DiskFull."""
        kept = self.size <= MOST
        if self._kept:
            await blobs.put_bytes(bytes(self._kept))
        return {"digest": self._digest.hexdigest(), "size": self.size, "kept": kept}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a run left."""

    encoding: str
    mount: str | None
    """None for what a program put out beside its answer."""
    file_hash: str
    size: int

    @property
    def document(self) -> dict[str, JSON]:
        """Give it as the API does (contract, section 4.6)."""
        return {"encoding": self.encoding, "mount": self.mount, "file_hash": self.file_hash, "size": self.size}


class Recording:
    """One run that is being written down, from its beginning on."""

    def __init__(self, runs: "Runs", instance: Instance, run: Run, request: Mapping[str, JSON]) -> None:
        self._runs, self._instance, self._run, self._request = runs, instance, run, request
        self._begun = asyncio.ensure_future(runs.ledger.add_run(run))
        self.asked, self.answered = Body(), Body()
        self.status: int | None = None

    def watched(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """Take note of what passes between a client and the program."""

        async def receive_noting() -> Message:
            message = await receive()
            self.asked.take(message.get("body", b""))
            return message

        async def send_noting(message: Message) -> None:
            self.status = message.get("status", self.status)
            self.answered.take(message.get("body", b""))
            await send(message)

        return receive_noting, send_noting

    async def end(self, head: Head | None) -> Export | None:
        """Keep what the program leaves, and write down what came of the run; what fails is told to its owner."""
        status = head.status if self.status is None and head is not None else self.status  # of a tunnel: no answer
        run = replace(self._run, ended=time.time(), status=status)
        export = await self._runs.exported(self._instance, run.run_id, head)
        try:
            await self._begun
            await self._runs.ledger.end_run(
                replace(
                    run,
                    request={**self._request, "body": await self.asked.stored(self._runs.blobs)},
                    response=None if self.status is None else await self.answered.stored(self._runs.blobs),
                    export=export and export.document,
                )
            )
        except MoorageError as error:
            self._instance.log.say(f"The run is not written down: {error.message}", run=run.run_id)
        return export


class Runs:
    """Writes runs down."""

    def __init__(self, ledger: Ledger, publisher: Publisher, blobs: Blobs, squashfs: Squashfs) -> None:
        self.ledger, self.blobs = ledger, blobs
        self._publisher, self._squashfs = publisher, squashfs

    def begin(self, instance: Instance, run_id: str, trigger: str, request: Mapping[str, JSON]) -> Recording:
        """Begin with a run; `request` is what it was asked but for the body."""
        return Recording(self, instance, _begun(instance, run_id, trigger), request)

    async def add_output(self, instance: Instance, run_id: str, head: Head) -> None:
        """Write down a run of which nothing is known but that it left something beside its answer."""
        run = _begun(instance, run_id, "http")
        export = await self.exported(instance, run_id, head)
        if export is None:
            return
        try:
            await self.ledger.add_run(run)
            await self.ledger.end_run(replace(run, ended=run.started, status=head.status, export=export.document))
        except MoorageError as error:
            instance.log.say(f"The run is not written down: {error.message}", run=run_id)

    async def exported(self, instance: Instance, run_id: str, head: Head | None) -> Export | None:
        """Store what a run left, so that it can be fetched as a file of the network."""
        data = head.private.get(OUTPUT_DATA) if head is not None else None
        try:
            if data is not None:
                return await self._output(data)
            if instance.begun.export is not None:
                if instance.exporting is None:
                    instance.exporting = Turns(lambda: self._archive(instance))
                export: Export = await instance.exporting.next()
                return export
        except MoorageError as error:
            instance.log.say(f"Its export is not stored: {error.message}", run=run_id)
        return None

    async def _output(self, encoded: bytes) -> Export:
        try:
            digest, size = await self.blobs.put_bytes(base64.b64decode(encoded))
        except ValueError:  # it comes from the program's side, which may say what it likes
            raise Malformed("What was put out is not in base64.") from None
        await self._publisher.add_file(File(hash=digest, digest=digest, size=size))
        return Export(encoding="plain", mount=None, file_hash=digest, size=size)

    async def _archive(self, instance: Instance) -> Export:
        place, export = instance.begun.export, instance.deployment.program.export
        assert place is not None
        assert export is not None
        made = await archive(place, export.encoding, self.blobs, squashfs=self._squashfs)
        for name in made.left_out:
            instance.log.say(f"The export is without {name}, which no archive can have.")
        await self._publisher.add_file(File(hash=made.digest, digest=made.digest, size=made.size))
        return Export(encoding=export.encoding, mount=export.mount, file_hash=made.digest, size=made.size)


def _text(raw: bytes) -> str:
    """Write bytes as JSON can hold them, whatever they are."""
    return raw.decode(errors="surrogateescape")


def _begun(instance: Instance, run_id: str, trigger: str) -> Run:
    deployment = instance.deployment
    return Run(
        run_id=run_id,
        item_hash=deployment.item_hash,
        trigger=trigger,
        started=time.time(),
        refs=deployment.refs,
    )
