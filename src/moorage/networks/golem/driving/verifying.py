"""Asking the app for verdicts, one at a time (contract, section 2.3)."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from moorage.networks.golem.driving.course import Course
from moorage.networks.golem.driving.discarding import discard
from moorage.networks.golem.files.publishing import changed, snapshot
from moorage.networks.golem.host import RequestorLost
from moorage.networks.golem.protocol.client import CallFailed, Verdict
from moorage.networks.golem.records.model import Subtask
from moorage.networks.golem.states import SubtaskStatus

SUCCESS, FAILURE, AWAITING, INCONCLUSIVE = range(4)
FIRST, LONGEST = 1.0, 30.0
"""Seconds until a verdict that waits for others is asked again, doubled each time, and at most."""


@dataclass(slots=True, kw_only=True)
class Parked:
    """A subtask whose verdict waits for those of others."""

    pause: float = FIRST
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, kw_only=True)
class Verifier:
    """The queue of one task; whoever waits for a first verdict is told of it, whatever it is."""

    course: Course
    parked: dict[str, Parked] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    """Those whose verdict was asked for when the requestor, or the node, went away."""
    _queue: deque[str] = field(init=False, default_factory=deque)
    _more: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _waiting: dict[str, "asyncio.Future[None]"] = field(init=False, default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether no verdict is asked for, nor about to be."""
        return not self._queue and not self._waiting

    async def first_verdict(self, subtask_id: str) -> None:
        """Ask for the verdict of a subtask; come back with it, or once it waits for others."""
        waiting = self._waiting[subtask_id] = asyncio.get_running_loop().create_future()
        self.ask(subtask_id)
        await waiting

    def ask(self, subtask_id: str) -> None:
        """Ask for a verdict when it is its turn."""
        if subtask_id not in self._queue:
            self._queue.append(subtask_id)
            self._more.set()

    def ask_parked(self) -> None:
        """Ask for all verdicts that wait for others."""
        for subtask_id in self.parked:
            self.ask(subtask_id)

    async def work(self) -> None:
        """Ask one after the other, until the task ends."""
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
            subtask_id = self._queue[0]
            try:
                await self._verify(subtask_id)
            finally:
                self._queue.popleft()
            waiting = self._waiting.pop(subtask_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def _verify(self, subtask_id: str) -> None:
        course = self.course
        subtask = course.active.get(subtask_id)
        if subtask is None:
            self._unpark(subtask_id)
            return
        outputs = course.tree.task_outputs(course.app_task)
        before = await asyncio.to_thread(snapshot, outputs)
        try:
            verdict = await self._asked(subtask)
        except CallFailed as error:
            await self._error(subtask, f"Verify: {error.text or error.status.name}")
            return
        if verdict is None:
            await self._unknown(subtask)
            return
        after = await asyncio.to_thread(snapshot, outputs)
        await self._judge(subtask, verdict, changed(before, after))

    async def _asked(self, subtask: Subtask) -> Verdict | None:
        """Ask for a verdict, and once more if the requestor went away; None if the outcome is still unknown."""
        course = self.course
        for _ in range(1 if subtask.id in self.asked else 2):
            await course.records.asked_verdict(subtask.id)
            try:
                return await course.host.call(
                    lambda app, timeout: app.verify(course.app_task, subtask.id, timeout=timeout),
                    within=course.settings.verify_timeout,
                    long=True,
                )
            except RequestorLost:
                continue
        return None

    async def _judge(self, subtask: Subtask, verdict: Verdict, paths: tuple[str, ...]) -> None:
        course = self.course
        if verdict.result == AWAITING:
            await course.records.park(subtask.id)
            self._park(subtask)
            return
        self._unpark(subtask.id)
        if verdict.result == SUCCESS:
            if not verdict.reason and not paths:
                course.ctx.emit("golem.empty_verify_reply", "Verify replied nothing, which means success.")
            await course.succeeded(subtask, reason=verdict.reason, paths=paths)
        elif verdict.result == FAILURE:
            code = "verify_failure"
            await course.judged(
                subtask, SubtaskStatus.FAILURE, verdict=verdict.result, reason=verdict.reason, code=code
            )
        else:
            reason = verdict.reason
            if verdict.result != INCONCLUSIVE:
                reason = f"unknown verify result {verdict.result}"
            await course.judged(
                subtask, SubtaskStatus.FAILURE, verdict=verdict.result, reason=reason, code="verify_inconclusive"
            )
        self.ask_parked()

    async def _error(self, subtask: Subtask, reason: str) -> None:
        self._unpark(subtask.id)
        if subtask.id in self.asked:  # it may have been verified already, which is all that is known
            await discard(self.course, [subtask.id])
        await self.course.freed(subtask, SubtaskStatus.FAILURE, "verify_error", reason, kind="failure")
        self.ask_parked()

    async def _unknown(self, subtask: Subtask) -> None:
        self.asked.add(subtask.id)
        await self._error(subtask, "The requestor went away twice while it verified.")

    def _park(self, subtask: Subtask) -> None:
        """Ask again when another one has got its verdict, and after a while."""
        parked = self.parked.get(subtask.id)
        if parked is None:
            parked = self.parked[subtask.id] = Parked()
        else:
            parked.pause = min(LONGEST, parked.pause * 2)
        if parked.timer is not None:
            parked.timer.cancel()
        parked.timer = asyncio.get_running_loop().call_later(parked.pause, self.ask, subtask.id)

    def _unpark(self, subtask_id: str) -> None:
        parked = self.parked.pop(subtask_id, None)
        if parked is not None and parked.timer is not None:
            parked.timer.cancel()
