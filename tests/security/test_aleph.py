"""What a published program may try, and what stops it: it reaches its own and nothing else (contract, 2.5 and 2.8)."""

import gzip
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from moorage.sandbox.base import SANDBOX_UID
from moorage.sandbox.internet import TUN
from tests.aleph import Wallet
from tests.aleph_node import AlephNode, aleph_node
from tests.aleph_probe import ASGI, EXECUTABLE, inside
from tests.neighbours import PORT, Neighbour, a_neighbour

KINDS = ("asgi", "executable")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("security") / "data", layers=aleph_layers) as running:
        yield running


@pytest.fixture(scope="module")
def victim(node: AlephNode) -> str:
    """Give a program that runs, with something to steal."""
    volumes = [{"name": "db", "size_mib": 5, "mount": "/var/lib/db"}]
    program = node.deploy({"run": EXECUTABLE}, entrypoint="run", volumes=volumes, variables={"SECRET": "s3cr3t"})
    inside(node, program, "open('/var/lib/db/secret', 'w').write('s3cr3t')")
    return program


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can play another machine, with a network namespace and ip(8)")
    with a_neighbour() as machine:
        yield machine


@pytest.fixture(scope="module")
def internet() -> None:
    """Skip where no network can be given."""
    if shutil.which("slirp4netns") is None or not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip("slirp4netns is not installed (apt install slirp4netns), or there is no /dev/net/tun")


def deploy(node: AlephNode, kind: str, **content: Any) -> str:
    if kind == "asgi":
        return node.deploy(ASGI, **content)
    return node.deploy({"run": EXECUTABLE}, entrypoint="run", **content)


TRY = """
outcomes = {{}}
for address in {addresses!r}:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as attempt:
        attempt.settimeout(2)
        try:
            attempt.connect(tuple(address))
            outcomes[address[0]] = "reached"
        except OSError as error:
            outcomes[address[0]] = type(error).__name__ + " " + str(error.errno)
print(json.dumps(outcomes))
"""


def attempts(node: AlephNode, program: str, *addresses: tuple[str, int]) -> dict[str, str]:
    """Tell how connections from inside a program ended: `reached`, or an error."""
    return dict(json.loads(inside(node, program, TRY.format(addresses=addresses))))


def own_addresses() -> list[str]:
    """List the addresses of this machine."""
    listed = (each for addresses in psutil.net_if_addrs().values() for each in addresses)
    return sorted({each.address for each in listed if each.family == socket.AF_INET})


# the network


@pytest.mark.parametrize("kind", KINDS)
def test_without_internet_there_is_only_a_loopback_of_its_own(
    node: AlephNode, victim: str, neighbour: Neighbour, kind: str
) -> None:
    program = deploy(node, kind)
    port = int(node.url.rpartition(":")[2])
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        listening = everywhere.getsockname()[1]
        ours = [(address, listening) for address in own_addresses()]
        theirs = [(address, PORT) for address in (neighbour.public, *neighbour.private)]
        tried = [("127.0.0.1", port), *ours, *theirs, ("2001:4860:4860::8888", 53), ("1.1.1.1", 53)]
        assert "reached" not in attempts(node, program, *tried).values()
    assert inside(node, program, "print([name for _, name in socket.if_nameindex()])") == "['lo']"
    assert "gaierror" in inside(node, program, "socket.getaddrinfo('example.org', 80)")
    assert "PermissionError" in inside(node, program, "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)")


@pytest.mark.parametrize("kind", KINDS)
def test_with_internet_public_addresses_are_reached_but_neither_this_machine_nor_its_neighbours(
    node: AlephNode, victim: str, neighbour: Neighbour, internet: None, kind: str
) -> None:
    program = deploy(node, kind, environment={"internet": True})
    port = int(node.url.rpartition(":")[2])
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        listening = everywhere.getsockname()[1]
        ours = [(address, listening) for address in (*own_addresses(), "10.0.2.2", "10.0.2.3")]
        theirs = [(address, PORT) for address in neighbour.private]
        tried = attempts(node, program, (neighbour.public, PORT), ("127.0.0.1", port), *ours, *theirs)
    assert tried.pop(neighbour.public) == "reached"
    assert "reached" not in tried.values()
    assert "nameserver" in inside(node, program, "print(open('/etc/resolv.conf').read())")


def test_a_program_does_not_hear_what_another_listens_to(node: AlephNode, victim: str) -> None:
    for environment in ({}, {"internet": True}):
        program = node.deploy(ASGI, environment=environment)
        assert "reached" not in attempts(node, program, ("127.0.0.1", 8080), ("::1", 8080)).values()
    other = "socket.socket(socket.AF_UNIX).bind('\\0aleph-probe'); print('bound')"
    assert [inside(node, each, other) for each in (node.deploy(ASGI), victim)] == ["bound", "bound"]


# the machine


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_node_is_in_sight(node: AlephNode, victim: str, kind: str) -> None:
    program = deploy(node, kind)
    data_dir = str(node.served.node.config.data_dir)
    hidden = [data_dir, f"{data_dir}/node.sock", "/etc/shadow", "/root/.ssh", "/var/run/docker.sock", "/sys/fs/cgroup"]
    assert inside(node, program, f"print([path for path in {hidden!r} if os.path.exists(path)])") == "[]"
    seen = json.loads(inside(node, program, "print(json.dumps([int(n) for n in os.listdir('/proc') if n.isdigit()]))"))
    assert len(seen) < 10
    assert os.getpid() not in seen
    environment = inside(node, program, "print(dict(os.environ))")
    assert "s3cr3t" not in environment
    assert data_dir not in environment


WALK = """
found, common = [], {"/proc", "/dev", "/usr", "/opt/env", sys.base_prefix}
for place, names, files in os.walk("/"):
    names[:] = [name for name in names if os.path.join(place, name) not in common]
    for name in files:
        try:
            with open(os.path.join(place, name), "rb") as file:
                if b"s3cr3t" in file.read(1 << 20):
                    found.append(name)
        except OSError:
            pass
print(found)
"""


def test_a_program_finds_no_secret_of_another_however_it_looks(node: AlephNode, victim: str) -> None:
    same_name = [{"name": "db", "size_mib": 5, "mount": "/var/lib/db"}]
    stranger = AlephNode(served=node.served, client=node.client, wallet=Wallet(7))
    program = stranger.deploy(ASGI, volumes=same_name, variables={"PROBE": "1"})
    assert inside(node, program, "print(os.listdir('/var/lib/db'))") == "[]"
    assert inside(node, program, WALK) == "[]"
    assert inside(node, victim, WALK) == "['secret']"


@pytest.mark.parametrize("kind", KINDS)
def test_root_in_the_sandbox_is_nobody_outside(node: AlephNode, kind: str) -> None:
    volumes = [{"name": "db", "size_mib": 5, "mount": "/var/lib/db"}]
    program = deploy(node, kind, volumes=volumes)
    made = "open('/var/lib/db/tool', 'w').close(); os.chmod('/var/lib/db/tool', 0o4755); print(os.getuid())"
    assert inside(node, program, made) == "0"
    path: Path = node.served.portal.call(node.surface.volumes.open, program, "db")
    status = (path / "tool").stat()
    assert status.st_uid == (SANDBOX_UID if os.geteuid() == 0 else os.geteuid())
    assert "PermissionError" in inside(node, program, "os.mknod('/var/lib/db/disk', 0o60666, os.makedev(8, 0))")
    capabilities = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')])"
    assert inside(node, program, capabilities) == str(["0000000000000000"] * 5)
    attempt = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None), libc.unshare(0x10000000))
"""
    assert inside(node, program, attempt) == "-1 -1"


def test_what_programs_share_cannot_be_written(node: AlephNode) -> None:
    program = node.deploy(ASGI)
    for path in ("/opt/env/bin/python", "/opt/env/x", "/usr/x", "/run/moorage/asgi/__main__.py"):
        assert "Error" in inside(node, program, f"open({path!r}, 'a')")


LEAD_OUT = "os.symlink('/proc/self/root/{target}', '/var/a/way'); os.symlink('{target}', '/var/a/plain'); print('made')"


def test_a_link_in_a_volume_leads_no_later_version_out_of_the_sandbox(node: AlephNode, tmp_path: Path) -> None:
    first = {"name": "a", "size_mib": 5, "mount": "/var/a"}
    program = node.deploy(ASGI, volumes=[first])
    assert inside(node, program, LEAD_OUT.format(target=tmp_path)) == "made"
    for way in ("way", "plain"):
        within = {"name": "b", "size_mib": 5, "mount": f"/var/a/{way}/new"}
        node.deploy(ASGI, volumes=[first, within], replaces=program)
        answer = node.client.post(f"/vm/{program}/", content=f"open('/var/a/{way}/new/escaped', 'w')")
        assert answer.status_code == 500
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_volume_is_not_followed_by_its_snapshot(node: AlephNode, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cr3t")
    program = node.deploy(ASGI, volumes=[{"name": "a", "size_mib": 5, "mount": "/var/a", "persistence": "store"}])
    assert inside(node, program, LEAD_OUT.format(target=tmp_path / "secret")) == "made"
    made = node.served.portal.call(node.surface.volumes.snapshot, program, "a")
    stored = node.served.node.blobs.path(made.digest).read_bytes()
    assert b"s3cr3t" not in gzip.decompress(stored)


def test_a_program_that_forks_without_end_leaves_others_alone(node: AlephNode, victim: str) -> None:
    program = node.deploy(ASGI)
    fork = """
children = 0
try:
    while children < 5000:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        children += 1
except OSError:
    print("refused")
"""
    answer = node.client.post(f"/vm/{program}/", content=fork)
    assert answer.status_code == 502 or answer.text.strip() == "refused"
    assert inside(node, victim, "print('alive')") == "alive"


# the guest API and the node's own


def test_the_guest_api_takes_no_other_programs_name(node: AlephNode, victim: str) -> None:
    code = """
import http.client, hashlib
text = json.dumps({"address": VICTIM, "time": 1.0, "type": "note", "content": {}}, separators=(",", ":"))
message = {"chain": "ETH", "type": "POST", "item_type": "inline", "item_content": text, "time": 1.0, "channel": "X",
           "item_hash": hashlib.sha256(text.encode()).hexdigest()}
for path, body in (("/sign", message), ("/control/machine/" + VICTIM + "/stop", {}), ("/v1/jobs", {})):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/tmp/socat-socket")
    connection.request("POST", path, json.dumps(body))
    print(connection.getresponse().status)
"""
    program = node.deploy(ASGI, environment={"aleph_api": True})
    assert inside(node, program, code.replace("VICTIM", repr(victim))).split() == ["400", "404", "404"]
    assert inside(node, victim, "print('alive')") == "alive"
