"""What a check asks one container, and what came of it."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field

from moorage.blobs.names import shown
from moorage.model.jobs import JSON
from moorage.model.limits import MIB
from moorage.networks.http import Answer
from moorage.networks.infernet.calls import MAX_REPLY, Calls, TimedOut
from moorage.networks.infernet.config import Container
from moorage.networks.infernet.service import ContainerError, Place, request_body, take
from moorage.networks.infernet.wire import Failure, Output

SAMPLE: Mapping[str, JSON] = {"input": "hello"}
PATIENCE = 10.0
"""Seconds for an answer to the sample, at most; real data may need all the time that the container is configured to."""
STREAMED = MIB
"""Bytes of a stream that are looked at, for no longer than `PATIENCE` either."""
RETURNS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each look whether a container that broke a connection is there again."""


class Breach(Exception):
    """A rule is broken; `hint` says how to mend that, where it is another way than the rule's own."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.hint = hint


class Inapplicable(Exception):
    """A rule says nothing of this container, or cannot be tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, or as much of it as came."""

    status: int
    media_type: str | None
    path: str
    """Where it came from in the end, after redirects."""
    kept: bool
    """Whether the connection can be used again."""
    body: bytes
    pieces: int
    seconds: float
    """From the first piece to the last."""
    took: float

    @property
    def ok(self) -> bool:
        """Tell whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def is_json(self) -> bool:
        """Tell whether the node takes its media type for JSON."""
        return isinstance(take(200, self.media_type, b""), Output)

    @property
    def refuses(self) -> bool:
        """Tell whether it says in the contract's form that the request is at fault."""
        return 400 <= self.status < 500 and self.is_json

    @property
    def outcome(self) -> Output | Failure:
        """What the node makes of it."""
        return take(self.status, self.media_type, self.body)

    @property
    def text(self) -> str:
        """The beginning of the body, for a message."""
        return shown(" ".join(self.body[:800].decode(errors="replace").split())) if self.body else "an empty body"

    def __str__(self) -> str:
        return f"HTTP {self.status} {self.media_type or 'without a media type'}: {self.text}"


class Lost(Exception):
    """No whole answer came; `begun` is what came of it."""

    def __init__(self, error: ContainerError, begun: Reply | None) -> None:
        super().__init__(error.failure.error if begun is None else f"{begun}, and then: {error.failure.error}")
        self.error, self.begun = error, begun

    @property
    def hint(self) -> str:
        """How to mend it."""
        if self.begun is not None and len(self.begun.body) > MAX_REPLY:
            return f"End an answer; the node takes no more than {MAX_REPLY // MIB} MiB of it."
        if self.begun is not None:
            return (
                "Send as many bytes as Content-Length says, or a last chunk. "
                "A framework does that by itself, unless what makes the answer stops or fails on the way."
            )
        if isinstance(self.error, TimedOut):
            return (
                "Answer every request, also one that cannot be served. "
                "If it only needs longer, give real data with --data: then its configured `timeout` counts."
            )
        return (
            "The connection or the process ended: see the container's log. "
            'Catch what goes wrong, and answer status 400 with JSON such as {"code": "400", "description": "…"}.'
        )


class Probe:
    """Asks one container, remembers the answers, and leaves it alone once it was silent or is gone."""

    def __init__(self, container: Container, calls: Calls, data: Mapping[str, JSON] | None) -> None:
        self.container, self.calls, self.is_sample = container, calls, data is None
        self.data = dict(SAMPLE if data is None else data)
        longest = container.moorage.timeout
        self.patience = min(longest, PATIENCE) if data is None else longest
        self.blocked = ""
        """Why nothing more is asked."""
        self._known: dict[bytes, Reply | Lost] = {}

    def offchain(self, data: JSON) -> bytes:
        """Write a request from off the chain, or one in the middle of several containers."""
        return self._body(data, Place.OFFCHAIN, Place.OFFCHAIN)

    @property
    def sample(self) -> bytes:
        """The plain off-chain request that all else is compared with."""
        return self.offchain(self.data)

    def from_chain(self, destination: Place, *, proof: bool = False) -> bytes:
        """Write a request with the data as input from the chain."""
        return self._body(json.dumps(self.data).encode(), Place.CHAIN, destination, proof=proof)

    @property
    def empty(self) -> bytes:
        """A request from the chain that has no input."""
        return self._body(b"", Place.CHAIN, Place.CHAIN)

    def to_chain(self, data: JSON, *, proof: bool = False) -> bytes:
        """Write a request whose output goes on chain: a delegated one, or one to the last of several containers."""
        return self._body(data, Place.OFFCHAIN, Place.CHAIN, proof=proof)

    @property
    def streaming(self) -> bytes:
        """A request for a stream."""
        return self._body(self.data, Place.OFFCHAIN, Place.STREAM)

    async def ask(self, body: bytes, *, streamed: bool = False) -> Reply:
        """Give the answer to a request, which is sent once only.

        Raises Breach the first time that no whole answer comes, Inapplicable after that.
        """
        found = self._known.get(body)
        if isinstance(found, Lost):
            raise Inapplicable("There was no answer to judge, as reported above.")
        if found is not None:
            return found
        if self.blocked:
            raise Inapplicable(self.blocked)
        try:
            reply = await self.send(body, streamed=streamed)
        except Lost as lost:
            self._known[body] = lost
            raise Breach(str(lost), lost.hint) from None
        self._known[body] = reply
        return reply

    async def send(self, body: bytes, *, within: float | None = None, streamed: bool = False) -> Reply:
        """Send a request, and read the answer as far as it is looked at; raises Lost."""
        return await self._read(self.calls.exchange(body, within=within or self.patience), streamed=streamed)

    async def get(self, path: str) -> Reply:
        """Get a page; raises Lost."""
        return await self._read(self.calls.page(path, within=self.patience))

    async def _read(self, exchange: AbstractAsyncContextManager[Answer], *, streamed: bool = False) -> Reply:
        reading = _Reading(begun=time.monotonic())
        try:
            async with exchange as reading.answer:
                await reading.read(STREAMED if streamed else None)
        except ContainerError as error:
            if streamed and reading.body and isinstance(error, TimedOut):
                return reading.reply  # a stream may be longer than it is looked at
            lost = Lost(error, reading.reply if reading.answer else None)
            await self._note(lost)
            raise lost from None
        return reading.reply

    async def _note(self, lost: Lost) -> None:
        if isinstance(lost.error, TimedOut):
            self.blocked = "It did not answer before."
        elif not await self._returns():
            self.blocked = "It did not come back after a connection broke."

    async def _returns(self) -> bool:
        """Wait for a container whose process may have ended."""
        for pause in RETURNS:
            await asyncio.sleep(pause)
            with suppress(ContainerError):
                await self.calls.wait()
                async with self.calls.page(self.container.moorage.health_path, within=self.patience, follow=False):
                    return True
        return False

    @staticmethod
    def _body(data: JSON | bytes, source: Place, destination: Place, *, proof: bool = False) -> bytes:
        return request_body(data, source=source, destination=destination, requires_proof=proof)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """An answer that is being read."""

    begun: float
    answer: Answer | None = None
    body: bytearray = field(default_factory=bytearray)
    times: list[float] = field(default_factory=list)

    async def read(self, enough: int | None) -> None:
        """Read all, or no more than is enough.

        Raises ContainerError, also if it is too long.
        """
        assert self.answer is not None
        while chunk := await self.answer.read():
            self.body += chunk
            self.times.append(time.monotonic())
            if enough is not None and (len(self.body) > enough or self.times[-1] > self.times[0] + PATIENCE):
                return
            if len(self.body) > MAX_REPLY:
                raise ContainerError(f"The answer is longer than {MAX_REPLY // MIB} MiB")

    @property
    def reply(self) -> Reply:
        """What has been read."""
        assert self.answer is not None
        return Reply(
            status=self.answer.status,
            media_type=self.answer.headers.get("content-type"),
            path=self.answer.target.partition("?")[0],
            kept=self.answer.kept,
            body=bytes(self.body),
            pieces=len(self.times),
            seconds=self.times[-1] - self.times[0] if self.times else 0.0,
            took=time.monotonic() - self.begun,
        )
