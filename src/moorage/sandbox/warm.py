"""Warm interpreters: a Python that is asked for repeatedly is kept waiting, and forked, instead of started anew.

The second process that asks for the same environment within `IDLE` seconds has one started beside it; those that come
when it waits are forked from it. One that nobody asks for any more is ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from moorage.errors import MoorageError
from moorage.model.limits import Limits
from moorage.sandbox.base import HOSTNAME, PRIVATE, Mount, Overlay, ProcessSpec, ReadOnly, Scratch
from moorage.sandbox.processes import Running

IDLE = 60.0
"""Seconds after which an interpreter that nobody asks for is ended."""
READY_WITHIN = 30.0
LONGEST_WORD, LONGEST_WORDS = 100_000, 1_000_000
"""Bytes of an argument, and of all of them, that any kernel takes. Longer ones are left for it to refuse."""
LIMITS = Limits(pids=4096)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What processes must have in common to be forked from the same interpreter: all that Python reads at its start."""

    argv: tuple[str, ...]
    cwd: str
    env: tuple[tuple[str, str], ...]
    interpreter: tuple[ReadOnly, ...]
    places: tuple[str, ...]
    """Directories that must be there for mounts."""

    @property
    def spec(self) -> ProcessSpec:
        """What to start for it."""
        return ProcessSpec(argv=self.argv, cwd=self.cwd, env=dict(self.env), mounts=self.interpreter, limits=LIMITS)


def kind_of(spec: ProcessSpec) -> Kind | None:
    """Tell of which kind a process is; None if it can only be started by itself."""
    if not spec.interpreter or len(spec.argv) < 2 or _special(spec):
        return None
    places = _places(own_mounts(spec))
    words = [len(word.encode(errors="surrogateescape")) for word in spec.argv]
    odd = max(words) > LONGEST_WORD or sum(words) > LONGEST_WORDS or "\0" in "".join(spec.argv)
    if odd or places is None:
        return None
    return Kind(
        argv=spec.argv[:2], cwd=spec.cwd, env=tuple(spec.env.items()), interpreter=spec.interpreter, places=places
    )


def _special(spec: ProcessSpec) -> bool:
    """Tell whether a process asks for what no interpreter makes for its forks."""
    hidden = (each.target == "/" or each.target.startswith(PRIVATE) for each in (*spec.mounts, *spec.interpreter))
    return (
        spec.network != "none"
        or spec.listener is not None
        or spec.root
        or spec.hostname != HOSTNAME
        or any(isinstance(mount, Scratch) for mount in spec.mounts)
        or any(hidden)
    )


def own_mounts(spec: ProcessSpec) -> tuple[Mount, ...]:
    """Give the mounts of a process that its interpreter does not have already."""
    return tuple(mount for mount in spec.mounts if mount not in spec.interpreter)


def _places(mounts: tuple[Mount, ...]) -> tuple[str, ...] | None:
    """Give the directories to make for mounts; those within an overlay are there. None for what is no directory."""
    overlays = tuple(mount.target for mount in mounts if isinstance(mount, Overlay))
    within = tuple(f"{target}/" for target in overlays)
    others = [mount for mount in mounts if not isinstance(mount, Overlay) and not mount.target.startswith(within)]
    if any(isinstance(mount, Scratch) or not mount.source.is_dir() for mount in others):
        return None
    return (*overlays, *(mount.target for mount in others))


@dataclass(slots=True, kw_only=True)
class _Interpreter:
    asked_at: float
    running: Running | None = None
    starting: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    forks: set[asyncio.Future[None]] = field(default_factory=set)
    """Done when a fork has ended."""

    @property
    def usable(self) -> bool:
        return self.running is not None and self.running.warm.is_set() and not self.running.over

    @property
    def lost(self) -> bool:
        """Whether it has waited once and does not any more."""
        return self.running is not None and self.running.warm.is_set() and self.running.over


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The promise that an interpreter outlives a fork of it that is about to be made."""

    interpreter: Running
    ended: asyncio.Future[None]
    known: _Interpreter

    def end(self) -> None:
        """Give it back: the fork has ended, or was never made."""
        if not self.ended.done():
            self.ended.set_result(None)
        self.known.forks.discard(self.ended)


class Interpreters:
    """Up to `most` warm interpreters, which `start` starts."""

    def __init__(self, start: Callable[[Kind], Awaitable[Running]], most: int) -> None:
        self._start, self._most = start, most
        self._kinds: dict[Kind, _Interpreter] = {}
        self._busy: set[asyncio.Task[None]] = set()

    def find(self, spec: ProcessSpec) -> Lease | None:
        """Give the interpreter to fork this process from, if one waits; it does not end before the lease does."""
        kind = kind_of(spec) if self._most else None
        if kind is None:
            return None
        known, now = self._kinds.get(kind), time.monotonic()
        if known is None:
            known = self._kinds[kind] = _Interpreter(asked_at=now)
            self._expire(kind, known)
            return None
        known.asked_at = now
        if known.running is not None and known.usable:
            lease = Lease(interpreter=known.running, ended=asyncio.get_running_loop().create_future(), known=known)
            known.forks.add(lease.ended)
            return lease
        if known.lost:
            known.running = known.starting = None
            known.forks = set()
        if known.starting is None and self._room():
            known.starting = asyncio.get_running_loop().create_task(self._warm_up(kind, known))
            self._busy.add(known.starting)
            known.starting.add_done_callback(self._busy.discard)
        return None

    def give_up(self, lease: Lease) -> None:
        """Use an interpreter no more from which a process that can be started could not be forked."""
        if lease.known.running is lease.interpreter and not lease.known.lost:
            self._retire(lease.known)

    async def close(self) -> None:
        """End them all."""
        known, self._kinds = list(self._kinds.values()), {}
        for each in known:
            if each.timer:
                each.timer.cancel()
            if each.running:
                each.running.kill()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def _room(self) -> bool:
        return sum(each.starting is not None for each in self._kinds.values()) < self._most

    async def _warm_up(self, kind: Kind, known: _Interpreter) -> None:
        """Start one; where that does not work it is not tried again until nobody has asked for it for a while."""
        try:
            known.running = await self._start(kind)
            await asyncio.wait_for(known.running.warm.wait(), READY_WITHIN)
        except (MoorageError, TimeoutError) as error:
            log.warning("no warm interpreter", python=kind.argv[0], reason=str(error) or "it did not get ready")
            self._retire(known)
        if self._kinds.get(kind) is not known:  # nobody asked for it meanwhile
            self._retire(known)

    def _expire(self, kind: Kind, known: _Interpreter) -> None:
        """End an interpreter, or forget that it was asked for, when nobody has asked for it for a while."""
        left = known.asked_at + IDLE - time.monotonic()
        if left > 0:
            known.timer = asyncio.get_running_loop().call_later(left, self._expire, kind, known)
            return
        if self._kinds.get(kind) is known:
            del self._kinds[kind]
        self._retire(known)

    def _retire(self, known: _Interpreter) -> None:
        """Offer an interpreter no more, and end it when its last fork has ended."""
        if known.running is not None:
            task = asyncio.get_running_loop().create_task(_end(known.running, known.forks))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        known.running, known.forks = None, set()


async def _end(interpreter: Running, forks: set[asyncio.Future[None]]) -> None:
    await asyncio.gather(*forks)
    interpreter.kill()
