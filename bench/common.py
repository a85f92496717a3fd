"""What every measurement needs: a real server, its API, a bare bubblewrap to compare with, and a way to print."""

import contextlib
import http.client
import io
import json
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage.layers.python import python_runtime
from moorage.node.directory import DataDirectory

MOORAGE = Path(sys.executable).parent / "moorage"


class UnixConnection(http.client.HTTPConnection):
    """A keep-alive connection to the node's Unix socket: the leanest client the standard library has."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Make one request and give the JSON of its answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self.request(method, path, body=data, headers={"Content-Type": "application/json", **headers})
        answer = self.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text) if text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A `moorage serve` of our own."""

    process: subprocess.Popen[bytes]
    data_dir: Path

    def connect(self) -> UnixConnection:
        """Open a connection."""
        presence = DataDirectory(self.data_dir).presence()
        assert presence is not None
        assert presence.socket is not None
        return UnixConnection(Path(presence.socket))

    def memory(self) -> int:
        """Give the resident memory of the node in bytes."""
        return _status_field(self.process.pid, "VmRSS")

    def peak_memory(self) -> int:
        """Give the highest resident memory of the node so far in bytes."""
        return _status_field(self.process.pid, "VmHWM")

    def app(self, main: str) -> str:
        """Add an app made of one main.py and wait until it is installed."""
        connection = self.connect()
        blob = connection.call("POST", "/v1/blobs", _tar(main))
        source = {"type": "archive", "digest": blob["digest"]}
        app = connection.call("POST", "/v1/apps", {"name": "bench", "network": "infrax", "source": source})
        while app["state"] == "CREATED":
            app = connection.call("GET", f"/v1/apps/{app['id']}?wait=30&after={app['seq']}")
        assert app["state"] == "TESTING", app
        return str(app["id"])


@contextlib.contextmanager
def server(
    *, cpus: float, data_dir: Path | None = None, infernet: Path | None = None, **settings: int
) -> Iterator[Server]:
    """Run a node for as long as the context lasts, if need be with an Infernet node's `config.json`."""
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as temporary:
        place = data_dir or Path(temporary) / "data"
        config = Path(temporary) / "node.toml"
        lines = {"cpus": cpus, "memory": 1 << 40, **settings}
        table = f'[networks.infernet]\nconfig = "{infernet}"\n' if infernet else ""
        config.write_text("".join(f"{name} = {value}\n" for name, value in lines.items()) + table)
        command = [MOORAGE, "serve", "--port", "0", "--data-dir", place, "--config", config]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _await_presence(place, process)
                yield Server(process=process, data_dir=place)
            finally:
                process.terminate()
                process.wait(30)


def bare_command(data_dir: Path, app: Path) -> list[str]:
    """Give the bubblewrap command that a careful person would type to run `python main.py` in the same environment."""
    (layer,) = (data_dir / "layers").glob("python-*")
    runtime = python_runtime(layer / "env")
    words = f"""
        bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --clearenv
        --setenv PATH {runtime.bin}:/usr/bin:/bin --setenv HOME /home/app --setenv LANG C.UTF-8
        --setenv PYTHONUNBUFFERED 1
        --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64
        --proc /proc --dev /dev --tmpfs /tmp --tmpfs /home/app --bind {app} /app --chdir /app
    """.split()
    mounts = [word for mount in runtime.mounts for word in ("--ro-bind", str(mount.source), mount.target)]
    return [*words, *mounts, runtime.python, "main.py"]


def report(name: str, ours: Sequence[float], theirs: Sequence[float], *, limit: float, unit: str = "ms") -> float:
    """Print the medians of two samples and their ratio."""
    a, b = statistics.median(ours), statistics.median(theirs)
    verdict = "ok" if a / b <= limit else "MISSED"
    print(f"{name}: {a:.1f} {unit} against {b:.1f} {unit}: ratio {a / b:.2f} (at most {limit:g}: {verdict})")
    return a / b


def _await_presence(data_dir: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while (presence := DataDirectory(data_dir).presence()) is None or presence.pid != process.pid:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("moorage serve did not start")
        time.sleep(0.02)


def _status_field(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _tar(main: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("main.py")
        member.size = len(main.encode())
        archive.addfile(member, io.BytesIO(main.encode()))
    return buffer.getvalue()
