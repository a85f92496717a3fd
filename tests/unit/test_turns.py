"""Work that is done one at a time, and once for all who want it meanwhile."""

import asyncio

import pytest

from moorage.networks.aleph.programs.turns import Turns

pytestmark = pytest.mark.anyio


class Gate:
    """Work that goes on until it is let through, and tells which turn it was."""

    def __init__(self) -> None:
        self.begun, self.first, self.turns = 0, asyncio.Event(), asyncio.Semaphore(0)

    async def work(self) -> int:
        self.begun += 1
        self.first.set()
        number = self.begun
        await self.turns.acquire()
        if number == 3:
            raise ValueError("the third")
        return number


async def test_who_asks_while_it_goes_on_shares_a_turn_that_begins_later() -> None:
    gate = Gate()
    turns = Turns(gate.work)
    first = asyncio.ensure_future(turns.next())
    await gate.first.wait()
    later = [asyncio.ensure_future(turns.next()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.turns.release()
    assert await first == 1
    gate.turns.release()
    assert await asyncio.gather(*later) == [2, 2, 2]


async def test_a_turn_that_fails_fails_for_its_own_and_the_next_goes_on() -> None:
    gate = Gate()
    turns = Turns(gate.work)
    for _ in range(4):
        gate.turns.release()
    assert [await turns.next(), await turns.next()] == [1, 2]
    failing = [asyncio.ensure_future(turns.next()) for _ in range(2)]
    assert [str(error) for error in await asyncio.gather(*failing, return_exceptions=True)] == ["the third"] * 2
    assert await turns.next() == 4


async def test_one_who_leaves_spoils_nothing_for_the_others() -> None:
    gate = Gate()
    turns = Turns(gate.work)
    leaving, staying = asyncio.ensure_future(turns.next()), asyncio.ensure_future(turns.next())
    await gate.first.wait()
    leaving.cancel()
    gate.turns.release()
    assert await staying == 1
