"""Containers of real images, kept by a real node: ready, limited, hidden, brought back, and gone with it."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from moorage.model.limits import MIB
from moorage.node.node import node_id
from moorage.sandbox.cgroups import LIMIT_FILES
from moorage.sandbox.hierarchies import hierarchies
from tests.docker_engine import Engine
from tests.infernet_node import CONTAINER, MOORAGE, Served, healthy

MISSING = "127.0.0.1:1/moorage-test/not-there:latest"
STOPS_WITHIN = 5.0


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    return engine.image("moorage-test/infernet:latest", CONTAINER, env={"NAME": "of the image"})


@pytest.fixture
def docker_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)


@pytest.fixture
def home(engine: Engine, docker_host: None, tmp_path: Path) -> Iterator[Path]:
    """Give where a node lives, of which the engine may have nothing left at the end."""
    yield tmp_path
    assert left_of(engine, tmp_path) == ([], [])


def left_of(engine: Engine, home: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    label = f"moorage.node={node_id(home / 'data')}"
    return engine.containers(label), engine.networks(label)


def container(image: str, **more: Any) -> dict[str, Any]:
    """Give the entry of a container whose name, which is one of the whole engine, nobody else uses."""
    return {"id": f"moorage-test-{uuid4().hex[:12]}", "image": image, "port": a_free_port(), **more}


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reached(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def own_addresses() -> list[str]:
    """Give the addresses of this machine by which others reach it."""
    every = (each for entries in psutil.net_if_addrs().values() for each in entries)
    found = [each.address for each in every if each.family in {socket.AF_INET, socket.AF_INET6}]
    return [address for address in found if not address.startswith(("127.", "fe80")) and address != "::1"]


def inspected(engine: Engine, name: str) -> dict[str, Any]:
    found = engine.inspect(name)
    assert found is not None
    return found


def host_port(engine: Engine, name: str) -> tuple[str, int]:
    (published,) = inspected(engine, name)["NetworkSettings"]["Ports"]["3000/tcp"]
    return published["HostIp"], int(published["HostPort"])


def limits_of(pid: int, place: Path) -> dict[str, float]:
    """Read what the kernel holds a process to."""
    shutil.copy(f"/proc/{pid}/cgroup", place / "cgroup")
    shutil.copy("/proc/self/mountinfo", place / "mountinfo")
    limits: dict[str, float] = {}
    for found in hierarchies(place):
        for controller in found.controllers:
            words = (found.own / LIMIT_FILES[found.version][controller]).read_text().split()
            if controller == "cpu":
                period = words[1] if found.version == 2 else (found.own / "cpu.cfs_period_us").read_text()
                limits["cpu"] = int(words[0]) / int(period)
            else:
                limits[controller] = int(words[0])
    return limits


# one node for what changes nothing


@pytest.fixture(scope="module")
def entries(image: str) -> Mapping[str, dict[str, Any]]:
    port = a_free_port()
    limits = {"memory": "96MiB", "pids": 33, "cpus": 0.5}
    return {
        "app": container(image, port=port, env={"NAME": "app", "NUMBER": 7}, command="--one 'two three'", **limits),
        "twin": container(image, port=port),
        "gone": container(MISSING),
    }


@pytest.fixture(scope="module")
def node(
    engine: Engine, entries: Mapping[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("served")
    with healthy(home, {"containers": [*entries.values()]}, env={"DOCKER_HOST": engine.url}) as served:
        yield served
        assert served.stop() < STOPS_WITHIN
    assert left_of(engine, home) == ([], [])


def test_a_container_of_an_image_answers_jobs(node: Served, entries: Mapping[str, dict[str, Any]]) -> None:
    app, twin = entries["app"]["id"], entries["twin"]["id"]
    assert node.output(app, question="?") == {"question": "?", "by": ["app"], "proof": False}
    assert node.output(app, twin)["by"] == ["app", "of the image"]
    with node.http.stream("POST", "/api/jobs/stream", json={"containers": [app], "data": {"words": ["a", "b"]}}) as got:
        assert got.read().partition(b"\n")[2] == b"ab"


def test_it_is_held_to_its_limits(
    node: Served, engine: Engine, entries: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    pid = inspected(engine, entries["app"]["id"])["State"]["Pid"]
    assert limits_of(pid, tmp_path) == {"memory": 96 * MIB, "pids": 33, "cpu": 0.5}


def test_without_any_said_it_is_held_to_some_limits(
    node: Served, engine: Engine, entries: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    limits = limits_of(inspected(engine, entries["twin"]["id"])["State"]["Pid"], tmp_path)
    assert limits["memory"] < psutil.virtual_memory().total
    assert 0 < limits["pids"] <= 4096
    assert 0 < limits["cpu"] <= (psutil.cpu_count() or 1)


def test_it_is_reached_from_this_machine_s_loopback_only(
    node: Served, engine: Engine, entries: Mapping[str, dict[str, Any]]
) -> None:
    address, port = host_port(engine, entries["app"]["id"])
    assert (address, port) == ("127.0.0.1", entries["app"]["port"])
    assert reached("127.0.0.1", port)
    assert [other for other in own_addresses() if reached(other, port)] == []


def test_of_two_with_one_port_the_second_is_given_another_from_3999_down(
    node: Served, engine: Engine, entries: Mapping[str, dict[str, Any]]
) -> None:
    assert host_port(engine, entries["app"]["id"])[1] == entries["app"]["port"]
    assert 3900 < host_port(engine, entries["twin"]["id"])[1] <= 3999
    assert "port is taken" in node.said


def test_an_image_that_cannot_be_pulled_makes_only_its_own_container_unavailable(
    node: Served, entries: Mapping[str, dict[str, Any]]
) -> None:
    gone = entries["gone"]["id"]
    listed = [each["id"] for each in node.http.get("/info").json()["containers"]]
    assert listed == [entries["app"]["id"], entries["twin"]["id"]]
    reason = f"Image {MISSING} cannot be pulled"
    node.until(lambda: (state := node.service(gone)).state == "failed" and reason in (state.reason or ""))
    result = node.result(node.submit(gone))
    assert result["status"] == "failed"
    assert result["result"]["container"] == gone
    assert re.match(f"Cannot connect to host {gone}: Image .* cannot be pulled", result["result"]["error"])
    assert node.output(entries["app"]["id"])


def test_what_it_says_and_what_it_uses_are_shown(node: Served, entries: Mapping[str, dict[str, Any]]) -> None:
    name = entries["app"]["id"]
    node.output(name, mark="a mark", spin=100_000)
    state = node.service(name)
    assert (state.state, state.restarts, state.reason) == ("ready", 0, None)
    assert "app listens --one two three" in state.log_tail
    assert '"mark": "a mark"' in state.log_tail
    load = state.load
    assert load.cpu is not None
    assert load.cpu > 0.01
    assert MIB < (load.memory or 0) <= 96 * MIB
    assert 1 <= (load.pids or 0) <= 33
    assert node.service(entries["gone"]["id"]).load.memory is None


# nodes of their own


def test_one_that_is_killed_or_removed_comes_back_and_takes_jobs(home: Path, engine: Engine, image: str) -> None:
    entry = container(image)
    with healthy(home, {"containers": [entry]}) as node:
        for times, (method, path, query) in enumerate((("POST", "/kill", {}), ("DELETE", "", {"force": 1})), start=1):
            before = inspected(engine, entry["id"])["Id"]
            engine.call(method, f"/containers/{before}{path}", **query)
            node.until(lambda times=times: node.service(entry["id"]).restarts == times)
            node.until(lambda: node.service(entry["id"]).state == "ready")
            assert node.output(entry["id"], after=times)["after"] == times
            assert inspected(engine, entry["id"])["Id"] != before
        assert node.http.get("/health").status_code == 200


def test_one_that_ends_in_the_middle_of_a_job_fails_that_job_and_no_other(home: Path, image: str) -> None:
    entry, other = container(image), container(image)
    with healthy(home, {"containers": [entry, other]}) as node:
        unharmed = node.submit(other["id"], sleep=1)
        result = node.result(node.submit(entry["id"], die=True))
        assert result["status"] == "failed"
        assert result["result"]["error"].startswith("The connection broke")
        assert node.result(unharmed)["status"] == "success"
        node.until(lambda: node.service(entry["id"]).restarts == 1 and node.service(entry["id"]).state == "ready")
        assert node.output(entry["id"])


def test_a_foreign_container_of_its_name_is_left_alone_and_named_as_the_reason(
    home: Path, engine: Engine, image: str
) -> None:
    entry, other = container(image), container(image)
    status, _ = engine.call("POST", "/containers/create", b'{"Image": "%s"}' % image.encode(), name=entry["id"])
    assert status == 201
    foreign = inspected(engine, entry["id"])["Id"]
    try:
        with healthy(home, {"containers": [entry, other]}) as node:
            node.until(lambda: node.service(entry["id"]).state == "failed")  # it is tried again and again
            assert entry["id"] in node.said
            assert node.output(other["id"])
        assert inspected(engine, entry["id"])["Id"] == foreign
    finally:
        engine.call("DELETE", f"/containers/{foreign}", force=1)


def test_a_changed_configuration_makes_it_anew_at_the_next_start(home: Path, engine: Engine, image: str) -> None:
    entry = container(image, env={"NAME": "old"}, command="--old")
    with healthy(home, {"containers": [entry]}) as node:
        assert node.output(entry["id"])["by"] == ["old"]
        before = inspected(engine, entry["id"])["Id"]
        node.kill()  # its container is left, at least for a moment
    entry |= {"env": {"NAME": "new"}, "command": "--new"}
    with healthy(home, {"containers": [entry]}) as node:
        assert node.output(entry["id"])["by"] == ["new"]
        after = inspected(engine, entry["id"])
        assert after["Id"] != before
        assert after["Config"]["Cmd"] == ["--new"]
        assert "new listens --new" in node.service(entry["id"]).log_tail


def test_they_go_with_a_node_that_is_asked_to_end_also_in_the_middle_of_jobs(
    home: Path, engine: Engine, image: str
) -> None:
    listed = [container(image) for _ in range(2)]
    with healthy(home, {"containers": listed}) as node:
        jobs = [node.submit(each["id"], sleep=60) for each in listed]
        assert len(left_of(engine, home)[0]) == 2
        assert node.stop() < STOPS_WITHIN
    assert left_of(engine, home) == ([], [])
    with healthy(home, {"containers": []}) as node:
        for job_id, each in zip(jobs, listed, strict=True):
            error = {"container": each["id"], "error": "Interrupted by node restart"}
            assert node.result(job_id)["result"] == error


def test_they_go_with_a_node_that_is_killed(home: Path, engine: Engine, image: str) -> None:
    listed = [container(image) for _ in range(2)]
    with healthy(home, {"containers": listed}) as node:
        guards = psutil.Process(node.process.pid).children(recursive=True)
        assert len(left_of(engine, home)[0]) == 2
        node.kill()
    deadline = time.monotonic() + 30
    while left_of(engine, home)[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_of(engine, home)[0] == []
    assert [each for each in listed if reached("127.0.0.1", each["port"])] == []
    assert psutil.wait_procs(guards, timeout=30)[1] == []
    with healthy(home, {"containers": []}):
        assert left_of(engine, home) == ([], [])  # the network was left for this node to take or to remove


def test_a_node_that_is_killed_while_a_container_starts_leaves_none(home: Path, engine: Engine, image: str) -> None:
    entry = container(image)
    node = Served(home, {"containers": [entry]})
    try:
        while engine.inspect(entry["id"]) is None:
            assert node.process.poll() is None
            time.sleep(0.002)
    finally:
        node.kill()
    deadline = time.monotonic() + 30
    while left_of(engine, home)[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_of(engine, home)[0] == []
    with healthy(home, {"containers": []}):
        pass


def test_without_an_engine_containers_are_unavailable_and_the_node_serves_all_the_same(
    tmp_path: Path, image: str
) -> None:
    entry = container(image)
    with healthy(tmp_path, {"containers": [entry]}, env={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}) as node:
        assert node.service(entry["id"]).state in {"failed", "starting"}
        node.until(lambda: "No container engine answers" in (node.service(entry["id"]).reason or ""))
        assert node.http.get("/info").json()["containers"] == []
        result = node.result(node.submit(entry["id"]))
        assert "No container engine answers" in result["result"]["error"]


def test_an_image_is_run_by_one_command(home: Path, image: str) -> None:
    env = {**os.environ, "MOORAGE_DATA_DIR": str(home / "data"), "MOORAGE_URL": "", "MOORAGE_TOKEN": ""}
    done = subprocess.run(
        [MOORAGE, "run", image, "--data", '{"question": "?"}'],
        cwd=home, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"question": "?"' in done.stdout
    assert '"of the image"' in done.stdout
