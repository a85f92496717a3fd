"""The local engine keeps account of cpus and memory."""

import asyncio

import pytest

from moorage.engine.base import Handle, Refusal
from moorage.engine.local import LocalEngine
from moorage.model.limits import GIB, Limits

pytestmark = pytest.mark.anyio


def reserved(answer: Handle | Refusal) -> Handle:
    assert not isinstance(answer, Refusal), answer
    return answer


async def test_what_is_reserved_is_not_given_twice_and_comes_back_on_release():
    engine = LocalEngine(cpus=2, memory=4 * GIB)
    first = reserved(engine.reserve(Limits(cpus=1.5)))
    refusal = engine.reserve(Limits(cpus=1))
    assert isinstance(refusal, Refusal)
    assert refusal.exhausted == {"cpus": 1}
    assert refusal.message == "needs 1 cpus, 0.5 of 2 are free"
    assert not refusal.for_ever
    first.release()
    first.release()
    assert engine.places()[0].free_cpus == 2
    reserved(engine.reserve(Limits(cpus=2)))


async def test_fractions_of_cpus_add_up_exactly():
    engine = LocalEngine(cpus=1, memory=100 * GIB)
    handles = [reserved(engine.reserve(Limits(cpus=0.1))) for _ in range(10)]
    assert isinstance(engine.reserve(Limits(cpus=0.1)), Refusal)
    for handle in handles:
        handle.release()
    assert engine.places()[0].free_cpus == 1


async def test_a_request_that_no_place_could_ever_take_is_told_apart():
    refusal = LocalEngine(cpus=2, memory=GIB).explain(Limits(cpus=1, memory=2 * GIB))
    assert refusal is not None
    assert refusal.for_ever
    assert refusal.exhausted == {"memory": 1}


async def test_resources_come_back_however_the_work_ends(caplog):
    engine = LocalEngine(cpus=1, memory=GIB)
    released = asyncio.Event()
    engine.on_release(released.set)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    async def fail() -> None:
        raise RuntimeError("out of the runner")

    reserved(engine.reserve(Limits())).start(fail)
    await released.wait()
    assert engine.places()[0].free_cpus == 1


async def test_closing_cancels_what_runs_and_waits_for_it():
    engine = LocalEngine(cpus=1, memory=GIB)
    ended = []

    async def sleep() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    reserved(engine.reserve(Limits())).start(sleep)
    await asyncio.sleep(0)
    await engine.close()
    assert ended == [True]
    assert engine.places()[0].running == 0
