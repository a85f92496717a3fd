"""A small Infernet container that keeps the contract, for tests to break; standard library only."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Refused(Exception):
    """The request is at fault."""


class Good(BaseHTTPRequestHandler):
    """Shouts what it is given; every part of an answer is a method of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stopping: threading.Event
    """Set at the end of the test, so that nothing that hangs outlives it."""

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post(self.rfile.read(int(self.headers["Content-Length"])))

    def get(self) -> None:
        if self.path == "/service-resources":
            self.send_json(200, {"models": ["shout"]})
        else:
            self.send_json(404, {"code": "404"})

    def post(self, body: bytes) -> None:
        if self.path != "/service_output":
            self.send_json(404, {"code": "404"})
            return
        try:
            self.serve(json.loads(body))
        except Refused as error:
            self.refuse(str(error))

    def serve(self, request: dict[str, Any]) -> None:
        text = self.text_of(request)
        if request["destination"] == 2:
            self.stream(request, text.upper())
        elif request["destination"] == 0:
            self.succeed(self.for_chain(request, text))
        else:
            self.succeed({"output": text.upper()})

    def text_of(self, request: dict[str, Any]) -> str:
        data = request["data"]
        if request["source"] == 0:
            try:
                data = json.loads(bytes.fromhex(data))
            except ValueError:
                raise Refused("the input is no JSON in hexadecimal") from None
        if not isinstance(data, dict):
            raise Refused("data is no object")
        if "input" not in data:
            return self.text_without_input(data)
        return str(data["input"])

    def text_without_input(self, data: dict[str, Any]) -> str:
        if "output" in data:
            return str(data["output"])
        raise Refused("input is missing")

    def for_chain(self, request: dict[str, Any], text: str) -> Any:
        proof = b"proof" if request["requires_proof"] else b""
        return {
            "raw_input": text.encode().hex(), "processed_input": None, "raw_output": text.upper().encode().hex(),
            "processed_output": "", "proof": proof.hex(),
        }  # fmt: skip

    def stream(self, request: dict[str, Any], text: str) -> None:
        self.start(200, "text/plain", chunked=True)
        for letter in text:
            self.send_chunk(letter.encode())
        self.send_chunk(b"")

    def succeed(self, value: Any) -> None:
        self.send_json(200, value)

    def refuse(self, why: str) -> None:
        self.send_json(400, {"code": "400", "name": "Bad Request", "description": why})

    def send_json(self, status: int, value: Any) -> None:
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status: int, media_type: str, body: bytes, *, length: int | None = None) -> None:
        self.start(status, media_type, length=len(body) if length is None else length)
        self.wfile.write(body)

    def start(self, status: int, media_type: str, *, length: int = 0, chunked: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(length))))
        self.end_headers()

    def send_chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def hang(self) -> None:
        self.stopping.wait()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of connections that the client or the test broke."""


@contextlib.contextmanager
def listening(container: type[Good]) -> Iterator[str]:
    """Run a container in threads of this process; give where it answers."""
    stopping = threading.Event()
    handler = type(container.__name__, (container,), {"stopping": stopping})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            stopping.set()
            server.shutdown()
            thread.join()
