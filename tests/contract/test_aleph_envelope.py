"""Envelopes and contents of messages, read all at once and written as clients expect (contract, sections 3.1 and 3.6).

Items 2 (its first half), 3 and 44 (the words of a refusal) of the acceptance checklist (section 8).
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import aleph_message
import pytest
from aleph_message.exceptions import UnknownHashError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moorage.networks.aleph.messages import contents
from moorage.networks.aleph.messages.contents import Aggregate, Forget, Instance, Post, Store
from moorage.networks.aleph.messages.envelope import (
    KEYS,
    MAX_DEPTH,
    MAX_ITEM_CONTENT,
    MAX_PROBLEMS,
    BadMessage,
    Envelope,
    parse,
)
from moorage.networks.aleph.messages.hashes import hash_kind
from moorage.networks.aleph.messages.problems import Problem
from moorage.networks.aleph.messages.program import Chain

OWNER, OTHER = "0x" + "aB" * 20, "0x" + "22" * 20
HASH, CID = "ab" * 32, "QmWfVY9y3xjsixTgbd9AorQxH7VtMpzfx2HaWtsoUYecaX"
CID_1 = "bafy" + "b2" * 27 + "c"
POST = {"address": OWNER, "time": 1.5, "type": "note", "content": {"x": 1}, "ref": None}
INSTANCE = {
    "address": OWNER, "time": 0, "allow_amend": False, "environment": {}, "resources": {"vcpus": 1},
    "rootfs": {"parent": {"ref": HASH, "use_latest": None}, "persistence": "host", "size_mib": 20_000},
}  # fmt: skip
NINE = {"sender", "chain", "signature", "type", "item_content", "item_type", "item_hash", "time", "channel"}


def inline(content: Any = POST, **fields: Any) -> dict[str, Any]:
    """Give the nine keys of an inline message as clients write it."""
    text = content if isinstance(content, str) else json.dumps(content, separators=(",", ":"))
    return {
        "sender": OWNER, "chain": "ETH", "signature": "0x00", "type": "POST", "item_content": text,
        "item_type": "inline", "item_hash": sha256(text.encode()).hexdigest(), "time": 7.25, "channel": "TEST",
        **fields,
    }  # fmt: skip


def stored(**fields: Any) -> dict[str, Any]:
    return {**inline(item_content=None, item_type="storage", item_hash=HASH), **fields}


def without(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def refused(document: Any) -> dict[str, Problem]:
    with pytest.raises(BadMessage) as caught:
        parse(document)
    return {problem.path: problem for problem in caught.value.problems}


# Envelopes


def test_the_nine_keys_that_clients_publish_are_read_and_given_back() -> None:
    found = parse(inline())
    assert found == Envelope(
        chain="ETH",
        sender=OWNER,
        type="POST",
        channel="TEST",
        signature="0x00",
        time=7.25,
        item_type="inline",
        item_content=json.dumps(POST, separators=(",", ":")),
        item_hash=inline()["item_hash"],
        content=POST,
        given_content=None,
    )
    assert found.broadcast == inline()
    assert found.broadcast.keys() == NINE


def test_the_form_with_all_that_nodes_add_is_read() -> None:
    confirmation = {"chain": "ETH", "height": 5, "hash": {"$binary": "x", "$type": "0"}, "time": 1, "publisher": None}
    full = {
        **inline(), "content": POST, "confirmed": True, "confirmations": [confirmation], "size": 3,
        "_id": {"$oid": "1"}, "hash_type": "sha256", "forgotten_by": [HASH],
    }  # fmt: skip
    assert full.keys() == KEYS
    assert parse(full) == parse(inline())


@pytest.mark.parametrize("key", sorted(KEYS - NINE | {"channel"}))
def test_an_explicit_null_is_as_good_as_a_key_left_out(key: str) -> None:
    assert parse({**inline(), key: None}).broadcast == parse(without(inline(), key)).broadcast


def test_item_content_is_the_truth_whatever_content_says() -> None:
    for claim in ({**POST, "type": "edited by hand"}, {}, "no object", None):
        assert parse(inline() | {"content": claim}).content == POST


def test_the_content_beside_a_stored_one_is_kept_apart_as_a_mere_claim() -> None:
    found = parse(stored(content=POST))
    assert (found.content, found.given_content) == (None, POST)


@pytest.mark.parametrize(
    ("document", "item_type"),
    [
        (inline(item_type=None), "inline"),
        (without(inline(), "item_type"), "inline"),
        (stored(item_type=None), "storage"),
        (without(stored(), "item_type", "item_content"), "storage"),
        (stored(item_type=None, item_hash=CID), "ipfs"),
        (stored(item_type=None, item_hash=CID_1), "ipfs"),
        (stored(item_type="ipfs", item_hash=CID), "ipfs"),
    ],
)
def test_the_item_type_is_inferred_where_it_is_not_named(document: Any, item_type: str) -> None:
    assert parse(document).item_type == item_type


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (0, 0.0),
        (1612345678, 1612345678.0),
        (1612345678.25, 1612345678.25),
        (9_223_372_036, 9_223_372_036.0),
        ("2021-02-03T09:47:58.250000+00:00", 1612345678.25),
        ("2021-02-03T09:47:58.250Z", 1612345678.25),
        ("2021-02-03 10:47:58+01:00", 1612345678.0),
        ("2021-02-03T09:47:58", 1612345678.0),
        ("1612345678.25", 1612345678.25),
    ],
)
def test_time_is_read_as_seconds_or_iso_8601_and_told_as_seconds(time: Any, seconds: float) -> None:
    found = parse(inline(time=time)).broadcast["time"]
    assert (found, type(found)) == (seconds, float)


@pytest.mark.parametrize("text", ["", HASH.upper(), HASH[:-1], HASH + "a", "Qm" + "0" * 44, CID[:43], CID + "1", "bafy",
                                  CID_1[:-1] + "1", CID_1.upper(), HASH + "\n"])  # fmt: skip
def test_what_has_no_shape_of_a_hash_is_none(text: str) -> None:
    assert hash_kind(text) is None
    assert "item_hash" in refused(inline(item_hash=text))


@pytest.mark.parametrize("chain", get_args(Chain))
def test_every_chain_is_read(chain: str) -> None:
    assert parse(inline(chain=chain)).chain == chain


@pytest.mark.parametrize(
    ("document", "path", "rule", "hint"),
    [
        ([], "", "must be an object", None),
        (None, "", "must be an object", None),
        (inline(extra=1), "extra", "is not a known key", "did you mean"),
        (inline(itemhash=1), "itemhash", "is not a known key", "did you mean `item_hash`?"),
        (inline(Sender=1), "Sender", "is not a known key", "did you mean `sender`?"),
        (without(inline(), "sender"), "sender", "is required", None),
        (inline(sender=7), "sender", "must be a string", None),
        (inline(sender="\ud800"), "sender", "must not hold a lone surrogate", None),
        (inline(signature=None), "signature", "must be a string", None),
        (inline(type="post"), "type", "must be one of POST, AGGREGATE", "did you mean `POST`?"),
        (inline(type="V-PROGRAM"), "type", "V-PROGRAM messages are not supported", None),
        (inline(type=["POST"]), "type", "must be one of", None),
        (inline(chain="eth"), "chain", "must be one of ARB", "did you mean `ETH`?"),
        (inline(chain="BTC"), "chain", "must be one of ARB", "did you mean"),
        (inline(channel="x" * 129), "channel", "must have at most 128 characters", None),
        (inline(time=True), "time", "must be seconds since 1970 or a date", None),
        (inline(time="yesterday"), "time", "must be seconds since 1970 or a date", None),
        (inline(time=None), "time", "must be seconds since 1970 or a date", None),
        (inline(time=1612345678000), "time", "must lie between 1970 and 2262", "count in seconds"),
        (inline(time=-1), "time", "must lie between", "count in seconds"),
        (inline(time=float("nan")), "time", "must lie between", "count in seconds"),
        (inline(time=10**400), "time", "must lie between", "count in seconds"),
        (inline(item_type="INLINE"), "item_type", "must be one of inline, storage, ipfs", "did you mean `inline`?"),
        (inline(item_hash=HASH.upper()), "item_hash", "must be an item hash", "write hexadecimal in lower case"),
        (inline(item_hash=CID), "item_hash", "must be a sha256, for `item_type` is inline", None),
        (stored(item_hash=CID), "item_hash", "must be a sha256, for `item_type` is storage", None),
        (stored(item_type="ipfs"), "item_hash", "must be a CID, for `item_type` is ipfs", None),
        (inline(item_content=None), "item_content", "is required for an inline message", "send the exact text"),
        (inline(item_type="storage"), "item_content", "must be null where `item_type` is storage", "send `item_type`"),
        (inline("{'a': 1}"), "item_content", "must be valid JSON", "in line 1, column 2"),
        (inline(""), "item_content", "must be valid JSON", "in line 1, column 1"),
        (inline('{"a": NaN}'), "item_content", "must be valid JSON", "not finite"),
        (inline('{"a": 1e999}'), "item_content", "must be valid JSON", "not finite"),
        (inline('{"a": ' + "1" * 5000 + "}"), "item_content", "must be valid JSON", "too many digits"),
        (inline("[]"), "item_content", "must hold an object", None),
        (inline(item_content=POST), "item_content", "must be a string", None),
        (inline('{"a": ' + "[" * 100 + "]" * 100 + "}"), "item_content", "must not be nested deeper", None),
        (inline("[" * 90_000 + "]" * 90_000), "item_content", "must not be nested deeper", None),
        (inline(item_content='{"a":"' + "x" * MAX_ITEM_CONTENT + '"}'), "item_content", "Message too long", "upload"),
        (stored(content=[]), "content", "must be an object", None),
        (stored(hash_type="md5"), "hash_type", "must be one of 'sha256'", None),
        (inline(confirmed=True), "confirmed", "must not be true without confirmations", None),
        (inline(confirmed=1), "confirmed", "must be true or false", None),
        (inline(confirmations=[{"chain": "ETH", "hash": "x"}]), "confirmations[0].height", "is required", None),
        (inline(size="5"), "size", "must be an integer", None),
    ],
)  # fmt: skip
def test_a_refusal_names_the_place_the_rule_and_a_way_out(
    document: Any, path: str, rule: str, hint: str | None
) -> None:
    found = refused(document)[path]
    assert found.rule.startswith(rule)
    assert (found.fix or "").find(hint or "") >= 0 if hint else found.fix is None


def test_everything_that_is_wrong_is_told_at_once() -> None:
    document = without(inline("[", type="x", time=[], more=1, confirmed=True), "sender")
    assert refused(document).keys() == {"sender", "type", "time", "more", "confirmed", "item_content"}


def test_a_problem_is_written_as_the_network_writes_it() -> None:
    found = refused(inline(itemhash=1))["itemhash"]
    assert found.document == {
        "loc": ["itemhash"],
        "msg": "is not a known key; did you mean `item_hash`?",
        "type": "extra_forbidden",
    }
    assert "itemhash: is not a known key" in str(BadMessage([found]))


def test_a_message_of_nothing_but_unknown_keys_costs_and_tells_little() -> None:
    hostile: dict[str, Any] = {f"{n}\ud800" + "k" * 10_000: n for n in range(3000)}
    found = refused(hostile)
    assert len(found) <= MAX_PROBLEMS
    assert all(len(problem.text.encode()) < 300 and len(path.encode()) < 100 for path, problem in found.items())


@pytest.mark.parametrize("length", [MAX_ITEM_CONTENT, MAX_ITEM_CONTENT + 1])
def test_the_longest_inline_content_has_200_000_characters(length: int) -> None:
    text = json.dumps({"a": ""})
    text = text.replace('""', '"' + "é" * (length - len(text)) + '"')
    document = inline(text)
    if length == MAX_ITEM_CONTENT:
        assert parse(document).item_content == text
    else:
        assert refused(document)["item_content"].rule == "Message too long"


def test_the_deepest_content_is_read() -> None:
    text = '{"a":' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    assert parse(inline(text)).item_content == text


def test_a_returned_message_has_exactly_the_keys_that_clients_take() -> None:
    text = '{ "address": "é", "time": 1.0 }'
    shown = parse(inline(text, time="2021-02-03T09:47:58Z", _id={"$oid": "1"}, size=99)).shown()
    assert shown == {
        "sender": OWNER, "chain": "ETH", "signature": "0x00", "type": "POST", "item_content": text, "channel": "TEST",
        "item_type": "inline", "item_hash": sha256(text.encode()).hexdigest(), "time": 1612345678.0,
        "content": {"address": "é", "time": 1.0}, "size": len(text) + 1, "confirmed": False, "confirmations": [],
    }  # fmt: skip


def test_a_stored_message_is_returned_with_the_content_that_was_fetched() -> None:
    shown = parse(stored()).shown(POST, size=120)
    assert (shown["content"], shown["size"], shown["item_content"]) == (POST, 120, None)


def test_a_forgotten_message_is_shown_without_its_content() -> None:
    assert parse(inline()).without_content == inline(item_content=None, item_hash=inline()["item_hash"])


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), junk) | junk)
def test_a_malformed_message_is_refused_and_nothing_worse(fields: Any) -> None:
    for document in (fields, inline() | fields if isinstance(fields, dict) else fields):
        try:
            parse(document)
        except BadMessage as failure:
            json.dumps([problem.document for problem in failure.problems])


# Contents


@pytest.mark.parametrize(
    ("kind", "content", "found"),
    [
        ("POST", POST, Post(address=OWNER, time=1.5, type="note", content={"x": 1})),
        ("POST", {"address": OWNER, "time": 1, "type": "t"}, Post(address=OWNER, time=1.0, type="t")),
        ("POST", POST | {"content": [1]}, Post(address=OWNER, time=1.5, type="note", content=[1])),
        ("POST", POST | {"ref": {"item_hash": HASH}},
         Post(address=OWNER, time=1.5, type="note", content={"x": 1}, ref={"item_hash": HASH})),
        ("AGGREGATE", {"address": OWNER, "time": 1, "key": "k", "content": {}},
         Aggregate(address=OWNER, time=1.0, key="k", content={})),
        ("AGGREGATE", {"address": OWNER, "time": 1, "key": {"name": "k"}, "content": {"a": None}},
         Aggregate(address=OWNER, time=1.0, key="k", content={"a": None})),
        ("STORE", {"address": OWNER, "time": 1, "item_type": "ipfs", "item_hash": CID, "more": 1, "size": None},
         Store(address=OWNER, time=1.0, item_type="ipfs", item_hash=CID)),
        ("FORGET", {"address": OWNER, "time": 1, "hashes": [HASH], "aggregates": None},
         Forget(address=OWNER, time=1.0, hashes=(HASH,))),
        ("FORGET", {"address": OWNER, "time": 1}, Forget(address=OWNER, time=1.0)),
        ("PROGRAM", {"anything": 1}, {"anything": 1}),
    ],
)  # fmt: skip
def test_a_content_is_read_by_the_type_of_its_message(kind: Any, content: Any, found: Any) -> None:
    assert contents.parse(kind, content) == found


def test_an_instance_is_read_loosely() -> None:
    found = contents.parse("INSTANCE", INSTANCE | {"volumes": [], "payment": {"type": "hold"}, "more": {}})
    assert isinstance(found, Instance)
    assert (found.rootfs.parent.use_latest, found.rootfs.size_mib, found.replaces) == (True, 20_000, None)


@pytest.mark.parametrize(
    ("ref", "target"),
    [(None, None), ("", None), (HASH, HASH), ({"item_hash": HASH, "chain": "ETH"}, HASH), ({}, None),
     ({"item_hash": 1}, None)],
)  # fmt: skip
def test_a_post_refers_by_hash_or_by_description(ref: Any, target: str | None) -> None:
    found = contents.parse("POST", POST | {"ref": ref})
    assert isinstance(found, Post)
    assert found.target == target


STORE = {"address": OWNER, "time": 1, "item_type": "storage", "item_hash": HASH}
FORGET = {"address": OWNER, "time": 1, "hashes": [HASH]}


@pytest.mark.parametrize(
    ("kind", "content", "path", "rule"),
    [
        ("POST", [], "content", "must be an object"),
        ("PROGRAM", "x", "content", "must be an object"),
        ("POST", without(POST, "time"), "content.time", "is required"),
        ("POST", POST | {"time": "1"}, "content.time", "must be a number"),
        ("POST", POST | {"time": True}, "content.time", "must be a number"),
        ("POST", POST | {"time": -0.5}, "content.time", "must be at least 0"),
        ("POST", POST | {"time": 9_223_372_036.5}, "content.time", "must be at most 9223372036"),
        ("POST", POST | {"time": float("nan")}, "content.time", "must be at"),
        ("POST", POST | {"adress": 1}, "content.adress", "is not a known key; did you mean `address`?"),
        ("POST", POST | {"address": "\ud800"}, "content.address", "must not hold a lone surrogate"),
        ("POST", POST | {"ref": "\ud800"}, "content.ref", "must not hold a lone surrogate"),
        ("POST", POST | {"ref": 5}, "content.ref", "must be a string or an object"),
        ("POST", POST | {"type": None}, "content.type", "must be a string"),
        ("AGGREGATE", {"address": OWNER, "time": 1, "key": {"nam": 1}, "content": {}}, "content.key",
         'must be a string or an object such as {"name": "key"}'),
        ("AGGREGATE", {"address": OWNER, "time": 1, "key": "k", "content": []}, "content.content", "must be an object"),
        ("STORE", STORE | {"item_type": "inline"}, "content.item_type", "must be one of 'storage' or 'ipfs'"),
        ("STORE", STORE | {"item_hash": HASH.upper()}, "content.item_hash", "must be an item hash"),
        ("STORE", STORE | {"item_hash": CID}, "content.item_hash", "must be a sha256, for `item_type` is storage"),
        ("STORE", STORE | {"item_type": "ipfs"}, "content.item_hash", "must be a CID, for `item_type` is ipfs"),
        ("STORE", STORE | {"size": 1.5}, "content.size", "must be an integer"),
        ("STORE", STORE | {"payment": {"type": "cash"}}, "content.payment.type", "must be one of"),
        ("FORGET", FORGET | {"hashes": HASH}, "content.hashes", "must be a list"),
        ("FORGET", FORGET | {"hashes": [HASH, "x"]}, "content.hashes[1]", "must be an item hash"),
        ("FORGET", FORGET | {"hashes": [HASH] * 1001}, "content.hashes", "must have at most 1000 items"),
        ("FORGET", FORGET | {"aggregates": [HASH] * 1001}, "content.aggregates", "must have at most 1000 items"),
        ("FORGET", FORGET | {"reason": "x" * 1001}, "content.reason", "must have at most 1000 characters"),
        ("FORGET", FORGET | {"hash": HASH}, "content.hash", "is not a known key; did you mean `hashes`?"),
        ("INSTANCE", without(INSTANCE, "rootfs"), "content.rootfs", "is required"),
        ("INSTANCE", INSTANCE | {"allow_amend": 1}, "content.allow_amend", "must be true or false"),
        ("INSTANCE", INSTANCE | {"rootfs": {"parent": {}}}, "content.rootfs.parent.ref", "is required"),
    ],
)  # fmt: skip
def test_a_bad_content_is_refused_with_its_path(kind: Any, content: Any, path: str, rule: str) -> None:
    with pytest.raises(BadMessage) as caught:
        contents.parse(kind, content)
    assert [problem.text for problem in caught.value.problems if problem.path == path][0].startswith(rule)  # noqa: RUF015


def test_at_their_limits_contents_are_read() -> None:
    contents.parse("POST", POST | {"time": 9_223_372_036.0})
    contents.parse("FORGET", FORGET | {"hashes": [HASH] * 1000, "aggregates": [CID] * 1000, "reason": "x" * 1000})


def test_all_that_is_wrong_with_a_content_is_told_at_once() -> None:
    with pytest.raises(BadMessage) as caught:
        contents.parse("STORE", {"item_type": "ipfs", "item_hash": HASH, "size": "x"})
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"content.address", "content.time", "content.size", "content.item_hash"}


@given(st.sampled_from(["POST", "AGGREGATE", "STORE", "FORGET", "INSTANCE"]), junk)
def test_a_malformed_content_is_refused_and_nothing_worse(kind: Any, value: Any) -> None:
    for content in (value, *({**base, **value} for base in (POST, STORE, FORGET, INSTANCE) if isinstance(value, dict))):
        try:
            contents.parse(kind, content)
        except BadMessage as failure:
            json.dumps([problem.document for problem in failure.problems])


# Against the network's own parser


def theirs(document: dict[str, Any]) -> bool:
    try:
        aleph_message.parse_message(document)
    except (ValidationError, ValueError, UnknownHashError, AttributeError):
        return False
    return True


def ours(document: dict[str, Any]) -> bool:
    try:
        found = parse(document)
        contents.parse(found.type, found.content if found.content is not None else document.get("content"))
    except BadMessage:
        return False
    return True


SAMPLES = [
    json.loads(path.read_text())
    for path in sorted((Path(aleph_message.__file__).parent / "tests" / "messages").glob("*.json"))
]
ENVELOPES = [sample for sample in SAMPLES if "item_hash" in sample and sample.get("type") != "V-PROGRAM"]


def completed(kind: str, content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**inline(content, type=kind, **fields), "content": content}


@pytest.mark.parametrize("sample", ENVELOPES, ids=lambda sample: f"{sample['type']}-{sample['item_hash'][:6]}")
def test_a_message_that_was_published_is_read_and_shown_so_that_their_parser_reads_it(sample: Any) -> None:
    found = parse(sample)
    contents.parse(found.type, found.content if found.content is not None else sample["content"])
    assert found.item_hash == sample["item_hash"]
    assert found.time == (
        datetime.fromisoformat(sample["time"]).replace(tzinfo=UTC).timestamp()
        if isinstance(sample["time"], str)
        else sample["time"]
    )


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("POST", POST),
        ("POST", POST | {"type": "amend", "ref": HASH}),
        ("AGGREGATE", {"address": OWNER, "time": 1.0, "key": {"name": "k"}, "content": {"a": [1]}}),
        ("STORE", STORE | {"ref": HASH, "metadata": {"name": "x"}, "payment": {"type": "credit", "chain": "ETH"}}),
        ("FORGET", FORGET | {"aggregates": [CID_1], "reason": "no use"}),
    ],
)
def test_what_we_return_their_parser_reads(kind: str, content: dict[str, Any]) -> None:
    shown = parse(inline(content, type=kind)).shown()
    assert aleph_message.parse_message(shown).item_hash == inline(content)["item_hash"]


VARIANTS = st.fixed_dictionaries(
    {},
    optional={
        "chain": st.sampled_from([*get_args(Chain), "BTC"]),
        "channel": st.none() | st.text(max_size=130),
        "time": st.floats(0, 2e9)
        | st.integers(0, 2 * 10**9)
        | st.datetimes(datetime(1971, 1, 1), datetime(2262, 1, 1)).map(str),  # noqa: DTZ001
        "confirmed": st.none() | st.booleans(),
        "confirmations": st.none() | st.just([]) | st.just([{"chain": "ETH", "height": 1, "hash": "x"}]),
        "size": st.none() | st.integers(),
        "_id": st.just({"$oid": "x"}),
        "hash_type": st.sampled_from([None, "sha256", "md5"]),
        "forgotten_by": st.none() | st.lists(st.text()),
        "item_hash": st.sampled_from([HASH, HASH.upper()]),
        "extra": st.none(),
    },
)
BODIES = st.sampled_from(
    [
        ("POST", POST),
        ("POST", POST | {"more": 1}),
        ("AGGREGATE", {"address": OWNER, "time": 1.0, "key": "k", "content": {}}),
        ("STORE", STORE | {"more": 1}),
        ("STORE", STORE | {"item_hash": CID, "item_type": "ipfs"}),
        ("FORGET", FORGET),
        ("FORGET", FORGET | {"hashes": ["x"]}),
    ]
)


@given(BODIES, VARIANTS)
def test_what_their_parser_reads_is_read(body: tuple[str, dict[str, Any]], fields: dict[str, Any]) -> None:
    document = completed(*body, **fields)
    assert ours(document) or not theirs(document)


@pytest.mark.parametrize(
    "document",
    [
        completed("POST", POST, signature=None),  # nothing to verify
        completed("POST", POST, size="5"),  # text is no number in JSON
        completed("POST", POST, confirmed="no"),
        completed("POST", POST | {"time": "1.5"}),
        completed("POST", POST, time=1612345678000),  # they take it for milliseconds
        completed("POST", POST, time=-1.0),
        completed("STORE", STORE | {"item_hash": CID}),  # the hash says that it is not stored so
        completed("STORE", STORE | {"item_type": "inline"}),
        {**completed("STORE", STORE), "item_content": None, "item_type": "storage", "item_hash": CID},
    ],
)
def test_this_their_parser_reads_and_we_do_not(document: dict[str, Any]) -> None:
    assert theirs(document)
    assert not ours(document)


@pytest.mark.parametrize(
    "document",
    [
        without(completed("POST", POST), "item_type"),
        completed("POST", POST, item_hash=HASH),  # a wrong hash is found when it is verified, after the shape
        completed("POST", POST | {"type": "amend"}),  # rejected by the rules, with a code of its own
        completed("STORE", STORE | {"payment": {"type": "superfluid"}}),
        completed("FORGET", without(FORGET, "hashes")),
        {**completed("POST", POST), "content": {"edited": True}},
        completed("FORGET", FORGET, forgotten_by=[HASH]),
        completed("POST", POST | {"ref": {"item_hash": HASH}}),
        completed("POST", POST | {"content": {"tags": "no list"}}),
    ],
)
def test_this_we_read_and_their_parser_does_not(document: dict[str, Any]) -> None:
    assert ours(document)
    assert not theirs(document)


def test_a_lone_surrogate_within_the_content_is_refused_wherever_it_is_hidden() -> None:
    problems = refused({**inline(), "item_content": '{"a": ["\\ud800"]}'})
    assert problems["item_content"].rule == "must not hold a lone surrogate"


def test_the_nearest_chain_is_told_whatever_its_case() -> None:
    assert refused(inline(chain="etherlnk"))["chain"].fix == "did you mean `ETHERLINK`?"
