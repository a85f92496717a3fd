"""What a program with `network="internet"` reaches: public addresses, and nothing of this machine or its neighbours."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from moorage.sandbox.addresses import RESERVED, not_public
from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.internet import TUN
from tests.neighbours import MACHINE, PORT, Neighbour, a_neighbour
from tests.sandboxing import PYTHON, py, sh, spec, start

pytestmark = pytest.mark.anyio

TRY = f"""
import errno, json, socket, sys
addresses, kind, bound = json.loads(sys.argv[1])
outcomes = {{}}
for address in addresses:
    with socket.socket(socket.AF_INET, kind) as attempt:
        attempt.settimeout(2)
        if bound:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0")
        try:
            attempt.connect((address, {PORT}))
            if kind == socket.SOCK_DGRAM:
                attempt.send(b"anybody there?")
                attempt.recv(100)
            outcomes[address] = "reached"
        except OSError as error:
            outcomes[address] = errno.errorcode.get(error.errno, "timeout")
print(json.dumps(outcomes))
"""
CHANGE = """
import errno, socket, struct
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
for kind, flags, target in ((25, 5, 7), (24, 0x405, 1)):
    route = struct.pack("=BBBBBBBBIHH4s", 2, 8, 0, 0, 254, 4, 0, target, 0, 8, 1, bytes([10, 0, 0, 0]))
    kernel.send(struct.pack("=IHHII", 16 + len(route), kind, flags, 0, 0) + route)
    print(errno.errorcode[-struct.unpack_from("=i", kernel.recv(4096), 16)[0]])
"""
RESOLVED = f"""
import asyncio, socket, sys
from pathlib import Path
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import py

async def main(place):
    sandbox = (await open_sandboxes(data_dir=place, run_dir=place / "run"))["bubblewrap"]
    with socket.create_server(("", {PORT})), socket.create_server(("127.77.7.53", 53)):
        for network in ("internet", "machines"):
            for port in ({PORT}, 53):
                code = f"import socket; print(socket.socket().connect_ex(('10.0.2.3', {{port}})) == 0)"
                print((await py(sandbox, code, network=network)).stdout.decode().strip())
    await sandbox.close()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module", autouse=True)
def connected() -> None:
    """Skip where no network can be given."""
    if shutil.which("slirp4netns") is None:
        pytest.skip("slirp4netns is not installed (apt install slirp4netns)")
    if not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip(f"{TUN} is not there for this user")


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can play another machine, with a network namespace and ip(8)")
    with a_neighbour() as machine:
        yield machine


@dataclass(frozen=True)
class Attempts:
    """How attempts to reach addresses ended: `reached`, or the name of the error."""

    sandbox: Bubblewrap

    async def __call__(
        self, *addresses: str, kind: int = socket.SOCK_STREAM, bound: bool = False, **more: object
    ) -> dict[str, str]:
        wanted = repr(json.dumps([addresses, kind, bound]))
        ran = await py(
            self.sandbox, TRY.replace("sys.argv[1]", wanted), **{"network": "internet", "cwd": "/tmp", **more}
        )
        assert ran.exit.status == 0, ran.stderr
        return json.loads(ran.stdout)


@pytest.fixture
def attempts(sandbox: Bubblewrap) -> Attempts:
    return Attempts(sandbox)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("root", [False, True])
async def test_a_public_address_is_reached_and_one_in_a_private_range_is_not(
    attempts: Attempts, neighbour: Neighbour, kind: int, root: bool
) -> None:
    outcomes = await attempts(neighbour.public, *neighbour.private, kind=kind, root=root)
    assert outcomes.pop(neighbour.public) == "reached"
    assert outcomes == dict.fromkeys(neighbour.private, "EHOSTUNREACH")


async def test_builds_of_layers_reach_both(attempts: Attempts, neighbour: Neighbour) -> None:
    wanted = (neighbour.public, *neighbour.private)
    assert await attempts(*wanted, network="machines") == dict.fromkeys(wanted, "reached")


async def test_without_a_network_neither_is_reached(attempts: Attempts, neighbour: Neighbour) -> None:
    wanted = (neighbour.public, *neighbour.private)
    assert await attempts(*wanted, network="none") == dict.fromkeys(wanted, "ENETUNREACH")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_binding_a_socket_to_the_interface_leads_no_further(
    attempts: Attempts, neighbour: Neighbour, kind: int
) -> None:
    outcomes = await attempts(neighbour.public, *neighbour.private, neighbour.ours, kind=kind, bound=True)
    assert outcomes.pop(neighbour.public) == "reached"
    assert "reached" not in outcomes.values()


async def test_an_address_of_this_machine_is_not_reached_even_if_it_is_public(
    attempts: Attempts, neighbour: Neighbour
) -> None:
    with socket.create_server((neighbour.ours, PORT)):
        assert await attempts(neighbour.ours, network="machines") == {neighbour.ours: "reached"}
        assert await attempts(neighbour.ours) == {neighbour.ours: "EHOSTUNREACH"}


async def test_nothing_on_this_machine_is_reached_by_any_other_way(attempts: Attempts) -> None:
    ways = ("127.0.0.1", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.100", "255.255.255.255")
    with socket.create_server(("", PORT)) as listener:
        listener.setblocking(False)
        assert "reached" not in (await attempts(*ways)).values()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_name_server_on_this_machine_is_a_way_to_that_alone(neighbour: Neighbour, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.77.7.53\n")
    scene = 'mount --bind "$1/resolv.conf" /etc/resolv.conf && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", scene, "sh", tmp_path, sys.executable, RESOLVED]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=True, timeout=60)
    assert ran.stdout.split() == [b"False", b"True", b"False", b"True"]


async def test_what_listens_to_a_multicast_group_hears_nothing(sandbox: Bubblewrap, neighbour: Neighbour) -> None:
    group = "239.77.7.7"
    code = f"""
import socket
for bound in (False, True):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if bound:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0")
    try:
        print(sender.sendto(b"x", ({group!r}, {PORT})))
    except OSError as error:
        print(error.errno)
"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("", PORT))
        for ours in (neighbour.ours, "127.0.0.1"):
            membership = socket.inet_aton(group) + socket.inet_aton(ours)
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        listener.setblocking(False)
        await py(sandbox, code, network="internet")
        with pytest.raises(BlockingIOError):
            listener.recv(100)


async def test_no_address_of_ipv6_is_reached(sandbox: Bubblewrap) -> None:
    code = """
import errno, socket
for address in ("2001:4860:4860::8888", "fd00::2", "::ffff:10.77.1.2"):
    with socket.socket(socket.AF_INET6) as attempt:
        attempt.settimeout(2)
        try:
            attempt.connect((address, 80))
            print("reached")
        except OSError as error:
            print(errno.errorcode.get(error.errno, "timeout"))
"""
    ran = await py(sandbox, code, network="internet")
    assert "reached" not in ran.lines


@pytest.mark.parametrize("root", [False, True])
async def test_the_routes_cannot_be_changed_from_within(sandbox: Bubblewrap, root: bool) -> None:
    ran = await py(sandbox, CHANGE, network="internet", root=root, cwd="/")
    assert ran.lines == ["EPERM", "EPERM"], ran.stderr


async def test_the_name_server_is_that_of_the_connection(sandbox: Bubblewrap) -> None:
    code = """
import socket
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(asked.connect_ex(("10.0.2.3", 53)), open("/etc/resolv.conf").read())
"""
    assert (await py(sandbox, code, network="internet")).lines[0] == "0 nameserver 10.0.2.3"


async def test_the_machines_own_names_are_not_told(sandbox: Bubblewrap) -> None:
    ran = await sh(sandbox, "cat /etc/hosts", network="internet")
    assert ran.lines == ["127.0.0.1 localhost", "::1 localhost", "127.0.1.1 moorage"]


async def test_the_node_connects_to_what_listens_in_there(sandbox: Bubblewrap) -> None:
    said = asyncio.Event()
    request = spec(PYTHON, "-c", MACHINE, network="internet", root=True, cwd="/")
    process = await start(sandbox, request, lambda _stream, _data: said.set())
    await asyncio.wait_for(said.wait(), 30)
    (await process.connect(PORT)).close()
    with await process.connect(PORT, socket.SOCK_DGRAM) as connection:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, b"hello")
        assert await asyncio.wait_for(loop.sock_recv(connection, 100), 30) == b"hello"
    process.kill()
    await process.wait()


def test_the_reserved_networks_are_those_that_python_knows_as_not_global() -> None:
    assert all(network[0].is_multicast or not network[0].is_global for network in RESERVED)
    wide = [network for network in (*RESERVED, IPv4Network("127.0.0.0/8")) if network.prefixlen <= 16]
    for address in (IPv4Address(number << 16 | 0x0102) for number in range(1 << 16)):
        assert address.is_global or any(address in network for network in wide), address


def test_every_address_of_this_machine_but_loopback_is_closed(neighbour: Neighbour) -> None:
    closed = list(not_public())
    assert any(IPv4Address(neighbour.ours) in network for network in closed)
    assert not any(IPv4Address(neighbour.public) in network for network in closed)
    assert not any(IPv4Address("127.0.0.1") in network for network in closed)
