"""Why a job waits, or ended as it did: one sentence, and the facts behind it."""

from dataclasses import dataclass

from moorage.engine.base import Engine, Refusal
from moorage.model.jobs import Job
from moorage.model.states import JobState
from moorage.node.lanes import Lanes
from moorage.store.base import Store

COUNTED = 1_000
"""Jobs ahead that the store counts: showing a job takes as long with many as with few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What `moorage job why` says."""

    summary: str
    details: tuple[str, ...] = ()
    ahead: int = 0
    """Jobs that come before it in the queue."""
    waiting_for: tuple[str, ...] = ()
    """Unfinished jobs that it runs after."""
    refusal: Refusal | None = None
    """Why the engine has no room for it now."""


async def explain(job: Job, store: Store, engine: Engine, lanes: Lanes) -> Explanation:
    """Explain a job's present state."""
    if job.state is JobState.QUEUED:
        return await _explain_queued(job, store, engine, lanes)
    if job.error is not None:
        return Explanation(summary=job.error.message, details=_advice(job))
    return Explanation(summary=f"The job {_WORDS[job.state]}.")


_WORDS = {
    JobState.RUNNING: "is running",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
}


def _advice(job: Job) -> tuple[str, ...]:
    assert job.error is not None
    facts = (f"code: {job.error.code}", *((job.error.hint,) if job.error.hint else ()))
    if job.state is JobState.CANCELLED:
        return facts
    return (*facts, "Trying again can help." if job.error.retryable else "Trying again unchanged will not help.")


async def _explain_queued(job: Job, store: Store, engine: Engine, lanes: Lanes) -> Explanation:
    waiting_for = tuple(await store.waiting_for(job.id))
    if waiting_for:
        return Explanation(summary=f"It runs after {', '.join(waiting_for)}.", waiting_for=waiting_for)
    ahead = await store.ahead_of(job.id)
    if job.lane is not None:
        reason = _waiting(ahead, None) if lanes.is_open(job.lane) else "No configuration that is served names it now."
        return Explanation(summary=f"It waits in lane {job.lane}. {reason}", ahead=ahead)
    refusal = engine.explain(job.spec.limits)
    places = tuple(
        f"{place.name}: {place.free_cpus:g} of {place.cpus:g} cpus and {place.free_memory >> 20} of "
        f"{place.memory >> 20} MiB are free; {place.running} jobs run"
        for place in engine.places()
    )
    return Explanation(summary=_waiting(ahead, refusal), details=places, ahead=ahead, refusal=refusal)


def _waiting(ahead: int, refusal: Refusal | None) -> str:
    several = f"at least {ahead}" if ahead >= COUNTED else str(ahead)
    queue = f"{several} job{'s' if ahead != 1 else ''} come{'' if ahead != 1 else 's'} before it" if ahead else ""
    reasons = [reason for reason in (queue, refusal.message if refusal else "") if reason]
    return ("; ".join(reasons) or "it is about to be placed").capitalize() + "."
