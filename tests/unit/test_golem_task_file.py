"""Task files (contract, sections 3.2, 3.5 and 5; item 3 of its acceptance checklist)."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import BadTaskFile
from moorage.networks.golem.task_file import is_task, parse

GOLEM = {
    "app_id": "9436c93a8365c81cb8d95f71b14426e3",
    "name": "demo",
    "resources": ["/abs/in.txt"],
    "max_price_per_hour": "1_000_000_000_000_000_000",
    "max_subtasks": 4,
    "task_timeout": 600,
    "subtask_timeout": 120,
    "output_directory": "/abs/out",
}
APP = {"anything": "the app wants", "resources": ["in.txt"]}
WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=10)


def task(app: Mapping[str, Any] = APP, **golem: Any) -> dict[str, Any]:
    return {"golem": {**GOLEM, **golem}, "app": app}


def refusal(document: Any) -> str:
    with pytest.raises(BadTaskFile) as caught:
        parse(document, file="task.json")
    assert caught.value.code == "bad_task_file"
    return caught.value.message


@pytest.mark.parametrize("write", [dict, json.dumps, lambda document: json.dumps(document).encode()])
def test_the_sample_of_the_contract_is_taken_as_an_object_and_as_text(write: Any) -> None:
    found = parse(write(task()), file="task.json")
    assert found.app_id == GOLEM["app_id"]
    assert (found.name, found.resources, found.output_directory) == ("demo", ("/abs/in.txt",), "/abs/out")
    assert (found.max_price_per_hour, found.max_subtasks, found.redundancy) == (10**18, 4, 1)
    assert (found.task_timeout, found.subtask_timeout) == (600, 120)
    assert found.parameters == '{"anything": "the app wants", "resources": ["in.txt"]}'
    assert found.inputs == {"in.txt": "/abs/in.txt"}
    assert found.warnings == ()


def test_numbers_may_be_integers_or_decimal_digits() -> None:
    found = parse(task(max_price_per_hour=0, max_subtasks="4", task_timeout="600", subtask_timeout="007"), file="f")
    assert (found.max_price_per_hour, found.max_subtasks) == (0, 4)
    assert (found.task_timeout, found.subtask_timeout) == (600, 7)


def test_a_task_may_have_no_name_no_resources_no_directory_and_many_copies() -> None:
    found = parse(task(name="", resources=[], output_directory=None, redundancy=9), file="f")
    assert (found.name, found.resources, found.output_directory, found.redundancy) == ("", (), None, 9)


@given(st.dictionaries(WORDS, VALUES))
def test_what_the_app_is_told_stays_as_it_is(app: dict[str, Any]) -> None:
    found = parse(json.dumps(task(app), ensure_ascii=False), file="f")
    assert found.parameters == json.dumps(app)
    assert found.parameters.isascii()
    assert parse(found.document, file="f") == found


def test_types_and_order_of_what_the_app_is_told_stay() -> None:
    app = r'{"z": "1", "a": 1, "m": [1.0, -0.0, 1e-07, true, null, 100000000000000000000000000000], "\u017c": {}}'
    assert parse(f'{{"golem": {json.dumps(GOLEM)}, "app": {app}}}', file="f").parameters == app


@pytest.mark.parametrize("key", GOLEM)
def test_a_missing_key_is_named(key: str) -> None:
    document = task()
    del document["golem"][key]
    assert refusal(document) == f"Missing key in golem block: {key} (task.json: `golem.{key}`)."


@pytest.mark.parametrize(
    ("golem", "place", "rule"),
    [
        ({"app_id": "x" * 32}, "app_id", "32 lower-case hexadecimal digits"),
        ({"app_id": "a" * 31}, "app_id", "32 lower-case hexadecimal digits"),
        ({"app_id": "a" * 32 + "\n"}, "app_id", "32 lower-case hexadecimal digits"),
        ({"name": 1}, "name", "valid string"),
        ({"resources": "/abs/in.txt"}, "resources", "a list"),
        ({"resources": ["/ok", 1]}, "resources[1]", "valid string"),
        ({"resources": ["in.txt"]}, "resources[0]", "absolute path"),
        ({"resources": ["/a\0/b"]}, "resources[0]", "absolute path"),
        ({"resources": ["/"]}, "resources[0]", "name"),
        ({"resources": ["/a/.."]}, "resources[0]", "name"),
        ({"resources": ["/a/\n"]}, "resources[0]", "name"),
        ({"resources": ["/a/" + "x" * 256]}, "resources[0]", "255 bytes"),
        ({"max_price_per_hour": -1}, "max_price_per_hour", "greater than or equal to 0"),
        ({"max_price_per_hour": "-1"}, "max_price_per_hour", "whole number"),
        ({"max_price_per_hour": "1__0"}, "max_price_per_hour", "whole number"),
        ({"max_price_per_hour": "_1"}, "max_price_per_hour", "whole number"),
        ({"max_price_per_hour": "1.5"}, "max_price_per_hour", "whole number"),
        ({"max_price_per_hour": "٣"}, "max_price_per_hour", "whole number"),
        ({"max_price_per_hour": "9" * 5000}, "max_price_per_hour", "whole number"),
        ({"max_price_per_hour": 2**256}, "max_price_per_hour", "less than or equal"),
        ({"max_price_per_hour": 1e18}, "max_price_per_hour", "valid integer"),
        ({"max_subtasks": True}, "max_subtasks", "valid integer"),
        ({"max_subtasks": 0}, "max_subtasks", "greater than or equal to 1"),
        ({"max_subtasks": 2**31}, "max_subtasks", "2147483647"),
        ({"max_subtasks": ""}, "max_subtasks", "whole number"),
        ({"task_timeout": 0}, "task_timeout", "greater than or equal to 1"),
        ({"task_timeout": None}, "task_timeout", "valid integer"),
        ({"subtask_timeout": "0"}, "subtask_timeout", "greater than or equal to 1"),
        ({"subtask_timeout": 1.5}, "subtask_timeout", "valid integer"),
        ({"output_directory": "out"}, "output_directory", "absolute path"),
        ({"output_directory": ""}, "output_directory", "absolute path"),
        ({"redundancy": 0}, "redundancy", "greater than or equal to 1"),
        ({"redundancy": 10}, "redundancy", "less than or equal to 9"),
    ],
)
def test_a_bad_value_is_named_with_what_it_should_be(golem: dict[str, Any], place: str, rule: str) -> None:
    message = refusal(task(**golem))
    assert re.fullmatch(rf"[A-Z].*{rule}.* \(task\.json: `golem\.{re.escape(place)}`\)\.", message)


@pytest.mark.parametrize("other", ["/b/in.txt", "/b/in.txt/", "/abs/./in.txt"])
def test_two_resources_cannot_have_one_name(other: str) -> None:
    message = refusal(task(resources=["/abs/in.txt", "/x", other]))
    assert message == "Duplicate resource name: in.txt (task.json: `golem.resources`)."


def test_all_problems_are_told_at_once() -> None:
    lines = refusal({"golem": {**GOLEM, "max_subtasks": 0, "name": None}}).splitlines()
    assert [line.partition("(")[2] for line in lines] == [
        "task.json: `golem.name`).",
        "task.json: `golem.max_subtasks`).",
        "task.json: `app`).",
    ]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{}", "Must be an object (task.json: `golem`)."),
        ({"golem": [], "app": {}}, "Must be an object (task.json: `golem`)."),
        ({"golem": GOLEM}, "Missing key: app (task.json: `app`)."),
        ({"golem": GOLEM, "app": []}, "Must be an object (task.json: `app`)."),
        ("[1]", "task.json: it is not a JSON object."),
        (task({"x": float("nan")}), "task.json: it holds 'NaN', which is no finite number."),
        (task({"x": json.loads("[" * 200 + "]" * 200)}), "task.json: it is nested deeper than 100 levels."),
        (
            '{"golem": {"name": "", "name": ""}}',
            "task.json: it has the key 'name' twice in one object; leave one of them out.",
        ),
    ],
)
def test_what_is_no_task_file_is_refused(document: Any, message: str) -> None:
    assert refusal(document) == message


def test_unknown_keys_are_warned_of_with_the_nearest_known_one() -> None:
    document = task(max_subtask=1, warnings=[])
    document["golem"]["app"] = {}
    found = parse(document, file="task.json")
    first, *_ = found.warnings
    assert first.startswith("task.json: unknown key `golem.max_subtask`; did you mean `max_subtasks`?")
    assert len(found.warnings) == 3
    assert found.app == APP
    many = parse(task(**{"x" * 10_000 + str(number): 0 for number in range(50)}), file="task.json")
    assert len(many.warnings) == 20


def test_concent_is_off_and_a_warning_says_so() -> None:
    assert parse(task(concent_enabled=False), file="f").warnings == ()
    (warning,) = parse(task(concent_enabled=True), file="f").warnings
    assert "`golem.concent_enabled` is treated as false" in warning


@pytest.mark.parametrize(
    ("document", "verdict"),
    [({"golem": {}, "app": {}}, True), ({"golem": None, "app": None, "x": 1}, True), ({"golem": {}}, False),
     ({"app": {}}, False), (["golem", "app"], False), ("golem app", False)],
)  # fmt: skip
def test_a_task_file_has_both_blocks(document: Any, verdict: bool) -> None:
    assert is_task(document) is verdict


def test_large_files_pass() -> None:
    """Item 29."""
    resources = [f"/inputs/{number}" for number in range(10_000)]
    found = parse(task({"text": "x" * (16 << 20)}, resources=resources), file="f")
    assert len(found.parameters) > 16 << 20
    assert len(found.inputs) == 10_000
