"""Any sequence of operations leaves the store as a simple model says, and its histories whole."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moorage.errors import AppUnavailable, DependencyFailed, Invalid, JobFinished, LeaseLost
from moorage.model.apps import App
from moorage.model.jobs import Attempt, Job, Result
from moorage.model.limits import Timeouts
from moorage.model.states import JOB_TRANSITIONS, RUNNABLE, AppState, AttemptState, JobState
from moorage.store.base import JobFilter, Page
from moorage.store.sqlite import SqliteStore
from tests.contract.store.steps import Clock, an_app, bring, builder, history

T = TypeVar("T")
PICK = st.integers(min_value=0, max_value=99)
ENDS = st.sampled_from([state for state in AttemptState if state.terminal])
HOPELESS = {JobState.FAILED, JobState.CANCELLED}


@dataclass(slots=True, kw_only=True)
class Known:
    """What the model knows of a job."""

    app_id: str
    after: tuple[str, ...]
    due: float | None
    retries: int
    lane: str | None = None
    began: JobState = JobState.QUEUED
    state: JobState = JobState.QUEUED
    cancelling: bool = False
    lost: int = 0
    attempt: Attempt | None = None


def admitted(build: Callable[[App], Job]) -> Callable[[App], Job]:
    """Refuse what an app takes no more."""

    def admit(app: App) -> Job:
        if app.state not in RUNNABLE:
            raise AppUnavailable
        return build(app)

    return admit


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and a model side by side."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="moorage-model-"))
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.jobs: dict[str, Known] = {}
        self.made = 0
        self.stale: list[Attempt] = []
        self.gone: set[str] = set()
        self.store = self.do(self.opened())
        for app_id in ("app_1", "app_2"):
            self.do(self.store.add_app(an_app(id=app_id), message="x"))

    def do(self, work: Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return self.runner.run(done())

    async def opened(self) -> SqliteStore:
        return SqliteStore.open(self.directory / "moorage.db", clock=self.clock)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.do(self.store.close())
            self.runner.close()
            shutil.rmtree(self.directory)

    # the model

    def ready(self, lane: str | None = None) -> list[str]:
        """Give the queued jobs of a lane that wait for no other, oldest first."""
        return [
            job_id
            for job_id, job in self.jobs.items()
            if job.state is JobState.QUEUED and job.lane == lane and not self.unfinished(job)
        ]

    def unfinished(self, job: Known) -> list[str]:
        """Give the jobs that a queued one waits for; those that are forgotten have succeeded."""
        known = [leader for leader in job.after if leader in self.jobs]
        return [leader for leader in known if self.jobs[leader].state is not JobState.SUCCEEDED]

    def next_id(self) -> str:
        self.made += 1
        return f"job-{self.made}"

    def ended(self, job_id: str, state: JobState) -> None:
        """End a job, and whatever runs after it if it did not succeed."""
        self.jobs[job_id].state = state
        for follower_id, follower in self.jobs.items():
            if state in HOPELESS and job_id in follower.after and follower.state is JobState.QUEUED:
                self.ended(follower_id, JobState.FAILED)

    def finished(self, job_id: str, end: AttemptState) -> None:
        job = self.jobs[job_id]
        job.lost += end is AttemptState.LOST
        wanted = not job.cancelling and job.app_id not in self.gone
        if end is AttemptState.LOST and wanted and job.lost <= job.retries:
            job.state, job.due = JobState.QUEUED, None
        elif end is AttemptState.CANCELLED or (end is AttemptState.LOST and not wanted):
            self.ended(job_id, JobState.CANCELLED)
        else:
            self.ended(job_id, JobState.SUCCEEDED if end is AttemptState.SUCCEEDED else JobState.FAILED)

    # what may happen

    @rule()
    def reopen(self) -> None:
        self.do(self.store.close())
        self.store = self.do(self.opened())

    @rule(
        picks=st.lists(PICK, max_size=3),
        app=PICK,
        queue=st.sampled_from([None, 5.0]),
        retries=st.integers(0, 2),
        lane=st.sampled_from([None, "l"]),
    )
    def submit(self, picks: list[int], app: int, queue: float | None, retries: int, lane: str | None) -> None:
        ids, app_id = list(self.jobs), f"app_{app % 2 + 1}"
        after = tuple(ids[pick % len(ids)] for pick in picks) if ids else ()
        build = builder(
            self.next_id(),
            after=after,
            timeouts=Timeouts(queue=queue),
            lost_retries=retries,
            lane=lane,
            labels={"a": "b"},
        )
        try:
            job, _ = self.do(self.store.submit(app_id, admitted(build), owner="ann"))
        except Invalid:
            assert any(self.jobs[leader].lane for leader in after)
        except DependencyFailed:
            assert any(self.jobs[leader].state in HOPELESS for leader in after)
        except AppUnavailable:
            assert app_id in self.gone
        else:
            due = None if queue is None else self.clock.now + queue
            self.jobs[job.id] = Known(app_id=app_id, after=after, due=due, retries=retries, lane=lane)

    @rule(app=PICK, retries=st.integers(0, 2))
    def start(self, app: int, retries: int) -> None:
        app_id = f"app_{app % 2 + 1}"
        build = builder(self.next_id(), owner="ann", lost_retries=retries, lane="l", labels={"a": "b"})
        begun: list[Attempt] = []
        try:
            job = self.do(
                self.store.start(app_id, admitted(build), place="here", begin=lambda _, attempt: begun.append(attempt))
            )
        except AppUnavailable:
            assert app_id in self.gone
            assert not begun
        else:
            self.jobs[job.id] = Known(
                app_id=app_id,
                after=(),
                due=None,
                retries=retries,
                lane="l",
                began=JobState.RUNNING,
                state=JobState.RUNNING,
                attempt=begun[0],
            )

    @precondition(lambda self: self.ready("l"))
    @rule()
    def claim_first_of_lane(self) -> None:
        job_id = self.do(self.store.lane("l"))[0]
        assert self.do(self.store.ahead_of(job_id)) == 0
        attempt = self.do(self.store.claim(job_id, place="here"))
        assert attempt is not None
        self.jobs[job_id].state, self.jobs[job_id].attempt = JobState.RUNNING, attempt

    @precondition(lambda self: any(job.state.terminal for job in self.jobs.values()))
    @rule()
    def forget(self) -> None:
        """Forget what has ended, but for the job of the last event."""
        last = self.do(self.store.events(None, limit=100_000))[-1].subject
        gone = [job_id for job_id, job in self.jobs.items() if job.state.terminal and job_id != last]
        assert self.do(self.store.forget(owner="ann", before=self.clock.now + 1, keep=1_000)) == len(gone)
        for job_id in gone:
            del self.jobs[job_id]
        self.stale = [attempt for attempt in self.stale if attempt.job_id in self.jobs]

    @precondition(lambda self: self.ready())
    @rule()
    def claim_oldest(self) -> None:
        (oldest,) = self.do(self.store.ready(1))
        assert oldest.id == self.ready()[0]
        attempt = self.do(self.store.claim(oldest.id, place="here"))
        assert attempt is not None
        assert attempt.lease > max((old.lease for old in self.stale if old.job_id == oldest.id), default=0)
        self.jobs[oldest.id].state, self.jobs[oldest.id].attempt = JobState.RUNNING, attempt

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def claim_any(self, pick: int) -> None:
        job_id = list(self.jobs)[pick % len(self.jobs)]
        if job_id not in [*self.ready(), *self.ready("l")]:
            assert self.do(self.store.claim(job_id, place="here")) is None

    @precondition(lambda self: any(job.attempt for job in self.jobs.values()))
    @rule(pick=PICK, end=ENDS)
    def finish(self, pick: int, end: AttemptState) -> None:
        running = [(job_id, job.attempt) for job_id, job in self.jobs.items() if job.attempt]
        job_id, attempt = running[pick % len(running)]
        if end is AttemptState.SUCCEEDED and attempt.state is AttemptState.PLACED:
            self.do(bring(self.store, attempt, AttemptState.COLLECTING))
        self.do(self.store.finish(attempt, end, Result()))
        self.jobs[job_id].attempt = None
        self.stale.append(attempt)
        self.finished(job_id, end)

    @precondition(lambda self: self.stale)
    @rule(pick=PICK, end=ENDS)
    def finish_again(self, pick: int, end: AttemptState) -> None:
        try:
            self.do(self.store.finish(self.stale[pick % len(self.stale)], end, Result()))
        except LeaseLost:
            return
        raise AssertionError("a stale lease was taken")

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job_id = list(self.jobs)[pick % len(self.jobs)]
        job = self.jobs[job_id]
        try:
            self.do(self.store.cancel(job_id, message="x"))
        except JobFinished:
            assert job.state.terminal
        else:
            assert not job.state.terminal
            job.cancelling = job.state is JobState.RUNNING
            if job.state is JobState.QUEUED:
                self.ended(job_id, JobState.CANCELLED)

    @rule(seconds=st.sampled_from([1.0, 3.0, 10.0]))
    def expire(self, seconds: float) -> None:
        self.clock.now += seconds
        due = {
            job_id
            for job_id, job in self.jobs.items()
            if job.state is JobState.QUEUED and job.due is not None and job.due <= self.clock.now
        }
        assert set(self.do(self.store.expire(self.clock.now))) == due
        for job_id in due:
            self.ended(job_id, JobState.FAILED)

    @precondition(lambda self: len(self.gone) < 2 and len(self.jobs) > 4)
    @rule(pick=PICK, state=st.sampled_from([AppState.ERROR, AppState.REMOVED]))
    def lose_app(self, pick: int, state: AppState) -> None:
        app_id = sorted({"app_1", "app_2"} - self.gone)[pick % (2 - len(self.gone))]
        self.do(self.store.transition_app(app_id, state, message="x"))
        self.gone.add(app_id)
        queued = [job_id for job_id, job in self.jobs.items() if job.app_id == app_id and job.state is JobState.QUEUED]
        for job_id in queued:
            self.jobs[job_id].state = JobState.CANCELLED
        for job_id in queued:
            self.ended(job_id, JobState.CANCELLED)

    # what must always hold

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        stored = self.do(self.store.list_jobs(JobFilter(), Page(limit=1_000)))
        assert [(job.id, job.state) for job in stored] == [(i, j.state) for i, j in reversed(self.jobs.items())]
        assert [job.id for job in self.do(self.store.ready(1_000))] == self.ready()
        assert self.do(self.store.lane("l")) == self.ready("l")
        labelled = self.do(self.store.list_jobs(JobFilter(labels={"a": "b"}, ended=True), Page(limit=1_000)))
        assert [job.id for job in labelled] == [i for i, j in reversed(self.jobs.items()) if j.state.terminal]
        states = Counter(job.state for job in self.jobs.values())
        assert self.do(self.store.job_counts()) == {state: states[state] for state in JobState}
        expiries = [job.due for job in self.jobs.values() if job.state is JobState.QUEUED and job.due is not None]
        assert self.do(self.store.next_expiry()) == min(expiries, default=None)

    @invariant()
    def a_running_job_has_one_lease_and_no_other_has_any(self) -> None:
        held = sorted(attempt.id for attempt in self.do(self.store.running()))
        assert held == sorted(job.attempt.id for job in self.jobs.values() if job.attempt)

    @invariant()
    def every_history_is_whole_and_legal(self) -> None:
        for job_id in self.jobs:
            events = self.do(history(self.store, job_id))
            words = [event.topic.removeprefix("job.") for event in events if event.topic.startswith("job.")]
            states = [JobState(word) for word in words if word not in {"released", "cancelling"}]
            assert states[0] is self.jobs[job_id].began
            assert all(new in JOB_TRANSITIONS[old] for old, new in pairwise(states))
            assert states[-1] is self.jobs[job_id].state


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
