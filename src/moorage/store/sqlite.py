"""The store on the standard library's SQLite: one file, one writer, readers on connections of their own.

Reads run in the event loop itself: one of a job takes 40 µs, less than the way to a thread and back, and a page of
50 about 2 ms, most of it in making nouns of rows, which needs the interpreter anywhere (in a thread, beside a busy
loop, the same page took 65 to 420 ms, waiting for the interpreter lock at every row). Long reads pause every `CHUNK`
rows. Only finding the jobs of a list runs in a thread, as one step of SQLite, because a filter that matches few jobs
of many may look at all of them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from moorage.errors import StoreUnavailable
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import Attempt, ErrorInfo, FileRef, Job, Result
from moorage.model.states import AppState, AttemptState, JobState
from moorage.store import apps, attempts, events, jobs, listing, submissions, tokens
from moorage.store.base import AppFilter, JobFilter, Page, Token
from moorage.store.database import connect, create, translated
from moorage.store.writer import Writer

T = TypeVar("T")
Listener = Callable[[Sequence[Event]], None]

CHUNK = 50
"""Rows read at a time: about a millisecond."""


class SqliteStore:
    """The store in one SQLite file; made by `open`, inside the event loop that uses it."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._listeners: list[Listener] = []
        self._closed = False
        self._writer = Writer(create(path), clock, self._notify)
        self._reader = connect(path, read_only=True)
        self._finder = connect(path, read_only=True)
        self._finder_thread = ThreadPoolExecutor(1, thread_name_prefix="moorage-finder")

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """Open the file, making it or bringing it to the present schema.

        Raises DatabaseTooNew, DiskFull, StoreUnavailable.
        """
        with translated():
            return cls(path, clock=clock)

    async def close(self) -> None:
        """Finish what was asked for and close."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._finder_thread.shutdown)
        self._finder.close()
        self._reader.close()
        # Last, because the last connection folds the log back into the database.
        await self._writer.close()

    # apps

    def add_app(self, app: App, *, message: str) -> asyncio.Future[App]:
        """Keep a new app."""
        return self._writer.write(lambda tx: apps.add(tx, app, message=message))

    async def get_app(self, app_id: str) -> App:
        """Read one app."""
        return self._read(apps.get, app_id)

    async def list_apps(self, where: AppFilter, page: Page) -> list[App]:
        """Read apps, newest first."""
        return self._read(apps.listing, where, page)

    def edit_app(self, app_id: str, *, message: str, **changes: Any) -> asyncio.Future[App]:
        """Change fields of an app that is not pinned yet."""
        return self._writer.write(lambda tx: apps.edit(tx, app_id, message=message, changes=changes))

    def transition_app(
        self, app_id: str, new: AppState, *, message: str, error: ErrorInfo | None = None, **changes: Any
    ) -> asyncio.Future[App]:
        """Move an app to another state."""
        return self._writer.write(
            lambda tx: apps.change_state(tx, app_id, new, message=message, error=error, changes=changes)
        )

    # jobs

    def submit(
        self,
        app_id: str,
        build: Callable[[App], Job],
        *,
        owner: str,
        job_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> asyncio.Future[tuple[Job, bool]]:
        """Accept a job once; `build` runs within the transaction."""
        return self._writer.write(
            lambda tx: submissions.submit(
                tx, app_id, build, owner=owner, job_id=job_id, idempotency_key=idempotency_key
            )
        )

    def start(
        self, app_id: str, build: Callable[[App], Job], *, place: str, begin: Callable[[Job, Attempt], object]
    ) -> asyncio.Future[Job]:
        """Accept a new job of a lane and give out its lease."""
        return self._writer.write(lambda tx: submissions.start(tx, app_id, build, place=place, begin=begin))

    async def get_job(self, job_id: str) -> Job:
        """Read one job."""
        return self._read(jobs.get, job_id)

    async def list_jobs(self, where: JobFilter, page: Page) -> list[Job]:
        """Read jobs, newest first."""
        before = listing.NEWEST if page.before is None else self._read(listing.place, page.before)
        found: list[Job] = []
        while (missing := min(CHUNK, page.limit - len(found))) > 0:
            numbers = await self._find(where, before, missing)
            found += self._read(listing.numbered, where, numbers)
            if len(numbers) < missing:
                break
            before = numbers[-1]
        return found

    async def attempts(self, job_id: str) -> list[Attempt]:
        """Read the attempts of a job, in order."""
        return self._read(attempts.of_job, job_id)

    async def outputs(self, job_id: str) -> list[FileRef]:
        """Read what the job's last attempt left, sorted by path."""
        return self._read(attempts.outputs, job_id)

    async def ready(self, limit: int) -> list[Job]:
        """Read the oldest queued jobs that wait for no other."""
        return self._read(listing.ready, limit)

    async def lane(self, name: str) -> list[str]:
        """Read the ids of the jobs that wait in a lane."""
        return self._read(listing.lane, name)

    async def waiting_for(self, job_id: str) -> list[str]:
        """Read the ids of unfinished jobs that a queued job runs after."""
        return self._read(listing.waiting_for, job_id)

    async def ahead_of(self, job_id: str) -> int:
        """Count the ready jobs that come before a queued job, up to 1,000."""
        return self._read(listing.ahead_of, job_id)

    def claim(self, job_id: str, *, place: str) -> asyncio.Future[Attempt | None]:
        """Make a queued job running and give out its lease."""
        return self._writer.write(lambda tx: attempts.claim(tx, job_id, place=place))

    def advance(self, attempt: Attempt, state: AttemptState, *, message: str) -> asyncio.Future[None]:
        """Move an attempt one step on."""
        return self._writer.write(lambda tx: attempts.advance(tx, attempt, state, message=message))

    def release(self, attempt: Attempt) -> asyncio.Future[None]:
        """Put a job back whose attempt has done nothing."""
        return self._writer.write(lambda tx: attempts.release(tx, attempt))

    def finish(
        self,
        attempt: Attempt,
        state: AttemptState,
        result: Result,
        *,
        stdout: FileRef | None = None,
        stderr: FileRef | None = None,
    ) -> asyncio.Future[None]:
        """End an attempt and with it the job, or put a lost one back into the queue."""
        return self._writer.write(lambda tx: attempts.finish(tx, attempt, state, result, stdout=stdout, stderr=stderr))

    def cancel(self, job_id: str, *, message: str) -> asyncio.Future[Job]:
        """Cancel a queued job, or note that a running one is to be cancelled."""
        return self._writer.write(lambda tx: jobs.cancel(tx, job_id, message=message))

    async def cancelling(self, job_id: str) -> bool:
        """Tell whether the cancellation of a running job was asked for."""
        return self._read(jobs.cancelling, job_id)

    async def expire(self, now: float) -> list[str]:
        """Fail the queued jobs whose time is up."""
        expiry = await self.next_expiry()
        if expiry is None or expiry > now:
            return []
        return await self._writer.write(lambda tx: jobs.expire(tx, now))

    async def next_expiry(self) -> float | None:
        """Tell when the next queued job will expire."""
        return self._read(listing.next_expiry)

    async def running(self) -> list[Attempt]:
        """Read the attempts that have not ended."""
        return self._read(attempts.unfinished)

    async def forget(self, *, owner: str, before: float, keep: int) -> int:
        """Forget ended jobs and all that is known of them, in writes that let others in between."""
        forgotten = 0
        while count := await self._forget_some(owner, before, keep):
            forgotten += count
        return forgotten

    def _forget_some(self, owner: str, before: float, keep: int) -> asyncio.Future[int]:
        return self._writer.write(lambda tx: jobs.forget_some(tx, owner, before=before, keep=keep))

    async def job_counts(self) -> dict[JobState, int]:
        """Count jobs by state."""
        return self._read(listing.counts)

    # events

    def append(self, event: Event) -> asyncio.Future[None]:
        """Add one event to its subject's history."""
        return self._writer.write(lambda tx: events.append(tx, event))

    async def events(self, subject: str | None, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Read a subject's events by number, or all events by id."""
        found: list[Event] = []
        while (missing := min(CHUNK, limit - len(found))) > 0:
            chunk = self._read(events.listing, subject, after, missing)
            found += chunk
            if len(chunk) < missing:
                break
            after = chunk[-1].id if subject is None else chunk[-1].seq
            await asyncio.sleep(0)
        return found

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call back in the event loop with the events of each committed transaction; the result ends it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    # tokens

    def add_token(self, token: Token) -> asyncio.Future[None]:
        """Keep a token."""
        return self._writer.write(lambda tx: tokens.add(tx, token))

    async def tokens(self) -> list[Token]:
        """Read all tokens."""
        return self._read(tokens.listing)

    def remove_token(self, name: str) -> asyncio.Future[None]:
        """Forget a token."""
        return self._writer.write(lambda tx: tokens.remove(tx, name))

    # plumbing

    def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        with translated():
            return work(self._reader, *arguments)

    async def _find(self, where: JobFilter, before: int, limit: int) -> list[int]:
        loop = asyncio.get_running_loop()
        with translated():
            return await loop.run_in_executor(self._finder_thread, listing.numbers, self._finder, where, before, limit)

    def _notify(self, new: Sequence[Event]) -> None:
        for callback in tuple(self._listeners):
            try:
                callback(new)
            except Exception as error:
                context = {"message": "A listener of the store failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
