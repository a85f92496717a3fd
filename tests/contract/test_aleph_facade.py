"""The API of the network's nodes, as clients and their command lines use it (contract, sections 4.2, 4.3 and 5).

Items 2, 4, 7, 10, 43, 44 and 46 of the acceptance checklist (section 8), route by route.
"""

import base64
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from moorage.model.limits import MIB
from moorage.networks.aleph.facade.app import Facade
from moorage.networks.aleph.facade.uploads import Limits
from moorage.networks.aleph.ledger.records import File
from moorage.networks.aleph.messages.hashes import cid_v0, sha256
from tests.aleph import Desk, Wallet, opened, program, serving_facade

pytestmark = pytest.mark.anyio

OWNER, OTHER = Wallet(1), Wallet(2)
NOWHERE = "ab" * 32
PUBLISHED = {"status": "success", "failed": []}
KB = 1024


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


@pytest.fixture
async def api(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    limits = Limits(signed=100 * KB, unsigned=25 * KB)
    transport = httpx.ASGITransport(Facade(desk.publisher, desk.ledger, desk.blobs, limits=limits))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as api:
        yield api


async def post(api: httpx.AsyncClient, message: Any) -> httpx.Response:
    return await api.post("/api/v0/messages", json={"sync": True, "message": message})


def form(*parts: tuple[str, str | None, bytes]) -> dict[str, Any]:
    """Write a form by hand: name, file name and bytes of each part, in this order."""
    body = b""
    for name, filename, data in parts:
        named = f'; filename="{filename}"' if filename else ""
        body += f'--limit\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"
    return {"content": body + b"--limit--\r\n", "headers": {"content-type": "multipart/form-data; boundary=limit"}}


def metadata(message: Any) -> tuple[str, None, bytes]:
    return ("metadata", None, json.dumps({"message": message, "sync": True}).encode())


# Publishing


async def test_a_message_is_answered_by_what_became_of_it(api: httpx.AsyncClient) -> None:
    message = OWNER.post({"x": 1})
    for _ in range(2):
        answer = await post(api, message)
        assert (answer.status_code, answer.json()) == (
            200,
            {"publication_status": PUBLISHED, "message_status": "processed"},
        )
    answer = await post(api, OWNER.store(NOWHERE))
    assert (answer.status_code, answer.json()) == (202, {"publication_status": PUBLISHED, "message_status": "pending"})
    answer = await post(api, {**message, "signature": "0x" + "11" * 65})
    assert answer.status_code == 422
    assert answer.json()["error_code"] == 1
    await post(api, OWNER.forget(message))
    answer = await post(api, message)
    assert (answer.status_code, answer.json()["message_status"]) == (410, "forgotten")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"1", b"{}", b'{"message": 1}', b'{"message": {"type": "POST"}}', b"[" * 100_000,
     b'{"message": NaN}', b"9" * 5000, b'{"message": {"item_hash": "\\ud800", "sender": "\\ud800"}}'],
)  # fmt: skip
async def test_what_is_no_message_is_refused_in_json(api: httpx.AsyncClient, content: bytes) -> None:
    answer = await api.post("/api/v0/messages", content=content)
    assert answer.status_code == 422
    assert (answer.json()["message_status"], answer.json()["error_code"]) == ("rejected", 0)
    assert answer.json()["details"]["errors"]


async def test_a_body_that_is_too_long_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/v0/messages", content=b" " * (2 * MIB + 1))
    assert (answer.status_code, list(answer.json())) == (413, ["error"])


async def test_a_bare_document_is_refused(api: httpx.AsyncClient) -> None:
    bare = {"address": OWNER.address, "time": 1.0, **program(NOWHERE)}
    assert (await post(api, bare)).status_code == 422


async def test_problems_have_their_place(api: httpx.AsyncClient) -> None:
    answer = await post(api, OWNER.program(NOWHERE, resources={"vcpus": 257}))
    (problem,) = answer.json()["details"]["errors"]
    assert problem["loc"] == ["content", "resources", "vcpus"]
    assert problem.keys() == {"loc", "msg", "type"}


@pytest.mark.parametrize("route", ["ipfs", "p2p"])
@pytest.mark.parametrize("write", [json.dumps, lambda message: message])
async def test_older_clients_publish_by_topic(desk: Desk, api: httpx.AsyncClient, route: str, write: Any) -> None:
    message = OWNER.post({"x": 1})
    answer = await api.post(f"/api/v0/{route}/pubsub/pub", json={"topic": "ALEPH-TEST", "data": write(message)})
    assert (answer.status_code, answer.json()) == (200, PUBLISHED)
    assert desk.ledger.message(message["item_hash"]) is not None
    answer = await api.post(f"/api/v0/{route}/pubsub/pub", json={"topic": "ALEPH-TEST", "data": "{"})
    assert answer.status_code == 422


async def test_a_program_publishes_in_its_own_name_through_its_guest_api(desk: Desk) -> None:
    own = "cd" * 32
    facade = Facade(desk.publisher, desk.ledger, desk.blobs)

    async def guest_api(scope: Any, receive: Any, send: Any) -> None:
        await facade({**scope, "moorage.aleph.program": own}, receive, send)

    message = OWNER.post({"x": 1}, address=own)
    for app, status in ((facade, 422), (guest_api, 200)):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://node") as api:
            assert (await post(api, message)).status_code == status


# Messages


async def test_a_message_is_shown_as_it_stands(api: httpx.AsyncClient) -> None:
    message, refused, waiting = OWNER.post({"x": 1}), OTHER.post(1, address=OWNER.address), OWNER.store(NOWHERE)
    for each in (message, refused, waiting):
        await post(api, each)

    async def seen(each: Any) -> Any:
        return (await api.get(f"/api/v0/messages/{each['item_hash']}")).json()

    found = await seen(message)
    assert found.keys() == {"status", "item_hash", "reception_time", "message"}
    assert found["message"] == {
        **message,
        "content": json.loads(message["item_content"]),
        "size": len(message["item_content"]),
        "confirmed": False,
        "confirmations": [],
    }
    found = await seen(refused)
    assert (found["status"], found["error_code"]) == ("rejected", 2)
    assert "may not send" in found["details"]["errors"][0]
    assert found["message"]["item_hash"] == refused["item_hash"]
    found = await seen(waiting)
    assert (found["status"], found["messages"][0]["item_hash"]) == ("pending", waiting["item_hash"])
    forget = OWNER.forget(message)
    await post(api, forget)
    found = await seen(message)
    assert (found["status"], found["forgotten_by"]) == ("forgotten", [forget["item_hash"]])
    assert "content" not in found["message"]
    assert found["message"]["item_content"] is None


async def test_status_and_content_have_routes_of_their_own(desk: Desk, api: httpx.AsyncClient) -> None:
    message, store = OWNER.post({"x": 1}), OWNER.store(NOWHERE)
    file = OWNER.store(await desk.file(b"file"))
    for each in (message, store, file):
        await desk.take(each)

    async def get(each: Any, what: str) -> tuple[int, Any]:
        answer = await api.get(f"/api/v0/messages/{each['item_hash']}/{what}")
        return answer.status_code, answer.json()

    assert (await get(message, "status"))[1].keys() == {"status", "item_hash", "reception_time"}
    assert await get(message, "content") == (200, {"x": 1})
    assert (await get(file, "content"))[1]["item_hash"] == sha256(b"file")
    assert await get(store, "content") == (422, {"error": "Message is pending"})
    assert (await get(store, "status"))[1]["status"] == "pending"
    for what in ("status", "content"):
        assert (await get({"item_hash": NOWHERE}, what))[0] == 404


@pytest.mark.parametrize("item_hash", ["x", "AB" * 32, "ab" * 31, "Qm"])
@pytest.mark.parametrize("path", ["messages/{}", "messages/{}/status", "messages/{}/content", "storage/raw/{}",
                                  "storage/{}", "storage/by-message-hash/{}", "price/{}"])  # fmt: skip
async def test_what_is_no_hash_is_a_bad_request(api: httpx.AsyncClient, path: str, item_hash: str) -> None:
    answer = await api.get(f"/api/v0/{path.format(item_hash)}")
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid hash"})


async def test_messages_are_listed_by_page(desk: Desk, api: httpx.AsyncClient) -> None:
    posts = [OWNER.message("POST", {"type": "note", "content": n}, time=1000.0 + n) for n in range(5)]
    for each in posts:
        await desk.take(each)
    newest_first = [each["item_hash"] for each in reversed(posts)]

    async def hashes(path: str, **params: Any) -> tuple[list[str], Any]:
        found = (await api.get(f"/api/v0/messages{path}.json", params=params)).json()
        return [message["item_hash"] for message in found.pop("messages")], found

    assert await hashes("", pagination=2, page=2) == (
        newest_first[2:4],
        {
            "pagination_page": 2, "pagination_per_page": 2, "pagination_total": 5, "pagination_item": "messages",
        },
    )  # fmt: skip
    assert (await hashes("/page/3", pagination=2))[0] == newest_first[4:]
    assert (await hashes("", pagination=0))[0] == newest_first
    assert (await hashes("", sortOrder=1, sort_order=7, unknown="x"))[0] == newest_first[::-1]
    assert (await hashes("", startDate="1001", endDate=1003.0))[0] == newest_first[2:4]
    assert (await hashes("", hashes=",".join(newest_first[:2]), msgType="POST,STORE"))[0] == newest_first[:2]
    assert (await hashes("", msgTypes="STORE"))[0] == []
    assert (await hashes("", message_statuses="pending"))[0] == []


async def test_messages_are_listed_by_cursor(desk: Desk, api: httpx.AsyncClient) -> None:
    posts = [OWNER.post(n) for n in range(5)]
    for each in posts:
        await desk.take(each)
    seen, cursor, sizes = [], "", []
    while cursor is not None:
        found = (await api.get("/api/v0/messages.json", params={"cursor": cursor, "pagination": 2})).json()
        assert found.keys() == {"messages", "pagination_per_page", "next_cursor"}
        seen += [message["item_hash"] for message in found["messages"]]
        sizes.append(len(found["messages"]))
        cursor = found["next_cursor"]
    assert sizes == [2, 2, 1]
    assert seen == [each["item_hash"] for each in reversed(posts)]
    found = (await api.get("/api/v0/messages.json?cursor=&pagination=1000")).json()
    assert (found["pagination_per_page"], found["next_cursor"]) == (200, None)


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=x", "pagination=-1", "pagination=1e9", "startDate=nan", "endDate=x", "cursor=x", "cursor=WzFd",
     "cursor=W25hbiwxXQ==", "cursor=%ff", "page=99999999999999999999"],
)  # fmt: skip
async def test_a_bad_query_is_refused_in_json(api: httpx.AsyncClient, query: str) -> None:
    for path in ("messages", "posts"):
        answer = await api.get(f"/api/v0/{path}.json?{query}")
        assert (answer.status_code, list(answer.json())) == (422, ["error"])


async def test_what_the_operator_loaded_is_not_listed_but_can_be_asked_for(desk: Desk, api: httpx.AsyncClient) -> None:
    code = await desk.file(b"code")
    text = json.dumps({"address": OWNER.address, "time": 1.0, **program(code)}).encode()
    item_hash = (await desk.publisher.adopt(text, {})).item_hash
    assert (await api.get("/api/v0/messages.json")).json()["messages"] == []
    assert (await api.get(f"/api/v0/messages/{item_hash}/status")).json()["status"] == "processed"


# Posts and aggregates


async def test_a_post_has_all_keys_and_what_its_newest_amend_says(desk: Desk, api: httpx.AsyncClient) -> None:
    original = OWNER.post({"n": 0}, ref={"chain": "ETH"})
    newest = OWNER.amend(original, {"n": 2}, time=1002.0)
    for each in (original, newest, OWNER.amend(original, {"n": 1}, time=1001.0)):
        await desk.take(each)
    found = (await api.get("/api/v0/posts.json", params={"types": "note"})).json()
    assert found["pagination_item"] == "posts"
    (shown,) = found["posts"]
    assert shown == {
        **newest, "type": "note", "content": {"n": 2}, "size": len(newest["item_content"]), "confirmed": False,
        "confirmations": [], "original_item_hash": original["item_hash"], "original_type": "note",
        "original_signature": original["signature"], "hash": original["item_hash"], "ref": {"chain": "ETH"},
        "address": OWNER.address,
    }  # fmt: skip
    assert (await api.get("/api/v0/posts.json", params={"types": "amend"})).json()["posts"] == []
    await desk.take(OWNER.forget(newest))
    (shown,) = (await api.get("/api/v0/posts.json")).json()["posts"]
    assert shown["content"] == {"n": 1}


async def test_aggregates_are_merged_by_time(desk: Desk, api: httpx.AsyncClient) -> None:
    later = OWNER.aggregate("k", {"a": 2}, time=2000.0)
    first = OWNER.aggregate("k", {"a": 1, "b": {"x": 1}})
    for each in (later, first, OWNER.aggregate("l", {})):
        await desk.take(each)

    async def get(address: str = OWNER.address, **params: Any) -> Any:
        return (await api.get(f"/api/v0/aggregates/{address}.json", params=params)).json()

    merged = {"a": 2, "b": {"x": 1}}
    assert await get() == {"address": OWNER.address, "data": {"k": merged, "l": {}}, "info": {}}
    assert (await get(OWNER.address.lower(), keys="k"))["data"] == {"k": merged}
    assert await get(keys="k", value_only="true") == merged
    assert (await get(limit=1))["data"] == {"k": merged}
    info = (await get(keys="k", with_info="true"))["info"]["k"]
    assert (info["original_item_hash"], info["last_update_item_hash"]) == (first["item_hash"], later["item_hash"])
    for address, params in ((OTHER.address, {}), (OWNER.address, {"keys": "none"})):
        answer = await api.get(f"/api/v0/aggregates/{address}.json", params=params)
        assert (answer.status_code, answer.json()) == (404, {"error": "No aggregate found for this address"})


async def test_the_price_list_is_built_in(api: httpx.AsyncClient) -> None:
    address = "0xFba561a84A537fCaa567bb7A2257e7142701ae2A"
    pricing = (await api.get(f"/api/v0/aggregates/{address}.json?keys=pricing")).json()["data"]["pricing"]
    assert pricing["program"]["price"]["compute_unit"] == {"holding": "0"}
    assert pricing["program_persistent"]["tiers"][0] == {"id": "tier-1", "compute_units": 1}
    assert (await api.get(f"/api/v0/aggregates/{address}.json?keys=runtimes")).status_code == 404


# Files


@pytest.mark.parametrize("size", [0, 1, 24 * KB])
@pytest.mark.parametrize("engine", ["storage", "ipfs"])
async def test_a_file_is_uploaded_as_a_form_or_as_a_body(api: httpx.AsyncClient, engine: str, size: int) -> None:
    data = os.urandom(size)
    wanted = sha256(data) if engine == "storage" else cid_v0([data])
    answers = [
        await api.post(f"/api/v0/{engine}/add_file", content=data),
        await api.post(f"/api/v0/{engine}/add_file", **form(("other", None, b"x"), ("file", "name.bin", data))),
        await api.post(f"/api/v0/{engine}/add_file", **form(("file", None, data))),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["hash"], answer.json()["size"]) == ("success", wanted, size)
    assert answers[1].json()["name"] == "name.bin"
    raw = await api.get(f"/api/v0/storage/raw/{wanted}")
    assert (raw.content, raw.headers["content-type"]) == (data, "application/octet-stream")
    head = await api.head(f"/api/v0/storage/raw/{wanted}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")
    found = (await api.get(f"/api/v0/storage/{wanted}")).json()
    assert (found["status"], found["hash"], found["engine"]) == ("success", wanted, engine)
    assert base64.b64decode(found["content"]) == data


@pytest.mark.parametrize("swapped", [False, True])
async def test_a_file_and_its_message_come_together_in_any_order(
    desk: Desk, api: httpx.AsyncClient, swapped: bool
) -> None:
    store = OWNER.store(sha256(b"x" * 26 * KB))
    parts = [metadata(store), ("file", None, b"x" * 26 * KB)]
    answer = await api.post("/api/v0/storage/add_file", **form(*(reversed(parts) if swapped else parts)))
    assert (answer.status_code, answer.json()["hash"]) == (200, sha256(b"x" * 26 * KB))
    assert desk.told == [("processed", store["item_hash"])]
    assert (await post(api, store)).status_code == 200
    assert len(desk.changes) == 1


async def test_a_message_that_came_before_its_file_is_processed_with_it(desk: Desk, api: httpx.AsyncClient) -> None:
    store = OWNER.store(cid_v0([b"data"]))
    assert (await post(api, store)).status_code == 202
    answer = await api.post("/api/v0/ipfs/add_file", **form(("file", None, b"data"), metadata(store)))
    assert (answer.status_code, answer.json()["message_status"]) == (200, "processed")


async def test_an_update_of_what_is_not_here_yet_is_pending(api: httpx.AsyncClient) -> None:
    update = OWNER.store(sha256(b"data"), ref=NOWHERE)
    answer = await api.post("/api/v0/storage/add_file", **form(metadata(update), ("file", None, b"data")))
    assert (answer.status_code, answer.json()["status"]) == (202, "success")


async def test_an_upload_is_refused_for_its_file_its_signature_or_its_message(
    desk: Desk, api: httpx.AsyncClient
) -> None:
    store, hashed = OWNER.store(sha256(b"data")), sha256(b"data")

    async def upload(message: Any, data: bytes = b"data") -> tuple[int, Any]:
        answer = await api.post("/api/v0/storage/add_file", **form(metadata(message), ("file", None, data)))
        return answer.status_code, answer.json()

    status, answer = await upload(store, b"other")
    assert (status, answer) == (422, {"error": f"File hash does not match ({sha256(b'other')} != {hashed})"})
    assert (await upload({**store, "signature": "0x" + "11" * 65}))[0] == 403
    status, answer = await upload(OTHER.store(hashed, address=OWNER.address))
    assert (status, answer["error_code"]) == (422, 2)
    assert (await upload(OWNER.post(1)))[0] == 422
    assert (await upload("x"))[0] == 422
    assert not desk.ledger.has_file(hashed)
    assert not desk.ledger.has_file(sha256(b"other"))


async def test_of_an_upload_that_is_refused_no_bytes_are_kept(desk: Desk, api: httpx.AsyncClient) -> None:
    store, forged = OWNER.store(sha256(b"data")), {"signature": "0x" + "11" * 65}
    sent = {
        b"not the file": metadata(store),
        b"forged": metadata({**OWNER.store(sha256(b"forged")), **forged}),
        b"no envelope": metadata({"type": "STORE"}),
        b"no store": metadata(OWNER.post(1)),
        b"no JSON": ("metadata", None, b"{"),
    }
    for data, given in sent.items():
        for parts in ([given, ("file", None, data)], [("file", None, data), given]):
            answer = await api.post("/api/v0/storage/add_file", **form(*parts))
            assert answer.status_code == (403 if data == b"forged" else 422)
        assert desk.blobs.size(sha256(data)) is None


@pytest.mark.parametrize("given", [("metadata", None, b"{"), metadata({**OWNER.store(NOWHERE), "signature": "0x"})])
async def test_what_is_no_signed_message_does_not_raise_the_limit(api: httpx.AsyncClient, given: Any) -> None:
    sent = form(given, ("file", None, b"x" * 26 * KB))["content"]

    async def pieces() -> AsyncIterator[bytes]:
        yield sent[: -KB // 2]
        pytest.fail("it was read to its end")

    kind = {"content-type": "multipart/form-data; boundary=limit"}
    answer = await api.post("/api/v0/storage/add_file", content=pieces(), headers=kind)
    assert answer.status_code in {403, 422}


async def test_uploads_have_limits(desk: Desk, api: httpx.AsyncClient) -> None:
    large, huge = b"x" * 26 * KB, b"x" * 101 * KB
    uploads: list[dict[str, Any]] = [
        {"content": large},
        form(("file", None, large)),
        form(metadata(OWNER.store(NOWHERE)), ("file", None, huge)),
        form(("file", None, b"x"), ("metadata", None, b"x" * (1 << 21))),
    ]
    for sent in uploads:
        answer = await api.post("/api/v0/storage/add_file", **sent)
        assert (answer.status_code, list(answer.json())) == (413, ["error"])
    assert desk.blobs.size(sha256(large)) is None
    assert desk.blobs.size(sha256(huge)) is None


@pytest.mark.parametrize(
    "sent",
    [
        form(),
        form(("other", None, b"x")),
        form(("file", None, b"x"), ("file", None, b"y")),
        {**form(("file", None, b"x")), "content": b"--limit\r\nContent-Disposition: form-data; name=file\r\n\r\nx"},
        {**form(("file", None, b"x")), "content": b"no form"},
        {**form(("file", None, b"x")), "content": b""},
        form(("file", None, b"x"), ("metadata", None, b"{")),
        form(("file", None, b"x"), ("metadata", None, b"\xff")),
    ],
)
async def test_a_bad_form_is_refused_in_json(api: httpx.AsyncClient, sent: Any) -> None:
    answer = await api.post("/api/v0/storage/add_file", **sent)
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


@pytest.mark.parametrize("engine", ["storage", "ipfs"])
async def test_json_is_stored_in_one_form_and_can_be_the_content_of_a_message(
    api: httpx.AsyncClient, engine: str
) -> None:
    content = {"type": "note", "time": 1.0, "address": OWNER.address, "content": {"ü": "x" * 60_000}}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    hashed = (await api.post(f"/api/v0/{engine}/add_json", content=json.dumps(content, indent=1))).json()["hash"]
    assert hashed == (sha256(text) if engine == "storage" else cid_v0([text]))
    assert (await api.get(f"/api/v0/storage/raw/{hashed}")).content == text
    message = OWNER.signed("POST", hashed, item_type=engine)
    assert (await post(api, message)).status_code == 200
    found = (await api.get(f"/api/v0/messages/{hashed}")).json()["message"]
    assert (found["content"], found["item_content"], found["size"]) == (content, None, len(text))


@pytest.mark.parametrize("content", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b"1e999", b"[" * 101 + b"]" * 101])
async def test_what_is_no_json_is_not_stored(api: httpx.AsyncClient, content: bytes) -> None:
    answer = await api.post("/api/v0/storage/add_json", content=content)
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


async def test_a_file_is_found_by_its_message_and_by_its_name(desk: Desk, api: httpx.AsyncClient) -> None:
    files = [await desk.file(data) for data in (b"old", b"new!")]
    original = OWNER.store(files[0])
    update = OWNER.store(files[1], ref=original["item_hash"], time=1001.0)
    tagged = OWNER.store(files[1], ref="my-name")
    for each in (original, update, tagged):
        await desk.take(each)

    async def get(path: str) -> Any:
        return (await api.get(f"/api/v0/storage/{path}")).json()

    assert await get(f"by-message-hash/{original['item_hash']}") == {
        "ref": None, "owner": OWNER.address, "file_hash": files[0],
        "download_url": f"/api/v0/storage/raw/{files[0]}", "size": 3,
    }  # fmt: skip
    assert (await get(f"by-ref/{original['item_hash']}"))["file_hash"] == files[1]
    assert (await get(f"by-ref/{OWNER.address}/my-name"))["size"] == 4
    for path in (
        f"by-message-hash/{NOWHERE}",
        "by-ref/x",
        f"by-ref/{OTHER.address}/my-name",
        NOWHERE,
        f"raw/{NOWHERE}",
    ):
        answer = await api.get(f"/api/v0/storage/{path}")
        assert (answer.status_code, answer.json()) == (404, {"error": "Not found"})


async def test_a_name_that_the_operator_gave_a_file_is_no_hash_of_it(desk: Desk, api: httpx.AsyncClient) -> None:
    digest, size = await desk.blobs.put_bytes(b"file")
    await desk.publisher.add_file(File(hash=NOWHERE, digest=digest, size=size, alias=True))
    assert (await api.get(f"/api/v0/storage/raw/{NOWHERE}")).status_code == 404


async def test_directories_are_not_supported(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/v0/ipfs/add_car", content=b"car")
    assert (answer.status_code, answer.json()) == (403, {"error": "IPFS directories are not supported"})


# What else clients look at


async def test_nothing_costs_anything(desk: Desk, api: httpx.AsyncClient) -> None:
    code = await desk.file(b"code")
    message = OWNER.program(code, payment={"type": "credit", "chain": "ETH"})
    await desk.take(message)
    free = {
        "required_tokens": 0.0, "payment_type": "credit", "cost": "0", "detail": [], "charged_address": OWNER.address,
    }  # fmt: skip
    assert (await api.get(f"/api/v0/price/{message['item_hash']}")).json() == free
    dummy = {**message, "signature": "0x" + "0" * 130}
    assert (await api.post("/api/v0/price/estimate", json={"message": dummy})).json() == free
    assert (await api.get(f"/api/v0/price/{NOWHERE}")).status_code == 404
    for wrong in (1, {"item_content": "1e999"}, {"item_content": "[" * 900 + "]" * 900}):
        assert (await api.post("/api/v0/price/estimate", json={"message": wrong})).status_code == 422
    odd = {"item_content": json.dumps({"address": ["0x0"], "payment": {"type": {"a": 1}}})}
    answer = (await api.post("/api/v0/price/estimate", json={"message": odd})).json()
    assert (answer["payment_type"], answer["charged_address"]) == ("hold", None)
    balance = (await api.get(f"/api/v0/addresses/{OWNER.address}/balance")).json()
    assert balance.keys() == {"address", "balance", "details", "locked_amount", "credit_balance"}


async def test_programs_with_subscriptions_are_listed(desk: Desk, api: httpx.AsyncClient) -> None:
    code = await desk.file(b"code")
    wanted = [{"type": "POST", "content": {"ref": ["a", "b"]}}, {}]
    listener = OWNER.program(code, on={"http": True, "message": wanted})
    for each in (OWNER.program(code), listener):
        await desk.take(each)
    found = (await api.get("/api/v0/programs/on/message?sort_order=1")).json()
    assert found == [{"item_hash": listener["item_hash"], "content": {"on": {"message": wanted}}}]


async def test_the_node_says_what_it_is(api: httpx.AsyncClient) -> None:
    assert (await api.get("/api/v0/info/public.json")).json() == {"node_multi_addresses": []}
    assert (await api.get("/version")).json() == (await api.get("/api/v0/version")).json()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/api/v0/none", 404), ("DELETE", "/api/v0/messages", 405)]
)
async def test_a_route_that_is_not_there_is_told_in_json(
    api: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await api.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


async def test_a_client_that_leaves_in_an_upload_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    events = iter([{"type": "http.request", "body": b"x" * KB, "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/api/v0/storage/add_file", "headers": [], "query_string": b"",
        "root_path": "", "scheme": "http", "server": ("node", 80), "client": ("127.0.0.1", 1), "http_version": "1.1",
    }  # fmt: skip
    await Facade(desk.publisher, desk.ledger, desk.blobs)(scope, receive, send)
    assert not list((tmp_path / "blobs" / "tmp").iterdir())


# The websocket


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, Desk, str]]:
    with serving_facade(tmp_path) as (portal, desk, url):
        yield portal, desk, url.replace("http", "ws") + "/api/ws0/messages"


def test_messages_come_on_the_websocket_history_first_and_each_once(served: tuple[Any, Desk, str]) -> None:
    portal, desk, url = served
    posts = [OWNER.post(n) for n in range(4)]
    for each in posts[:3]:
        portal.call(desk.take, each)
    with connect(f"{url}?history=2&msgTypes=POST") as websocket:
        seen = [json.loads(websocket.recv(timeout=30)) for _ in range(2)]
        for each in (posts[2], OWNER.aggregate("k", {}), posts[3], posts[3], OWNER.forget(posts[0])):
            portal.call(desk.take, each)
        portal.call(desk.take, OWNER.post("last"))
        seen += [json.loads(websocket.recv(timeout=30)) for _ in range(2)]
    assert [each["item_hash"] for each in seen[:3]] == [each["item_hash"] for each in posts[1:]]
    assert seen[3]["content"]["content"] == "last"


def test_a_watcher_with_a_bad_query_is_told(served: tuple[Any, Desk, str]) -> None:
    _, _, url = served
    with connect(f"{url}?history=x") as websocket, pytest.raises(Exception, match="1008"):
        websocket.recv(timeout=30)


def test_a_watcher_that_leaves_is_no_longer_told(
    served: tuple[Any, Desk, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    portal, desk, url = served
    listen, ended = desk.publisher.listen, threading.Event()

    def listened(listener: Any) -> Any:
        end = listen(listener)
        return lambda: (end(), ended.set())

    monkeypatch.setattr(desk.publisher, "listen", listened)
    with connect(f"{url}?history=0") as websocket:
        portal.call(desk.take, OWNER.post(1))
        websocket.recv(timeout=30)
        assert not ended.is_set()
    assert ended.wait(30)
