"""One started app in one of its roles: until it is ready, what is asked of it, and its end (contract, section 2.1)."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from moorage.errors import AppExited, AppNotReady, MoorageError, ServiceUnavailable
from moorage.model.limits import Limits
from moorage.networks.golem.environments import Environment, Role
from moorage.networks.golem.files.trees import remove_tls
from moorage.networks.golem.protocol.client import CallFailed, Provider, Requestor, is_serving
from moorage.networks.golem.protocol.relay import opened
from moorage.sandbox.base import Exit, ImageSpec, Load, OutputSink, Process, ProcessSpec, Stream

T = TypeVar("T")

Start = Callable[[ProcessSpec | ImageSpec, OutputSink], Awaitable[Process]]

PORTS: dict[Role, int] = {"requestor": 50005, "provider": 50006}
PROBE = 1.0
"""Seconds that one look whether an app is ready may take."""
QUICK, SLOW = 0.002, 0.025
"""Seconds between the first looks, and between later ones."""
GRACE = 5.0
"""Seconds that an app has to end by itself from when it is told to."""
TERM = 2.0
"""Seconds between SIGTERM and SIGKILL."""
LAST_WORDS = 0.25
"""Seconds that an answer may still be on its way from a process that has ended."""
TAIL, BACKLOG = 2 * 1024, 64 * 1024


class Voice:
    """What an app writes: for whoever listens, who may come late, and its last words for a message."""

    def __init__(self, sink: OutputSink | None = None) -> None:
        self._sink = sink
        self._early: list[tuple[Stream, bytes]] = []
        self._size = 0
        self._tail = bytearray()

    def __call__(self, stream: Stream, chunk: bytes) -> None:
        """Take a chunk."""
        if stream == "stderr":
            self._tail += chunk
            del self._tail[:-TAIL]
        if self._sink is not None:
            self._sink(stream, chunk)
        elif self._size < BACKLOG:
            self._early.append((stream, chunk))
            self._size += len(chunk)

    def listen(self, sink: OutputSink) -> None:
        """Pass on all that was written and will be."""
        self._sink = sink
        early, self._early = self._early, []
        for stream, chunk in early:
            sink(stream, chunk)

    @property
    def last(self) -> str:
        """Its last words on standard error."""
        return self._tail.decode(errors="replace").strip()


class Instance:
    """A process of an app that answers calls; made by `launch`."""

    def __init__(self, process: Process, role: Role, port: int, voice: Voice) -> None:
        self.process, self.role, self.voice = process, role, voice
        self._port = port
        self._links = contextlib.AsyncExitStack()
        self._channel: grpc.aio.Channel | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.ended = asyncio.ensure_future(_ended(process))

    @property
    def requestor(self) -> Requestor:
        """What asks it, as a requestor."""
        assert self._channel is not None
        return Requestor(self._channel)

    @property
    def provider(self) -> Provider:
        """What asks it, as a provider."""
        assert self._channel is not None
        return Provider(self._channel)

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return not self.ended.done()

    async def connect(self) -> socket.socket:
        """Open a connection to it, as an `Endpoint`. Raises ServiceUnavailable."""
        try:
            return await self.process.connect(self._port)
        except OSError as error:
            raise ServiceUnavailable(f"The app takes no connection: {error.strerror}.") from error

    async def ask(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call, which ends with the process.

        Raises CallFailed with what the app says, AppExited if the process went away before it had answered.
        """
        asking = asyncio.ensure_future(call)
        try:
            await asyncio.wait({asking, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await asyncio.wait({asking}, timeout=LAST_WORDS)
            if not asking.done():
                raise self._exited()
            return await self._answer(asking)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def load(self) -> Load:
        """Tell what it uses now."""
        return await self.process.load()

    async def hang_up(self) -> None:
        """Close the connection, without which some apps do not end."""
        self._channel = None
        await self._links.aclose()

    async def stop(self) -> None:
        """Have it end, by itself if it does so soon; doing so twice is harmless."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        await asyncio.shield(self.ended)
        await self.hang_up()

    async def await_ready(self, within: float) -> None:
        """Wait until it answers. Raises AppNotReady, AppExited."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + within, QUICK
        while not await self._answers(min(PROBE, max(0.1, deadline - loop.time()))):
            if not self.alive:
                raise self._exited()
            if loop.time() > deadline:
                raise AppNotReady(f"App not ready after {within:g} s{self._words()}")
            await asyncio.wait({self.ended}, timeout=pause)
            pause = min(pause * 1.5, SLOW)

    async def _answers(self, within: float) -> bool:
        """Tell whether it serves; the connection is kept if so. One that only takes connections takes no time."""
        try:
            (await self.connect()).close()
        except ServiceUnavailable:
            return False
        async with contextlib.AsyncExitStack() as stack:
            channel = await stack.enter_async_context(opened(self))
            serves = await is_serving(channel, timeout=within)
            if serves and self.alive:
                self._links, self._channel = stack.pop_all(), channel
                return True
        return False

    async def _answer(self, asking: "asyncio.Task[T]") -> T:
        try:
            return asking.result()
        except CallFailed as error:
            if not error.lost:
                raise
            await asyncio.wait({self.ended}, timeout=LAST_WORDS)
            raise self._exited() from error

    def _exited(self) -> AppExited:
        if self.alive:
            return AppExited(f"The app broke the connection off before replying{self._words()}")
        status = self.ended.result().status
        return AppExited(f"App exited with code {status} before replying{self._words()}")

    def _words(self) -> str:
        return f": {self.voice.last}" if self.voice.last else "."

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE
        if self.alive and self._channel is not None:
            told = self.requestor if self.role == "requestor" else self.provider
            with contextlib.suppress(CallFailed, AppExited):
                await self.ask(told.shutdown(timeout=GRACE))
        await self.hang_up()
        await asyncio.wait({self.ended}, timeout=max(0.0, deadline - loop.time()))
        if self.alive:
            self.process.terminate()
            await asyncio.wait({self.ended}, timeout=TERM)
        if self.alive:
            self.process.kill()
        await asyncio.shield(self.ended)


async def launch(
    start: Start,
    environment: Environment,
    role: Role,
    *,
    work: Path,
    limits: Limits,
    within: float,
    sink: OutputSink | None = None,
) -> Instance:
    """Start an app in one of its roles on its directory, and wait until it is ready.

    Raises AppNotReady, AppExited, SandboxUnavailable, DiskFull; nothing of it is left then.
    """
    await asyncio.to_thread(remove_tls, work)
    voice, port = Voice(sink), PORTS[role]
    instance = Instance(await start(environment.process(role, port, work, limits), voice), role, port, voice)
    try:
        await instance.await_ready(within)
    except BaseException:
        await instance.kill()
        raise
    return instance


async def _ended(process: Process) -> Exit:
    """Wait for the end of a process; of one that was lost with what had started it, nothing more is known."""
    try:
        return await process.wait()
    except MoorageError:
        return Exit(status=-9, wall=0.0)
