"""Attempts in the store, and what they make of their jobs."""

import pytest

from moorage.errors import IllegalTransition, JobFinished, LeaseLost
from moorage.model.jobs import Attempt, ErrorInfo, FileRef, Result, Usage
from moorage.model.limits import Timeouts
from moorage.model.states import ATTEMPT_TRANSITIONS, AppState, AttemptState, JobState
from moorage.store.base import Store
from tests.contract.store.steps import BROKEN, WAY, Clock, bring, claim, end, history, run, submit, topics

pytestmark = pytest.mark.anyio

ENDS = [state for state in AttemptState if state.terminal]


async def begun(store: Store, state: AttemptState = AttemptState.PLACED, **spec: object) -> Attempt:
    """Give an attempt in a state; a lost one is not tried again."""
    attempt = await claim(store, (await submit(store, **{"lost_retries": 0, **spec})).id)  # type: ignore[arg-type]
    if state.terminal:
        await end(store, attempt, state)
    else:
        await bring(store, attempt, state)
    return attempt


async def test_a_claim_makes_the_job_running_and_gives_out_its_lease(store: Store, clock: Clock):
    job = await submit(store, "mine")
    clock.now += 3
    attempt = await claim(store, "mine")
    assert await store.attempts("mine") == [attempt]
    assert await store.running() == [attempt]
    assert (attempt.number, attempt.state, attempt.place) == (1, AttemptState.PLACED, "here")
    assert attempt.created_at == clock.now
    running = await store.get_job("mine")
    assert (running.state, running.attempts, running.started_at) == (JobState.RUNNING, 1, clock.now)
    assert running.created_at == job.created_at
    events = await history(store, "mine")
    assert [event.topic for event in events] == ["job.queued", "job.running", "attempt.placed"]
    assert events[-1].attempt_id == attempt.id


@pytest.mark.parametrize("state", JobState)
async def test_only_a_queued_job_can_be_claimed(store: Store, state: JobState):
    await submit(store, "mine")
    if state is JobState.CANCELLED:
        await store.cancel("mine", message="x")
    elif state is not JobState.QUEUED:
        attempt = await claim(store, "mine")
        if state is not JobState.RUNNING:
            await end(store, attempt, AttemptState(state))
    again = await store.claim("mine", place="here")
    assert (again is not None) == (state is JobState.QUEUED)


@pytest.mark.parametrize("old", AttemptState)
@pytest.mark.parametrize("new", AttemptState)
async def test_an_attempt_changes_state_as_its_table_says(store: Store, old: AttemptState, new: AttemptState):
    attempt = await begun(store, old)
    before = await topics(store, attempt.job_id)

    async def change() -> None:
        if new.terminal:
            await store.finish(attempt, new, Result())
        else:
            await store.advance(attempt, new, message="On.")

    if new in ATTEMPT_TRANSITIONS[old]:
        await change()
        (after,) = await store.attempts(attempt.job_id)
        assert after.state is new
        assert f"attempt.{new}" in (await topics(store, attempt.job_id))[len(before) :]
    else:
        with pytest.raises(LeaseLost if old.terminal else IllegalTransition):
            await change()
        (after,) = await store.attempts(attempt.job_id)
        assert after.state is old
        assert await topics(store, attempt.job_id) == before


@pytest.mark.parametrize("state", AttemptState)
async def test_an_attempt_ends_with_a_result_and_never_without(store: Store, state: AttemptState):
    attempt = await begun(store)
    change = store.advance(attempt, state, message="x") if state.terminal else store.finish(attempt, state, Result())
    with pytest.raises(IllegalTransition):
        await change
    assert (await store.get_job(attempt.job_id)).state is JobState.RUNNING


async def test_all_of_a_result_is_kept(store: Store, clock: Clock):
    attempt = await claim(store, (await submit(store, "mine")).id)
    clock.now += 1
    await bring(store, attempt, AttemptState.RUNNING)
    clock.now += 2
    await store.advance(attempt, AttemptState.COLLECTING, message="x")
    clock.now += 4
    outputs = tuple(FileRef(path=path, digest="f" * 64, size=1) for path in ("z", "a/b", "a"))
    stdout = FileRef(path="stdout", digest="1" * 64, size=1)
    stderr = FileRef(path="stderr", digest="2" * 64, size=2)
    usage = Usage(wall=2.5, cpu=1.25, peak_memory=1 << 33)
    result = Result(exit_status=0, usage=usage, outputs=outputs, value={"answer": [42]})
    await store.finish(attempt, AttemptState.SUCCEEDED, result, stdout=stdout, stderr=stderr)
    job = await store.get_job(attempt.job_id)
    assert job == await store.get_job("mine")
    assert (job.state, job.value, job.error) == (JobState.SUCCEEDED, {"answer": [42]}, None)
    assert (job.started_at, job.finished_at) == (1_000.0, 1_007.0)
    (kept,) = await store.attempts("mine")
    assert (kept.exit_status, kept.usage, kept.stdout, kept.stderr) == (0, usage, stdout, stderr)
    assert (kept.started_at, kept.finished_at, kept.error) == (1_001.0, 1_007.0, None)
    assert [file.path for file in await store.outputs("mine")] == ["a", "a/b", "z"]
    assert await store.running() == []
    assert (await topics(store, "mine"))[2:] == [
        "attempt.placed", "attempt.preparing", "attempt.running", "attempt.collecting", "attempt.succeeded",
        "job.succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "becomes", "code"),
    [
        (AttemptState.SUCCEEDED, JobState.SUCCEEDED, None),
        (AttemptState.FAILED, JobState.FAILED, "job_crashed"),
        (AttemptState.TIMED_OUT, JobState.FAILED, "job_timed_out"),
        (AttemptState.CANCELLED, JobState.CANCELLED, "job_cancelled"),
        (AttemptState.LOST, JobState.FAILED, "job_lost"),
    ],
)
async def test_the_job_ends_as_its_attempt_did(store: Store, ends: AttemptState, becomes: JobState, code: str | None):
    attempt = await begun(store)
    job = await end(store, attempt, ends)
    assert job.state is becomes
    assert (job.error and job.error.code) == code
    assert job.finished_at is not None
    (kept,) = await store.attempts(job.id)
    assert kept.error == job.error
    assert (await topics(store, job.id))[-2:] == [f"attempt.{ends}", f"job.{becomes}"]


@pytest.mark.parametrize("ends", [state for state in ENDS if state is not AttemptState.SUCCEEDED])
async def test_the_result_says_why_it_failed(store: Store, ends: AttemptState):
    job = await end(store, await begun(store), ends, error=BROKEN, exit_status=-9)
    assert job.error == BROKEN
    attempt_ended, job_ended = (await history(store, job.id))[-2:]
    assert attempt_ended.error == job_ended.error == BROKEN


async def test_a_job_that_has_not_run_left_nothing(store: Store):
    await submit(store, "mine")
    assert await store.attempts("mine") == []
    assert await store.outputs("mine") == []
    await run(store, "mine", AttemptState.FAILED)
    assert await store.outputs("mine") == []


async def test_a_lost_attempt_puts_the_job_back_into_the_queue_at_its_old_place(store: Store, clock: Clock):
    first, second = await submit(store, "first"), await submit(store, "second")
    attempt = await claim(store, "first")
    clock.now += 5
    job = await end(store, attempt, AttemptState.LOST)
    assert (job.state, job.attempts, job.error, job.finished_at) == (JobState.QUEUED, 1, None, None)
    assert [job.id for job in await store.ready(10)] == [first.id, second.id]
    assert (await topics(store, "first"))[-2:] == ["attempt.lost", "job.queued"]
    again = await claim(store, "first")
    assert again.number == 2
    assert again.lease > attempt.lease
    assert [each.state for each in await store.attempts("first")] == [AttemptState.LOST, AttemptState.PLACED]
    assert (await store.get_job("first")).started_at == 1_000.0


@pytest.mark.parametrize("retries", [0, 1, 2])
async def test_a_job_is_lost_for_good_when_its_retries_are_used_up(store: Store, retries: int):
    await submit(store, "mine", lost_retries=retries)
    for _ in range(retries):
        assert (await run(store, "mine", AttemptState.LOST)).state is JobState.QUEUED
    job = await run(store, "mine", AttemptState.LOST)
    assert (job.state, job.attempts) == (JobState.FAILED, retries + 1)
    assert job.error is not None
    assert job.error.code == "job_lost"


async def test_the_outputs_are_those_of_the_last_attempt(store: Store):
    await submit(store, "mine")
    old, new = (FileRef(path=path, digest="f" * 64, size=1) for path in ("old", "new"))
    await end(store, await claim(store, "mine"), AttemptState.LOST, outputs=(old,))
    assert await store.outputs("mine") == [old]
    attempt = await claim(store, "mine")
    assert await store.outputs("mine") == []
    await end(store, attempt, AttemptState.FAILED, outputs=(new,))
    assert await store.outputs("mine") == [new]


async def test_an_attempt_without_the_lease_is_refused(store: Store):
    await submit(store, "mine")
    stale = await claim(store, "mine")
    await store.finish(stale, AttemptState.LOST, Result())
    before = await topics(store, "mine")
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await store.advance(stale, AttemptState.PREPARING, message="x")
        with pytest.raises(LeaseLost):
            await store.finish(stale, AttemptState.SUCCEEDED, Result(value="stale"))
        assert await topics(store, "mine") == before
        current = await store.claim("mine", place="there")
        before = await topics(store, "mine")
    assert current is None
    assert (await store.get_job("mine")).value is None


async def test_a_queued_job_is_cancelled_at_once(store: Store, clock: Clock):
    await submit(store, "mine")
    clock.now += 1
    job = await store.cancel("mine", message="ann cancelled it.")
    assert job == await store.get_job("mine")
    assert (job.state, job.finished_at) == (JobState.CANCELLED, clock.now)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("job_cancelled", "Job cancelled")
    assert (await history(store, "mine"))[-1].message == "ann cancelled it."
    assert await store.ready(10) == []


async def test_a_waiting_job_is_cancelled_and_its_leader_goes_on(store: Store):
    await submit(store, "first")
    await submit(store, "second", after=("first",))
    await store.cancel("second", message="x")
    assert (await run(store, "first", AttemptState.SUCCEEDED)).state is JobState.SUCCEEDED
    assert await topics(store, "second") == ["job.queued", "job.cancelled"]


@pytest.mark.parametrize("state", WAY)
@pytest.mark.parametrize("ends", ENDS)
async def test_a_running_job_is_asked_to_stop_and_ends_as_its_attempt_does(
    store: Store, state: AttemptState, ends: AttemptState
):
    attempt = await begun(store, state, lost_retries=5)
    for _ in range(2):
        assert (await store.cancel(attempt.job_id, message="Stop.")).state is JobState.RUNNING
    assert (await topics(store, attempt.job_id)).count("job.cancelling") == 1
    if ends is AttemptState.SUCCEEDED:
        for step in WAY[WAY.index(state) + 1 :]:
            await store.advance(attempt, step, message="x")
    await store.finish(attempt, ends, Result())
    job = await store.get_job(attempt.job_id)
    stopped = ends in {AttemptState.CANCELLED, AttemptState.LOST}
    assert job.state is (
        JobState.CANCELLED if stopped else JobState.SUCCEEDED if ends is AttemptState.SUCCEEDED else JobState.FAILED
    )
    assert not stopped or (job.error and job.error.code) == "job_cancelled"


@pytest.mark.parametrize("ends", ENDS)
async def test_a_job_that_has_ended_cannot_be_cancelled(store: Store, ends: AttemptState):
    attempt = await begun(store, ends)
    before = await topics(store, attempt.job_id)
    with pytest.raises(JobFinished):
        await store.cancel(attempt.job_id, message="x")
    assert await topics(store, attempt.job_id) == before


async def test_a_lost_job_of_an_app_that_is_gone_is_cancelled_and_not_tried_again(store: Store):
    await submit(store, "mine", lost_retries=5)
    attempt = await claim(store, "mine")
    await store.transition_app("app_1", AppState.REMOVED, message="x")
    job = await end(store, attempt, AttemptState.LOST)
    assert job.state is JobState.CANCELLED
    assert job.error is not None
    assert job.error.code == "app_unavailable"


@pytest.mark.parametrize(
    ("timeouts", "due", "code"),
    [
        (Timeouts(queue=10.0), 10.0, "queue_timeout"),
        (Timeouts(total=20.0), 20.0, "total_timeout"),
        (Timeouts(queue=10.0, total=20.0), 10.0, "queue_timeout"),
        (Timeouts(queue=20.0, total=10.0), 10.0, "total_timeout"),
    ],
)
async def test_a_queued_job_expires_when_its_time_is_up(
    store: Store, clock: Clock, timeouts: Timeouts, due: float, code: str
):
    submitted = clock.now
    await submit(store, "patient")
    await submit(store, "mine", timeouts=timeouts)
    assert await store.next_expiry() == submitted + due
    assert await store.expire(submitted + due - 0.5) == []
    clock.now += due
    assert await store.expire(clock.now) == ["mine"]
    job = await store.get_job("mine")
    assert (job.state, job.finished_at, job.error and job.error.code) == (JobState.FAILED, clock.now, code)
    assert await store.next_expiry() is None
    assert await store.expire(clock.now) == []


async def test_a_waiting_job_expires_too(store: Store):
    await submit(store, "first")
    await submit(store, "second", after=("first",), timeouts=Timeouts(queue=1.0))
    assert await store.expire(2_000.0) == ["second"]


async def test_a_running_job_does_not_expire_and_a_lost_one_has_only_its_total_timeout(store: Store, clock: Clock):
    await submit(store, "mine", timeouts=Timeouts(queue=5.0, total=50.0))
    await submit(store, "other", timeouts=Timeouts(queue=5.0))
    attempts = [await claim(store, "mine"), await claim(store, "other")]
    assert await store.next_expiry() is None
    assert await store.expire(9_999.0) == []
    for attempt in attempts:
        await end(store, attempt, AttemptState.LOST)
    assert await store.next_expiry() == 1_050.0
    assert await store.expire(1_049.0) == []
    assert await store.expire(1_050.0) == ["mine"]
    error = (await store.get_job("mine")).error
    assert isinstance(error, ErrorInfo)
    assert error.code == "total_timeout"
