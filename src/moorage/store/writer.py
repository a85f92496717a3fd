"""The one writer: it runs writes in the order in which they were asked for and commits them as groups.

A write's statements run in the event loop, some tens of microseconds each time; its commit, which waits for the
disk, runs in a thread, unless the disk has lately been quicker than the way there and back is. Writes that come
meanwhile share the next commit, so the cost of durability is divided among them. A savepoint around each but the first
keeps one that fails from spoiling the others.

Why not all of it in the thread: SQLite gives up the interpreter lock in every step, and a busy loop gives it back
only after the switch interval (5 ms). A write takes ten steps and more: measured with a busy loop on two cores,
180 submissions a second, and some 2,000 this way.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

from moorage.errors import StoreUnavailable
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.store.database import meaning, passes
from moorage.store.transitions import Steps, Transaction

T = TypeVar("T")

Work = Callable[[Transaction], T | Steps[T]]

GROUP = 512
"""Most writes of one commit: bounds how long the first of them waits for the others."""
SLICE = 0.001
"""Seconds that the loop is kept at a time."""
PATIENCE = 10.0
"""Seconds to wait for another process that has the database locked."""
RETRY = 0.02
HOP = 0.001
"""Seconds: a commit that takes less is over sooner than the way to a thread and back, and is done in the loop."""
TURNS = 2
"""Turns of the loop from the last write of a group to a commit in the loop: in the first, tasks that a write has begun
run until they wait; at its end, what they send is sent. The disk then works while somebody else answers them."""
REMEMBERED = 0.1
"""Share of the latest commit in what is known of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write(Generic[T]):
    work: Work[T]
    future: asyncio.Future[T]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a write; `error` is None exactly when it can be committed."""

    write: _Write[Any]
    value: Any = None
    error: Exception | None = None


class Writer:
    """Runs writes, and tells the events of each group to one callback once they are durable."""

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float], notify: Callable[[Sequence[Event]], None]
    ) -> None:
        self._connection = connection
        # The loop must not sleep in SQLite: `_begin` waits for other processes.
        connection.execute("PRAGMA busy_timeout = 0")
        self._clock = clock
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="moorage-commit")
        self._waiting: deque[_Write[Any]] = deque()
        self._outcomes: list[_Outcome] = []
        self._apps: dict[str, App] = {}
        """What transactions have read of apps; of use until somebody else writes."""
        self._others: int | None = None
        """Tells whether another process has written."""
        self._pace = 1.0
        """Seconds that a commit takes on this disk, the latest counting most."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def write(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue a write; what is given is done once it is durable.

        The order is that of the calls, not that in which their results are awaited. Raises what `work` raises,
        and DiskFull or StoreUnavailable.
        """
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Write(work=work, future=future))
        if self._idle.is_set():
            self._idle.clear()
            # Soon, not now: whoever else runs in this turn of the loop joins the group.
            self._loop.call_soon(self._begin, self._loop.time() + PATIENCE)
        return future

    async def close(self) -> None:
        """Finish what is queued."""
        self._closed = True
        await self._idle.wait()
        await self._loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _begin(self, until: float) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if passes(error) and self._loop.time() < until:
                self._loop.call_later(RETRY, self._begin, until)
                return
            self._outcomes = [_Outcome(write=write, error=meaning(error)) for write in self._waiting]
            self._waiting.clear()
            self._deliver(())
            return
        others = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if others != self._others:
            self._others = others
            self._apps.clear()
        transaction = Transaction(connection=self._connection, now=self._clock(), apps=self._apps)
        self._proceed(transaction, self._run_group(transaction))

    def _proceed(self, transaction: Transaction, steps: Iterator[None]) -> None:
        until = monotonic() + SLICE
        for _ in steps:
            if monotonic() > until:
                self._loop.call_soon(self._proceed, transaction, steps)
                return
        if not self._connection.in_transaction:
            self._committed(transaction, self._outcomes[-1].error)
            return
        if self._pace < HOP:
            self._commit_here(transaction, TURNS if transaction.begins else 0)
            return
        committed = self._loop.run_in_executor(self._thread, self._commit)
        committed.add_done_callback(lambda done: self._committed(transaction, done.result()))

    def _commit_here(self, transaction: Transaction, turns: int) -> None:
        """Commit in the loop, once what the writes have begun is on its way."""
        if turns:
            self._loop.call_soon(self._commit_here, transaction, turns - 1)
        else:
            self._committed(transaction, self._commit())

    def _run_group(self, transaction: Transaction) -> Iterator[None]:
        while self._waiting and len(self._outcomes) < GROUP and self._connection.in_transaction:
            write = self._waiting.popleft()
            self._outcomes.append((yield from self._run(transaction, write)))

    def _run(self, transaction: Transaction, write: _Write[Any]) -> Steps[_Outcome]:
        already, first = len(transaction.events), not self._outcomes
        try:
            if not first:
                self._connection.execute("SAVEPOINT one")
            value = write.work(transaction)
            if isinstance(value, Generator):
                value = yield from value
            if not first:
                self._connection.execute("RELEASE one")
        except Exception as error:
            del transaction.events[already:]
            transaction.apps.clear()
            self._undo(first=first)
            return _Outcome(write=write, error=meaning(error))
        yield
        return _Outcome(write=write, value=value)

    def _undo(self, *, first: bool) -> None:
        """Undo one write; if nothing was written before it, the whole transaction, and then the group ends here."""
        # On some errors (a full disk) SQLite gives up the whole transaction by itself.
        with suppress(sqlite3.Error):
            if first:
                self._connection.execute("ROLLBACK")
            else:
                self._connection.execute("ROLLBACK TO one")
                self._connection.execute("RELEASE one")

    def _commit(self) -> sqlite3.Error | None:
        begun = monotonic()
        try:
            self._connection.execute("COMMIT")
            self._pace += (monotonic() - begun - self._pace) * REMEMBERED
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return error
        return None

    def _committed(self, transaction: Transaction, error: Exception | None) -> None:
        if error is not None:
            self._outcomes = [_refused(outcome, error) for outcome in self._outcomes]
            transaction.events.clear()
            transaction.apps.clear()
        self._deliver(transaction.events)

    def _deliver(self, events: Sequence[Event]) -> None:
        for outcome in self._outcomes:
            _settle(outcome)
        self._outcomes.clear()
        if events:
            self._notify(events)
        if self._waiting:
            self._loop.call_soon(self._begin, self._loop.time() + PATIENCE)
        else:
            self._idle.set()


def _refused(outcome: _Outcome, error: Exception) -> _Outcome:
    return _Outcome(write=outcome.write, error=outcome.error or meaning(error))


def _settle(outcome: _Outcome) -> None:
    future = outcome.write.future
    if future.done():
        return
    if outcome.error is None:
        future.set_result(outcome.value)
    else:
        future.set_exception(outcome.error)
