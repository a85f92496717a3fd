"""The network's own SDK, as it is on PyPI, in an environment of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import uv

CLIENTS = Path(__file__).parent / "clients"


def install(folder: Path) -> Path:
    """Make an environment with the SDK; give its interpreter. Skips the test where that cannot be had."""
    interpreter = folder / "bin" / "python"
    for arguments in (
        ("venv", "--quiet", "--python", "3.11", folder),
        ("pip", "install", "--quiet", "--python", interpreter, "--requirement", CLIENTS / "aleph-sdk.txt"),
    ):
        done = subprocess.run(
            [uv.find_uv_bin(), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            pytest.skip(f"The SDK cannot be installed here: {done.stderr.strip()[-500:]}")
    return interpreter


def drive(python: Path, driver: str, *arguments: object) -> dict[str, Any]:
    """Let a script use the SDK; give what it saw."""
    done = subprocess.run(
        [python, CLIENTS / driver, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
