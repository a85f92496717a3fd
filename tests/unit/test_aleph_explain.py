"""What is said of an Aleph message without a node (contract, sections 2.1, 2.2 and 5)."""

import hashlib
import json
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.networks.aleph import duties
from moorage.networks.aleph.config import DEFAULT_RUNTIME
from moorage.networks.aleph.explain import Explanation, explain
from moorage.networks.aleph.fields import Field
from moorage.networks.aleph.messages import contents
from moorage.networks.aleph.messages.envelope import KEYS
from moorage.networks.aleph.messages.signatures import address_of, sign_evm, signed_bytes
from tests.contract.test_aleph_drafts import ACCEPTED, HYBRID, SEED_1, SEED_2
from tests.contract.test_aleph_program import FULL, HASH

KEY = bytes(range(1, 33))
OWNER = address_of(KEY)
OWN = {"address": OWNER, "time": 1}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "aleph-messages.md"
CONTENTS: dict[str, dict[str, Any]] = {
    "POST": {**OWN, "type": "note", "content": {"any": ["thing"]}},
    "AGGREGATE": {**OWN, "key": "profile", "content": {}},
    "STORE": {**OWN, "item_type": "storage", "item_hash": HASH},
    "FORGET": {**OWN, "hashes": [HASH]},
    "INSTANCE": {
        **OWN, "allow_amend": True, "environment": {}, "resources": {},
        "rootfs": {"parent": {"ref": HASH}, "persistence": "host", "size_mib": 5},
    },
}  # fmt: skip


def signed(kind: str, content: Any, *, chain: str = "ETH", **other: Any) -> dict[str, Any]:
    text = json.dumps(content)
    item_hash = hashlib.sha256(text.encode()).hexdigest()
    covered = signed_bytes(chain=chain, sender=OWNER, message_type=kind, item_hash=item_hash)
    return {
        "chain": chain, "sender": OWNER, "type": kind, "channel": None, "signature": sign_evm(KEY, covered),
        "time": 1.5, "item_type": "inline", "item_content": text, "item_hash": item_hash, **other,
    }  # fmt: skip


def of(document: Any) -> Explanation:
    return explain(json.dumps(document))


def by_name(explanation: Explanation) -> dict[str, Field]:
    return {field.name: field for field in explanation.fields if field.place[0] not in {"chain", "sender"}}


def paths(problems: Any) -> list[str]:
    return [problem.path for problem in problems]


def owned(document: dict[str, Any]) -> dict[str, Any]:
    return {**deepcopy(document), **OWN}


@pytest.mark.parametrize(
    ("document", "generation", "sign"),
    [
        (ACCEPTED, "accepted", "`code` is not nested"),
        (HYBRID, "hybrid", "`on.aleph`"),
        (SEED_2, "draft-2", "no sign of the first draft"),
        (SEED_1, "draft-1", "`content.code.content`"),
        (signed("PROGRAM", owned(ACCEPTED)), "accepted", "PROGRAM"),
        (signed("PROGRAM", owned(HYBRID)), "hybrid", "`content.on.aleph`"),
        (signed("POST", owned({"type": "vm-function", "content": SEED_2["content"]})), "draft-2", "POST"),
    ],
)
def test_the_generation_is_told_and_by_what(document: Any, generation: str, sign: str) -> None:
    explanation = of(document)
    assert explanation.problems == ()
    assert explanation.generation == generation
    assert sign in (explanation.told_by or "")


def test_a_field_that_is_given_stands_where_it_was_written() -> None:
    field = by_name(of(signed("PROGRAM", owned(FULL))))["resources.memory"]
    assert (field.path, field.value, field.origin) == ("content.resources.memory", 256, "given")
    assert field.meaning == "At most 256 MiB; beyond that it is killed and the caller gets 502."


@pytest.mark.parametrize(("document", "value"), [(ACCEPTED, False), (SEED_2, True)])
def test_a_default_is_that_of_the_generation(document: dict[str, Any], value: bool) -> None:
    document = deepcopy(document)
    code = document.get("content", document)["code"]
    code.pop("use_latest", None), code.pop("latest_amend", None)
    field = by_name(of(document))["code.use_latest"]
    assert (field.value, field.origin) == (value, "default")


def test_an_explicit_null_is_the_default() -> None:
    document = {**ACCEPTED, "resources": {"memory": None}}
    field = by_name(of(document))["resources.memory"]
    assert (field.value, field.origin) == (128, "default")


def test_what_the_drafts_spelt_otherwise_is_told_under_both_names() -> None:
    field = by_name(of(HYBRID))["on.message"]
    assert (field.path, field.origin) == ("on.aleph", "renamed")
    nested = by_name(of(SEED_2))["code.use_latest"]
    assert (nested.path, nested.origin) == ("content.code.latest_amend", "renamed")


def test_what_was_nested_is_told_as_hoisted_and_its_frame_as_given() -> None:
    found = by_name(of(SEED_2))
    assert (found["resources.memory"].path, found["resources.memory"].origin) == ("content.resources.memory", "hoisted")
    assert (found["address"].path, found["address"].origin) == ("address", "given")


def test_the_reference_of_inline_code_is_computed() -> None:
    field = by_name(of(SEED_1))["code.ref"]
    source = SEED_1["content"]["code"]["content"]
    assert (field.path, field.origin) == ("content.code.content", "computed")
    assert field.value == hashlib.sha256(source.encode()).hexdigest()


def test_the_outer_ref_of_a_draft_is_where_its_metadata_came_from() -> None:
    field = by_name(of(SEED_1))["metadata"]
    assert (field.path, field.value, field.origin) == ("ref", {"ref": SEED_1["ref"]}, "renamed")


EMPTY = {**ACCEPTED, "time": 0, "requirements": {"cpu": {}, "node": {}}, "payment": {"type": "hold"}, "volumes": []}


@pytest.mark.parametrize("document", [FULL, EMPTY, ACCEPTED, HYBRID, SEED_1, SEED_2])
def test_each_field_has_a_meaning_and_is_json(document: dict[str, Any]) -> None:
    explanation = of(document)
    assert all(field.meaning.endswith(".") for field in explanation.fields)
    assert "{value}" not in json.dumps(explanation.document)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("volumes[0].mount", {"volumes": [{"size_mib": 5}]}, "/mnt/unamed_volume_0"),
        ("volumes[0].mount", {"volumes": [{"size_mib": 5, "name": "a b"}]}, "/mnt/a_b"),
        ("code.encoding", {}, "`/opt`"),
        ("code.entrypoint", {}, "ASGI 3"),
        ("on.cron", {"metadata": {"cron_path": "tick"}}, "GET /tick"),
        ("on.http", {"on": {"http": False}}, "403"),
        ("time", {"time": 0}, "Unix seconds"),
        ("requirements.cpu.features", {"requirements": {"cpu": {}}}, "nothing follows"),
        ("environment.internet", {}, "nothing outside"),
    ],
)
def test_what_a_field_does_is_said_for_this_program(key: str, change: dict[str, Any], words: str) -> None:
    assert words in by_name(of({**ACCEPTED, **change}))[key].meaning


# Hash and signature


def test_a_hash_and_signature_that_hold_are_told_to() -> None:
    explanation = of(signed("PROGRAM", owned(ACCEPTED)))
    assert (explanation.hash.verdict, explanation.signature.verdict) == ("holds", "holds")
    assert OWNER in explanation.signature.message


def test_a_content_that_was_changed_does_not_have_its_hash() -> None:
    message = signed("POST", CONTENTS["POST"])
    explanation = of({**message, "item_content": message["item_content"] + " "})
    assert (explanation.hash.verdict, explanation.signature.verdict) == ("fails", "holds")
    assert paths(explanation.problems) == ["item_hash"]


@pytest.mark.parametrize(
    ("change", "path"), [({"sender": "0x" + "0" * 40}, "signature"), ({"sender": "alice"}, "sender")]
)
def test_a_signature_of_another_is_a_problem(change: dict[str, str], path: str) -> None:
    explanation = of({**signed("POST", CONTENTS["POST"]), **change})
    assert explanation.signature.verdict == "fails"
    assert paths(explanation.problems) == [path]


def test_a_chain_without_verifier_is_never_told_as_valid() -> None:
    explanation = of(signed("POST", CONTENTS["POST"], chain="TEZOS"))
    assert explanation.signature.verdict == "unknown"
    assert paths(explanation.warnings) == ["signature"]


def test_the_hash_of_a_content_in_a_file_of_its_own_is_not_told_to_hold() -> None:
    message = signed("POST", CONTENTS["POST"], item_type="storage", item_content=None)
    assert of({**message, "content": CONTENTS["POST"]}).hash.verdict == "unknown"
    assert paths(of(message).problems) == ["content"]


def test_a_bare_document_is_unsigned_and_named_by_its_bytes() -> None:
    text = json.dumps(ACCEPTED, indent=1)
    explanation = explain(text)
    assert explanation.item_hash == hashlib.sha256(text.encode()).hexdigest()
    assert explanation.signature.verdict == "absent"
    assert "unsigned" in [warning.type for warning in explanation.warnings]


# Warnings


def test_a_content_that_differs_from_item_content_is_ignored_with_a_warning() -> None:
    program = owned(ACCEPTED)
    message = signed("PROGRAM", program)
    explanation = of({**message, "content": {**program, "resources": {"memory": 999}}})
    assert by_name(explanation)["resources.memory"].value == 128
    assert "content" in paths(explanation.warnings)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({}, "runtime.ref"),
        ({"runtime": {"ref": DEFAULT_RUNTIME, "comment": "", "coment": ""}}, "runtime.coment"),
        ({"environment": {"reproducible": True, "internet": True}}, "environment.reproducible"),
        ({"environment": {"hypervisor": "qemu"}}, "environment.hypervisor"),
    ],
)
def test_what_is_in_vain_or_not_as_it_seems_is_warned_of(change: dict[str, Any], path: str) -> None:
    explanation = of({**ACCEPTED, **change})
    assert explanation.problems == ()
    assert path in paths(explanation.warnings)


def test_the_default_runtime_is_not_warned_of() -> None:
    explanation = of(signed("PROGRAM", owned({**ACCEPTED, "runtime": {"ref": DEFAULT_RUNTIME, "comment": ""}})))
    assert explanation.warnings == ()


def test_a_sender_who_is_not_the_owner_is_warned_of() -> None:
    explanation = of(signed("POST", {**CONTENTS["POST"], "address": "0xabc"}))
    assert paths(explanation.warnings) == ["sender"]


# The other types


@pytest.mark.parametrize("kind", CONTENTS)
def test_every_other_type_is_explained_field_by_field(kind: str) -> None:
    explanation = of(signed(kind, CONTENTS[kind]))
    assert (explanation.kind, explanation.generation, explanation.problems) == (kind, None, ())
    assert by_name(explanation).keys() >= {"address", "time"}
    assert all(field.meaning for field in explanation.fields)


def test_an_instance_is_told_never_to_run() -> None:
    assert [warning.type for warning in of(signed("INSTANCE", CONTENTS["INSTANCE"])).warnings] == ["never_run"]


@pytest.mark.parametrize(
    ("kind", "content", "code"),
    [
        ("POST", {**OWN, "type": "amend"}, 100),
        ("STORE", {**CONTENTS["STORE"], "payment": {"type": "superfluid"}}, 202),
        ("FORGET", OWN, 500),
    ],
)
def test_what_no_other_message_could_put_right_is_a_problem(kind: str, content: Any, code: int) -> None:
    (problem,) = of(signed(kind, content)).problems
    assert f"code {code}" in problem.rule


# What is wrong


def test_json_that_does_not_parse_is_told_with_line_and_column() -> None:
    (problem,) = explain('{"type": "vm-function",\n "code": "a" | "b"}').problems
    assert "line 2 column 14" in problem.rule


def test_all_that_is_wrong_is_told_at_once_with_path_and_fix() -> None:
    message = signed("PROGRAM", owned({**ACCEPTED, "on": {"htp": True}, "resources": {"memory": 0}}), sgnature="")
    explanation = of({key: value for key, value in message.items() if key != "signature"})
    found = {problem.path: problem.fix for problem in explanation.problems}
    assert found.keys() == {"signature", "sgnature", "content.on.http", "content.on.htp", "content.resources.memory"}
    assert "`signature`" in (found["sgnature"] or "")
    assert "`http`" in (found["content.on.htp"] or "")


def test_the_generation_of_a_program_that_is_wrong_is_told_too() -> None:
    document = deepcopy(SEED_1)
    document["content"]["resources"]["memory"] = "much"
    explanation = of(document)
    assert explanation.generation == "draft-1"
    assert paths(explanation.problems) == ["content.resources.memory"]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""),
        ({}, "type"),
        ({"type": "vm-function"}, "type"),
        ({"type": "V-PROGRAM", "item_hash": HASH}, "type"),
        (signed("PROGRAM", []), "item_content"),
        (signed("POST", CONTENTS["POST"], item_content="{"), "item_content"),
        (signed("POST", {**CONTENTS["POST"], "content": "\ud800"}), "item_content"),
        (signed("PROGRAM", owned({**ACCEPTED, "onn": {}})), "content.onn"),
    ],
)
def test_what_is_no_message_is_told_so(document: Any, path: str) -> None:
    assert path in paths(of(document).problems)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS_OF_ALL = st.sampled_from([*sorted(KEYS), "code", "on", "runtime", "data", "address", "environment", "volumes"])


@given(st.sampled_from([ACCEPTED, HYBRID, SEED_1, SEED_2, signed("PROGRAM", FULL)]), KEYS_OF_ALL, JSON)
def test_no_document_is_too_odd_to_be_explained(document: dict[str, Any], key: str, value: Any) -> None:
    for odd in ({**document, key: value}, {**document, "content": {**(document.get("content") or {}), key: value}}):
        explanation = of(odd)
        assert explanation.problems or explanation.fields
        json.dumps(explanation.document)


@given(st.binary() | st.text())
def test_no_text_is_too_odd_to_be_explained(text: str | bytes) -> None:
    assert explain(text).problems


# Completeness


def _keys(shape: type, prefix: str = "") -> list[str]:
    return [f"{prefix}{field.name}" for field in fields(shape)] if is_dataclass(shape) else []


@pytest.mark.parametrize("kind", ["Post", "Aggregate", "Store", "Forget", "Instance"])
def test_there_is_a_sentence_for_every_field_of_the_other_types(kind: str) -> None:
    nested = {"payment", "rootfs"}
    said = duties.OTHERS[kind.upper()].keys()
    assert set(_keys(getattr(contents, kind))) - nested <= said


def test_the_reference_names_every_key_of_an_envelope() -> None:
    page = PAGE.read_text()
    assert [key for key in sorted(KEYS) if f"`{key}`" not in page] == []
