"""Run a piece of a test on a disk of a few MiB: a tmpfs in a mount namespace of its own, gone with its process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o "size=$1,mode=0755" tmpfs "$2" || exit 77; shift 2; exec "$@"'
_CALL = "import asyncio, importlib, sys, pathlib; m, f, d = sys.argv[1:]; asyncio.run(getattr(importlib.import_module(m), f)(pathlib.Path(d)))"  # noqa: E501


def run_on_small_disk(scenario: Callable[..., object], directory: Path, size: str) -> None:
    """Call an asynchronous module-level function with `directory`, where a tmpfs of `size` is mounted.

    Skips the test where this machine lets nobody mount.
    """
    directory.mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    call = [sys.executable, "-c", _CALL, scenario.__module__, scenario.__name__, str(directory)]
    done = subprocess.run(
        [*namespace, "sh", "-c", _MOUNT, "sh", size, str(directory), *call],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode in {1, 77} and "Traceback" not in done.stderr:
        pytest.skip(f"no private mount is to be had here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
