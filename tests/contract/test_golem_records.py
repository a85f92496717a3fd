"""What is remembered of Golem tasks, step by step, and what that withstands (contract, sections 2.2 to 2.9)."""

import asyncio
import itertools
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest

from moorage.errors import DatabaseTooNew, DiskFull, IllegalTransition, NotFound, StoreUnavailable
from moorage.networks.golem.identities import new_subtask_id, new_task_id
from moorage.networks.golem.records.model import Benchmark, Counts, Subtask, Task
from moorage.networks.golem.records.records import FILE, Records
from moorage.networks.golem.states import SubtaskStatus, TaskStatus
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
ZERO: Counts = {"failures": 0, "failures_in_row": 0, "losses_in_row": 0}
JOB = "job_1"
S, T = SubtaskStatus, TaskStatus


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def records(tmp_path: Path, clock: Clock) -> AsyncIterator[Records]:
    records = Records.open(tmp_path, clock=clock)
    yield records
    await records.close()


def a_task(job_id: str = JOB, **fields: Any) -> Task:
    base = Task(
        id=job_id,
        task_id=new_task_id(),
        app_id="ab" * 16,
        app_digest="cd" * 32,
        name="demo",
        owner="ann",
        file={"golem": {"task_timeout": 600, "max_subtasks": 4}, "app": {"b": 1.0, "a": "1", "ü": [None, 2**70]}},
        status=T.CREATING,
        created_at=990.0,
    )
    return replace(base, **fields)


async def waiting(records: Records, job_id: str = JOB, **fields: Any) -> Task:
    await records.create(a_task(job_id, **fields))
    await records.creating(job_id)
    return await records.created(job_id, env_id="docker_cpu", prerequisites='{"image": "x"}', min_memory=7)


async def assigned(records: Records, job_id: str = JOB, **fields: Any) -> Subtask:
    subtask_id = new_subtask_id()
    await records.ask(job_id, subtask_id, slot=2, node_id="ef" * 32)
    told: dict[str, Any] = {"parameters": "{}", "resources": (), "deadline": 1100.0, "slots": (2,), "jobs": ("job_2",)}
    return await records.assign(subtask_id, **{**told, **fields})


async def brought_to(records: Records, status: SubtaskStatus) -> Subtask:
    """Give a subtask that has got so far."""
    subtask = await assigned(records)
    if status in {S.VERIFYING, S.FINISHED}:
        subtask = await records.verifying(subtask.id, file="x.zip", size=3)
    if status is S.RESTARTED:
        await records.restart_subtasks(JOB, [subtask.id])
    elif status is not subtask.status:
        await records.conclude(subtask.id, status, **ZERO)
    return known(records, subtask.id)


def known(records: Records, subtask_id: str) -> Subtask:
    subtask = records.subtask(subtask_id)
    assert subtask is not None
    return subtask


def task_of(records: Records, job_id: str = JOB) -> Task:
    task = records.get(job_id)
    assert task is not None
    return task


# tasks


async def test_a_task_is_as_it_was_given(records: Records) -> None:
    given = a_task(publish_to="/out")
    made = await records.create(given)
    assert made == replace(given, updated_at=1000.0) == records.get(JOB)
    assert task_of(records).parameters == '{"b": 1.0, "a": "1", "\\u00fc": [null, 1180591620717411303424]}'
    assert records.get("job_2") is None


async def test_a_task_waits_once_its_app_has_created_it_and_its_clock_runs_from_then_on(
    records: Records, clock: Clock
) -> None:
    await records.create(a_task())
    task = await records.creating(JOB)
    assert (task.creation, task.creations, task.status) == ("sent", 1, T.CREATING)
    clock.now = 1050.0
    task = await records.created(JOB, env_id="docker_cpu", prerequisites='{"image": "x"}', min_memory=2**31)
    assert (task.creation, task.status, task.started_at, task.deadline) == ("replied", T.WAITING, 1050.0, 1650.0)
    assert (task.env_id, task.prerequisites, task.min_memory) == ("docker_cpu", '{"image": "x"}', 2**31)
    assert task == records.get(JOB)


async def test_createtask_is_sent_once_under_each_id(records: Records) -> None:
    first = await records.create(a_task())
    with pytest.raises(IllegalTransition):
        await records.created_anew(JOB, new_task_id())
    await records.creating(JOB)
    with pytest.raises(IllegalTransition):
        await records.creating(JOB)
    task = await records.created_anew(JOB, new_task_id())
    assert task.task_id != first.task_id
    assert (task.creation, task.creations) == ("unsent", 1)
    with pytest.raises(IllegalTransition):
        await records.created(JOB, env_id="docker_cpu", prerequisites="{}", min_memory=0)
    assert (await records.creating(JOB)).creations == 2


async def test_nothing_is_known_of_what_is_not_here(records: Records) -> None:
    for step in (
        records.creating(JOB),
        records.created(JOB, env_id="docker_cpu", prerequisites="{}", min_memory=0),
        records.restarted(JOB),
        records.end(JOB, T.ABORTED),
        records.delete(JOB),
        records.ask(JOB, "s", slot=0, node_id="n"),
        records.verifying("s", file="x", size=1),
        records.asked_verdict("s"),
        records.conclude("s", S.FAILURE, **ZERO),
    ):
        with pytest.raises(NotFound):
            await step
    assert records.subtask("s") is None
    assert records.counts(JOB) == {}
    assert await records.subtasks(JOB) == []


@pytest.mark.parametrize("status", [T.FINISHED, T.ABORTED, T.TIMEOUT])
async def test_a_task_ends_once(records: Records, status: TaskStatus) -> None:
    await waiting(records)
    await records.end(JOB, status, "because of \udc80")
    assert (task_of(records).status, task_of(records).status_message) == (status, "because of \\udc80")
    for again in (T.FINISHED, T.ABORTED, T.TIMEOUT, T.ERROR_CREATING):
        with pytest.raises(IllegalTransition):
            await records.end(JOB, again)
    with pytest.raises(IllegalTransition):
        await records.ask(JOB, new_subtask_id(), slot=0, node_id="n")


async def test_a_task_that_is_not_created_hands_nothing_out(records: Records) -> None:
    await records.create(a_task())
    with pytest.raises(IllegalTransition):
        await records.ask(JOB, new_subtask_id(), slot=0, node_id="n")
    with pytest.raises(IllegalTransition):
        await records.end(JOB, T.FINISHED)
    await records.end(JOB, T.ERROR_CREATING, "no")
    assert task_of(records).status is T.ERROR_CREATING


@pytest.mark.parametrize(
    ("status", "under_way", "code"), [(T.ABORTED, S.CANCELLED, "aborted"), (T.TIMEOUT, S.TIMEOUT, "task_timeout")]
)
async def test_subtasks_under_way_end_with_their_task(
    records: Records, status: TaskStatus, under_way: SubtaskStatus, code: str
) -> None:
    await waiting(records)
    done = await brought_to(records, S.FINISHED)
    ended = [await brought_to(records, S.STARTING), await brought_to(records, S.VERIFYING)]
    asked = new_subtask_id()
    await records.ask(JOB, asked, slot=0, node_id="n")
    await records.end(JOB, status)
    assert [known(records, each.id) for each in ended] == [
        replace(each, status=under_way, code=code, finished_at=1000.0) for each in ended
    ]
    assert known(records, done.id) == done
    assert records.active(JOB) == []
    assert records.asked(JOB) == []
    with pytest.raises(NotFound):
        await records.assign(asked, parameters="{}", resources=(), deadline=0.0, slots=(0,), jobs=("j",))


async def test_tasks_are_listed_by_their_start_and_owner(records: Records, clock: Clock) -> None:
    for number, (owner, start) in enumerate([("ann", 3000.0), ("bob", 2000.0), ("ann", 1000.0)]):
        clock.now = start
        await waiting(records, f"job_{number}", owner=owner)
    await records.create(a_task("job_3", created_at=2500.0))
    await records.end("job_1", T.ABORTED)
    assert [task.id for task in await records.tasks()] == ["job_2", "job_1", "job_3", "job_0"]
    assert [task.id for task in await records.tasks("ann")] == ["job_2", "job_3", "job_0"]
    assert [task.id for task in await records.unfinished()] == ["job_0", "job_2", "job_3"]


async def test_what_becomes_of_a_task_is_kept(records: Records, clock: Clock) -> None:
    await waiting(records)
    clock.now = 1234.0
    await records.restarted(JOB)
    await records.restarted(JOB)
    await records.published(JOB, ["a", "b/ü"])
    await records.restarted_as(JOB, "job_9")
    task = task_of(records)
    assert (task.restarts, task.published, task.stale_outputs, task.restarted_as) == (2, True, ("a", "b/ü"), "job_9")
    assert task.updated_at == 1234.0


async def test_a_deleted_task_leaves_nothing(records: Records, tmp_path: Path) -> None:
    await waiting(records)
    for _ in range(250):
        subtask = await brought_to(records, S.VERIFYING)
        await records.conclude(subtask.id, S.FINISHED, paths=["x"], **ZERO)
    await records.ask(JOB, new_subtask_id(), slot=0, node_id="n")
    with pytest.raises(IllegalTransition):
        await records.delete(JOB)
    await waiting(records, "job_2")
    await records.end(JOB, T.ABORTED)
    await records.delete(JOB)
    with sqlite3.connect(tmp_path / FILE) as connection:
        tables = ("tasks", "files", "asked", "subtasks", "counts", "attributions")
        left = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    connection.close()
    assert left == [1, 1, 0, 0, 0, 0]
    await waiting(records, file={"golem": {"task_timeout": 1}, "app": {}})
    assert task_of(records).file == {"golem": {"task_timeout": 1}, "app": {}}


# from NextSubtask to the verdict


async def test_an_id_is_asked_for_before_there_is_a_subtask(records: Records) -> None:
    await waiting(records)
    refused, open_ = new_subtask_id(), new_subtask_id()
    await records.ask(JOB, refused, slot=0, node_id="n")
    await records.ask(JOB, open_, slot=1, node_id="m")
    assert set(records.asked(JOB)) == {refused, open_}
    await records.refuse(refused)
    assert records.asked(JOB) == [open_]
    assert records.subtask(open_) is None
    assert task_of(records).status is T.WAITING
    with pytest.raises(NotFound):
        await records.assign(refused, parameters="{}", resources=(), deadline=0.0, slots=(0,), jobs=("j",))


async def test_the_first_assignment_makes_the_task_compute(records: Records) -> None:
    await waiting(records)
    told: dict[str, Any] = {"parameters": '{"n": "1"}', "resources": ("b", "a"), "slots": (2, 0), "jobs": ("j", "k")}
    first = await assigned(records, **told)
    assert (first.number, first.status, first.started_at, first.deadline) == (1, S.STARTING, 1000.0, 1100.0)
    assert (first.task, first.node_id, records.asked(JOB)) == (JOB, "ef" * 32, [])
    assert {name: getattr(first, name) for name in told} == told
    second = await assigned(records)
    assert second.number == 2
    assert known(records, first.id) == first
    assert records.active(JOB) == [first, second]
    assert (task_of(records).status, task_of(records).assigned) == (T.COMPUTING, 2)


async def test_a_result_is_verified_until_there_is_a_verdict(records: Records, clock: Clock) -> None:
    await waiting(records)
    subtask = await assigned(records)
    usage = {"wall": 1.5, "cpu": None}
    changed = await records.verifying(subtask.id, file="x.zip", size=3, digest="aa", usage=usage)
    assert changed == replace(subtask, status=S.VERIFYING, file="x.zip", size=3, digest="aa", usage=usage)
    await records.asked_verdict(subtask.id)
    await records.park(subtask.id)
    assert known(records, subtask.id) == replace(changed, verifications=1, parked=True)
    await records.asked_verdict(subtask.id)
    assert known(records, subtask.id) == replace(changed, verifications=2)
    clock.now = 1020.0
    await records.conclude(subtask.id, S.FINISHED, verdict=0, reason="fine", **ZERO)
    assert known(records, subtask.id) == replace(
        changed, status=S.FINISHED, verifications=2, verdict=0, reason="fine", finished_at=1020.0
    )


async def test_a_subtask_that_comes_to_nothing_counts_and_its_abort_is_owed(records: Records, clock: Clock) -> None:
    await waiting(records)
    subtask = await assigned(records)
    clock.now = 1030.0
    counts: Counts = {"failures": 3, "failures_in_row": 2, "losses_in_row": 1}
    await records.conclude(subtask.id, S.RESENT, code="lost", reason="bad \udc80", owed=True, **counts)
    found = known(records, subtask.id)
    assert (found.status, found.code, found.reason, found.owed) == (S.RESENT, "lost", "bad \\udc80", True)
    task = task_of(records)
    assert (task.failures, task.failures_in_row, task.losses_in_row, task.updated_at) == (3, 2, 1, 1030.0)
    assert records.owed(JOB) == [subtask.id]
    await records.abort_told(subtask.id)
    assert records.owed(JOB) == []


ENDS = {S.RESENT, S.FAILURE, S.TIMEOUT, S.CANCELLED, S.FINISHED, S.RESTARTED}


@pytest.mark.parametrize("status", ENDS)
async def test_a_subtask_that_has_ended_takes_nothing_that_comes_late(records: Records, status: SubtaskStatus) -> None:
    await waiting(records)
    subtask = await brought_to(records, status)
    for step in (
        records.verifying(subtask.id, file="x", size=1),
        records.asked_verdict(subtask.id),
        records.park(subtask.id),
        *(records.conclude(subtask.id, end, owed=True, **ZERO) for end in ENDS - {S.RESTARTED}),
    ):
        with pytest.raises(IllegalTransition):
            await step
    assert known(records, subtask.id) == subtask
    assert records.counts(JOB) == {status: 1}


async def test_no_verdict_comes_before_the_result(records: Records) -> None:
    await waiting(records)
    subtask = await assigned(records)
    for step in (
        records.conclude(subtask.id, S.FINISHED, verdict=0, **ZERO),
        records.asked_verdict(subtask.id),
        records.park(subtask.id),
    ):
        with pytest.raises(IllegalTransition):
            await step
    assert known(records, subtask.id) == subtask


async def test_what_is_refused_spoils_nothing_that_is_written_with_it(records: Records) -> None:
    await waiting(records)
    one, two = await assigned(records), await assigned(records)
    done = await asyncio.gather(
        records.verifying(one.id, file="x", size=1),
        records.conclude(one.id, S.RESENT, **ZERO),
        records.verifying(two.id, file="y", size=1),
        return_exceptions=True,
    )
    assert [type(each) for each in done] == [Subtask, IllegalTransition, Subtask]
    assert [each.file for each in records.active(JOB)] == ["x", "y"]


# discards


async def test_only_what_has_or_may_have_a_result_is_restarted(records: Records) -> None:
    await waiting(records)
    await waiting(records, "job_2")
    subtasks = {status: await brought_to(records, status) for status in [S.STARTING, S.VERIFYING, *sorted(ENDS)]}
    kept = await brought_to(records, S.FINISHED)
    foreign = await assigned(records, "job_2")
    named = [subtask.id for subtask in subtasks.values()]
    restarted, finished = await records.restart_subtasks(JOB, [*named, named[0], foreign.id, "unknown"])
    changing = {S.STARTING, S.VERIFYING, S.FINISHED, S.FAILURE}
    assert set(restarted) == {subtask.id for status, subtask in subtasks.items() if status in changing}
    assert len(restarted) == len(changing)
    assert finished == 1
    assert known(records, foreign.id) == foreign
    assert known(records, kept.id) == kept
    assert records.counts(JOB) == {S.RESTARTED: 5, S.FINISHED: 1, S.RESENT: 1, S.CANCELLED: 1, S.TIMEOUT: 1}


async def test_a_discard_is_open_until_its_answer_is_written(records: Records) -> None:
    await waiting(records)
    failed = [await brought_to(records, S.FAILURE) for _ in range(25)]
    lost = await brought_to(records, S.RESENT)
    ids = [each.id for each in failed]
    assert await records.failed_not_discarded(JOB) == ids
    await records.discarding([ids[0], lost.id])
    assert records.discards(JOB) == [ids[0], lost.id]
    assert await records.failed_not_discarded(JOB) == ids[1:]
    assert await records.restart_subtasks(JOB, []) == ((), 0)
    assert records.discards(JOB) == []
    assert known(records, ids[0]).discard == "replied"
    assert await records.failed_not_discarded(JOB) == ids[1:]


async def test_files_belong_to_the_subtasks_with_which_they_came(records: Records) -> None:
    await waiting(records)
    one, two = [await brought_to(records, S.VERIFYING) for _ in range(2)]
    await records.conclude(one.id, S.FINISHED, paths=["a", "all/ü"], **ZERO)
    await records.conclude(two.id, S.FINISHED, paths=["all/ü", "all/ü"], **ZERO)
    pairs = [("a", one.id), ("all/ü", one.id), ("all/ü", two.id)]
    assert await records.attributions(JOB) == (pairs, set())
    await records.restart_subtasks(JOB, [one.id])
    assert await records.attributions(JOB) == (pairs, {one.id})


# benchmarks


async def test_a_score_is_kept_until_another_takes_its_place(records: Records) -> None:
    first = Benchmark(env_id="docker_cpu", prereq_hash="ab", score=1.5, at=1.0)
    other = replace(first, prereq_hash="cd")
    for benchmark in (first, other, replace(first, score=2.5)):
        await records.add_benchmark(benchmark)
    assert records.benchmark("docker_cpu", "ab") == replace(first, score=2.5)
    assert records.benchmark("docker_cpu", "cd") == other
    assert records.benchmark("docker_gpu", "ab") is None
    await records.clear_benchmarks()
    assert records.benchmark("docker_cpu", "cd") is None


# many subtasks


async def test_ten_thousand_subtasks_make_nothing_slower(records: Records) -> None:
    await waiting(records)
    small = await _seconds_a_subtask(records)
    await asyncio.gather(*(_finished(records) for _ in range(10_000)))
    for read in (
        lambda: records.get(JOB),
        lambda: records.counts(JOB),
        lambda: records.active(JOB),
        lambda: records.asked(JOB),
        lambda: records.owed(JOB),
        lambda: records.discards(JOB),
    ):
        assert min(_seconds(read) for _ in range(20)) < 0.0005
    assert await _seconds_a_subtask(records) < 3 * small + 0.01
    assert records.counts(JOB) == {S.FINISHED: 10_040}
    page = await records.subtasks(JOB, after=7_000, limit=25)
    assert [each.number for each in page] == list(range(7_001, 7_026))
    assert [each.number for each in await records.subtasks(JOB)] == list(range(1, 10_041))
    assert len((await records.attributions(JOB))[0]) == 10_040


async def _finished(records: Records) -> None:
    subtask = await assigned(records)
    await records.verifying(subtask.id, file="x", size=1)
    await records.conclude(subtask.id, S.FINISHED, paths=["x"], **ZERO)


async def _seconds_a_subtask(records: Records) -> float:
    taken = []
    for _ in range(20):
        begun = perf_counter()
        await _finished(records)
        taken.append(perf_counter() - begun)
    return median(taken)


def _seconds(read: Any) -> float:
    begun = perf_counter()
    read()
    return perf_counter() - begun


# what it withstands


async def test_everything_is_here_after_a_restart(tmp_path: Path) -> None:
    records = Records.open(tmp_path)
    task = await waiting(records)
    verifying = await brought_to(records, S.VERIFYING)
    await brought_to(records, S.FAILURE)
    await records.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    records = Records.open(tmp_path)
    found = task_of(records)
    assert found == replace(task, status=T.COMPUTING, assigned=2, updated_at=found.updated_at)
    assert records.active(JOB) == [verifying]
    assert records.counts(JOB) == {S.VERIFYING: 1, S.FAILURE: 1}
    await records.close()


async def test_every_acknowledged_step_survives_kill_9(tmp_path: Path) -> None:
    lines = await asyncio.to_thread(_steps_until_killed, tmp_path)
    steps = [line.split() for line in lines]
    told = {subtask_id: step for step, subtask_id in steps}
    records = Records.open(tmp_path)
    found = {each.id: each.status for each in await records.subtasks(JOB)}
    open_ = set(records.asked(JOB))
    assert len(told) >= 20
    for subtask_id, step in list(told.items())[:-1]:
        assert found[subtask_id] is S.FAILURE, step
    # Of the last one, and of none other, there may be one step more than was acknowledged.
    last, step = list(told.items())[-1]
    possible = {"asked": {None, S.STARTING}, "assigned": {S.STARTING, S.FAILURE}, "concluded": {S.FAILURE}}
    assert found.get(last) in possible[step]
    assert len(open_) + len(found) - len(told) in {0, 1}
    assert task_of(records).assigned == task_of(records).failures + len(records.active(JOB)) == len(found)
    await records.close()


def _steps_until_killed(directory: Path) -> list[str]:
    command = [sys.executable, "-m", __name__, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list(itertools.islice(process.stdout, 61))
        process.kill()
        lines += process.stdout.readlines()
    return [line for line in lines if line.endswith("\n")]


async def take_steps(directory: Path) -> None:
    """Take steps, and print each that was acknowledged, until killed."""
    records = Records.open(directory)
    await waiting(records)
    for number in itertools.count(1):
        subtask_id = new_subtask_id()
        await records.ask(JOB, subtask_id, slot=0, node_id="n")
        print("asked", subtask_id, flush=True)
        await records.assign(subtask_id, parameters="{}", resources=(), deadline=0.0, slots=(0,), jobs=("j",))
        print("assigned", subtask_id, flush=True)
        await records.conclude(subtask_id, S.FAILURE, failures=number, failures_in_row=0, losses_in_row=0)
        print("concluded", subtask_id, flush=True)


async def fill_the_disk(directory: Path) -> None:
    """Assign until the disk is full, make room, and go on."""
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    records = Records.open(directory)
    await waiting(records)
    accepted: list[Subtask] = []
    with pytest.raises(DiskFull):
        await _assign_for_ever(records, accepted)
    assert accepted == records.active(JOB)
    ballast.unlink()
    accepted.append(await assigned(records))
    assert accepted == records.active(JOB)
    await records.close()


async def _assign_for_ever(records: Records, accepted: list[Subtask]) -> None:
    while True:
        accepted.append(await assigned(records, parameters="x" * 1000))


async def test_a_full_disk_refuses_new_steps_and_keeps_the_accepted_ones(tmp_path: Path) -> None:
    run_on_small_disk(fill_the_disk, tmp_path / "disk", "4m")


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(DatabaseTooNew, match="99"):
        Records.open(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


async def test_a_file_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable):
        Records.open(tmp_path)


async def test_a_new_directory_is_made(tmp_path: Path) -> None:
    records = Records.open(tmp_path / "data" / "golem")
    assert await records.tasks() == []
    await records.close()


if __name__ == "__main__":
    asyncio.run(take_steps(Path(sys.argv[1])))
