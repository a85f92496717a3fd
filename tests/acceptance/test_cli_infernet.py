"""Infernet containers on the command line: run, checked, and served as an operator does; without Docker."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

MOORAGE = str(Path(sys.executable).with_name("moorage"))

Command = Callable[..., "subprocess.CompletedProcess[str]"]

CONTAINER = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/" else 404, {})

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            request = json.loads(text)
            assert isinstance(request["data"], dict)
        except (ValueError, AssertionError):
            return self.answer(400, {"error": "not understood"})
        if request["destination"] == 2:
            return self.stream(request["data"])
        if request["data"].get("fail"):
            return self.answer(200 if os.environ.get("RUDE") else 500, {"error": "I fail"})
        self.answer(200, {"who": os.environ.get("WHO", "app"), "given": request["data"]})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, data):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in data.get("words", ["word"]):
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(word), word.encode()))
        self.wfile.write(b"0\\r\\n\\r\\n")

print("listening", flush=True)
ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
"""
BROKEN = 'print("no container", flush=True)\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place for all, with one data directory, so that the Python environment is built once."""
    folder = tmp_path_factory.mktemp("infernet")
    _folder(folder / "echo", CONTAINER)
    return folder


@pytest.fixture(scope="module")
def env(home: Path) -> dict[str, str]:
    return {**os.environ, "MOORAGE_DATA_DIR": str(home / "data"), "MOORAGE_URL": "", "MOORAGE_TOKEN": ""}


@pytest.fixture(scope="module")
def moorage(env: dict[str, str], home: Path) -> Command:
    def command(*words: object, **more: str) -> "subprocess.CompletedProcess[str]":
        line = [MOORAGE, *map(str, words)]
        return subprocess.run(line, env=env | more, cwd=home, capture_output=True, text=True, timeout=300, check=False)

    return command


class _Remote(BaseHTTPRequestHandler):
    """A container that somebody else runs."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"path": self.path, "given": request["data"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Remote) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# run


def test_a_folder_with_the_code_of_a_container_is_run_and_gives_its_answer(moorage: Command) -> None:
    done = moorage("run", "echo", "--data", '{"a": 1}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"who": "app", "given": {"a": 1}}
    assert "succeeded · took " in done.stderr
    assert "ran 0.00" not in done.stderr


def test_settings_are_the_data(moorage: Command) -> None:
    done = moorage("run", "echo", "--set", "a=1", "--set", "b=text", "--quiet")
    assert json.loads(done.stdout)["given"] == {"a": 1, "b": "text"}
    assert done.stderr == ""


def test_with_json_the_document_holds_the_value(moorage: Command) -> None:
    done = moorage("run", "echo", "--data", '{"a": 1}', "--json")
    document = json.loads(done.stdout)
    assert document["job"]["value"] == [{"container": "app", "output": {"who": "app", "given": {"a": 1}}}]
    assert json.loads(document["stdout"]) == {"who": "app", "given": {"a": 1}}
    assert done.stderr == ""


def test_an_answer_is_streamed_as_it_is(moorage: Command) -> None:
    data = '{"words": ["one ", "two"]}'
    done = moorage("run", "echo", "--data", data, "--stream")
    assert (done.returncode, done.stdout) == (0, "one two")
    told = moorage("run", "echo", "--data", data, "--stream", "--json")
    document = json.loads(told.stdout)
    assert (document["stdout"], told.stderr) == ("one two", "one two")
    assert document["job"]["spec"]["mode"] == "stream"
    assert document["job"]["value"] == [{"container": "app", "output": {"output": "one two"}}]


def test_a_container_that_fails_ends_the_command_with_1(moorage: Command) -> None:
    done = moorage("run", "echo", "--data", '{"fail": true}')
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: Container app: HTTP 500" in done.stderr
    assert "I fail" in done.stderr
    assert "code: container_failed" in done.stderr


def test_a_container_that_somebody_else_runs_is_asked_at_its_url(moorage: Command, url: str) -> None:
    done = moorage("run", url, "--data", '{"a": 1}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"path": "/service_output", "given": {"a": 1}}
    below = moorage("run", f"{url}/some/where", "--name", "elsewhere", "--data", "{}", "--json")
    document = json.loads(below.stdout)
    assert document["app"]["name"] == "elsewhere"
    assert json.loads(document["stdout"])["path"] == "/some/where/service_output"


def test_a_container_that_is_not_there_is_told(moorage: Command) -> None:
    done = moorage("run", "http://127.0.0.1:1", "--data", "{}")
    assert done.returncode == 1
    assert "Cannot connect to host 127.0.0.1:1" in done.stderr


def test_the_containers_of_a_config_are_asked_one_after_the_other(moorage: Command, home: Path) -> None:
    file = _config(home / "chain" / "config.json", "a", "b")
    data = '{"containers": ["a", "b"], "data": {"x": 1}}'
    done = moorage("run", file, "--data", data, "--json")
    document = json.loads(done.stdout)
    assert document["app"]["name"] == "chain"
    assert json.loads(document["stdout"]) == {"who": "b", "given": {"who": "a", "given": {"x": 1}}}
    assert [answer["container"] for answer in document["job"]["value"]] == ["a", "b"]
    several = moorage("run", file, "--data", "{}")
    assert several.returncode == 2
    assert "The app has several containers: a, b." in several.stderr
    stream = moorage("run", file, "--data", data, "--stream")
    assert stream.returncode == 2
    assert "Only one container can stream." in stream.stderr


def test_app_add_takes_what_run_takes(moorage: Command, home: Path) -> None:
    file = _config(home / "added" / "config.json", "a")
    added = json.loads(moorage("app", "add", file, "--json").stdout)
    assert (added["name"], added["network"], added["state"]) == ("added", "infernet", "TESTING")
    done = moorage("run", file, "--data", "{}", "--json")
    assert json.loads(done.stdout)["app"]["id"] == added["id"]


def test_a_bad_config_is_refused_with_every_key(moorage: Command, home: Path) -> None:
    (home / "bad.json").write_text('{"containers": [{"id": "a,b", "moorage": {"directory": "nowhere"}}]}')
    done = moorage("run", "bad.json")
    assert done.returncode == 2
    for place in ("containers[0].id", "containers[0].moorage.directory", "containers[0].command"):
        assert f"bad.json: `{place}`: " in done.stderr
    (home / "cut.json").write_text('{"containers": [')
    cut = moorage("run", "cut.json")
    assert (cut.returncode, "cut.json is not valid JSON" in cut.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["./nowhere"], "source_not_found", "There is no file or folder ./nowhere."),
        (["nowhere.zip"], "source_not_found", "There is no file or folder nowhere.zip."),
        (["nowhere", "--network", "infrax"], "source_not_found", "There is no file or folder nowhere."),
        (["No Such"], "source_not_found", "There is no file or folder No Such."),
        (
            ["http://127.0.0.1:1", "--network", "infrax"],
            "source_not_recognized",
            "No network takes http://127.0.0.1:1.",
        ),
        (["ftp://127.0.0.1:1"], "source_not_recognized", "No network takes ftp://127.0.0.1:1."),
        (["other.json"], "source_not_recognized", "No network takes other.json."),
        (["http://127.0.0.1:1", "--network", "nonet"], "unknown_network", "No network is called 'nonet'."),
    ],
)
def test_an_unknown_source_is_told(words: list[str], code: str, says: str, moorage: Command, home: Path) -> None:
    (home / "other.json").write_text("{}")
    done = moorage("run", *words)
    assert done.returncode == 2, done.stderr
    assert f"error: {says}\n" in done.stderr
    assert f"code: {code}" in done.stderr


def test_a_folder_whose_name_looks_like_an_image_is_a_folder(moorage: Command, home: Path) -> None:
    folder = home / "hello" / "world:latest"
    _folder(folder, CONTAINER)
    done = moorage("run", "hello/world:latest", "--data", "{}", "--json")
    document = json.loads(done.stdout)
    assert document["job"]["state"] == "succeeded"
    assert document["app"]["name"] == "world:latest"
    assert document["app"]["manifest"]["containers"][0]["image"] == ""


def test_a_name_that_is_no_folder_is_said_to_be_taken_as_an_image(moorage: Command) -> None:
    done = moorage("app", "add", "no-such-folder")
    assert done.returncode == 0
    assert "There is no file or folder no-such-folder: infernet takes it as the name of an image" in done.stderr


# check


def test_a_container_that_keeps_the_contract_is_told_so(moorage: Command) -> None:
    done = moorage("check", "echo", "--data", '{"a": 1}')
    assert done.returncode == 0, done.stdout + done.stderr
    *rules, last = done.stdout.splitlines()
    assert rules
    assert {line[0] for line in rules} <= {"✓", "\N{EN DASH}"}
    assert f"{sum(line[0] == '✓' for line in rules)} passed, 0 failed, " in last


def test_a_container_that_breaks_the_contract_is_told_how(moorage: Command, home: Path) -> None:
    _folder(home / "rude", CONTAINER.replace('"Content-Type", "application/json"', '"Content-Type", "text/html"'))
    done = moorage("check", "rude")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    broken = next(number for number, line in enumerate(lines) if line.startswith("✗"))
    assert lines[broken + 1].startswith("   ")
    told = json.loads(moorage("check", "rude", "--json").stdout)
    assert told["failed"] == sum(finding["verdict"] == "failed" for finding in told["findings"]) > 0
    assert told["passed"] + told["failed"] + told["not_applicable"] == len(told["findings"])
    assert told["job"]["spec"]["mode"] == "check"
    assert told["app"]["name"] == "rude"


def test_an_infrax_app_is_checked_too(moorage: Command, home: Path) -> None:
    for name, main, status in (("fine", "print(1)", 0), ("cut", "print(", 1)):
        (home / name).mkdir()
        (home / name / "main.py").write_text(main)
        done = moorage("check", name)
        assert done.returncode == status, done.stderr
    assert "✗  main.py is valid Python\n   It cannot be compiled.\n   To mend it: " in done.stdout
    assert done.stdout.endswith("0 passed, 1 failed, 0 not applicable\n")
    assert "SyntaxError" in done.stderr


def test_a_check_that_cannot_be_made_ends_as_a_run_does(moorage: Command, home: Path) -> None:
    (home / "unchecked").mkdir()
    (home / "unchecked" / "main.py").write_text("print(1)")
    done = moorage("check", "unchecked", "--isolation", "nobox")
    assert (done.returncode, "code: unknown_isolation" in done.stderr) == (2, True)
    assert moorage("check", "./nowhere").returncode == 2


# serve and service


@contextmanager
def _served(env: dict[str, str], home: Path, *words: str) -> Iterator[str]:
    """Run `moorage serve` on a port that the kernel chooses; gives its address."""
    command = [MOORAGE, "serve", *words]
    announced = home / "data" / "node.json"
    with subprocess.Popen(command, env=env, cwd=home, stderr=subprocess.PIPE, text=True) as process:
        while not announced.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        try:
            yield json.loads(announced.read_text())["url"]
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _state(moorage: Command, key: str) -> dict[str, Any]:
    """Wait until a service is no longer starting."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = {each["key"]: each for each in json.loads(moorage("service", "list", "--json").stdout)}
        if key in listed and listed[key]["state"] != "starting":
            return listed[key]
    raise AssertionError(listed)


def test_without_a_node_there_are_no_services(moorage: Command) -> None:
    done = moorage("service", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "There are no services.\n")
    assert json.loads(moorage("service", "list", "--json").stdout) == []


def test_services_are_listed_shown_and_heard(moorage: Command, env: dict[str, str], home: Path) -> None:
    file = _config(home / "fleet" / "config.json", "echo", server={"port": 0})
    _add(file, {"id": "a/b?c", "image": "127.0.0.1:1/nothing"})
    with _served(env, home, "--infernet-config", "fleet/config.json") as address:
        assert _state(moorage, "infernet:echo")["state"] == "ready"
        table = moorage("service", "list").stdout.splitlines()
        assert table[0].split() == ["KEY", "STATE", "RESTARTS", "SINCE", "CPU", "MEMORY", "REASON"]
        assert ["infernet:echo", "ready", "0"] in [line.split()[:3] for line in table]
        shown = moorage("service", "show", "infernet:echo").stdout
        assert "ready" in shown
        assert "listening" in shown
        told = json.loads(moorage("service", "show", "infernet:echo", "--json").stdout)
        assert set(told["load"]) == {"cpu", "memory", "pids"}
        logs = moorage("service", "logs", "infernet:echo")
        assert logs.stdout.startswith("listening\n")
        assert json.loads(moorage("service", "logs", "infernet:echo", "--json").stdout)["log_tail"].startswith("listen")
        assert _state(moorage, "infernet:a/b?c")["state"] == "failed"
        assert json.loads(moorage("service", "show", "infernet:a/b?c", "--json").stdout)["key"] == "infernet:a/b?c"
        unknown = moorage("service", "show", "infernet:no/such?thing")
        assert unknown.returncode == 2
        assert "There is no service infernet:no/such?thing." in unknown.stderr
        assert "moorage service list" in unknown.stderr
        assert json.loads(_get(f"{address}/info"))["containers"][0]["id"] == "echo"
        answer = moorage("run", "echo", "--data", '{"a": 1}')  # joins this node
        assert json.loads(answer.stdout)["given"] == {"a": 1}


def test_a_service_that_does_not_start_says_why(moorage: Command, env: dict[str, str], home: Path) -> None:
    file = _config(home / "broken" / "config.json", "gone", server={"port": 0}, code=BROKEN)
    with _served(env, home, "--infernet-config", str(file)):
        found = _state(moorage, "infernet:gone")
        assert found["state"] == "failed"
        assert found["reason"].startswith("Its process ended with status 0.")
        assert "no container" in moorage("service", "show", "infernet:gone").stdout


def test_the_log_goes_to_the_file_that_the_config_names(moorage: Command, env: dict[str, str], home: Path) -> None:
    log = {"path": "node.log", "max_file_size": 100_000, "backup_count": 1}
    _config(home / "logged" / "config.json", "gone", server={"port": 0}, log=log, code=BROKEN, unknown=1)
    with _served(env, home, "--infernet-config", "logged/config.json"):
        _state(moorage, "infernet:gone")
    lines = [json.loads(line) for line in (home / "logged" / "node.log").read_text().splitlines()]
    assert {"event", "level", "timestamp"} <= lines[0].keys()
    assert any("unknown key `unknown`" in line.get("message", "") for line in lines)
    assert any(line["event"] == "service not available" and line["service"] == "infernet:gone" for line in lines)


def test_a_bad_config_is_told_before_anything_starts(moorage: Command, home: Path) -> None:
    bad = {
        "chain": {"enabled": True},
        "containers": [{"id": "x", "port": 0}, {"id": "x", "image": "i"}],
        "server": {"port": "http"},
    }
    (home / "bad-server.json").write_text(json.dumps(bad))
    done = moorage("serve", "--infernet-config", "bad-server.json")
    assert (done.returncode, done.stdout) == (2, "")
    for key in (
        "chain.rpc_url", "chain.registry_address", "chain.wallet.private_key",
        "containers[0].image", "containers[0].port", "containers[1].id", "server.port",
    ):  # fmt: skip
        assert f"bad-server.json: `{key}`: " in done.stderr
    assert "code: bad_manifest" in done.stderr
    assert "Traceback" not in done.stderr
    assert "listens" not in done.stderr
    missing = moorage("serve", "--infernet-config", "no-such.json")
    assert (missing.returncode, "There is no configuration file no-such.json." in missing.stderr) == (2, True)


def test_a_log_that_cannot_be_written_is_told_before_anything_starts(moorage: Command, home: Path) -> None:
    (home / "unlogged.json").write_text(json.dumps({"log": {"path": "no/where.log"}}))
    done = moorage("serve", "--infernet-config", "unlogged.json")
    assert done.returncode == 2
    assert "`log.path`: no/where.log cannot be written: No such file or directory." in done.stderr


def test_the_node_listens_where_the_config_says_unless_something_stronger_does(env: dict[str, str], home: Path) -> None:
    _config(home / "where" / "config.json", server={"host": "localhost", "port": 1})
    (home / "where.toml").write_text('port = 0\n[networks.infernet]\nconfig = "no-such.json"\n')
    with _served(env, home, "--config", "where.toml", "--infernet-config", "where/config.json") as address:
        assert address.startswith("http://localhost:")
        assert json.loads(_get(f"{address}/info"))["containers"] == []
    with _served(env, home, "--infernet-config", "where/config.json", "--host", "127.0.0.1", "--port", "0") as address:
        assert address.startswith("http://127.0.0.1:")


def test_beyond_loopback_the_greeting_says_what_is_open_and_the_rest_needs_a_token(
    env: dict[str, str], home: Path
) -> None:
    _config(home / "open" / "config.json", server={"host": "0.0.0.0", "port": 0})
    command = [MOORAGE, "serve", "--infernet-config", "open/config.json"]
    with subprocess.Popen(command, env=env, cwd=home, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(4)]
        port = lines[0].split(" and ")[0].rpartition(":")[2]
        assert "/health, /info, /resources and /api/* are open to everybody who reaches the port." in lines[2]
        assert "Everything else needs a token; `moorage token add NAME` makes one." in lines[3]
        assert json.loads(_get(f"http://127.0.0.1:{port}/info"))["containers"] == []
        with pytest.raises(urllib.error.HTTPError) as refused:
            _get(f"http://127.0.0.1:{port}/v1/services")
        with closing(refused.value):
            assert refused.value.code == 401
        process.terminate()
        process.communicate(timeout=60)


def _folder(folder: Path, code: str) -> None:
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(code)
    (folder / "moorage.toml").write_text('network = "infernet"\ncommand = ["python", "app.py"]\n')


def _config(file: Path, *names: str, code: str = CONTAINER, **more: Any) -> Path:
    """Write a config.json with a folder for each container."""
    for name in names:
        (file.parent / name).mkdir(parents=True)
        (file.parent / name / "app.py").write_text(code)
    file.parent.mkdir(exist_ok=True)
    containers = [
        {"id": name, "command": "python app.py", "env": {"WHO": name}, "moorage": {"directory": name}} for name in names
    ]
    file.write_text(json.dumps({"containers": containers, **more}))
    return file


def _add(file: Path, container: dict[str, Any]) -> None:
    document = json.loads(file.read_text())
    document["containers"].append(container)
    file.write_text(json.dumps(document))


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())
