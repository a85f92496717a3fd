"""`kill -9` of a node forgets nothing, doubles nothing, and leaves nothing behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import psutil
import pytest

from moorage.client import Client
from moorage.model.jobs import Job
from moorage.model.states import AttemptState, JobState
from moorage.node.directory import DataDirectory
from tests.sandboxing import cgroups_called

MOORAGE = Path(sys.executable).parent / "moorage"

SMALL = {"cpus": 1, "memory": "64MiB"}

SLOW = """
import json, sys, time
number = json.load(sys.stdin)["number"]
print("started", number, flush=True)
time.sleep(2 if number < 20 else 0)
open("output/number", "w").write(str(number))
"""


class Served:
    """A `moorage serve` in a process of its own."""

    def __init__(self, data_dir: Path, config: Path, *, command: Sequence[str | Path] = (MOORAGE,)) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*command, "serve", "--port", "0", "--data-dir", data_dir, "--config", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.client = Client(self._await_socket())

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        assert self.process.wait(30) == 0

    def _await_socket(self) -> Path:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            presence = DataDirectory(self.data_dir).presence()
            if presence is not None and presence.pid == self.process.pid and presence.socket:
                return Path(presence.socket)
            assert self.process.poll() is None
            time.sleep(0.02)
        raise TimeoutError("the node does not answer")


@contextmanager
def served(data_dir: Path, config: Path, **more: Any) -> Iterator[Served]:
    node = Served(data_dir, config, **more)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.stop()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text("cpus = 20.0\nmemory = 68719476736\n")
    return path


def submit_all(node: Served, tmp_path: Path) -> list[Job]:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "main.py").write_text(SLOW)
    app = node.client.wait_app(node.client.add_app_from(folder).id)
    return [
        node.client.submit(
            app.id,
            parameters={"kwargs": {"number": number}},
            limits=SMALL,
            timeouts={"execution": 60},
        )
        for number in range(120)
    ]


def await_running(node: Served, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = node.client.jobs(state=JobState.RUNNING)
        started = [job for job in running if node.client.attempts(job.id)[-1].state is AttemptState.RUNNING]
        if len(started) >= count:
            return
        time.sleep(0.05)
    raise TimeoutError("the jobs do not start")


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Find every process that was started for this data directory, by its cgroup or its mounts."""
    found = []
    for process in psutil.process_iter():
        try:
            mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
            if process.pid != os.getpid() and str(data_dir) in mounts:
                found.append(process)
        except OSError:
            continue
    return found


def test_a_killed_node_ends_every_job_exactly_once_after_its_restart(tmp_path: Path, config: Path):
    data_dir = tmp_path / "data"
    with served(data_dir, config) as node:
        jobs = submit_all(node, tmp_path)
        await_running(node, 20)
        queued = [job.id for job in node.client.jobs(state=JobState.QUEUED, limit=200)]
        assert len(queued) == 100
        assert len(processes_of(data_dir)) >= 20
        node.kill()

    deadline = time.monotonic() + 10
    while processes_of(data_dir) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(data_dir) == []
    assert str(data_dir) not in Path("/proc/self/mountinfo").read_text()

    with served(data_dir, config) as node:
        for number, job in enumerate(jobs):
            ended = node.client.wait_job(job.id, timeout=120)
            assert ended.state is JobState.SUCCEEDED
            attempts = [attempt.state for attempt in node.client.attempts(job.id)]
            lost = [AttemptState.LOST] if number < 20 else []
            assert attempts == [*lost, AttemptState.SUCCEEDED]
            events = node.client.events(job.id)
            assert [event.seq for event in events] == list(range(1, ended.seq + 1))
            assert [event.topic for event in events].count("job.succeeded") == 1
            (output,) = node.client.outputs(job.id)
            node.client.download(output.digest, tmp_path / "number")
            assert (tmp_path / "number").read_text() == str(number)
            (tmp_path / "number").unlink()
        assert list((data_dir / "work").iterdir()) == []


def test_a_stopped_node_gives_its_running_jobs_to_the_next_start(tmp_path: Path, config: Path):
    data_dir = tmp_path / "data"
    with served(data_dir, config) as node:
        folder = tmp_path / "app"
        folder.mkdir()
        (folder / "main.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(1)\n")
        app = node.client.wait_app(node.client.add_app_from(folder).id)
        job = node.client.submit(app.id, limits=SMALL)
        await_running(node, 1)
    with served(data_dir, config) as node:
        assert node.client.wait_job(job.id, timeout=60).state is JobState.SUCCEEDED
        assert [attempt.state for attempt in node.client.attempts(job.id)] == [
            AttemptState.LOST,
            AttemptState.SUCCEEDED,
        ]


def test_a_node_that_cannot_stop_in_order_stops_when_asked_again(tmp_path: Path, config: Path):
    with served(tmp_path / "data", config) as node:
        helpers = psutil.Process(node.process.pid).children()
        while len(helpers) != 1:  # the doctor that looks at the start has helpers of its own
            time.sleep(0.05)
            helpers = psutil.Process(node.process.pid).children()
        (helper,) = helpers
        helper.suspend()  # the node waits for its end
        node.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            node.process.wait(1)
        node.process.terminate()
        assert node.process.wait(5) == 130
        helper.resume()
        assert psutil.wait_procs([helper], timeout=10)[1] == []
    with served(tmp_path / "data", config):
        pass  # the next start removes what this one had to leave
    assert cgroups_called(cgroup_of(tmp_path / "data")) == []


def cgroup_of(data_dir: Path) -> str:
    return f"moorage-{blake2b(str(data_dir.resolve()).encode(), digest_size=6).hexdigest()}"
