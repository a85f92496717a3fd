"""Submit → first line of main.py, isolated, against a bare `bwrap … python main.py`: started anew, and kept warm.

Run: `uv run python -m bench.cold_start`.
"""

import subprocess
import tempfile
import time
from pathlib import Path

from bench.common import Server, UnixConnection, bare_command, report, server

RUNS = 40
MAIN = "import time\nprint(time.clock_gettime_ns(time.CLOCK_MONOTONIC), flush=True)\n"


def main() -> None:
    measure("cold start, nothing kept warm", warm_interpreters=0, limit=1.6)
    measure("start with a warm interpreter", warm_interpreters=4, limit=1.0)


def measure(name: str, *, warm_interpreters: int, limit: float) -> float:
    with server(cpus=2, warm_interpreters=warm_interpreters) as node, tempfile.TemporaryDirectory() as folder:
        app_id = node.app(MAIN)
        (Path(folder) / "main.py").write_text(MAIN)
        bare = bare_command(node.data_dir, Path(folder))
        connection = node.connect()
        ours, theirs = [], []
        for _ in range(RUNS):
            theirs.append(bare_start(bare))
            ours.append(our_start(node, connection, app_id))
    return report(name, ours[5:], theirs[5:], limit=limit)


def bare_start(command: list[str]) -> float:
    begun = time.monotonic_ns()
    done = subprocess.run(command, check=True, capture_output=True)
    return (int(done.stdout) - begun) / 1e6


def our_start(node: Server, connection: UnixConnection, app_id: str) -> float:
    begun = time.monotonic_ns()
    job = connection.call("POST", "/v1/jobs", {"app_id": app_id})
    while job["state"] in {"queued", "running"}:
        job = connection.call("GET", f"/v1/jobs/{job['id']}?wait=30&after={job['seq']}")
    assert job["state"] == "succeeded", job
    connection.request("GET", f"/v1/jobs/{job['id']}/logs?stream=stdout")
    return (int(connection.getresponse().read()) - begun) / 1e6


if __name__ == "__main__":
    main()
