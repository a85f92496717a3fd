"""How messages come into the ledger (contract, sections 2.2, 2.3, 2.9, 3.6, 3.7 and 4.3).

Items 2, 7, 8, 9, 10, 12, 39 (what is delivered), 44 and 46 of the acceptance checklist (section 8).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from moorage.networks.aleph.ledger import publisher, writes
from moorage.networks.aleph.ledger.adoption import Adopted, MessageRefused
from moorage.networks.aleph.ledger.examination import WrongFile
from moorage.networks.aleph.ledger.records import File
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.drafts import BadProgram
from moorage.networks.aleph.messages.hashes import host_label, sha256
from tests.aleph import RUNTIME, Desk, Wallet, opened, program

pytestmark = pytest.mark.anyio

OWNER, OTHER = Wallet(1), Wallet(2)
INLINE = "async def application(scope, receive, send): await send({'output': 'hola!'})"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


async def errors(desk: Desk, document: Any, **rest: Any) -> tuple[int | None, str]:
    """Publish what is to be refused; give the code and all that is said."""
    receipt = await desk.publisher.publish(document, **rest)
    assert receipt.status == "rejected", receipt
    return receipt.error_code, json.dumps(receipt.details)


# Verification


async def test_a_signed_message_is_processed_and_told_as_the_api_shows_it(desk: Desk) -> None:
    post = OWNER.post({"x": 1})
    receipt = await desk.publisher.publish(post)
    assert (receipt.status, receipt.duplicate) == ("processed", False)
    (change,) = desk.changes
    assert change.message == desk.shown(post["item_hash"])
    assert change.message["content"] == json.loads(post["item_content"])
    assert (change.kind, change.type, change.item_hash) == ("processed", "POST", post["item_hash"])


@pytest.mark.parametrize("key", ["sender", "chain", "type", "signature"])
async def test_what_the_signature_covers_cannot_be_changed(desk: Desk, key: str) -> None:
    changed = {"sender": OTHER.address, "chain": "BSC", "type": "AGGREGATE", "signature": "0x" + "11" * 65}
    code, _ = await errors(desk, {**OWNER.post({"x": 1}), key: changed[key]})
    assert code == 1
    assert desk.changes == []


async def test_the_hash_is_that_of_the_exact_text(desk: Desk) -> None:
    post = OWNER.post({"x": 1})
    code, text = await errors(desk, {**post, "item_content": post["item_content"] + " "})
    assert (code, "item_content has the hash" in text) == (0, True)


async def test_a_chain_that_cannot_be_verified_is_refused_with_its_name(desk: Desk) -> None:
    code, text = await errors(desk, {**OWNER.post({}), "chain": "DOT"})
    assert (code, "DOT" in text) == (1, True)


@pytest.mark.parametrize("document", [None, 1, [], {}, {"type": "POST"}, "text"])
async def test_what_is_no_message_is_refused(desk: Desk, document: Any) -> None:
    code, _ = await errors(desk, document)
    assert code == 0


async def test_a_refusal_is_remembered_even_of_what_is_no_message_but_has_a_hash(desk: Desk) -> None:
    program_ = OWNER.message("V-PROGRAM", program("ab" * 32))
    await errors(desk, program_)
    found = desk.ledger.rejection(program_["item_hash"])
    assert found is not None
    assert (found.code, found.message["type"]) == (0, "V-PROGRAM")


async def test_a_refused_forgery_neither_displaces_nor_keeps_out_what_is_valid(desk: Desk) -> None:
    post = OWNER.post({"x": 1})
    forged = {**post, "signature": "0x" + "11" * 65}
    await errors(desk, forged)
    assert desk.ledger.rejection(post["item_hash"]) is not None
    assert await desk.take(post) == "processed"
    assert desk.ledger.rejection(post["item_hash"]) is None
    code, _ = await errors(desk, forged)
    assert code == 1
    assert desk.ledger.message(post["item_hash"]) is not None
    assert desk.ledger.rejection(post["item_hash"]) is None


async def test_who_signs_a_stored_content_first_does_not_keep_its_owner_out(desk: Desk) -> None:
    text = json.dumps({"address": OWNER.address, "time": 1.0, "type": "note", "content": 1})
    claims = [wallet.signed("POST", sha256(text), item_type="storage") for wallet in (OTHER, OWNER)]
    assert [await desk.take(claim) for claim in claims] == ["pending", "pending"]
    await desk.file(text.encode())
    found = desk.ledger.record(sha256(text))
    assert found is not None
    assert (found.status, found.envelope.sender) == ("processed", OWNER.address)
    assert desk.ledger.pending(sha256(text)) == []


@pytest.mark.parametrize("text", ["[1]", "{", '{"x": NaN}', "[" * 5000, '{"address": 1}'])
async def test_a_stored_content_that_is_none_is_refused_once_it_is_here(desk: Desk, text: str) -> None:
    claim = OWNER.signed("POST", sha256(text), item_type="storage")
    assert await desk.take(claim) == "pending"
    await desk.file(text.encode())
    found = desk.ledger.rejection(claim["item_hash"])
    assert found is not None
    assert found.code == 0
    assert desk.ledger.pending(claim["item_hash"]) == []


async def test_messages_are_taken_one_after_the_other_however_they_come(desk: Desk) -> None:
    posts = [OWNER.post(n) for n in range(10)]
    await asyncio.gather(*map(desk.publisher.publish, posts))
    assert desk.told == [("processed", post["item_hash"]) for post in posts]


async def test_a_caller_that_leaves_does_not_stop_what_it_began(desk: Desk) -> None:
    heard = asyncio.Event()
    desk.publisher.listen(lambda change: heard.set())
    task = asyncio.create_task(desk.publisher.publish(OWNER.post(1)))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(30):
        await heard.wait()


# Publishing again


async def test_the_same_message_again_is_processed_and_nothing_follows(desk: Desk) -> None:
    post = OWNER.post({"x": 1})
    await desk.take(post)
    receipt = await desk.publisher.publish({**post, "time": 5.0, "channel": "other"})
    assert (receipt.status, receipt.duplicate) == ("processed", True)
    assert len(desk.changes) == 1


async def test_a_forgotten_message_stays_so(desk: Desk) -> None:
    post = OWNER.post({"x": 1})
    await desk.take(post)
    await desk.take(OWNER.forget(post))
    receipt = await desk.publisher.publish(post)
    assert (receipt.status, receipt.error_code) == ("forgotten", 504)


async def test_a_refused_message_may_come_again_when_it_is_allowed(desk: Desk) -> None:
    post = OTHER.post({"x": 1}, address=OWNER.address)
    code, _ = await errors(desk, post)
    assert code == 2
    await desk.take(OWNER.aggregate("security", {"authorizations": [{"address": OTHER.address, "types": ["POST"]}]}))
    assert await desk.take(post) == "processed"
    code, _ = await errors(desk, OTHER.aggregate("k", {}, address=OWNER.address))
    assert code == 2


# Files and updates


async def test_a_store_waits_for_its_file(desk: Desk) -> None:
    store = OWNER.store(sha256(b"file"))
    receipt = await desk.publisher.publish(store)
    assert (receipt.status, receipt.error_code, receipt.missing) == ("pending", 4, (sha256(b"file"),))
    await desk.file(b"other")
    assert desk.changes == []
    await desk.file(b"file")
    assert desk.told == [("processed", store["item_hash"])]


async def test_a_store_that_waits_is_processed_when_it_comes_again_with_its_file(desk: Desk) -> None:
    store = OWNER.store(sha256(b"file"))
    await desk.take(store)
    file = File(hash=sha256(b"file"), digest=sha256(b"file"), size=4)
    assert await desk.take(store, file=file) == "processed"
    assert desk.told == [("processed", store["item_hash"])]


async def test_a_store_with_another_file_is_not_taken(desk: Desk) -> None:
    file = File(hash=sha256(b"other"), digest=sha256(b"other"), size=5)
    with pytest.raises(WrongFile, match=f"{sha256(b'other')} != {sha256(b'file')}"):
        await desk.publisher.publish(OWNER.store(sha256(b"file")), file=file)
    assert not desk.ledger.has_file(sha256(b"other"))


async def test_a_chain_of_messages_that_wait_is_processed_in_order(desk: Desk) -> None:
    original = OWNER.store(sha256(b"one"))
    update = OWNER.store(sha256(b"two"), ref=original["item_hash"])
    first = OWNER.program(original["item_hash"])
    amend = OWNER.program(original["item_hash"], replaces=first["item_hash"], time=1001.0)
    forget = OWNER.forget(amend)
    for message in (forget, amend, first, update, original):
        assert await desk.take(message) == "pending"
    await desk.file(b"two")
    assert desk.changes == []
    await desk.file(b"one")
    processed = [item_hash for kind, item_hash in desk.told if kind == "processed"]
    assert processed[0] == original["item_hash"]
    assert set(processed) == {message["item_hash"] for message in (original, update, first, amend, forget)}
    assert desk.ledger.forgotten(amend["item_hash"])
    assert desk.ledger.all_pending() == []


async def test_what_waited_when_the_node_ended_is_judged_at_the_start(tmp_path: Path) -> None:
    store = OWNER.store(sha256(b"file"))
    async with opened(tmp_path) as desk:
        await desk.take(store)
        file = (sha256(b"file"), sha256(b"file"), 4, 0)
        await desk.ledger.write(lambda db: db.execute("INSERT INTO files VALUES (?, ?, ?, ?, 0)", file).close())
    async with opened(tmp_path) as desk:
        await desk.publisher.settle()
        assert desk.told == [("processed", store["item_hash"])]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)])
async def test_the_newest_update_wins_whatever_the_order_and_forgetting_it_falls_back(
    desk: Desk, order: tuple[int, ...]
) -> None:
    files = [await desk.file(data) for data in (b"0", b"1", b"2")]
    original = OWNER.store(files[0])
    stores = [original, *(OWNER.store(files[n], ref=original["item_hash"], time=1000.0 + n) for n in (1, 2))]
    for n in order:
        await desk.take(stores[n])

    def resolved() -> str:
        found = rules.resolve(desk.ledger, original["item_hash"], use_latest=True)
        assert found is not None
        assert isinstance(found.content, Store)
        return found.content.item_hash

    assert resolved() == files[2]
    assert await desk.take(OWNER.forget(stores[2])) == "processed"
    assert resolved() == files[1]


async def test_updates_of_others_and_of_updates_are_refused(desk: Desk) -> None:
    file = await desk.file(b"file")
    original = OWNER.store(file)
    update = OWNER.store(file, ref=original["item_hash"], time=1001.0)
    for store in (original, update):
        assert await desk.take(store) == "processed"
    assert (await errors(desk, OTHER.store(file, ref=original["item_hash"])))[0] == 2
    assert (await errors(desk, OWNER.store(file, ref=update["item_hash"])))[0] == 201


# Programs


async def test_an_original_serves_its_newest_version_until_it_is_forgotten(desk: Desk) -> None:
    code = await desk.file(b"code")
    first = OWNER.program(code)
    amend = OWNER.program(code, replaces=first["item_hash"], time=1001.0, allow_amend=False)
    for message in (first, amend):
        assert await desk.take(message) == "processed"
    served = rules.served(desk.ledger, first["item_hash"])
    assert isinstance(served, rules.Message)
    assert served.item_hash == amend["item_hash"]
    assert (await errors(desk, OWNER.program(code, replaces=first["item_hash"], time=1002.0)))[0] == 302
    assert (await errors(desk, OWNER.program(code, replaces=amend["item_hash"], time=1002.0)))[0] == 303
    await desk.take(OWNER.forget(first))
    gone = rules.served(desk.ledger, first["item_hash"])
    assert isinstance(gone, rules.Unserved)
    assert gone.status == 410
    assert isinstance(rules.served(desk.ledger, amend["item_hash"]), rules.Message)
    assert desk.ledger.programs() == [amend["item_hash"]]


async def test_a_bad_program_is_refused_with_every_place(desk: Desk) -> None:
    document = OWNER.program("ab" * 32, colour="blue", resources={"vcpus": 0})
    code, text = await errors(desk, document)
    assert code == 0
    assert '["content", "colour"]' in text
    assert '["content", "resources", "vcpus"]' in text


async def test_a_post_may_hold_a_program_of_a_draft_with_its_code(desk: Desk) -> None:
    inner = {
        "code": {"encoding": "plain", "entrypoint": "application", "content": INLINE},
        "on": {"http": True}, "runtime": {"ref": "ab" * 32},
    }  # fmt: skip
    post = OWNER.post(inner, kind="vm-function")
    assert await desk.take(post) == "processed"
    loaded = desk.ledger.program(post["item_hash"])
    assert loaded is not None
    assert loaded.generation == "draft-2"
    assert desk.ledger.programs() == [post["item_hash"]]
    found = desk.ledger.file(loaded.program.code.ref)
    assert found is not None
    assert desk.blobs.path(found[0]).read_text() == INLINE


async def test_a_post_that_only_calls_itself_a_program_is_a_post(desk: Desk) -> None:
    post = OWNER.post({"x": 1}, kind="vm-function")
    assert await desk.take(post) == "processed"
    assert desk.ledger.programs() == []


async def test_an_instance_is_kept_and_never_served(desk: Desk) -> None:
    root = {"parent": {"ref": "ab" * 32}, "persistence": "host", "size_mib": 20_000}
    instance = OWNER.message("INSTANCE", {"allow_amend": False, "environment": {}, "resources": {}, "rootfs": root})
    assert await desk.take(instance) == "processed"
    found = rules.served(desk.ledger, instance["item_hash"])
    assert isinstance(found, rules.Unserved)
    assert (found.status, desk.ledger.programs()) == (400, [])


# Forgetting


async def test_a_forgotten_message_leaves_its_envelope_alone_and_is_told(desk: Desk) -> None:
    post = OWNER.post({"secret": "s3cret"}, ref="tag")
    await desk.take(post)
    forget = OWNER.forget(post)
    await desk.take(forget)
    kind, change = desk.told[-1], desk.changes[-1]
    assert kind == ("forgotten", post["item_hash"])
    assert change.message["content"]["content"] == {"secret": "s3cret"}
    found = desk.ledger.record(post["item_hash"])
    assert found is not None
    assert (found.content, found.shown["item_content"], found.forgotten_by) == (None, None, forget["item_hash"])
    assert desk.ledger.referring("tag") == []


async def test_what_is_left_of_an_aggregate_is_merged_anew(desk: Desk) -> None:
    one, two = OWNER.aggregate("k", {"a": 1}), OWNER.aggregate("k", {"b": 2}, time=1001.0)
    for message in (one, two):
        await desk.take(message)
    assert await desk.take(OWNER.forget(aggregates=["ab" * 32])) == "pending"
    assert rules.merged(desk.ledger.elements(OWNER.address.lower(), "k")) == {"a": 1, "b": 2}
    await desk.take(OWNER.forget(one))
    assert rules.merged(desk.ledger.elements(OWNER.address, "k")) == {"b": 2}


async def brought(desk: Desk, data: bytes) -> File:
    """Give a file as it comes along with a STORE."""
    digest, size = await desk.blobs.put_bytes(data)
    return File(hash=digest, digest=digest, size=size)


async def test_what_may_not_be_forgotten_stays(desk: Desk) -> None:
    file = await brought(desk, b"file")
    store, post = OWNER.store(file.hash), OWNER.post(1)
    used = OWNER.program(store["item_hash"])
    await desk.take(store, file=file)
    for message in (post, used):
        await desk.take(message)
    assert (await errors(desk, OWNER.forget()))[0] == 500
    receipt = await desk.publisher.publish(OWNER.forget(OTHER.post(2)))
    assert (receipt.status, receipt.error_code) == ("pending", 501)
    assert (await errors(desk, OTHER.forget(post)))[0] == 2
    assert (await errors(desk, OWNER.forget(store)))[0] == 503
    assert await desk.take(OWNER.forget(store, used)) == "processed"
    assert desk.ledger.file(file.hash) is None


async def test_a_file_stays_as_long_as_another_store_has_it(desk: Desk) -> None:
    file = await brought(desk, b"file")
    one, two = OWNER.store(file.hash), OTHER.store(file.hash)
    await desk.take(one, file=file)
    for message in (two, OWNER.forget(one)):
        await desk.take(message)
    assert desk.ledger.file(file.hash) is not None
    await desk.take(OTHER.forget(two))
    assert desk.ledger.file(file.hash) is None


# Deliveries


async def test_what_is_due_to_programs_is_kept_in_order_until_it_is_delivered(tmp_path: Path) -> None:
    posts = [OWNER.post(n) for n in range(3)]
    async with opened(tmp_path) as desk:
        desk.publisher.subscribers = lambda message: ["one", "two"] if message["type"] == "POST" else []
        for message in (*posts, OWNER.aggregate("k", {}), posts[0]):
            await desk.take(message)
        await desk.ledger.delivered(posts[0]["item_hash"], "one")
        await desk.take(OWNER.forget(posts[1]))
    async with opened(tmp_path) as desk:
        first, _, last = (post["item_hash"] for post in posts)
        assert desk.ledger.deliveries() == [(first, "two"), (last, "one"), (last, "two")]


async def test_a_program_is_not_told_of_what_it_published_itself(desk: Desk) -> None:
    own = "ab" * 32
    desk.publisher.subscribers = lambda message: [own, "other"]
    through, by_hash, by_label = (
        OTHER.post(1),
        OTHER.post(2, address=own),
        OTHER.post(3, address=host_label(own)),
    )
    for message in (through, by_hash, by_label):
        assert await desk.take(message, program=own) == "processed"
    assert desk.ledger.deliveries() == [(each["item_hash"], "other") for each in (through, by_hash, by_label)]
    assert (await errors(desk, OTHER.post(4, address=own)))[0] == 2


async def test_a_message_that_waits_is_delivered_when_it_holds(desk: Desk) -> None:
    desk.publisher.subscribers = lambda message: ["program"]
    store = OWNER.store(sha256(b"file"))
    await desk.take(store, program="through")
    assert desk.ledger.deliveries() == []
    await desk.file(b"file")
    assert desk.ledger.deliveries() == [(store["item_hash"], "program")]


async def test_a_listener_that_fails_harms_nobody_else(desk: Desk) -> None:
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: troubles.append(context))
    heard: list[str] = []
    end = desk.publisher.listen(lambda change: 1 / 0 and None)  # type: ignore[arg-type,return-value]
    desk.publisher.listen(lambda change: heard.append(change.item_hash))
    post = OWNER.post(1)
    await desk.take(post)
    end()
    await desk.take(OWNER.post(2))
    assert (heard[0], len(heard), len(troubles)) == (post["item_hash"], 2, 1)


# Local loading


def draft_1(**rest: Any) -> dict[str, Any]:
    return {
        "type": "vm-function", "address": OWNER.address, "time": 1000.0,
        "content": {
            "code": {"encoding": "plain", "entrypoint": "application", "content": INLINE},
            "on": {"http": True}, "runtime": {"address": OTHER.address}, **rest,
        },
    }  # fmt: skip


async def test_a_bare_document_is_loaded_by_the_operator_and_by_nobody_else(desk: Desk) -> None:
    text = json.dumps(draft_1(), indent=2).encode()
    item_hash = (await desk.publisher.adopt(text, {})).item_hash
    assert item_hash == sha256(text)
    assert desk.ledger.unsigned(item_hash)
    loaded = desk.ledger.program(item_hash)
    assert loaded is not None
    assert loaded.generation == "draft-1"
    assert desk.ledger.has_file(sha256(INLINE))
    assert desk.shown(item_hash)["item_content"].encode() == text
    assert (await desk.publisher.adopt(text, {})).item_hash == item_hash
    assert desk.told == [("processed", item_hash)]
    assert (await errors(desk, json.loads(text)))[0] == 0


async def test_files_are_found_by_the_references_that_the_operator_gave_them(desk: Desk, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.write_bytes(b"code")
    ref = "cd" * 32
    content = {"address": OWNER.address, "time": 1000.0, **program(ref)}
    found = await desk.publisher.adopt(json.dumps(content).encode(), {ref: code, sha256(b"code"): code})
    assert found.missing == desk.ledger.waits_for(found.item_hash) == ()
    assert desk.ledger.file(ref) == desk.ledger.file(sha256(b"code")) == (sha256(b"code"), 4)
    assert desk.ledger.own_file(ref) is None
    assert desk.ledger.own_file(sha256(b"code")) is not None
    assert await desk.take(OWNER.store(ref)) == "pending"


async def test_a_program_without_its_files_waits_for_them(desk: Desk) -> None:
    content = {"address": OWNER.address, "time": 1000.0, **program("cd" * 32)}
    found = await desk.publisher.adopt(json.dumps(content).encode(), {})
    assert found.missing == desk.ledger.waits_for(found.item_hash) == ("cd" * 32,)


async def test_what_the_operator_loaded_gives_way_to_what_its_owner_publishes(desk: Desk) -> None:
    code = await desk.file(b"code")
    signed = OWNER.program(code)
    await desk.publisher.adopt(signed["item_content"].encode(), {})
    assert desk.ledger.unsigned(signed["item_hash"])
    assert await desk.take(signed) == "processed"
    assert not desk.ledger.unsigned(signed["item_hash"])
    assert desk.ledger.programs() == [signed["item_hash"]]


async def test_a_message_that_the_operator_loads_is_verified_if_it_can_be(desk: Desk) -> None:
    code = await desk.file(b"code")

    async def adopt(document: dict[str, Any]) -> Adopted:
        return await desk.publisher.adopt(json.dumps(document).encode(), {})

    signed = OWNER.program(code)
    with pytest.raises(MessageRefused, match="signature"):
        await adopt({**signed, "signature": OTHER.program(code)["signature"]})
    with pytest.raises(MessageRefused, match="item_content has the hash"):
        await adopt({**signed, "item_hash": "ab" * 32, "signature": None})
    assert await adopt(signed) == Adopted(item_hash=signed["item_hash"])
    assert not desk.ledger.unsigned(signed["item_hash"])
    foreign = {**OWNER.program(code, time=7.0), "chain": "DOT"}
    found = await adopt(foreign)
    assert desk.ledger.unsigned(found.item_hash)
    assert "DOT" in found.warnings[0]
    assert (await adopt({**OWNER.program(code, time=8.0), "signature": None})).warnings == ("It has no signature.",)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"type": "INSTANCE", "content": {}}'])
async def test_what_is_no_program_is_not_loaded(desk: Desk, text: bytes) -> None:
    with pytest.raises(BadProgram):
        await desk.publisher.adopt(text, {})
    assert desk.changes == []


async def test_aggregates_are_forgotten_by_their_key(desk: Desk) -> None:
    first, second, other = (OWNER.aggregate(key, {"a": 1}, time=1000.0 + n) for n, key in enumerate(["k", "k", "l"]))
    for message in (first, second, other):
        assert await desk.take(message) == "processed"
    assert await desk.take(OWNER.forget(aggregates=["k"])) == "processed"
    assert [desk.ledger.forgotten(each["item_hash"]) for each in (first, second, other)] == [True, True, False]


async def test_a_stranger_cannot_take_a_file_away_that_others_need(desk: Desk) -> None:
    draft = {"type": "vm-function", "address": OWNER.address, "time": 1000.0, "content": {
        "code": {"encoding": "plain", "entrypoint": "app", "content": "app = 1"}, "on": {"http": True},
        "runtime": {"ref": RUNTIME}}}  # fmt: skip
    adopted = await desk.publisher.adopt(json.dumps(draft).encode(), {})
    assert adopted.missing == ()
    for file in (sha256(b"app = 1"), await desk.file(b"an export")):
        store = OTHER.store(file)
        assert await desk.take(store) == "processed"
        assert await desk.take(OTHER.forget(store)) == "processed"
        assert desk.ledger.own_file(file) is not None


async def test_what_the_operator_loaded_is_not_published_by_whoever_sends_it_without_a_signature(desk: Desk) -> None:
    text = json.dumps({**program(await desk.file(b"code")), "address": OWNER.address, "time": 1000.0})
    loaded = (await desk.publisher.adopt(text.encode(), {})).item_hash
    assert (await desk.publisher.adopt(text.encode(), {})).item_hash == loaded
    unsigned = {**OWNER.signed("PROGRAM", loaded, item_content=text), "signature": ""}
    assert await desk.take(unsigned) == "rejected"
    stored = OTHER.signed("POST", loaded, item_type="storage")
    assert await desk.take(stored) == "rejected"
    assert desk.ledger.waits_for(loaded) == ()


async def test_of_what_is_no_message_little_is_remembered(desk: Desk) -> None:
    junk = {"item_hash": "cd" * 32, "type": "POST", "channel": "x" * 100_000, "signature": "y" * 100_000}
    assert await desk.take(junk) == "rejected"
    rejection = desk.ledger.rejection("cd" * 32)
    assert rejection is not None
    assert len(json.dumps(dict(rejection.message))) < 5000


async def test_what_the_operator_loaded_and_waits_is_not_published_by_its_text_alone(desk: Desk) -> None:
    text = json.dumps({"address": OWNER.address, "time": 1000.0, **program("cd" * 32)})
    loaded = (await desk.publisher.adopt(text.encode(), {})).item_hash
    unsigned = {**OWNER.signed("PROGRAM", loaded, item_content=text), "signature": ""}
    assert (await errors(desk, unsigned))[0] == 1
    assert [each.unsigned for each in desk.ledger.pending(loaded)] == [True]


async def test_the_operator_is_told_which_volume_is_too_small_for_its_parent(desk: Desk) -> None:
    parent = await desk.file(bytes(2 << 20))
    volume = {"mount": "/v", "persistence": "host", "name": "v", "size_mib": 1, "parent": {"ref": parent}}
    signed = OWNER.program(await desk.file(b"code"), volumes=[volume])
    with pytest.raises(MessageRefused, match=f"volume_name v, .*parent_file {parent}, parent_size 2097152"):
        await desk.publisher.adopt(json.dumps(signed).encode(), {})


async def test_of_a_program_that_is_refused_no_file_is_kept(desk: Desk, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.write_bytes(b"code")
    foreign = OTHER.program("cd" * 32, address=OWNER.address)
    with pytest.raises(MessageRefused, match="may not send"):
        await desk.publisher.adopt(json.dumps(foreign).encode(), {"cd" * 32: code})
    assert not desk.ledger.has_file("cd" * 32)
    assert desk.blobs.size(sha256(b"code")) is None


async def test_a_message_that_waits_for_the_same_as_before_is_not_written_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await desk.take(OWNER.program("cd" * 32)) == "pending"
    monkeypatch.setattr(writes, "keep_pending", lambda *given, **rest: pytest.fail("written again"))
    await desk.publisher.settle()


async def test_a_file_that_comes_again_makes_nothing_be_judged_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await desk.file(b"file")
    assert await desk.take(OWNER.message("FORGET", {"hashes": [file]})) == "pending"
    monkeypatch.setattr(publisher, "examine", lambda *given, **rest: pytest.fail("judged again"))
    await desk.file(b"file")
