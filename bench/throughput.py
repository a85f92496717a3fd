"""200 trivial isolated jobs through the API, against the same 200 as bare bubblewrap runs, with the same parallelism.

Run: `uv run python -m bench.throughput`.
"""

import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.common import Server, bare_command, report, server

JOBS, PARALLEL, ROUNDS = 200, 4, 3
MAIN = "pass\n"


def main() -> float:
    with server(cpus=PARALLEL) as node, tempfile.TemporaryDirectory() as folder:
        app_id = node.app(MAIN)
        (Path(folder) / "main.py").write_text(MAIN)
        bare = bare_command(node.data_dir, Path(folder))
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(bare_runs(bare))
            ours.append(our_runs(node, app_id))
    return report("throughput of 200 jobs", ours, theirs, limit=1.4, unit="s")


def bare_runs(command: list[str]) -> float:
    begun = time.monotonic()
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(lambda _: subprocess.run(command, check=True, capture_output=True), range(JOBS)))
    return time.monotonic() - begun


def our_runs(node: Server, app_id: str) -> float:
    connection = node.connect()
    begun = time.monotonic()
    jobs = [connection.call("POST", "/v1/jobs", {"app_id": app_id})["id"] for _ in range(JOBS)]
    for job_id in jobs:
        job = connection.call("GET", f"/v1/jobs/{job_id}/wait?state=settled&timeout=60")
        assert job["state"] == "succeeded", job
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
