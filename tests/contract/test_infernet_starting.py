"""Containers that the node starts itself: readiness (contract, sections 2.1 and 4.1), and those that never come up.

Item 10 of the acceptance checklist (section 8). They are folders: no container engine is needed.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.infernet import Node, infernet, until

CODE = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if os.environ.get("FAIL"):
    sys.exit("no such model")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/service-resources" else 404, {"up": True})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {"given": request["data"], "who": os.environ["WHO"]})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

time.sleep(float(os.environ.get("DELAY", 0)))
ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
"""


@contextmanager
def managed(
    directory: Path, layers_dir: Path, settings: Mapping[str, Mapping[str, Any]], **more: Any
) -> Iterator[Node]:
    """Serve folders; `settings` is the environment of each container and, as `moorage`, its own table."""
    containers = []
    for name, each in settings.items():
        folder = directory / name
        folder.mkdir()
        (folder / "app.py").write_text(CODE)
        (folder / "requirements.txt").write_text(each.get("requirements", ""))
        extras = {"directory": name, **each.get("moorage", {})}
        env = {"WHO": name, **each.get("env", {})}
        containers.append({"id": name, "command": "python app.py", "env": env, "moorage": extras})
    (directory / "data").mkdir()
    (directory / "data" / "layers").symlink_to(layers_dir)
    with infernet(directory, containers, manage_containers=True, **more) as node:
        yield node


def healthy(node: Node) -> bool:
    answer = node.client.get("/health")
    assert (answer.status_code, answer.content) in {
        (200, b'{"status":"healthy"}\n'), (503, b'{"status":"unhealthy"}\n'),
    }  # fmt: skip
    return answer.status_code == 200


def listed(node: Node) -> list[str]:
    return [each["id"] for each in node.client.get("/info").json()["containers"]]


def test_the_node_is_unhealthy_until_its_containers_answer_and_takes_jobs_as_soon_as_it_can(
    tmp_path: Path, layers_dir: Path
) -> None:
    settings = {"slow": {"env": {"DELAY": 1}}, "quick": {}}
    with managed(tmp_path, layers_dir, settings, startup_wait=0) as node:
        assert node.client.get("/health").status_code == 503
        assert listed(node) == []
        assert node.client.get("/api/jobs").json() == []
        request = {"containers": ["slow"], "data": {"early": 1}}
        answers = []
        until(lambda: answers.append(node.client.post("/api/jobs", json=request)) or answers[-1].status_code != 503)
        assert all(each.content == b'{"error":"The node is starting"}\n' for each in answers[:-1])
        assert all(each.headers["retry-after"] == "1" for each in answers[:-1])
        assert not healthy(node)
        assert "slow" not in listed(node)
        early = answers[-1].json()["id"]
        until(lambda: healthy(node))
        assert listed(node) == ["slow", "quick"]
        assert node.done("slow", now=1) == {"container": "slow", "output": {"given": {"now": 1}, "who": "slow"}}
        assert node.result(early)["result"]["output"]["given"] == {"early": 1}
        assert node.done("quick", "slow", x=1)["output"] == {
            "given": {"given": {"x": 1}, "who": "quick"},
            "who": "slow",
        }
        assert node.client.get("/resources").json() == {"quick": {"up": True}, "slow": {"up": True}}


def test_a_container_that_never_comes_up_harms_no_other_and_its_jobs_say_why(tmp_path: Path, layers_dir: Path) -> None:
    settings = {
        "good": {},
        "crash": {"env": {"FAIL": 1}},
        "mute": {"env": {"DELAY": 3600}, "moorage": {"start_timeout": 0.5}},
        "unfit": {"requirements": "--no-such-option\n"},
    }
    with managed(tmp_path, layers_dir, settings) as node:
        until(lambda: healthy(node))
        assert listed(node) == ["good"]
        assert list(node.client.get("/resources").json()) == ["good"]
        begun = time.monotonic()
        results = {name: node.done(name) for name in settings}
        assert time.monotonic() - begun < 5
        assert results["good"]["output"]["who"] == "good"
        assert results["crash"]["error"].startswith("Cannot connect to host crash: ")
        assert "status 1" in results["crash"]["error"]
        assert results["mute"]["error"].startswith("Cannot connect to host mute: It did not answer within 0.5 seconds.")
        assert results["unfit"]["error"].startswith("Container unfit is not available: ")
        assert "requirements.txt" in results["unfit"]["error"]
        assert node.done("good", "crash")["container"] == "crash"


@pytest.mark.parametrize("text", ["{", json.dumps({"containers": [{"id": "a,b"}]})])
def test_a_bad_configuration_is_an_error_before_anything_listens(tmp_path: Path, text: str) -> None:
    from moorage.errors import BadManifest
    from tests.serving import serving

    path = tmp_path / "config.json"
    path.write_text(text)
    with (
        pytest.raises(BadManifest, match=r"config\.json"),
        serving(tmp_path / "data", networks={"infernet": {"config": str(path)}}),
    ):
        pass
