"""A container engine for tests, images made without any registry, and a little registry to pull from.

The engine is the one that answers on this machine, or else a `dockerd` of our own for as long as the tests take.
"""

import base64
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from moorage.sandbox.docker import endpoint
from moorage.sandbox.docker_guard import UnixConnection

PYTHON = "moorage-test/python:latest"
"""An image with /usr/bin/python3 and the libraries that it needs, and nothing to run by itself."""
READY_WITHIN = 30.0
UNNEEDED = re.compile(
    r"__pycache__|test|tests|site-packages|dist-packages|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|config-.*"
    r"|_test.*\.so|_tkinter.*\.so|_curses.*\.so|_crypt.*\.so|_codecs_.*\.so"
)


class NoEngine(Exception):
    """No engine can be had on this machine; says why."""


@dataclass(kw_only=True)
class Engine:
    """An engine that answers at `url`, to be put into DOCKER_HOST."""

    url: str
    made: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: bytes = b"", **query: object) -> tuple[int, bytes]:
        """Ask it something in the words of its API."""
        parts = urlsplit(self.url)
        unix = parts.scheme == "unix"
        connection = (
            UnixConnection(parts.path, timeout=60) if unix else http.client.HTTPConnection(parts.netloc, timeout=60)
        )
        with contextlib.closing(connection):
            kind = "application/x-tar" if body[:1] not in (b"", b"{") else "application/json"
            connection.request(method, f"{path}?{urlencode(query)}", body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, response.read()

    def get(self, path: str, **query: object) -> Any:
        """Ask for something that is there."""
        status, answer = self.call("GET", path, **query)
        assert status == 200, answer
        return json.loads(answer)

    def containers(self, label: str) -> list[dict[str, Any]]:
        return self.get("/containers/json", all=1, filters=json.dumps({"label": [label]}))

    def networks(self, label: str) -> list[dict[str, Any]]:
        return self.get("/networks", filters=json.dumps({"label": [label]}))

    def inspect(self, container: str) -> dict[str, Any] | None:
        status, answer = self.call("GET", f"/containers/{container}/json")
        return json.loads(answer) if status == 200 else None

    def image(self, name: str, script: str, *, env: Mapping[str, str] | None = None) -> str:
        """Make an image that runs a Python script (standard library only), its command being the script's arguments."""
        if PYTHON not in self.made:
            self._make(
                PYTHON, "/images/create", python_files(), fromSrc="-", repo=PYTHON.partition(":")[0], tag="latest"
            )
        variables = "".join(f"ENV {key}={json.dumps(text)}\n" for key, text in (env or {}).items())
        recipe = (
            f"FROM {PYTHON}\n{variables}COPY main.py /app/main.py\n"
            'ENTRYPOINT ["/usr/bin/python3", "-u", "/app/main.py"]\n'
        )
        self._make(name, "/build", tar_of({"Dockerfile": recipe.encode(), "main.py": script.encode()}), t=name, rm=1)
        return name

    def remove_images(self) -> None:
        for name in reversed(self.made):
            self.call("DELETE", f"/images/{name}", force=1)

    def _make(self, name: str, path: str, files: bytes, **query: object) -> None:
        status, answer = self.call("POST", path, files, **query)
        assert status == 200, answer
        assert b'"error"' not in answer, answer
        self.made.append(name)


@contextlib.contextmanager
def an_engine() -> Iterator[Engine]:
    """Give an engine; images that were made with it are removed at the end. Raises NoEngine if none can be had."""
    found = Engine(url=endpoint())
    with contextlib.ExitStack() as stack:
        if not answers(found):
            found = stack.enter_context(an_own_engine())
        stack.callback(found.remove_images)
        yield found


@contextlib.contextmanager
def an_own_engine() -> Iterator[Engine]:
    """Start dockerd in a temporary directory, and stop it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
    program = shutil.which("dockerd", path=path)
    if program is None:
        raise NoEngine("no container engine answers, and there is no dockerd to start: apt install docker.io")
    if os.geteuid() != 0:
        raise NoEngine("no container engine answers, and only root can start dockerd")
    place = Path(tempfile.mkdtemp(prefix="moorage-docker-"))  # short, for it makes sockets in there
    engine = Engine(url=f"unix://{place}/docker.sock")
    options = ("--data-root", place / "data", "--exec-root", place / "exec", "--pidfile", place / "pid")
    with (place / "log").open("wb") as log:
        dockerd = subprocess.Popen(
            [program, *options, "--host", engine.url, "--bridge", "none"],  # a system's engine has docker0
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
    try:
        await_answer(engine, dockerd, place / "log")
        yield engine
        clear(engine)
    finally:
        stop(dockerd)
        shutil.rmtree(place, ignore_errors=True)


def answers(engine: Engine) -> bool:
    try:
        return engine.call("GET", "/_ping")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def await_answer(engine: Engine, dockerd: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not answers(engine):
        if dockerd.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").splitlines()[-3:]
            raise NoEngine(f"dockerd does not run on this machine: {' / '.join(said)}")
        time.sleep(0.05)


def clear(engine: Engine) -> None:
    """Remove what a failed test has left: bridges would outlive the engine."""
    for container in engine.get("/containers/json", all=1):
        engine.call("DELETE", f"/containers/{container['Id']}", force=1, v=1)
    engine.call("POST", "/networks/prune")


def stop(dockerd: subprocess.Popen[bytes]) -> None:
    dockerd.terminate()
    try:
        dockerd.wait(30)
    except subprocess.TimeoutExpired:
        dockerd.kill()
        dockerd.wait()


def python_files() -> bytes:
    """Pack the Python that runs these tests, and the shared libraries that it needs."""
    library, program = Path(sysconfig.get_path("stdlib")), Path(os.path.realpath(sys.executable))
    needed: set[str] = set()
    for file in (program, *library.glob("lib-dynload/*.so")):
        if not UNNEEDED.fullmatch(file.name):
            listed = subprocess.run(["ldd", file], check=False, capture_output=True, text=True).stdout
            needed.update(re.findall(r"(/\S+) \(0x", listed))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(program, "usr/bin/python3")
        tar.add(library, f"usr/lib/{library.name}", filter=needed_file)
        for path in sorted(needed):
            tar.add(os.path.realpath(path), path.lstrip("/"))
    return packed.getvalue()


def needed_file(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if UNNEEDED.fullmatch(Path(file.name).name) else file


def tar_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@dataclass(kw_only=True)
class Registry:
    """A registry on 127.0.0.1 with one image, called `image`; counts how often that is asked for."""

    port: int
    blobs: dict[str, bytes]
    manifest: bytes
    login: str | None
    asked: int = 0

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.port}/moorage-test/pulled:latest"

    def answer(self, path: str, authorization: str | None) -> tuple[int, str, bytes]:
        if self.login and authorization != f"Basic {base64.b64encode(self.login.encode()).decode()}":
            return 401, "application/json", b"{}"
        if "/manifests/" in path:
            self.asked += 1
            return 200, json.loads(self.manifest)["mediaType"], self.manifest
        if "/blobs/" in path:
            return 200, "application/octet-stream", self.blobs[path.rpartition("/")[2]]
        return 200, "application/json", b"{}"


@contextlib.contextmanager
def a_registry(files: Mapping[str, bytes], *, login: str | None = None) -> Iterator[Registry]:
    """Serve an image with these files; `login` is the `name:password` that it asks for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    layer = tar_of(files)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
    blobs = {digest(blob): blob for blob in (json.dumps(config).encode(), gzip.compress(layer, mtime=0))}
    kinds = ("container.image.v1+json", "image.rootfs.diff.tar.gzip")
    described = [
        {"mediaType": f"application/vnd.docker.{kind}", "size": len(blob), "digest": name}
        for kind, (name, blob) in zip(kinds, blobs.items(), strict=True)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described[0],
        "layers": described[1:],
    }
    registry = Registry(port=server.server_port, blobs=blobs, manifest=json.dumps(manifest).encode(), login=login)
    server.registry = registry
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, kind, body = self.server.registry.answer(self.path, self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", digest(body))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the server's own name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
