"""A `moorage serve` of its own process that serves an Infernet `config.json`, and a container for it to run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from moorage.client import Client
from moorage.networks.base import ServiceState
from moorage.node.directory import DataDirectory

MOORAGE = Path(sys.executable).with_name("moorage")
STARTS_WITHIN = 60.0

CONTAINER = """
import hashlib, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

name = os.environ.get("NAME", "?")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/service-resources":
            model = query.partition("model_id=")[2]
            self.answer(200, {"supported": model == "good"} if model else {"name": name, "models": ["good"]})
        else:
            self.answer(200, {"name": name})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = request["data"]
        print(name, "got", json.dumps(request), flush=True)
        if request["destination"] == 2:
            return self.stream(data)
        time.sleep(data.get("sleep", 0))
        if "spin" in data:
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", data["spin"])
        if data.get("fail") == name:
            return self.answer(500, {"code": "500", "description": "I fail"})
        if data.get("die"):
            os._exit(3)
        self.answer(200, {**data, "by": [*data.get("by", []), name], "proof": request["requires_proof"]})

    def stream(self, data):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in data["words"]:
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(word.encode()), word.encode()))
            time.sleep(data.get("pause", 0))
        self.wfile.write(b"0\\r\\n\\r\\n")

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

print(name, "listens", *sys.argv[1:], flush=True)
Server(("0.0.0.0", 3000), Handler).serve_forever()
"""
"""Answers with what it was given and its name; `sleep`, `spin`, `fail` (a name) and `die` in the data say what else."""


def folder_container(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """Lay out a container that runs from a folder, and give its entry."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(CONTAINER)
    extras = {"directory": str(folder), **more.pop("moorage", {})}
    return {"id": name, "command": "python main.py", "env": {"NAME": name}, "moorage": extras, **more}


class Served:
    """A `moorage serve --infernet-config` in a process of its own; `http` asks it as a client of the network does."""

    def __init__(self, home: Path, config: Mapping[str, Any], *, env: Mapping[str, str] | None = None) -> None:
        self.home, self.data_dir = home, home / "data"
        home.mkdir(exist_ok=True)
        path = home / "config.json"
        path.write_text(json.dumps({"server": LIMITLESS, "startup_wait": 0.0, **config}))
        command = [MOORAGE, "serve", "--port", "0", "--data-dir", self.data_dir, "--infernet-config", path]
        with (home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(each) for each in command],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._await_listening()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def stop(self, within: float = 30.0) -> float:
        """End it as a service manager does; give how many seconds it took."""
        self.http.close()
        self.client.close()
        begun = time.monotonic()
        self.process.terminate()
        assert self.process.wait(within) == 0, self.said
        return time.monotonic() - begun

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if hasattr(self, "http"):
            self.http.close()
            self.client.close()

    @property
    def said(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def await_healthy(self, within: float = STARTS_WITHIN) -> None:
        self.until(lambda: self.http.get("/health").status_code == 200, within)

    def until(self, true: Callable[[], object], within: float = STARTS_WITHIN) -> None:
        """Wait until something is so, while the node runs."""
        deadline = time.monotonic() + within
        while not true():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, f"not so after {within} s:\n{self.said}"
            time.sleep(0.02)

    def service(self, name: str) -> ServiceState:
        """Tell what the node says of a container that it runs."""
        return self.client.service(f"infernet:{name}")

    # what a client does

    def submit(self, *containers: str, **data: Any) -> str:
        answer = self.http.post("/api/jobs", json={"containers": list(containers), "data": data})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def result(self, job_id: str, wait: float = 30.0) -> dict[str, Any]:
        (found,) = self.results([job_id], wait)
        return found

    def results(self, ids: list[str], wait: float = 0.0) -> list[dict[str, Any]]:
        query = [("id", job_id) for job_id in ids]
        answer = self.http.get("/api/jobs", params=[*query, ("intermediate", "true"), ("wait", wait)])
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    def output(self, *containers: str, **data: Any) -> Any:
        """Run a job and give what came of it."""
        result = self.result(self.submit(*containers, **data))
        assert result["status"] == "success", result
        return result["result"]["output"]

    def _await_listening(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            presence = DataDirectory(self.data_dir).presence() if self.data_dir.exists() else None
            if presence and presence.pid == self.process.pid and presence.url and presence.socket:
                self.url = presence.url
                self.http = httpx.Client(base_url=presence.url, timeout=60)
                self.client = Client(Path(presence.socket))
                return
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)


LIMITLESS = {"rate_limit": {"num_requests": 1_000_000, "period": 1}}


@contextmanager
def healthy(home: Path, config: Mapping[str, Any], **more: Any) -> Iterator[Served]:
    """Serve, once every container is ready or given up."""
    with Served(home, config, **more) as served:
        served.await_healthy()
        yield served
