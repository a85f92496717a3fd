"""The four generations of Aleph's program documents (contract, sections 2.1 and 3.4; checklist 1 and 2)."""

import hashlib
import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import BadManifest
from moorage.networks.aleph.messages.drafts import BadProgram, load
from moorage.networks.aleph.messages.program import Program, interface
from tests.contract.test_aleph_program import FULL, HASH, LEAST, NOTHING, OWNER, changed

EMITTER = "0xED9d5B040386F394B9ABd34fD59152756b126710"
SOURCE = "async def application(scope, receive, send):\n    await send({'output': 'hola!'})"
DIGEST = hashlib.sha256(SOURCE.encode()).hexdigest()
SUBSCRIPTION = {"type": "POST", "channel": "FOUNDATION", "content": {"type": "calculation"}}
SHARED: dict[str, Any] = {
    "environment": {"reproducible": True, "internet": False, "aleph_api": False},
    "resources": {"vcpus": 1, "memory": 128, "seconds": 1},
    "export": {"encoding": "tar.gzip", "mount": "/mnt"},
}
SEED_1: dict[str, Any] = {
    "type": "vm-function",
    "address": OWNER,
    "content": {
        **SHARED,
        "code": {"encoding": "plain", "entrypoint": "application", "content": SOURCE},
        "on": {"http": True, "cron": "5 4 * * *", "aleph": [SUBSCRIPTION]},
        "runtime": {
            "address": "0x4cB66fDf10971De5c7598072024FFd33482907a5",
            "comment": "Aleph Alpine Linux with Python 3.8",
        },
        "data": {"encoding": "tar.gzip", "mount": "/mnt", "address": EMITTER},
    },
    "time": 1618386753.856,
    "ref": "695d63ff4d5a1d1f2d0b10523bdb903d407b7270e9c7b5c37e956fe57d43b2e3",
}
SEED_2: dict[str, Any] = {
    "type": "vm-function",
    "address": OWNER,
    "content": {
        **SHARED,
        "code": {"encoding": "zip", "entrypoint": "application", "ref": HASH, "latest_amend": True},
        "on": {"http": True, "cron": "5 4 * * *", "aleph": [SUBSCRIPTION]},
        "runtime": {"ref": HASH, "latest_amend": True, "comment": "Aleph Alpine Linux with Python 3.8"},
        "data": {"encoding": "tar.gzip", "mount": "/mnt", "ref": HASH, "latest_amend": True},
    },
    "time": 1618386753.856,
}
ACCEPTED: dict[str, Any] = {
    **SHARED,
    "type": "vm-function",
    "address": OWNER,
    "allow_amend": False,
    "code": {"encoding": "zip", "entrypoint": "main:app", "ref": HASH, "use_latest": True},
    "on": {"http": True, "cron": "5 4 * * *", "message": [SUBSCRIPTION]},
    "runtime": {"ref": HASH, "comment": "Debian"},
    "data": {"encoding": "tar.gzip", "mount": "/mnt", "ref": HASH, "use_latest": True},
    "time": 1618386753.856,
}
HYBRID: dict[str, Any] = {
    **{key: ACCEPTED[key] for key in ("address", "time", "type", *SHARED)},
    "code": ACCEPTED["code"],
    "on": {"http": True, "cron": "5 4 * * *", "aleph": [SUBSCRIPTION]},
    "runtime": {"address": HASH, "comment": "Debian"},
    "data": {"encoding": "tar.gzip", "mount": "/mnt", "address": HASH, "latest_amend": True},
}


def draft(**code: Any) -> dict[str, Any]:
    """A nested document that says the same as ACCEPTED, in the words of the second draft."""
    return {
        **{key: ACCEPTED[key] for key in ("address", "time", "type")},
        "content": {
            **SHARED,
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": HASH, **code},
            "on": HYBRID["on"],
            "runtime": {"ref": HASH, "comment": "Debian"},
            "data": {"encoding": "tar.gzip", "mount": "/mnt", "ref": HASH},
        },
    }


def first_draft() -> dict[str, Any]:
    """The same in the words of the first draft, which had hashes nowhere."""
    document = draft()
    document["content"]["runtime"] = {"address": HASH, "comment": "Debian"}
    document["content"]["data"] = {"encoding": "tar.gzip", "mount": "/mnt", "address": HASH}
    document["content"]["code"] = {"encoding": "zip", "entrypoint": "main:app", "address": HASH}
    return document


def envelope(body: Any, kind: str = "PROGRAM", **other: Any) -> dict[str, Any]:
    return {"chain": "ETH", "sender": OWNER, "type": kind, "item_content": json.dumps(body), **other}


def plain(program: Program) -> Program:
    return replace(program, generation="accepted", inline=False)


def refusal(document: Any) -> list[str]:
    with pytest.raises(BadProgram) as caught:
        load(document)
    assert caught.value.status == 422
    return [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("document", "generation"),
    [
        (ACCEPTED, "accepted"),
        (envelope(ACCEPTED), "accepted"),
        (HYBRID, "hybrid"),
        (envelope(HYBRID), "hybrid"),
        (draft(), "draft-2"),
        (draft(latest_amend=True), "draft-2"),
        (envelope(draft(), "POST"), "draft-2"),
        (first_draft(), "draft-1"),
    ],
)
def test_every_generation_gives_the_same_program(document: Any, generation: str) -> None:
    loaded = load(document)
    assert loaded.generation == loaded.program.generation == generation
    assert plain(loaded.program) == load(ACCEPTED).program
    assert loaded.warnings == ()


def test_the_seeds_first_proposal_is_read() -> None:
    loaded = load(json.dumps(SEED_1))
    program = loaded.program
    assert loaded.generation == "draft-1"
    assert loaded.inline_code
    assert (loaded.inline_code.content, loaded.inline_code.sha256) == (SOURCE, DIGEST)
    assert (program.code.ref, program.code.encoding, program.code.entrypoint) == (DIGEST, "plain", "application")
    assert interface(program) == "asgi"
    assert program.on.message == (SUBSCRIPTION,)
    assert program.on.cron == "5 4 * * *"
    assert program.runtime.ref == "0x4cB66fDf10971De5c7598072024FFd33482907a5"
    assert program.data
    assert (program.data.ref, program.data.use_latest) == (EMITTER, True)
    assert program.metadata == {"ref": SEED_1["ref"]}
    assert program.replaces is None
    assert program.allow_amend is False


def test_the_seeds_second_proposal_is_read() -> None:
    loaded = load(json.dumps(SEED_2).encode())
    assert loaded.generation == "draft-2"
    assert loaded.inline_code is None
    assert loaded.program.code.ref == HASH
    assert interface(loaded.program) is None  # a file of the archive or an attribute of a module
    assert loaded.program.metadata == {}


def test_an_emitters_address_is_kept_to_be_resolved_later() -> None:
    program = load(changed(first_draft(), ("content", "code", "address"), EMITTER)).program
    assert program.code.ref == EMITTER


@pytest.mark.parametrize(
    ("document", "code", "data", "runtime"),
    [
        (ACCEPTED, False, False, True),
        (HYBRID, False, False, True),
        (draft(), True, True, True),
        (first_draft(), True, True, True),
    ],
)
def test_each_generation_follows_updates_by_its_own_default(
    document: Any, code: bool, data: bool, runtime: bool
) -> None:
    document = deepcopy(document)
    content = document.get("content", document)
    for key in ("code", "data"):
        content[key].pop("use_latest", None)
        content[key].pop("latest_amend", None)
    program = load(document).program
    assert program.data
    assert (program.code.use_latest, program.data.use_latest, program.runtime.use_latest) == (code, data, runtime)


def test_drafts_may_refuse_updates_too() -> None:
    document = draft(latest_amend=False)
    document["content"]["runtime"]["latest_amend"] = False
    program = load(document).program
    assert (program.code.use_latest, program.runtime.use_latest) == (False, False)


@pytest.mark.parametrize("absent", [NOTHING, None])
@pytest.mark.parametrize("key", [*SHARED, "data"])
def test_drafts_may_leave_out_what_has_defaults(key: str, absent: Any) -> None:
    left = load(changed(draft(), ("content", key), absent)).program
    assert getattr(left, key) == getattr(load({**LEAST, "data": None}).program, key)


def test_older_forms_need_neither_a_comment_nor_a_word_on_amends() -> None:
    hybrid = changed(HYBRID, ("runtime", "comment"), NOTHING)
    del hybrid["type"]
    assert load(hybrid).program.runtime.comment == ""
    assert load(changed(draft(), ("content", "runtime", "comment"), NOTHING)).program.allow_amend is False
    assert refusal(changed(ACCEPTED, ("runtime", "comment"), NOTHING)) == ["runtime.comment"]
    assert refusal(changed(ACCEPTED, ("allow_amend",), NOTHING)) == ["allow_amend"]


# Which generation it is


@pytest.mark.parametrize(
    ("document", "generation"),
    [
        (envelope(LEAST), "accepted"),
        (envelope(None, item_content=None, content=LEAST), "accepted"),
        ({"content": LEAST}, "accepted"),
        (envelope(LEAST, "POST"), "accepted"),  # `code` at the top of the content counts first
        (changed(LEAST, ("type",), NOTHING) | {"on": {"http": True, "aleph": []}}, "hybrid"),
        (changed(LEAST, ("code", "latest_amend"), False), "hybrid"),
        (changed(LEAST, ("data",), {"encoding": "zip", "mount": "/d", "address": EMITTER}), "hybrid"),
        (changed(LEAST, ("runtime",), {"address": EMITTER}), "hybrid"),
        (changed(LEAST, ("code",), {"encoding": "plain", "entrypoint": "a", "content": ""}), "hybrid"),
        (SEED_1, "draft-1"),
        (changed(SEED_2, ("content", "code"), {"entrypoint": "a", "content": SOURCE}), "draft-1"),
        (changed(SEED_2, ("content", "runtime"), {"address": EMITTER}), "draft-1"),
        (SEED_2, "draft-2"),
        (changed(SEED_2, ("content", "data"), {"encoding": "zip", "mount": "/d", "address": EMITTER}), "draft-2"),
        (envelope(SEED_1, "POST"), "draft-2"),
    ],
)
def test_the_first_rule_that_matches_tells_the_generation(document: Any, generation: str) -> None:
    assert load(document).generation == generation


@pytest.mark.parametrize(
    ("document", "path", "said"),
    [
        ({}, "type", "Unsupported message: expected PROGRAM or vm-function, but it has no type."),
        ({"type": "STORE", "content": {}}, "type", "expected PROGRAM or vm-function, not 'STORE'."),
        ({"type": ["x"], "content": {}}, "type", "but its type is no text."),
        (envelope(LEAST, "INSTANCE"), "type", "not 'INSTANCE'. An INSTANCE is stored, but never run."),
        ({"type": "V-PROGRAM"}, "type", "not 'V-PROGRAM'. V-PROGRAM is not supported."),
        (envelope({"type": "blog", "content": {}}, "POST"), "content.type", "not 'blog'."),
        (envelope({"type": "vm-function"}, "POST"), "content.type", "It needs `code`"),
        ({"type": "vm-function", "content": {}}, "type", "It needs `code`"),
        ({"type": "vm-function"}, "type", "It needs `code`"),
        ([], "", "must be a JSON object."),
        (None, "", "must be a JSON object."),
        ({"type": "PROGRAM"}, "content", "is missing. Fetch the file that `item_hash` names"),
        ({"type": "PROGRAM", "content": []}, "content", "must be an object."),
        ({"type": "PROGRAM", "item_content": 5}, "item_content", "must be a string with JSON."),
        ({"type": "PROGRAM", "item_content": "{"}, "item_content", "is not valid JSON: EOF while"),
        ('{\n"type": "a" | "b"}', "", "is not valid JSON: expected `,` or `}` at line 2 column 13."),
        ('{"mount": "/mnt",\n}', "", "is not valid JSON: trailing comma at line 2 column 1."),
        (b"\xff", "", "is not valid JSON"),
        ('{"a": NaN}', "", "is not valid JSON"),
        ("[" * 100_000, "", "is not valid JSON"),
    ],
)
def test_what_is_no_program_is_refused(document: Any, path: str, said: str) -> None:
    with pytest.raises(BadManifest) as caught:
        load(document)
    assert isinstance(caught.value, BadProgram)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert said in caught.value.message


def test_item_content_is_the_truth() -> None:
    signed = changed(LEAST, ("resources", "vcpus"), 2)
    assert load(envelope(signed, content=LEAST)).program.resources.vcpus == 2
    assert load(envelope(signed, content="edited by hand")).program.resources.vcpus == 2


# Problems are told where they are in the document as written


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (changed(LEAST, ("on", "cron"), "x"), ["on.cron"]),
        (envelope(changed(LEAST, ("on", "cron"), "x")), ["content.on.cron"]),
        (changed(SEED_1, ("content", "on", "cron"), "x"), ["content.on.cron"]),
        (envelope(changed(SEED_2, ("content", "on", "cron"), "x"), "POST"), ["content.content.on.cron"]),
        (changed(SEED_1, ("content", "on", "aleph"), [1]), ["content.on.aleph[0]"]),
        (changed(HYBRID, ("on", "aleph"), {}), ["on.aleph"]),
        (changed(HYBRID, ("on", "message"), []), ["on.aleph"]),  # both spellings
        (changed(SEED_1, ("content", "data", "address"), "x"), ["content.data.address"]),
        (changed(SEED_2, ("content", "data", "latest_amend"), "x"), ["content.data.latest_amend"]),
        (changed(SEED_2, ("content", "code", "ref"), NOTHING), ["content.code.ref"]),
        (changed(SEED_1, ("content", "code", "content"), 5), ["content.code.content"]),
        (changed(SEED_1, ("content", "code", "content"), "\ud800"), ["content.code.content"]),
        (changed(SEED_1, ("address",), NOTHING), ["address"]),
        (changed(SEED_1, ("time",), -1), ["time"]),
        (envelope(changed(SEED_1, ("time",), None), "POST"), ["content.time"]),
        (changed(SEED_1, ("tiem",), 1), ["tiem"]),
        (changed(SEED_1, ("content", "volumes"), [{}]), ["content.volumes[0]"]),
        (changed(SEED_1, ("content", "vollumes"), []), ["content.vollumes"]),
        (changed(SEED_1, ("content", "on"), NOTHING), ["content.on"]),
        (changed(SEED_1, ("content", "code"), []), ["content.code"]),
        (changed(HYBRID, ("data", "latest_amend"), 7), ["data.latest_amend"]),
        (changed(ACCEPTED, ("code", "ref"), EMITTER), ["code.ref"]),  # an address is for the older forms
    ],
)
def test_paths_are_those_of_the_document_as_written(document: Any, expected: list[str]) -> None:
    assert refusal(document) == expected


def test_problems_inside_and_around_a_draft_are_reported_at_once() -> None:
    document = changed(changed(SEED_1, ("tiem",), 1), ("content", "resources", "vcpus"), 0)
    del document["time"]
    document["content"]["code"]["content"] = None
    assert sorted(refusal(document)) == ["content.code.content", "content.resources.vcpus", "tiem", "time"]


def test_what_is_said_in_vain_is_warned_of_where_it_is() -> None:
    document = changed(SEED_1, ("content", "code", "encoding"), "zip")
    document["content"]["runtime"]["extra"] = 1
    loaded = load(document)
    assert [warning.path for warning in loaded.warnings] == ["content.code.encoding", "content.runtime.extra"]
    assert loaded.program.code.encoding == "plain"


def test_of_two_spellings_the_accepted_one_counts() -> None:
    document = changed(changed(ACCEPTED, ("runtime", "address"), EMITTER), ("code", "content"), SOURCE)
    loaded = load(document)
    assert loaded.program.runtime.ref == HASH
    assert loaded.inline_code is None
    assert [warning.path for warning in loaded.warnings] == ["code.content", "runtime.address"]


def test_a_document_is_not_changed_by_being_read() -> None:
    for document in (SEED_1, SEED_2, HYBRID, ACCEPTED, FULL):
        before = json.dumps(document)
        load(document)
        assert json.dumps(document) == before


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([SEED_1, SEED_2, HYBRID, ACCEPTED, envelope(SEED_2, "POST")]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    st.data(),
)
def test_no_document_does_worse_than_to_be_refused(document: dict[str, Any], value: Any, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(document)))
    inner = document[key] if isinstance(document[key], dict) else {}
    place = (key, data.draw(st.sampled_from(sorted(inner)))) if inner and data.draw(st.booleans()) else (key,)
    try:
        outcome: Any = load(changed(document, place, value))
    except BadProgram as error:
        outcome = error.problems
    assert outcome
