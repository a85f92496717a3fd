"""`moorage run` on Aleph programs, as a person types it: folders, messages, requests, and serving until Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from moorage.cli.run import serves_requests
from moorage.errors import BadUsage
from moorage.model.apps import App
from moorage.model.states import AppState
from tests.aleph import program
from tests.aleph_node import AlephNode, aleph_node, share_layers, zipped

MOORAGE = str(Path(sys.executable).with_name("moorage"))
HEARING = ("env", "--default-signal=INT")
"""What a shell starts in the background ignores interrupts, and so does everything below it, such as this suite."""

COUNTER = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "aleph.message":
        return await send({"took": json.loads(scope["body"])["content"]["content"]})
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    count = int(open("/state/count").read()) if os.path.exists("/state/count") else 0
    open("/state/count", "w").write(str(count + 1))
    print("asked for", scope["path"])
    sent = dict(scope["headers"]).get(b"x-name", b"nobody") + b"," + (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"VERSION %d %s" % (count, sent)})
"""
FOLDER = """
network = "aleph"
[aleph]
entrypoint = "main:app"
volumes = [{ name = "state", mount = "/state", persistence = "host", size_mib = 5 }]
"""
SERVER = """
import http.server, six

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"six {six.__version__}".encode())

http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]
Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers, start_timeout=5) as running:
        yield running


@pytest.fixture
def moorage(node: AlephNode, tmp_path: Path) -> Command:
    """Call the command on the module's node."""

    def command(*words: object) -> Done:
        return called(words, {"MOORAGE_URL": node.url}, tmp_path)

    return command


def called(words: Sequence[object], env: dict[str, str], cwd: Path) -> Done:
    command = [MOORAGE, *map(str, words)]
    env = {**os.environ, **env}
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Make a program's folder; the name of the app is the test's own."""

    def make(name: str, toml: str = FOLDER, **files: str) -> Path:
        source = tmp_path / name
        source.mkdir()
        (source / "moorage.toml").write_text(toml)
        for stem, text in {"main": COUNTER, **files}.items():
            (source / f"{stem}.py").write_text(text)
        return source

    return make


def test_a_request_prints_the_answer_and_nothing_else_on_standard_output(moorage: Command, folder: Folder) -> None:
    done = moorage("run", folder("asked"), "--request", "GET /a/b?c=1")
    assert (done.returncode, done.stdout) == (0, "VERSION 0 nobody,")
    assert "asked for /a/b\n" in done.stderr
    assert "succeeded" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--set", 'headers={"x-name": "me"}', "--set", "body=[1]"),
        ("--data", '{"headers": {"x-name": "me"}, "body": "[1]"}'),
    ],
)
def test_headers_and_a_body_go_along_with_a_request(moorage: Command, folder: Folder, words: tuple[str, ...]) -> None:
    done = moorage("run", folder("sent"), "--request", "POST /", *words, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" me,[1]")


def test_edited_code_is_served_at_the_same_address_with_the_same_volumes(moorage: Command, folder: Folder) -> None:
    source = folder("edited")
    first = json.loads(moorage("run", source, "--request", "/", "--json").stdout)["job"]["value"]
    (source / "main.py").write_text(COUNTER.replace("VERSION", "second"))
    second = json.loads(moorage("run", source, "--request", "/", "--json").stdout)["job"]["value"]
    assert (first["body"], second["body"]) == ("VERSION 0 nobody,", "second 1 nobody,")
    assert (first["program"], list(first["refs"])) == (second["program"], list(second["refs"]))
    assert first["refs"] != second["refs"]


def test_what_a_folder_asks_for_can_be_edited_too(moorage: Command, folder: Folder) -> None:
    source = folder("amended")
    before = json.loads(moorage("run", source, "--request", "/", "--json").stdout)["job"]["value"]
    (source / "moorage.toml").write_text(f"{FOLDER}[aleph.resources]\nmemory = 64\n")
    after = json.loads(moorage("run", source, "--request", "/", "--json").stdout)["job"]["value"]
    assert after["program"] != before["program"]
    assert after["body"] == "VERSION 1 nobody,"


def test_a_message_is_given_to_its_handler_without_being_published(moorage: Command, folder: Folder) -> None:
    done = moorage("run", folder("told"), "--data", '{"message": {"content": {"content": "tide"}}}')
    assert (done.returncode, done.stdout) == (0, '{"took": "tide"}\n'), done.stderr


def test_a_program_that_cannot_be_imported_fails_with_its_traceback(moorage: Command, folder: Folder) -> None:
    done = moorage("run", folder("broken", main="import no_such_module"), "--request", "/")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert "error: The program did not start." in done.stderr
    assert "code: program_not_started" in done.stderr


def test_an_executable_that_opens_no_port_fails_and_is_told_so(moorage: Command, folder: Folder) -> None:
    done = moorage("run", folder("silent", 'network = "aleph"\ncommand = ["sleep", "60"]\n'), "--request", "/")
    assert done.returncode == 1
    assert "The program did not start. It did not answer within 5 seconds." in done.stderr


def test_an_executable_has_its_requirements_and_they_are_stored_once(
    moorage: Command, folder: Folder, node: AlephNode
) -> None:
    source = folder("packaged", 'network = "aleph"\ncommand = ["python", "main.py"]\n', main=SERVER)
    (source / "requirements.txt").write_text("six==1.16.0\n")
    done = moorage("run", source, "--request", "/", "--quiet")
    assert (done.returncode, done.stdout) == (0, "six 1.16.0"), done.stderr

    def stores() -> int:
        found = node.client.get("/api/v0/messages.json?msgType=STORE").json()
        return int(found["pagination_total"])

    before = stores()
    assert moorage("run", source, "--request", "/", "--quiet").stdout == "six 1.16.0"
    assert stores() == before


def test_a_message_runs_with_the_files_beside_it(moorage: Command, tmp_path: Path) -> None:
    ref, packages = "a" * 64, "b" * 64
    body = program(ref, volumes=[{"ref": packages, "mount": "/opt/packages"}], resources={"seconds": 20})
    body["code"] |= {"encoding": "zip"}
    message = {**body, "address": "0x" + "1" * 40, "time": 1.0}
    (tmp_path / "program.json").write_text(json.dumps(message))
    code = COUNTER.replace("/state/count", "/tmp/count").replace("VERSION", "with") + "\nimport beside\n"
    (tmp_path / f"{ref}.zip").write_bytes(zipped({"main.py": code}))

    done = moorage("run", "program.json", "--request", "/")
    assert done.returncode == 2
    assert f"`volumes[0].ref` is not here: {packages}" in done.stderr
    assert "beside the message" in done.stderr

    (tmp_path / f"{packages}.zip").write_bytes(zipped({"beside.py": ""}))
    done = moorage("run", "program.json", "--request", "/", "--quiet")
    assert (done.returncode, done.stdout) == (0, "with 0 nobody,"), done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{bad}", "program.json is not valid JSON"),
        ('{"type": "PROGRAM", "content": {"code": {}}}', "`content.code.ref`: is missing"),
        ('{"type": "INSTANCE", "item_hash": "x"}', "expected PROGRAM or vm-function, not 'INSTANCE'"),
    ],
)
def test_a_document_that_is_no_program_ends_with_2_and_the_reason(
    moorage: Command, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "program.json").write_text(text)
    done = moorage("run", "program.json", "--request", "/")
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--request", "GET path"), "'GET path' is no request"),
        (("--set", "x=1"), "unknown key `x`; did you mean"),
        (("--request", "/", "--set", "headers=x"), "`headers` must be JSON"),
        (("--request", "/", "--data", '{"message": {}}'), "`message` goes with nothing else"),
        (("--request", "/", "--input", "app/main.py"), "takes no input files"),
    ],
)
def test_a_request_that_makes_no_sense_ends_with_2_and_the_reason(
    moorage: Command, folder: Folder, words: tuple[str, ...], told: str
) -> None:
    folder("app")
    done = moorage("run", "app", *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_only_apps_that_are_served_are_made_requests() -> None:
    facts = {"id": "app_1", "network": "infrax", "name": "pictures", "owner": "me", "digest": "", "size": 0, "files": 0}
    app = App(state=AppState.TESTING, **facts)  # type: ignore[arg-type]
    with pytest.raises(BadUsage, match="pictures answers no requests"):
        serves_requests(app, "GET /")
    assert serves_requests(app, None) is False


def test_it_is_served_until_an_interrupt_which_is_its_success(
    folder: Folder, tmp_path: Path, aleph_layers: Path
) -> None:
    """By a node of the command's own, as when no server runs."""
    data = tmp_path / "data"
    share_layers(data, aleph_layers)
    env = {**os.environ, "MOORAGE_DATA_DIR": str(data), "MOORAGE_URL": ""}
    source = folder("served")
    command = [*HEARING, MOORAGE, "run", str(source)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        assert httpx.get(url, timeout=30).text == "VERSION 0 nobody,"
        assert "asked for" in serving.stdout.readline()
        (source / "main.py").write_text(COUNTER.replace("VERSION", "edited"))
        beside = called(("run", source, "--request", "/", "--quiet"), {**env}, tmp_path)
        assert beside.stdout == "edited 1 nobody,", beside.stderr
        assert httpx.get(url, timeout=30).text == "edited 2 nobody,"
        serving.send_signal(signal.SIGINT)
        _, said = serving.communicate(timeout=60)
    assert serving.returncode == 0, said
    assert "Stopping the app; Ctrl-C again leaves it to the node." in said
    assert "succeeded" in said
    document: list[Any] = json.loads(called(("job", "list", "--json"), env, tmp_path).stdout)
    assert {job["state"] for job in document} == {"succeeded"}
