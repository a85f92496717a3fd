"""Every implementation of the store, each on a clock that the test sets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from moorage.store.base import Store
from moorage.store.sqlite import SqliteStore
from moorage.testing import memory_store
from tests.contract.store.steps import Clock, an_app


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    """Give an empty store that knows one app, `app_1`."""
    async with _file_store(tmp_path, clock) if request.param == "file" else memory_store(clock=clock) as store:
        await store.add_app(an_app(), message="It was added.")
        yield store


@asynccontextmanager
async def _file_store(directory: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(directory / "moorage.db", clock=clock)
    try:
        yield store
    finally:
        await store.close()
