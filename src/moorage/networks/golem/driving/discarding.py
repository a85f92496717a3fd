"""Dropping results that the app has accepted, or cannot make up its mind about (contract, section 2.8)."""

import asyncio
from collections.abc import Sequence

from moorage.networks.golem.driving.course import Course
from moorage.networks.golem.host import RequestorLost
from moorage.networks.golem.protocol.client import CallFailed


async def discard(course: Course, ids: Sequence[str]) -> tuple[str, ...]:
    """Have the app drop results; those that it says it has dropped are to be computed anew.

    Gives the ids that it named and this task knows.
    """
    await course.records.discarding(ids)
    for _ in range(2):
        try:
            named = await course.host.call(
                lambda app, timeout: app.discard_subtasks(course.app_task, ids, timeout=timeout),
                within=course.settings.assign_timeout,
            )
        except RequestorLost:
            continue
        except CallFailed as error:
            course.ctx.emit("golem.discard", f"DiscardSubtasks: {error.text or error.status.name}")
            return await _restarted(course, ())
        return await _restarted(course, named)
    return await _restarted(course, ())


async def _restarted(course: Course, named: Sequence[str]) -> tuple[str, ...]:
    under_way = [course.active.pop(each) for each in named if each in course.active]  # no verdict counts any more
    restarted, course.finished = await course.records.restart_subtasks(course.task.id, named)
    jobs = [job for subtask in under_way for job in subtask.jobs]
    await asyncio.gather(*(course.ctx.children.cancel(job) for job in jobs))
    course.changed.set()
    return restarted
