"""Bodies that the node reads and writes, byte for byte (contract, sections 4.4 to 4.8 and 5.1).

Items 4 and 5 of the acceptance checklist (section 8), and item 1 for what needs no server.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.networks.infernet.wire import (
    MAX_DEPTH,
    Answer,
    BadBody,
    DelegatedRequest,
    Failure,
    JobResult,
    OffchainRequest,
    Output,
    Signature,
    StatusReport,
    Subscription,
    dump,
    load,
    parse,
    parse_batch,
    parse_status,
)

OWNER, TOKEN, WALLET, ZERO = ("0x" + digits * 20 for digits in ("aB", "22", "33", "00"))
HASH = "0deeac3a841600829c99f8116bb997da266d4c47a720b00e6ace9594de82dd54"
OFFCHAIN: dict[str, Any] = {"containers": ["a", "b"], "data": {"x": 1}, "requires_proof": True}
SIGNATURE: dict[str, Any] = {"nonce": 7, "expiry": 1800000000, "v": 27, "r": 2**256 - 1, "s": 0}
SUBSCRIPTION: dict[str, Any] = {
    "owner": OWNER, "active_at": 0, "period": 3, "frequency": 2**32 - 1, "redundancy": 2**16 - 1,
    "containers": f"0x{HASH}", "lazy": False, "verifier": ZERO, "payment_amount": 2**256 - 1, "payment_token": TOKEN,
    "wallet": WALLET,
}  # fmt: skip
DELEGATED: dict[str, Any] = {"signature": SIGNATURE, "subscription": SUBSCRIPTION, "data": {}}
NESTED = "[" * 100_000 + "]" * 100_000


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def refused(content: bytes) -> str:
    with pytest.raises(BadBody) as caught:
        parse(content)
    assert caught.value.status == 400
    return caught.value.text


def said(read: Callable[[bytes], object], content: bytes) -> str | None:
    """Give the text of a reader's failure as it comes out of an answer, or None where it has read."""
    try:
        read(content)
    except BadBody as error:
        answered: str = json.loads(dump(error.text))
        return answered
    return None


def signed(**fields: Any) -> dict[str, Any]:
    return {**DELEGATED, "signature": {**SIGNATURE, **fields}}


def subscribed(**fields: Any) -> dict[str, Any]:
    return {**DELEGATED, "subscription": {**SUBSCRIPTION, **fields}}


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


# Answers


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"status": "healthy"}, b'{"status":"healthy"}\n'),
        ({"b": 1, "a": {"d": [1, 2], "c": None}}, b'{"a":{"c":null,"d":[1,2]},"b":1}\n'),
        ("Größe \N{PARTY POPPER}", b'"Gr\\u00f6\\u00dfe \\ud83c\\udf89"\n'),
        ("\ud800", b'"\\ud800"\n'),
        ({"n": 2**256 - 1}, b'{"n":' + str(2**256 - 1).encode() + b"}\n"),
        ([1.0, 1e300, -0.0, True], b"[1.0,1e+300,-0.0,true]\n"),
        (None, b"null\n"),
    ],
)
def test_an_answer_is_compact_sorted_ascii_and_ends_with_a_newline(value: Any, written: bytes) -> None:
    assert dump(value) == written


A, B = (
    Answer(container="a", outcome=Output(value={"z": 1, "y": [None]})),
    Answer(container="b", outcome=Output(value=0)),
)
WRONG = Answer(container="b", outcome=Failure(error="HTTP 500: no"))


@pytest.mark.parametrize(
    ("result", "short", "full"),
    [
        (
            JobResult(id="1", status="running"),
            b'{"id":"1","result":null,"status":"running"}\n',
            b'{"id":"1","intermediate_results":[],"result":null,"status":"running"}\n',
        ),
        (
            JobResult(id="1", status="success", result=A),
            b'{"id":"1","result":{"container":"a","output":{"y":[null],"z":1}},"status":"success"}\n',
            (
                b'{"id":"1","intermediate_results":[],"result":{"container":"a","output":{"y":[null],"z":1}},'
                b'"status":"success"}\n'
            ),
        ),
        (
            JobResult(id="1", status="success", result=B, intermediate_results=(A,)),
            b'{"id":"1","result":{"container":"b","output":0},"status":"success"}\n',
            (
                b'{"id":"1","intermediate_results":[{"container":"a","output":{"y":[null],"z":1}}],'
                b'"result":{"container":"b","output":0},"status":"success"}\n'
            ),
        ),
        (
            JobResult(id="1", status="failed", result=WRONG, intermediate_results=(A,)),
            b'{"id":"1","result":{"container":"b","error":"HTTP 500: no"},"status":"failed"}\n',
            (
                b'{"id":"1","intermediate_results":[{"container":"a","output":{"y":[null],"z":1}}],'
                b'"result":{"container":"b","error":"HTTP 500: no"},"status":"failed"}\n'
            ),
        ),
        (
            JobResult(id="1", status="success", result=Answer(container="a", outcome=Output(value=None))),
            b'{"id":"1","result":{"container":"a","output":null},"status":"success"}\n',
            b'{"id":"1","intermediate_results":[],"result":{"container":"a","output":null},"status":"success"}\n',
        ),
    ],
)
def test_outputs_on_the_way_are_shown_only_to_those_who_ask(result: JobResult, short: bytes, full: bytes) -> None:
    assert dump(result.document(intermediate=False)) == short
    assert dump(result.document(intermediate=True)) == full


# Requests


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"requires_proof": True}),
        ({"requires_proof": None}, {"requires_proof": False}),
        ({"containers": []}, {"containers": ()}),
        ({"containers": [""]}, {"containers": ("",)}),
        ({"data": {}}, {"data": {}}),
        ({"data": {"n": 2**256, "deep": {"list": [1.5]}}}, {"data": {"n": 2**256, "deep": {"list": [1.5]}}}),
        ({"data": {"\ud800": "\ud800"}}, {"data": {"\ud800": "\ud800"}}),
    ],
)
def test_an_offchain_request_is_read(change: dict[str, Any], expected: dict[str, Any]) -> None:
    found = {"containers": ("a", "b"), "data": {"x": 1}, "requires_proof": True, **expected}
    assert parse(body({**OFFCHAIN, **change})) == OffchainRequest(**found)


def test_no_proof_is_asked_where_nothing_is_said_of_one() -> None:
    found = parse(b'{"containers":["a"],"data":{}}')
    assert found == OffchainRequest(containers=("a",), data={}, requires_proof=False)


def test_a_delegated_request_is_read_with_exact_integers_and_comparable_addresses() -> None:
    found = parse(body(DELEGATED))
    assert isinstance(found, DelegatedRequest)
    assert found.signature == Signature(**SIGNATURE)
    assert found.subscription == Subscription(**{**SUBSCRIPTION, "owner": "0x" + "ab" * 20})
    assert (found.data, found.requires_proof) == ({}, False)
    assert found.posted == {"signature": SIGNATURE, "subscription": SUBSCRIPTION}


@pytest.mark.parametrize("written", [HASH, f"0x{HASH}", f"0X{HASH.upper()}", HASH.upper()])
def test_a_hash_is_taken_in_any_spelling(written: str) -> None:
    found = parse(body(subscribed(containers=written)))
    assert isinstance(found, DelegatedRequest)
    assert found.subscription.containers == f"0x{HASH}"


@pytest.mark.parametrize(("verifier", "needed"), [(ZERO, False), ("0x" + "0" * 39 + "1", True)])
def test_the_verifier_alone_decides_whether_chain_work_needs_a_proof(verifier: str, needed: bool) -> None:
    for requires_proof in (True, False, None):
        found = parse(body({**subscribed(verifier=verifier), "requires_proof": requires_proof}))
        assert isinstance(found, DelegatedRequest)
        assert found.subscription.needs_proof is needed


@pytest.mark.parametrize("document", [OFFCHAIN, DELEGATED])
def test_extra_keys_change_nothing(document: dict[str, Any]) -> None:
    """Item 5."""
    extra = {"id": "mine", "ip": "127.0.0.1", "type": "delegated", "posted": 5, "self": None, "": []}
    assert parse(body({**document, **extra})) == parse(body(document))


def test_extra_keys_within_a_subscription_change_nothing_but_what_is_shown_of_it() -> None:
    found, plain = parse(body(subscribed(id=5, ip="x"))), parse(body(DELEGATED))
    assert isinstance(found, DelegatedRequest)
    assert isinstance(plain, DelegatedRequest)
    assert (found.subscription, found.signature) == (plain.subscription, plain.signature)


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({**DELEGATED, **OFFCHAIN}, OffchainRequest),
        ({**DELEGATED, "containers": "a"}, DelegatedRequest),
        ({**DELEGATED, "containers": ["a", 1]}, DelegatedRequest),
        ({**OFFCHAIN, "signature": 5, "subscription": 5}, OffchainRequest),
    ],
)
def test_the_shape_tells_the_kind_and_offchain_is_tried_first(document: dict[str, Any], kind: type) -> None:
    assert type(parse(body(document))) is kind


def test_of_equal_keys_the_last_wins() -> None:
    found = parse(b'{"containers":5,"data":{"a":1,"a":2},"containers":["x"]}')
    assert found == OffchainRequest(containers=("x",), data={"a": 2})


def test_a_byte_order_mark_and_blanks_are_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf \r\n\t" + body(OFFCHAIN) + b" \n") == parse(body(OFFCHAIN))


NUMBER = "body: holds a number that is not finite or has too many digits"
DEEP = "body: is nested deeper than 100 levels"
INTEGER, BOOLEAN, STRING = (f"Input should be a valid {kind}" for kind in ("integer", "boolean", "string"))
BYTES_20, BYTES_32 = (f"Input should be {size} bytes in hexadecimal" for size in (20, 32))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "body: is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "body: is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"{} {}", "body: is not JSON: Extra data: line 1 column 4 (char 3)"),
        (b'"\n"', "body: is not JSON: Invalid control character at: line 1 column 2 (char 1)"),
        (b"\xff", "body: is not UTF-8"),
        (b'"\xed\xa0\x80"', "body: is not UTF-8"),
        ("{}".encode("utf-16"), "body: is not UTF-8"),
        (b'{"containers":["a"],"data":{"x":NaN}}', NUMBER),
        (b'{"containers":["a"],"data":{"x":-Infinity}}', NUMBER),
        (b'{"containers":["a"],"data":{"x":1e999}}', NUMBER),
        (b'{"containers":["a"],"data":{"x":' + b"1" * 5000 + b"}}", NUMBER),
        (NESTED.encode(), DEEP),
        (b'{"containers":["a"],"data":{"x":' + NESTED.encode() + b"}}", DEEP),
        (b'{"data":' * 99 + b"[[]]" + b"}" * 99, DEEP),
        (b"null", "body: Input should be an object"),
        (b"[]", "body: Input should be an object"),
        (b'"text"', "body: Input should be an object"),
        (b"5", "body: Input should be an object"),
    ],
)
def test_a_body_that_is_no_object_of_strict_json_is_refused(content: bytes, text: str) -> None:
    """Item 4."""
    assert refused(content) == text


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "containers: Field required"),
        ({"data": {}}, "containers: Field required"),
        ({"containers": ["a"]}, "data: Field required"),
        ({**OFFCHAIN, "containers": "a"}, "containers: Input should be a list"),
        ({**OFFCHAIN, "containers": {"a": 1}}, "containers: Input should be a list"),
        ({**OFFCHAIN, "containers": None}, "containers: Input should be a list"),
        ({**OFFCHAIN, "containers": ["a", 1]}, f"containers.1: {STRING}"),
        ({**OFFCHAIN, "containers": [None]}, f"containers.0: {STRING}"),
        ({**OFFCHAIN, "containers": ["\ud800"]}, "containers.0: Input should not hold a lone surrogate"),
        ({**OFFCHAIN, "\ud800": 0}, "body: Input should not hold a lone surrogate"),
        ({**OFFCHAIN, "data": []}, "data: Input should be an object"),
        ({**OFFCHAIN, "data": "00ff"}, "data: Input should be an object"),
        ({**OFFCHAIN, "data": None}, "data: Input should be an object"),
        ({**OFFCHAIN, "requires_proof": 1}, f"requires_proof: {BOOLEAN}"),
        ({**OFFCHAIN, "requires_proof": "true"}, f"requires_proof: {BOOLEAN}"),
        ({"subscription": {}}, "signature: Field required"),
        ({**DELEGATED, "requires_proof": 0}, f"requires_proof: {BOOLEAN}"),
        ({**DELEGATED, "signature": []}, "signature: Input should be an object"),
        ({**DELEGATED, "subscription": "a"}, "subscription: Input should be an object"),
        ({**DELEGATED, "data": [1]}, "data: Input should be an object"),
        *[({**DELEGATED, "signature": without(SIGNATURE, key)}, f"signature.{key}: Field required")
          for key in SIGNATURE],
        *[({**DELEGATED, "subscription": without(SUBSCRIPTION, key)}, f"subscription.{key}: Field required")
          for key in SUBSCRIPTION],
        *[(without(DELEGATED, key), f"{key}: Field required") for key in DELEGATED],
        *[(signed(**{key: wrong}), f"signature.{key}: {INTEGER}")
          for key in SIGNATURE for wrong in ("1", "0x1", True, 1.0, None, [])],
        *[(subscribed(**{key: wrong}), f"subscription.{key}: {INTEGER}")
          for key in ("active_at", "period", "frequency", "redundancy", "payment_amount")
          for wrong in ("1", True, 1.0, None)],
        *[(subscribed(lazy=wrong), f"subscription.lazy: {BOOLEAN}") for wrong in (0, 1, "true", None)],
        *[(signed(**{key: 2**bits}), f"signature.{key}: Input should be less than {2**bits}")
          for key, bits in {"nonce": 32, "expiry": 32, "v": 8, "r": 256, "s": 256}.items()],
        *[(subscribed(**{key: 2**bits}), f"subscription.{key}: Input should be less than {2**bits}")
          for key, bits in {"active_at": 32, "period": 32, "frequency": 32, "redundancy": 16,
                            "payment_amount": 256}.items()],
        (signed(r=10**4000), f"signature.r: Input should be less than {2**256}"),
        (signed(r=-1), "signature.r: Input should be greater than or equal to 0"),
        (subscribed(redundancy=-1), "subscription.redundancy: Input should be greater than or equal to 0"),
        *[(subscribed(**{key: wrong}), f"subscription.{key}: {BYTES_20}")
          for key in ("owner", "verifier", "payment_token", "wallet")
          for wrong in ("", "0x", "0x" + "1" * 39, "0x" + "1" * 41, "0x" + "g" * 40, " " + TOKEN, TOKEN + "\n",
                        "0x" + "1" * 64, "\u0661" * 40)],
        *[(subscribed(containers=wrong), f"subscription.containers: {BYTES_32}")
          for wrong in ("", "a,b", HASH[1:], f"0x{HASH}0", OWNER, "\ud800" * 64)],
        (subscribed(containers=["a"]), f"subscription.containers: {STRING}"),
        (subscribed(owner=5), f"subscription.owner: {STRING}"),
    ],
)  # fmt: skip
def test_a_request_of_the_wrong_shape_is_refused_by_field_and_reason(document: Any, text: str) -> None:
    """Item 4."""
    assert refused(body(document)) == text


def test_what_is_as_deep_as_is_allowed_is_read_and_can_be_written_within_an_answer() -> None:
    deepest = b'{"containers":["a"],"data":' + b'{"":' * (MAX_DEPTH - 2) + b"{}" + b"}" * (MAX_DEPTH - 2) + b"}"
    found = parse(deepest)
    assert isinstance(found, OffchainRequest)
    answer = JobResult(id="", status="success", result=Answer(container="a", outcome=Output(value=found.data)))
    assert b'{"":' * (MAX_DEPTH - 2) in dump([answer.document(intermediate=False)])


def test_a_body_may_hold_many_lists_side_by_side() -> None:
    assert load(b"[" + b"[]," * 1000 + b"{}]") == [*[[]] * 1000, {}]


# Batches


def outcomes(content: bytes, **options: Any) -> list[Any]:
    return [found.text if isinstance(found, BadBody) else found for found in parse_batch(content, **options)]


def test_a_batch_keeps_the_order_of_its_items() -> None:
    assert parse_batch(body([OFFCHAIN, DELEGATED, OFFCHAIN])) == [
        parse(body(OFFCHAIN)), parse(body(DELEGATED)), parse(body(OFFCHAIN))
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"[]", b" [ \n] ", b"\xef\xbb\xbf[]"])
def test_an_empty_batch_has_no_items(content: bytes) -> None:
    assert parse_batch(content) == []


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("{}", "containers: Field required"),
        ("5", "body: Input should be an object"),
        ("[[1, 2], {}]", "body: Input should be an object"),
        ('"a, \\" ], b"', "body: Input should be an object"),
        ('"\\\\"', "body: Input should be an object"),
        ('{"containers":["a"],"data":{"x":NaN}}', NUMBER),
        ('{"containers":["a"],"data":{"x":' + "1" * 5000 + "}}", NUMBER),
        (NESTED, DEEP),
        ('{"containers":["a"],"data":{"x":' + NESTED + "}}", DEEP),
        (json.dumps(signed(r=2**256)), f"signature.r: Input should be less than {2**256}"),
        ("", "body: is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            "{nonsense}",
            "body: is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
    ],
)
def test_a_bad_item_of_a_batch_fails_alone(item: str, text: str) -> None:
    """Item 4."""
    good = parse(body(OFFCHAIN))
    content = f" [ {json.dumps(OFFCHAIN)} ,{item}, {json.dumps(OFFCHAIN)} ]\n".encode()
    assert outcomes(content) == [good, text, good]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{}", "Expected a list"),
        (b"null", "Expected a list"),
        (body(OFFCHAIN), "Expected a list"),
        (b"", "body: is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "body: is not UTF-8"),
        *[(content, "body: is not JSON: the list does not end where the body does")
          for content in (b"[", b"[}", b"[1", b"[1]]", b"[] []", b"[1,", b'["', b'["]', b"[{]", b'["\\', b"[]x")],
    ],
)  # fmt: skip
def test_what_is_no_list_fails_as_a_whole(content: bytes, text: str) -> None:
    with pytest.raises(BadBody) as caught:
        parse_batch(content)
    assert (caught.value.text, caught.value.status) == (text, 400)


def test_a_batch_of_more_items_than_allowed_is_too_large() -> None:
    assert len(parse_batch(b"[1,2,3]", limit=3)) == 3
    with pytest.raises(BadBody) as caught:
        parse_batch(b"[1,2,3,4]", limit=3)
    assert (caught.value.text, caught.value.status) == ("body: holds more than 3 items", 413)


@pytest.mark.parametrize("piece", ['"', "[", "[]", "[],", ",", '\\"', '"\\', "a", '""', "{}"])
def test_reading_takes_time_in_proportion_to_the_body(piece: str) -> None:
    """A body made to be slow must not hold up the node."""
    content = f"[{piece * 200_000}]".encode()
    start = time.process_time()
    assert said(parse, content)
    assert said(lambda content: parse_batch(content, limit=1000), content) != ""
    assert time.process_time() - start < 5


# Reports of containers


def test_a_report_is_read_and_other_keys_are_ignored() -> None:
    report = {"id": "1", "status": "running", "containers": ["a"], "data": {"deep": []}, "result": 5}
    assert parse_status(body(report)) == StatusReport(id="1", status="running", containers=("a",))


@pytest.mark.parametrize("status", ["success", "failed", "running"])
def test_the_states_of_a_report_are_those_of_jobs(status: str) -> None:
    assert parse_status(body({"id": "1", "status": status, "containers": []})).status == status


REPORT: dict[str, Any] = {"id": "1", "status": "success", "containers": ["a"]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        *[(body({**REPORT, "status": status}), "Status is invalid") for status in ("", "done", "RUNNING", 1, None, [])],
        (body({"status": "done"}), "Status is invalid"),
        *[(body(without(REPORT, key)), "Could not store job status") for key in REPORT],
        (body({**REPORT, "id": 1}), "Could not store job status"),
        (body({**REPORT, "id": "\ud800"}), "Could not store job status"),
        (body({**REPORT, "containers": "a"}), "Could not store job status"),
        (body({**REPORT, "containers": [1]}), "Could not store job status"),
        (b"", "Could not store job status"),
        (b"[]", "Could not store job status"),
        (b"null", "Could not store job status"),
        (b'{"id":NaN}', "Could not store job status"),
        (NESTED.encode(), "Could not store job status"),
    ],
)
def test_a_bad_report_is_refused_in_the_texts_of_the_contract(content: bytes, text: str) -> None:
    """Section 4.8."""
    with pytest.raises(BadBody) as caught:
        parse_status(content)
    assert (caught.value.text, caught.value.status) == (text, 400)


# Whatever comes

ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        key: st.sampled_from([value, [value], *SIGNATURE.values()]) | ANY_JSON
        for key, value in {**OFFCHAIN, **DELEGATED, **REPORT}.items()
    },
)
BYTES = (
    st.binary()
    | st.text('[]{}",:\\ \n0truefalsn.-eE\ufeffé').map(str.encode)
    | (ANY_JSON | NEARLY | st.lists(NEARLY, max_size=2)).map(body)
)


@settings(deadline=None)
@given(BYTES)
def test_no_bytes_make_a_reader_raise_anything_but_bad_body(content: bytes) -> None:
    for read in (load, parse, parse_batch, parse_status):
        assert said(read, content) != ""


@settings(deadline=None)
@given(ANY_JSON)
def test_what_was_read_can_be_written_and_is_the_same_when_read_again(value: Any) -> None:
    try:
        found = load(body(value))
    except BadBody:
        return
    assert load(dump(found)) == found


@settings(deadline=None)
@given(st.lists(ANY_JSON | NEARLY, max_size=3))
def test_a_batch_makes_of_each_item_what_it_is_alone(values: list[Any]) -> None:
    found = outcomes(body(values))
    for value, outcome in zip(values, found, strict=True):
        assert outcome == (refused(body(value)) if isinstance(outcome, str) else parse(body(value)))
