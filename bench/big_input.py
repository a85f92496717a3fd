"""A 2 GiB input reaches the app: peak memory of the node, and what is written to disk to hand it over.

Run: `uv run python -m bench.big_input`.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import Server, server

SIZE = 2 << 30
MAIN = "import os\nprint(os.stat('input/big.bin').st_size, flush=True)\n"


def main() -> None:
    with server(cpus=2) as node, tempfile.TemporaryDirectory() as folder:
        app_id = node.app(MAIN)
        small, big = upload(node, 1024), upload(node, SIZE)
        peak = node.peak_memory() / (1 << 20)
        print(
            f"upload of 2 GiB: peak memory of the node {peak:.0f} MiB (under 150: {'ok' if peak < 150 else 'MISSED'})"
        )
        times = {
            name: run(node, app_id, digest) for name, digest in (("warm-up", small), ("1 KiB", small), ("2 GiB", big))
        }
        begun = time.monotonic()
        shutil.copyfile(blob(node, big), Path(folder) / "copy")
        copying = time.monotonic() - begun
        print(
            f"job with a 2 GiB input: {times['2 GiB']:.2f} s, with 1 KiB: {times['1 KiB']:.2f} s; "
            f"a copy alone takes {copying:.2f} s: ratio {times['2 GiB'] / copying:.2f}"
        )
        print(f"peak memory of the node after the job: {node.peak_memory() / (1 << 20):.0f} MiB")


def upload(node: Server, size: int) -> str:
    connection = node.connect()
    connection.request("POST", "/v1/blobs", body=chunks(size), headers={"Content-Length": str(size)})
    return str(json.loads(connection.getresponse().read())["digest"])


def chunks(size: int) -> Iterator[bytes]:
    chunk = os.urandom(min(size, 1 << 20))
    for _ in range(size // len(chunk)):
        yield chunk


def blob(node: Server, digest: str) -> Path:
    (found,) = (node.data_dir / "blobs").rglob(digest[2:])
    return found


def run(node: Server, app_id: str, digest: str) -> float:
    connection = node.connect()
    begun = time.monotonic()
    inputs = [{"name": "big.bin", "digest": digest}]
    job = connection.call("POST", "/v1/jobs", {"app_id": app_id, "inputs": inputs})
    job = connection.call("GET", f"/v1/jobs/{job['id']}/wait?state=settled&timeout=60")
    assert job["state"] == "succeeded", job
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
