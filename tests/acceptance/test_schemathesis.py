"""The running API keeps what its OpenAPI document promises, whatever is sent to it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from moorage.client import Client
from moorage.model.states import JobState
from tests.serving import Served, serving

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A node with one app and one finished job, and the operator's token (or the first generated one locks it)."""

    served: Served
    token: str
    app_id: str
    job_id: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    root: Path = tmp_path_factory.mktemp("node")
    (root / "main.py").write_text("import pathlib; pathlib.Path('output/a.txt').write_text('42'); print('hello')")
    with serving(root / "data") as served, Client(served.socket) as client:
        app = client.wait_app(client.add_app_from(root / "main.py", network="infrax").id, timeout=120)
        job = client.wait_job(client.submit(app.id, limits={"memory": "128MiB"}).id, timeout=60)
        assert job.state is JobState.SUCCEEDED, job.error
        yield Target(served=served, token=client.add_token("operator", operator=True), app_id=app.id, job_id=job.id)
        assert client.node().version, "it still answers"


def attack(target: Target, directory: Path, parameters: dict[str, str], *options: str) -> None:
    """Let Schemathesis loose on the node: a bounded number of requests per operation, and of long polls short ones."""
    config = [f"{name} = {json.dumps(value)}" for name, value in {"wait": 0.1, "timeout": 0.1, **parameters}.items()]
    (directory / "schemathesis.toml").write_text("\n".join(["[parameters]", *config]))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(directory / "schemathesis.toml")]
    command += ["run", f"{target.served.url}/openapi.json", "-H", f"Authorization: Bearer {target.token}"]
    command += ["--checks", CHECKS, "--max-examples", "6", "--request-timeout", "20", "--no-color", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_nothing_that_is_sent_breaks_it(target: Target, tmp_path: Path) -> None:
    attack(target, tmp_path, {}, "--phases", "examples,coverage,fuzzing", "--seed", "1")


def test_answers_about_real_things_are_as_documented(target: Target, tmp_path: Path) -> None:
    real = {"job_id": target.job_id, "app_id": target.app_id, "path": "a.txt"}
    attack(target, tmp_path, real, "--phases", "fuzzing", "--include-path-regex", "_id}", "--include-method", "GET")
