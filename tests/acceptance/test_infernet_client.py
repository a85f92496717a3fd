"""The network's own client, unmodified as it is on PyPI, finds in this node what it knows."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uv

from tests.infernet_node import Served, folder_container, healthy

CLIENTS = Path(__file__).parents[1] / "clients"
PINNED = CLIENTS / "infernet-client.txt"
VERSION = "1.4.0"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the interpreter of an environment with the client; its old dependencies suit nobody else."""
    folder = tmp_path_factory.mktemp("client") / "env"
    interpreter = folder / "bin" / "python"
    for arguments in (
        ("venv", "--quiet", "--python", "3.11", folder),
        ("pip", "install", "--quiet", "--python", interpreter, "--requirement", PINNED),
        ("pip", "install", "--quiet", "--python", interpreter, "--no-deps", f"infernet-client=={VERSION}"),
    ):
        done = subprocess.run(
            [uv.find_uv_bin(), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            pytest.skip(f"infernet-client {VERSION} cannot be installed here: {done.stderr.strip()[-500:]}")
    return interpreter


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("node")
    first = folder_container(home / "first", "first", description="The first.")
    second = folder_container(home / "second", "second", external=False)
    with healthy(home / "served", {"containers": [first, second]}) as served:
        yield served


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CLIENTS / "stubs")}


@pytest.fixture(scope="module")
def seen(
    python: Path, node: Served, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Let the client do all it can, once; give what it saw."""
    home = tmp_path_factory.mktemp("strict")
    with healthy(home, {"server": {"rate_limit": {"num_requests": 3, "period": 600}}}) as strict:
        done = subprocess.run(
            [python, CLIENTS / "infernet_driver.py", node.url, strict.url],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr}\n{node.said}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def command(python: Path, node: Served, environment: dict[str, str]) -> Command:
    """Give the client's own command line."""

    def run(*words: str, **data: Any) -> "subprocess.CompletedProcess[str]":
        line = [python.with_name("infernet-client"), *words]
        return subprocess.run(
            line, env={**environment, "SERVER_URL": node.url}, input=json.dumps(data),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def is_an_id(text: str) -> bool:
    return str(UUID(text)) == text


def test_the_node_says_that_it_is_healthy_and_what_it_has(seen: dict[str, Any]) -> None:
    assert seen["health"] is True
    assert seen["info"] == {
        "version": seen["info"]["version"],
        "chain": {"enabled": False, "address": ""},
        "containers": [
            {"id": "first", "description": "The first.", "external": True, "image": ""},
            {"id": "second", "description": "", "external": False, "image": ""},
        ],
        "pending": {"offchain": 0, "onchain": 0},
    }


def test_what_containers_offer_is_asked_of_each(seen: dict[str, Any]) -> None:
    assert seen["resources"] == {name: {"name": name, "models": ["good"]} for name in ("first", "second")}
    assert seen["models"] == [{name: {"supported": answer} for name in ("first", "second")} for answer in (True, False)]


def test_a_job_is_pending_and_then_has_its_result(seen: dict[str, Any]) -> None:
    job_id = seen["result"]["id"]
    assert is_an_id(job_id)
    assert seen["pending"] == [True, False, True]
    assert seen["running"] == [{"id": job_id, "status": "running", "result": None}]
    assert seen["pending info"] == {"offchain": 1, "onchain": 0}
    assert seen["too early"] == {"timeout": "Job result not available after 0 retries"}
    output = {"sleep": 1.0, "question": "?", "by": ["first"], "proof": False}
    assert seen["result"] == {"id": job_id, "status": "success", "result": {"container": "first", "output": output}}
    assert seen["ended"] == [False, True, True]


def test_a_job_that_nobody_made_has_no_result(seen: dict[str, Any]) -> None:
    assert seen["unknown"] is None


def test_null_for_a_proof_is_none(seen: dict[str, Any]) -> None:
    assert seen["proof"]["result"]["output"]["proof"] is False


def test_each_container_of_a_chain_is_given_what_the_one_before_gave(seen: dict[str, Any]) -> None:
    (chain,) = seen["chain"]
    first, second = (
        {"container": by[-1], "output": {"n": 2**80, "by": by, "proof": False}}
        for by in (["first"], ["first", "second"])
    )
    assert chain["status"] == "success"
    assert (chain["intermediate_results"], chain["result"]) == ([first], second)
    assert seen["chain alone"] == [{"id": chain["id"], "status": "success", "result": second}]


def test_a_container_that_fails_is_told_with_what_it_said(seen: dict[str, Any]) -> None:
    assert seen["broken"]["status"] == "failed"
    assert seen["broken"]["result"] == {
        "container": "second",
        "error": 'HTTP 500: {"code": "500", "description": "I fail"}',
    }


def test_a_batch_is_answered_item_by_item(seen: dict[str, Any]) -> None:
    taken: dict[str, Any] = {}
    assert seen["batch"] == [
        taken,
        {"error": "Container not supported", "params": {"container": "zz"}},
        {"error": "First container must be external", "params": {"first_container": "second"}},
        {"error": "containers: Field required", "params": {}},
        taken,
    ]
    assert [each["id"] for each in seen["batch results"]] == seen["batch ids"]
    assert [each["result"]["output"]["a"] for each in seen["batch results"]] == [1, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unsupported", "[405] Container not supported - [container=zz]"),
        ("internal", "[405] First container must be external - [first_container=second]"),
        ("none", "[405] No containers specified"),
        ("no proof", "[405] Container does not generate proof - [container=first]"),
        ("malformed", "[400] containers: Input should be a list"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_network(seen: dict[str, Any], name: str, text: str) -> None:
    for found in (seen[name], seen[f"{name} stream"]):
        assert found == {"error": text, "status": int(text[1:4])}


def test_a_stream_begins_with_the_id_and_goes_on_with_the_bytes(seen: dict[str, Any]) -> None:
    job_id = seen["stream"]["id"]
    assert is_an_id(job_id)
    assert seen["stream"] == {"id": job_id, "bytes": "one zwei δύο", "types": ["bytes"]}
    output = {"container": "first", "output": {"output": "one zwei δύο"}}
    assert seen["stream result"] == [{"id": job_id, "status": "success", "result": output}]


def test_the_id_of_a_stream_comes_by_itself_however_quick_the_container_is(seen: dict[str, Any]) -> None:
    good = sum(each == [36, "at once"] for each in seen["many streams"])
    assert good >= 0.95 * len(seen["many streams"])  # not all: a client that is kept waiting by its machine reads late


def test_a_long_stream_comes_whole(seen: dict[str, Any]) -> None:
    assert seen["long stream"] == 5_000_000


def test_a_status_is_recorded_but_never_over_a_job_of_the_node(seen: dict[str, Any]) -> None:
    assert seen["recorded"] is None
    assert seen["record"] == [{"id": "mine", "status": "success", "result": None}]
    assert seen["bad record"] == {"error": "[400] Status is invalid", "status": 400}
    assert seen["not overwritten"] == seen["result"]


def test_a_delegated_subscription_without_a_chain_is_refused(seen: dict[str, Any]) -> None:
    assert seen["delegated"]["status"] == 405
    assert seen["delegated"]["error"].startswith("[405] Chain not enabled - [delegated_subscription={")


def test_too_many_requests_are_an_error_that_the_client_can_read(seen: dict[str, Any]) -> None:
    assert seen["limited"] == {"error": "[429] Too many requests", "status": 429}


def test_the_client_s_command_line_works(command: Command) -> None:
    done = command("job", "--containers", "first,second", "--sync", a=1)
    assert json.loads(done.stdout) == {"a": 1, "by": ["first", "second"], "proof": False}, done
    done = command("stream", "--container", "first", words=["some ", "words"])
    assert "some words" in done.stdout, done
