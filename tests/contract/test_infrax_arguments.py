"""Arguments of InfraX jobs: what is taken (contract, section 5.1) and what the app is handed (section 3.1).

Numbers in docstrings are items of the acceptance checklist (section 8). Every delivery is looked at from the
inside of a real Python process, by argparse and by json.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import (
    Invalid,
    KwargBadKey,
    KwargInvalidText,
    KwargsBadType,
    KwargsTooLarge,
    KwargTooLong,
)
from moorage.model.apps import App
from moorage.model.jobs import JobSpec
from moorage.model.limits import GIB, MIB, Limits, Timeouts
from moorage.model.states import AppState
from moorage.networks.infrax import arguments
from moorage.networks.infrax.network import InfraX

PROBE = """
import argparse, json, sys
parser = argparse.ArgumentParser()
keys = sys.argv.pop(1).split("\\n") if len(sys.argv) > 1 else []
for key in filter(None, keys):
    parser.add_argument("--" + key, dest=key)
parser.add_argument("rest", nargs="*")
seen = vars(parser.parse_args())
stdin = sys.stdin.buffer.read()
print(json.dumps({"argv": sys.argv[1:], "parsed": seen, "stdin": stdin.decode("latin-1")}))
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process found: raw argv, what argparse made of it, and the bytes of its standard input."""

    argv: list[str]
    parsed: dict[str, Any]
    stdin: bytes


def app(**meta: Any) -> App:
    return App(id="app_1", network="infrax", name="a", owner="me", state=AppState.TESTING, digest="0", size=0, files=0,
               meta=meta)  # fmt: skip


def accept(parameters: Mapping[str, Any], **meta: Any) -> JobSpec:
    return InfraX().accept(app(**meta), JobSpec(app_id="app_1", parameters=parameters))


def deliver(parameters: Mapping[str, Any], via: Any = "both", style: Any = "auto") -> Seen:
    """Hand arguments to a real process as the node does."""
    spec = accept(parameters)
    found = arguments.parse(spec.parameters.get("kwargs"), spec.parameters.get("args"))
    command = [sys.executable, "-c", PROBE, "\n".join(found.kwargs), *found.argv(via, style)]
    done = subprocess.run(command, input=found.stdin(via), capture_output=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    return Seen(answer["argv"], answer["parsed"], answer["stdin"].encode("latin-1"))


@pytest.mark.parametrize("value", ["Hello InfraX!", "", "two words", "it's \"quoted\"", "$(id) `id` ; *", "a\nb\r\nc",
                                   "grüße 🚢 日本", "-x", "--x", "-5", "=", "a=b", "\\n"])  # fmt: skip
def test_a_text_arrives_intact_on_both_channels(value: str) -> None:
    """Items 1 and 3."""
    seen = deliver({"kwargs": {"message_string": value}})
    assert json.loads(seen.stdin) == {"message_string": value}
    assert seen.parsed["message_string"] == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "True"), (None, "None"), (1.0, "1.0"), (-5, "-5"), (-0.5, "-0.5"), ([1, "a"], "[1, 'a']"),
     ({"k": None}, "{'k': None}")],
)  # fmt: skip
def test_a_value_keeps_its_type_on_stdin_and_is_its_python_text_on_argv(value: Any, text: str) -> None:
    """Item 3."""
    seen = deliver({"kwargs": {"v": value}})
    assert json.loads(seen.stdin) == {"v": value}
    assert seen.parsed["v"] == text


def test_without_arguments_stdin_is_an_empty_object_and_argv_is_empty() -> None:
    """Item 2."""
    nothing: list[dict[str, Any]] = [{}, {"kwargs": {}}, {"kwargs": None, "args": None}, {"kwargs": {}, "args": []}]
    for parameters in nothing:
        seen = deliver(parameters)
        assert (seen.stdin, seen.argv) == (b"{}", [])


def test_stdin_is_one_line_of_ascii_without_a_newline_and_keeps_the_order_of_keys() -> None:
    seen = deliver({"kwargs": {"z": "ü", "a": 1, "m_m": [True]}})
    assert seen.stdin == b'{"z": "\\u00fc", "a": 1, "m_m": [true]}'


def test_argv_has_pairs_in_the_order_of_keys_and_keys_go_in_unchanged() -> None:
    seen = deliver({"kwargs": {"z_z": "1", "a-a": "", "m": "-x"}})
    assert seen.argv == ["--z_z", "1", "--a-a", "", "--m=-x"]


def test_positional_arguments_are_the_argv_where_no_keyword_argument_is_given() -> None:
    """Item 5."""
    seen = deliver({"args": ["one", 2, None]})
    assert (seen.argv, seen.stdin) == (["one", "2", "None"], b"{}")


def test_of_both_kinds_only_keyword_arguments_count() -> None:
    """Item 5."""
    seen = deliver({"args": ["one"], "kwargs": {"a": "b"}})
    assert seen.argv == ["--a", "b"]
    assert json.loads(seen.stdin) == {"a": "b"}


@pytest.mark.parametrize(
    ("via", "argv", "stdin"),
    [("both", ["--a", "b"], b'{"a": "b"}'), ("stdin", [], b'{"a": "b"}'), ("argv", ["--a", "b"], b"{}")],
)
def test_an_app_says_by_kwargs_via_which_channel_it_takes(via: str, argv: Sequence[str], stdin: bytes) -> None:
    """Item 5."""
    seen = deliver({"kwargs": {"a": "b"}}, via=via)
    assert (seen.argv, seen.stdin) == (argv, stdin)


@pytest.mark.parametrize(
    ("style", "argv"),
    [("auto", ["--a", "b", "--c=-d", "--e", ""]), ("equals", ["--a=b", "--c=-d", "--e="]),
     ("pairs", ["--a", "b", "--c", "-d", "--e", ""])],
)  # fmt: skip
def test_an_app_says_by_argv_style_how_pairs_are_written(style: Any, argv: Sequence[str]) -> None:
    found = arguments.parse({"a": "b", "c": "-d", "e": ""}, None)
    assert list(found.argv("both", style)) == argv


def test_defaults_of_the_app_come_first_and_the_job_overrides_them_by_key() -> None:
    """Section 1.4."""
    spec = accept({"kwargs": {"c": 3, "a": 9}}, kwargs={"a": 1, "b": 2})
    assert json.dumps(spec.parameters) == '{"kwargs": {"a": 9, "b": 2, "c": 3}}'


def test_accepting_what_was_accepted_changes_nothing() -> None:
    spec = accept({"kwargs": {"c": 3}, "time_to_give_up": 7}, kwargs={"a": 1})
    assert InfraX().accept(app(kwargs={"a": 1}), spec) == spec


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
KEYS = st.text(st.characters(categories=["L", "Nd"], include_characters="_."), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(KEYS.map(lambda key: "k" + key), TEXT.filter(lambda text: text != "--"), max_size=5))
def test_argparse_and_json_see_the_same_texts(kwargs: dict[str, str]) -> None:
    """Item 1; a value of exactly `--` is lost by argparse in any form (section 3.1)."""
    seen = deliver({"kwargs": kwargs})
    assert json.loads(seen.stdin) == kwargs
    assert {key: seen.parsed[key] for key in kwargs} == kwargs


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_whatever_is_accepted_reads_back_from_stdin_with_its_types(kwargs: dict[str, Any]) -> None:
    try:
        found = arguments.parse(kwargs, None)
    except KwargTooLong:
        assert any(len(str(value)) > 1024 for value in kwargs.values())
        return
    document = found.stdin("both")
    assert json.loads(document) == kwargs
    assert list(json.loads(document)) == list(kwargs)
    assert document.isascii()


@pytest.mark.parametrize("value", ["x" * 1024, "🚢" * 1024, "ü" * 1024])
def test_1024_code_points_are_taken(value: str) -> None:
    """Item 4."""
    assert deliver({"kwargs": {"k": value}}).parsed["k"] == value


@pytest.mark.parametrize("value", ["x" * 1025, "🚢" * 1025, ["x" * 1021], 10**1024, pytest.param(10**5000, id="huge")])
def test_a_longer_value_is_refused_by_the_name_of_its_key(value: Any) -> None:
    """Item 4."""
    with pytest.raises(KwargTooLong, match="'essay'") as caught:
        accept({"kwargs": {"essay": value}})
    assert caught.value.code == "kwarg_too_long"
    assert caught.value.status == 422
    assert "file" in str(caught.value.hint)


def test_a_longer_entry_of_args_is_refused() -> None:
    assert accept({"args": ["x" * 1024]}).parameters == {"args": ["x" * 1024]}
    with pytest.raises(KwargTooLong, match="1"):
        accept({"args": ["", "x" * 1025]})


def test_a_value_nested_beyond_reason_is_refused_like_any_long_one() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(KwargTooLong):
        accept({"kwargs": {"k": deep}})
    while deep:
        deep = deep.pop()  # or freeing it would recurse


@pytest.mark.parametrize("value", ["a\0b", "\ud800", ["\0"], {"\udfff": 1}, [[{"k": "\ud800"}]], float("nan"),
                                   [float("inf")]])  # fmt: skip
def test_a_value_that_no_channel_carries_is_refused(value: Any) -> None:
    with pytest.raises(KwargInvalidText, match="'note'") as caught:
        accept({"kwargs": {"note": value}})
    assert caught.value.code == "kwarg_invalid_text"


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
def test_a_key_that_no_channel_carries_is_refused(key: str) -> None:
    with pytest.raises(KwargInvalidText):
        accept({"kwargs": {key: "x"}})


@pytest.mark.parametrize(
    "key", ["", "-a", "--a", "a=b", "a b", "a\tb", "a\u00a0b", "a\nb", "a\x07", "a\x7f", "k" * 257]
)
def test_a_key_that_no_option_can_be_called_is_refused(key: str) -> None:
    with pytest.raises(KwargBadKey) as caught:
        accept({"kwargs": {key: "x"}})
    assert caught.value.code == "kwarg_bad_key"
    assert repr(key[:80]) in caught.value.message


def test_a_key_of_256_code_points_is_taken() -> None:
    assert deliver({"kwargs": {"ü" * 256: "x"}}).parsed["ü" * 256] == "x"


def test_256_keys_are_taken_and_257_refused() -> None:
    accept({"kwargs": {f"k{n}": n for n in range(256)}})
    with pytest.raises(KwargsTooLarge, match="257") as caught:
        accept({"kwargs": {f"k{n}": n for n in range(257)}})
    assert caught.value.code == "kwargs_too_large"


def test_the_limit_of_keys_counts_defaults_too() -> None:
    with pytest.raises(KwargsTooLarge):
        accept({"kwargs": {"one": "more"}}, kwargs={f"k{n}": n for n in range(256)})


def test_more_than_512_kib_in_all_are_refused_and_300_kib_arrive() -> None:
    """Item 2."""
    with pytest.raises(KwargsTooLarge):
        accept({"kwargs": {f"k{n}": "🚢" * 1024 for n in range(129)}})
    with pytest.raises(KwargsTooLarge):
        accept({"args": ["x" * 1024] * 513})
    kwargs = {f"k{n}": "🚢" * 1024 for n in range(75)}
    seen = deliver({"kwargs": kwargs})
    assert json.loads(seen.stdin) == kwargs == {key: seen.parsed[key] for key in kwargs}


@pytest.mark.parametrize("wrong", [[], "x", 5, True, 0, ""])
def test_kwargs_must_be_an_object(wrong: Any) -> None:
    with pytest.raises(KwargsBadType) as caught:
        accept({"kwargs": wrong})
    assert caught.value.code == "kwargs_bad_type"
    with pytest.raises(KwargsBadType, match="app"):
        accept({}, kwargs=wrong)


@pytest.mark.parametrize("wrong", [{}, "x", 5, False])
def test_args_must_be_a_list(wrong: Any) -> None:
    with pytest.raises(KwargsBadType, match="args"):
        accept({"args": wrong})


def test_an_unknown_parameter_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(Invalid, match="`kwargs`"):
        accept({"kwarg": {"a": 1}})


def test_settings_of_the_command_line_are_json_or_else_text() -> None:
    given_texts = {"n": "5", "name": "Ada", "s": '"5"', "on": "true", "l": "[1, 2]", "id": "007", "none": "null",
                   "nan": "NaN", "inf": "-Infinity", "half": "{", "empty": ""}  # fmt: skip
    assert InfraX().parse_settings(given_texts) == {
        "kwargs": {"n": 5, "name": "Ada", "s": "5", "on": True, "l": [1, 2], "id": "007", "none": None,
                   "nan": "NaN", "inf": "-Infinity", "half": "{", "empty": ""}
    }  # fmt: skip
    assert InfraX().parse_settings({}) == {}


@pytest.mark.parametrize("asked", [None, 0, 0.0])
def test_no_time_to_give_up_means_the_default_of_the_node(asked: Any) -> None:
    assert accept({"time_to_give_up": asked}) == accept({})


@pytest.mark.parametrize("asked", [1, 2.5, 10**30])
def test_time_to_give_up_is_the_execution_timeout(asked: float) -> None:
    assert accept({"time_to_give_up": asked}).timeouts == Timeouts(execution=asked)


@pytest.mark.parametrize("asked", [-1, -0.5, True, False, "5", [], float("nan"), float("inf")])
def test_any_other_time_to_give_up_is_refused(asked: Any) -> None:
    with pytest.raises(Invalid, match="time_to_give_up") as caught:
        accept({"time_to_give_up": asked})
    assert caught.value.status == 422


def test_limits_of_the_app_hold_where_the_job_says_nothing() -> None:
    declaring = App(id="app_1", network="infrax", name="a", owner="me", state=AppState.TESTING, digest="0", size=0,
                    files=0, manifest={"limits": {"memory": 2 * GIB, "pids": 7, "timeout": 9.0}})  # fmt: skip
    spec = JobSpec(app_id="app_1", limits=Limits(memory=64 * MIB))
    accepted = InfraX().accept(declaring, spec)
    assert accepted.limits == Limits(memory=64 * MIB, pids=7)
    assert accepted.timeouts == Timeouts(execution=9.0)
