"""`moorage aleph` as a person types it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_aleph_drafts import HYBRID, SEED_1
from tests.unit.test_aleph_explain import OWN, signed

MOORAGE = str(Path(sys.executable).with_name("moorage"))
MESSAGE = signed("PROGRAM", {**HYBRID, **OWN})

Explain = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def explain(tmp_path: Path) -> Explain:
    """Call it in a folder of its own, which must stay as it is: no node may begin there."""

    def command(document: Any, *flags: str, file: str | None = "message.json") -> "subprocess.CompletedProcess[str]":
        text = document if isinstance(document, str) else json.dumps(document)
        if file:
            (tmp_path / file).write_text(text)
        env = {**os.environ, "MOORAGE_DATA_DIR": str(tmp_path / "data"), "MOORAGE_URL": "", "COLUMNS": "80"}
        done = subprocess.run(
            [MOORAGE, "aleph", "explain", file or "-", *flags],
            input=None if file else text, env=env, cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not (tmp_path / "data").exists()
        return done

    return command


def test_a_message_is_explained_without_a_node(explain: Explain) -> None:
    done = explain(MESSAGE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hybrid" in done.stdout
    assert "holds. It is the sha256" in done.stdout
    assert f"{MESSAGE['sender']} signed it" in done.stdout
    assert "content.on.aleph" in done.stdout
    assert "renamed `on.message`" in done.stdout
    assert "At most 128 MiB; beyond that it is killed and the caller gets 502." in done.stdout
    assert "warning  `content.runtime.address`" in done.stdout


def test_what_nobody_gave_is_in_the_document_alone(explain: Explain) -> None:
    assert "requirements" not in explain(MESSAGE).stdout
    document = json.loads(explain(MESSAGE, "--json").stdout)
    assert {"path": "content.requirements", "name": "requirements"}.items() <= document["fields"][-1].items()


def test_a_message_comes_from_standard_input_too(explain: Explain) -> None:
    done = explain(SEED_1, "--json", file=None)
    document = json.loads(done.stdout)
    assert (done.returncode, document["generation"], document["problems"]) == (0, "draft-1", [])
    assert document["signature"]["verdict"] == "absent"


def test_a_wrong_message_ends_with_2_and_all_that_is_wrong(explain: Explain) -> None:
    wrong = {**MESSAGE, "chain": "ETHER", "item_content": MESSAGE["item_content"].replace('"on"', '"onn"')}
    done = explain(wrong)
    assert done.returncode == 2
    assert "wrong  `chain`: must be one of" in done.stdout
    assert "wrong  `content.onn`: unknown key. Did you mean `on`?" in done.stdout
    told = json.loads(explain(wrong, "--json").stdout)["problems"]
    assert {"path", "rule", "fix", "type"} == told[0].keys()


def test_pseudo_json_is_told_with_line_and_column(explain: Explain) -> None:
    done = explain('{\n  "encoding": "plain" | "zip"\n}')
    assert done.returncode == 2
    assert "line 2 column 23" in done.stdout


def test_a_message_cannot_steer_the_terminal(explain: Explain) -> None:
    done = explain({**HYBRID, "code": {**HYBRID["code"], "entrypoint": "main:\x1b[2Japp\x07"}, "\x1b]0;title\x07": 1})
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_a_file_that_is_not_there_is_a_source_not_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [MOORAGE, "aleph", "explain", "nope.json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "code: source_not_found" in done.stderr
