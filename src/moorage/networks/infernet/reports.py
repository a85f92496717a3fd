"""Jobs of which containers report themselves (contract, section 4.8)."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from moorage.networks.infernet.wire import JobResult, StatusReport
from moorage.store.database import translated

FORGOTTEN_RUNNING = 15 * 60.0
"""Seconds after which a job that was reported to run is not known any more."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
  client TEXT NOT NULL, id TEXT NOT NULL, status TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (client, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reports_by_time ON reports (time);
"""


class Reports:
    """What clients said of their jobs; each sees only its own."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        with translated():
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def keep(self, client: str, report: StatusReport) -> None:
        """Keep what a client says; it is durable then.

        Raises DiskFull, StoreUnavailable.
        """
        values = (client, report.id, report.status, self._clock())
        with translated():
            self._database.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)", values)

    def find(self, client: str, job_id: str) -> JobResult | None:
        """Tell what a client said of a job."""
        query = "SELECT id, status FROM reports WHERE client = ? AND id = ? AND (status <> 'running' OR time > ?)"
        with closing(self._database.execute(query, (client, job_id, self._oldest_running()))) as found:
            row = found.fetchone()
        return None if row is None else JobResult(id=row[0], status=row[1])

    def ids(self, client: str, *, pending: bool | None, limit: int) -> list[str]:
        """List a client's jobs, latest first; those that run, those that have ended, or both."""
        query = (
            "SELECT id FROM reports WHERE client = :client AND (status <> 'running' OR time > :oldest)"
            " AND (:pending IS NULL OR (status = 'running') = :pending) ORDER BY time DESC LIMIT :limit"
        )
        values = {"client": client, "oldest": self._oldest_running(), "pending": pending, "limit": limit}
        with closing(self._database.execute(query, values)) as found:
            return [row[0] for row in found]

    def forget(self, *, before: float, keep: int) -> None:
        """Forget what was said before a moment, and all but the latest `keep`.

        Raises DiskFull, StoreUnavailable.
        """
        query = "DELETE FROM reports WHERE time < (SELECT time FROM reports ORDER BY time DESC LIMIT 1 OFFSET ?)"
        with translated():
            self._database.execute("DELETE FROM reports WHERE time < ?", (before,))
            self._database.execute(query, (keep - 1,))

    def _oldest_running(self) -> float:
        return self._clock() - FORGOTTEN_RUNNING
