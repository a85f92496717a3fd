"""Streams on their way to clients (contract, section 4.6)."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from moorage.networks.infernet.asgi import Headers, Message, Receive, Send
from moorage.networks.infernet.chain import INTERRUPTED
from moorage.networks.infernet.wire import Failure, JobResult, Output, dump

APART = 0.01
"""Seconds between a job's id and its first byte: the network's client takes all that its first read gives as the id."""


class Outlet:
    """Takes the bytes of one job, at the pace of its client."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._opened = asyncio.Event()
        self._send: Send | None = None
        self._begin: Callable[[], Awaitable[None]] | None = None
        self._first_at = 0.0
        """When the first byte may follow the id."""
        self._stopping = False
        self.begun = False
        """Whether anything has been answered."""
        self.left = False
        """Whether the client is gone."""

    async def write(self, chunk: bytes) -> None:
        """Pass bytes on, once the client can take them; it has `patience` seconds for each piece.

        Raises ConnectionError when it has left.
        """
        await self._opened.wait()
        send = await self._taken()
        await self.begin()
        if (early := self._first_at - time.monotonic()) > 0:
            await asyncio.sleep(early)
            send = await self._taken()
        try:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:  # a client that takes nothing must not hold the container for ever
            self.leave()
            raise ConnectionResetError from None

    def attach(self, send: Send, begin: Callable[[], Awaitable[None]]) -> None:
        """Take a client on; `begin` sends what comes before the first byte."""
        self._send, self._begin = send, begin

    def open(self) -> None:
        """Let bytes pass from now on."""
        self._opened.set()

    async def begin(self) -> None:
        """Send what comes before the first byte, once."""
        if not self.begun:
            self.begun = True
            assert self._begin is not None
            await self._begin()
            self._first_at = time.monotonic() + APART

    def leave(self) -> None:
        """Tell the job that nobody takes its bytes any more."""
        self._send, self.left = None, True
        self._opened.set()

    def stop(self) -> None:
        """Take no more bytes because the node stops: the job waits until it is ended with the node, as others are."""
        self._send, self._stopping = None, True
        self._opened.set()

    async def _taken(self) -> Send:
        if self._stopping:
            await asyncio.Event().wait()
        if self._send is None:
            raise ConnectionResetError
        return self._send


class StreamedResponse:
    """Answers with the id of a job in a line and a chunk of its own, and then with what the job gives, as it comes.

    A job that fails only ends what is answered; if `strict` it is 502 before the first byte, and an answer that breaks
    off after it. A node that stops ends all of them so.
    """

    def __init__(
        self,
        job_id: str,
        outlet: Outlet,
        *,
        result: Callable[[], Awaitable[JobResult]],
        cancel: Callable[[], Awaitable[None]],
        strict: bool,
    ) -> None:
        self._id, self._outlet, self._result, self._cancel = job_id, outlet, result, cancel
        self._strict = strict
        self.raw_headers: Headers = []
        """More headers to answer with."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send the answer as ASGI has it; a client that leaves cancels the job."""

        async def begin() -> None:
            await send(_start(200, b"application/octet-stream", self.raw_headers))
            await send({"type": "http.response.body", "body": self._id.encode() + b"\n", "more_body": True})

        stopping = scope["moorage.stopping"]
        self._outlet.attach(send, begin)
        if not self._strict:
            await self._outlet.begin()
        self._outlet.open()
        ended, left = asyncio.ensure_future(self._result()), asyncio.ensure_future(_departure(receive))
        try:
            await asyncio.wait({ended, left, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                answer = ended.result().result
                await self._end(send, answer.outcome if answer else None)
            elif stopping.done():
                self._outlet.stop()
                await self._end(send, Failure(error=INTERRUPTED), status=503)
        finally:
            left.cancel()
            if stopping.done():
                self._outlet.stop()
                ended.cancel()
            else:
                self._outlet.leave()
                if not ended.done():
                    ended.cancel()
                    await self._cancel()

    async def _end(self, send: Send, outcome: Output | Failure | None, *, status: int = 502) -> None:
        if not self._strict or not isinstance(outcome, Failure):
            await self._outlet.begin()
            await send({"type": "http.response.body", "body": b""})
        elif not self._outlet.begun:
            await send(_start(status, b"application/json", self.raw_headers))
            document = {"error": outcome.error, "params": {"id": self._id}}
            await send({"type": "http.response.body", "body": dump(document)})
        # Else the server breaks the answer off, because it was not ended.


def _start(status: int, media_type: bytes, extra: Headers) -> Message:
    headers = [(b"content-type", media_type), (b"x-content-type-options", b"nosniff"), *extra]
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
