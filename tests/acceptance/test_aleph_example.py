"""The Aleph example and what the documentation has its reader write, by the real command."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.networks.aleph import manifest
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.conformance import RULES
from moorage.networks.manifest import validated
from tests.aleph_node import aleph_node, share_layers

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "aleph" / "weather"
HOW_TO = ROOT / "docs" / "how-to" / "aleph.md"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
YESTERDAY = 86_400.0 * 20_000
"""A moment of a day that is over."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def moorage(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[Command]:
    """Call the command on one node."""
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as node:
        yield called_with({"MOORAGE_URL": node.url})


@pytest.fixture
def alone(tmp_path: Path, aleph_layers: Path) -> Command:
    """Call the command without a server: each call is a node of its own, and starts the program anew."""
    share_layers(tmp_path, aleph_layers)
    return called_with({"MOORAGE_URL": "", "MOORAGE_DATA_DIR": str(tmp_path)})


def called_with(own: dict[str, str]) -> Command:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MOORAGE_TOKEN": "", **own}

    def command(*words: object) -> "subprocess.CompletedProcess[str]":
        line = ["moorage", *map(str, words)]
        return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    return command


def asked(moorage: Command, path: str, source: Path = EXAMPLE) -> str:
    done = moorage("run", source, "--request", f"GET {path}", "--quiet")
    assert done.returncode == 0, done.stderr
    return done.stdout


def given(moorage: Command, reading: Any) -> Any:
    message = {"content": {"type": "weather-reading", "content": reading}}
    done = moorage("run", EXAMPLE, "--data", json.dumps({"message": message}))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_published_reading_starts_the_example_and_outlives_it(alone: Command) -> None:
    assert asked(alone, "/places") == "[]"
    done = alone("aleph", "post", "weather-reading", '{"place": "pier", "celsius": 12.5}')
    assert done.returncode == 0, done.stderr
    (place,) = json.loads(asked(alone, "/places"))
    assert (place["place"], place["celsius"], place["readings"]) == ("pier", 12.5, 1)


def test_the_example_has_a_page(moorage: Command) -> None:
    given(moorage, {"place": "<ba>", "celsius": 12.5})
    assert "<td>&lt;ba&gt;<td>12.5 °C<td>1 readings" in asked(moorage, "/")


def test_the_examples_schedule_sums_up_the_days_that_are_over(moorage: Command) -> None:
    for celsius in (8, 10):
        assert given(moorage, {"place": "quay", "celsius": celsius, "at": YESTERDAY}) == {"ok": True, "new": True}
    assert json.loads(asked(moorage, "/summarise")) == {"summaries": 1, "readings": 2}
    (summary,) = json.loads(asked(moorage, "/summaries"))
    assert summary == {"place": "quay", "day": "2024-10-04", "low": 8, "mean": 9, "high": 10, "readings": 2}


def test_the_example_refuses_what_is_no_reading(moorage: Command) -> None:
    assert given(moorage, {"place": "pier"})["ok"] is False
    assert given(moorage, {"place": "pier", "celsius": 300}) == {
        "ok": False, "reason": "300.0 degrees are on no thermometer"
    }  # fmt: skip
    assert json.loads(asked(moorage, "/places/nowhere"))["detail"].startswith("nobody has read")


def test_the_example_keeps_the_contract(moorage: Command) -> None:
    done = moorage("check", EXAMPLE, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {finding["rule"]: finding["verdict"] for finding in json.loads(done.stdout)["findings"]}
    for rule in ("its message is right", "its hash and signature hold", "its export is stored"):
        assert verdicts.pop(rule) == "not_applicable"
    assert set(verdicts.values()) == {"passed"}


def test_the_program_of_the_how_to_answers(moorage: Command, tmp_path: Path) -> None:
    source = tmp_path / "hello"
    source.mkdir()
    for name in ("main.py", "moorage.toml"):
        (source / name).write_text(written(name)[0])
    assert asked(moorage, "/you", source) == "hello from /you\n"


def test_every_folder_of_the_how_to_is_valid(tmp_path: Path) -> None:
    for text in written("moorage.toml"):
        (tmp_path / "moorage.toml").write_text(text)
        assert manifest.read(tmp_path).warnings == ()


def test_the_how_to_names_every_rule() -> None:
    table = HOW_TO.read_text().partition("| rule |")[2].splitlines()[2:]
    named = [line.split("|")[1].strip() for line in table[: len(RULES) + 2]]
    assert named[2:] == [rule.name for rule in RULES]


def test_the_configuration_of_the_how_to_is_valid() -> None:
    (text,) = [body for language, _, body in BLOCK.findall(HOW_TO.read_text()) if language == "toml"]
    validated(Settings, tomllib.loads(text)["networks"]["aleph"], file="how-to")
    listed = re.findall(r"^\| `(\w+)` \| ", HOW_TO.read_text().partition("The most used:")[2], re.MULTILINE)
    assert set(listed) <= Settings.model_fields.keys()
    assert listed


def written(name: str) -> list[str]:
    return [body for _, about, body in BLOCK.findall(HOW_TO.read_text()) if about.strip() == name]
