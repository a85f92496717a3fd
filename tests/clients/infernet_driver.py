"""Drives a node with the real `infernet-client`, in whose environment this runs; prints what came of it as JSON."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any

from infernet_client import NodeClient
from infernet_client.chain.subscription import Subscription
from infernet_client.error import APIError

NOBODY = "0x" + "00" * 20
KEY = "0x" + "11" * 32
STREAMS = 60


class NoChain:
    """Stands where the client has its connection to a chain."""

    async def get_chain_id(self) -> int:
        return 31337


async def tried(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except APIError as error:
        return {"error": str(error), "status": error.status_code}
    except TimeoutError as error:
        return {"timeout": str(error)}


def job(*containers: str, **data: Any) -> dict[str, Any]:
    return {"containers": list(containers), "data": data}


async def streamed(client: NodeClient, request: dict[str, Any]) -> dict[str, Any]:
    items = [item async for item in client.request_stream(request)]
    return {
        "id": items[0],
        "bytes": b"".join(items[1:]).decode(),
        "types": sorted({type(item).__name__ for item in items[1:]}),
    }


async def drive(url: str) -> dict[str, Any]:
    client, seen = NodeClient(url), {}
    seen["health"] = await client.health()
    seen["info"] = await client.get_info()
    seen["resources"] = await client.get_resources()
    seen["models"] = [await client.check_model_support(model) for model in ("good", "bad")]

    # one job, and what is listed while it runs
    slow = await client.request_job(job("first", sleep=1.0, question="?"))
    seen["pending"] = [slow in await client.get_jobs(pending=pending) for pending in (True, False, None)]
    seen["running"] = await client.get_job_results([slow])
    seen["pending info"] = (await client.get_info())["pending"]
    seen["too early"] = await tried(client.get_job_result_sync(slow, retries=0))
    seen["result"] = await client.get_job_result_sync(slow)
    seen["ended"] = [slow in await client.get_jobs(pending=pending) for pending in (True, False, None)]
    seen["unknown"] = await client.get_job_result_sync("no-such-job")
    seen["proof"] = await client.get_job_result_sync(await client.request_job({**job("first"), "requires_proof": None}))

    # chains and batches
    chain = await client.request_job(job("first", "second", n=2**80))
    await client.get_job_result_sync(chain)
    seen["chain"] = await client.get_job_results([chain], intermediate=True)
    seen["chain alone"] = await client.get_job_results([chain])
    broken = await client.request_job(job("first", "second", fail="second"))
    seen["broken"] = await client.get_job_result_sync(broken)
    batch = await client.request_jobs([job("first", a=1), job("zz"), job("second"), {"data": {}}, job("first", a=2)])
    seen["batch"] = [{key: value for key, value in each.items() if key != "id"} for each in batch]
    ids = [each["id"] for each in batch if "id" in each]
    for each in ids:
        await client.get_job_result_sync(each)
    seen["batch results"] = await client.get_job_results(ids)
    seen["batch ids"] = ids

    # refusals
    for name, request in {
        "unsupported": job("zz"),
        "internal": job("second"),
        "none": job(),
        "no proof": {**job("first"), "requires_proof": True},
        "malformed": {"containers": "first", "data": {}},
    }.items():
        seen[name] = await tried(client.request_job(request))
        seen[f"{name} stream"] = await tried(streamed(client, request))

    # streams
    seen["stream"] = await streamed(client, job("first", words=["one ", "zwei ", "δύο"], pause=0.05))
    seen["stream result"] = await client.get_job_results([seen["stream"]["id"]])
    many = [await streamed(client, job("first", words=["at once"])) for _ in range(STREAMS)]
    seen["many streams"] = [[len(each["id"]), each["bytes"]] for each in many]
    seen["long stream"] = len((await streamed(client, job("first", words=["x" * 1_000_000] * 5)))["bytes"])

    # what containers report themselves
    seen["recorded"] = await tried(client.record_status("mine", "success", job("first")))
    seen["record"] = await client.get_job_results(["mine"])
    seen["bad record"] = await tried(client.record_status("mine", "lost", job("first")))
    await client.record_status(slow, "failed", job("first"))
    seen["not overwritten"] = await client.get_job_result_sync(slow)

    # delegated
    subscription = Subscription(NOBODY, 0, 0, 1, 1, ["first"], False, NOBODY, 0, NOBODY, NOBODY)
    seen["delegated"] = await tried(
        client.request_delegated_subscription(
            subscription, NoChain(), NOBODY, int(time.time()) + 600, 1, KEY, {"question": "?"}
        )
    )
    return seen


async def hammer(url: str) -> Any:
    """Ask until the node has enough."""
    client = NodeClient(url)
    for _ in range(20):
        answer = await tried(client.get_job_results(["no-such-job"]))
        if answer:
            return answer
    return None


if __name__ == "__main__":
    print(json.dumps({**asyncio.run(drive(sys.argv[1])), "limited": asyncio.run(hammer(sys.argv[2]))}))
