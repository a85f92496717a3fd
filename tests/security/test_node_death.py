"""A node that dies without a word leaves no process and no mount; its cgroups go when the next one starts."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import alive, cgroups_called, marker

pytestmark = pytest.mark.anyio

NODE = """
import asyncio, json, sys
from pathlib import Path
from moorage.sandbox.base import Overlay
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import Forking, Output, make_environment, spec, start

async def main(place, mark):
    sandboxes = await open_sandboxes(data_dir=place, run_dir=place / "run", warm=2)
    sandboxes["forked"] = Forking(sandboxes["bubblewrap"], make_environment(place / "env"))
    for number, sandbox in enumerate(list(sandboxes.values()) * 4):
        (lower := place / f"lower{number}").mkdir()
        (upper := place / f"upper{number}").mkdir()
        (work := place / f"work{number}").mkdir()
        overlay = Overlay(lower=(lower,), upper=upper, work=work, target="/app")
        script = f"trap '' TERM; setsid sleep {mark} & sleep {mark}"
        ready = asyncio.Event()
        await start(sandbox, spec("sh", "-c", f"echo; {script}", mounts=(overlay,)), lambda *_: ready.set())
        await ready.wait()
    print("ready", flush=True)
    if sys.argv[3] == "starting":
        await asyncio.gather(*(start(s, spec("sleep", mark), Output()) for s in list(sandboxes.values()) * 8))
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["running", "starting"])
async def test_kill_the_node_with_sigkill(tmp_path: Path, moment: str) -> None:
    mark, mounts = marker(), mounted(tmp_path)
    with a_node(tmp_path, mark, moment) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"ready\n"
        children = psutil.Process(node.pid).children(recursive=True)
        assert len(alive(mark)) >= 12
        node.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(children, timeout=30)
    assert [process for process in left if process.is_running()] == []
    assert eventually_none(mark)
    assert mounted(tmp_path) == mounts
    await reaped(tmp_path)


async def test_kill_the_node_and_its_spawner_with_sigkill(tmp_path: Path) -> None:
    mark = marker()
    with a_node(tmp_path, mark, "running") as node:
        assert node.stdout is not None
        node.stdout.readline()
        (spawner,) = psutil.Process(node.pid).children()
        node.send_signal(signal.SIGSTOP)
        spawner.kill()
        node.send_signal(signal.SIGKILL)
    assert eventually_none(mark)
    await reaped(tmp_path)


def a_node(place: Path, mark: str, moment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", NODE, str(place), mark, moment]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


async def reaped(place: Path) -> None:
    """Start the next node on the same data: it finds the cgroups of the last one, and no process in them."""
    sandboxes = await open_sandboxes(data_dir=place, run_dir=place / "run")
    try:
        assert await sandboxes["bubblewrap"].reap() == 0
    finally:
        await sandboxes["bubblewrap"].close()
    node = sandboxes["bubblewrap"].cgroups.node
    assert cgroups_called(node) == []


def mounted(place: Path) -> list[str]:
    return [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(place) in line or "overlay" in line
    ]


def eventually_none(mark: str) -> bool:
    deadline = time.monotonic() + 30
    while (left := alive(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not left
