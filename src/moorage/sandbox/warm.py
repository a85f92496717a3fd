"""Warm interpreters: a Python that is asked for repeatedly is kept waiting, and forked, instead of started anew.

The second process that asks for the same environment within `IDLE` seconds has one started beside it; those that come
when it waits are forked from it. One that nobody asks for any more is ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from moorage.errors import MoorageError
from moorage.model.limits import Limits
from moorage.sandbox.base import PRIVATE, Mount, Overlay, ProcessSpec, ReadOnly
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
    runtime: tuple[ReadOnly, ...]
    places: tuple[str, ...]
    """Directories that must be there for mounts."""

    @property
    def spec(self) -> ProcessSpec:
        """What to start for it."""
        return ProcessSpec(argv=self.argv, cwd=self.cwd, env=dict(self.env), runtime=self.runtime, limits=LIMITS)


def kind_of(spec: ProcessSpec) -> Kind | None:
    """Tell of which kind a process is; None if it can only be started by itself."""
    places = _places(spec.mounts)
    words = [len(word.encode(errors="surrogateescape")) for word in spec.argv]
    odd = max(words) > LONGEST_WORD or sum(words) > LONGEST_WORDS or "\0" in "".join(spec.argv)
    if not spec.runtime or len(spec.argv) < 2 or spec.network != "none" or odd or places is None:
        return None
    return Kind(argv=spec.argv[:2], cwd=spec.cwd, env=tuple(spec.env.items()), runtime=spec.runtime, places=places)


def _places(mounts: tuple[Mount, ...]) -> tuple[str, ...] | None:
    """Give the directories to make for mounts; those within an overlay are there. None for what is no directory."""
    overlays = tuple(mount.target for mount in mounts if isinstance(mount, Overlay))
    within = tuple(f"{target}/" for target in overlays)
    others = [mount for mount in mounts if not isinstance(mount, Overlay) and not mount.target.startswith(within)]
    places = (*overlays, *(mount.target for mount in others))
    hidden = any(place.startswith(PRIVATE) for place in places)
    return None if hidden or any(not mount.source.is_dir() for mount in others) else places


@dataclass(slots=True, kw_only=True)
class _Interpreter:
    asked_at: float
    running: Running | None = None
    starting: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return self.running is not None and self.running.warm.is_set() and not self.running.over

    @property
    def lost(self) -> bool:
        """Whether it has waited once and does not any more."""
        return self.running is not None and self.running.warm.is_set() and self.running.over


class Interpreters:
    """Up to `most` warm interpreters, which `start` starts."""

    def __init__(self, start: Callable[[Kind], Awaitable[Running]], most: int) -> None:
        self._start, self._most = start, most
        self._kinds: dict[Kind, _Interpreter] = {}

    def find(self, spec: ProcessSpec) -> Running | None:
        """Give the interpreter to fork this process from, if one waits."""
        kind = kind_of(spec) if self._most else None
        if kind is None:
            return None
        known, now = self._kinds.get(kind), time.monotonic()
        if known is None:
            known = self._kinds[kind] = _Interpreter(asked_at=now)
            self._expire(kind, known)
            return None
        known.asked_at = now
        if known.usable:
            return known.running
        if known.lost:
            known.running = known.starting = None
        if known.starting is None and self._room():
            known.starting = asyncio.get_running_loop().create_task(self._warm_up(kind, known))
        return None

    def give_up(self, spec: ProcessSpec) -> None:
        """End an interpreter from which a process that can be started could not be forked."""
        kind = kind_of(spec)
        known = self._kinds.get(kind) if kind else None
        if known is not None and known.usable and known.running is not None:
            known.running.kill()
            known.running = None

    async def close(self) -> None:
        """End them all."""
        known, self._kinds = list(self._kinds.values()), {}
        for each in known:
            if each.timer:
                each.timer.cancel()
            if each.starting:
                each.starting.cancel()
            if each.running:
                each.running.kill()
        await asyncio.gather(*(each.starting for each in known if each.starting), return_exceptions=True)

    def _room(self) -> bool:
        return sum(each.starting is not None for each in self._kinds.values()) < self._most

    async def _warm_up(self, kind: Kind, known: _Interpreter) -> None:
        """Start one; where that does not work it is not tried again until nobody has asked for it for a while."""
        try:
            known.running = await self._start(kind)
            await asyncio.wait_for(known.running.warm.wait(), READY_WITHIN)
        except (MoorageError, TimeoutError) as error:
            log.warning("no warm interpreter", python=kind.argv[0], reason=str(error) or "it did not get ready")
            if known.running:
                known.running.kill()

    def _expire(self, kind: Kind, known: _Interpreter) -> None:
        """End an interpreter, or forget that it was asked for, when nobody has asked for it for a while."""
        left = known.asked_at + IDLE - time.monotonic()
        if left > 0:
            known.timer = asyncio.get_running_loop().call_later(left, self._expire, kind, known)
            return
        if self._kinds.get(kind) is known:
            del self._kinds[kind]
        if known.running:
            known.running.kill()
