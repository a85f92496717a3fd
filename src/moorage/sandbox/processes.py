"""The node's side of the spawner: starting processes, reading their streams, knowing their ends."""

import asyncio
import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import moorage
from moorage.errors import ArgumentsTooLong, MoorageError, SandboxUnavailable
from moorage.model.limits import Limits
from moorage.sandbox.base import SANDBOX_UID, Exit, Load, OutputSink, ProcessSpec, Stream
from moorage.sandbox.cgroups import Cgroups, Group, Usage
from moorage.sandbox.memory_files import memory_file, sealed
from moorage.sandbox.messages import NOW, receive
from moorage.sandbox.requests import Fork, Launch

CHUNK = 64 << 10
"""What a pipe holds."""
DRAIN = 1.0
"""Seconds that streams are read on after every process is gone: something outside may hold them open."""
STOP = 10.0
LOST: dict[str, Any] = {"event": "ended", "ran": False}
HELPER = (
    "import sys; sys.path.append(sys.argv[1]); from moorage.sandbox.spawner import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3] else None)"
)


@dataclass(slots=True, kw_only=True)
class Place:
    """A process of the spawner, or of a warm interpreter, that waits for what to become, in its cgroup."""

    number: int
    group: Group | None
    ready: bool = False


class Pipe:
    """An output stream, read until every writer is gone."""

    def __init__(self, name: Stream, output: OutputSink) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._name: Stream = name
        self._output = output
        self._ours, self.theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def close(self) -> None:
        """Read no more."""
        if not self.closed.done():
            asyncio.get_running_loop().remove_reader(self._ours)
            os.close(self._ours)
            self.closed.set_result(None)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if data := os.read(self._ours, CHUNK):
                self._output(self._name, data)
            else:
                self.close()


class Running:
    """A process that the spawner started, with everything that it starts."""

    def __init__(
        self,
        number: int,
        order: Callable[..., None],
        output: OutputSink,
        conclude: Callable[[], Awaitable[Usage]],
        group: Group | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.begun: asyncio.Future[bool] = loop.create_future()
        self.warm = asyncio.Event()
        self.over = False
        self.inner: int | None = None
        self.pipes = (Pipe("stdout", output), Pipe("stderr", self._on_stderr))
        self._order = order
        self._output = output
        self._conclude = conclude
        self._group = group
        self._over: asyncio.Future[Exit | MoorageError] = loop.create_future()
        self._why: dict[str, Any] = {}
        self._said = b""
        self._task: asyncio.Task[None] | None = None

    async def wait(self) -> Exit:
        """Wait until nothing of it is left.

        Raises SandboxUnavailable or ArgumentsTooLong if it turned out that the process could not be executed.
        """
        outcome = await asyncio.shield(self._over)
        if isinstance(outcome, MoorageError):
            raise outcome
        return outcome

    async def connect(self, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Connect to 127.0.0.1 and this port in the process's own network; give a socket that does not block.

        Raises ConnectionRefusedError while nothing listens, another OSError when the process is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._order("connect", self.number, theirs.fileno(), port=port, kind=kind)
            message, descriptors = await _answer(ours)
        if not descriptors:
            number = int(message or 0) or errno.ESRCH
            raise OSError(number, os.strerror(number))
        connection = socket.socket(fileno=descriptors[0])
        connection.setblocking(False)
        return connection

    async def load(self) -> Load:
        """Tell what it uses now; nothing where it has no cgroup."""
        return self._group.load() if self._group else Load()

    def when_over(self, callback: Callable[[], object]) -> None:
        """Call back when nothing of it is left."""
        self._over.add_done_callback(lambda _: callback())

    def terminate(self) -> None:
        """Ask every process of it to end (SIGTERM)."""
        self._order("terminate", self.number)

    def kill(self) -> None:
        """End every process of it at once (SIGKILL)."""
        self._order("kill", self.number)

    def on_event(self, fact: dict[str, Any]) -> None:
        """Take note of what the spawner says."""
        if fact["event"] == "failed":
            self._why = fact
            return
        if fact["event"] == "ready":  # an interpreter; of others it is said before they are expected to run
            self.warm.set()
            return
        self.inner = fact.get("inner")
        if not self.begun.done():
            self.begun.set_result(fact["event"] == "started")
        if fact["event"] == "ended" and self._task is None:
            self.over = True
            self._task = asyncio.get_running_loop().create_task(self._end(fact))

    async def _end(self, fact: dict[str, Any]) -> None:
        for pipe in self.pipes:
            if not pipe.closed.done():
                await asyncio.wait({pipe.closed}, timeout=DRAIN)
                pipe.close()
        usage = await self._conclude()
        self._over.set_result(_exit(fact, usage) if fact["ran"] and not self._why else self._failure())

    def _on_stderr(self, stream: Stream, data: bytes) -> None:
        """Remember how stderr begins: there bubblewrap says why it gave up."""
        if len(self._said) < 500:
            self._said += data[:500]
        self._output(stream, data)

    def _failure(self) -> MoorageError:
        if self._why.get("errno") == errno.E2BIG:
            return ArgumentsTooLong()
        said = self._said.decode(errors="replace").strip() or "it gave no reason"
        why = f"cannot {self._why['step']}: {self._why['why']}" if self._why else said
        return SandboxUnavailable(f"The process could not be started: {why}")


class Spawner:
    """Starts processes through a small helper process, which is itself started when it is needed."""

    def __init__(self, cgroups: Cgroups) -> None:
        self.cgroups = cgroups
        self._socket: socket.socket | None = None
        self._helper: subprocess.Popen[bytes] | None = None
        self._running: dict[int, Running] = {}
        self._spares: dict[int | None, Place] = {}
        self._dropping: set[asyncio.Task[None]] = set()
        self._count = 0

    async def spawn(
        self,
        launch: Launch | Fork,
        spec: ProcessSpec,
        *,
        name: str,
        output: OutputSink,
        after: Callable[[], object] | None = None,
        code: bytes | None = None,
    ) -> Running:
        """Start a process in a cgroup called `name`; `after` is called in a thread when nothing of it is left.

        With `code` it becomes a warm interpreter. Raises SandboxUnavailable, or ArgumentsTooLong, if it cannot be
        started.
        """
        interpreter = launch.interpreter if isinstance(launch, Fork) else None
        stdin = await memory_file(spec.stdin)
        try:
            running = self._expect(await self._place(name, spec.limits, interpreter), output, after)
            mounts = launch.mounts if isinstance(launch, Fork) else ()
            more = [spec.listener.fileno()] if spec.listener else []
            self._send(running, launch.encode(), stdin, *more, mounts=mounts, code=code)
        finally:
            os.close(stdin)
        try:
            begun = await asyncio.shield(running.begun)
        except asyncio.CancelledError:
            running.kill()
            raise
        if not begun:
            await running.wait()
        if code is None:
            self._make_spare(interpreter)
        return running

    async def stop(self) -> None:
        """Kill everything that runs and end the helper."""
        running = list(self._running.values())
        for process in running:
            process.kill()
        await asyncio.gather(*(process.wait() for process in running), return_exceptions=True)
        self._hang_up()
        if self._helper:
            await asyncio.to_thread(_await_end, self._helper)
            self._helper = None
        for spare in list(self._spares):
            await self._drop_spare(spare)
        await asyncio.gather(*self._dropping)

    async def _place(self, name: str, limits: Limits, interpreter: int | None) -> Place:
        """Take the spare process, or have one made; its cgroup is called `name` and limited."""
        if spare := self._take_spare(name, interpreter):
            try:
                return _limited(spare, limits)
            except OSError:  # it takes up more than it may already
                await self._give_back(spare)
        place = None
        try:
            place = self._prepare(name, interpreter, spare=False)
            return _limited(place, limits)
        except OSError as error:
            if place is not None:
                await self._give_back(place)
            raise SandboxUnavailable(f"No process could be prepared: {error}", retryable=True) from error

    async def _give_back(self, place: Place) -> None:
        """End a process that waits for a start that will not come, and remove its cgroup."""
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.send(json.dumps({"order": "kill", "number": place.number}).encode())
        if place.group:
            await self.cgroups.remove(place.group)

    def _take_spare(self, name: str, interpreter: int | None) -> Place | None:
        spare = self._spares.get(interpreter)
        if spare is None or not spare.ready:
            return None
        del self._spares[interpreter]
        if spare.group:
            spare.group = self.cgroups.claim(spare.group, name)
        return spare

    def _make_spare(self, interpreter: int | None) -> None:
        """Have a process wait for the next start, for which it will be ready at once."""
        gone = interpreter is not None and interpreter not in self._running
        if interpreter not in self._spares and self._socket is not None and not gone:
            with contextlib.suppress(OSError):  # the next start will say what is wrong
                self._spares[interpreter] = self._prepare(f"spare-{self._count + 1}", interpreter, spare=True)

    def _prepare(self, name: str, interpreter: int | None, *, spare: bool) -> Place:
        self._count += 1
        group = self.cgroups.create(name) if self.cgroups.parents else None
        cgroups = group.procs if group else ()
        order = {"order": "prepare", "number": self._count, "cgroups": cgroups, "spare": spare}
        self._connect().send(json.dumps({**order, "interpreter": interpreter}).encode())
        return Place(number=self._count, group=group)

    def _expect(self, place: Place, output: OutputSink, after: Callable[[], object] | None) -> Running:
        conclude = partial(self._conclude, place, after)
        running = self._running[place.number] = Running(place.number, self._order, output, conclude, place.group)
        return running

    def _send(
        self,
        running: Running,
        request: bytes,
        stdin: int,
        *more: int,
        mounts: tuple[dict[str, Any], ...],
        code: bytes | None,
    ) -> None:
        """Hand the request, the streams and what there is `more` to the helper; if that fails, so does the process."""
        ours = [sealed(request), *(pipe.theirs for pipe in running.pipes)]
        if code is not None:
            ours.append(sealed(code))
        descriptors = [ours[0], stdin, *ours[1:], *more]
        order = {"order": "start", "number": running.number, "mounts": mounts, "code": code is not None}
        try:
            message = json.dumps({**order, "descriptors": len(descriptors)}).encode()
            socket.send_fds(self._connect(), [message], descriptors)
        except OSError as error:
            running.on_event({"event": "failed", "step": "reach the spawner", "why": str(error), "errno": error.errno})
            running.on_event(LOST)
        finally:
            for descriptor in ours:
                os.close(descriptor)

    def _order(self, order: str, number: int, *descriptors: int, **facts: int) -> None:
        if self._socket and number in self._running:
            message = json.dumps({"order": order, "number": number, **facts}).encode()
            with contextlib.suppress(OSError):  # the helper is gone: `_on_readable` ends what it had
                socket.send_fds(self._socket, [message], descriptors)

    async def _conclude(self, place: Place, after: Callable[[], object] | None) -> Usage:
        usage = Usage()
        if place.group:
            usage = place.group.usage()
            await self.cgroups.remove(place.group)
        if after:
            await asyncio.to_thread(after)
        del self._running[place.number]
        return usage

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._helper = _start_helper(theirs.fileno())
            asyncio.get_running_loop().add_reader(self._socket, self._on_readable)
        return self._socket

    def _hang_up(self) -> None:
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _on_readable(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while message := receive(self._socket, NOW)[0]:
                self._on_event(json.loads(message))
            self._lose()

    def _on_event(self, fact: dict[str, Any]) -> None:
        if running := self._running.get(fact["number"]):
            running.on_event(fact)
            return
        for interpreter, spare in list(self._spares.items()):
            if spare.number == fact["number"]:
                spare.ready = fact["event"] == "ready"
                if fact["event"] == "ended":
                    self._drop_soon(interpreter)

    def _lose(self) -> None:
        """Give up what the helper had when it ended: the kernel has killed that too, or we do now."""
        self._hang_up()
        if self._helper:
            self._helper.wait()
        for interpreter in list(self._spares):
            self._drop_soon(interpreter)
        for running in list(self._running.values()):
            _kill_world(running.inner)
            running.on_event({"event": "failed", "step": "go on", "why": "the spawner has ended", "errno": 0})
            running.on_event(LOST)

    def _drop_soon(self, interpreter: int | None) -> None:
        task = asyncio.get_running_loop().create_task(self._drop_spare(interpreter))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop_spare(self, interpreter: int | None) -> None:
        """Give up a spare process, which has ended or is about to."""
        spare = self._spares.pop(interpreter, None)
        if spare and spare.group:
            await self.cgroups.remove(spare.group)


def _limited(place: Place, limits: Limits) -> Place:
    if place.group:
        place.group.limit(limits)
    return place


async def _answer(line: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for a message with descriptors, or for the other end to be closed."""
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    loop.add_reader(line, come.set)
    try:
        await come.wait()
    finally:
        loop.remove_reader(line)
    return receive(line, NOW)


def _start_helper(descriptor: int) -> subprocess.Popen[bytes]:
    user = str(SANDBOX_UID) if os.geteuid() == 0 else ""
    package = str(Path(moorage.__path__[0]).parent)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HELPER, package, str(descriptor), user],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,  # so that Ctrl-C in a terminal reaches the node only
    )


def _kill_world(inner: int | None) -> None:
    """Kill process 1 of a process namespace, in case bubblewrap died before it was bound to die with it."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{inner}/status").read_text()
        if inner is not None and re.search(r"^NSpid:.*\s1$", status, re.MULTILINE):
            os.kill(inner, signal.SIGKILL)


def _await_end(helper: subprocess.Popen[bytes]) -> None:
    try:
        helper.wait(STOP)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()


def _exit(fact: dict[str, Any], usage: Usage) -> Exit:
    return Exit(
        status=fact["status"],
        wall=fact["wall"],
        cpu=fact["cpu"],
        peak_memory=fact["peak"] if usage.peak_memory is None else usage.peak_memory,
        out_of_memory=usage.oom_kills > 0,
    )
