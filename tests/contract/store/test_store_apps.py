"""Apps in the store."""

import asyncio

import pytest

from moorage.errors import AppNotEditable, IdempotencyConflict, IllegalTransition, NotFound
from moorage.model.states import APP_TRANSITIONS, EDITABLE, AppState, AttemptState, JobState
from moorage.store.base import AppFilter, Page, Store
from tests.contract.store.steps import BROKEN, Clock, an_app, claim, end, history, submit, topics

pytestmark = pytest.mark.anyio


async def test_an_added_app_is_read_back_as_it_was_given(store: Store, clock: Clock):
    clock.now = 5.25
    given = an_app(id="app_2", name="ünïcode", error=BROKEN, deploy=False)
    added = await store.add_app(given, message="Added by ann.")
    assert added == await store.get_app("app_2")
    assert (added.name, added.meta, added.error, added.deploy) == (given.name, given.meta, BROKEN, False)
    assert (added.created_at, added.updated_at, added.seq) == (5.25, 5.25, 1)
    (event,) = await history(store, "app_2")
    assert (event.topic, event.message, event.time) == ("app.created", "Added by ann.", 5.25)


async def test_an_id_is_given_to_one_app_only(store: Store):
    with pytest.raises(IdempotencyConflict):
        await store.add_app(an_app(), message="again")
    await submit(store, "taken")
    with pytest.raises(IdempotencyConflict):
        await store.add_app(an_app(id="taken"), message="the id of a job")
    with pytest.raises(NotFound):
        await store.get_app("taken")


async def test_unknown_apps_are_not_found(store: Store):
    with pytest.raises(NotFound):
        await store.get_app("no")
    with pytest.raises(NotFound):
        await store.edit_app("no", message="x")
    with pytest.raises(NotFound):
        await store.transition_app("no", AppState.REMOVED, message="x")
    with pytest.raises(NotFound):
        await store.list_apps(AppFilter(), Page(before="no"))


@pytest.mark.parametrize("old", AppState)
@pytest.mark.parametrize("new", AppState)
async def test_an_app_changes_state_as_its_table_says(store: Store, old: AppState, new: AppState):
    before = await store.add_app(an_app(id="app_2", state=old), message="x")
    if new in APP_TRANSITIONS[old]:
        after = await store.transition_app("app_2", new, message="It changed.")
        assert after == await store.get_app("app_2")
        assert (after.state, after.seq) == (new, 2)
        assert await topics(store, "app_2") == ["app.created", f"app.{new.lower()}"]
    else:
        with pytest.raises(IllegalTransition):
            await store.transition_app("app_2", new, message="It changed.", name="other")
        assert await store.get_app("app_2") == before
        assert await topics(store, "app_2") == ["app.created"]


async def test_a_transition_may_change_fields_and_keeps_its_error(store: Store, clock: Clock):
    clock.now += 1
    app = await store.transition_app("app_1", AppState.ERROR, message="Bad.", error=BROKEN, layers={"python": "py-2"})
    assert (app.error, app.layers, app.updated_at) == (BROKEN, {"python": "py-2"}, clock.now)
    assert (await history(store, "app_1"))[-1].error == BROKEN
    assert (await store.transition_app("app_1", AppState.REMOVED, message="Gone.")).error == BROKEN


async def test_an_app_that_was_ever_published_stays_known_as_such(store: Store):
    assert not (await store.get_app("app_1")).published
    assert (await store.transition_app("app_1", AppState.PUBLISHED, message="x")).published
    assert (await store.transition_app("app_1", AppState.HIDDEN, message="x")).published


@pytest.mark.parametrize("state", AppState)
async def test_an_app_is_edited_until_it_is_published(store: Store, state: AppState):
    await store.add_app(an_app(id="app_2", state=state), message="x")
    if state in EDITABLE:
        edited = await store.edit_app("app_2", message="Renamed.", name="other", meta={"kwargs": {}})
        assert edited == await store.get_app("app_2")
        assert (edited.name, edited.meta, edited.digest, edited.seq) == ("other", {"kwargs": {}}, "d" * 64, 2)
        assert await topics(store, "app_2") == ["app.created", "app.edited"]
    else:
        with pytest.raises(AppNotEditable):
            await store.edit_app("app_2", message="Renamed.", name="other")


@pytest.mark.parametrize("field", ["id", "state", "owner", "published", "seq", "created_at", "nonsense"])
async def test_what_an_app_is_cannot_be_edited(store: Store, field: str):
    with pytest.raises(TypeError, match=field):
        await store.edit_app("app_1", message="x", **{field: "y"})
    with pytest.raises(TypeError, match=field):
        await store.transition_app(
            "app_1", AppState.PUBLISHED, message="x", **{field: "y"} if field != "state" else {"state": "y"}
        )
    assert await topics(store, "app_1") == ["app.created"]


@pytest.mark.parametrize("gone", [AppState.ERROR, AppState.REMOVED])
async def test_queued_jobs_of_an_app_that_is_gone_are_cancelled(store: Store, gone: AppState):
    await store.add_app(an_app(id="app_2"), message="x")
    other = await submit(store, app_id="app_2")
    running = await claim(store, (await submit(store)).id)
    queued = [job.id for job in await asyncio.gather(*(submit(store) for _ in range(120)))]
    follower_here = await submit(store, after=(queued[0],))
    follower_elsewhere = await submit(store, app_id="app_2", after=(queued[0],))
    await store.transition_app("app_1", gone, message="x")
    for job_id in [*queued, follower_here.id]:
        job = await store.get_job(job_id)
        assert job.state is JobState.CANCELLED
        assert job.error is not None
        assert job.error.code == "app_unavailable"
    assert (await store.get_job(other.id)).state is JobState.QUEUED
    assert (await store.get_job(follower_elsewhere.id)).state is JobState.FAILED
    assert (await end(store, running, AttemptState.SUCCEEDED)).state is JobState.SUCCEEDED
    assert await store.job_counts() == {
        JobState.QUEUED: 1, JobState.RUNNING: 0, JobState.SUCCEEDED: 1, JobState.FAILED: 1, JobState.CANCELLED: 121,
    }  # fmt: skip


async def test_queued_jobs_of_a_hidden_app_keep_their_place(store: Store):
    await store.transition_app("app_1", AppState.PUBLISHED, message="x")
    jobs = [await submit(store) for _ in range(3)]
    await store.transition_app("app_1", AppState.HIDDEN, message="x")
    assert await store.ready(10) == jobs


async def test_apps_are_listed_newest_first_by_page_and_filter(store: Store):
    await store.add_app(an_app(id="app_2", owner="bob", name="b", published=True), message="x")
    await store.add_app(an_app(id="app_3", owner="bob", network="golem", state=AppState.CREATED), message="x")

    async def ids(where: AppFilter, **page: int | str) -> list[str]:
        return [app.id for app in await store.list_apps(where, Page(**page))]  # type: ignore[arg-type]

    assert await ids(AppFilter()) == ["app_3", "app_2", "app_1"]
    assert await ids(AppFilter(), limit=2) == ["app_3", "app_2"]
    assert await ids(AppFilter(), limit=2, before="app_2") == ["app_1"]
    assert await ids(AppFilter(owner="bob")) == ["app_3", "app_2"]
    assert await ids(AppFilter(network="golem")) == ["app_3"]
    assert await ids(AppFilter(name="b")) == ["app_2"]
    assert await ids(AppFilter(state=AppState.CREATED)) == ["app_3"]
    assert await ids(AppFilter(visible_to="ann")) == ["app_2", "app_1"]
    assert await ids(AppFilter(visible_to="eve")) == ["app_2"]
    assert await ids(AppFilter(owner="bob", visible_to="eve", name="counter")) == []
