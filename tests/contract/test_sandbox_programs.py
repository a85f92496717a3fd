"""What long-running programs ask of a sandbox: a listener, to be root, a name, memory as disk, a file system."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moorage.errors import SandboxUnavailable
from moorage.sandbox.base import HOME, LISTENER, ROOT_HOME, Mount, Overlay, ReadOnly, Sandbox, Scratch, Writable
from moorage.sandbox.bubblewrap import Bubblewrap, Features
from moorage.sandbox.opening import open_sandboxes
from moorage.sandbox.warm import kind_of
from tests.sandboxing import PYTHON, Output, in_tree, py, run, sh, small, spec, start

pytestmark = pytest.mark.anyio

ECHO = f"""
import os, socket
listener = socket.socket(fileno={LISTENER})
while True:
    connection, _ = listener.accept()
    connection.sendall(connection.recv(100).upper())
    connection.close()
"""
DATAGRAMS = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    data, peer = server.recvfrom(100)
    server.sendto(data.upper(), peer)
"""


@pytest.fixture
async def sandboxes(tmp_path: Path) -> AsyncIterator[dict[str, Sandbox]]:
    opened = await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run")
    yield opened
    await opened["bubblewrap"].close()


@pytest.fixture(params=["bubblewrap", "host"])
def either(request: pytest.FixtureRequest, sandboxes: dict[str, Sandbox]) -> Sandbox:
    return sandboxes[request.param]


@pytest.fixture
def sandbox(sandboxes: dict[str, Sandbox]) -> Bubblewrap:
    opened = sandboxes["bubblewrap"]
    assert isinstance(opened, Bubblewrap)
    return opened


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "listener"))
        listening.listen()
        yield listening


async def ask(path: str, words: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(words)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return answer


class TestListener:
    async def test_what_connects_to_it_is_answered_by_the_process(
        self, either: Sandbox, listener: socket.socket
    ) -> None:
        process = await start(either, spec(PYTHON, "-c", ECHO, listener=listener), Output())
        assert await ask(listener.getsockname(), b"hello") == b"HELLO"
        process.kill()
        await process.wait()

    async def test_it_outlives_the_process_for_the_next_one(self, either: Sandbox, listener: socket.socket) -> None:
        for words in (b"first", b"second"):
            process = await start(either, spec(PYTHON, "-c", ECHO, listener=listener), Output())
            assert await ask(listener.getsockname(), words) == words.upper()
            process.kill()
            await process.wait()

    async def test_it_is_closed_when_neither_the_node_nor_the_process_has_it(
        self, either: Sandbox, listener: socket.socket
    ) -> None:
        path = listener.getsockname()
        process = await start(either, spec(PYTHON, "-c", ECHO, listener=listener), Output())
        listener.close()
        assert await ask(path, b"still") == b"STILL"
        process.kill()
        await process.wait()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(path)


async def test_datagrams_reach_a_port_in_its_network(either: Sandbox) -> None:
    said: asyncio.Queue[bytes] = asyncio.Queue()
    process = await start(either, spec(PYTHON, "-c", DATAGRAMS), lambda _stream, data: said.put_nowait(data))
    port = int(await asyncio.wait_for(said.get(), 30))
    with await process.connect(port, socket.SOCK_DGRAM) as connection:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, b"hello")
        assert await asyncio.wait_for(loop.sock_recv(connection, 100), 30) == b"HELLO"
    process.kill()
    await process.wait()


class TestRoot:
    async def test_it_is_root_at_home_and_may_write(self, sandbox: Bubblewrap) -> None:
        script = (
            "id -u; id -g; id -un; id -gn; echo ~; cd; mkdir -p made /made /run/made /tmp/made /dev/shm/made /srv/a/b"
        )
        ran = await sh(sandbox, script, root=True, cwd="/", env={"HOME": ROOT_HOME})
        assert (ran.lines, ran.stderr) == (["0", "0", "root", "root", ROOT_HOME], b"")

    async def test_what_it_wrote_is_gone_when_the_next_one_starts(self, sandbox: Bubblewrap) -> None:
        for _ in range(2):
            ran = await sh(sandbox, "ls -A /run /root | grep left; touch /run/left /root/left", root=True, cwd="/")
            assert (ran.exit.status, ran.stdout) == (0, b"")

    async def test_it_ends_and_is_measured_like_any_other(self, sandbox: Bubblewrap) -> None:
        ran = await sh(sandbox, "exit 7", root=True, cwd="/")
        assert ran.exit.status == 7
        process = await start(sandbox, spec("sleep", "600", root=True, cwd="/"), Output())
        process.terminate()
        assert (await process.wait()).status == -15

    async def test_more_memory_than_its_limit_ends_it_and_is_told(self, sandbox: Bubblewrap) -> None:
        code = "block = b'x' * (512 << 20); print('survived')"
        exited = (await py(sandbox, code, root=True, cwd="/", limits=small())).exit
        assert exited.status != 0
        assert exited.out_of_memory == ("memory" in sandbox.cgroups.enforced)


@pytest.mark.parametrize("root", [False, True])
async def test_the_name_of_the_host_is_known_and_leads_to_itself(sandbox: Bubblewrap, root: bool) -> None:
    code = "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))"
    for name in ("moorage", "ab" * 26):
        ran = await py(sandbox, code, root=root, hostname=name, cwd="/")
        assert ran.lines == [f"{name} 127.0.1.1"]


class TestScratch:
    async def test_it_is_empty_writable_and_holds_no_more_than_its_size(self, sandbox: Bubblewrap) -> None:
        mounts = (Scratch(target="/scratch", size=1 << 20),)
        script = (
            "ls -A; head -c 900000 /dev/zero > a; head -c 900000 /dev/zero > b; du -sb --apparent-size . | cut -f 1"
        )
        ran = await sh(sandbox, script, mounts=mounts, cwd="/scratch")
        assert b"No space left" in ran.stderr
        assert 900_000 < int(ran.lines[-1]) <= 1 << 20

    async def test_it_is_on_disk_without_isolation(self, sandboxes: dict[str, Sandbox], tmp_path: Path) -> None:
        mounts = (Scratch(target="/scratch", size=1 << 20),)
        ran = await sh(sandboxes["host"], "pwd; touch file", mounts=mounts, cwd="/scratch")
        assert ran.lines[0].startswith(str(tmp_path))
        assert not Path(ran.lines[0]).exists()

    async def test_what_it_holds_counts_as_memory(self, sandbox: Bubblewrap) -> None:
        if "memory" not in sandbox.cgroups.enforced:
            pytest.skip("this user cannot make memory cgroups")
        mounts = (Scratch(target="/scratch", size=1 << 30),)
        exited = (await sh(sandbox, "cat /dev/zero > /scratch/file", mounts=mounts, limits=small())).exit
        assert exited.out_of_memory


class TestMounts:
    async def test_a_socket_of_the_node_is_connected_to(self, either: Sandbox, tmp_path: Path) -> None:
        path = tmp_path / "api"
        server = await asyncio.start_unix_server(greet, path)
        mount = Writable(source=path, target="/tmp/socat-socket")
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9).decode())"
        )
        ran = await run(either, spec(PYTHON, "-c", code, mount.target, mounts=(mount,)))
        assert (ran.lines, ran.stderr) == (["hello"], b"")
        server.close()
        await server.wait_closed()

    async def test_a_single_file_is_written(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old ")
        mounts = (Writable(source=tmp_path / "file", target="/some/where/file"),)
        assert (await sh(sandbox, "echo new >> /some/where/file", mounts=mounts)).exit.status == 0
        assert (tmp_path / "file").read_text() == "old new\n"

    @pytest.mark.parametrize("root", [False, True])
    async def test_they_nest_in_any_order(self, sandbox: Bubblewrap, tmp_path: Path, root: bool) -> None:
        mounts = nested(tmp_path)
        places = " ".join(f"{mount.target}/mark" for mount in mounts)
        for order in (mounts, mounts[::-1]):
            script = f"for p in {places}; do echo > $p || echo $p; done; find /data /tmp -name mark | sort"
            ran = await sh(sandbox, script, mounts=order, root=root, cwd="/")
            assert ran.stderr == b""
            assert ran.lines == sorted(places.split())

    async def test_a_place_that_a_read_only_tree_does_not_have_is_named(
        self, sandbox: Bubblewrap, tmp_path: Path
    ) -> None:
        (tmp_path / "tree").mkdir()
        mounts = (ReadOnly(source=tmp_path / "tree", target="/code"), Scratch(target="/code/missing", size=1 << 20))
        with pytest.raises(SandboxUnavailable, match=r"/code/missing: Read-only file system"):
            await sh(sandbox, "true", mounts=mounts)


class TestTree:
    """A file system of the process's own at `/`."""

    async def test_the_process_sees_and_changes_a_private_copy(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        tree = a_tree(tmp_path)
        script = (
            "cat /shipped; id -u; echo changed > /shipped; rm -r /gone; touch /new /etc/new; ls / /etc; cat /shipped"
        )
        ran = await run(sandbox, in_tree(script, writable(tree, tmp_path)))
        assert (ran.lines[:2], ran.lines[-1], ran.stderr) == (["shipped", "0"], "changed", b"")
        assert {"new", "etc", "proc"} <= set(ran.lines)
        assert "gone" not in ran.lines
        assert sorted(path.name for path in tree.iterdir()) == ["etc", "gone", "shipped"]
        assert (tree / "shipped").read_text() == "shipped\n"
        assert (tmp_path / "upper" / "new").exists()

    async def test_what_is_private_elsewhere_is_private_here(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        tree = a_tree(tmp_path)
        for name in ("tmp", "proc", "dev"):
            (tree / name).mkdir()
            (tree / name / "shipped").touch()
        script = "ls /tmp /dev/shm /root; ls /proc | grep -c '^[0-9]'; ls /dev | grep shipped"
        ran = await run(sandbox, in_tree(script, writable(tree, tmp_path)))
        assert ran.lines == ["/dev/shm:", "", "/root:", "", "/tmp:", "4"]

    async def test_its_etc_is_its_own_but_for_names_and_name_servers(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        tree = a_tree(tmp_path)
        (tree / "etc" / "resolv.conf").symlink_to("../run/nowhere")
        ran = await run(
            sandbox, in_tree("cd /etc; cat resolv.conf hosts hostname own", writable(tree, tmp_path), hostname="box")
        )
        assert ran.lines == [
            "nameserver 10.0.2.3",
            "127.0.0.1 localhost",
            "::1 localhost",
            "127.0.1.1 box",
            "box",
            "own",
        ]

    async def test_one_that_is_read_only_stays_so(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        tree, volume = ReadOnly(source=a_tree(tmp_path), target="/"), Scratch(target="/opt/volume", size=1 << 20)
        ran = await run(sandbox, in_tree("cat /shipped; touch /opt/volume/x; touch /shipped || ls /opt", volume, tree))
        assert ran.lines == ["shipped", "volume"]
        assert b"Read-only file system" in ran.stderr

    async def test_one_who_is_not_root_has_it_too(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        script = "id -u; cat /shipped; touch ~/x"
        request = in_tree(script, writable(a_tree(tmp_path), tmp_path), root=False, env={"HOME": HOME})
        assert (await run(sandbox, request)).lines == ["1000", "shipped"]

    async def test_without_overlayfs_it_is_said_so(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        sandbox.features = Features(overlay=False)
        with pytest.raises(SandboxUnavailable, match="overlayfs"):
            await run(sandbox, in_tree("true", writable(a_tree(tmp_path), tmp_path)))

    async def test_without_isolation_there_is_none(self, sandboxes: dict[str, Sandbox], tmp_path: Path) -> None:
        with pytest.raises(SandboxUnavailable, match="root file system"):
            await run(sandboxes["host"], in_tree("true", writable(a_tree(tmp_path), tmp_path)))


def test_none_of_this_is_forked_from_a_warm_interpreter(listener: socket.socket, tmp_path: Path) -> None:
    plain = replace(spec(PYTHON, "run.py", cwd="/"), interpreter=(ReadOnly(source=tmp_path, target="/env"),))
    assert kind_of(plain) is not None
    assert kind_of(replace(plain, listener=listener)) is None
    assert kind_of(replace(plain, root=True)) is None
    assert kind_of(replace(plain, hostname="other")) is None
    for mount in (Scratch(target="/scratch", size=1), ReadOnly(source=tmp_path, target="/")):
        assert kind_of(replace(plain, mounts=(*plain.mounts, mount))) is None


def a_tree(place: Path) -> Path:
    tree = place / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "gone").mkdir()
    (tree / "etc" / "own").write_text("own\n")
    (tree / "shipped").write_text("shipped\n")
    return tree


def writable(tree: Path, place: Path) -> Overlay:
    return Overlay(lower=(tree,), upper=place / "upper", work=place / "work", target="/")


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


def nested(place: Path) -> tuple[Mount, ...]:
    """Give mounts of every kind that is writable, within each other and within what is private."""
    for name in ("lower", "volume"):
        (place / name).mkdir()
    return (
        Scratch(target="/tmp/a/scratch", size=1 << 20),
        Overlay(lower=(place / "lower",), upper=place / "upper", work=place / "work", target="/data"),
        Writable(source=place / "volume", target="/data/deep/volume"),
        Scratch(target="/data/deep/volume/scratch", size=1 << 20),
    )
