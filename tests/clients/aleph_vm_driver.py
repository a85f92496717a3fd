"""Controls a program with the real `aleph-sdk-python`, in whose environment this runs; prints what came as JSON."""

import asyncio
import json
import sys
from typing import Any

from aleph.sdk.chains.ethereum import ETHAccount
from aleph.sdk.chains.solana import SOLAccount
from aleph.sdk.client import AlephHttpClient
from aleph.sdk.client.vm_client import VmClient
from aleph.sdk.utils import create_vm_control_payload, sign_vm_control_payload


async def operations(client: VmClient, ref: str, seen: dict[str, Any]) -> None:
    seen["stop"] = [await client.stop_instance(ref) for _ in range(2)]
    seen["reboot"] = [await client.reboot_instance(ref) for _ in range(2)]
    seen["reinstall"] = await client.reinstall_instance(ref, erase_volumes=False)
    seen["expire"] = await client.expire_instance(ref)
    seen["erase"] = await client.erase_instance(ref)
    seen["unknown"] = await client.stop_instance("ab" * 32)
    seen["all"] = await client.manage_instance(ref, ["stop", "reboot"])


async def logs(client: VmClient, ref: str, seen: dict[str, Any]) -> None:
    """Read what was said, and then what is said: the program is told to speak by a request for its log."""
    async with client.operate(ref, "logs", "GET") as response:
        seen["logs"] = [[entry["file"], entry["MESSAGE"]] for entry in await response.json()]
    lines = client.get_logs(ref)
    seen["connected"] = json.loads(await anext(lines))
    await client.reboot_instance(ref)
    seen["streamed"] = json.loads(await anext(lines))
    await lines.aclose()


async def executions(url: str, ref: str, seen: dict[str, Any]) -> None:
    async with AlephHttpClient(api_server=url) as client:
        found = await client.crn.get_vm(url, ref)
        seen["execution"] = [type(found).__name__, found.running]
        first = (await client.crn.get_active_vms_v1(url)).root
        seen["executions"] = list(first) == [ref]
        seen["update"] = await client.crn.update_instance_config(url, ref)


async def replayed(client: VmClient, ref: str, time: str) -> int:
    """Ask with a proof of another time."""
    payload = create_vm_control_payload(ref, "stop", domain=client.node_domain, method="POST")
    url, headers = await client._generate_header(ref, "stop", "POST")
    headers["X-SignedOperation"] = sign_vm_control_payload({**payload, "time": time}, client.ephemeral_key)
    async with client.session.post(url, headers=headers) as response:
        return response.status


async def drive(url: str, ref: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    async with VmClient(ETHAccount(b"\1" * 32), url) as owner, VmClient(ETHAccount(b"\2" * 32), url) as stranger:
        await operations(owner, ref, seen)
        await logs(owner, ref, seen)
        await executions(url, ref, seen)
        seen["stranger"] = await stranger.stop_instance(ref)
        seen["refused stream"] = json.loads(await anext(stranger.get_logs(ref)))
        seen["replayed"] = await replayed(owner, ref, "2020-01-01T00:00:00Z")
    async with VmClient(SOLAccount(b"\3" * 32), url) as solana:
        seen["solana"] = await solana.stop_instance(ref)
    return seen


print(json.dumps(asyncio.run(drive(*sys.argv[1:]))))
