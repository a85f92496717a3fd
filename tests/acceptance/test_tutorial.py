"""The tutorial and the README, done step by step as they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MOORAGE_DATA_DIR": str(tmp_path / "data"), "MOORAGE_URL": ""}


def test_the_tutorial_does_what_it_says(tmp_path: Path, env: dict[str, str]) -> None:
    said = []
    for language, about, body in BLOCK.findall((ROOT / "docs" / "tutorial" / "first-app.md").read_text()):
        if language in {"python", "text"}:
            (tmp_path / about.strip()).parent.mkdir(exist_ok=True)
            (tmp_path / about.strip()).write_text(body)
        elif language == "sh" and "setup" not in about:
            done = _shell(body, tmp_path, env)
            assert done.returncode == (1 if "fails" in about else 0), body + done.stderr
            said.append(done.stdout)
    assert said[0] == "letter.txt: 7 words\n"
    assert said[1].splitlines()[0] == "the,3"
    assert said[2] == "3 the\n"
    assert said[3].splitlines()[0].split() == ["word", "count"]
    assert said[-1].split()[-1] == "PUBLISHED"


def test_the_readmes_own_app_runs(tmp_path: Path, env: dict[str, str]) -> None:
    script = next(body for _, _, body in BLOCK.findall((ROOT / "README.md").read_text()) if "mkdir hello" in body)
    done = _shell(script.replace(".venv/bin/moorage", "moorage"), tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote a greeting\nHello Ada!\n"


def _shell(script: str, folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
