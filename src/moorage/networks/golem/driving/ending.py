"""The end of a task: its app is told, its results are published (contract, sections 2.5 and 2.8)."""

import asyncio
from pathlib import Path

from moorage.model.jobs import FileRef
from moorage.networks.golem.driving.course import Course, Outcome
from moorage.networks.golem.files.publishing import publish, staged, stale
from moorage.networks.golem.states import TaskStatus


async def conclude(course: Course, outcome: Outcome) -> tuple[FileRef, ...]:
    """End a task: what is to be published is, its app has ended, and so have its providers."""
    if outcome.status is TaskStatus.FINISHED:
        outputs = await _published(course)
        await course.close()
        await course.slots.close()
        await course.host.close()
        await course.records.end(course.task.id, outcome.status, outcome.reason)
        await asyncio.to_thread(course.tree.remove)
        return outputs
    await course.records.end(course.task.id, outcome.status, outcome.reason)  # first: nothing new starts any more
    seconds = course.settings.abort_timeout
    await course.host.attempt(lambda app, timeout: app.abort_task(course.app_task, timeout=timeout), within=seconds)
    await course.close()
    await course.slots.close()
    await course.host.close()
    return ()


async def _published(course: Course) -> tuple[FileRef, ...]:
    """Store what the app has left as the results, without what belongs to discarded subtasks."""
    attributions, discarded = await course.records.attributions(course.task.id)
    left_out = stale(attributions, discarded)
    outputs, clean = course.tree.task_outputs(course.app_task), course.tree.staged
    await asyncio.to_thread(staged, outputs, clean, left_out)
    course.ctx.collecting()
    files = await course.ctx.collect(clean)
    if course.task.publish_to is not None:
        await asyncio.to_thread(publish, clean, Path(course.task.publish_to), leave_out=frozenset())
    await course.records.published(course.task.id, sorted(left_out))
    return files
