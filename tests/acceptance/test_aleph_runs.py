"""Runs that are written down, what they export, and how they are made again (contract, sections 2.5 and 4.6)."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aleph_node import AlephNode, aleph_node

WRITES = """
import asyncio, os, pathlib

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    place = pathlib.Path("/out")
    if scope["path"] != "/look":
        (place / "name").write_text(scope["query_string"].decode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"done " + scope["query_string"]})
"""
EXPORT = {"encoding": "zip", "mount": "/out"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


def ended(node: AlephNode, run_id: str) -> Any:
    """Wait for the end of a run."""
    return node.until(lambda: (found := node.surface.ledger.run(run_id)) and found.ended and found)


def members(node: AlephNode, file_hash: str) -> dict[str, bytes]:
    stored = node.client.get(f"/api/v0/storage/raw/{file_hash}")
    assert stored.status_code == 200
    with zipfile.ZipFile(io.BytesIO(stored.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_a_run_leaves_is_found_by_its_id(node: AlephNode) -> None:
    program = node.deploy(WRITES, export=EXPORT)
    answer = node.get(program, "/?one")
    run = ended(node, answer.headers["aleph-run-id"])
    assert (run.item_hash, run.trigger, run.status) == (program, "http", 200)
    assert run.export["encoding"], run.export["mount"] == ("zip", "/out")
    assert members(node, run.export["file_hash"]) == {"name": b"one"}
