"""A stream of 1 GiB through the node, against the same stream from the container itself; and what it costs in memory.

Run alone: `python -m bench.infernet_stream`.
"""

import json
import socket
import time

from bench.infernet import Place, place
from bench.infernet_container import STREAM

SUBMIT = json.dumps({"containers": ["echo"], "data": {}}).encode()
ASK = b'{"source":1,"destination":2,"data":{}}'
MIB = 1 << 20
GROWTH = 32 * MIB


def _seconds(port: int, path: str, body: bytes) -> float:
    """Read a stream to its end and give the time it took."""
    buffer = bytearray(4 * MIB)
    with socket.create_connection(("127.0.0.1", port)) as client:
        begun = time.monotonic()
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        total, tail = 0, b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            size = client.recv_into(buffer)
            assert size, f"the stream broke off after {total} bytes"
            total, tail = total + size, (tail + buffer[max(0, size - 16) : size])[-16:]
        assert total > STREAM
        return time.monotonic() - begun


def _measure(where: Place) -> None:
    _seconds(where.node, "/api/jobs/stream", SUBMIT)
    before = where.server.memory()
    direct, ours = [], []
    for _ in range(3):
        direct.append(_seconds(where.container, "/service_output", ASK))
        ours.append(_seconds(where.node, "/api/jobs/stream", SUBMIT))
    share, grown = min(direct) / min(ours), where.server.peak_memory() - before
    rate = STREAM / MIB / min(ours)
    print(
        f"infernet stream: {rate:.0f} MiB/s, {share:.0%} of the direct {STREAM / MIB / min(direct):.0f} MiB/s "
        f"(at least 60 %: {'ok' if share >= 0.6 else 'MISSED'})"
    )
    print(
        f"node memory meanwhile: {grown / MIB:.1f} MiB more (under {GROWTH // MIB}: "
        f"{'ok' if grown < GROWTH else 'MISSED'})"
    )


def main() -> None:
    """Measure."""
    with place() as where:
        _measure(where)


if __name__ == "__main__":
    main()
