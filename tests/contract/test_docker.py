"""Containers of images: what they are given, what is kept from them, how they are watched, and that none is left."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from moorage.errors import DiskFull, SandboxUnavailable
from moorage.model.limits import MIB, Limits
from moorage.sandbox import docker_engine
from moorage.sandbox.base import Credentials, ImageSpec, Process
from moorage.sandbox.cgroups import LIMIT_FILES
from moorage.sandbox.docker import Docker
from moorage.sandbox.hierarchies import hierarchies
from tests.docker_engine import Engine, a_registry
from tests.sandboxing import Output

pytestmark = pytest.mark.anyio

APP = """
import http.server, os, socket, sys, time

def serve():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{self.path} {os.environ.get('GREETING')}".encode())
    print("serving", flush=True)
    http.server.HTTPServer(("", int(os.environ.get("PORT", "3000"))), Handler).serve_forever()

def speak():
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    sys.stdout.write("x" * 3_000_000 + "end")
    sys.stdout.flush()
    sys.exit(7)

def reach(*addresses):
    for address in addresses:
        try:
            socket.create_connection((address, 3000), timeout=1).close()
            print(address, "reached", flush=True)
        except OSError as error:
            print(address, error, flush=True)

def eat():
    eaten = bytearray(256 << 20)

def look(path):
    print(os.listdir(path), open(path + "/note").read(), flush=True)

globals()[sys.argv[1] if len(sys.argv) > 1 else "serve"](*sys.argv[2:])
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready")
time.sleep(99)
"""
NODE = """
import asyncio, sys
from moorage.sandbox.base import ImageSpec
from moorage.sandbox.docker import Docker

async def main(node, image, name):
    docker = Docker(node=node)
    await docker.start(ImageSpec(image=image, name=name), output=lambda *_: None, progress=lambda _: None)
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    return engine.image("moorage-test/app:latest", APP, env={"GREETING": "hello"})


@pytest.fixture
def node(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name a node, of which nothing may be left."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    name = uuid4().hex[:12]
    yield name
    assert engine.containers(f"moorage.node={name}") == []
    assert engine.networks(f"moorage.node={name}") == []


@pytest.fixture
async def docker(node: str) -> AsyncIterator[Docker]:
    docker = Docker(node=node)
    try:
        yield docker
    finally:
        await docker.close()


async def start(docker: Docker, image: str, *command: str, output: Output | None = None, **more: Any) -> Process:
    name = more.pop("name", f"moorage-test-{uuid4().hex}")
    progress = more.pop("progress", lambda _: None)
    spec = ImageSpec(image=image, name=name, command=command, **more)
    return await docker.start(spec, output=output or Output(), progress=progress)


async def run(docker: Docker, image: str, *command: str, **more: Any) -> list[str]:
    output = Output()
    process = await start(docker, image, *command, output=output, **more)
    await process.wait()
    return output.stdout.decode().splitlines()


async def get(process: Process, path: str = "/", port: int = 3000) -> bytes:
    """Ask what it serves, as soon as it does: the engine takes connections that it can hand to nobody yet."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(sock=await process.connect(port))
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = await reader.read()
                writer.close()
                if answer:
                    return answer
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.02)


def inspected(engine: Engine, name: str) -> dict[str, Any]:
    shown = engine.inspect(name)
    assert shown is not None
    return shown


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return True
    return False


def ignored(pid: int) -> set[int]:
    """Tell which signals a process ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigIgn:\t")[2].split()[0], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def own_addresses() -> list[str]:
    addresses = (each for those in psutil.net_if_addrs().values() for each in those)
    return [each.address for each in addresses if each.family == socket.AF_INET and not each.address.startswith("127.")]


# What it is given


async def test_a_container_serves_what_its_image_says(docker: Docker, image: str) -> None:
    process = await start(docker, image)
    answer = await get(process, "/path")
    assert answer.startswith(b"HTTP/1.0 200")
    assert answer.endswith(b"/path hello")


async def test_it_is_published_where_it_was_asked_for(docker: Docker, image: str) -> None:
    port = a_free_port()
    process = await start(docker, image, host_port=port, port=4567, env={"PORT": "4567", "GREETING": "hi"})
    assert (await get(process, port=4567)).endswith(b"/ hi")
    assert not refused("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError):
        await process.connect(3000)


async def test_it_sees_its_volumes(docker: Docker, image: str, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("a note")
    assert await run(docker, image, "look", "/data", volumes=(f"{tmp_path}:/data:ro", "/own")) == ["['note'] a note"]


async def test_what_it_says_arrives_whole_and_its_status_is_told(docker: Docker, image: str) -> None:
    output = Output()
    process = await start(docker, image, "speak", output=output)
    ended = await process.wait()
    assert (ended.status, ended.out_of_memory) == (7, False)
    assert 0 < ended.wall < 30
    assert output.stderr == b"to stderr\n"
    assert output.stdout == b"to stdout\n" + b"x" * 3_000_000 + b"end"


async def test_what_it_says_arrives_while_it_runs(docker: Docker, image: str) -> None:
    output = Output()
    await start(docker, image, output=output)
    await until(lambda: output.stdout == b"serving\n")


async def test_its_load_is_told_while_it_runs(docker: Docker, image: str) -> None:
    process = await start(docker, image)
    await get(process)
    load = await process.load()
    assert load.pids == 1
    assert load.cpu is not None
    assert load.memory is not None
    assert 0 < load.cpu < 30
    assert MIB < load.memory < 1024 * MIB
    process.kill()
    await process.wait()
    assert (await process.load()).memory is None


async def test_containers_start_side_by_side(docker: Docker, image: str) -> None:
    processes = await asyncio.gather(*(start(docker, image) for _ in range(4)))
    assert all(await asyncio.gather(*map(get, processes)))


# What is kept from it


async def test_it_is_held_to_its_limits(docker: Docker, engine: Engine, image: str, tmp_path: Path) -> None:
    name = f"moorage-test-{uuid4().hex}"
    await start(docker, image, name=name, limits=Limits(cpus=0.5, memory=96 * MIB, pids=33))
    pid = inspected(engine, name)["State"]["Pid"]
    shutil.copy(f"/proc/{pid}/cgroup", tmp_path / "cgroup")
    shutil.copy("/proc/self/mountinfo", tmp_path / "mountinfo")
    limits = {}
    for found in hierarchies(tmp_path):
        for controller in found.controllers:
            limits[controller] = (found.own / LIMIT_FILES[found.version][controller]).read_text().split()
            if controller == "cpu" and found.version == 1:
                limits["cpu"].append((found.own / "cpu.cfs_period_us").read_text().strip())
    quota, period = map(int, limits["cpu"])
    assert (limits["memory"], limits["pids"], quota / period) == ([str(96 * MIB)], ["33"], 0.5)


async def test_more_memory_than_its_limit_is_the_end_of_it(docker: Docker, image: str) -> None:
    process = await start(docker, image, "eat", limits=Limits(memory=64 * MIB))
    ended = await process.wait()
    assert (ended.status, ended.out_of_memory) == (-signal.SIGKILL, True)


async def test_it_has_no_capability_and_gains_no_privilege(docker: Docker, engine: Engine, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    await start(docker, image, name=name)
    status = Path(f"/proc/{inspected(engine, name)['State']['Pid']}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
    assert facts["NoNewPrivs"] == "1"


async def test_it_is_not_reached_from_outside_this_machine(docker: Docker, image: str) -> None:
    port = a_free_port()
    await get(await start(docker, image, host_port=port))
    assert not refused("127.0.0.1", port)
    assert [address for address in own_addresses() if not refused(address, port)] == []


@pytest.mark.parametrize("network", ["internet", "none"])
async def test_another_container_does_not_reach_it(docker: Docker, engine: Engine, image: str, network: str) -> None:
    name, port = f"moorage-test-{uuid4().hex}", a_free_port()
    await get(await start(docker, image, name=name, network=network, host_port=port))
    (there,) = inspected(engine, name)["NetworkSettings"]["Networks"].values()
    for other in ("internet", "none"):
        (said,) = await run(docker, image, "reach", there["IPAddress"], network=other)
        assert not said.endswith("reached")


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Give the address of another machine that listens, as far as routing is concerned."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root with iproute2 can make another machine")
    name = f"mt{uuid4().hex[:8]}"
    inside = ("ip", "netns", "exec", name)
    steps = (
        ("ip", "netns", "add", name),
        ("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name),
        ("ip", "addr", "add", "198.51.100.1/30", "dev", name),
        ("ip", "link", "set", name, "up"),
        (*inside, "ip", "addr", "add", "198.51.100.2/30", "dev", "eth0"),
        (*inside, "ip", "link", "set", "eth0", "up"),
    )
    server = None
    try:
        for step in steps:
            subprocess.run(step, check=True)
        server = subprocess.Popen(
            [*inside, sys.executable, "-u", "-m", "http.server", "3000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/proc/sys",
        )
        assert server.stdout
        server.stdout.readline()
        yield "198.51.100.2"
    finally:
        if server:
            server.kill()
            server.communicate()
        subprocess.run(["ip", "netns", "delete", name], check=True)
        subprocess.run(["ip", "link", "delete", name], check=False, stderr=subprocess.DEVNULL)


async def test_only_with_internet_it_reaches_other_machines(docker: Docker, image: str, elsewhere: str) -> None:
    assert await run(docker, image, "reach", elsewhere) == [f"{elsewhere} reached"]
    (said,) = await run(docker, image, "reach", elsewhere, network="none")
    assert not said.endswith("reached")


async def test_without_network_nothing_is_published_but_the_node_reaches_it(
    docker: Docker, engine: Engine, image: str
) -> None:
    name, port = f"moorage-test-{uuid4().hex}", a_free_port()
    process = await start(docker, image, name=name, network="none", host_port=port)
    assert (await get(process)).endswith(b"/ hello")
    assert refused("127.0.0.1", port)


async def test_no_volume_hands_out_the_engine(
    docker: Docker, engine: Engine, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/run")
    (tmp_path / "engine").mkdir()
    used = engine.url.removeprefix("unix://")
    sources = ["/", "/run", "/var/run", "/var/run/docker.sock", "/run/docker.sock", f"{tmp_path}/link", "/tmp/../run"]
    for source in [*sources, used, str(Path(used).parent)] if engine.url.startswith("unix://") else sources:
        with pytest.raises(SandboxUnavailable, match="would hand the container engine"):
            await start(docker, image, volumes=(f"{source}:/data:ro",))


# How it ends


async def test_killed_by_the_node_it_is_gone_and_its_name_free(docker: Docker, engine: Engine, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    for _ in range(2):
        process = await start(docker, image, name=name)
        process.kill()
        assert (await process.wait()).status == -signal.SIGKILL
        assert engine.inspect(name) is None
        with pytest.raises(OSError, match="No such process"):
            await process.connect(3000)


async def test_it_is_asked_to_end(docker: Docker, engine: Engine) -> None:
    output = Output()
    process = await start(docker, engine.image("moorage-test/polite:latest", POLITE), output=output)
    await until(lambda: output.stdout)
    process.terminate()
    assert (await process.wait()).status == 5


async def test_killed_from_outside_its_end_is_told(docker: Docker, engine: Engine, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    process = await start(docker, image, name=name)
    engine.call("POST", f"/containers/{name}/kill")
    assert (await process.wait()).status == -signal.SIGKILL
    assert engine.inspect(name) is None


async def test_removed_from_outside_this_is_told(docker: Docker, engine: Engine, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    process = await start(docker, image, name=name)
    engine.call("DELETE", f"/containers/{name}", force=1)
    with pytest.raises(SandboxUnavailable, match=f"{name} was removed"):
        await process.wait()


async def test_a_command_that_is_not_there_is_told_and_leaves_no_container(
    docker: Docker, engine: Engine, node: str, image: str
) -> None:
    with pytest.raises(SandboxUnavailable, match="no such file or directory"):
        await start(docker, "moorage-test/python:latest", "/nothing/here")
    assert engine.containers(f"moorage.node={node}") == []


async def test_a_foreign_container_of_the_same_name_is_left_alone(docker: Docker, engine: Engine, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    body = json.dumps({"Image": image, "Labels": {"moorage.node": "another"}}).encode()
    assert engine.call("POST", "/containers/create", body, name=name)[0] == 201
    try:
        with pytest.raises(SandboxUnavailable, match="not this node's"):
            await start(docker, image, name=name)
        assert inspected(engine, name)["State"]["Status"] == "created"
    finally:
        engine.call("DELETE", f"/containers/{name}", force=1)


async def test_a_leftover_of_its_own_is_replaced(docker: Docker, engine: Engine, node: str, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    body = json.dumps({"Image": image, "Labels": {"moorage.node": node}}).encode()
    assert engine.call("POST", "/containers/create", body, name=name)[0] == 201
    before = inspected(engine, name)["Id"]
    await get(await start(docker, image, name=name))
    assert inspected(engine, name)["Id"] != before


# Images


async def test_an_image_is_pulled_once_and_again_when_it_is_gone(
    docker: Docker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "TELL_EVERY", 0)
    said: list[str] = []
    with a_registry({"big": os.urandom(8 * MIB)}, login="ada:secret") as registry:
        pull = {"credentials": Credentials(username="ada", password="secret"), "progress": said.append}
        asked = []
        for gone in (False, False, True):
            if gone:
                engine.call("DELETE", f"/images/{registry.image}", force=1)
            with pytest.raises(SandboxUnavailable, match="cannot be started"):  # there is nothing in it to run
                await start(docker, registry.image, "/nothing", **pull)
            asked.append(registry.asked)
        engine.call("DELETE", f"/images/{registry.image}", force=1)
    assert 0 < asked[0] == asked[1] < asked[2]
    assert said[0] == f"pulling {registry.image}"
    assert any(line.startswith(f"pulling {registry.image}: layer ") and line.endswith(" %") for line in said)


async def test_an_image_that_finds_no_room_on_the_disk_is_told_as_that(docker: Docker, image: str) -> None:
    with pytest.raises(DiskFull):
        await docker.export(image, Path("/dev/full"))


async def test_an_image_that_cannot_be_had_is_an_error_that_says_why(docker: Docker) -> None:
    with a_registry({}, login="ada:secret") as registry:
        credentials = Credentials(username="ada", password="wrong")
        with pytest.raises(SandboxUnavailable, match=r"cannot be pulled, and there is no local one: .+") as caught:
            await start(docker, registry.image, credentials=credentials)
    assert "wrong" not in str(caught.value)
    with pytest.raises(SandboxUnavailable, match=r"no local one.*refused"):
        await start(docker, registry.image)
    with pytest.raises(SandboxUnavailable, match="invalid reference"):
        await start(docker, "not AN image")


async def test_without_its_registry_the_local_image_is_used(docker: Docker, engine: Engine) -> None:
    with a_registry({}) as registry:
        name = registry.image
    local = engine.image(name, APP)
    assert (await get(await start(docker, local))).endswith(b"/ None")


# The engine


async def test_without_an_engine_it_says_what_was_tried_and_later_works(
    docker: Docker, engine: Engine, image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(
        SandboxUnavailable, match=f"No container engine answers at unix://{tmp_path}/none.sock"
    ) as caught:
        await start(docker, image)
    assert "apt install docker.io" in (caught.value.hint or "")
    assert await docker.reap() == 0
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    await get(await start(docker, image))


async def test_a_user_whom_the_engine_refuses_is_told_what_to_do(docker: Docker, engine: Engine, image: str) -> None:
    if os.geteuid() != 0 or not engine.url.startswith("unix://"):
        pytest.skip("only root can become somebody whom a socket refuses")
    os.seteuid(65534)
    try:
        with pytest.raises(SandboxUnavailable, match="refuses this user: Permission denied") as caught:
            await start(docker, image)
    finally:
        os.seteuid(0)
    assert "usermod -aG docker" in (caught.value.hint or "")


async def test_what_answers_and_is_no_engine_is_told(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_registry({}) as registry:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{registry.port}")
        with pytest.raises(SandboxUnavailable, match="no container engine"):
            await start(docker, "any")


async def test_an_engine_on_another_machine_is_refused(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://somebody@elsewhere.invalid")
    with pytest.raises(SandboxUnavailable, match="another machine"):
        await start(docker, "any")


@contextlib.asynccontextmanager
async def a_way_to(engine: Engine, path: Path) -> AsyncIterator[None]:
    """Forward a Unix socket to the engine; at the end the engine seems to be gone."""
    joined: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(engine.url.removeprefix("unix://"))
        joined.update((writer, there[1]))
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_unix_server(forward, path)
    try:
        yield
    finally:
        server.close()
        for writer in joined:
            writer.close()
        path.unlink()


async def test_when_the_engine_goes_away_this_is_told_and_the_next_start_works(
    docker: Docker, engine: Engine, image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not engine.url.startswith("unix://"):
        pytest.skip("the engine does not listen at a Unix socket")
    path, name = tmp_path / "way.sock", f"moorage-test-{uuid4().hex}"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    async with a_way_to(engine, path):
        lost = await start(docker, image, name=name)
    with pytest.raises(SandboxUnavailable, match=f"{name} was lost"):
        await lost.wait()
    with pytest.raises(SandboxUnavailable, match="No container engine answers"):
        await start(docker, image, name=name)
    async with a_way_to(engine, path):
        await get(await start(docker, image, name=name))
        await docker.close()


# Nothing is left


async def test_closing_leaves_no_container_network_or_process(
    docker: Docker, engine: Engine, node: str, image: str
) -> None:
    before = set(psutil.Process().children())
    processes = [await start(docker, image, network=network) for network in ("internet", "none", "internet")]
    assert len(set(psutil.Process().children()) - before) == 1
    await docker.close()
    assert [(await process.wait()).status for process in processes] == [-signal.SIGKILL] * 3
    assert engine.containers(f"moorage.node={node}") == engine.networks(f"moorage.node={node}") == []
    assert set(psutil.Process().children()) == before


async def test_the_guard_holds_nothing_of_the_node(docker: Docker, image: str) -> None:
    before = set(psutil.Process().children())
    await start(docker, image)
    (guard,) = set(psutil.Process().children()) - before
    assert sorted(path.name for path in Path(f"/proc/{guard.pid}/fd").iterdir()) == ["0", "1", "2"]
    assert os.getsid(guard.pid) == guard.pid
    await until(lambda: {signal.SIGINT, signal.SIGTERM} <= ignored(guard.pid))


async def test_the_containers_of_a_killed_node_go_with_it(engine: Engine, node: str, image: str) -> None:
    name = f"moorage-test-{uuid4().hex}"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NODE, node, image, name, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout
        while await child.stdout.readline() != b"started\n":
            assert child.returncode is None
        (guard,) = psutil.Process(child.pid).children()
        assert inspected(engine, name)["State"]["Running"]
    finally:
        child.kill()
        await child.wait()
    await until(lambda: engine.inspect(name) is None)
    await until(lambda: not guard.is_running())
    assert await Docker(node=node).reap() == 0


async def test_the_next_node_removes_what_an_earlier_one_left(
    docker: Docker, engine: Engine, node: str, image: str
) -> None:
    earlier = Docker(node=node)
    try:
        left = await start(earlier, image, network="none")
        kept = await start(docker, image)
        assert await docker.reap() == 1
        with pytest.raises(SandboxUnavailable, match="was removed"):
            await left.wait()
        assert await get(kept)
        assert [each["Name"] for each in engine.networks(f"moorage.node={node}")] == [f"moorage-{node}"]
    finally:
        await earlier.close()
