"""Waiting for events never misses one."""

import asyncio

import pytest

from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.states import AppState
from moorage.node.feed import Feed
from moorage.store.base import Store
from moorage.testing import memory_store

pytestmark = pytest.mark.anyio


async def add_apps(store: Store) -> None:
    """Make the two subjects whose histories are followed; the first event of each is its creation."""
    for name in ("a", "b"):
        app = App(id=name, network="n", name=name, owner="o", state=AppState.CREATED, digest="d", size=0, files=0)
        await store.add_app(app, message="0")


async def test_followers_get_what_was_and_what_comes_once_and_in_order():
    async with memory_store() as store:
        await add_apps(store)
        feed = Feed(store)
        seen: list[str] = []
        all_seen = asyncio.Event()

        async def follow() -> None:
            async for event in feed.follow("a"):
                seen.append(event.message)
                if len(seen) == 50:
                    all_seen.set()

        task = asyncio.create_task(follow())
        for number in range(1, 50):
            await store.append(Event(subject="a", topic="t", message=str(number)))
            await store.append(Event(subject="b", topic="t", message="other"))
        await asyncio.wait_for(all_seen.wait(), 10)
        feed.close()
        await asyncio.wait_for(task, 5)
        assert seen == [str(number) for number in range(50)]


async def test_a_wait_ends_at_once_when_the_event_is_there_already():
    async with memory_store() as store:
        await add_apps(store)
        feed = Feed(store)
        assert await feed.wait("a", 0, timeout=0)
        assert not await feed.wait("a", 1, timeout=0)
        feed.close()


async def test_closing_ends_every_wait():
    async with memory_store() as store:
        await add_apps(store)
        feed = Feed(store)
        waits = [asyncio.create_task(feed.wait("a", 1)), asyncio.create_task(feed.wait(None, 10))]
        await asyncio.sleep(0.05)
        feed.close()
        assert await asyncio.gather(*waits) == [False, False]
        assert not await feed.wait("a", 1)
