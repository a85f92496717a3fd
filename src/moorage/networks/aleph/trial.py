"""What a program is tried with, to find out whether it keeps the contract."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from moorage.errors import NODE, MoorageError
from moorage.model.ids import new_id
from moorage.model.jobs import JSON
from moorage.networks.aleph.programs.calls import Call, call, written
from moorage.networks.aleph.programs.connections import Head
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.jobs import told
from moorage.networks.aleph.programs.runs import Runs
from moorage.networks.base import Services

SHOWN = 200
"""Characters of an answer that a finding quotes."""
SILENCE = 1.0
"""Seconds without another byte after which an answer on an open connection is taken to be over."""


class Breach(Exception):
    """A rule is broken; `str()` of it says how, `hint` how to mend it where the rule does not know."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Inapplicable(Exception):
    """There is nothing to judge; `str()` of it says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program answered."""

    asked: str
    head: Head
    body: bytes

    @property
    def told(self) -> str:
        """The answer in a sentence, for whoever has to mend the program."""
        text = self.body.decode(errors="replace").strip()
        text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        return f"{self.asked} was answered with status {self.head.status}{f': {text}' if text else ''}"


@dataclass(slots=True, kw_only=True)
class Trial:
    """A program that is tried; `request` is what its operator would have it asked."""

    services: Services
    runs: Runs
    instance: Instance
    address: str
    request: Mapping[str, JSON]
    event: Mapping[str, JSON] | None = None
    """The message that its operator would have it given."""
    blocked: str | None = None
    """Why nothing further can be told."""

    @property
    def key(self) -> str:
        """Name the service that runs it."""
        return self.instance.spec.key

    @property
    def path(self) -> str:
        """What to ask for."""
        return str(self.request["path"])

    def call(self) -> Call:
        """Make a request that is one of no client."""
        return Call(run=new_id("run"), address=self.address)

    async def start(self) -> float:
        """Start it; give the seconds that took. Raises Breach, and what keeps the node from starting anything."""
        begun = time.monotonic()
        try:
            async with self.services.acquire(self.instance.spec):
                return time.monotonic() - begun
        except MoorageError as error:
            raise Breach(_fault(error).message) from None

    async def stop(self) -> float:
        """Tell it to end, and wait for that; give the seconds that took."""
        begun = time.monotonic()
        await self.services.stop(self.key)
        return time.monotonic() - begun

    async def own_request(self) -> Answer:
        """Make the request that its operator would have it asked. Raises Breach."""
        headers = tuple((str(name), str(value)) for name, value in self.request["headers"])
        asked = replace(self.call(), method=str(self.request["method"]), path=self.path, headers=headers)
        return await self.ask(replace(asked, body=str(self.request["body"]).encode()))

    async def get(self, path: str) -> Answer:
        """Make a GET. Raises Breach."""
        return await self.ask(replace(self.call(), path=path))

    async def ask(self, request: Call) -> Answer:
        """Make a request. Raises Breach if there is no answer, or one with a status of 500 and more."""
        body = bytearray()
        asked = "The message" if request.kind == "event" else f"{request.method} {request.path}"
        try:
            head = await call(self.services, self.instance, request, body.extend)
        except MoorageError as error:
            raise Breach(f"{asked} was not answered: {_fault(error).message}") from None
        answer = Answer(asked=asked, head=head, body=bytes(body))
        if head.status >= 500:
            raise Breach(f"{answer.told}.")
        return answer

    async def leave(self) -> None:
        """Ask, and be gone before the answer is there."""
        async with self.services.acquire(self.instance.spec) as endpoint:
            _, writer = await asyncio.open_connection(sock=await endpoint.connect())
            writer.write(written(replace(self.call(), path=self.path), asgi=self.instance.asgi))
            await writer.drain()
            writer.transport.abort()

    async def head(self) -> bytes:
        """Ask with HEAD; give all bytes of the answer that come after its head."""
        headers = (("connection", "close"),)
        request = replace(self.call(), method="HEAD", path=self.path, headers=headers)
        async with self.services.acquire(self.instance.spec) as endpoint:
            reader, writer = await asyncio.open_connection(sock=await endpoint.connect())
            try:
                writer.write(written(request, asgi=self.instance.asgi))
                return await self._after_head(reader)
            finally:
                writer.transport.abort()

    async def _after_head(self, reader: asyncio.StreamReader) -> bytes:
        received = bytearray()
        patience = float(self.instance.deployment.program.resources.seconds)
        with contextlib.suppress(TimeoutError):
            while chunk := await asyncio.wait_for(reader.read(65536), patience):
                received += chunk
                patience = SILENCE
        head, _, body = bytes(received).replace(b"\r\n", b"\n").partition(b"\n\n")
        if not head:
            raise Breach(f"HEAD {self.path} was not answered.")
        return body


def _fault(error: MoorageError) -> MoorageError:
    """Give what the program did wrong; raises what is the node's own trouble."""
    fault = told(error)
    if fault.exit_status == NODE:
        raise fault
    return fault
