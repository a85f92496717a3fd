"""What starts programs without a request: messages they subscribed to, and times (contract, sections 2.9 and 2.10)."""

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from cronsim import CronSim

from moorage.errors import MoorageError
from moorage.model.jobs import JSON
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.messages.matching import matches
from moorage.networks.aleph.messages.program import Program, cron_path
from moorage.networks.aleph.programs.jobs import Apps, run_id
from moorage.networks.aleph.programs.registry import Registry

log = structlog.get_logger(__name__)

AGAIN = 1.0
"""Seconds until what could not be accepted as a job is tried again."""
LOOK = 60.0
"""Seconds after which the clock is looked at in any case, and times missed by more are let go: it may have been set
meanwhile, or the machine have slept."""
OVERLAP = "A run of its schedule is left out: the last one is not over."
MARGIN = 120.0
"""Seconds that a run may take beyond those of the program: its start is not counted."""


class Reactor:
    """Delivers messages to the programs that subscribed to them, each once and in the order of their arrival."""

    def __init__(self, ledger: Ledger, registry: Registry, apps: Apps) -> None:
        self._ledger, self._registry, self._apps = ledger, registry, apps
        self._news, self._nothing_due = asyncio.Event(), asyncio.Event()
        self._subscribers: dict[str, Program] | None = None

    def subscribers(self, message: Mapping[str, JSON]) -> list[str]:
        """Name the programs that a message is for; asked while it is written down."""
        if self._subscribers is None:
            self._subscribers = {key: program for key, program in self._registry.current() if program.on.message}
        return [key for key, program in self._subscribers.items() if matches(program.on.message, dict(message))]

    def changed(self, *, programs: bool) -> None:
        """Take note that there are other messages or, among them, other programs."""
        if programs:
            self._subscribers = None
        self._nothing_due.clear()
        self._news.set()

    async def settled(self) -> None:
        """Wait until all that is due is submitted as jobs; for ever, unless somebody works on that."""
        await self._nothing_due.wait()

    async def work(self) -> None:
        """Deliver, beginning with what an earlier node left."""
        while True:
            self._news.clear()
            waiting = await self._deliver()
            if waiting:
                log.warning("events wait", reasons=waiting)
                await asyncio.sleep(AGAIN)
            else:
                if not self._news.is_set():
                    self._nothing_due.set()
                await self._news.wait()

    async def _deliver(self) -> dict[str, str]:
        """Hand over what is due; give the programs that cannot have theirs now, each with the reason."""
        waiting: dict[str, str] = {}
        for message, program in self._ledger.deliveries():
            if program not in waiting:  # else it gets this one after those before
                try:
                    await self._hand_over(message, program)
                except MoorageError as error:
                    waiting[program] = error.message
        return waiting

    async def _hand_over(self, message: str, program: str) -> None:
        loaded = self._ledger.program(program)
        if loaded is not None:  # else it was forgotten meanwhile
            parameters = {"trigger": "message", "program": program, "message": message}
            timeout = loaded.program.resources.seconds + MARGIN
            await self._apps.submit(program, run_id(message, program), parameters, timeout=timeout)
        await self._ledger.delivered(message, program)


class Clock:
    """Calls programs at the times of their `on.cron`: never for the past, nor while the last run is not over."""

    def __init__(self, registry: Registry, apps: Apps) -> None:
        self._registry, self._apps = registry, apps
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Take note that there are other programs."""
        self._changed.set()

    async def work(self) -> None:
        """Wait for the next time of any program, and call it."""
        seen = time.time()
        while True:
            self._changed.clear()
            programs = [(key, program) for key, program in self._registry.current() if program.on.cron]
            plan = [(_next(program, seen), key, program) for key, program in programs]
            first = min((slot for slot, _, _ in plan), default=math.inf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, max(0.0, first - time.time()))):
                    await self._changed.wait()
            now = time.time()
            for slot, key, program in plan:
                if now - LOOK < slot <= now:
                    await self._call(key, program, int(slot))
            seen = now

    async def _call(self, key: str, program: Program, slot: int) -> None:
        parameters = {"trigger": "cron", "program": key, "slot": slot, "path": cron_path(program)}
        try:
            if await self._apps.busy(key, "cron"):
                self._registry.log_of(self._registry.original(key)).say(OVERLAP)
            else:
                run = run_id("cron", key, str(slot))
                await self._apps.submit(key, run, parameters, timeout=program.resources.seconds + MARGIN)
        except MoorageError as error:
            log.warning("a run of a schedule is lost", program=key, slot=slot, reason=error.message)


def _next(program: Program, after: float) -> float:
    assert program.on.cron is not None
    return next(CronSim(program.on.cron, datetime.fromtimestamp(after, UTC))).timestamp()
