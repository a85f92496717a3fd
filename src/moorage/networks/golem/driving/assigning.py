"""Asking the app for subtasks, one for each free slot, until none is left (contract, section 2.2, steps 7 and 13)."""

import asyncio
import time
from collections.abc import Sequence

from moorage.model.ids import new_id
from moorage.networks.golem.driving.course import Course
from moorage.networks.golem.driving.following import follow
from moorage.networks.golem.driving.stalling import Stall
from moorage.networks.golem.driving.verifying import Verifier
from moorage.networks.golem.host import RequestorLost
from moorage.networks.golem.identities import new_subtask_id, opaque_node_id
from moorage.networks.golem.protocol.client import CallFailed, Work
from moorage.networks.golem.records.model import Subtask
from moorage.networks.golem.slots import Slot
from moorage.networks.golem.states import TaskStatus

POLL = 1.0
"""Seconds after which an app that has nothing is asked again though nothing has happened (section 5, trap 16)."""
FIRST, LONGEST = 0.1, 5.0
"""Seconds until an app is asked again that refused a slot, doubled for each further time, and at most."""
ERRORS_IN_ROW = 5


class Assigner:
    """Hands subtasks to slots."""

    def __init__(self, course: Course, verifier: Verifier) -> None:
        self._course, self._verifier = course, verifier
        self._stall = Stall(course, verifier)
        self._refused, self._errors = 0.0, 0

    async def work(self) -> None:
        """Hand out until the task ends."""
        course = self._course
        for slot in course.slots.slots:
            course.slots.warm_up(slot)
        while True:
            slots = await course.slots.take(course.task.file["golem"]["redundancy"])
            try:
                subtask = await self._subtask(slots)
            except BaseException:
                for slot in slots:
                    course.slots.release(slot)
                raise
            course.spawn(follow(course, self._verifier, subtask, slots))

    async def _subtask(self, slots: Sequence[Slot]) -> Subtask:
        """Ask until there is a subtask for the slots."""
        while True:
            await asyncio.sleep(self._course.budget.wait)
            try:
                if not await self._pending():
                    await self._nothing()
                elif (subtask := await self._next(slots)) is not None:
                    return subtask
            except RequestorLost:
                continue  # there is another one: ask that

    async def _pending(self) -> bool:
        course = self._course
        course.changed.clear()
        try:
            pending = await course.host.call(
                lambda app, timeout: app.has_pending_subtasks(course.app_task, timeout=timeout),
                within=course.settings.pending_timeout,
            )
        except CallFailed as error:
            await self._failed(f"HasPendingSubtasks: {error.text}")
            return False
        course.slots.wanted = pending
        if pending:
            self._stall.over()
        return pending

    async def _nothing(self) -> None:
        """Find out whether the task is done, or stalled, and wait for something to happen."""
        course = self._course
        if course.finished and not course.active:
            course.end(TaskStatus.FINISHED)
        elif self._stall.is_one:
            await self._stall.mend()
        await course.happening(POLL)

    async def _next(self, slots: Sequence[Slot]) -> Subtask | None:
        course, subtask_id = self._course, new_subtask_id()
        node_id = opaque_node_id(course.node, slots[0].number)
        await course.records.ask(course.task.id, subtask_id, slot=slots[0].number, node_id=node_id)
        try:
            work = await course.host.call(
                lambda app, timeout: app.next_subtask(
                    course.app_task,
                    subtask_id,
                    node_id=node_id,
                    timeout=timeout,
                ),
                within=course.settings.assign_timeout,
            )
        except CallFailed as error:
            await course.abort_subtask(subtask_id)
            await course.records.refuse(subtask_id)
            await self._failed(f"NextSubtask: {error.text}")
            return None
        except RequestorLost:
            await course.abort_subtask(subtask_id)
            await course.records.refuse(subtask_id)
            raise
        if work is None:
            await course.records.refuse(subtask_id)
            await self._back_off()
            return None
        self._refused, self._errors = 0.0, 0
        return await self._assigned(subtask_id, work, slots)

    async def _assigned(self, subtask_id: str, work: Work, slots: Sequence[Slot]) -> Subtask:
        course, golem = self._course, self._course.task.file["golem"]
        deadline = min(time.time() + golem["subtask_timeout"], course.task.deadline or 0.0)
        subtask = await course.records.assign(
            subtask_id,
            parameters=work.parameters,
            resources=work.resources,
            deadline=deadline,
            slots=tuple(slot.number for slot in slots),
            jobs=tuple(new_id("job") for _ in slots),
        )
        course.active[subtask_id] = subtask
        return subtask

    async def _failed(self, reason: str) -> None:
        """Count an error that has no part of its own."""
        self._errors += 1
        if self._errors >= ERRORS_IN_ROW:
            self._course.end(TaskStatus.ABORTED, f"{self._errors} errors in a row. {reason}")
        await self._back_off()

    async def _back_off(self) -> None:
        self._refused = min(LONGEST, self._refused * 2 or FIRST)
        await asyncio.sleep(self._refused)
