"""Accept 10,000 jobs durably from 32 clients; list and show with 100 and with 100,000 stored; memory per queued job.

Run: `uv run python -m bench.queue`.
"""

import json
import multiprocessing
import os
import socket
import sqlite3
import statistics
import tempfile
import threading
import time
from pathlib import Path

from bench.common import Server, server

CLIENTS, JOBS, MANY = 32, 10_000, 100_000


def main() -> None:
    with server(cpus=0.001) as node:
        app_id = node.app("pass\n")
        submit(node, app_id, 500)
        at_100 = reading_times(node)
        before = node.memory()
        rate = submit(node, app_id, JOBS)
        grown = (node.memory() - before) / JOBS
        synced = synced_writes_per_second(JOBS // 10)
        print(
            f"accepting: {rate:.0f} jobs acknowledged per second (at least 1500: {verdict(rate >= 1500)}); "
            f"one fsync each in turn: {synced:.0f} per second, ratio {rate / synced:.2f}"
        )
        print(f"memory: {grown:.0f} bytes of node memory per queued job (under 200: {verdict(grown < 200)})")
        submit(node, app_id, MANY - JOBS)
        at_many = reading_times(node)
        for name, few in at_100.items():
            ratio = at_many[name] / few
            print(
                f"{name}: {at_many[name]:.2f} ms with {MANY} jobs against {few:.2f} ms with 500: "
                f"ratio {ratio:.2f} (flat, at most 1.5: {verdict(ratio <= 1.5)})"
            )


def verdict(good: bool) -> str:
    return "ok" if good else "MISSED"


def submit(node: Server, app_id: str, jobs: int) -> float:
    """Submit with 32 keep-alive clients in a process of their own; give the rate."""
    connection = node.connect()
    path = str(connection._path)
    body = json.dumps({"app_id": app_id, "limits": {"cpus": 0.001, "memory": "64MiB"}}).encode()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds = pool.apply(send_all, (path, body, jobs))
    return jobs / seconds


def send_all(path: str, body: bytes, jobs: int) -> float:
    request = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    shares = [jobs // CLIENTS + (n < jobs % CLIENTS) for n in range(CLIENTS)]
    sockets = []
    for _ in range(CLIENTS):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        sockets.append(client)
    threads = [
        threading.Thread(target=send_share, args=(client, request, share))
        for client, share in zip(sockets, shares, strict=True)
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun


def send_share(client: socket.socket, request: bytes, share: int) -> None:
    for _ in range(share):
        client.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201"), answer
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        missing = int(lower[start:].split(b"\r\n", 1)[0]) - len(rest)
        while missing > 0:
            missing -= len(client.recv(65536))


def reading_times(node: Server) -> dict[str, float]:
    """Measure listing and showing, in milliseconds (median of 50)."""
    connection = node.connect()
    newest = connection.call("GET", "/v1/jobs?limit=50")
    paths = {
        "list": "/v1/jobs?limit=50",
        "list queued": "/v1/jobs?limit=50&state=queued",
        "show": f"/v1/jobs/{newest[-1]['id']}",
    }
    return {name: reading_time(connection, path) for name, path in paths.items()}


def reading_time(connection: object, path: str) -> float:
    samples = []
    for _ in range(70):
        begun = time.monotonic()
        connection.call("GET", path)  # type: ignore[attr-defined]
        samples.append((time.monotonic() - begun) * 1e3)
    return statistics.median(samples[20:])  # the first ones follow the submissions and their checkpoint


def synced_writes_per_second(writes: int) -> float:
    """Measure the alternative: one SQLite transaction per job, `synchronous=FULL`, one after another."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "jobs.db", isolation_level=None)
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE job (id, spec)")
        begun = time.monotonic()
        for number in range(writes):
            database.execute("INSERT INTO job VALUES (?, ?)", (number, os.urandom(200)))
        seconds = time.monotonic() - begun
        database.close()
    return writes / seconds


if __name__ == "__main__":
    main()
