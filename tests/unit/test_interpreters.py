"""The search for the Python that environments are made of."""

import asyncio

import psutil
import pytest

from moorage.layers.interpreters import find_python

pytestmark = pytest.mark.anyio


async def test_a_search_for_python_that_nobody_waits_for_leaves_nothing_to_the_loop() -> None:
    before = {child.pid for child in psutil.Process().children()}
    for _ in range(5):
        search = asyncio.ensure_future(find_python("3.11"))
        await asyncio.sleep(0.01)
        search.cancel()
        await asyncio.gather(search, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert {child.pid for child in psutil.Process().children()} <= before
