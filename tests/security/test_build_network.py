"""What code of a package can reach while it is installed: other machines, and nothing that listens on this one."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from moorage.errors import SandboxUnavailable
from moorage.sandbox.base import SANDBOX_UID, Process
from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.internet import TUN
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import Output, py, run, sh, spec, start

pytestmark = pytest.mark.anyio

TRY = """
import errno, socket, sys
family, address = eval(sys.argv[1])
with socket.socket(family) as connection:
    connection.settimeout(5)
    try:
        connection.connect(address)
        print("reached")
    except OSError as error:
        print(errno.errorcode.get(error.errno, "timeout"))
"""
NODE = """
import asyncio, sys
from pathlib import Path
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import Output, spec, start

async def main(place):
    sandbox = (await open_sandboxes(data_dir=place, run_dir=place / "run"))["bubblewrap"]
    await start(sandbox, spec("sleep", "600", network="machines"), Output())
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def connected() -> None:
    """Skip where no network of its own can be connected."""
    if shutil.which("slirp4netns") is None:
        pytest.skip("slirp4netns is not installed (apt install slirp4netns)")
    if not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip(f"{TUN} is not there for this user")


@pytest.fixture
def loopback() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
async def sleeping(sandbox: Bubblewrap) -> Process:
    return await start(sandbox, spec("sleep", "600", network="machines"), Output())


async def attempt(sandbox: Bubblewrap, family: int, address: object) -> str:
    """Connect from within and tell how that ended."""
    code = TRY.replace("sys.argv[1]", repr(repr((int(family), address))))
    ran = await py(sandbox, code, network="machines")
    assert ran.exit.status == 0, ran.stderr
    return ran.stdout.decode().strip()


def connections() -> list[psutil.Process]:
    """Find the processes that connect sandboxes of this process or its children."""
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "slirp4netns"]


def ended(processes: list[psutil.Process]) -> bool:
    assert processes
    return psutil.wait_procs(processes, timeout=30)[1] == []


# what is in reach


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.100"])
async def test_a_listener_on_the_machines_loopback(sandbox: Bubblewrap, loopback: socket.socket, address: str) -> None:
    assert await attempt(sandbox, socket.AF_INET, (address, loopback.getsockname()[1])) != "reached"
    with pytest.raises(BlockingIOError):
        loopback.accept()


async def test_a_listener_on_the_machines_loopback_of_ipv6(sandbox: Bubblewrap) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with closing(listener):
        assert await attempt(sandbox, socket.AF_INET6, ("::1", listener.getsockname()[1])) != "reached"


async def test_an_abstract_unix_socket_of_the_machine(sandbox: Bubblewrap) -> None:
    name = f"\0moorage-{uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as outside:
        listener.bind(name)
        listener.listen()
        assert await attempt(sandbox, socket.AF_UNIX, name) == errno.errorcode[errno.ECONNREFUSED]
        outside.connect(name)


async def test_an_address_that_other_machines_could_listen_on_is_reached(sandbox: Bubblewrap) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but chooses an address
        except OSError as error:
            pytest.skip(f"this machine has no network: {error}")
        address = probe.getsockname()[0]
    with socket.create_server((address, 0)) as listener:
        assert await attempt(sandbox, socket.AF_INET, listener.getsockname()) == "reached"


async def test_the_name_server_is_that_of_the_connection_and_not_of_the_machine(sandbox: Bubblewrap) -> None:
    ran = await sh(sandbox, "cat /etc/resolv.conf; cat /proc/net/route", network="machines")
    assert ran.lines[0] == "nameserver 10.0.2.3"
    assert {line.split()[0] for line in ran.lines[2:]} == {"tap0"}


async def test_no_descriptor_more_than_without_network(sandbox: Bubblewrap) -> None:
    plain, online = [await sh(sandbox, "ls /proc/self/fd", network=network) for network in ("none", "machines")]
    assert online.lines == plain.lines


async def test_what_connects_has_no_rights_and_sees_neither_files_nor_the_mounts(
    sandbox: Bubblewrap, sleeping: Process
) -> None:
    (connection,) = connections()
    assert set(connection.uids()) == {os.geteuid() or SANDBOX_UID}
    status = Path(f"/proc/{connection.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    targets = [str(path.readlink()) for path in Path(f"/proc/{connection.pid}/fd").iterdir()]
    assert [target for target in targets if not re.match(r"(/dev)?/null|(/dev/net)?/tun|\w+:", target)] == []
    sleeping.kill()
    await sleeping.wait()


async def test_raw_packets_and_changes_to_the_connection_are_refused(sandbox: Bubblewrap) -> None:
    code = """
import fcntl, socket, struct
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
take_down = struct.pack("16sH14s", b"tap0", 0, b"")
for attempt in (
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    lambda: fcntl.ioctl(udp, 0x8914, take_down),
):
    try:
        print(attempt())
    except PermissionError:
        print("refused")
"""
    assert (await py(sandbox, code, network="machines")).lines == ["refused", "refused"]


# the end of the connection


async def test_it_ends_with_the_process(sandbox: Bubblewrap) -> None:
    output = Output()
    process = await start(sandbox, spec("sh", "-c", "sleep 1; exit 7", network="machines"), output)
    found = connections()
    assert (await process.wait()).status == 7
    assert ended(found)
    assert (bytes(output.stdout), bytes(output.stderr)) == (b"", b"")


async def test_it_ends_when_the_process_is_killed(sandbox: Bubblewrap, sleeping: Process) -> None:
    found = connections()
    sleeping.kill()
    assert (await sleeping.wait()).status == -signal.SIGKILL
    assert ended(found)
    assert (await sh(sandbox, "echo fine", network="machines")).lines == ["fine"]


async def test_it_ends_when_the_sandboxes_are_closed(sandbox: Bubblewrap, sleeping: Process) -> None:
    found = connections()
    await sandbox.close()
    assert ended(found)
    assert (await sleeping.wait()).status != 0


def a_node(place: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", NODE, str(place)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("victims", [["node"], ["spawner"], ["node", "spawner"], ["bubblewrap"]])
async def test_it_ends_when_somebody_above_it_is_killed(tmp_path: Path, victims: list[str]) -> None:
    with a_node(tmp_path) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"ready\n"
        found, (spawner,) = connections(), psutil.Process(node.pid).children()
        above = {"node": psutil.Process(node.pid), "spawner": spawner, "bubblewrap": found[0].parent()}
        for name in victims:
            above[name].suspend()  # so that none of them can tidy up for another
        for name in victims:
            above[name].kill()
        try:
            assert ended(found)
        finally:
            node.kill()
    sandbox = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run"))["bubblewrap"]
    await sandbox.reap()
    await sandbox.close()


async def test_a_process_whose_connection_dies_goes_on_without(sandbox: Bubblewrap, sleeping: Process) -> None:
    (connection,) = connections()
    connection.kill()
    assert ended([connection])
    sleeping.terminate()
    assert (await sleeping.wait()).status == -signal.SIGTERM


# where it cannot be had


@pytest.mark.parametrize(
    ("program", "message"), [(None, "slirp4netns is not installed"), ("false", "cannot connect to the internet")]
)
async def test_without_a_working_slirp4netns_it_is_said_so(
    program: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name, real in {"bwrap": "bwrap", "chown": "chown", "cp": "cp", "slirp4netns": program}.items():
        if found := real and shutil.which(real):
            (tmp_path / "bin" / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    sandbox = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run"))["bubblewrap"]
    try:
        with pytest.raises(SandboxUnavailable, match=message) as caught:
            await run(sandbox, spec("/bin/true", network="machines"))
    finally:
        await sandbox.close()
    assert caught.value.hint
