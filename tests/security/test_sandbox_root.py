"""Attempts of a program that is root in its sandbox to be more than that; each name says what is tried."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.errors import Invalid
from moorage.sandbox.base import LISTENER, Overlay, ProcessSpec, ReadOnly, Scratch, Writable
from moorage.sandbox.bubblewrap import Bubblewrap
from tests.sandboxing import PYTHON, Output, Ran, in_tree, run, small, spec, start

pytestmark = pytest.mark.anyio

DENIED = """
import ctypes, errno, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def told(result):
    return "DONE" if result >= 0 else errno.errorcode[ctypes.get_errno()]
print("mount", told(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)))
print("remount", told(libc.mount(b"none", b"/usr", None, 32 | 4096, None)))
print("umount", told(libc.umount2(b"/usr", 2)))
print("chroot", told(libc.chroot(b"/tmp")))
print("unshare", told(libc.unshare(0x10000000)))
print("sethostname", told(libc.sethostname(b"x", 1)))
for name, attempt in {
    "mknod": lambda: os.mknod("/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0)),
    "setuid": lambda: os.setuid(1),
    "setgroups": lambda: os.setgroups([1]),
    "chown": lambda: (open("/mine", "w").close(), os.chown("/mine", 1, 1)),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "kernel setting": lambda: open("/proc/sys/kernel/hostname", "w"),
    "low port": lambda: socket.socket().bind(("127.0.0.1", 80)),
}.items():
    try:
        attempt()
        print(name, "DONE")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
"""
PLACES = "/usr /usr/bin /bin /lib /etc /dev /proc /proc/sys /layer"


def rooted(*argv: str, **more: object) -> ProcessSpec:
    return spec(*argv, **{"root": True, "cwd": "/", **more})


async def as_root(sandbox: Bubblewrap, script: str, **more: object) -> Ran:
    return await run(sandbox, rooted("sh", "-c", script, **more))


async def python_as_root(sandbox: Bubblewrap, code: str, **more: object) -> Ran:
    return await run(sandbox, rooted(PYTHON, "-c", code, **more))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "listener"))
        listening.listen()
        yield listening


async def test_use_the_powers_of_root(sandbox: Bubblewrap) -> None:
    ran = await python_as_root(sandbox, DENIED)
    assert ran.stderr == b""
    assert len(ran.lines) == 13
    assert [line for line in ran.lines if "DONE" in line] == []


async def test_have_a_capability(sandbox: Bubblewrap) -> None:
    ran = await as_root(sandbox, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    status = dict(line.split(":\t") for line in ran.lines)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == ("2" if sandbox._seccomp else "0")


async def test_be_root_outside(sandbox: Bubblewrap, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    await as_root(sandbox, "touch /place/file", mounts=(Writable(source=place, target="/place"),))
    assert (place / "file").stat().st_uid != 0


async def test_gain_rights_by_a_setuid_program(sandbox: Bubblewrap, tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    (tmp_path / "id").chmod(0o6755)
    ran = await as_root(
        sandbox,
        "/place/id -u; cp /place/id /own; chmod 6755 /own; /own -u; grep CapPrm /proc/self/status",
        mounts=(ReadOnly(source=tmp_path / "id", target="/place/id"),),
    )
    assert ran.lines == ["0", "0", f"CapPrm:\t{0:016x}"]


async def test_write_outside_what_is_its_own(sandbox: Bubblewrap, tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    mounts = (ReadOnly(source=tmp_path / "layer", target="/layer"),)
    script = (
        f"for p in {PLACES}; do (echo > $p/new || mkdir $p/dir || chmod 777 $p) 2> /dev/null && echo $p; done; true"
    )
    ran = await as_root(sandbox, script, mounts=mounts)
    assert (ran.exit.status, ran.lines) == (0, [])


async def test_read_what_belongs_to_root_outside(sandbox: Bubblewrap, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("files of root are there for root only")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o600)
    mounts = (ReadOnly(source=tmp_path / "secret", target="/secret"),)
    ran = await as_root(sandbox, "cat /secret || chmod 644 /secret", mounts=mounts)
    assert (ran.exit.status, ran.stdout) == (1, b"")


async def test_find_more_than_a_few_directories_at_the_root(sandbox: Bubblewrap) -> None:
    known = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "tmp", "usr", "var"}
    ran = await as_root(sandbox, "ls /")
    assert set(ran.lines) - known <= {Path(PYTHON).parts[1]}


async def test_see_other_processes(sandbox: Bubblewrap) -> None:
    ran = await python_as_root(sandbox, "import os; print([name for name in os.listdir('/proc') if name.isdigit()])")
    assert ran.lines == ["['1', '2']"]


async def test_reach_the_nodes_loopback(sandbox: Bubblewrap) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {listening.getsockname()[1]})))"
        assert (await python_as_root(sandbox, code)).lines == [str(errno.ECONNREFUSED)]


async def test_fill_the_memory_of_the_machine_by_its_root_directory(sandbox: Bubblewrap) -> None:
    ran = await as_root(sandbox, "head -c 3000000 /dev/zero > /file; stat -c %s /file", limits=small(tmp=1 << 20))
    assert int(ran.lines[-1]) <= 1 << 20


@pytest.mark.parametrize("network", ["none", "internet"])
async def test_find_more_descriptors_than_the_listener(
    sandbox: Bubblewrap, listener: socket.socket, network: str
) -> None:
    script = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int), os.readlink('/proc/self/fd/3')[:6])"
    ran = await python_as_root(sandbox, script, listener=listener, network=network)
    assert ran.lines == [f"['0', '1', '2', '{LISTENER}', '4'] socket"]  # 4 lists them


async def test_find_the_listener_in_another_process(sandbox: Bubblewrap, listener: socket.socket) -> None:
    with_it = await start(sandbox, rooted("sleep", "600", listener=listener), Output())
    ran = await as_root(sandbox, "ls /proc/self/fd")
    assert ran.lines == ["0", "1", "2", "3"]
    with_it.kill()
    await with_it.wait()


async def test_leave_the_sandbox_by_a_link_on_the_way_to_a_mount(sandbox: Bubblewrap, tmp_path: Path) -> None:
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    for place in (outside, volume):
        place.mkdir(mode=0o777)
    (volume / "deep").symlink_to(f"/oldroot{outside}")
    inner = Scratch(target="/data/deep/er", size=1 << 20)
    for outer in (
        Writable(source=volume, target="/data"),
        ReadOnly(source=volume, target="/data"),
        Overlay(lower=(volume,), upper=tmp_path / "upper", work=tmp_path / "work", target="/data"),
    ):
        with pytest.raises(Invalid, match=r"deep is a link"):
            await as_root(sandbox, "true", mounts=(inner, outer))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("target", ["data", "/data/../../x", "//data", "/data/", "/./data", ""])
async def test_leave_the_sandbox_by_the_name_of_a_mount(sandbox: Bubblewrap, target: str) -> None:
    with pytest.raises(Invalid, match="no plain absolute path"):
        await as_root(sandbox, "true", mounts=(Scratch(target=target, size=1 << 20),))


async def test_leave_the_sandbox_by_links_in_a_tree_of_ones_own(sandbox: Bubblewrap, tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir(mode=0o777)
    for name in ("tmp", "dev", "proc", "etc", "opt", "root"):
        (tree / name).symlink_to(f"/oldroot{outside}")
    volume = Scratch(target="/opt/volume", size=1 << 20)
    ran = await run(sandbox, in_tree("touch /tmp/x /etc/x /opt/volume/x /root/x", volume, a_root(tree, tmp_path)))
    assert (ran.exit.status, ran.stderr) == (0, b"")
    assert list(outside.iterdir()) == []


async def test_leave_traps_in_a_tree_for_the_next_process(sandbox: Bubblewrap, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    root = a_root(tmp_path / "tree", tmp_path)
    assert (await run(sandbox, in_tree("ln -s /oldroot /x", root))).exit.status == 0
    with pytest.raises(Invalid, match="used before"):
        await run(sandbox, in_tree("true", root))


def a_root(tree: Path, place: Path) -> Overlay:
    return Overlay(lower=(tree,), upper=place / "upper", work=place / "work", target="/")
