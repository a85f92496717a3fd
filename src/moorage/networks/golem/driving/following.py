"""One subtask, from its assignment to its verdict: computed by child jobs, taken, verified."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from moorage.errors import (
    AppExited,
    AppNotReady,
    DiskFull,
    InternalError,
    JobCancelled,
    JobLost,
    JobTimedOut,
    OutOfMemory,
    SandboxUnavailable,
)
from moorage.model.jobs import JSON, Job, JobSpec
from moorage.model.limits import Timeouts
from moorage.model.states import JobState
from moorage.networks.golem.driving.course import Course
from moorage.networks.golem.driving.verifying import Verifier
from moorage.networks.golem.files.containment import BadOutput, collect
from moorage.networks.golem.records.model import Subtask
from moorage.networks.golem.slots import Slot
from moorage.networks.golem.states import SubtaskStatus

LOSSES = {
    error.code: code
    for code, errors in {
        "start_failed": (SandboxUnavailable,),
        "not_ready": (AppNotReady,),
        "app_exited": (AppExited, OutOfMemory),
        "lost": (JobLost, DiskFull, InternalError),
    }.items()
    for error in errors
}
"""Codes of jobs that the infrastructure has lost, to the network's own."""


async def follow(course: Course, verifier: Verifier, subtask: Subtask, slots: Sequence[Slot]) -> None:
    """See a subtask to its end; its slots are free when it is verified, or waits for others to be."""
    try:
        jobs = await _computed(course, subtask, slots)
        if subtask.id not in course.active:
            return
        best = _agreed(jobs)
        if best is None:
            await _failed(course, subtask, jobs)
        elif await _taken(course, subtask, best):
            await verifier.first_verdict(subtask.id)
    finally:
        for slot in slots:
            course.slots.release(slot)


async def _computed(course: Course, subtask: Subtask, slots: Sequence[Slot]) -> list[Job]:
    """Have a subtask computed once in each slot; what an earlier node has begun is waited for."""
    children = course.ctx.children
    for slot, job_id in zip(slots, subtask.jobs, strict=True):
        await children.submit(_spec(course, subtask, slot), job_id=job_id)
    try:
        return list(await asyncio.gather(*(children.wait(each) for each in subtask.jobs)))
    except asyncio.CancelledError:
        if course.ended.done():  # else the node stops, and the next one takes them up
            await asyncio.gather(*(children.cancel(each) for each in subtask.jobs))
            await asyncio.gather(*(children.wait(each) for each in subtask.jobs), return_exceptions=True)
        raise


def _spec(course: Course, subtask: Subtask, slot: Slot) -> JobSpec:
    parent, settings = course.ctx.job.spec, course.settings
    return JobSpec(
        app_id=parent.app_id,
        parameters={"subtask": subtask.id, "slot": slot.number},
        limits=replace(parent.limits, cpus=settings.cpus, memory=max(int(settings.memory), course.task.min_memory)),
        timeouts=Timeouts(execution=course.task.file["golem"]["subtask_timeout"]),
        lost_retries=0,
        labels=parent.labels,
    )


def _agreed(jobs: Sequence[Job]) -> Job | None:
    """Give the job whose result most of all have, more than half of them; None if there is none."""
    values = Counter(_identity(job.value) for job in jobs if job.state is JobState.SUCCEEDED)
    if not values:
        return None
    identity, votes = values.most_common(1)[0]
    if votes * 2 <= len(jobs):
        return None
    return next(job for job in jobs if job.state is JobState.SUCCEEDED and _identity(job.value) == identity)


def _identity(value: JSON) -> tuple[JSON, ...]:
    return (value["file"], value["size"], value["digest"])


async def _taken(course: Course, subtask: Subtask, job: Job) -> bool:
    """Put a result where the app looks for it."""
    tree = course.tree
    source, target = tree.result(subtask.id, job.id), tree.output_of(course.app_task, subtask.id)
    name = job.value["file"]
    try:
        await asyncio.to_thread(collect, source, name, target, max_bytes=course.settings.max_output, digest=False)
    except BadOutput as error:
        await course.freed(subtask, SubtaskStatus.FAILURE, "bad_output", str(error), kind="failure")
        return False
    if subtask.id not in course.active:
        return False
    value = job.value
    changed = await course.records.verifying(
        subtask.id, file=name, size=value["size"], digest=value["digest"], usage=value["usage"]
    )
    if subtask.id in course.active:
        course.active[subtask.id] = changed
    return subtask.id in course.active


async def _failed(course: Course, subtask: Subtask, jobs: Sequence[Job]) -> None:
    """Tell of a subtask that was not computed why, by the worst of its jobs."""
    if all(job.state is JobState.SUCCEEDED for job in jobs):
        reason = f"{len(jobs)} providers computed different results, and no more than half of them the same"
        await course.freed(subtask, SubtaskStatus.FAILURE, "disagreement", reason, kind="failure")
        return
    error = next(job.error for job in jobs if job.error is not None)
    status, code, kind = _meaning(error.code)
    await course.freed(subtask, status, code, error.message, kind=kind)


def _meaning(code: str) -> tuple[SubtaskStatus, str, Literal["loss", "failure"]]:
    if code == JobTimedOut.code:
        return SubtaskStatus.TIMEOUT, "subtask_timeout", "failure"
    if code == JobCancelled.code:
        return SubtaskStatus.CANCELLED, "aborted", "failure"
    if code in LOSSES:
        return SubtaskStatus.RESENT, LOSSES[code], "loss"
    return SubtaskStatus.FAILURE, "bad_output" if code == "subtask_output_refused" else "app_error", "failure"
