"""What programs ask of the machine: ports, processors, memory beside others, a runtime (contract, 2.3 and 2.5)."""

import os
import platform
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from moorage.model.limits import MIB
from moorage.networks.aleph.programs import capacity
from tests.aleph import RUNTIME
from tests.aleph_node import AlephNode, aleph_node
from tests.aleph_probe import ASGI, EXECUTABLE, inside, packed, resources
from tests.docker_engine import PYTHON, Engine, python_files

REGISTERED = {"owner": "0xAbC", "address": "https://node.example", "node_hash": "a" * 64}
C_LIBRARY = {"libpthread", "libdl", "librt", "libm", "libz", "libgcc_s", "libstdc++"}
"""What packages of the built-in runtime take from the root file system."""
ROOT, SQUASHED, DIRECTORY, IMAGE, MISSING, UNKNOWN = (letter * 64 for letter in "123456")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a root file system with a Python and a mark, as a directory, a tar and a squashfs image."""
    place = tmp_path_factory.mktemp("roots")
    with tarfile.open(fileobj=BytesIO(python_files())) as archive:
        archive.extractall(place / "directory", filter="fully_trusted")
    for library in Path("/usr/lib").glob("*-linux-gnu/lib*.so.*"):
        if library.name.partition(".so")[0] in C_LIBRARY:
            copy = place / "directory" / library.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    (place / "directory/etc").mkdir()
    (place / "directory/etc/mark").write_text("mapped")
    (place / "directory/etc/link").symlink_to("/etc/mark")
    (place / "directory/bin").symlink_to("/usr/bin")
    (place / "directory/dev").mkdir()
    if os.geteuid() == 0:
        os.mknod(place / "directory/dev/null", 0o20666, os.makedev(1, 3))
    subprocess.run(["tar", "-czf", place / "root.tar", "-C", place / "directory", "."], check=True)
    squash = ["mksquashfs", place / "directory", place / "root.squashfs", "-quiet", "-no-progress"]
    subprocess.run(squash, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path, roots: Path) -> Iterator[AlephNode]:
    runtimes = {
        ROOT: str(roots / "root.tar"), SQUASHED: str(roots / "root.squashfs"), DIRECTORY: str(roots / "directory"),
        MISSING: str(roots / "missing"), IMAGE: f"image:{PYTHON}",
    }  # fmt: skip
    directory = tmp_path_factory.mktemp("resources") / "data"
    with aleph_node(directory, layers=aleph_layers, runtimes=runtimes, registration=REGISTERED) as running:
        yield running


def said(node: AlephNode, program: str) -> str:
    return "\n".join(line.text for line in node.log(program) if line.source == "system")


# published ports

LISTENERS = """
import threading

def echo():
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=lambda: [connection.sendall(b"tcp " + data) for data in iter(
            lambda: connection.recv(100), b"")] and connection.close()).start()

def echo_datagrams():
    while True:
        data, client = datagrams.recvfrom(100)
        datagrams.sendto(b"udp " + data, client)

listener = socket.create_server(("127.0.0.1", 5432))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 5432))
for each in (echo, echo_datagrams):
    threading.Thread(target=each, daemon=True).start()
"""


def published(node: AlephNode, program: str) -> dict[str, Any]:
    listed = node.client.get("/v2/about/executions/list").json()[program]
    return dict(listed["networking"]["mapped_ports"])


def test_published_ports_lead_into_the_network_of_the_program(node: AlephNode) -> None:
    ports = [{"port": 5432, "protocol": "tcp"}, {"port": 5432, "protocol": "udp"}, {"port": 81}]
    program = node.deploy(ASGI, resources=resources(published_ports=ports))
    inside(node, program, LISTENERS)
    mapped = published(node, program)
    number = mapped["5432"]["host"]
    assert mapped["5432"] == {"host": number, "tcp": True, "udp": True}
    assert mapped["81"] == {"host": mapped["81"]["host"], "tcp": True, "udp": False}
    with socket.create_connection(("127.0.0.1", number), 30) as one, socket.create_connection(("127.0.0.1", number)):
        one.sendall(b"hello")
        assert one.recv(100) == b"tcp hello"
        one.shutdown(socket.SHUT_WR)
        assert one.recv(100) == b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.settimeout(30)
        other.connect(("127.0.0.1", number))
        for word in (b"one", b"two"):
            other.send(word)
            assert other.recv(100) == b"udp " + word
    with socket.create_connection(("127.0.0.1", mapped["81"]["host"]), 30) as nobody:
        assert nobody.recv(100) == b""


def test_a_published_port_keeps_its_number_and_is_closed_while_the_program_is_stopped(node: AlephNode) -> None:
    program = node.deploy(ASGI, resources=resources(published_ports=[{"port": 5432}]))
    inside(node, program, LISTENERS)
    number = published(node, program)["5432"]["host"]
    with socket.create_connection(("127.0.0.1", number), 30) as held:
        held.sendall(b"x")
        assert held.recv(100) == b"tcp x"
        instance = node.instance(program)
        node.served.portal.call(node.surface.services.stop, instance.spec.key)
        assert held.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number), 30)
    inside(node, program, LISTENERS)
    assert published(node, program)["5432"]["host"] == number


# requirements

GPU = {"vendor": "N", "device_name": "N", "device_class": "0300", "device_id": "1:2"}


def architecture() -> str:
    return {"aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.mark.parametrize(
    ("required", "path"),
    [
        ({"cpu": {"architecture": "arm64" if architecture() == "x86_64" else "x86_64"}}, "cpu.architecture"),
        ({"cpu": {"vendor": "Nobody"}}, "cpu.vendor"),
        ({"cpu": {"features": ["telepathy"]}}, "cpu.features"),
        ({"node": {"owner": "0xdef"}}, "node.owner"),
        ({"node": {"address_regex": "https://other"}}, "node.address_regex"),
        ({"node": {"address_regex": "(?=x)https"}}, "node.address_regex"),
        ({"node": {"node_hash": "b" * 64}}, "node.node_hash"),
        ({"node": {"terms_and_conditions": "b" * 64}}, "node.terms_and_conditions"),
        ({"gpu": [GPU]}, "gpu"),
    ],
)
def test_a_requirement_that_is_not_met_is_named(node: AlephNode, required: dict[str, Any], path: str) -> None:
    answer = node.get(node.deploy(requirements=required))
    expected = {"error": f"This node does not satisfy requirements.{path}"}
    assert (answer.status_code, answer.json()) == (503, expected)


def test_requirements_that_are_met_say_nothing(node: AlephNode) -> None:
    named = {"owner": "0xabc", "address_regex": r"^https://(\w+\.)+example$", "node_hash": "a" * 64}
    required = {"cpu": {"architecture": architecture(), "features": []}, "node": named, "gpu": []}
    assert node.get(node.deploy(requirements=required)).text == "hello"


# runtimes

LOOK = "print(os.path.exists('/etc/mark') and open('/etc/link').read(), sys.version_info[:2] >= (3, 11))"


@pytest.mark.parametrize("runtime", [ROOT, SQUASHED, DIRECTORY])
@pytest.mark.parametrize("kind", ["asgi", "executable"])
def test_a_mapped_runtime_is_the_root_file_system(node: AlephNode, runtime: str, kind: str) -> None:
    chosen = {"runtime": {"ref": runtime, "comment": ""}}
    if kind == "asgi":
        program = node.deploy(f"import fastapi\n{ASGI}", **chosen)
    else:
        program = node.deploy({"run": EXECUTABLE}, entrypoint="python3 run", **chosen)
    assert inside(node, program, LOOK) == "mapped True"
    assert inside(node, program, "print(open('/etc/new', 'w').write('x'), os.path.exists('/usr/lib/apt'))") == "1 False"
    assert inside(node, program, "print(open('/dev/null', 'w').write('x'), os.getuid())") == "1 0"
    if kind == "executable":
        assert inside(node, program, "print(os.path.exists('/opt/env'))") == "False"


def test_a_stored_squashfs_image_is_a_runtime_and_follows_its_updates(node: AlephNode, roots: Path) -> None:
    image = (roots / "root.squashfs").read_bytes()
    ref = node.file(packed({"etc/mark": "nothing else"}, "squashfs"))
    program = node.deploy({"run": EXECUTABLE}, entrypoint="python3 run", runtime={"ref": ref, "comment": ""})
    assert node.get(program).status_code == 500  # there is no python3
    node.file(image, ref=ref)
    assert inside(node, program, LOOK) == "mapped True"


def test_an_unknown_runtime_is_the_built_in_one_and_the_log_says_how_to_map_it(node: AlephNode) -> None:
    for runtime, told in ((UNKNOWN, "[networks.aleph.runtimes]"), (MISSING, "cannot be used")):
        program = node.deploy(ASGI, runtime={"ref": runtime, "comment": ""})
        assert inside(node, program, LOOK) == "False True"
        assert told in said(node, program)
    known = node.deploy(ASGI, runtime={"ref": RUNTIME, "comment": ""})
    assert inside(node, known, LOOK) == "False True"
    assert "runtime" not in said(node, known)


def test_an_image_of_the_container_engine_is_a_runtime(
    node: AlephNode, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    engine.image("moorage-test/any:latest", "")  # which makes PYTHON, too
    program = node.deploy({"run": EXECUTABLE}, entrypoint="python3 run", runtime={"ref": IMAGE, "comment": ""})
    assert inside(node, program, "print(os.path.exists('/etc/passwd'), os.path.exists('/usr/bin/apt'))") == (
        "False False"
    ), said(node, program)
    assert engine.get("/containers/json", all=1) == []


# memory beside others


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    """Run a node with room for two small programs."""
    directory = tmp_path_factory.mktemp("small") / "data"
    with aleph_node(directory, layers=aleph_layers, config={"memory": 600 * MIB}) as running:
        yield running


def test_programs_that_nobody_uses_make_room_those_first_that_were_not_used_for_longest(small: AlephNode) -> None:
    one, two, three = (small.deploy(ASGI) for _ in range(3))
    for program in (one, two, one, three):
        inside(small, program, "")
    assert sorted(key.split(":")[1].split("@")[0] for key in small.processes()) == sorted([one, three])


@contextmanager
def busy(node: AlephNode, seconds: float) -> Iterator[None]:
    """Fill a small node with programs that are asked for something long."""
    programs = [node.deploy(ASGI, resources=resources(memory=300)) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(inside, node, each, f"time.sleep({seconds})") for each in programs]
        while not all(lease(node, each) for each in programs):
            time.sleep(0.05)
        yield
        assert [each.result() for each in asked] == ["", ""]


def test_a_program_that_finds_no_room_beside_busy_ones_is_refused_after_a_while(
    small: AlephNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "PATIENCE", 0.5)
    with busy(small, 3):
        answer = small.get(small.deploy(ASGI))
    assert answer.status_code == 503
    assert answer.json() == {"error": "This CRN cannot host the requested workload at this time."}
    assert int(answer.headers["retry-after"]) > 0


def test_a_program_waits_for_room(small: AlephNode) -> None:
    with busy(small, 1.5):
        assert inside(small, small.deploy(ASGI), "print('room')") == "room"


def lease(node: AlephNode, program: str) -> bool:
    state = node.surface.services.state(node.instance(program).spec.key)
    return state is not None and state.state == "ready" and bool(state.leases)


def test_a_program_larger_than_the_node_is_refused_at_once_also_if_it_is_persistent(small: AlephNode) -> None:
    for on in ({"http": True}, {"http": True, "persistent": True}):
        answer = small.get(small.deploy(ASGI, on=on, resources=resources(memory=601)))
        assert answer.status_code == 503
        assert answer.json()["error"].startswith("This CRN cannot host")


def test_ephemeral_volumes_count_as_memory(small: AlephNode) -> None:
    volumes = [{"ephemeral": True, "size_mib": 500}]
    assert small.get(small.deploy(ASGI, volumes=volumes)).status_code == 503
