"""Descriptors and the ids of apps (contract, section 3.6; items 1 and 2 of its acceptance checklist)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import BadManifest
from moorage.networks.golem.descriptor import KEYS, Descriptor, parse

LEAST = {
    "name": "example/wordcount",
    "requestor_env": "docker_cpu",
    "requestor_prereq": {"image": "example/wordcount", "tag": "1.0"},
    "max_benchmark_score": 10000.0,
}
FULL = {
    "name": "example/wordcount",
    "requestor_env": "docker_cpu",
    "requestor_prereq": {"tag": "1.0", "image": "example/wordcount"},
    "max_benchmark_score": 250,
    "version": "1.2.3",
    "description": "d",
    "author": "Zażółć",
    "license": "MIT",
    "market_strategy": "wasm",
}
DEFAULTS = {"version": "0.0", "description": "", "author": "", "license": "", "market_strategy": "brass"}
WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=5)
DESCRIPTORS = st.fixed_dictionaries(
    {
        "name": WORDS,
        "requestor_env": WORDS,
        "requestor_prereq": st.dictionaries(WORDS, VALUES, max_size=4),
        "max_benchmark_score": st.integers(min_value=-(10**30), max_value=10**30) | st.floats(0, 1e300),
    },
    optional={
        **dict.fromkeys(("version", "description", "author", "license"), WORDS),
        "market_strategy": st.sampled_from(["brass", "WASM", "Brass", ""]),
    },
)


def read(document: dict[str, Any]) -> Descriptor:
    return parse(json.dumps(document), file="app.json")


def test_the_ids_are_those_of_the_contract() -> None:
    assert read(LEAST).app_id == "9436c93a8365c81cb8d95f71b14426e3"
    assert read(LEAST).aliases == ()
    assert read(FULL).app_id == "f59f330df46302938b71d06dd05066ad"
    assert read(FULL).aliases == ("b30ffa256bd90e0470064167e89eb894",)


def test_numbers_count_as_python_writes_them() -> None:
    text = json.dumps(LEAST)
    assert parse(text.replace("10000.0", "1e4"), file="f").app_id == read(LEAST).app_id
    integer = parse(text.replace("10000.0", "10000"), file="f")
    assert integer.aliases == (read(LEAST).app_id,)
    assert integer.app_id != read(LEAST).app_id
    assert parse(text.replace("10000.0", "9" * 400), file="f").aliases == ()


@given(
    DESCRIPTORS, st.randoms(use_true_random=False), st.dictionaries(WORDS.filter(lambda key: key not in KEYS), VALUES)
)
def test_only_what_the_keys_mean_makes_the_id(document: dict[str, Any], shuffle: Any, unknown: dict[str, Any]) -> None:
    items = [*document.items(), *unknown.items()]
    shuffle.shuffle(items)
    found = read(dict(items))
    assert found.app_id == read(document).app_id == read({**DEFAULTS, **document}).app_id == read(found.document).app_id
    assert len(found.ignored) == len(unknown)
    assert list(found.document) == list(KEYS)
    prereq = document["requestor_prereq"]
    backwards = read({**document, "requestor_prereq": dict(reversed(prereq.items()))})
    assert (backwards.app_id == found.app_id) == (len(prereq) < 2)


def test_unknown_keys_are_named_and_the_strategy_is_lower_cased() -> None:
    found = read({**LEAST, "x": 1, "\x1b[2J": 2, "market_strategy": "WASM"})
    assert found.ignored == ("x", r"'\x1b[2J'")
    assert found.market_strategy == "wasm"
    assert read({**LEAST, "market_strategy": ""}).market_strategy == "brass"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": None}, "`name`: Input should be a valid string"),
        ({"version": 1}, "`version`: Input should be a valid string"),
        ({"requestor_prereq": []}, "`requestor_prereq`: must be an object"),
        ({"max_benchmark_score": True}, "`max_benchmark_score`: must be a number"),
        ({"max_benchmark_score": "1"}, "`max_benchmark_score`: must be a number"),
        ({"market_strategy": None}, "`market_strategy`: Input should be 'brass' or 'wasm'"),
        ({"market_strategy": "gold"}, "`market_strategy`: Input should be 'brass' or 'wasm'"),
    ],
)
def test_a_bad_key_is_named_with_what_it_should_be(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadManifest) as caught:
        read({**LEAST, **change})
    assert caught.value.message == f"Error parsing app definition from file 'app.json'. {problem}."


@pytest.mark.parametrize("key", LEAST)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(BadManifest, match=f"^Error parsing app definition from file 'app.json'. `{key}`: is missing.$"):
        read({known: value for known, value in LEAST.items() if known != key})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "not a JSON object"),
        ("", "not valid JSON: .*line 1 column 1"),
        ("{'name': 1}", "not valid JSON"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"name": NaN}', "'NaN'"),
        ('{"name": -Infinity}', "'-Infinity'"),
        ('{"name": [1e999]}', "'1e999'"),
        ('{"requestor_prereq": {"a": 1, "b": 2, "a": 1}}', "key 'a' twice"),
        ('{"name": %s}' % ("9" * 5000), "integer of 5000 digits"),
        ('{"name": %s}' % ("[" * 101 + "]" * 101), "deeper than 100 levels"),
        ('{"name": ' * 200_000, "deeper than 100 levels"),
        (r'{"name": "\uD800"}', "lone surrogate"),
    ],
)
def test_what_is_no_strict_json_object_is_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(BadManifest, match=rf"^Error parsing app definition from file 'a/b\.json'\. .*{problem}"):
        parse(text, file="a/b.json")


def test_escaped_pairs_and_escaped_backslashes_are_no_lone_surrogates() -> None:
    text = json.dumps({**LEAST, "name": "\N{SNAKE}", "author": r"\ud800"})
    assert (parse(text, file="f").name, parse(text, file="f").author) == ("\N{SNAKE}", r"\ud800")


def test_a_file_name_holds_nothing_that_file_systems_refuse() -> None:
    assert read(FULL).file_name == "example_wordcount_1.2.3_f59f330df46302938b71d06dd05066ad.json"
    odd = read({**LEAST, "name": '../a\\b:c*?"<>|\n\0é', "version": "1/2"})
    assert odd.file_name == f".._a_b_c______{'_' * 2}é_1_2_{odd.app_id}.json"
    long = read({**LEAST, "name": "é" * 500})
    assert len(long.file_name.encode()) in {254, 255}
    assert long.file_name.endswith(f"é_{long.app_id}.json")
