"""A task's job: from its file to its results, also after a restart (contract, sections 2.2 and 2.8)."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace

from moorage.errors import JobCancelled, JobTimedOut, MoorageError, NodeStopping, NotFound, TaskAborted
from moorage.model.jobs import ErrorInfo, FileRef, Result, Usage
from moorage.model.limits import Limits
from moorage.networks.base import Context, Port
from moorage.networks.golem.budgets import Allowed, Budget
from moorage.networks.golem.computing import Part, compute, unless_cancelled
from moorage.networks.golem.config import Settings
from moorage.networks.golem.driving.assigning import Assigner
from moorage.networks.golem.driving.course import Course, Outcome
from moorage.networks.golem.driving.creating import CreationFailed, create, provider_of, requestor_of
from moorage.networks.golem.driving.ending import conclude
from moorage.networks.golem.driving.resuming import resume
from moorage.networks.golem.driving.verifying import Verifier
from moorage.networks.golem.environments import Environment
from moorage.networks.golem.files.trees import TaskTree
from moorage.networks.golem.host import Host, RequestorGone
from moorage.networks.golem.identities import new_task_id
from moorage.networks.golem.instances import Instance, launch
from moorage.networks.golem.records.model import Task
from moorage.networks.golem.records.records import Records
from moorage.networks.golem.slots import Slots
from moorage.networks.golem.states import TaskStatus
from moorage.sandbox.base import ImageSpec, OutputSink, Process, ProcessSpec

_NOTHING: tuple[FileRef, ...] = ()
CANCELLED = "cancelled by its user"
SPARE = 2
"""Slots for each subtask that is computed at once: the others hold those that are verified, or start providers."""


@dataclass(slots=True, kw_only=True)
class Workshop:
    """What all tasks of a node share; `courses` are those under way, by the ids of their jobs."""

    port: Port
    settings: Settings
    records: Records
    node: str
    places: asyncio.Semaphore
    """Held by each task whose app runs."""
    courses: dict[str, Course] = field(default_factory=dict)
    _entered: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, course: Course) -> None:
        """Let the child jobs of a task find it."""
        self.courses[course.task.id] = course
        self._entered.set()
        self._entered = asyncio.Event()

    def leave(self, course: Course) -> None:
        """Take a task away that is not under way any more."""
        self.courses.pop(course.task.id, None)

    async def course(self, job_id: str) -> Course:
        """Give a task, once it is under way: after a restart its child jobs may be faster. Raises NotFound."""
        while job_id not in self.courses:
            if (await self.port.get_job(job_id)).state.terminal:
                raise NotFound(f"Task {job_id} has ended.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._entered.wait()
        return self.courses[job_id]

    def tree(self, job_id: str) -> TaskTree:
        """Name the directories of a task."""
        return TaskTree(self.port.directory / "tasks" / job_id)

    async def start(self, spec: ProcessSpec | ImageSpec, output: OutputSink) -> Process:
        """Start an app's process."""
        return await self.port.start(spec, output=output)


async def run(ctx: Context, shop: Workshop) -> Result:
    """Drive a task from where it is to its end."""
    begun = time.monotonic()
    task = shop.records.get(ctx.job.id) or await shop.records.create(_new(ctx))
    outcome, outputs = Outcome(status=task.status, reason=task.status_message or ""), _NOTHING
    if not task.status.completed:  # else an earlier node ended before it could say so
        outcome, outputs = await _placed(ctx, shop, task)
    return Result(
        error=_error(outcome, task),
        timed_out=outcome.status is TaskStatus.TIMEOUT,
        usage=Usage(wall=time.monotonic() - begun),
        outputs=outputs,
        value={"status": outcome.status.shown, "message": outcome.reason},
    )


def _error(outcome: Outcome, task: Task) -> ErrorInfo | None:
    match outcome.status:
        case TaskStatus.FINISHED:
            return None
        case TaskStatus.TIMEOUT:
            seconds = task.file["golem"]["task_timeout"]
            return JobTimedOut(f"The task did not come to its end within {seconds} s.").info
        case _ if outcome.reason == CANCELLED:
            return JobCancelled().info
    return TaskAborted(outcome.reason).info


async def _placed(ctx: Context, shop: Workshop, task: Task) -> tuple[Outcome, tuple[FileRef, ...]]:
    """Drive a task once there is a place for its app."""
    try:
        await unless_cancelled(ctx, shop.places.acquire())
    except JobCancelled:
        return await _refused(shop, task, TaskStatus.ABORTED, CANCELLED), ()
    try:
        ctx.started()
        return await _driven(ctx, shop, task)
    finally:
        shop.places.release()


async def _driven(ctx: Context, shop: Workshop, task: Task) -> tuple[Outcome, tuple[FileRef, ...]]:
    """Start the task's app, drive it, and see to its end; nothing of it runs afterwards."""
    tree = shop.tree(ctx.job.id)
    try:
        host = _host(ctx, shop, task, tree)
    except CreationFailed as error:
        return await _refused(shop, task, TaskStatus.ERROR_CREATING, str(error)), ()
    try:
        await asyncio.to_thread(tree.make)
        await host.open()
        task = await _created(ctx, shop, task, tree, host)
        return await _course(ctx, shop, task, tree, host)
    except NodeStopping:
        raise
    except JobCancelled:
        return await _refused(shop, task, TaskStatus.ABORTED, CANCELLED), ()
    except (CreationFailed, MoorageError) as error:
        return await _refused(shop, task, TaskStatus.ERROR_CREATING, str(error)), ()
    finally:
        await host.kill()


async def _created(ctx: Context, shop: Workshop, task: Task, tree: TaskTree, host: Host) -> Task:
    """Have the app create the task, unless it has. Raises CreationFailed, JobCancelled."""
    if task.status is not TaskStatus.CREATING:
        return task
    settings, memory = shop.settings, shop.port.memory
    return await unless_cancelled(
        ctx, create(ctx, task, records=shop.records, tree=tree, host=host, settings=settings, memory=memory)
    )


async def _refused(shop: Workshop, task: Task, status: TaskStatus, reason: str) -> Outcome:
    """End a task that is not under way; one that was created is aborted in any case."""
    task = shop.records.get(task.id) or task
    if task.status.completed:
        return Outcome(status=task.status, reason=task.status_message or "")
    if task.status is not TaskStatus.CREATING:
        status = TaskStatus.ABORTED
    await shop.records.end(task.id, status, reason)
    return Outcome(status=status, reason=reason)


async def _course(
    ctx: Context, shop: Workshop, task: Task, tree: TaskTree, host: Host
) -> tuple[Outcome, tuple[FileRef, ...]]:
    provider = provider_of(ctx, task.env_id or "", task.prerequisites or "", shop.settings)
    slots = _slots(shop, task, tree, provider)
    course = Course(
        ctx=ctx,
        task=task,
        records=shop.records,
        tree=tree,
        host=host,
        slots=slots,
        settings=shop.settings,
        budget=_budget(shop.settings, task),
        node=shop.node,
    )
    shop.enter(course)
    try:
        outcome = await _ended(course)
        return outcome, await conclude(course, outcome)
    finally:
        shop.leave(course)
        await course.close()
        await slots.close()


async def _ended(course: Course) -> Outcome:
    """Drive until the task ends."""
    verifier = Verifier(course=course)
    await resume(course, verifier)
    for work in (Assigner(course, verifier).work(), verifier.work(), _cancelled(course), _late(course)):
        course.spawn(work)
    try:
        return await asyncio.shield(course.ended)
    except RequestorGone as error:
        return Outcome(status=TaskStatus.ABORTED, reason=f"The requestor cannot be started any more. {error}")


async def _cancelled(course: Course) -> None:
    await course.ctx.cancelled.wait()
    course.end(TaskStatus.ABORTED, CANCELLED)


async def _late(course: Course) -> None:
    await asyncio.sleep(max(0.0, (course.task.deadline or 0.0) - time.time()))
    course.end(TaskStatus.TIMEOUT)


def _host(ctx: Context, shop: Workshop, task: Task, tree: TaskTree) -> Host:
    environment, settings = requestor_of(ctx, shop.settings), shop.settings
    limits = replace(ctx.job.spec.limits, cpus=1.0, memory=int(settings.requestor_memory))

    async def start() -> Instance:
        return await launch(
            shop.start,
            environment,
            "requestor",
            work=tree.work,
            limits=limits,
            within=settings.ready_timeout,
            sink=ctx.log,
        )

    async def restarted(reason: str) -> None:
        await shop.records.restarted(task.id)
        ctx.emit("golem.requestor", f"The requestor is started again. {reason}")

    return Host(start, restarts=settings.restarts - task.restarts, restarted=restarted, longest=settings.verify_timeout)


def _slots(shop: Workshop, task: Task, tree: TaskTree, provider: Environment) -> Slots:
    golem, settings = task.file["golem"], shop.settings
    at_once = max(1, min(golem["max_subtasks"], int(shop.port.cpus / settings.cpus)))
    limits = Limits(cpus=settings.cpus, memory=max(int(settings.memory), task.min_memory))

    async def start(number: int) -> Instance:
        await asyncio.to_thread(tree.prepare_slot, number)
        return await launch(
            shop.start, provider, "provider", work=tree.slot(number), limits=limits, within=settings.ready_timeout
        )

    count = max(min(SPARE * at_once, golem["max_subtasks"]), golem["redundancy"])
    return Slots(count=count, launch=start, warm_idle=settings.warm_idle)


def _budget(settings: Settings, task: Task) -> Budget:
    allowed = Allowed.for_task(
        task.file["golem"]["max_subtasks"],
        failures=settings.failures,
        failures_in_row=settings.failures_in_row,
        losses_in_row=settings.losses_in_row,
    )
    return Budget(
        allowed=allowed,
        failures=task.failures,
        failures_in_row=task.failures_in_row,
        losses_in_row=task.losses_in_row,
    )


def _new(ctx: Context) -> Task:
    parameters = ctx.job.spec.parameters
    return Task(
        id=ctx.job.id,
        task_id=new_task_id(),
        app_id=ctx.app.manifest["app_id"],
        app_digest=ctx.job.app_digest,
        name=parameters["golem"]["name"],
        owner=ctx.job.owner,
        file=parameters,
        status=TaskStatus.CREATING,
        created_at=time.time(),
    )


async def compute_subtask(ctx: Context, shop: Workshop) -> Result:
    """Compute a subtask, as a child job of its task."""
    parameters, parent = ctx.job.spec.parameters, ctx.job.parent_id
    if parent is None:
        raise NotFound("A subtask is computed for its task only.")
    course = await unless_cancelled(ctx, shop.course(parent))
    subtask = course.active.get(parameters["subtask"])
    if subtask is None or ctx.job.id not in subtask.jobs:
        raise JobCancelled("Its task does not need it any more.")
    golem = course.task.file["golem"]
    part = Part(
        task_id=course.app_task,
        subtask_id=subtask.id,
        parameters=subtask.parameters,
        resources=subtask.resources,
        deadline=course.task.deadline or 0.0,
        timeout=golem["subtask_timeout"],
        max_output=int(course.settings.max_output),
        digest=golem["redundancy"] > 1,
    )
    slot = course.slots.slots[parameters["slot"]]
    return await compute(ctx, part, slot, slots=course.slots, tree=course.tree)
