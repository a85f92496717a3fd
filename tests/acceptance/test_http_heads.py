"""What comes before the routes: requests whose heads never end, and answers in one piece."""

import socket
from pathlib import Path

from tests.serving import serving


def test_a_request_whose_head_never_ends_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        host, port = served.url.removeprefix("http://").split(":")
        for start, more in (
            (b"GET /", b"x" * 65536),
            (b"GET / HTTP/1.1\r\n", b"X-Filler: " + b"y" * 8192 + b"\r\n"),
            (b"GET / HTTP/1.1\r\nX-Filler: ", b"y" * 8192),
        ):
            with socket.create_connection((host, int(port)), 10) as connection:
                connection.sendall(start)
                answer = b""
                try:
                    for _ in range(64):
                        connection.sendall(more)
                    answer = connection.recv(4096)
                except (ConnectionResetError, BrokenPipeError):  # closed while we were still sending
                    continue
                assert answer.startswith(b"HTTP/1.1 400") or answer == b""


def test_head_and_body_of_a_short_answer_come_together(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            for _ in range(20):
                connection.sendall(b"GET /v1/node HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert connection.recv(65536).endswith(b"}")
