"""Programs that run what a test sends them, so that it sees what they see."""

import io
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.aleph_node import AlephNode, zipped

ASGI = """
import asyncio, contextlib, io, json, os, socket, sys, time, traceback

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(body.decode(), globals())
        except Exception:
            print(traceback.format_exc())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said.getvalue().encode()})
"""
EXECUTABLE = """#!/usr/bin/env python3
import contextlib, http.server, io, json, os, socket, sys, traceback

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["content-length"])).decode())

    def answer(self, code):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                exec(code, globals())
            except Exception:
                print(traceback.format_exc())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said.getvalue().encode())

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


def inside(node: AlephNode, program: str, code: str) -> str:
    """Run Python in a program; give what it printed."""
    answer = node.client.post(f"/vm/{program}/", content=code)
    assert answer.status_code == 200, (answer.status_code, answer.text, node.log(program)[-5:])
    return answer.text.strip()


def packed(files: Mapping[str, str | bytes], encoding: str) -> bytes:
    """Pack files, of which those are executable whose names end in `*`."""
    return {"zip": zipped, "tar.gzip": _tarred, "squashfs": _squashed}[encoding](files)


def _tarred(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.removesuffix("*"))
            info.size, info.mode = len(data), 0o755 if name.endswith("*") else 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _squashed(files: Mapping[str, str | bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(io.BytesIO(zipped(files))) as archive:
            archive.extractall(f"{place}/tree")
        for name in files:
            if name.endswith("*"):
                Path(place, "tree", name.removesuffix("*")).chmod(0o755)
        command = ["mksquashfs", f"{place}/tree", f"{place}/image", "-quiet", "-no-progress"]
        subprocess.run(command, check=True, capture_output=True)
        return Path(place, "image").read_bytes()


def resources(**more: Any) -> dict[str, Any]:
    return {"memory": 256, "seconds": 20, **more}
