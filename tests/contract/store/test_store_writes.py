"""Writes: grouped, in order, independent of each other; and their events as they are told and read."""

import asyncio
import gc
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moorage.errors import DiskFull, IdempotencyConflict, Invalid, NotFound, StoreUnavailable
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import Job, JobSpec, Result
from moorage.model.states import AppState, AttemptState, JobState
from moorage.store import apps, writer
from moorage.store.base import JobFilter, Page, Store, Token
from moorage.store.database import create
from moorage.store.sqlite import SqliteStore
from moorage.store.submissions import submit as accept
from moorage.store.transitions import Steps, Transaction
from moorage.testing import memory_store
from tests.contract.store.steps import BROKEN, Clock, an_app, builder, claim, history, run, submit, topics

pytestmark = pytest.mark.anyio


def boom(app: App) -> Job:
    raise RuntimeError(f"{app.id} went wrong")


async def test_writes_asked_for_together_are_committed_together(store: Store):
    told: list[int] = []
    store.listen(lambda events: told.append(len(events)))
    await asyncio.gather(*(submit(store) for _ in range(40)))
    assert told == [40]


async def test_a_failing_write_does_not_spoil_the_others_of_its_group(store: Store):
    told: list[Sequence[Event]] = []
    store.listen(told.append)
    await submit(store, "taken")
    results = await asyncio.gather(
        submit(store, "one"),
        store.submit("app_1", boom, owner="ann"),
        store.submit("app_1", builder("taken", labels={"a": "b"}), owner="bob"),
        submit(store, "two", after=("one",)),
        store.append(Event(subject="nobody", topic="t", message="m")),
        store.edit_app("app_1", message="x", id="other"),
        submit(store, "three"),
        return_exceptions=True,
    )
    assert [type(each) for each in results] == [
        Job, RuntimeError, IdempotencyConflict, Job, NotFound, TypeError, Job,
    ]  # fmt: skip
    assert [event.subject for event in told[1]] == ["one", "two", "three"]
    assert [event.id for event in await store.events(None)] == list(range(1, 6))
    assert (await store.job_counts())[JobState.QUEUED] == 4


@pytest.mark.parametrize(("value", "error"), [(["no text"], StoreUnavailable), ("\udcff", Invalid)])
async def test_a_write_that_fails_late_is_undone_whole(store: Store, value: Any, error: type[Exception]):
    told: list[Event] = []
    store.listen(told.extend)
    with pytest.raises(error):
        await submit(store, "bad", labels={"fine": "v", "last": value})
    await submit(store, "good")
    assert [event.subject for event in told] == ["good"]
    with pytest.raises(NotFound):
        await store.get_job("bad")
    assert await store.events("bad") == []
    assert await store.list_jobs(JobFilter(labels={"fine": "v"}), Page()) == []
    assert (await store.job_counts())[JobState.QUEUED] == 1


async def test_when_sqlite_gives_up_a_whole_transaction_every_write_in_it_says_why(tmp_path: Path):
    writes = writer.Writer(create(tmp_path / "moorage.db"), Clock(), lambda events: None)

    def give_up(tx: Transaction) -> None:
        tx.execute("ROLLBACK")
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    results = await asyncio.gather(
        writes.write(lambda tx: apps.add(tx, an_app(id="before"), message="x")),
        writes.write(give_up),
        writes.write(lambda tx: apps.add(tx, an_app(id="after"), message="x")),
        return_exceptions=True,
    )
    assert [type(each) for each in results] == [DiskFull, DiskFull, App]
    kept = await writes.write(lambda tx: [row["id"] for row in tx.execute("SELECT id FROM apps")])
    assert kept == ["after"]
    await writes.close()


async def test_writes_keep_the_order_in_which_they_were_asked_for(store: Store):
    attempt = await claim(store, (await submit(store, "mine")).id)
    steps = (AttemptState.PREPARING, AttemptState.RUNNING, AttemptState.COLLECTING)
    fired = [asyncio.ensure_future(store.advance(attempt, step, message="x")) for step in steps]
    fired.insert(1, asyncio.ensure_future(store.append(Event(subject="mine", topic="note", message="x"))))
    await store.finish(attempt, AttemptState.FAILED, Result())
    job = await store.get_job(attempt.job_id)
    assert job.state is JobState.FAILED
    assert (await topics(store, "mine"))[3:] == [
        "attempt.preparing", "attempt.running", "attempt.collecting", "note", "attempt.failed", "job.failed",
    ]  # fmt: skip
    await asyncio.gather(*fired)


async def test_a_caller_that_gives_up_leaves_the_others_alone(store: Store):
    impatient = asyncio.ensure_future(submit(store, "impatient"))
    patient = asyncio.ensure_future(submit(store, "patient"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).id == "patient"
    assert [job.id for job in await store.ready(10)] == ["impatient", "patient"]


async def test_a_long_write_lets_the_loop_do_other_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "SLICE", 0.0)
    connection = create(tmp_path / "moorage.db")
    writes = writer.Writer(connection, Clock(), lambda events: None)
    await writes.write(lambda tx: apps.add(tx, an_app(), message="x"))
    submissions = [builder(f"job-{number}", after=("job-0",) if number > 10 else ()) for number in range(20)]
    for build in submissions:
        await writes.write(
            lambda tx, build=build: accept(tx, "app_1", build, owner="a", job_id=None, idempotency_key=None)
        )
    turns, seen = 0, []

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def removal(tx: Transaction) -> Steps[None]:
        for _ in apps.change_state(tx, "app_1", AppState.REMOVED, message="x", error=None, changes={}):
            seen.append(turns)
            yield

    other = asyncio.create_task(turn())
    await writes.write(removal)
    other.cancel()
    await writes.close()
    assert len(set(seen)) >= 20


async def test_a_job_sees_its_app_as_earlier_writes_of_its_group_left_it(store: Store):
    first, _, second, third = await asyncio.gather(
        store.submit("app_1", builder(), owner="ann"),
        store.edit_app("app_1", message="x", layers={"python": "py-2"}),
        store.submit("app_1", builder(), owner="ann"),
        store.submit("app_1", lambda app: builder(f"after-{app.seq}")(app), owner="ann"),
    )
    assert [job.layers["python"] for job, _ in (first, second)] == ["py-1", "py-2"]
    assert third[0].id == "after-2"


async def test_listeners_hear_what_is_durable_once_and_in_order(store: Store):
    heard: list[Event] = []
    stop = store.listen(heard.extend)
    store.listen(lambda events: heard.extend(events[:0]))
    jobs = await asyncio.gather(*(submit(store) for _ in range(10)))
    for job in jobs[:3]:
        await run(store, job.id, AttemptState.SUCCEEDED)
    assert heard == (await store.events(None))[1:]
    stop()
    await submit(store)
    assert heard == (await store.events(None))[1:-1]


async def test_an_event_is_readable_when_a_listener_hears_of_it(store: Store):
    read: list[asyncio.Task[list[Event]]] = []
    store.listen(lambda events: read.append(asyncio.ensure_future(store.events(events[0].subject))))
    job = await submit(store)
    assert [event.subject for event in await read[0]] == [job.id]


async def test_a_listener_that_fails_does_not_silence_the_others(store: Store):
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    heard: list[Event] = []

    def fail(events: Sequence[Event]) -> None:
        raise RuntimeError("deaf")

    store.listen(fail)
    store.listen(heard.extend)
    await submit(store)
    asyncio.get_running_loop().set_exception_handler(None)
    assert len(heard) == len(failures) == 1


async def test_an_event_is_added_to_a_history_as_it_was_given(store: Store, clock: Clock):
    await submit(store, "mine")
    clock.now += 1
    event = Event(
        subject="mine", topic="note", message="bad \udcff name", attempt_id="a", error=BROKEN, data={"n": [1]}
    )
    await store.append(event)
    await store.append(Event(subject="app_1", topic="note", message="plain"))
    kept = (await history(store, "mine"))[-1]
    assert (kept.seq, kept.time, kept.message) == (2, clock.now, "bad \\udcff name")
    assert (kept.attempt_id, kept.error, kept.data) == ("a", BROKEN, {"n": [1]})
    assert (await store.get_job("mine")).seq == 2
    with pytest.raises(NotFound):
        await store.append(Event(subject="nobody", topic="t", message="m"))


async def test_events_are_read_on_from_where_one_was(store: Store):
    await submit(store, "mine")
    notes = [Event(subject="mine", topic="note", message=str(number)) for number in range(170)]
    await asyncio.gather(*(store.append(note) for note in notes))
    every = await history(store, "mine")
    assert len(every) == 171
    assert await store.events("mine", after=160) == every[160:]
    assert await store.events("mine", after=10, limit=120) == every[10:130]
    assert await store.events("mine", after=171) == []
    assert await store.events("nobody") == []
    assert await store.events(None, after=every[99].id, limit=60) == every[100:160]


async def test_tokens_are_kept_by_name(store: Store):
    tokens = [Token(name=name, sha256=name * 64, operator=name == "a", created_at=1.5) for name in "ba"]
    for token in tokens:
        await store.add_token(token)
    with pytest.raises(IdempotencyConflict):
        await store.add_token(tokens[0])
    assert await store.tokens() == tokens[::-1]
    await store.remove_token("b")
    assert await store.tokens() == tokens[1:]
    with pytest.raises(NotFound):
        await store.remove_token("b")


async def test_a_closed_store_says_so(store: Store):
    job = await submit(store)
    last = asyncio.ensure_future(submit(store, "last"))
    await asyncio.sleep(0)
    await store.close()
    assert (await last).id == "last"
    await store.close()
    for ask in (
        lambda: store.get_job(job.id), lambda: submit(store), lambda: store.events(None),
        lambda: store.cancel(job.id, message="x"),
    ):  # fmt: skip
        with pytest.raises(StoreUnavailable, match="closed"):
            await ask()


async def test_a_database_that_another_process_has_locked_is_waited_for_without_stopping_the_loop(tmp_path: Path):
    store = SqliteStore.open(tmp_path / "moorage.db")
    await store.add_app(an_app(), message="x")
    other = sqlite3.connect(tmp_path / "moorage.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(submit(store, "mine"))
    for _ in range(5):
        await asyncio.sleep(0.02)
        assert not waiting.done()
        assert await store.ready(1) == []
    other.execute("ROLLBACK")
    other.close()
    assert (await waiting).id == "mine"
    await store.close()


async def test_a_database_that_stays_locked_is_an_error_that_a_retry_may_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    store = SqliteStore.open(tmp_path / "moorage.db")
    await store.add_app(an_app(), message="x")
    other = sqlite3.connect(tmp_path / "moorage.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked") as raised:
        await submit(store, "mine")
    assert raised.value.retryable
    other.close()
    await submit(store, "mine")
    await store.close()


async def test_nothing_is_kept_in_memory_for_a_queued_job():
    def nouns() -> int:
        gc.collect()
        return sum(isinstance(thing, Job | JobSpec | Event) for thing in gc.get_objects())

    async with memory_store() as store:
        await store.add_app(an_app(), message="x")
        before = nouns()
        await asyncio.gather(*(submit(store) for _ in range(500)))
        await asyncio.sleep(0)  # until then the loop itself holds the results
        assert nouns() == before
