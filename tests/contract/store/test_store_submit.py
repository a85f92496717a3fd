"""Jobs accepted by the store."""

import asyncio

import pytest

from moorage.errors import AppUnavailable, DependencyFailed, IdempotencyConflict, NotFound
from moorage.model.apps import App
from moorage.model.jobs import FileRef, Job, JobSpec
from moorage.model.limits import GIB, Limits, Timeouts
from moorage.model.states import AttemptState, JobState
from moorage.store.base import Store
from moorage.store.rows import spec_text
from tests.contract.store.steps import Clock, builder, claim, end, history, run, submit, topics

pytestmark = pytest.mark.anyio


async def test_a_job_is_read_back_as_it_was_given(store: Store, clock: Clock):
    clock.now = 7.125
    job = await submit(
        store,
        owner="bob",
        parameters={"kwargs": {"z": 1, "a": [None, 1.5, "\udcff", True]}},
        inputs=(FileRef(path="b/ü.txt", digest="e" * 64, size=1 << 40),),
        limits=Limits(cpus=0.5, memory=2 * GIB),
        timeouts=Timeouts(queue=1.0, execution=None, total=9.5),
        isolation="host",
        lost_retries=0,
        labels={"k": "v"},
        parent_id="job_0",
    )
    read = await store.get_job(job.id)
    assert read == job
    assert list(read.spec.parameters["kwargs"]) == ["z", "a"]
    assert (read.owner, read.state, read.created_at, read.seq) == ("bob", JobState.QUEUED, 7.125, 1)
    assert read.layers == {"python": "py-1"}
    (event,) = await history(store, job.id)
    assert (event.topic, event.time) == ("job.queued", 7.125)


async def test_unknown_jobs_are_not_found(store: Store):
    for ask in (
        store.get_job, store.attempts, store.outputs, store.waiting_for, store.ahead_of,
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await ask("no")
    with pytest.raises(NotFound):
        await store.claim("no", place="here")
    with pytest.raises(NotFound):
        await store.cancel("no", message="x")
    with pytest.raises(NotFound):
        await store.submit("no", builder(), owner="ann")


async def test_a_refusal_of_the_builder_leaves_nothing(store: Store):
    def refuse(app: App) -> Job:
        raise AppUnavailable(f"{app.name} takes no jobs.")

    with pytest.raises(AppUnavailable, match="counter takes no jobs"):
        await store.submit("app_1", refuse, owner="ann")
    assert (await store.job_counts())[JobState.QUEUED] == 0


async def test_the_same_request_is_accepted_once(store: Store):
    kwargs = {"parameters": {"a": 1, "b": (2, 3)}}
    by_key = [await store.submit("app_1", builder(**kwargs), owner="ann", idempotency_key="k") for _ in range(2)]
    by_id = [await store.submit("app_1", builder(**kwargs), owner="ann", job_id="mine") for _ in range(2)]
    other = await store.submit("app_1", builder(**kwargs), owner="bob", idempotency_key="k")
    assert [new for _, new in by_key] == [new for _, new in by_id] == [True, False]
    assert by_key[0][0].id == by_key[1][0].id
    assert by_id[1][0] == await store.get_job("mine")
    assert other[1]
    assert (await store.job_counts())[JobState.QUEUED] == 3
    assert await topics(store, "mine") == ["job.queued"]


async def test_an_id_finds_its_job_whatever_key_comes_with_it(store: Store):
    await submit(store, "mine")
    job, new = await store.submit("app_1", builder(), owner="ann", job_id="mine", idempotency_key="later")
    assert (job.id, new) == ("mine", False)


async def test_the_order_of_keys_does_not_make_another_request(store: Store):
    await store.submit("app_1", builder(parameters={"a": 1, "b": 2}), owner="ann", job_id="mine")
    _, new = await store.submit("app_1", builder(parameters={"b": 2, "a": 1}), owner="ann", job_id="mine")
    assert not new


@pytest.mark.parametrize("changed", [{"a": 2}, {"a": True}, {"a": 1.0}, {"a": 1, "b": None}, {}])
async def test_a_different_request_under_the_same_name_is_a_conflict(store: Store, changed: dict[str, object]):
    await store.submit("app_1", builder(parameters={"a": 1}), owner="ann", job_id="mine", idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await store.submit("app_1", builder(parameters=changed), owner="ann", job_id="mine")
    with pytest.raises(IdempotencyConflict):
        await store.submit("app_1", builder(parameters=changed), owner="ann", idempotency_key="k")


async def test_a_spec_is_written_as_it_is_whatever_was_written_before():
    specs = [JobSpec(app_id="a", timeouts=Timeouts(execution=value)) for value in (77, 77.0, 77)]
    assert [spec_text(spec).count('"execution":77,') for spec in specs] == [1, 0, 1]


async def test_the_name_of_anothers_job_is_a_conflict(store: Store):
    await submit(store, "mine", owner="ann")
    with pytest.raises(IdempotencyConflict):
        await store.submit("app_1", builder("mine"), owner="bob", job_id="mine")
    with pytest.raises(IdempotencyConflict):
        await store.submit("app_1", builder("mine"), owner="ann")
    with pytest.raises(IdempotencyConflict):
        await store.submit("app_1", builder(), owner="ann", job_id="app_1")


async def test_a_repeated_request_gets_the_job_as_it_is_now(store: Store):
    await submit(store, "mine")
    await run(store, "mine", AttemptState.SUCCEEDED)
    job, new = await store.submit("app_1", builder(), owner="ann", job_id="mine")
    assert (job.state, new) == (JobState.SUCCEEDED, False)


async def test_a_job_waits_for_the_jobs_it_runs_after(store: Store):
    first, second = await submit(store, "first"), await submit(store, "second")
    follower = await submit(store, "follower", after=("first", "second", "first"))
    assert await store.waiting_for("follower") == ["first", "second"]
    assert await store.ready(10) == [first, second]
    assert await store.claim("follower", place="here") is None
    await run(store, "first", AttemptState.SUCCEEDED)
    assert await store.waiting_for("follower") == ["second"]
    assert follower.id not in [job.id for job in await store.ready(10)]
    await run(store, "second", AttemptState.SUCCEEDED)
    assert await store.waiting_for("follower") == []
    assert [job.id for job in await store.ready(10)] == ["follower"]
    assert await topics(store, "follower") == ["job.queued", "job.released"]


async def test_a_job_may_run_after_one_that_has_succeeded(store: Store):
    await submit(store, "first")
    await run(store, "first", AttemptState.SUCCEEDED)
    await submit(store, "follower", after=("first",))
    assert [job.id for job in await store.ready(10)] == ["follower"]


async def test_a_job_cannot_run_after_one_that_is_unknown_or_did_not_succeed(store: Store):
    await submit(store, "failed")
    await run(store, "failed", AttemptState.FAILED)
    await submit(store, "cancelled")
    await store.cancel("cancelled", message="x")
    for leader, error in (("no", NotFound), ("failed", DependencyFailed), ("cancelled", DependencyFailed)):
        with pytest.raises(error, match=leader):
            await submit(store, "follower", after=(leader,))
    with pytest.raises(NotFound):
        await submit(store, "follower", after=("follower",))
    with pytest.raises(NotFound):
        await store.get_job("follower")


@pytest.mark.parametrize("how", ["failed", "cancelled", "expired", "cancelled while running"])
async def test_followers_fail_down_the_line_when_a_job_does_not_succeed(store: Store, clock: Clock, how: str):
    await submit(store, "first", timeouts=Timeouts(queue=5.0))
    await submit(store, "bystander")
    await submit(store, "second", after=("first",))
    await submit(store, "third", after=("second", "bystander"))
    await submit(store, "fourth", after=("third", "second"))
    await _spoil(store, clock, how)
    for job_id, leader in (("second", "first"), ("third", "second"), ("fourth", "second")):
        job = await store.get_job(job_id)
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error.code == "dependency_failed"
        assert leader in job.error.message
        assert await topics(store, job_id) == ["job.queued", "job.failed"]
    await run(store, "bystander", AttemptState.SUCCEEDED)
    assert await store.ready(10) == []


async def _spoil(store: Store, clock: Clock, how: str) -> None:
    if how == "failed":
        await run(store, "first", AttemptState.FAILED)
    elif how == "cancelled":
        await store.cancel("first", message="x")
    elif how == "expired":
        clock.now += 5
        assert await store.expire(clock.now) == ["first"]
    else:
        attempt = await claim(store, "first")
        await store.cancel("first", message="x")
        await end(store, attempt, AttemptState.CANCELLED)


async def test_a_long_line_of_followers_fails_at_once(store: Store):
    await submit(store, "job-0")
    await asyncio.gather(*(submit(store, f"job-{number}", after=(f"job-{number - 1}",)) for number in range(1, 1_500)))
    await store.cancel("job-0", message="x")
    counts = await store.job_counts()
    assert (counts[JobState.CANCELLED], counts[JobState.FAILED]) == (1, 1_499)


async def test_many_followers_of_one_job_are_released_at_once(store: Store):
    await submit(store, "first")
    await asyncio.gather(*(submit(store, f"job-{number}", after=("first",)) for number in range(250)))
    await run(store, "first", AttemptState.SUCCEEDED)
    assert [job.id for job in await store.ready(300)] == [f"job-{number}" for number in range(250)]
