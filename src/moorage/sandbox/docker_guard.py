"""Removes the containers of a node that is gone: a small process that outlives it, however the node ended.

Standard library only. The node uses the functions too, because they do not need what is slow to import.
"""

import contextlib
import http.client
import json
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode, urlsplit

NODE, RUN = "moorage.node", "moorage.run"
"""Labels: the node, known by its data directory, and one life of it."""
TELL, DO = 10.0, 60.0
"""Seconds that the engine may take to tell something, and to do something."""
LOOKS, PAUSE = 10, 0.5
"""How often to look: what the node had just asked for may appear late, and the engine may be about to start."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket, as the base class does to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def remove_containers(url: str, label: str, *, spare: str | None = None) -> int:
    """Remove all containers with this label, except those with the label `spare`; return how many there were.

    Raises OSError or HTTPException if no engine answers at `url` (`unix://…` or `tcp://…`).
    """
    found = _call(url, "GET", "/containers/json", all=1, filters=json.dumps({"label": [label]}))
    doomed = [each["Id"] for each in found if spare not in [f"{key}={text}" for key, text in each["Labels"].items()]]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda container: _remove(url, container), doomed))
    return len(doomed)


def remove_networks(url: str, label: str) -> None:
    """Remove all networks with this label that nobody uses.

    Raises OSError or HTTPException if no engine answers at `url`.
    """
    for network in _call(url, "GET", "/networks", filters=json.dumps({"label": [label]})):
        _call(url, "DELETE", f"/networks/{network['Id']}")


def guard(url: str, run: str) -> None:
    """Wait until the node is gone, then remove what this life of it had; a byte from the node says that it has done so.

    Networks are left to the next node, which may be about to use them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a service manager sends it to us as well, before the node is gone
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read(1):
        return
    for _ in range(LOOKS):
        with contextlib.suppress(OSError, http.client.HTTPException):
            remove_containers(url, f"{RUN}={run}")
        time.sleep(PAUSE)


def _remove(url: str, container: str) -> None:
    _call(url, "DELETE", f"/containers/{container}", force=1, v=1)
    _call(url, "POST", f"/containers/{container}/wait", condition="removed")  # somebody else may be about to remove it


def _call(url: str, method: str, path: str, **query: object) -> Any:
    parts, timeout = urlsplit(url), TELL if method == "GET" else DO
    connection = http.client.HTTPConnection(parts.netloc or "localhost", timeout=timeout)
    if parts.scheme == "unix":
        connection = UnixConnection(parts.path, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, f"{path}?{urlencode(query)}")
        response = connection.getresponse()
        answer = response.read()
    return json.loads(answer) if response.status == http.client.OK else []


if __name__ == "__main__":
    guard(*sys.argv[1:])
