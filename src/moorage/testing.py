"""Real parts of the node, small enough for the tests of networks and of code that uses Moorage."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from moorage.store.sqlite import SqliteStore


@asynccontextmanager
async def memory_store(*, clock: Callable[[], float] = time.time) -> AsyncIterator[SqliteStore]:
    """Give an empty store that is gone with the context.

    It is the node's own store on a temporary file: SQLite's shared in-memory databases lock whole tables between
    connections and have no write-ahead log, so a test on one would test another store.
    """
    with TemporaryDirectory(prefix="moorage-store-") as directory:
        store = SqliteStore.open(Path(directory, "moorage.db"), clock=clock)
        try:
            yield store
        finally:
            await store.close()
