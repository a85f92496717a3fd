"""A stream of 1 GiB through the node, against the same stream from the container itself; and what it costs in memory.

The client reads as the network's own does, with aiohttp. Run alone: `python -m bench.infernet_stream`.
"""

import json
import time

import aiohttp
import uvloop

from bench.infernet import Place, place
from bench.infernet_container import STREAM

SUBMIT = json.dumps({"containers": ["echo"], "data": {}}).encode()
ASK = b'{"source":1,"destination":2,"data":{}}'
MIB = 1 << 20
GROWTH = 32 * MIB
ROUNDS = 3


async def _seconds(port: int, path: str, body: bytes) -> float:
    """Read a stream to its end and give the time it took."""
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as session:
        begun, total = time.monotonic(), 0
        async with session.post(f"http://127.0.0.1:{port}{path}", data=body) as response:
            async for chunk in response.content.iter_any():
                total += len(chunk)
        assert total >= STREAM
        return time.monotonic() - begun


async def _measure(where: Place) -> None:
    await _seconds(where.node, "/api/jobs/stream", SUBMIT)
    before = where.server.memory()
    direct, ours = [], []
    for _ in range(ROUNDS):
        direct.append(await _seconds(where.container, "/service_output", ASK))
        ours.append(await _seconds(where.node, "/api/jobs/stream", SUBMIT))
    share, grown = min(direct) / min(ours), where.server.peak_memory() - before
    rate = STREAM / MIB / min(ours)
    print(
        f"infernet stream: {rate:.0f} MiB/s, {share:.0%} of the direct {STREAM / MIB / min(direct):.0f} MiB/s "
        f"(at least 60 %: {'ok' if share >= 0.6 else 'MISSED'})"
    )
    print(
        f"node memory meanwhile: {grown / MIB:.1f} MiB more (under {GROWTH // MIB}: "
        f"{'ok' if grown < GROWTH else 'MISSED'})"
    )


def main() -> None:
    """Measure."""
    with place() as where:
        uvloop.run(_measure(where))


if __name__ == "__main__":
    main()
