"""One client, one job at a time: submit, and wait for the result by long poll, or by asking every 5 ms.

The container is what authors write (FastAPI on uvicorn), and the client asks as the network's own does (aiohttp, a
session for each request); both are the same for the direct call that the node is compared with.
Run alone: `python -m bench.infernet_latency`.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvloop

from bench.infernet import DIRECT, REQUEST, Place, place

ROUNDS, WARM_UP = 300, 50
JSON = {"content-type": "application/json"}


async def _request(method: str, url: str, body: bytes | None = None) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=body, headers=JSON if body else None) as response,
    ):
        return await response.json()


async def _median(call: Callable[[], Awaitable[None]]) -> float:
    samples = []
    for _ in range(WARM_UP + ROUNDS):
        begun = time.perf_counter()
        await call()
        samples.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(samples[WARM_UP:])


async def _measure(where: Place) -> None:
    jobs, container = f"http://127.0.0.1:{where.node}/api/jobs", f"http://127.0.0.1:{where.container}"

    async def submit() -> str:
        return str((await _request("POST", jobs, REQUEST))["id"])

    async def status(query: str) -> str:
        return str((await _request("GET", f"{jobs}?id={query}"))[0]["status"])

    async def direct() -> None:
        await _request("POST", f"{container}/service_output", DIRECT)

    async def long_poll() -> None:
        assert await status(f"{await submit()}&wait=30") == "success"

    async def poll() -> None:
        job = await submit()
        await asyncio.sleep(0.005)
        while await status(job) == "running":  # noqa: ASYNC110 - what clients do is measured
            await asyncio.sleep(0.005)

    async def direct_twice() -> None:
        await direct()
        await asyncio.sleep(0.005)
        await direct()

    alone, waited, polled, bare = [await _median(each) for each in (direct, long_poll, poll, direct_twice)]
    ratio = waited / alone
    print(
        f"infernet latency, long poll: {waited:.2f} ms against {alone:.2f} ms: ratio {ratio:.2f} "
        f"(at most 3: {'ok' if ratio <= 3 else 'MISSED'})"
    )
    print(
        f"infernet latency, 5 ms polls: {polled:.2f} ms against {bare:.2f} ms for asking the container itself twice, "
        f"5 ms apart: ratio {polled / bare:.2f} (at most 1.25: {'ok' if polled <= 1.25 * bare else 'MISSED'})"
    )


def main() -> None:
    """Measure."""
    with place("bench.infernet_app") as where:
        uvloop.run(_measure(where))


if __name__ == "__main__":
    main()
