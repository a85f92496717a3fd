"""Which messages a subscription takes (contract, section 2.9); item 39 of the checklist."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.networks.aleph.messages.matching import equal, match, matches

MIXED = "0x" + "aB" * 20
MESSAGE: dict[str, Any] = {
    "type": "POST", "channel": None, "sender": MIXED, "time": 1.0, "confirmed": False,
    "content": {
        "type": "note", "ref": "r", "content": {"tags": ["a", "b"], "n": 1, "deep": {"x": {"y": 2}}, "on": True},
        "mixed": [1, "1", True, None, ["a"], {"k": 1}], "owners": [MIXED], "empty": [], "zero": 0, "nothing": {},
    },
}  # fmt: skip


def inside(**content: Any) -> dict[str, Any]:
    return {"content": content}


@pytest.mark.parametrize(
    "subscription",
    [
        {},
        {"type": "POST"},
        {"channel": None},
        {"time": 1},
        {"confirmed": False},
        {"type": ["AGGREGATE", "POST"]},
        {"sender": MIXED.lower()},
        {"sender": "0X" + "AB" * 20},
        {"sender": [MIXED.upper()]},
        {"content": {}},
        inside(type="note", ref="r"),
        inside(content={"n": 1.0, "deep": {"x": {}}}),
        inside(content={"deep": {"x": {"y": 2}}}),
        inside(content={"tags": "b"}),
        inside(content={"tags": ["a", "b"]}),
        inside(content={"tags": ["z", "b"]}),
        inside(content={"n": [0, 1]}),
        inside(content={"deep": [{"x": {"y": 2.0}}]}),
        inside(mixed=True),
        inside(mixed=None),
        inside(mixed=1.0),
        inside(mixed=["a"]),  # one of its items
        inside(mixed=[{"k": 1}]),
        inside(owners=MIXED.lower()),
        inside(empty=[]),
        inside(empty=[[]]),
        inside(zero=-0.0),
        inside(nothing=[{}]),
    ],
)
def test_a_subscription_takes_a_message_that_has_what_it_asks_for(subscription: Any) -> None:
    assert match(subscription, MESSAGE)


@pytest.mark.parametrize(
    "subscription",
    [
        {"type": "post"},
        {"type": "POST", "missing": None},
        {"channel": "x"},
        {"time": True},
        {"time": "1"},
        {"confirmed": 0},
        {"confirmed": None},
        {"type": []},
        {"type": {}},
        {"type": {"x": 1}},
        {"sender": MIXED[:-1]},
        {"content": "note"},
        {"content": ["type"]},
        inside(content={"n": True}),
        inside(content={"on": 1}),
        inside(content={"missing": {}}),
        inside(content={"deep": {"x": {"y": 3}}}),
        inside(content={"deep": [{"x": {}}]}),  # within a list all must be equal
        inside(content={"tags": []}),
        inside(content={"tags": ["c", ["a"]]}),
        inside(mixed={"k": 1}),  # an object asks for an object
        inside(mixed=False),
        inside(mixed=[{}]),
        inside(empty=None),
        inside(zero=False),
        inside(nothing=None),
    ],
)
def test_a_subscription_leaves_a_message_that_lacks_what_it_asks_for(subscription: Any) -> None:
    assert not match(subscription, MESSAGE)


def test_one_subscription_of_many_is_enough_and_none_takes_nothing() -> None:
    assert matches([{"type": "STORE"}, {"type": "POST"}], MESSAGE)
    assert not matches([{"type": "STORE"}, {"x": 1}], MESSAGE)
    assert not matches([], MESSAGE)


@pytest.mark.parametrize("odd", [None, 1, True, "POST", []])
def test_a_subscription_that_is_no_object_takes_no_message(odd: Any) -> None:
    assert not match(odd, MESSAGE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True), (0, -0.0, True), (1, True, False), (0, False, False), (None, False, False), ("1", 1, False),
        (2**53 + 1, float(2**53), False), (10**400, 10**400, True), (1e300, int(1e300), True), (0.1, 0.1, True),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True), ({"a": 1}, {"a": 1, "b": 2}, False), ([1, 2], [2, 1], False),
        ([], {}, False), ([[]], [], False), ("", None, False), (MIXED, MIXED.lower(), True),
        (MIXED + "0", MIXED.lower() + "0", False), ([MIXED], [MIXED.lower()], True), ("A", "a", False),
    ],
)  # fmt: skip
def test_equality_is_that_of_json(one: Any, other: Any, same: bool) -> None:
    assert equal(one, other) is same
    assert equal(other, one) is same


def nested(levels: int, *, of: str) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if of == "lists" else {"k": value}
    return value


@pytest.mark.parametrize("of", ["lists", "objects"])
def test_hostile_nesting_is_compared_like_any_other(of: str) -> None:
    deep, deeper = nested(50_000, of=of), nested(50_002, of=of)
    assert match({"a": deep}, {"a": nested(50_000, of=of)})
    assert not match({"a": deeper}, {"a": deep})
    assert match({"a": [deep]}, {"a": [2, deep]})


def test_long_lists_cost_no_more_than_their_length() -> None:
    count = 20_000
    assert not match({"a": [[n] for n in range(count)]}, {"a": [[-1 - n] for n in range(count)]})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(MIXED),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(values, values)
def test_matching_never_raises(subscription: Any, message: Any) -> None:
    match(subscription, message)


@given(values)
def test_every_value_is_equal_to_itself_read_again_and_is_matched_by_it(value: Any) -> None:
    again = json.loads(json.dumps(value))
    assert equal(value, again)
    assert match({"key": value}, {"key": again, "more": 1})
    assert match({"key": [value]}, {"key": again})


@given(values, values)
def test_an_added_key_never_undoes_a_match(wanted: Any, found: Any) -> None:
    assert match({"a": wanted}, {"a": found, "b": found}) == match({"a": wanted}, {"a": found})
