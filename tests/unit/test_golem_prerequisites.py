"""What environments need (contract, sections 2.6 and 3.7)."""

import json
from typing import Any

import pytest

from moorage.errors import EnvUnknown, PrerequisitesDenied
from moorage.networks.golem.prerequisites import Prerequisites, parse, prereq_hash


@pytest.mark.parametrize("env_id", ["docker_cpu", "docker_gpu"])
@pytest.mark.parametrize("write", [dict, json.dumps])
def test_an_image_is_named_with_its_tag(env_id: str, write: Any) -> None:
    found = parse(env_id, write({"image": "example/wordcount", "tag": "1.0", "extra_vars": {"A": "b"}}))
    assert found == Prerequisites(env_id=env_id, image="example/wordcount", tag="1.0")
    assert found.reference == "example/wordcount:1.0"


@pytest.mark.parametrize("tag", [{}, {"tag": ""}, {"tag": None}])
def test_no_tag_is_the_latest(tag: dict[str, Any]) -> None:
    assert parse("docker_cpu", {"image": "i", **tag}).reference == "i:latest"


@pytest.mark.parametrize(
    ("document", "command"), [({}, None), ({"command": None}, None), ({"command": ["a", "b"]}, ("a", "b"))]
)
def test_an_app_may_run_from_its_own_folder(document: dict[str, Any], command: tuple[str, ...] | None) -> None:
    assert parse("local", document).command == command


@pytest.mark.parametrize("env_id", ["", "wasm", "DOCKER_CPU", "\x1b[2J"])
def test_an_unknown_environment_is_named(env_id: str) -> None:
    with pytest.raises(EnvUnknown, match="there are docker_cpu, docker_gpu, local") as caught:
        parse(env_id, "{}")
    assert caught.value.code == "env_unknown"
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("env_id", "source", "reason"),
    [
        ("docker_cpu", "", "not valid JSON"),
        ("docker_cpu", "[]", "not a JSON object"),
        ("docker_cpu", '{"image": "a", "image": "b"}', "'image' twice"),
        ("docker_cpu", {}, "`image`"),
        ("docker_gpu", {"image": ""}, "`image`"),
        ("docker_cpu", {"image": ["i"]}, "`image`"),
        ("docker_cpu", {"image": "i", "tag": 1}, "`tag`"),
        ("docker_cpu", {"image": "i", "tag": False}, "`tag`"),
        ("local", {"command": "python main.py"}, "`command`"),
        ("local", {"command": []}, "`command`"),
        ("local", {"command": ["python", 1]}, "`command`"),
    ],
)
def test_prerequisites_of_the_wrong_form_are_refused(env_id: str, source: Any, reason: str) -> None:
    with pytest.raises(PrerequisitesDenied, match=f"prerequisites cannot be used: .*{reason}"):
        parse(env_id, source)


def test_the_hash_is_that_of_the_contract_whatever_the_order_of_keys() -> None:
    expected = "70a2d1ac6317e2c953e7a6ce5fb6bec1"
    assert prereq_hash('{"tag":"1.0","image":"example/wordcount"}') == expected
    assert prereq_hash({"image": "example/wordcount", "tag": "1.0"}) == expected
    assert prereq_hash({"image": "example/wordcount"}) != expected
