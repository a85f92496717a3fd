"""A task that an earlier node was driving: what becomes of each of its subtasks (contract, section 2.8)."""

from moorage.networks.golem.driving.course import Course
from moorage.networks.golem.driving.discarding import discard
from moorage.networks.golem.driving.following import follow
from moorage.networks.golem.driving.verifying import Verifier
from moorage.networks.golem.states import SubtaskStatus


async def resume(course: Course, verifier: Verifier) -> None:
    """Take up what the records say is under way; for a new task that is nothing."""
    course.finished = course.records.counts(course.task.id).get(SubtaskStatus.FINISHED, 0)
    for subtask_id in course.records.asked(course.task.id):
        await course.abort_subtask(subtask_id)
        await course.records.refuse(subtask_id)
    for subtask_id in course.records.owed(course.task.id):
        await course.abort_subtask(subtask_id)
    open_discards = course.records.discards(course.task.id)
    if open_discards:
        await discard(course, open_discards)
    for subtask in course.records.active(course.task.id):
        course.active[subtask.id] = subtask
        if subtask.status is SubtaskStatus.VERIFYING:
            if subtask.verifications and not subtask.parked:
                verifier.asked.add(subtask.id)
            verifier.ask(subtask.id)
        else:
            slots = tuple(course.slots.occupy(number) for number in subtask.slots)
            course.spawn(follow(course, verifier, subtask, slots))
