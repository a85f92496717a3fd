"""The Infernet example, and the container that the documentation has its reader write, by the real command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode, encode

from moorage.networks.infernet import config, manifest
from moorage.networks.infernet.delivery import encode as delivered

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "infernet" / "clearing"
INPUTS = ROOT / "examples" / "infernet" / "clearing-inputs"
GUIDE = ROOT / "docs" / "how-to" / "write-infernet-containers.md"
HOW_TO = ROOT / "docs" / "how-to" / "infernet.md"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ON_CHAIN = ("address[]", "address[]", "uint256[]")
A, B, C = (f"0x{digit * 40}" for digit in "123")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    data = str(tmp_path_factory.mktemp("node"))
    return {**os.environ, "PATH": path, "MOORAGE_DATA_DIR": data, "MOORAGE_URL": "", "MOORAGE_TOKEN": ""}


@pytest.fixture(scope="module")
def moorage(env: dict[str, str]) -> Command:
    def command(*words: object) -> "subprocess.CompletedProcess[str]":
        line = ["moorage", *map(str, words)]
        return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    return command


def answered(moorage: Command, data: Any) -> Any:
    done = moorage("run", EXAMPLE, "--data", json.dumps(data))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_example_clears_debts_off_chain(moorage: Command) -> None:
    village = json.loads((INPUTS / "village.json").read_text())
    cleared = answered(moorage, village)
    assert (cleared["owed"], cleared["left"]) == (415, 70)
    assert cleared["debts"][0] == {"from": "ana", "to": "ben", "amount": 10}
    assert balances(cleared) == balances(village)
    owed = {(debt["from"], debt["to"]): debt["amount"] for debt in village["debts"]}
    assert all(debt["amount"] <= owed[debt["from"], debt["to"]] for debt in cleared["debts"])
    assert answered(moorage, cleared)["debts"] == cleared["debts"]


def test_the_example_streams_a_debt_a_line(moorage: Command) -> None:
    done = moorage("run", EXAMPLE, "--data", f"@{INPUTS / 'village.json'}", "--stream")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(line["amount"] for line in lines) == 70


def test_the_example_refuses_what_it_cannot_use_with_a_reason(moorage: Command) -> None:
    done = moorage("run", EXAMPLE, "--data", '{"debts": [{"from": "ana", "to": "ben", "amount": -1}]}')
    assert (done.returncode, done.stdout) == (1, "")
    assert "HTTP 400" in done.stderr
    assert "debts[0].amount must be a whole number" in done.stderr


def test_the_example_keeps_the_contract(moorage: Command) -> None:
    done = moorage("check", EXAMPLE, "--data", f"@{INPUTS / 'on-chain.json'}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {finding["rule"]: finding["verdict"] for finding in json.loads(done.stdout)["findings"]}
    assert verdicts.pop("a proof is there where one is required") == "not_applicable"
    assert set(verdicts.values()) == {"passed"}


def test_the_examples_output_for_the_chain_is_what_a_contract_decodes(moorage: Command, tmp_path: Path) -> None:
    """A client cannot send what a contract does, so the container's own program is asked, in its own environment."""
    raw = encode(ON_CHAIN, [[A, B, C], [B, C, A], [50, 50, 2**255]]).hex()
    body = {"source": 0, "destination": 0, "data": raw, "requires_proof": False}
    script = f"import json, app; print(json.dumps(app.app.test_client().post('/service_output', json={body}).json))"
    folder = tmp_path / "asked"
    folder.mkdir()
    for name in ("app.py", "requirements.txt"):
        (folder / name).write_bytes((EXAMPLE / name).read_bytes())
    (folder / "main.py").write_text(script)
    done = moorage("run", folder, "--quiet")
    assert done.returncode == 0, done.stderr
    delivery = delivered(json.loads(done.stdout))
    given, _ = decode(["bytes", "bytes"], delivery.input)
    left, sums = decode(["bytes", "bytes"], delivery.output)
    assert given.hex() == raw
    assert decode(ON_CHAIN, left) == ((C,), (A,), (2**255 - 50,))
    assert decode(["uint256", "uint256"], sums) == (2**255 + 100, 2**255 - 50)
    assert delivery.proof == b""


def test_the_container_of_the_guide_does_what_it_says(tmp_path: Path, env: dict[str, str]) -> None:
    said = []
    for language, about, body in BLOCK.findall(GUIDE.read_text()):
        if about.strip():
            (tmp_path / about.strip()).parent.mkdir(exist_ok=True)
            (tmp_path / about.strip()).write_text(body)
        elif language == "sh":
            line = ["bash", "-e", "-c", body]
            done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)
    first, *words = said[0].splitlines()
    assert first == '{"words": 4}'
    assert words[:4] == ["the", "sea", "the", "ship"]
    assert " passed, 0 failed, " in words[-1]
    assert " passed, 0 failed, " in said[1]


def test_the_guide_names_every_rule() -> None:
    from moorage.networks.infernet.conformance import RULES

    table = GUIDE.read_text().partition("| rule |")[2].splitlines()[2 : 2 + len(RULES)]
    assert [line.split("|")[1].strip().replace("`", "") for line in table] == [rule.name for rule in RULES]


def test_the_files_of_the_how_to_are_valid(tmp_path: Path) -> None:
    (tmp_path / "clearing").mkdir()
    files = {about.strip(): body for _, about, body in BLOCK.findall(HOW_TO.read_text()) if about.strip()}
    for name, body in files.items():
        (tmp_path / name).write_text(body)
    assert files.keys() == {"moorage.toml", "config.json"}
    assert config.read(tmp_path / "config.json").warnings == ()
    found = manifest.configured(tmp_path).containers[0]
    assert (found.id, found.env, found.moorage.concurrency) == ("summary", {"LANGUAGE": "en"}, 8)


def test_the_how_to_names_every_key_of_the_moorage_table_with_its_default() -> None:
    page = HOW_TO.read_text().partition("### The moorage keys")[2].partition("At the top level:")[0]
    listed = dict(re.findall(r"^\| `(\w+)`(?: \*)? \| ([^|]+) \|", page, re.MULTILINE))
    extras = config.Extras()
    assert set(listed) == {field.name for field in fields(extras)}
    flat = re.findall(r"^\| `(\w+)` \* \|", page, re.MULTILINE)
    assert flat == list(config.FLAT)
    for name, default in listed.items():
        value = getattr(extras, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert float(default) == value, name


def balances(document: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for debt in document["debts"]:
        found[debt["from"]] = found.get(debt["from"], 0) - debt["amount"]
        found[debt["to"]] = found.get(debt["to"], 0) + debt["amount"]
    return {name: amount for name, amount in found.items() if amount}
