"""Aleph's accepted program documents, rule by rule (contract, sections 2.4, 2.5, 2.10 and 3.5)."""

from copy import deepcopy
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from aleph_message.models.execution.program import ProgramContent
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moorage.networks.aleph.messages.program import (
    EphemeralVolume,
    ImmutableVolume,
    PersistentVolume,
    Program,
    Resources,
    command,
    cron_path,
    data_mounts,
    interface,
    interface_of_plain,
    volume_mounts,
)
from moorage.networks.aleph.messages.schema import Place, Reading, read

HASH = "c5e40cd89103d3c57327a514f465b83cd193d1331f307bc5a4c38bfec36ab37d"
CID = "QmWfVY9y3xjsixTgbd9AorQxH7VtMpzfx2HaWtsoUYecaX"
OWNER = "0x99eC8dc3831F67359a18420449fb028D5dCAa60f"
NOTHING: Any = object()

LEAST: dict[str, Any] = {
    "address": OWNER,
    "time": 1618386753.856,
    "type": "vm-function",
    "allow_amend": False,
    "code": {"encoding": "zip", "entrypoint": "main:app", "ref": HASH},
    "on": {"http": True},
    "environment": {},
    "resources": {},
    "runtime": {"ref": HASH, "comment": ""},
}
FULL: dict[str, Any] = {
    "address": OWNER,
    "time": 1,
    "type": "vm-function",
    "allow_amend": True,
    "code": {
        "encoding": "squashfs",
        "entrypoint": "server",
        "ref": CID,
        "interface": "binary",
        "args": ["--port", "8080"],
        "use_latest": True,
    },
    "on": {"http": False, "message": [{"channel": "TEST"}, {}], "persistent": True},
    "environment": {"reproducible": True, "internet": False, "aleph_api": True, "shared_cache": True},
    "resources": {"vcpus": 2, "memory": 256.0, "seconds": 30, "published_ports": [{"protocol": "udp", "port": 53}]},
    "runtime": {"ref": HASH, "use_latest": False, "comment": "Debian"},
    "data": {"encoding": "zip", "mount": "/in", "ref": HASH, "use_latest": True},
    "export": {"encoding": "zip", "mount": "/out"},
    "variables": {"NAME": "value"},
    "authorized_keys": ["ssh-ed25519 AAAA"],
    "metadata": {"name": "full", "cron_path": "tick"},
    "volumes": [
        {"ref": HASH, "use_latest": False, "comment": "libraries", "mount": "/opt/packages"},
        {"ephemeral": True, "size_mib": 5, "mount": "/tmp/x"},
        {"name": "a b", "persistence": "store", "size_mib": 7, "parent": {"ref": HASH, "use_latest": False}},
    ],
    "replaces": HASH,
    "payment": {"chain": "ETH", "receiver": OWNER, "type": "hold"},
    "requirements": {
        "cpu": {"architecture": "x86_64", "vendor": "AuthenticAMD", "features": ["sev"]},
        "node": {"owner": OWNER, "address_regex": "https://.*", "node_hash": HASH, "terms_and_conditions": HASH},
        "gpu": [{"vendor": "NVIDIA", "device_name": "L40", "device_class": "0302", "device_id": "10de:26b9"}],
    },
}
ANYTHING = {("metadata", "name"), ("metadata", "cron_path"), ("on", "message", 0, "channel")}
"""Places where every value is right."""


def changed(document: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """Set, or with NOTHING remove, what is at a place; objects on the way are made."""
    document = deepcopy(document)
    table: Any = document
    for part in place[:-1]:
        table = table.setdefault(part, {}) if isinstance(table, dict) else table[part]
    if value is NOTHING:
        del table[place[-1]]
    elif isinstance(place[-1], int) and place[-1] == len(table):
        table.append(value)
    else:
        table[place[-1]] = value
    return document


def places(value: Any, *place: str | int) -> list[Place]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*place, key), *places(item, *place, key))]


def accepted(document: Any) -> Program:
    reading = read(document)
    assert reading.program is not None, "\n".join(map(str, reading.problems))
    return reading.program


def paths(reading: Reading) -> list[str]:
    return [problem.path for problem in reading.problems]


def volume(**keys: Any) -> dict[str, Any]:
    return {**LEAST, "volumes": [keys]}


def test_what_may_be_left_out_has_its_default() -> None:
    program = accepted(LEAST)
    assert program.code.use_latest is False
    assert program.code.interface is None
    assert program.runtime.use_latest is True
    assert program.resources == Resources(vcpus=1, memory=128, seconds=1)
    assert (program.on.message, program.on.persistent, program.on.cron) == ((), False, None)
    assert not any(getattr(program.environment, name) for name in FULL["environment"])
    assert (program.data, program.export, program.payment, program.requirements) == (None,) * 4
    assert (program.volumes, program.variables, program.authorized_keys, program.metadata) == ((), {}, (), {})


def test_what_is_given_is_read() -> None:
    program = accepted(FULL)
    assert program.code.args == ("--port", "8080")
    assert program.on.message == ({"channel": "TEST"}, {})
    assert (program.resources.memory, type(program.resources.memory)) == (256, int)
    assert [type(each) for each in program.volumes] == [ImmutableVolume, EphemeralVolume, PersistentVolume]
    assert program.requirements
    assert program.requirements.gpu[0].device_class == "0302"
    assert not read(FULL).warnings


@pytest.mark.parametrize(
    "place",
    [
        *(("code", key) for key in ("interface", "args", "use_latest")),
        *(("on", key) for key in ("message", "persistent", "cron")),
        *(("environment", key) for key in (*FULL["environment"], "hypervisor", "trusted_execution")),
        *(("resources", key) for key in FULL["resources"]),
        ("resources", "published_ports", 0, "protocol"),
        ("runtime", "use_latest"),
        ("data", "use_latest"),
        *((key,) for key in ("data", "export", "variables", "authorized_keys", "metadata", "volumes", "replaces")),
        *((key,) for key in ("payment", "requirements")),
        *(("payment", key) for key in ("chain", "receiver")),
        *(("requirements", key) for key in FULL["requirements"]),
        *(("requirements", "cpu", key) for key in FULL["requirements"]["cpu"]),
        *(("requirements", "node", key) for key in FULL["requirements"]["node"]),
        *(("volumes", 0, key) for key in ("use_latest", "comment", "mount")),
        *(("volumes", 2, key) for key in ("name", "persistence", "parent", "comment", "mount")),
        ("volumes", 2, "parent", "use_latest"),
    ],
)
def test_null_says_the_same_as_nothing(place: Place) -> None:
    nothing = changed(FULL, place, None)
    del_ = changed(nothing, place, NOTHING)
    assert accepted(nothing) == accepted(del_)


@pytest.mark.parametrize(
    "place",
    [
        *((key,) for key in LEAST),
        *(("code", key) for key in ("encoding", "entrypoint", "ref")),
        ("on", "http"),
        *(("runtime", key) for key in ("ref", "comment")),
        *(("data", key) for key in ("encoding", "mount", "ref")),
        *(("export", key) for key in ("encoding", "mount")),
        ("payment", "type"),
        ("resources", "published_ports", 0, "port"),
        *(("requirements", "gpu", 0, key) for key in FULL["requirements"]["gpu"][0]),
        ("volumes", 1, "size_mib"),
        ("volumes", 2, "size_mib"),
        ("volumes", 2, "parent", "ref"),
    ],
)
def test_what_is_required_may_be_neither_missing_nor_null(place: Place) -> None:
    for value in (NOTHING, None):
        reading = read(changed(FULL, place, value))
        assert [problem.place for problem in reading.problems] == [place]
    assert read(changed(FULL, place, NOTHING)).problems[0].fix == f"Add `{place[-1]}`."


@pytest.mark.parametrize("place", [place for place in places(FULL) if place not in ANYTHING])
def test_whatever_is_wrong_is_reported_at_its_place(place: Place) -> None:
    problems = read(changed(FULL, place, [["wrong"]])).problems
    assert problems
    assert all(problem.place[: len(place)] == place for problem in problems)


LIMITS: list[tuple[Place, list[Any], list[Any]]] = [
    (("time",), [0, 9_223_372_036, 9_223_372_036.0], [-0.1, 9_223_372_036.1, float("nan"), "now"]),
    (("resources", "vcpus"), [1, 256, 2.0], [0, 257, 1.5, "many"]),
    (("resources", "memory"), [1, 1_048_576, 64.0], [0, 1_048_577, 0.5]),
    (("resources", "seconds"), [1, 315_360_000], [0, 315_360_001]),
    (("resources", "published_ports"), [[], [{"port": 1}], [{"port": 65535}]], [{}, "80"]),
    (("variables",), [{f"v{n}": "" for n in range(256)}], [{f"v{n}": "" for n in range(257)}]),
    (("variables", "V"), ["", "x" * 4096], ["x" * 4097, 5, True, None]),
    (("variables", "k" * 128), [""], []),
    (("variables", "k" * 129), [], [""]),
    (("authorized_keys",), [["k" * 8192] * 256], [["k"] * 257, ["k" * 8193], "k"]),
    (("metadata",), [{str(n): [n] for n in range(256)}, {"k" * 1000: {}}], [{str(n): n for n in range(257)}, []]),
    (("volumes",), [[{"ref": HASH}] * 256], [[{"ref": HASH}] * 257, {}]),
    (("replaces",), ["", "anything", "x" * 128], ["x" * 129, 5]),
    (("on", "message"), [[], [{str(n): n for n in range(32)}]], [[{str(n): n for n in range(33)}], {}, [1]]),
    (("code", "encoding"), ["plain", "zip", "squashfs", "tar.gzip", "tar.gz"], ["tar", "ZIP", ""]),
    (("data", "encoding"), ["plain", "zip", "squashfs", "tar.gzip", "tar.gz"], ["rar"]),
    (("code", "interface"), ["asgi", "binary", "executable"], ["wsgi"]),
    (("code", "args"), [[], ["a"]], ["a", [1]]),
    (("code", "ref"), [HASH, CID, f"bafy{'a' * 55}"], [HASH.upper(), HASH[1:], OWNER, f"bafy{'1' * 55}", f"{HASH}\n"]),
    (("type",), [], ["vm-instance", "PROGRAM"]),
    (("payment", "type"), ["hold", "superfluid", "credit"], ["gift"]),
    (("payment", "chain"), ["ETH", "SOL"], ["BTC", "eth"]),
    (("requirements", "cpu", "architecture"), ["x86_64", "arm64"], ["mips"]),
    (("requirements", "cpu", "vendor"), ["Any"], [5]),
    (("requirements", "node", "address_regex"), ["x" * 256, "[[a]"], ["x" * 257, "(", "a{99999999999}"]),
    (("requirements", "node", "node_hash"), [HASH], ["x"]),
    (("requirements", "gpu", 0, "device_class"), ["0300", "0302"], ["0301", 300]),
    (("volumes", 0, "comment"), ["x" * 256], ["x" * 257]),
    (("volumes", 0, "mount"), ["x" * 256], ["x" * 257]),
    (("volumes", 2, "name"), ["x" * 256], ["x" * 257]),
    (("volumes", 1, "size_mib"), [1, 1000], [0, 1001, "5", 5.0, True, -1]),
    (("volumes", 2, "size_mib"), [1, 1000, 1001, 1_953_125], [0, 1_953_126, "5", 5.0, True]),
    (("volumes", 2, "persistence"), ["host", "store"], ["cloud"]),
]


@pytest.mark.parametrize(("place", "good", "bad"), LIMITS, ids=lambda value: str(value)[:40])
def test_values_are_taken_up_to_their_limits(place: Place, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        accepted(changed(FULL, place, value))
    for value in bad:
        problems = read(changed(FULL, place, value)).problems
        assert problems, value
        assert {problem.place[: len(place)] for problem in problems} == {place}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"ref": HASH}, ImmutableVolume),
        ({"ref": CID, "use_latest": False, "mount": "/m", "comment": "c"}, ImmutableVolume),
        ({"size_mib": 1}, EphemeralVolume),
        ({"size_mib": 1000, "mount": "/m", "comment": None}, EphemeralVolume),
        ({"size_mib": 1001}, PersistentVolume),
        ({"size_mib": 1_953_125}, PersistentVolume),
        ({"size_mib": 1, "ephemeral": True}, EphemeralVolume),
        ({"size_mib": 1, "name": "n"}, PersistentVolume),
        ({"size_mib": 1, "name": None}, PersistentVolume),
        ({"size_mib": 1, "persistence": None}, PersistentVolume),
        ({"size_mib": 1, "parent": None}, PersistentVolume),
        ({"size_mib": 1, "persistence": "store", "parent": {"ref": HASH}}, PersistentVolume),
    ],
)
def test_the_keys_tell_the_kind_of_a_volume(given: dict[str, Any], kind: type) -> None:
    assert type(accepted(volume(**given)).volumes[0]) is kind
    assert type(ProgramContent.model_validate(volume(**given)).volumes[0]).__name__ == kind.__name__


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "volumes[0]"),
        ({"mount": "/m"}, "volumes[0]"),
        ({"ref": HASH, "size_mib": 5}, "volumes[0].size_mib"),
        ({"ref": HASH, "ephemeral": True}, "volumes[0].ephemeral"),
        ({"ref": None}, "volumes[0].ref"),
        ({"size_mib": 5, "ephemeral": False}, "volumes[0].ephemeral"),
        ({"size_mib": 5, "ephemeral": None}, "volumes[0].ephemeral"),
        ({"size_mib": 5, "ephemeral": True, "name": "n"}, "volumes[0].name"),
        ({"ephemeral": True, "size_mib": 1001}, "volumes[0].size_mib"),
        ({"size_mib": 0}, "volumes[0].size_mib"),
        ({"size_mib": 1_953_126}, "volumes[0].size_mib"),
        ({"size_mib": "5"}, "volumes[0].size_mib"),
        ({"size_mib": 5.0}, "volumes[0].size_mib"),
        ({"name": "n"}, "volumes[0].size_mib"),
        ({"name": "n", "size_mib": 5, "persistance": "host"}, "volumes[0].persistance"),
        ({"name": "n", "size_mib": 5, "parent": {"ref": "x"}}, "volumes[0].parent.ref"),
    ],
)
def test_volumes_that_are_of_no_kind_are_refused(given: dict[str, Any], path: str) -> None:
    assert paths(read(volume(**given))) == [path]
    with pytest.raises(ValidationError):
        ProgramContent.model_validate(volume(**given))


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        (("volumess",), "Did you mean `volumes`?"),
        (("generation",), None),
        (("inline",), None),
        (("on", "messages"), "Did you mean `message`?"),
        (("volumes", 0, "moutn"), "Did you mean `mount`?"),
        (("requirements", "gpus"), "Did you mean `gpu`?"),
        (("requirements", "cpu", "cores"), None),
        (("requirements", "node", "hash"), "Did you mean `node_hash`?"),
        (("requirements", "gpu", 0, "devicename"), "Did you mean `device_name`?"),
    ],
)
def test_keys_that_are_not_known_are_refused_where_the_network_refuses_them(place: Place, hint: str | None) -> None:
    (problem,) = read(changed(FULL, place, 1)).problems
    assert problem.place == place
    assert problem.rule == "unknown key"
    assert hint is None or problem.fix == hint


@pytest.mark.parametrize(
    "place",
    [
        ("code", "extra"),
        ("environment", "extra"),
        ("runtime", "extra"),
        ("data", "extra"),
        ("export", "extra"),
        ("resources", "extra"),
        ("resources", "published_ports", 0, "extra"),
        ("payment", "extra"),
        ("volumes", 2, "parent", "extra"),
        ("environment", "hypervisor"),
        ("environment", "trusted_execution"),
    ],
)
def test_keys_that_the_network_drops_are_ignored_with_a_warning(place: Place) -> None:
    reading = read(changed(FULL, place, "x"))
    assert reading.program == accepted(FULL)
    assert [warning.place for warning in reading.warnings] == [place]
    assert "ignored" in reading.warnings[0].rule


def test_reproducible_with_internet_is_warned_of() -> None:
    (warning,) = read({**LEAST, "environment": {"reproducible": True, "internet": True}}).warnings
    assert warning.path == "environment.reproducible"


def test_all_problems_are_reported_at_once() -> None:
    document = changed(changed(volume(ref=HASH, moutn="/m"), ("resources", "vcpus"), 0), ("on", "cron"), "x")
    del document["allow_amend"]
    assert sorted(paths(read(document))) == ["allow_amend", "on.cron", "resources.vcpus", "volumes[0].moutn"]


@pytest.mark.parametrize("document", [None, [], "x", 5, [LEAST]])
def test_what_is_no_object_is_refused(document: Any) -> None:
    assert [str(problem) for problem in read(document).problems] == ["must be an object."]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("code", "ref"), HASH.upper(), "CID (Qm…, bafy…). Write it in lower case."),
        (("code", "encoding"), "tar.gzp", "Did you mean `tar.gzip`?"),
        (("volumes", 1, "size_mib"), 5.0, "Write it as a whole number, without quotes and decimal point."),
        (("volumes", 1), {}, "must have either `ref` or `size_mib`. Give `ref` for"),
        (("code",), [], "`code`: must be an object."),
        (("volumes",), {}, "`volumes`: must be a list."),
        (("resources", "vcpus"), 257, "`resources.vcpus`: must be less than or equal to 256."),
        (("replaces",), "x" * 129, "`replaces`: must have at most 128 characters."),
        (("requirements", "node", "address_regex"), "(", "is no regular expression: missing )"),
    ],
)
def test_problems_say_what_to_do(place: Place, value: Any, said: str) -> None:
    assert said in str(read(changed(FULL, place, value)).problems[0])


# Cron


@pytest.mark.parametrize(
    "cron",
    [
        "5 4 * * *",
        "* * * * *",
        "*/15 0-6,12 1,15 * *",
        "0 0 * JAN-MAR,dec mon,WED-fri",
        "0 0 1-31/2 * 0",
        "0 0 * * 7",
        "5/20 * * * *",
        "  0\t0  * * * ",
        "0 0 29 2 *",
    ],
)
def test_cron_expressions_are_taken(cron: str) -> None:
    assert accepted(changed(LEAST, ("on", "cron"), cron)).on.cron == cron


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "0 5 4 * * *",  # seconds
        "@daily",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * 0 *",
        "* * * * 8",
        "* * L * *",
        "* * LW * *",
        "* * * * 5L",
        "* * * * MON#2",
        "* * * * L",
        "*/0 * * * *",
        "5-1 * * * *",
        "1, * * * *",
        "? * * * *",
        "-1 * * * *",
        "1.5 * * * *",
        "JAN * * * *",
        "* * * FOO *",
        "* * * * FR\u0131",
        "\u0665 * * * *",
        "0 0 30 2 *",  # no such day
        "* * * * * UTC",
    ],
)
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    (problem,) = read(changed(LEAST, ("on", "cron"), cron)).problems
    assert problem.path == "on.cron"
    assert problem.fix
    assert "`5 4 * * *`" in problem.fix


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("0 0 * * 0", [6, 13, 20]),
        ("0 0 * * 7", [6, 13, 20]),
        ("0 0 * * SUN", [6, 13, 20]),
        ("0 0 8 * 0", [6, 8, 13]),  # one or the other
        ("0 0 8 * *", [8]),
    ],
)
def test_the_library_counts_days_as_the_contract_does(cron: str, days: list[int]) -> None:
    slots = islice(CronSim(cron, datetime(2024, 9, 30, 12, tzinfo=UTC)), len(days))
    assert [slot.day for slot in slots] == days


# What follows from a program


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ({"encoding": "zip", "entrypoint": "main:app"}, "asgi"),
        ({"encoding": "squashfs", "entrypoint": "run.sh"}, "binary"),
        ({"encoding": "zip", "entrypoint": "python serve.py"}, "binary"),
        ({"encoding": "plain", "entrypoint": "main:app"}, "asgi"),
        ({"encoding": "plain", "entrypoint": "app"}, None),
        ({"encoding": "plain", "entrypoint": "app", "interface": "asgi"}, "asgi"),
        ({"encoding": "zip", "entrypoint": "main:app", "interface": "executable"}, "binary"),
    ],
)
def test_the_interface_is_told_as_far_as_the_document_goes(code: dict[str, Any], expected: str | None) -> None:
    assert interface(accepted({**LEAST, "code": {**code, "ref": HASH}})) == expected


def test_plain_code_is_executable_if_it_starts_like_one() -> None:
    assert interface_of_plain(b"#!/bin/sh\n") == "binary"
    assert interface_of_plain(b"\x7fELF\x02") == "binary"
    assert interface_of_plain(b"async def app(scope, receive, send): ...") == "asgi"
    assert interface_of_plain(b"") == "asgi"


@pytest.mark.parametrize(
    ("entrypoint", "words"),
    [
        ("prog --flag", ("prog", "--flag", "x y")),
        ("python 'my serve.py'", ("python", "my serve.py", "x y")),
        ("it's", ("it's", "x y")),
        ("", ("", "x y")),
    ],
)
def test_a_command_is_the_words_of_the_entrypoint_and_the_arguments(entrypoint: str, words: tuple[str, ...]) -> None:
    program = accepted({**LEAST, "code": {**LEAST["code"], "entrypoint": entrypoint, "args": ["x y"]}})
    assert command(program.code) == words


def test_volumes_are_mounted_where_they_say_or_by_their_names() -> None:
    given = [
        {"ref": HASH},
        {"size_mib": 5, "mount": ""},
        {"size_mib": 5, "name": ""},
        {"size_mib": 5, "name": "a b/../c-d_é"},
        {"size_mib": 5, "comment": "do not mount"},
        {"size_mib": 5, "name": "x", "mount": "//var/lib//../x/"},
        {"ref": HASH, "mount": "../../etc"},
    ]
    assert volume_mounts(accepted({**LEAST, "volumes": given})) == (
        "/mnt/unamed_volume_0",
        "/mnt/unamed_volume_1",
        "/mnt/unamed_volume_2",
        "/mnt/a_b____c-d_é",
        "/mnt/unamed_volume_4",
        "/var/x",
        "/etc",
    )


def test_data_is_found_at_its_mount_and_at_data() -> None:
    assert data_mounts(accepted(FULL)) == ("/in", "/data")
    assert data_mounts(accepted(changed(FULL, ("data", "mount"), "/data/"))) == ("/data",)
    assert data_mounts(accepted(LEAST)) == ()


def test_the_cron_path_is_that_of_the_metadata() -> None:
    assert cron_path(accepted(FULL)) == "/tick"
    assert cron_path(accepted({**LEAST, "metadata": {"cron_path": "/a?b=1"}})) == "/a?b=1"
    assert (
        cron_path(accepted({**LEAST, "metadata": {"cron_path": "/é a%20b\r\nx: y"}})) == "/%C3%A9%20a%20b%0D%0Ax:%20y"
    )
    assert cron_path(accepted({**LEAST, "metadata": {"cron_path": 5}})) == "/"
    assert cron_path(accepted(LEAST)) == "/"


# The network's own library


ODD = (
    None, True, False, 0, 1, -1, 2.0, 5.5, 1000, 1001, 2_000_000, 10**30, "", "5", "2.0", "yes", "zip", "asgi", "tcp",
    HASH, CID, HASH.upper(), OWNER, "x" * 300, [], {}, [1], ["a"], [{}], {"a": "b"}, {"a": 1}, {"ref": HASH},
    {"size_mib": 5}, {"http": True}, {"ref": HASH, "comment": ""}, {"type": "hold"}, [{"ref": HASH}], [{"port": 80}],
    NOTHING,
)  # fmt: skip
KEYS = ("zzz", "ref", "name", "size_mib", "ephemeral", "mount", "parent", "comment", "hypervisor")
NULL_IS_DEFAULT = (
    ("code", "use_latest"), ("runtime", "use_latest"), ("resources", "vcpus"), ("resources", "memory"),
    ("resources", "seconds"), *(("environment", key) for key in FULL["environment"]),
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid document with up to three changes."""
    document = deepcopy(draw(st.sampled_from([LEAST, FULL])))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        place = draw(st.sampled_from(places(document)))
        if draw(st.booleans()):
            place = (*place[:-1], draw(st.sampled_from(KEYS))) if isinstance(place[-1], str) else place
        value = draw(st.sampled_from(ODD))
        try:
            document = changed(document, place, deepcopy(value) if value is not NOTHING else value)
        except KeyError:  # there is nothing to remove
            continue
    return document


def as_the_library_wants_it(document: dict[str, Any]) -> dict[str, Any]:
    """Undo what only we take: nulls for defaults, and metadata of any kind (contract, sections 2.2 and 3.5)."""
    document = deepcopy(document)
    for table, key in NULL_IS_DEFAULT:
        if isinstance(document.get(table), dict) and document[table].get(key, 0) is None:
            del document[table][key]
    if document.get("volumes", 0) is None:
        del document["volumes"]
    for each in filter(lambda each: isinstance(each, dict), _listed(document.get("volumes"))):
        for table in (each, each.get("parent")):
            if isinstance(table, dict) and table.get("use_latest", 0) is None and (table is not each or "ref" in each):
                del table["use_latest"]
    resources = document.get("resources")
    for port in _listed(resources.get("published_ports") if isinstance(resources, dict) else None):
        if isinstance(port, dict) and port.get("protocol", 0) is None:
            del port["protocol"]
    if isinstance(document.get("metadata"), dict):
        del document["metadata"]
    return document


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@settings(max_examples=400, deadline=None)
@given(documents())
def test_we_take_what_the_networks_library_takes_and_hardly_more(
    document: dict[str, Any],
) -> None:
    reading = read(document)
    takes = _library_takes(document)
    if takes:
        assert reading.program is not None, "\n".join(map(str, reading.problems))
    assert (reading.program is not None) is _library_takes(as_the_library_wants_it(document))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("on", "cron"), "5 4 * * *"),
        (("code", "encoding"), "tar.gz"),
        (("code", "encoding"), "tar.gzip"),
        (("code", "interface"), "executable"),
        (("code", "use_latest"), None),
        (("volumes",), None),
        (("metadata",), {"nested": {"a": 1}}),
        (("metadata",), {"k" * 65: "x" * 513}),
    ],
)
def test_these_are_the_known_differences(place: Place, value: Any) -> None:
    document = changed(FULL, place, value)
    accepted(document)
    assert not _library_takes(document)


@given(documents())
@settings(max_examples=100, deadline=None)
def test_what_both_take_means_the_same(document: dict[str, Any]) -> None:
    program = read(document).program
    if program is None or not _library_takes(document):
        return
    theirs = ProgramContent.model_validate(document)
    assert [type(each).__name__ for each in program.volumes] == [type(each).__name__ for each in theirs.volumes]
    assert program.resources.memory == theirs.resources.memory
    assert program.code.use_latest is theirs.code.use_latest
    assert (program.data.use_latest if program.data else None) is (
        theirs.data.use_latest_image() if theirs.data else None
    )
    assert program.time == theirs.time


def _library_takes(document: Any) -> bool:
    try:
        ProgramContent.model_validate(document)
    except (ValidationError, ValueError):
        return False
    return True
