"""The life of a program on a real node: from its publication to a process, and back to none."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.aleph_control import Signer, iso
from tests.aleph_node import AlephNode, aleph_node

SLEEPER = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down", os.getpid())
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"awake"})
"""


KEEPER = """
from pathlib import Path

async def app(scope, receive, send):
    assert scope["type"] == "http"
    file = Path("/data/file")
    found = b"kept" if file.exists() else b"new"
    file.touch()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": found})
"""
DATA = {"mount": "/data", "name": "data", "persistence": "host", "size_mib": 10}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers, idle_timeout=0.3) as running:
        yield running


def hosts() -> list[psutil.Process]:
    """Find the processes of this one that run programs."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process] if "/run/moorage/asgi" in process.cmdline() else []
    return found


def said(node: AlephNode, program: str) -> int:
    return sum(line.text.startswith("shut down") for line in node.log(program))


def test_a_published_program_answers_below_its_hash(node: AlephNode) -> None:
    program = node.deploy()
    assert node.processes_of(program) == []
    answer = node.get(program)
    assert (answer.status_code, answer.text) == (200, "hello"), node.log(program)
    assert answer.headers["aleph-program-itemhash"] == program


def test_a_program_that_nobody_asks_shuts_down_leaves_no_process_and_comes_back(node: AlephNode) -> None:
    program = node.deploy(SLEEPER)
    for times in range(1, 3):
        assert node.get(program).text == "awake"
        assert hosts()
        node.until(lambda times=times: said(node, program) == times and not hosts())  # type: ignore[misc]


def test_an_owner_stops_a_program_and_erases_what_it_kept(node: AlephNode) -> None:
    program = node.deploy(KEEPER, volumes=[DATA])
    assert node.get(program).text == "new", node.log(program)
    assert operated(node, program, "stop") == f"Stopped VM with ref {program}"
    assert node.processes_of(program) == []
    assert node.get(program).text == "kept"
    assert operated(node, program, "erase") == f"Erased VM with ref {program}"
    assert node.processes_of(program) == []
    assert node.get(program).text == "new"


def operated(node: AlephNode, program: str, operation: str) -> str:
    path, now, signer = f"/control/machine/{program}/{operation}", datetime.now(UTC), Signer(node.wallet)
    proofs = {
        "X-SignedPubKey": json.dumps(signer.pubkey(domain="127.0.0.1", expires=iso(now + timedelta(days=1)))),
        "X-SignedOperation": json.dumps(signer.operation(path, domain="127.0.0.1", time=iso(now))),
    }
    answer = node.client.post(path, headers=proofs)
    assert answer.status_code == 200, answer.text
    return answer.text
