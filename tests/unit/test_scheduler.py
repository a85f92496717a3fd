"""The scheduler goes on whatever its store refuses."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from moorage.engine.local import LocalEngine
from moorage.errors import DiskFull, MoorageError, StoreUnavailable
from moorage.model.jobs import Attempt, Job
from moorage.model.limits import GIB
from moorage.node.scheduler import Scheduler
from moorage.store.sqlite import SqliteStore
from moorage.testing import memory_store
from tests.contract.store.steps import an_app, submit

pytestmark = pytest.mark.anyio


class Refusing:
    """A store whose first claim fails; everything else is the real one's."""

    def __init__(self, store: SqliteStore, error: MoorageError) -> None:
        self._store, self._errors = store, [error]

    async def claim(self, job_id: str, *, place: str) -> Attempt | None:
        if self._errors:
            raise self._errors.pop()
        return await self._store.claim(job_id, place=place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("error", [DiskFull(), StoreUnavailable("The database is locked.")])
async def test_a_store_that_refuses_a_claim_is_asked_again_and_nothing_stays_reserved(
    error: MoorageError, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("moorage.node.scheduler.NO_STORE", 0.01)
    started: asyncio.Queue[str] = asyncio.Queue()

    async def run(job: Job, attempt: Attempt, release: Callable[[], None]) -> None:
        started.put_nowait(job.id)

    async with memory_store() as store:
        await store.add_app(an_app(), message="It was added.")
        job = await submit(store)
        engine = LocalEngine(cpus=1, memory=GIB)
        work = asyncio.ensure_future(Scheduler(store=Refusing(store, error), engine=engine, run=run).work())
        assert await asyncio.wait_for(started.get(), 10) == job.id
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await engine.close()
        assert engine.places()[0].running == 0
