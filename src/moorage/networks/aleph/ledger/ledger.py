"""The ledger: one SQLite file with every message, file, delivery and run that this node knows."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from moorage.networks.aleph.ledger import database, writes
from moorage.networks.aleph.ledger.listing import Listing
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.ledger.records import Run
from moorage.store.database import connect, translated

T = TypeVar("T")

FILE = "ledger.sqlite"


class Ledger(Lookups):
    """Look-ups run in the event loop, some tens of microseconds each; writes and lists run in threads.

    Made by `open`. Messages and files come in by the Publisher alone.
    """

    def __init__(self, path: Path) -> None:
        self._writer = database.create(path)
        super().__init__(connect(path, read_only=True))
        self._runs = connect(path)
        # A run that is lost in a power cut is no loss; waiting for the disk twice in every request would be one.
        self._runs.execute("PRAGMA synchronous = NORMAL")
        self._finder = connect(path, read_only=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aleph-ledger")
        self._finder_thread = ThreadPoolExecutor(1, thread_name_prefix="aleph-finder")
        self._written = Lookups(self._writer)
        self._listing = Listing(self._finder)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the ledger of a directory, which is made if need be; one process at a time does so.

        Raises DatabaseTooNew, DiskFull, StoreUnavailable.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with translated():
            return cls(directory / FILE)

    async def close(self) -> None:
        """Finish what was asked for and close."""
        for thread in (self._finder_thread, self._thread):
            await asyncio.to_thread(thread.shutdown)
        for connection in (self._finder, self._runs, self._connection, self._writer):
            connection.close()

    # work in threads

    async def examine(self, work: Callable[[Lookups], T]) -> T:
        """Look things up in the thread that writes, after all that was asked of it before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._written)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Change the ledger in one transaction, which is durable then.

        Raises what `work` raises, DiskFull, StoreUnavailable.
        """
        return await self._transact(self._writer, work)

    async def find(self, work: Callable[[Listing], T]) -> T:
        """Look through messages beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._finder_thread, work, self._listing)

    async def _transact(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, database.transact, connection, work)

    # deliveries and runs

    async def delivered(self, message: str, program: str) -> None:
        """Note that a message has been delivered to a program."""
        values = (message, program)
        await self.write(lambda connection: connection.execute(writes.SQL["delivered"], values).close())

    async def add_run(self, run: Run) -> None:
        """Note that a run has begun; the oldest are forgotten."""
        await self._transact(self._runs, partial(writes.add_run, run=run))

    async def end_run(self, run: Run) -> None:
        """Note how a run ended."""
        await self._transact(self._runs, partial(writes.end_run, run=run))
