"""One subtask computed by one provider: what the child jobs of a task do (contract, section 2.2, steps 8 to 11)."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from moorage.errors import (
    DiskLimit,
    JobCancelled,
    JobTimedOut,
    MoorageError,
    OutOfMemory,
    SubtaskFailed,
    SubtaskOutputRefused,
)
from moorage.model.jobs import Result, Usage
from moorage.networks.base import Context
from moorage.networks.golem.files.containment import BadOutput, collect, deliver
from moorage.networks.golem.files.trees import TaskTree
from moorage.networks.golem.instances import Instance
from moorage.networks.golem.protocol.client import CallFailed
from moorage.networks.golem.slots import Slot, Slots
from moorage.sandbox.disk import DiskWatch

T = TypeVar("T")

LEAST = 1.0
"""Seconds that every attempt has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a provider is given: a subtask, in the slot that it occupies."""

    task_id: str
    subtask_id: str
    parameters: str
    resources: tuple[str, ...]
    deadline: float
    """Unix seconds at which the task's time is over."""
    timeout: float
    """Seconds that the attempt may take, resources and start included."""
    max_output: int
    digest: bool
    """Whether the result's digest is wanted."""


async def compute(ctx: Context, part: Part, slot: Slot, *, slots: Slots, tree: TaskTree) -> Result:
    """Have a part computed; whatever comes of it is the child job's result.

    Its value says where the result's file is, below `tree.results`.
    """
    begun = time.monotonic()
    left = max(LEAST, min(part.timeout, part.deadline - time.time()))
    work = tree.slot(slot.number)
    try:
        async with asyncio.timeout(left):
            await asyncio.to_thread(_prepare, tree, part, slot.number)
            async with slots.provider(slot) as provider:
                ctx.started()
                provider.voice.listen(ctx.log)
                reply = await _asked(ctx, provider, part, work)
                usage = await _usage(provider, begun)
                await provider.hang_up()
    except TimeoutError:
        return Result(error=JobTimedOut("Task computation timed out").info, timed_out=True)
    except BadOutput as error:
        return Result(error=SubtaskOutputRefused(str(error)).info)
    except MoorageError as error:
        return Result(error=error.info)
    ctx.collecting()
    return await _collected(ctx, part, reply, tree, work, usage=usage)


async def _asked(ctx: Context, provider: Instance, part: Part, work: Path) -> str:
    """Make the one call of a provider. Raises JobCancelled, DiskLimit, OutOfMemory, AppExited, SubtaskFailed."""
    call = provider.provider.compute(
        part.task_id, part.subtask_id, parameters=part.parameters, timeout=part.timeout + LEAST
    )
    watch = DiskWatch(work, ctx.job.spec.limits.disk, provider.process.kill)
    try:
        return await unless_cancelled(ctx, provider.ask(call))
    except CallFailed as error:
        raise SubtaskFailed(f"Compute: {error.text}" if error.text else f"Compute: {error.status.name}") from error
    except MoorageError:
        if watch.exceeded:
            raise DiskLimit(f"It wrote more than {ctx.job.spec.limits.disk} bytes.") from None
        if not provider.alive and provider.ended.result().out_of_memory:
            limit = ctx.job.spec.limits.memory
            raise OutOfMemory(f"It used more than its limit of {limit} bytes of memory.") from None
        raise
    finally:
        watch.stop()


async def unless_cancelled(ctx: Context, asking: Coroutine[Any, Any, T]) -> T:
    """Wait for something, unless the job is cancelled. Raises JobCancelled."""
    task, cancelled = asyncio.ensure_future(asking), asyncio.ensure_future(ctx.cancelled.wait())
    try:
        await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise JobCancelled
        return task.result()
    finally:
        for each in (task, cancelled):
            each.cancel()
        await asyncio.gather(task, cancelled, return_exceptions=True)


async def _usage(provider: Instance, begun: float) -> Usage:
    load = await provider.load()
    return Usage(wall=time.monotonic() - begun, cpu=load.cpu, peak_memory=load.memory)


async def _collected(ctx: Context, part: Part, reply: str, tree: TaskTree, work: Path, *, usage: Usage) -> Result:
    """Take the one file out of the slot, into a place of this job's own."""
    place = tree.result(part.subtask_id, ctx.job.id)
    try:
        taken = await asyncio.to_thread(collect, work, reply, place, max_bytes=part.max_output, digest=part.digest)
    except BadOutput as error:
        return Result(error=SubtaskOutputRefused(str(error)).info, usage=usage)
    with contextlib.suppress(OSError):
        (work / part.subtask_id).rmdir()  # if the app has left it empty
    value = {"file": taken.name, "size": taken.size, "digest": taken.sha256, "usage": asdict(usage)}
    return Result(value=value, usage=usage)


def _prepare(tree: TaskTree, part: Part, slot: int) -> None:
    tree.prepare_subtask(slot, part.subtask_id)
    deliver(tree.task(part.task_id), tree.slot(slot), part.resources)
