"""Jobs as their owners know them: side by side, one after another, retried, cancelled, limited in time."""

import asyncio
import dataclasses

import pytest

from moorage.errors import (
    AppUnavailable,
    DependencyFailed,
    HostIsolationForbidden,
    IdempotencyConflict,
    Infeasible,
    JobFinished,
)
from moorage.model.callers import LOCAL, NODE_USER
from moorage.model.jobs import JobSpec
from moorage.model.limits import Limits, Timeouts
from moorage.model.states import AppState, JobState
from tests.acceptance.conftest import SMALL, Lab

pytestmark = pytest.mark.anyio


async def test_forty_jobs_of_one_app_at_once_never_see_each_others_files(lab: Lab):
    app = await lab.app("""
import json, os, sys, time
mine = json.load(sys.stdin)["mine"]
open("beside.txt", "x").write(mine)
open("input/own.txt", "a").write(mine)
open(f"output/{mine}.txt", "x").write(open("input/own.txt").read())
time.sleep(0.2)
assert open("beside.txt").read() == mine
assert os.listdir("output") == [f"{mine}.txt"], os.listdir("output")
assert os.listdir("input") == ["own.txt"]
""")
    limits = dataclasses.replace(SMALL, cpus=0.25)
    jobs = await asyncio.gather(
        *(lab.submit(app, inputs={"own.txt": b"start"}, kwargs={"mine": f"job{n}"}, limits=limits) for n in range(40))
    )
    ended = await asyncio.gather(*(lab.finish(job) for job in jobs))
    for number, done in enumerate(ended):
        assert done.job.state is JobState.SUCCEEDED, done.stderr
        assert done.outputs == {f"job{number}.txt": f"startjob{number}".encode()}


async def test_a_history_tells_every_state_in_order_and_without_gaps(lab: Lab):
    done = await lab.run(await lab.app("print('hi')"))
    assert done.topics == [
        "job.queued",
        "job.running",
        "attempt.placed",
        "attempt.preparing",
        "attempt.running",
        "attempt.collecting",
        "attempt.succeeded",
        "job.succeeded",
    ]
    assert [event.seq for event in done.events] == list(range(1, 9))
    assert done.attempt.exit_status == 0
    assert done.attempt.usage.wall > 0
    assert done.attempt.usage.cpu is not None
    assert done.attempt.usage.peak_memory is not None


async def test_a_job_that_runs_after_another_gets_its_outputs_as_inputs(lab: Lab):
    first = await lab.app(
        "import time\ntime.sleep(0.5)\nimport os\nos.mkdir('output/sub')\nopen('output/sub/n', 'w').write('41')"
    )
    second = await lab.app("print(int(open('input/sub/n').read()) + len(open('input/own').read()))")
    job_a = await lab.submit(first)
    job_b = await lab.submit(second, inputs={"own": b"x"}, after=(job_a.id,))
    waiting = await lab.node.get_job(job_b.id, caller=LOCAL)
    assert waiting.pending_reason == f"It runs after {job_a.id}."
    assert (await lab.finish(job_b)).stdout == b"42\n"


async def test_a_job_whose_predecessor_fails_fails_with_the_reason(lab: Lab):
    failing = await lab.app("import time\ntime.sleep(0.3)\nraise SystemExit(3)")
    job_a = await lab.submit(failing)
    job_b = await lab.submit(failing, after=(job_a.id,))
    job_c = await lab.submit(failing, after=(job_b.id,))
    assert (await lab.node.finished_job(job_a.id)).error.message == "Job failed with exit code 3"
    for job in (job_b, job_c):
        ended = await lab.node.finished_job(job.id)
        assert (ended.state, ended.error.code) == (JobState.FAILED, "dependency_failed")
    with pytest.raises(DependencyFailed):
        await lab.submit(failing, after=(job_a.id,))


async def test_a_queued_job_says_what_it_waits_for_and_runs_when_there_is_room(lab: Lab):
    app = await lab.app("import time\ntime.sleep(0.5)")
    everything = Limits(cpus=64)
    first = await lab.submit(app, limits=everything)
    second = await lab.submit(app, limits=everything)
    third = await lab.submit(app, limits=everything)
    while (await lab.node.get_job(first.id, caller=LOCAL)).state is JobState.QUEUED:
        await lab.node.feed.wait(first.id, 1)
    reason = (await lab.node.get_job(second.id, caller=LOCAL)).pending_reason
    assert reason == "Needs 64 cpus, 0 of 64 are free."
    why = await lab.node.why(third.id, caller=LOCAL)
    assert why.summary == "1 job comes before it; needs 64 cpus, 0 of 64 are free."
    assert why.ahead == 1
    assert why.refusal.exhausted == {"cpus": 1}
    assert (await lab.finish(third)).job.state is JobState.SUCCEEDED


async def test_a_job_that_this_node_could_never_run_is_refused_at_once(lab: Lab):
    app = await lab.app("pass")
    with pytest.raises(Infeasible, match="needs 65 cpus"):
        await lab.submit(app, limits=Limits(cpus=65))


async def test_jobs_are_cancelled_at_every_stage(lab: Lab):
    app = await lab.app("print('up', flush=True)\nimport time\ntime.sleep(60)")
    everything = Limits(cpus=64)
    running = await lab.submit(app, limits=everything)
    queued = await lab.submit(app, limits=everything)
    async for _ in lab.node.logs(running.id, caller=LOCAL, follow=True):
        break
    cancelled = await lab.node.cancel(queued.id, caller=LOCAL)
    assert cancelled.state is JobState.CANCELLED
    await lab.node.cancel(running.id, caller=LOCAL)
    done = await lab.finish(running)
    assert done.job.state is JobState.CANCELLED
    assert done.job.error.message == "Job cancelled"
    assert done.stdout == b"up\n"
    with pytest.raises(JobFinished):
        await lab.node.cancel(running.id, caller=LOCAL)


async def test_a_cancel_at_any_moment_of_the_start_ends_the_job(lab: Lab):
    app = await lab.app("import time\ntime.sleep(60)")
    for turns in range(12):
        job = await lab.submit(app)
        for _ in range(turns):
            await asyncio.sleep(0)
        await lab.node.cancel(job.id, caller=LOCAL)
        async with asyncio.timeout(30):
            ended = await lab.node.finished_job(job.id)
        assert ended.state is JobState.CANCELLED, turns


async def test_queue_and_total_timeouts_end_waiting_jobs(lab: Lab):
    app = await lab.app("import time\ntime.sleep(5)")
    everything = Limits(cpus=64)
    blocker = await lab.submit(app, limits=everything)
    spec = JobSpec(app_id=app.id, parameters={}, limits=everything, timeouts=Timeouts(queue=0.2))
    in_queue, _ = await lab.node.submit(spec, caller=LOCAL)
    in_total, _ = await lab.node.submit(dataclasses.replace(spec, timeouts=Timeouts(total=0.2)), caller=LOCAL)
    assert (await lab.node.finished_job(in_queue.id)).error.code == "queue_timeout"
    assert (await lab.node.finished_job(in_total.id)).error.code == "total_timeout"
    await lab.node.cancel(blocker.id, caller=LOCAL)
    await lab.node.finished_job(blocker.id)


async def test_a_running_job_is_ended_by_its_total_timeout(lab: Lab):
    app = await lab.app("import time\ntime.sleep(60)")
    job, _ = await lab.node.submit(
        JobSpec(app_id=app.id, parameters={}, limits=SMALL, timeouts=Timeouts(total=1.5)), caller=LOCAL
    )
    assert (await lab.node.finished_job(job.id)).error.code == "total_timeout"


async def test_the_same_key_gives_the_same_job_and_a_different_request_is_refused(lab: Lab):
    app = await lab.app("print('once')")
    spec = JobSpec(app_id=app.id, parameters={"kwargs": {"n": 1}}, limits=SMALL)
    first, created = await lab.node.submit(spec, caller=LOCAL, idempotency_key="k")
    again, repeated = await lab.node.submit(spec, caller=LOCAL, idempotency_key="k")
    assert (created, repeated, first.id) == (True, False, again.id)
    other = dataclasses.replace(spec, parameters={"kwargs": {"n": 2}})
    with pytest.raises(IdempotencyConflict):
        await lab.node.submit(other, caller=LOCAL, idempotency_key="k")
    await lab.finish(first)


async def test_a_retry_is_a_new_job_with_the_same_request(lab: Lab):
    app = await lab.app("import sys, json\nprint(json.load(sys.stdin)['n'])")
    first = await lab.run(app, kwargs={"n": 7})
    second = await lab.finish(await lab.node.retry(first.job.id, caller=LOCAL))
    assert second.job.retry_of == first.job.id
    assert second.stdout == b"7\n"


async def test_five_hundred_jobs_queue_instead_of_drowning_the_machine(lab: Lab):
    app = await lab.app("pass")
    jobs = await asyncio.gather(*(lab.submit(app, limits=Limits(cpus=16, memory=64 << 20)) for _ in range(500)))
    most = 0
    while not (await lab.node.store.get_job(jobs[-1].id)).state.terminal:
        most = max(most, (await lab.node.info()).places[0].running)
        await asyncio.sleep(0.02)
    ended = [await lab.node.finished_job(job.id) for job in jobs]
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert 1 <= most <= 4


async def test_only_the_nodes_own_user_may_ask_for_a_job_without_isolation(lab: Lab):
    app = await lab.app("import os\nprint(os.getpid() > 2)")
    spec = JobSpec(app_id=app.id, limits=SMALL, isolation="host")
    with pytest.raises(HostIsolationForbidden):
        await lab.node.submit(spec, caller=LOCAL)
    job, _ = await lab.node.submit(spec, caller=NODE_USER)
    assert (await lab.finish(job)).stdout == b"True\n"


async def test_a_repeated_request_finds_its_job_even_when_the_app_takes_no_more(lab: Lab):
    app = await lab.app("print('once')")
    spec = JobSpec(app_id=app.id, limits=SMALL)
    first, _ = await lab.node.submit(spec, caller=LOCAL, idempotency_key="before it is hidden")
    await lab.finish(first)
    for state in (AppState.PUBLISHED, AppState.HIDDEN):
        await lab.node.change_app(app.id, state, caller=LOCAL)
    again, created = await lab.node.submit(spec, caller=LOCAL, idempotency_key="before it is hidden")
    assert (again.id, created) == (first.id, False)
    with pytest.raises(AppUnavailable, match="HIDDEN"):
        await lab.node.submit(spec, caller=LOCAL, idempotency_key="a new one")
