"""What the store on a disk withstands: kill -9, a full disk, files that are not its own."""

import asyncio
import itertools
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from moorage.errors import DatabaseTooNew, DiskFull, StoreUnavailable
from moorage.model.apps import App
from moorage.model.jobs import Job, Result
from moorage.model.states import AppState, AttemptState, JobState
from moorage.store.sqlite import SqliteStore
from tests.contract.store.steps import an_app, builder, claim, history, submit, topics
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


async def test_every_acknowledged_job_survives_kill_9(tmp_path: Path):
    path = tmp_path / "moorage.db"
    ids = await asyncio.to_thread(_submitted_until_killed, path)
    store = SqliteStore.open(path)
    for job_id in ids:
        assert (await store.get_job(job_id)).state is JobState.QUEUED
        assert await topics(store, job_id) == ["job.queued"]
    counts = await store.job_counts()
    assert counts[JobState.QUEUED] == len(await store.ready(1_000_000)) >= len(ids) >= 400
    await store.close()


def _submitted_until_killed(path: Path) -> list[str]:
    command = [sys.executable, "-m", "tests.contract.store.submitting", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = list(itertools.islice(process.stdout, 400))
        process.kill()
        acknowledged += process.stdout.readlines()
    return [line.strip() for line in acknowledged if line.endswith("\n")]


async def test_a_store_opened_again_goes_on_where_it_was(tmp_path: Path):
    path = tmp_path / "moorage.db"
    store = SqliteStore.open(path)
    await store.add_app(an_app(), message="x")
    await submit(store, "first")
    attempt = await claim(store, "first")
    await store.close()
    store = SqliteStore.open(path)
    assert await store.running() == [attempt]
    await store.finish(attempt, AttemptState.LOST, Result())
    job = await store.get_job(attempt.job_id)
    assert job.state is JobState.QUEUED
    await submit(store, "second")
    assert [job.id for job in await store.ready(10)] == ["first", "second"]
    assert len(await history(store, "first")) == 5
    assert [event.id for event in await store.events(None)] == list(range(1, 8))
    await store.close()


async def test_what_another_process_does_to_an_app_holds_for_the_next_job(tmp_path: Path):
    path = tmp_path / "moorage.db"
    store, other = SqliteStore.open(path), SqliteStore.open(path)
    await store.add_app(an_app(), message="x")
    seen: list[AppState] = []

    def build(app: App) -> Job:
        seen.append(app.state)
        return builder()(app)

    for state in (AppState.PUBLISHED, AppState.HIDDEN):
        await other.transition_app("app_1", state, message="x")
        await store.submit("app_1", build, owner="ann")
    await store.transition_app("app_1", AppState.PUBLISHED, message="x")
    await store.submit("app_1", build, owner="ann")
    assert seen == [AppState.PUBLISHED, AppState.HIDDEN, AppState.PUBLISHED]
    await store.close()
    await other.close()


async def test_a_closed_store_is_one_file(tmp_path: Path):
    store = SqliteStore.open(tmp_path / "moorage.db")
    await store.add_app(an_app(), message="x")
    await store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["moorage.db"]


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path):
    path = tmp_path / "moorage.db"
    await SqliteStore.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseTooNew, match="9999"):
        SqliteStore.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all\n" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path, content: bytes):
    path = tmp_path / "moorage.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable):
        SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path):
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        SqliteStore.open(tmp_path / "missing" / "moorage.db")


async def test_a_damaged_database_is_named_as_such(tmp_path: Path):
    path = tmp_path / "moorage.db"
    store = SqliteStore.open(path)
    await store.add_app(an_app(), message="x")
    await asyncio.gather(*(submit(store) for _ in range(100)))
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        SqliteStore.open(path)


async def fill_the_disk(directory: Path) -> None:
    """Submit until the disk is full, make room, and go on."""
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    store = SqliteStore.open(directory / "moorage.db")
    await store.add_app(an_app(), message="x")
    accepted: list[str] = []
    refused: list[BaseException] = []
    while not refused:
        group = await asyncio.gather(
            *(submit(store, labels={"a": "b" * 200}) for _ in range(50)), return_exceptions=True
        )
        accepted += [job.id for job in group if not isinstance(job, BaseException)]
        refused += [job for job in group if isinstance(job, BaseException)]
    assert {type(error) for error in refused} == {DiskFull}, refused
    assert len(accepted) > 100
    assert (await store.job_counts())[JobState.QUEUED] == len(accepted)
    ballast.unlink()
    accepted.append((await submit(store)).id)
    assert [job.id for job in await store.ready(10_000)] == accepted
    assert [event.subject for event in await store.events(None, after=1, limit=10_000)] == accepted
    await store.close()


async def test_a_full_disk_refuses_new_jobs_and_keeps_the_accepted_ones(tmp_path: Path):
    run_on_small_disk(fill_the_disk, tmp_path / "disk", "6m")
