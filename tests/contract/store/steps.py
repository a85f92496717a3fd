"""What the tests of the store do over and over."""

from collections.abc import Callable
from typing import Any

from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.ids import new_id
from moorage.model.jobs import Attempt, ErrorInfo, Job, JobSpec, Result, Usage
from moorage.model.states import AppState, AttemptState
from moorage.store.base import Store

WAY = (AttemptState.PLACED, AttemptState.PREPARING, AttemptState.RUNNING, AttemptState.COLLECTING)
"""How an attempt goes when nothing goes wrong."""

BROKEN = ErrorInfo(code="broken", message="It broke.")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def an_app(**fields: Any) -> App:
    defaults: dict[str, Any] = {
        "id": "app_1",
        "network": "infrax",
        "name": "counter",
        "owner": "ann",
        "state": AppState.TESTING,
        "digest": "d" * 64,
        "size": 3,
        "files": 1,
        "manifest": {"entry": "main.py"},
        "meta": {"kwargs": {"a": 1}},
        "layers": {"python": "py-1"},
    }
    return App(**{**defaults, **fields})


def builder(
    job_id: str | None = None,
    *,
    owner: str = "?",
    parent_id: str | None = None,
    lane: str | None = None,
    **spec: Any,
) -> Callable[[App], Job]:
    def build(app: App) -> Job:
        return Job(
            id=job_id or new_id("job"),
            owner=owner,
            network=app.network,
            app_digest=app.digest,
            layers=app.layers,
            parent_id=parent_id,
            lane=lane,
            spec=JobSpec(app_id=app.id, **spec),
        )

    return build


async def submit(
    store: Store, job_id: str | None = None, *, app_id: str = "app_1", owner: str = "ann", **fields: Any
) -> Job:
    job, new = await store.submit(app_id, builder(job_id, **fields), owner=owner, job_id=job_id)
    assert new
    return job


async def start(
    store: Store,
    job_id: str | None = None,
    *,
    app_id: str = "app_1",
    owner: str = "ann",
    lane: str = "l",
    **fields: Any,
) -> tuple[Job, Attempt]:
    """Submit a job of a lane that begins at once."""
    begun: list[tuple[Job, Attempt]] = []
    job = await store.start(
        app_id,
        builder(job_id, owner=owner, lane=lane, **fields),
        place="here",
        begin=lambda job, attempt: begun.append((job, attempt)),
    )
    assert [each for each, _ in begun] == [job]
    return begun[0]


async def claim(store: Store, job_id: str) -> Attempt:
    attempt = await store.claim(job_id, place="here")
    assert attempt is not None
    return attempt


async def bring(store: Store, attempt: Attempt, state: AttemptState) -> None:
    """Move a new attempt on to a state that is on its way."""
    for step in WAY[1 : WAY.index(state) + 1]:
        await store.advance(attempt, step, message=f"It is {step}.")


async def end(store: Store, attempt: Attempt, state: AttemptState, **result: Any) -> Job:
    """End a new attempt, legally."""
    if state is AttemptState.SUCCEEDED:
        await bring(store, attempt, AttemptState.COLLECTING)
    await store.finish(attempt, state, Result(**{"usage": Usage(wall=0.5), **result}))
    return await store.get_job(attempt.job_id)


async def run(store: Store, job_id: str, state: AttemptState) -> Job:
    """Take a queued job through one whole attempt."""
    return await end(store, await claim(store, job_id), state)


async def topics(store: Store, subject: str) -> list[str]:
    return [event.topic for event in await history(store, subject)]


async def history(store: Store, subject: str) -> list[Event]:
    """Read a history and see that it has no gap."""
    events = await store.events(subject)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.id for event in events] == sorted({event.id for event in events})
    return events
