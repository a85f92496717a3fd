"""Values that programs keep for a week (contract, section 4.4)."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self, TypeVar

from moorage.model.limits import KIB, MIB
from moorage.store.database import connect, translated

T = TypeVar("T")

FILE = "cache.sqlite"
WEEK = 7 * 86400.0
"""Seconds that a value is kept."""
MAX_VALUE, MAX_SPACE = 16 * MIB, 128 * MIB
"""Bytes of a value, and of all entries of a name space."""
ENTRY = KIB
"""Bytes that an entry counts for beside its value, so that empty ones are bounded too."""

# Counting reads the index alone, never the values.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  space TEXT NOT NULL,
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  size INTEGER NOT NULL,
  expires REAL NOT NULL,
  UNIQUE (space, key)
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_space ON entries (space, key, size, expires);
CREATE INDEX IF NOT EXISTS entries_by_expiry ON entries (expires);
"""
_GET = "SELECT value FROM entries WHERE space = ? AND key = ? AND expires > ?"
_KEYS = "SELECT key FROM entries WHERE space = ? AND expires > ? ORDER BY key"
_USED = "SELECT coalesce(sum(size), 0) FROM entries WHERE space = ? AND key <> ?"
_PUT = "INSERT OR REPLACE INTO entries (space, key, value, size, expires) VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM entries WHERE space = ? AND key = ? AND expires > ?"
_EXPIRE = "DELETE FROM entries WHERE expires <= ?"


class CacheFull(Exception):
    """A name space has no room for a value."""


class Cache:
    """Values by key, apart for each name space, in a file of their own; made by `open`.

    All work is done in one thread. What a power cut takes is no loss: it is a cache.
    All methods raise DiskFull, StoreUnavailable.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection, self._clock = connection, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aleph-cache")

    @classmethod
    def open(cls, directory: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """Open the cache of a directory, or make it; `clock` gives Unix seconds."""
        with translated(), ExitStack() as stack:
            connection = stack.enter_context(closing(connect(directory / FILE)))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            stack.pop_all()
        return cls(connection, clock)

    async def close(self) -> None:
        """Finish what was asked for and close."""
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    async def get(self, space: str, key: str) -> bytes | None:
        """Give a value, or None."""
        rows = await self._do(lambda: self._rows(_GET, space, key, self._clock()))
        return bytes(rows[0]["value"]) if rows else None

    async def keys(self, space: str, pattern: str) -> list[str]:
        """List the keys that match a pattern, in which `*` stands for any text and `?` for any character."""
        return await self._do(lambda: self._matching(space, pattern))

    async def put(self, space: str, key: str, value: bytes) -> None:
        """Keep a value for a week.

        Raises CacheFull.
        """
        await self._do(lambda: self._put(space, key, value))

    async def delete(self, space: str, key: str) -> bool:
        """Forget a value; tell whether there was one."""
        return await self._do(lambda: self._connection.execute(_DELETE, (space, key, self._clock())).rowcount > 0)

    async def _do(self, work: Callable[[], T]) -> T:
        def translating() -> T:
            with translated():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, translating)

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()

    def _matching(self, space: str, pattern: str) -> list[str]:
        rows = self._rows(_KEYS, space, self._clock())
        return [row["key"] for row in rows if fnmatchcase(row["key"], pattern)]

    def _put(self, space: str, key: str, value: bytes) -> None:
        now, size = self._clock(), len(value) + len(key.encode()) + ENTRY
        self._connection.execute(_EXPIRE, (now,))
        if self._rows(_USED, space, key)[0][0] + size > MAX_SPACE:
            raise CacheFull
        self._connection.execute(_PUT, (space, key, value, size, now + WEEK))
