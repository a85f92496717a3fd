"""One client, one job at a time: submit, and wait for the result by long poll, or by asking every 5 ms.

The container is what authors write (FastAPI on uvicorn), the client is what they use (httpx); both are the same for the
direct call that the node is compared with. Run alone: `python -m bench.infernet_latency`.
"""

import statistics
import time
from collections.abc import Callable

import httpx

from bench.infernet import DIRECT, REQUEST, place

ROUNDS, WARM_UP = 400, 50
JSON = {"content-type": "application/json"}


def _median(call: Callable[[], None]) -> float:
    samples = []
    for _ in range(WARM_UP + ROUNDS):
        begun = time.perf_counter()
        call()
        samples.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(samples[WARM_UP:])


def main() -> None:
    """Measure."""
    with place("bench.infernet_app") as where, httpx.Client() as client:
        node, container = f"http://127.0.0.1:{where.node}", f"http://127.0.0.1:{where.container}"

        def submit() -> str:
            job: str = client.post(f"{node}/api/jobs", content=REQUEST, headers=JSON).json()["id"]
            return job

        def status(url: str) -> str:
            state: str = client.get(url).json()[0]["status"]
            return state

        def direct() -> None:
            client.post(f"{container}/service_output", content=DIRECT, headers=JSON).json()

        def long_poll() -> None:
            assert status(f"{node}/api/jobs?id={submit()}&wait=30") == "success"

        def poll() -> None:
            url = f"{node}/api/jobs?id={submit()}"
            time.sleep(0.005)
            while status(url) == "running":
                time.sleep(0.005)

        alone, waited, polled = _median(direct), _median(long_poll), _median(poll)
    ratio = waited / alone
    print(
        f"infernet latency, long poll: {waited:.2f} ms against {alone:.2f} ms: ratio {ratio:.2f} "
        f"(at most 3: {'ok' if ratio <= 3 else 'MISSED'})"
    )
    print(f"infernet latency, 5 ms polls: {polled:.2f} ms (at most 8: {'ok' if polled <= 8 else 'MISSED'})")


if __name__ == "__main__":
    main()
