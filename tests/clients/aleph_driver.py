"""Drives a node with the real `aleph-sdk-python`, in whose environment this runs; prints what came of it as JSON."""

import asyncio
import io
import json
import sys
import zipfile
from collections.abc import Awaitable
from typing import Any

import aiohttp
from aleph.sdk.chains.ethereum import ETHAccount
from aleph.sdk.client import AuthenticatedAlephHttpClient
from aleph.sdk.query.filters import MessageFilter, PostFilter
from aleph.sdk.types import StorageEnum
from aleph_message.models import MessageType
from aleph_message.models.execution.program import ProgramContent

FILE, OTHER = b"PK not really an archive", b"0123456789abcdef" * 20_000
CHANNEL = "TEST"


async def tried(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}


async def stored(client: AuthenticatedAlephHttpClient, seen: dict[str, Any]) -> Any:
    """Upload files in both ways, one of them twice."""
    store, status = await client.create_store(file_content=FILE, storage_engine=StorageEnum.storage, channel=CHANNEL)
    pinned, pinned_status = await client.create_store(
        file_content=OTHER, storage_engine=StorageEnum.ipfs, channel=CHANNEL
    )
    seen["stored"] = [str(status), str(pinned_status)]
    seen["hashes"] = [store.content.item_hash, pinned.content.item_hash]
    seen["downloads"] = [
        (await client.download_file(store.content.item_hash)) == FILE,
        (await client.download_file(pinned.content.item_hash)) == OTHER,
    ]
    seen["stored content"] = (await client.get_stored_content(store.item_hash)).model_dump()
    seen["pushed"] = [await client.storage_push_file(FILE), await client.ipfs_push_file(FILE)]
    seen["absent file"] = await tried(client.download_file("00" * 32))
    update, _ = await client.create_store(file_content=b"newer", ref=store.item_hash, channel=CHANNEL)
    again = await tried(client.create_store(file_content=b"newest", ref=update.item_hash, channel=CHANNEL))
    seen["update of an update"] = again
    late, late_status = await client.create_store(
        file_hash="11" * 32, storage_engine=StorageEnum.storage, channel=CHANNEL
    )
    seen["late"] = [str(late_status), str(await client.get_message_status(late.item_hash))]
    return store


async def programs(client: AuthenticatedAlephHttpClient, store: Any, seen: dict[str, Any]) -> Any:
    """Publish a program, one with a message of its own file, and one that is refused."""
    wanted: dict[str, Any] = {
        "runtime": "63f07193e6ee9d207b7d1fcf8286f9aee34e6f12f101d2ec77c1229f92964696",
        "channel": CHANNEL,
        "metadata": {"name": "first"},
    }
    program, status = await client.create_program(program_ref=store.item_hash, entrypoint="main:app", **wanted)
    seen["program"] = [str(status), program.item_hash]
    price = await client.get_estimated_price(ProgramContent.model_validate(program.content.model_dump()))
    seen["price"] = [str(price.required_tokens), price.payment_type, str(price.cost)]
    seen["program price"] = (await client.get_program_price(program.item_hash)).payment_type
    large = {f"name {n}": "x" * 4000 for n in range(20)}
    big, status = await client.create_program(
        program_ref=store.item_hash, entrypoint="main:app", environment_variables=large, **wanted
    )
    seen["large program"] = [
        str(status),
        str(big.item_type),
        len((await client.get_message(big.item_hash)).content.variables),
    ]
    seen["refused program"] = await tried(
        client.create_program(program_ref=store.item_hash, entrypoint="main:app", address="0x" + "22" * 20, **wanted)
    )
    await client.create_program(program_ref="22" * 32, entrypoint="main:app", **wanted)
    seen["by type"] = len(
        (await client.get_messages(message_filter=MessageFilter(message_types=[MessageType.program]))).messages
    )
    return program


async def posts(client: AuthenticatedAlephHttpClient, seen: dict[str, Any]) -> Any:
    post, status = await client.create_post({"text": "first", "tags": ["a", "b"]}, post_type="note", channel=CHANNEL)
    seen["post"] = str(status)
    await client.create_post({"text": "amended"}, post_type="amend", ref=post.item_hash, channel=CHANNEL)
    large, _ = await client.create_post({"text": "x" * 60_000}, post_type="note", channel="LARGE")
    seen["large"] = [str(large.item_type), len((await client.get_message(large.item_hash)).content.content["text"])]
    found = (await client.get_posts(post_filter=PostFilter(channels=[CHANNEL]))).posts
    seen["posts"] = [[each.content, each.original_item_hash == post.item_hash, each.type] for each in found]
    seen["tagged"] = len((await client.get_posts(post_filter=PostFilter(tags=["b"]))).posts)
    seen["posts by cursor"] = len((await client.get_posts_cursor(page_size=1)).posts)
    return post


async def aggregates(client: AuthenticatedAlephHttpClient, seen: dict[str, Any]) -> None:
    await client.create_aggregate("settings", {"a": 1, "b": {"c": 1}}, channel=CHANNEL)
    await client.create_aggregate("settings", {"b": {"d": 2}}, channel=CHANNEL)
    address = client.account.get_address()
    seen["aggregate"] = await client.fetch_aggregate(address, "settings")
    seen["aggregates"] = list(await client.fetch_aggregates(address))
    seen["no aggregate"] = await client.get_aggregate("0x" + "33" * 20, "settings")
    seen["pricing"] = sorted(await client.fetch_aggregate("0xFba561a84A537fCaa567bb7A2257e7142701ae2A", "pricing"))
    seen["balance"] = float((await client.get_balances(address)).balance) > 0


async def delegation(client: AuthenticatedAlephHttpClient, url: str, seen: dict[str, Any]) -> None:
    """Publish for another, before and after the other allowed it."""
    other = ETHAccount(b"\2" * 32)
    address = client.account.get_address()
    async with AuthenticatedAlephHttpClient(other, api_server=url) as delegate:
        seen["foreign"] = await tried(delegate.create_post({"x": 1}, post_type="note", address=address))
        allowed = {"authorizations": [{"address": other.get_address(), "types": ["POST"], "post_types": ["note"]}]}
        await client.create_aggregate("security", allowed, channel=CHANNEL)
        _, status = await delegate.create_post({"x": 2}, post_type="note", address=address, channel="DELEGATED")
        seen["delegated"] = str(status)
        seen["delegated too far"] = await tried(delegate.create_post({"x": 3}, post_type="other", address=address))


async def watched(client: AuthenticatedAlephHttpClient, seen: dict[str, Any]) -> None:
    """See messages come, history first; what is published twice comes once."""
    wanted = MessageFilter(channels=["WATCHED"])
    earlier, _ = await client.create_post({"n": 0}, post_type="note", channel="WATCHED")
    messages = client.watch_messages(wanted)
    came = [await anext(messages)]
    await client.create_post({"n": "other"}, post_type="note", channel=CHANNEL)
    await client.create_store(file_content=b"watched", channel="WATCHED")
    await client.create_post({"n": 1}, post_type="note", channel="WATCHED")
    came += [await anext(messages), await anext(messages)]
    await messages.aclose()
    seen["watched"] = [[came[0].item_hash == earlier.item_hash], *[str(each.type) for each in came]]


async def pages(client: AuthenticatedAlephHttpClient, seen: dict[str, Any]) -> None:
    wanted = MessageFilter(addresses=[client.account.get_address()])
    everything = (await client.get_messages(message_filter=wanted, ignore_invalid_messages=False)).messages
    paged = [
        message
        for page in range(1, 100)
        for message in (await client.get_messages(page_size=3, page=page, message_filter=wanted)).messages
    ]
    cursor, by_cursor = "", []
    while cursor is not None:
        found = await client.get_messages_cursor(page_size=3, cursor=cursor, message_filter=wanted)
        by_cursor += found.messages
        cursor = found.next_cursor
    hashes = [[message.item_hash for message in each] for each in (everything, paged, by_cursor)]
    seen["pages"] = [len(hashes[0]), hashes[0] == hashes[1], hashes[0] == hashes[2]]
    iterated = [message.item_hash async for message in client.get_messages_iterator(message_filter=wanted)]
    seen["iterated"] = iterated == hashes[0]


async def forgotten(client: AuthenticatedAlephHttpClient, post: Any, store: Any, seen: dict[str, Any]) -> None:
    forget, status = await client.forget([post.item_hash], reason="told to", channel=CHANNEL)
    seen["forget"] = [str(status), forget.item_hash]
    seen["forgotten"] = await tried(client.get_message(post.item_hash))
    seen["forgotten status"] = str(await client.get_message_status(post.item_hash))
    seen["used file"] = await tried(client.forget([store.item_hash], reason=None))
    seen["forget of a forget"] = await tried(client.forget([forget.item_hash], reason=None))
    seen["unknown"] = await tried(client.get_message("ff" * 32))
    seen["unknown status"] = await tried(client.get_message_status("ff" * 32))


CODE = """
import json, os
from aleph.sdk.vm.app import AlephApp
from aleph.sdk.vm.cache import VmCache
from fastapi import FastAPI

web = FastAPI()
app = AlephApp(http_app=web)
cache = VmCache()


@web.get("/")
async def index():
    visits = int(await cache.get("visits") or 0) + 1
    await cache.set("visits", str(visits))
    return {"version": VERSION, "hash": app.vm_hash, "visits": visits, "greeting": os.environ["GREETING"]}
"""


def code(version: int) -> bytes:
    """Zip a program that uses the SDK itself."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", f"VERSION = {version}\n{CODE}")
    return buffer.getvalue()


async def running(client: AuthenticatedAlephHttpClient, url: str, seen: dict[str, Any]) -> None:
    """Store code, publish a program on it, call it, amend the code, call it, forget it, call it."""
    store, _ = await client.create_store(file_content=code(1), channel=CHANNEL)
    seen["read back"] = (await client.download_file(store.content.item_hash)) == code(1)
    program, _ = await client.create_program(
        program_ref=store.item_hash,
        entrypoint="main:app",
        runtime="63f07193e6ee9d207b7d1fcf8286f9aee34e6f12f101d2ec77c1229f92964696",
        environment_variables={"GREETING": "hello"},
        channel=CHANNEL,
    )
    seen["queried"] = (await client.get_message(program.item_hash)).content.code.ref == store.item_hash
    async with aiohttp.ClientSession() as session:

        async def ask() -> list[Any]:
            async with session.get(f"{url}/vm/{program.item_hash}/") as answer:
                document = await answer.json()
                return [answer.status, {**document, "hash": document.get("hash") == program.item_hash}]

        seen["first"], seen["second"] = await ask(), await ask()
        await client.create_store(file_content=code(2), ref=store.item_hash, channel=CHANNEL)
        seen["amended"] = await ask()
        await client.forget([program.item_hash], reason="enough")
        seen["after that"] = (await ask())[0]


async def drive(url: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    async with AuthenticatedAlephHttpClient(ETHAccount(b"\1" * 32), api_server=url) as client:
        store = await stored(client, seen)
        await programs(client, store, seen)
        post = await posts(client, seen)
        await aggregates(client, seen)
        await delegation(client, url, seen)
        await watched(client, seen)
        await pages(client, seen)
        await forgotten(client, post, store, seen)
        await running(client, url, seen)
    return seen


print(json.dumps(asyncio.run(drive(sys.argv[1]))))
