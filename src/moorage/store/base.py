"""The seam to the durable truth: apps, jobs, attempts, events, tokens.

Every state change checks the transition table and appends its event in the same transaction. A write gives a future
that is done once that transaction is durable; such writes are done in the order in which they were called, whether
or not that is waited for, and even if the future is cancelled.
"""

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import Attempt, ErrorInfo, FileRef, Job, Result
from moorage.model.states import AppState, AttemptState, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which slice of a listing: at most `limit` rows older than the row with id `before` (newest first)."""

    limit: int = 50
    before: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: every given field must match; all labels must be there."""

    owner: str | None = None
    app_id: str | None = None
    network: str | None = None
    state: JobState | None = None
    ended: bool | None = None
    labels: Mapping[str, str] | None = None
    parent_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFilter:
    """Which apps: every given field must match; `visible_to` adds: owned by that name, or ever published."""

    owner: str | None = None
    network: str | None = None
    name: str | None = None
    state: AppState | None = None
    visible_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A caller's secret, kept as the sha256 (hex) of it."""

    name: str
    sha256: str
    operator: bool
    created_at: float


class Store(Protocol):
    """The truth. Raises NotFound for unknown ids, IllegalTransition for changes that a table forbids."""

    # apps

    def add_app(self, app: App, *, message: str) -> Future[App]:
        """Keep a new app and append `app.created`."""

    async def get_app(self, app_id: str) -> App:
        """Read one app."""

    async def list_apps(self, where: AppFilter, page: Page) -> list[App]:
        """Read apps, newest first."""

    def edit_app(self, app_id: str, *, message: str, **changes: Any) -> Future[App]:
        """Change fields of an app in CREATED or TESTING and append `app.edited`.

        Raises AppNotEditable in any other state.
        """

    def transition_app(
        self, app_id: str, new: AppState, *, message: str, error: ErrorInfo | None = None, **changes: Any
    ) -> Future[App]:
        """Move an app to another state and append `app.<state in lower case>`.

        On ERROR and REMOVED its queued jobs are cancelled with code `app_unavailable` in the same transaction;
        on PUBLISHED `published` becomes true.
        """

    # jobs

    def submit(
        self,
        app_id: str,
        build: Callable[[App], Job],
        *,
        owner: str,
        job_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Future[tuple[Job, bool]]:
        """Accept a job, or return the one that an earlier identical request made; tell whether it is new.

        `build` gets the app as it is inside the transaction and returns the job, or raises to refuse it.
        An earlier job with the same id, or the same owner and idempotency key, is returned if its spec is equal,
        else IdempotencyConflict is raised. Jobs named in `spec.after` must exist (NotFound) and must not have
        failed or been cancelled (DependencyFailed). Appends `job.queued`.
        """

    def start(
        self, app_id: str, build: Callable[[App], Job], *, place: str, begin: Callable[[Job, Attempt], object]
    ) -> Future[Job]:
        """Accept a new job of a lane and give out its lease, in one transaction.

        `begin` is called before this is durable, so that what the job waits for elsewhere passes meanwhile; if the
        transaction fails this raises, and the attempt has never been.

        Appends `job.running` and `attempt.running`. Raises what `build` raises, IdempotencyConflict.
        """

    async def get_job(self, job_id: str) -> Job:
        """Read one job."""

    async def list_jobs(self, where: JobFilter, page: Page) -> list[Job]:
        """Read jobs, newest first; as fast with 100,000 stored jobs as with 100."""

    async def attempts(self, job_id: str) -> list[Attempt]:
        """Read the attempts of a job, in order."""

    async def outputs(self, job_id: str) -> list[FileRef]:
        """Read what the job left, sorted by path; that of its last attempt."""

    async def ready(self, limit: int) -> list[Job]:
        """Read the oldest queued jobs of no lane that wait for no other job, in the order of their submission."""

    async def lane(self, name: str) -> list[str]:
        """Read the ids of the queued jobs of a lane that wait for no other job, in the order of their submission."""

    async def waiting_for(self, job_id: str) -> list[str]:
        """Read the ids of unfinished jobs that a queued job runs after."""

    async def ahead_of(self, job_id: str) -> int:
        """Count the ready jobs that come before a queued one where it waits (at most 1,000 are counted)."""

    def claim(self, job_id: str, *, place: str) -> Future[Attempt | None]:
        """Make a queued job running and give out the lease; None if it is not queued any more.

        Appends `job.running` and `attempt.placed`; in a lane the attempt is running at once (`attempt.running`).
        """

    def advance(self, attempt: Attempt, state: AttemptState, *, message: str) -> Future[None]:
        """Move an attempt one step on and append `attempt.<state>`.

        Raises LeaseLost if it does not hold the lease any more.
        """

    def release(self, attempt: Attempt) -> Future[None]:
        """Put a job back into the queue whose attempt is given up before it has done anything; raises LeaseLost.

        Appends `attempt.lost` and `job.queued`.
        """

    def finish(
        self,
        attempt: Attempt,
        state: AttemptState,
        result: Result,
        *,
        stdout: FileRef | None = None,
        stderr: FileRef | None = None,
    ) -> Future[None]:
        """End an attempt, and with it the job, in one transaction.

        A lost attempt puts the job back into the queue (at its old place) while `spec.lost_retries` allows, unless
        its cancellation was asked for; otherwise succeeded → succeeded, cancelled → cancelled, all else → failed.
        When the job ends, jobs that run after it are released (succeeded) or failed with DependencyFailed, on
        down the line. Appends `attempt.<state>`, `job.<state>` (or `job.queued`), and those of the followers.
        Raises LeaseLost.
        """

    def cancel(self, job_id: str, *, message: str) -> Future[Job]:
        """Cancel a queued job at once, or note that a running one is to be cancelled (`job.cancelling`).

        Idempotent while running. Raises JobFinished if it has ended.
        """

    async def cancelling(self, job_id: str) -> bool:
        """Tell whether the cancellation of a running job was asked for."""

    async def expire(self, now: float) -> list[str]:
        """Fail queued jobs whose queue or total timeout has passed; return their ids."""

    async def next_expiry(self) -> float | None:
        """Tell when the next queued job will expire."""

    async def running(self) -> list[Attempt]:
        """Read the attempts that have not ended: at start-up, those that an earlier node lost."""

    async def forget(self, *, owner: str, before: float, keep: int) -> int:
        """Forget an owner's ended jobs and all that is known of them; return how many.

        Those that ended before the moment, and of the others all but the latest `keep`.
        """

    async def job_counts(self) -> dict[JobState, int]:
        """Count jobs by state."""

    # events

    def append(self, event: Event) -> Future[None]:
        """Add one event to its subject's history; `id`, `seq` and `time` are given by the store."""

    async def events(self, subject: str | None, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Read a subject's events with `seq` > after, or with None all subjects' with `id` > after."""

    def listen(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call back in the event loop with the events of each committed transaction; the result ends it."""

    # tokens

    def add_token(self, token: Token) -> Future[None]:
        """Keep a token; raises IdempotencyConflict if the name is taken."""

    async def tokens(self) -> list[Token]:
        """Read all tokens."""

    def remove_token(self, name: str) -> Future[None]:
        """Forget a token."""

    async def close(self) -> None:
        """Finish what was asked for and close."""
