"""The other commands, on a server and without one."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MOORAGE = str(Path(sys.executable).with_name("moorage"))
ID = re.compile(r"(?:job|app)_[0-9a-f]{32}")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "greet").mkdir()
    (folder / "greet" / "main.py").write_text("import sys; print('hello'); print('aside', file=sys.stderr)")
    (folder / "broken").mkdir()
    (folder / "broken" / "main.py").write_text("")
    (folder / "broken" / "requirements.txt").write_text("this is no requirement\n")
    (folder / "slow").mkdir()
    (folder / "slow" / "main.py").write_text("import time; print('begun', flush=True); time.sleep(600)")
    return folder


@pytest.fixture(scope="module")
def env(home: Path) -> dict[str, str]:
    return {**os.environ, "MOORAGE_DATA_DIR": str(home / "data"), "MOORAGE_URL": "", "MOORAGE_TOKEN": ""}


@pytest.fixture(scope="module")
def moorage(env: dict[str, str], home: Path) -> Command:
    def command(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [MOORAGE, *words], env=env | more, cwd=home, capture_output=True, text=True, timeout=300, check=False
        )

    return command


@pytest.fixture
def server(env: dict[str, str], home: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A `moorage serve` and its address."""
    with subprocess.Popen(
        [MOORAGE, "serve", "--port", "0"], env=env, cwd=home, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        address = re.search(r"http://\S+", process.stderr.readline())
        assert address is not None
        yield process, address[0]
        process.terminate()
        process.communicate(timeout=60)


def test_an_app_is_added_shown_published_hidden_and_removed(moorage: Command) -> None:
    added = json.loads(moorage("app", "add", "greet", "--json").stdout)
    assert added["state"] == "TESTING"
    assert added["id"] in moorage("app", "list").stdout
    assert "app.created" in moorage("app", "show", "greet").stdout
    for word, state in (("publish", "PUBLISHED"), ("hide", "HIDDEN"), ("unhide", "PUBLISHED"), ("remove", "REMOVED")):
        assert json.loads(moorage("app", word, added["id"], "--json").stdout)["state"] == state
    gone = moorage("app", "show", "greet")
    assert gone.returncode == 2
    assert "code: not_found" in gone.stderr
    illegal = moorage("app", "publish", added["id"])
    assert illegal.returncode == 2
    assert "code: illegal_transition" in illegal.stderr


def test_requirements_that_cannot_be_installed_are_told_with_the_installers_words(moorage: Command) -> None:
    done = moorage("app", "add", "broken")
    assert done.returncode == 2
    assert "code: install_failed" in done.stderr
    assert "this is no requirement" in done.stderr
    assert "ERROR" in moorage("app", "list").stdout


def test_a_job_submitted_without_a_node_waits_and_runs_when_somebody_waits_for_it(moorage: Command) -> None:
    moorage("app", "add", "greet")
    submitted = moorage("job", "submit", "greet", "--label", "kind=test")
    assert submitted.returncode == 0, submitted.stderr
    assert "No node is running" in submitted.stderr
    job_id = ID.findall(submitted.stdout)[0]
    listed = json.loads(moorage("job", "list", "--label", "kind=test", "--json").stdout)
    assert [(job["id"], job["state"]) for job in listed] == [(job_id, "queued")]
    assert moorage("job", "why", job_id).returncode == 0
    waited = moorage("job", "wait", job_id)
    assert (waited.returncode, "succeeded" in waited.stdout) == (0, True)
    logs = moorage("job", "logs", job_id)
    assert (logs.stdout, logs.stderr) == ("hello\n", "aside\n")
    shown = moorage("job", "show", job_id).stdout
    assert "job.succeeded" in shown
    assert "kind=test" in shown


def test_a_job_that_waits_can_be_cancelled_and_a_job_that_has_ended_be_retried(moorage: Command) -> None:
    moorage("app", "add", "greet")
    job_id = json.loads(moorage("job", "submit", "greet", "--json").stdout)["id"]
    assert json.loads(moorage("job", "cancel", job_id, "--json").stdout)["state"] == "cancelled"
    assert moorage("job", "wait", job_id).returncode == 130
    again = json.loads(moorage("job", "retry", job_id, "--json").stdout)
    assert again["retry_of"] == job_id
    assert moorage("job", "wait", again["id"]).returncode == 0
    twice = moorage("job", "cancel", again["id"])
    assert twice.returncode == 2
    assert "code: job_finished" in twice.stderr


def test_the_doctor_says_what_is_there(moorage: Command) -> None:
    checks = json.loads(moorage("doctor", "--json").stdout)
    assert {"name", "ok", "required", "message"} <= checks[0].keys()
    plain = moorage("doctor")
    assert all(check["name"] in plain.stdout for check in checks)
    assert plain.returncode == (0 if all(check["ok"] for check in checks if check["required"]) else 3)


def test_commands_use_the_server_that_holds_the_data_directory(
    moorage: Command, server: tuple["subprocess.Popen[str]", str], home: Path
) -> None:
    process, address = server
    node = json.loads((home / "data" / "node.json").read_text())
    assert (node["pid"], node["url"]) == (process.pid, address)
    done = moorage("run", "greet")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    busy = moorage("serve", "--port", "0")
    assert busy.returncode == 3
    assert "code: data_directory_busy" in busy.stderr


def test_logs_are_followed_until_the_job_has_ended(
    moorage: Command, server: tuple["subprocess.Popen[str]", str], env: dict[str, str], home: Path
) -> None:
    app = json.loads(moorage("app", "add", "slow", "--json").stdout)
    job_id = json.loads(moorage("job", "submit", app["id"], "--json").stdout)["id"]
    with subprocess.Popen(
        [MOORAGE, "job", "logs", "-f", job_id], env=env, cwd=home, stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "begun\n"
        assert moorage("job", "cancel", job_id).returncode == 0
        assert follower.wait(timeout=60) == 0


def test_a_token_lets_in_over_tcp_and_nothing_else_does_then(
    moorage: Command, server: tuple["subprocess.Popen[str]", str]
) -> None:
    _, address = server
    assert moorage("job", "list", MOORAGE_URL=address).returncode == 0
    secret = moorage("token", "add", "alice").stdout.strip()
    try:
        assert "alice" in moorage("token", "list").stdout
        refused = moorage("job", "list", MOORAGE_URL=address)
        assert (refused.returncode, "code: unauthorized" in refused.stderr) == (2, True)
        assert moorage("job", "list", MOORAGE_URL=address, MOORAGE_TOKEN=secret).returncode == 0
        ran = moorage("run", "greet", "--name", "of-alice", MOORAGE_URL=address, MOORAGE_TOKEN=secret)
        assert (ran.returncode, ran.stdout) == (0, "hello\n")
    finally:
        assert moorage("token", "remove", "alice").returncode == 0
    assert moorage("token", "list").stdout == ""


def test_a_stopped_server_leaves_its_running_job_to_the_next_one(
    moorage: Command, env: dict[str, str], home: Path
) -> None:
    with subprocess.Popen(
        [MOORAGE, "serve", "--port", "0"], env=env, cwd=home, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stderr is not None
        one.stderr.readline()
        app = json.loads(moorage("app", "add", "slow", "--json").stdout)
        job_id = json.loads(moorage("job", "submit", app["id"], "--json").stdout)["id"]
        while json.loads(moorage("job", "show", job_id, "--json").stdout)["job"]["state"] == "queued":
            pass
        one.send_signal(signal.SIGTERM)
        _, stderr = one.communicate(timeout=60)
        assert one.returncode == 0
        assert "a running job goes back to the queue" in stderr
    assert json.loads(moorage("job", "show", job_id, "--json").stdout)["job"]["state"] == "queued"
    moorage("job", "cancel", job_id)


def test_beyond_loopback_a_node_does_not_listen_without_a_token(moorage: Command) -> None:
    done = moorage("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "code: token_required" in done.stderr


def test_a_wrong_key_in_the_configuration_is_told_with_the_right_one(moorage: Command, home: Path) -> None:
    (home / "node.toml").write_text("max_timout = 5\n")
    done = moorage("serve", "--config", "node.toml")
    assert done.returncode == 2
    assert "max_timeout" in done.stderr
    assert "node.toml" in done.stderr
