"""What the ledger keeps, and how it is found again (contract, sections 2.3 and 4.2)."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aleph_message
import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import DatabaseTooNew, StoreUnavailable
from moorage.networks.aleph.ledger import writes
from moorage.networks.aleph.ledger.ledger import FILE, Ledger
from moorage.networks.aleph.ledger.listing import Filter, Place
from moorage.networks.aleph.ledger.records import Record, Run
from tests.aleph import Desk, Wallet, opened

pytestmark = pytest.mark.anyio

OWNER, OTHER = Wallet(1), Wallet(2)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


async def found(desk: Desk, **where: Any) -> list[str]:
    """List hashes, oldest first, of processed messages unless it says otherwise."""
    dates = {key: where.pop(key) for key in ("start", "end", "originals") if key in where}
    among = {"statuses": ["processed"], **where}
    asked = Filter(among=among, ascending=True, **dates)
    listed = await desk.ledger.find(lambda listing: listing.page(asked, limit=None))
    assert await desk.ledger.find(lambda listing: listing.count(asked)) == len(listed)
    return [record.envelope.item_hash for record in listed]


async def test_everything_is_here_after_a_restart(tmp_path: Path) -> None:
    post, file = OWNER.post({"x": [1, 1.5, "ü", None, 2**70]}), b"file"
    async with opened(tmp_path) as desk:
        store = OWNER.store(await desk.file(file))
        for message in (post, store):
            await desk.take(message)
        shown = desk.shown(post["item_hash"])
    async with opened(tmp_path) as desk:
        assert desk.shown(post["item_hash"]) == shown
        assert desk.ledger.newest_store_of(OWNER.address.lower()) == store["item_hash"]
        assert desk.ledger.message(store["item_hash"]) is not None
        assert await found(desk) == [post["item_hash"], store["item_hash"]]


async def test_what_is_not_here_is_not_found(desk: Desk) -> None:
    nowhere = "ab" * 32
    assert desk.ledger.message(nowhere) is None
    assert desk.ledger.program(nowhere) is None
    assert desk.ledger.file(nowhere) is None
    assert desk.ledger.record(nowhere) is None
    assert desk.ledger.rejection(nowhere) is None
    assert desk.ledger.newest_store_of(nowhere) is None
    assert desk.ledger.waits_for(nowhere) == ()
    assert not desk.ledger.forgotten(nowhere)
    assert not desk.ledger.unsigned(nowhere)


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    connection = sqlite3.connect(tmp_path / "ledger" / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DatabaseTooNew):
        Ledger.open(tmp_path / "ledger")


async def test_a_file_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable):
        Ledger.open(tmp_path)


async def test_each_filter_finds_its_own(desk: Desk) -> None:
    file = await desk.file(b"file")
    post = OWNER.post({"tags": ["a", "b", 7]}, kind="note", ref="tag", time=1.0)
    aggregate = OTHER.message("AGGREGATE", {"key": {"name": "k"}, "content": {}}, channel="OTHER", time=2000.0)
    store = OWNER.store(file)
    amend = OWNER.amend(post, 1)
    for message in (post, aggregate, store, amend):
        await desk.take(message)
    names = dict(zip((each["item_hash"] for each in (post, aggregate, store, amend)), "pgsa", strict=True))

    async def named(**where: Any) -> str:
        return "".join(names[item_hash] for item_hash in await found(desk, **where))

    assert await named() == "psag"
    assert await named(types=["POST", "STORE"]) == "psa"
    assert await named(addresses=[OTHER.address.upper()]) == "g"
    assert await named(owners=[OWNER.address.lower()]) == "psa"
    assert await named(refs=["tag", post["item_hash"]]) == "pa"
    assert await named(hashes=[store["item_hash"]]) == "s"
    assert await named(content_types=["note"]) == "p"
    assert await named(content_keys=["k"]) == "g"
    assert await named(content_hashes=[file]) == "s"
    assert await named(channels=["OTHER"]) == "g"
    assert await named(chains=["SOL"]) == ""
    assert await named(tags=["b", "c"]) == "p"
    assert await named(start=1000.0, end=2000.0) == "psa"
    assert await named(start=2000.0) == "g"
    assert await named(types=["POST"], originals=True) == "p"
    assert await named(statuses=["pending", "forgotten"]) == ""


async def test_a_place_in_a_list_holds_whatever_comes_meanwhile(desk: Desk) -> None:
    posts = [OWNER.message("POST", {"type": "note", "content": n}, time=1000.0 + n % 3) for n in range(9)]
    for post in posts:
        await desk.take(post)
    asked = Filter(among={"statuses": ["processed"], "types": ["POST"]})
    seen: list[Record] = []
    for n in range(3):
        place = Place(time=seen[-1].envelope.time, n=seen[-1].n) if seen else None
        seen += await desk.ledger.find(lambda listing, place=place: listing.after(asked, place, limit=3))  # type: ignore[misc]
        await desk.take(OWNER.message("POST", {"type": "note", "content": "new"}, time=5000.0 + n))
    assert len({record.n for record in seen}) == 9
    assert all((one.envelope.time, one.n) > (two.envelope.time, two.n) for one, two in pairwise(seen))


async def test_only_so_many_refusals_are_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "MAX_REJECTIONS", 3)
    forged = [{**OWNER.post(n), "signature": "0x" + "11" * 65} for n in range(5)]
    for message in forged:
        await desk.take(message)
    remembered = [desk.ledger.rejection(message["item_hash"]) is not None for message in forged]
    assert remembered == [False, False, True, True, True]


async def test_a_run_is_kept_until_newer_ones_take_its_place(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "MAX_RUNS", 2)
    runs = [
        Run(run_id=f"run {n}", item_hash="ab" * 32, trigger="http", started=1000.0 + n, refs={"a": "b"})
        for n in range(4)
    ]
    for run in runs:
        await desk.ledger.add_run(run)
    told = {"request": {"path": "/"}, "response": {"size": 0}, "export": {"file_hash": "cd" * 32}}
    ended = replace(runs[3], ended=1010.0, status=200, **told)
    await desk.ledger.end_run(ended)
    assert [desk.ledger.run(run.run_id) for run in runs] == [None, None, runs[2], ended]


async def test_a_run_that_is_tried_again_is_one_run(desk: Desk) -> None:
    first = Run(run_id="run", item_hash="ab" * 32, trigger="cron", started=1000.0, refs={})
    await desk.ledger.add_run(first)
    await desk.ledger.add_run(again := replace(first, started=1001.0))
    assert desk.ledger.run("run") == again


# What is stored is what was sent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


POST = st.fixed_dictionaries({"type": st.text(max_size=10), "content": JSON, "ref": st.none() | st.text(max_size=10)})


@settings(max_examples=20, deadline=None)
@given(contents=st.lists(POST, max_size=10))
def test_any_post_comes_back_as_it_was_sent_and_clients_can_read_it(
    tmp_path_factory: pytest.TempPathFactory, contents: list[dict[str, Any]]
) -> None:
    async def there_and_back() -> None:
        async with opened(tmp_path_factory.mktemp("ledger")) as desk:
            for n, content in enumerate(contents):
                post = OWNER.message("POST", {**content, "type": f"kind {content['type']}", "time": 1000.0 + n})
                assert await desk.take(post) == "processed"
                shown = desk.shown(post["item_hash"])
                assert {key: shown[key] for key in post} == post
                assert repr(shown["content"]["content"]) == repr(content["content"])
                assert aleph_message.parse_message(shown).item_hash == post["item_hash"]

    anyio.run(there_and_back)


async def test_programs_with_triggers_are_found_without_looking_at_the_others(desk: Desk) -> None:
    code = await desk.file(b"code")
    wallet = Wallet()
    triggers = ({"http": True}, {"http": True, "persistent": True}, {"http": False, "cron": "5 4 * * *"})
    messages = [wallet.program(code, on=on, time=1000.0 + n) for n, on in enumerate(triggers)]
    for message in messages:
        assert await desk.take(message) == "processed"
    assert desk.ledger.programs() == [message["item_hash"] for message in messages]
    assert desk.ledger.triggered() == [message["item_hash"] for message in messages[1:]]
    await desk.take(wallet.forget(messages[1]))
    assert desk.ledger.triggered() == [messages[2]["item_hash"]]
