"""Does what programs do with the real `aleph-sdk-python`, over a node's socket; prints what came of it as JSON."""

import asyncio
import json
import sys
from typing import Any

from aleph.sdk.chains.remote import RemoteAccount
from aleph.sdk.client import AuthenticatedAlephHttpClient
from aleph.sdk.vm.cache import VmCache


async def cached(path: str, seen: dict[str, Any]) -> None:
    cache = VmCache(unix_socket=path)
    seen["set"] = [await cache.set("key", "value"), await cache.set("empty", b"")]
    found = [await cache.get(key) for key in ("key", "empty", "absent")]
    seen["get"] = [value if value is None else value.decode() for value in found]
    seen["keys"] = [await cache.keys(), await cache.keys("k*")]
    seen["delete"] = [await cache.delete("key"), await cache.delete("key"), await cache.get("key")]
    await cache.session.close()


async def published(path: str, address: str, seen: dict[str, Any]) -> None:
    account = await RemoteAccount.from_crypto_host("http://localhost", path)
    async with AuthenticatedAlephHttpClient(account, api_server="http://localhost", api_unix_socket=path) as client:
        for name, content in (("post", {"x": 1}), ("large post", {"x": "x" * 60_000})):
            post, status = await client.create_post(content, post_type="note", address=address, channel="TEST")
            found = await client.get_message(post.item_hash)
            seen[name] = [str(status), found.sender == account.get_address(), found.content.address == address]
        try:
            await client.create_post({"x": 1}, post_type="note", address="0x" + "11" * 20)
        except Exception as error:
            seen["foreign"] = str(error)


async def drive(path: str, address: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    await cached(path, seen)
    await published(path, address, seen)
    return seen


print(json.dumps(asyncio.run(drive(*sys.argv[1:]))))
