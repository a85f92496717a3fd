"""What the parts of driving one task share."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from moorage.errors import NodeStopping
from moorage.model.events import PROGRESS
from moorage.networks.base import Context
from moorage.networks.golem.budgets import Budget, Kind
from moorage.networks.golem.config import Settings
from moorage.networks.golem.files.trees import TaskTree
from moorage.networks.golem.host import Host
from moorage.networks.golem.records.model import Counts, Subtask, Task
from moorage.networks.golem.records.records import Records
from moorage.networks.golem.slots import Slots
from moorage.networks.golem.states import SubtaskStatus, TaskStatus

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ends."""

    status: TaskStatus
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Course:
    """One task under way; `task` and `active` are as they are in the records."""

    ctx: Context
    task: Task
    records: Records
    tree: TaskTree
    host: Host
    slots: Slots
    settings: Settings
    budget: Budget
    node: str
    """What the ids are made of that apps are given for slots."""
    active: dict[str, Subtask] = field(default_factory=dict)
    """Subtasks that were assigned and have not come to their end."""
    finished: int = 0
    """Subtasks with the verdict SUCCESS that were not discarded since."""
    ended: "asyncio.Future[Outcome]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the app may have something new to hand out."""
    _tasks: set["asyncio.Task[None]"] = field(init=False, default_factory=set)

    @property
    def app_task(self) -> str:
        """The id by which the app knows the task."""
        return self.task.task_id

    async def happening(self, within: float) -> None:
        """Wait for something that may have given the app more to hand out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.changed.wait()

    def end(self, status: TaskStatus, reason: str = "") -> None:
        """Say how the task ends; the first word counts."""
        if not self.ended.done():
            self.ended.set_result(Outcome(status=status, reason=reason))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; what it raises ends the course."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    async def close(self) -> None:
        """Give up all that is done beside."""
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def freed(self, subtask: Subtask, status: SubtaskStatus, code: str, reason: str, *, kind: Kind) -> None:
        """Write that an attempt came to nothing, and free its part in the app, which hands it out again then."""
        if not self._leave(subtask):
            return
        exceeded = self.budget.fail(kind)
        await self.records.conclude(subtask.id, status, code=code, reason=reason, owed=True, **self._counts())
        self.ctx.emit("golem.subtask", f"Subtask {subtask.number}: {status.shown}. {reason}", subtask=subtask.id)
        await self.abort_subtask(subtask.id)
        self.note(exceeded, reason)

    async def judged(self, subtask: Subtask, status: SubtaskStatus, *, verdict: int, reason: str, code: str) -> None:
        """Write a verdict that is no success; the app itself hands the part out again."""
        if not self._leave(subtask):
            return
        exceeded = self.budget.fail("failure")
        await self.records.conclude(subtask.id, status, code=code, reason=reason, verdict=verdict, **self._counts())
        self.ctx.emit("golem.subtask", f"Subtask {subtask.number}: {code}. {reason}", subtask=subtask.id)
        self.note(exceeded, reason or code)

    async def succeeded(self, subtask: Subtask, *, reason: str, paths: tuple[str, ...]) -> None:
        """Write the verdict SUCCESS, and which files of the result came with it."""
        if not self._leave(subtask):
            return
        self.budget.succeed()
        self.finished += 1
        await self.records.conclude(
            subtask.id, SubtaskStatus.FINISHED, verdict=0, reason=reason, paths=paths, **self._counts()
        )
        of = self.task.file["golem"]["max_subtasks"]
        self.ctx.emit(PROGRESS, f"{self.finished} of {of} subtasks", done=self.finished, of=of)
        self.changed.set()

    async def abort_subtask(self, subtask_id: str) -> None:
        """Tell the app that an attempt is over, as well as can be; what it has not heard is told to its successor."""
        told = await self.host.attempt(
            lambda app, timeout: app.abort_subtask(self.app_task, subtask_id, timeout=timeout),
            within=self.settings.abort_timeout,
        )
        if told:
            await self.records.abort_told(subtask_id)

    def note(self, exceeded: str | None, reason: str) -> None:
        """End the task if a budget is exceeded, and let others look again."""
        if exceeded is not None:
            self.end(TaskStatus.ABORTED, f"{exceeded}: {reason}")
        self.changed.set()

    def _leave(self, subtask: Subtask) -> bool:
        """Take a subtask out of those under way; False if it was no more: what comes late changes nothing."""
        return self.active.pop(subtask.id, None) is not None

    def _counts(self) -> Counts:
        budget = self.budget
        return {
            "failures": budget.failures,
            "failures_in_row": budget.failures_in_row,
            "losses_in_row": budget.losses_in_row,
        }

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None or self.ended.done():
            return
        if isinstance(error, NodeStopping):
            return  # all this is about to be cancelled, and the next node takes it up
        self.ended.set_exception(error)
