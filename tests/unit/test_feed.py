"""Waiting for events never misses one."""

import asyncio

import pytest
from moorage.testing import memory_store

from moorage.model.events import Event
from moorage.node.feed import Feed

pytestmark = pytest.mark.anyio


async def test_followers_get_what_was_and_what_comes_once_and_in_order():
    async with memory_store() as store:
        feed = Feed(store)
        await store.append(Event(subject="a", topic="t", message="0"))
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
        feed = Feed(store)
        await store.append(Event(subject="a", topic="t", message="m"))
        assert await feed.wait("a", 0, timeout=0)
        assert not await feed.wait("a", 1, timeout=0)
        feed.close()


async def test_closing_ends_every_wait():
    async with memory_store() as store:
        feed = Feed(store)
        waits = [asyncio.create_task(feed.wait("a", 0)), asyncio.create_task(feed.wait(None, 0))]
        await asyncio.sleep(0.05)
        feed.close()
        assert await asyncio.gather(*waits) == [False, False]
        assert not await feed.wait("a", 0)
