"""Work that several ask for at the same time."""

import asyncio

import pytest

from moorage.layers.once import Once, Progress

pytestmark = pytest.mark.anyio


class Work:
    """Work that waits to be let go, and counts how often it was begun and finished."""

    def __init__(self) -> None:
        self.begun = self.finished = 0
        self.go = asyncio.Event()

    async def __call__(self, progress: Progress) -> str:
        self.begun += 1
        progress("begun")
        await self.go.wait()
        progress("done")
        self.finished += 1
        return f"result {self.begun}"


async def ask(once: Once, work: Work, count: int) -> tuple[list[asyncio.Task[str]], list[list[str]]]:
    heard: list[list[str]] = [[] for _ in range(count)]
    tasks = [asyncio.ensure_future(once.do("key", work, lines.append)) for lines in heard]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks, heard


async def test_it_is_done_once_and_everybody_hears_of_it() -> None:
    once, work = Once(), Work()
    tasks, heard = await ask(once, work, 10)
    work.go.set()
    assert set(await asyncio.gather(*tasks)) == {"result 1"}
    assert all(lines[-1] == "done" for lines in heard)
    assert work.begun == 1


async def test_it_is_done_again_when_asked_for_again() -> None:
    once, work = Once(), Work()
    work.go.set()
    assert [await once.do("key", work, print), await once.do("key", work, print)] == ["result 1", "result 2"]


async def test_other_keys_do_not_wait() -> None:
    once, stuck, free = Once(), Work(), Work()
    tasks, _ = await ask(once, stuck, 1)
    free.go.set()
    assert await once.do("other", free, print) == "result 1"
    stuck.go.set()
    await asyncio.gather(*tasks)


async def test_a_failure_is_everybodys_and_the_next_may_try_again() -> None:
    once, work = Once(), Work()

    async def fail(progress: Progress) -> str:
        await asyncio.sleep(0)
        raise ValueError("broken")

    results = await asyncio.gather(*(once.do("key", fail, print) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["broken"] * 3
    work.go.set()
    assert await once.do("key", work, print) == "result 1"


async def test_one_who_gives_up_does_not_stop_it_for_the_others() -> None:
    once, work = Once(), Work()
    (first, second), _ = await ask(once, work, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.go.set()
    assert await second == "result 1"


async def test_it_is_cancelled_when_all_have_given_up_and_begun_anew_for_the_next() -> None:
    once, work = Once(), Work()
    tasks, _ = await ask(once, work, 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (work.begun, work.finished) == (1, 0)
    work.go.set()
    assert await once.do("key", work, print) == "result 2"
    assert work.finished == 1
