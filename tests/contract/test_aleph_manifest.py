"""A program as a source: what a folder says of it, and a message with the files beside it (contract, section 2.1)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moorage.errors import BadManifest, SourceNotFound
from moorage.networks.aleph import manifest
from moorage.networks.aleph.messages.drafts import BadProgram
from tests.aleph import RUNTIME, program

CODE, DATA, PACKAGES, PARENT = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write moorage.toml and empty files beside it."""

    def make(text: str, *files: str) -> Path:
        source = tmp_path / "app"
        source.mkdir()
        (source / "moorage.toml").write_text(f'network = "aleph"\n{text}')
        for name in files:
            (source / name).write_text("")
        return source

    return make


def content(source: Path) -> dict[str, Any]:
    return manifest.described(source)[0]


def refused(source: Path) -> str:
    with pytest.raises(BadManifest) as error:
        manifest.read(source)
    return str(error.value)


def test_a_folder_that_names_its_entrypoint_has_all_it_needs(folder: Folder) -> None:
    said = content(folder('[aleph]\nentrypoint = "main:app"\n'))
    assert said["code"] == {
        "encoding": "zip", "entrypoint": "main:app", "ref": manifest.UNRESOLVED, "use_latest": True
    }  # fmt: skip
    assert (said["on"], said["allow_amend"]) == ({"http": True}, True)
    assert said["resources"] == {"vcpus": 1, "memory": 256, "seconds": 30}
    assert said["runtime"] == {"ref": RUNTIME, "comment": ""}


def test_what_a_folder_says_of_a_part_leaves_the_rest_of_it_as_it_is(folder: Folder) -> None:
    said = content(folder('[aleph]\nentrypoint = "main:app"\n[aleph.resources]\nmemory = 64\n'))
    assert said["resources"] == {"vcpus": 1, "memory": 64, "seconds": 30}


def test_what_all_networks_share_counts_for_programs_too(folder: Folder) -> None:
    text = (
        'command = ["./serve it", "--fast"]\n[limits]\nmemory = "512MiB"\ncpus = 2\ntimeout = 5\n'
        '[network-access]\npolicy = "internet"\n'
    )
    said = content(folder(text))
    assert (said["code"]["entrypoint"], said["code"]["interface"]) == ("'./serve it' --fast", "binary")
    assert said["resources"] == {"vcpus": 2, "memory": 512, "seconds": 5}
    assert said["environment"] == {"internet": True}


def test_a_folder_without_an_entrypoint_is_told_how_to_name_one(folder: Folder) -> None:
    with pytest.raises(BadManifest) as error:
        manifest.read(folder(""))
    assert "`aleph.entrypoint` is missing" in error.value.message
    assert error.value.hint
    assert 'entrypoint = "main:app"' in error.value.hint


def test_every_unknown_key_is_told_with_its_place(folder: Folder) -> None:
    text = refused(folder('[aleph]\nentrypoint = "main:app"\nmetdata = {}\n[aleph.on]\nhtpp = true\n'))
    assert "moorage.toml: `aleph.metdata`: unknown key. Did you mean `metadata`?" in text
    assert "moorage.toml: `aleph.on.htpp`: unknown key. Did you mean `http`?" in text


def test_a_wrong_value_is_told_with_its_place(folder: Folder) -> None:
    assert "`aleph.resources.memory`" in refused(folder('[aleph]\nentrypoint = "m:a"\nresources = { memory = 0 }\n'))


def test_a_bad_schedule_is_refused(folder: Folder) -> None:
    assert "`aleph.on.cron`" in refused(folder('[aleph]\nentrypoint = "m:a"\non = { http = true, cron = "often" }\n'))


@pytest.mark.parametrize("key", ["address", "time", "replaces", "code.ref", "code.encoding"])
def test_what_the_node_says_of_a_program_is_not_the_folders_to_say(folder: Folder, key: str) -> None:
    text = refused(folder(f'[aleph]\nentrypoint = "main:app"\n{key} = "x"\n'))
    assert f"`aleph.{key}` is the node's to say" in text


def test_keys_that_do_nothing_are_warned_of(folder: Folder) -> None:
    source = folder('[aleph]\nentrypoint = "main:app"\n[aleph.code]\nflavour = "mint"\n')
    (warning,) = manifest.read(source).warnings
    assert "`code.flavour`" in warning


def test_requirements_become_an_environment(folder: Folder) -> None:
    source = folder('[aleph]\nentrypoint = "main:app"\n', "requirements.txt")
    assert manifest.read(source).environments["python"].requirements == "requirements.txt"


def test_requirements_must_be_in_the_folder(folder: Folder) -> None:
    assert "names '../other.txt', which is no file of the app" in refused(
        folder('command = ["x"]\npython = "../other.txt"\n')
    )


# Messages


def message(**rest: Any) -> dict[str, Any]:
    body = program(CODE, **rest)
    return {**body, "address": "0x" + "1" * 40, "time": 1.0, "code": {**body["code"], "encoding": "zip"}}


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., Any]:
    """Pack a message with files beside it; give its name and what it was laid out as."""

    def pack(document: Any, *files: str) -> tuple[str | None, dict[str, str]]:
        path = tmp_path / "my-program.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        for name in files:
            (tmp_path / name).write_text(name)
        target = tmp_path / "packed"
        name = manifest.pack(str(path), target)
        return name, {each.name: each.read_text() for each in target.rglob("*") if each.is_file()}

    return pack


def test_a_message_takes_along_the_files_beside_it_whatever_their_ending(packed: Callable[..., Any]) -> None:
    volumes = [
        {"ref": PACKAGES, "mount": "/opt/packages"},
        {"name": "state", "mount": "/state", "size_mib": 5, "persistence": "host", "parent": {"ref": PARENT}},
    ]
    document = message(data={"encoding": "zip", "mount": "/d", "ref": DATA}, volumes=volumes)
    beside = (f"{CODE}.zip", DATA, f"{PACKAGES}.tar.gz", f"{PARENT}.squashfs", f"{'e' * 64}.zip", "other.txt")
    name, files = packed(document, *beside)
    assert name == "my-program"
    assert json.loads(files.pop("message.json")) == document
    assert files == {CODE: f"{CODE}.zip", DATA: DATA, PACKAGES: f"{PACKAGES}.tar.gz", PARENT: f"{PARENT}.squashfs"}


def test_a_message_that_is_wrong_is_refused_with_all_that_is_wrong(packed: Callable[..., Any]) -> None:
    with pytest.raises(BadProgram) as error:
        packed({**message(), "onn": {}, "allow_amend": "maybe"})
    assert {problem.path for problem in error.value.problems} == {"onn", "allow_amend"}


def test_a_message_of_another_kind_is_told_so(packed: Callable[..., Any]) -> None:
    with pytest.raises(BadProgram, match="Unsupported message: expected PROGRAM or vm-function, not 'POST'"):
        packed({"type": "POST", "item_hash": "f" * 64})


def test_json_that_is_no_message_is_left_to_other_networks(packed: Callable[..., Any]) -> None:
    assert packed({"containers": []}) == (None, {})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        manifest.pack(str(tmp_path / "no.json"), tmp_path / "packed")


def test_what_json_cannot_hold_is_refused_with_its_place(folder: Folder) -> None:
    source = folder('[aleph]\nentrypoint = "main:app"\n[aleph.metadata]\nsince = [2024-05-01]\n', "main.py")
    assert "`aleph.metadata.since.0` is a date or time" in refused(source)
