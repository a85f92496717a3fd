"""Fixtures of the API's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.client import Client
from moorage.model.apps import App
from moorage.model.states import AppState
from tests.serving import Served, serving

MAIN = """
import json, pathlib, sys, time
asked = json.load(sys.stdin)
print("hello", flush=True)
print("trouble", file=sys.stderr, flush=True)
sys.stdout.buffer.write(b"\\xff\\n")
sys.stdout.flush()
time.sleep(float(asked.get("nap", 0)))
out = pathlib.Path("output/charts")
out.mkdir(parents=True)
(out / "a b.txt").write_text("42")
pathlib.Path("output/ü.bin").write_bytes(bytes(range(256)) * int(asked.get("times", 1)))
for path in pathlib.Path("input").rglob("*"):
    if path.is_file():
        pathlib.Path("output", path.name).write_bytes(path.read_bytes().upper())
sys.exit(int(asked.get("status", 0)))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node") / "data") as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


@pytest.fixture(scope="module")
def app(served: Served, tmp_path_factory: pytest.TempPathFactory) -> App:
    """Give an installed app that greets, complains and leaves files."""
    source: Path = tmp_path_factory.mktemp("source")
    (source / "main.py").write_text(MAIN)
    with Client(served.url) as client:
        app = client.wait_app(client.add_app_from(source, name="greeter").id, timeout=120)
    assert app.state is AppState.TESTING, app.error
    return app
