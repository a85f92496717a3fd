"""Jobs a second with 32 clients: each submits a job, waits for its result by long poll, and submits the next.

An acknowledged job is durable. The network's own node, which keeps nothing, reaches about 330 a second on such a
machine; ours has to reach 1,000. Run alone: `python -m bench.infernet_throughput`.
"""

import asyncio
import json
import time

import uvloop

from bench.infernet import DIRECT, REQUEST, Http, Place, place

CLIENTS = 32
SECONDS = 8.0
AIM = 1_000


async def _submit_and_wait(port: int, until: float) -> int:
    http, done = await Http.open(port), 0
    while time.monotonic() < until:
        job = json.loads(await http.call("POST", "/api/jobs", REQUEST))["id"]
        (result,) = json.loads(await http.call("GET", f"/api/jobs?id={job}&wait=30"))
        assert result["status"] == "success", result
        done += 1
    await http.close()
    return done


async def _call(port: int, until: float) -> int:
    http, done = await Http.open(port), 0
    while time.monotonic() < until:
        await http.call("POST", "/service_output", DIRECT)
        done += 1
    await http.close()
    return done


async def _rate(where: Place) -> tuple[float, float]:
    async def measure(client: object, port: int, seconds: float) -> float:
        begun = time.monotonic()
        done = await asyncio.gather(*(client(port, begun + seconds) for _ in range(CLIENTS)))  # type: ignore[operator]
        return sum(done) / (time.monotonic() - begun)

    await measure(_submit_and_wait, where.node, 1.0)
    ours = await measure(_submit_and_wait, where.node, SECONDS)
    return ours, await measure(_call, where.container, 2.0)


def main() -> None:
    """Measure."""
    with place() as where:
        ours, direct = uvloop.run(_rate(where))
    verdict = "ok" if ours >= AIM else "MISSED"
    print(
        f"infernet throughput: {ours:.0f} durable jobs/s (at least {AIM}: {verdict}); "
        f"the container itself answers {direct:.0f} requests/s"
    )


if __name__ == "__main__":
    main()
