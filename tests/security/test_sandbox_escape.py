"""Attempts to get out of the default isolation; each name says what is tried, each body what stops it."""

import asyncio
import errno
import os
import platform
import re
import signal
import socket
import stat
from pathlib import Path

import psutil
import pytest

from moorage.errors import Invalid, SandboxUnavailable
from moorage.sandbox import opening
from moorage.sandbox.base import SANDBOX_UID, Overlay, ReadOnly, Writable
from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.cgroups import Cgroups
from tests.sandboxing import (
    ENV,
    PYTHON,
    Environment,
    Forking,
    Output,
    alive,
    cgroups_called,
    make_environment,
    marker,
    py,
    run,
    sh,
    small,
    spec,
    start,
)

pytestmark = pytest.mark.anyio

CALLS = {
    "x86_64": {
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428, "fsopen": 430, "unshare": 272,
        "setns": 308, "keyctl": 250, "add_key": 248, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "kexec_load": 246, "init_module": 175, "finit_module": 313, "delete_module": 176,
        "clock_settime": 227, "settimeofday": 164, "swapon": 167, "reboot": 169, "quotactl": 179, "acct": 163,
        "open_by_handle_at": 304, "sethostname": 170, "iopl": 172, "pidfd_getfd": 438, "fanotify_init": 300,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "open_tree": 428, "fsopen": 430, "unshare": 97,
        "setns": 268, "keyctl": 219, "add_key": 217, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        "io_uring_setup": 425, "kexec_load": 104, "init_module": 105, "finit_module": 273, "delete_module": 106,
        "clock_settime": 112, "settimeofday": 170, "swapon": 224, "reboot": 142, "quotactl": 60, "acct": 89,
        "open_by_handle_at": 265, "sethostname": 161, "pidfd_getfd": 438, "fanotify_init": 262,
    },
}.get(platform.machine(), {})  # fmt: skip
CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)
LIBC = f"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result == 0 and arguments[0] in ({CLONE}, 435):
        os._exit(0)
    return errno.errorcode.get(ctypes.get_errno(), "DONE") if result < 0 else "DONE"
"""
NEW = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("python"))


@pytest.fixture(params=["bubblewrap", "forked"])
def sandbox(request: pytest.FixtureRequest, bubblewrap: Bubblewrap, environment: Environment) -> Bubblewrap | Forking:
    """Try every way out twice: of a sandbox that bubblewrap makes, and of one that a warm interpreter makes."""
    return bubblewrap if request.param == "bubblewrap" else Forking(bubblewrap, environment)


def figures(name: str) -> dict[str, str]:
    """Read what the cgroups of an attempt say while it runs, whichever version they are of."""
    directories = cgroups_called(name)
    wanted = ("pids.max", "pids.current", "pids.peak", "memory.limit_in_bytes", "memory.max")
    return {
        file: (path / file).read_text().strip() for path in directories for file in wanted if (path / file).exists()
    }


class TestNetwork:
    async def test_connect_to_a_listener_on_the_machines_loopback(self, sandbox: Bubblewrap) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})))"
            assert (await py(sandbox, code)).lines == [str(errno.ECONNREFUSED)]

    async def test_reach_any_other_address(self, sandbox: Bubblewrap) -> None:
        code = "import socket; print(socket.socket().connect_ex(('192.0.2.1', 80)))"
        assert (await py(sandbox, code)).lines == [str(errno.ENETUNREACH)]

    async def test_see_the_machines_interfaces(self, sandbox: Bubblewrap) -> None:
        ran = await py(sandbox, "import socket; print([name for _, name in socket.if_nameindex()])")
        assert ran.lines == ["['lo']"]

    async def test_resolve_a_name(self, sandbox: Bubblewrap) -> None:
        code = (
            "import socket\ntry: socket.getaddrinfo('example.org', 80); print('resolved')\nexcept OSError: print('no')"
        )
        assert (await py(sandbox, code)).lines == ["no"]

    async def test_connect_to_an_abstract_socket_of_the_machine(self, sandbox: Bubblewrap) -> None:
        name = f"\0moorage-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            listener.listen()
            code = f"import socket; print(socket.socket(socket.AF_UNIX).connect_ex({name!r}))"
            assert (await py(sandbox, code)).lines == [str(errno.ECONNREFUSED)]

    @pytest.mark.parametrize("family", [3, 17, 29, 38, 40, 44], ids=["ax25", "packet", "can", "alg", "vsock", "xdp"])
    async def test_open_a_socket_of_a_seldom_used_family(self, sandbox: Bubblewrap, family: int) -> None:
        code = f"import socket\ntry: socket.socket({family}, 3); print('open')\nexcept OSError as e: print(e.errno)"
        assert (await py(sandbox, code)).lines == [str(errno.EAFNOSUPPORT)]


class TestFiles:
    async def test_read_files_beyond_the_named_layers(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        places = [
            "/etc/shadow",
            "/etc/hostname",
            "/root/.bashrc",
            "/var/lib",
            "/sys",
            "/boot",
            str(secret),
            str(tmp_path),
        ]
        ran = await py(sandbox, "import os, sys; print([p for p in sys.argv[1:] if os.path.lexists(p)])")
        assert ran.lines == ["[]"]
        ran = await run(
            sandbox,
            spec(PYTHON, "-c", "import os, sys; print([p for p in sys.argv[1:] if os.path.lexists(p)])", *places),
        )
        assert ran.lines == ["[]"]

    async def test_find_anything_unexpected_at_the_root(self, sandbox: Bubblewrap) -> None:
        known = {"bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var"}
        inside = set((await sh(sandbox, "ls /")).lines)
        assert inside - known <= {Path(PYTHON).parts[1], Path(ENV).parts[1]}

    async def test_see_the_files_of_another_attempt(self, sandbox: Bubblewrap) -> None:
        written = asyncio.Event()
        script = "echo secret | tee ~/mine /tmp/mine /dev/shm/mine; sleep 600"
        other = await start(
            sandbox, spec("sh", "-c", script, env={"HOME": "/home/app"}), lambda _stream, _data: written.set()
        )
        await written.wait()
        ran = await sh(sandbox, "ls -A /home/app /tmp /dev/shm")
        assert ran.lines == ["/dev/shm:", "", "/home/app:", "", "/tmp:"]
        other.kill()
        await other.wait()

    async def test_write_outside_the_work_directory(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        (tmp_path / "layer").mkdir()
        places = "/ /usr /usr/bin /etc /dev /proc /proc/sys /layer /home /var /opt"
        mounts = (ReadOnly(source=tmp_path / "layer", target="/layer"),)
        script = f"for p in {places}; do (echo > $p/new || mkdir $p/dir) 2> /dev/null && echo $p; done; true"
        ran = await sh(sandbox, script, mounts=mounts)
        assert (ran.exit.status, ran.lines) == (0, [])

    async def test_make_a_device_node(self, sandbox: Bubblewrap) -> None:
        code = """
import os, stat
try: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0)); print("made")
except OSError as error: print(error.errno)
"""
        assert (await py(sandbox, code)).lines == [str(errno.EPERM)]

    async def test_use_a_device_node_that_was_planted_in_the_work_directory(
        self, sandbox: Bubblewrap, tmp_path: Path
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can plant a device node")
        place = tmp_path / "place"
        place.mkdir()
        os.mknod(place / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        (place / "zero").chmod(0o666)
        ran = await sh(
            sandbox, "head -c 1 /place/zero || echo denied", mounts=(Writable(source=place, target="/place"),)
        )
        assert ran.lines == ["denied"]

    async def test_gain_rights_by_a_setuid_program_in_the_work_directory(
        self, sandbox: Bubblewrap, tmp_path: Path
    ) -> None:
        place = tmp_path / "place"
        place.mkdir()
        (place / "id").write_bytes(Path("/usr/bin/id").read_bytes())
        (place / "id").chmod(0o6755)
        ran = await sh(sandbox, "/place/id -u; /place/id -g", mounts=(ReadOnly(source=place, target="/place"),))
        assert ran.lines == ["1000", "1000"]

    async def test_see_only_devices_that_do_nothing(self, sandbox: Bubblewrap) -> None:
        ran = await sh(sandbox, "find /dev -type b -o -type c | sort")
        harmless = {"full", "null", "random", "tty", "urandom", "zero", "pts/ptmx", "console"}
        assert {line.removeprefix("/dev/") for line in ran.lines} <= harmless

    async def test_change_a_file_of_a_lower_layer_for_others(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        for name in ("lower", "upper", "work"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower" / "file").write_text("shared")
        overlay = Overlay(lower=(tmp_path / "lower",), upper=tmp_path / "upper", work=tmp_path / "work", target="/app")
        script = "echo mine > file; chmod 777 file; touch -d 2001-01-01 .; rm -rf /app/* ; ls -A"
        assert (await sh(sandbox, script, mounts=(overlay,), cwd="/app")).exit.status == 0
        assert (tmp_path / "lower" / "file").read_text() == "shared"

    async def test_smuggle_an_option_to_bubblewrap_through_a_variable(self, sandbox: Bubblewrap) -> None:
        with pytest.raises(Invalid):
            await sh(sandbox, "ls /machine", env={"X": "1\0--ro-bind\0/\0/machine"})
        assert (await sh(sandbox, 'echo "$X"; ls /machine', env={"X": "--ro-bind / /machine"})).exit.status != 0

    async def test_begin_the_command_with_an_option_of_bubblewrap(self, sandbox: Bubblewrap) -> None:
        request = spec("--ro-bind", "/", "/machine", "ls", "/machine")
        if isinstance(sandbox, Forking):
            assert b"FileNotFoundError" in (await run(sandbox, request)).stderr
        elif "pids" in sandbox.cgroups.enforced:
            with pytest.raises(SandboxUnavailable, match="--ro-bind: No such file"):
                await run(sandbox, request)
        else:  # prlimit executes the command
            ran = await run(sandbox, request)
            assert (ran.exit.status, ran.stdout) == (127, b"")


class TestProcesses:
    async def test_see_other_processes(self, sandbox: Bubblewrap) -> None:
        ran = await py(sandbox, "import os; print(len([name for name in os.listdir('/proc') if name.isdigit()]))")
        assert ran.lines == ["2"]  # bubblewrap's own first process and this one

    async def test_signal_a_process_of_the_machine(self, sandbox: Bubblewrap) -> None:
        ran = await py(
            sandbox, f"import os\ntry: os.kill({os.getpid()}, 0); print('there')\nexcept OSError as e: print(e.errno)"
        )
        assert ran.lines == [str(errno.ESRCH)]

    async def test_kill_everything_in_reach(self, sandbox: Bubblewrap) -> None:
        other = await start(sandbox, spec("sleep", "600"), Output())
        await sh(sandbox, "kill -9 -1; kill -9 1 2 3 4")
        await asyncio.sleep(0.1)
        other.terminate()
        assert (await other.wait()).status == -signal.SIGTERM

    async def test_trace_a_process_of_the_machine(self, sandbox: Bubblewrap) -> None:
        code = f"{LIBC}\nprint(libc.ptrace(16, {os.getpid()}, 0, 0), errno.errorcode[ctypes.get_errno()])"
        assert (await py(sandbox, code)).lines == ["-1 ESRCH"]

    async def test_be_root_outside(self, sandbox: Bubblewrap) -> None:
        mark = marker()
        process = await start(sandbox, spec("sleep", mark), Output())
        async with asyncio.timeout(30):
            while not (found := [p for p in alive(mark) if p.name() == "sleep"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{found[0].pid}/status").read_text().splitlines())
        process.kill()
        await process.wait()
        expected = str(SANDBOX_UID if os.geteuid() == 0 else os.geteuid())
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {expected}
        assert status["Uid"].split()[0] != "0"
        assert [status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")] == ["0" * 16] * 5
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

    async def test_use_a_descriptor_that_the_node_forgot_to_close(self, sandbox: Bubblewrap, tmp_path: Path) -> None:
        with (tmp_path / "open").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            first = await start(sandbox, spec("sleep", "600"), Output())
            ran = await sh(sandbox, "ls -l /proc/self/fd /proc/1/fd")
            first.kill()
            await first.wait()
        found = [line.split("-> ")[1] for line in ran.lines if "->" in line]
        own = r"/memfd:moorage \(deleted\)|pipe:\[\d+\]|anon_inode:\[eventfd\]|/proc/\d+/fd"  # bubblewrap's, and ls's
        assert len(found) >= 6
        assert [target for target in found if not re.fullmatch(own, target)] == []

    async def test_write_to_the_standard_input_that_the_node_keeps(self, sandbox: Bubblewrap) -> None:
        ran = await sh(sandbox, "echo changed > /proc/self/fd/0 || echo sealed", stdin=b"kept")
        assert ran.lines == ["sealed"]


class TestKernel:
    @pytest.mark.parametrize("name", sorted(CALLS))
    async def test_make_a_system_call_that_nobody_needs(self, sandbox: Bubblewrap, name: str) -> None:
        assert (await py(sandbox, f"{LIBC}\nprint(call({CALLS[name]}, 0, 0, 0, 0, 0))")).lines == ["EPERM"]

    @pytest.mark.parametrize("kind", sorted(NEW))
    async def test_make_a_new_namespace(self, sandbox: Bubblewrap, kind: str) -> None:
        if not CLONE:
            pytest.skip(f"the numbers of the system calls of {platform.machine()} are not known to this test")
        flag = NEW[kind]
        code = f"print(call({CALLS['unshare']}, {flag}), call({CLONE}, {flag} | 17, 0, 0, 0, 0))"
        assert (await py(sandbox, f"{LIBC}\n{code}")).lines == ["EPERM EPERM"]

    async def test_make_a_user_namespace_by_clone3(self, sandbox: Bubblewrap) -> None:
        code = (
            "a = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17); print(call(435, ctypes.byref(a), ctypes.c_long(88)))"
        )
        assert (await py(sandbox, f"{LIBC}\n{code}")).lines == ["ENOSYS"]

    async def test_make_a_user_namespace_when_no_filter_stops_it(self, sandbox: Bubblewrap) -> None:
        if not sandbox.features.disable_userns:
            pytest.skip("this bubblewrap cannot disable user namespaces")
        sandbox._seccomp = None
        assert (await py(sandbox, f"{LIBC}\nprint(libc.unshare(0x10000000))")).lines == ["-1"]

    async def test_make_a_system_call_of_another_architecture(self, sandbox: Bubblewrap) -> None:
        if platform.machine() != "x86_64":
            pytest.skip("only x86-64 has a second table of system calls that every program can use")
        x32_getpid = 0x40000000 + 39
        assert (await py(sandbox, f"{LIBC}\nprint(call({x32_getpid}))")).exit.status == -signal.SIGSYS

    @pytest.mark.parametrize(
        "request_", [0x5412, 0x541C, 0x100005412], ids=["TIOCSTI", "TIOCLINUX", "TIOCSTI-high-bits"]
    )
    async def test_put_input_into_a_terminal(self, sandbox: Bubblewrap, request_: int) -> None:
        code = f"""
master, slave = os.openpty()
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
print(libc.ioctl(slave, {request_}, ctypes.create_string_buffer(b"x")), errno.errorcode[ctypes.get_errno()])
"""
        assert (await py(sandbox, f"{LIBC}\n{code}")).lines == ["-1 EPERM"]

    async def test_switch_address_randomisation_off(self, sandbox: Bubblewrap) -> None:
        code = "print(libc.personality(0x0040000), libc.personality(ctypes.c_ulong(0xffffffff)))"
        assert (await py(sandbox, f"{LIBC}\n{code}")).lines == ["-1 0"]

    async def test_change_a_kernel_setting(self, sandbox: Bubblewrap) -> None:
        settings = "kernel/hostname kernel/core_pattern vm/drop_caches net/ipv4/ip_forward user/max_user_namespaces"
        script = f"""
for name in {settings}; do (echo 1 > /proc/sys/$name) 2> /dev/null && echo $name; done
(echo b > /proc/sysrq-trigger) 2> /dev/null && echo sysrq; true"""
        assert (await sh(sandbox, script)).lines == []

    async def test_learn_the_machines_name(self, sandbox: Bubblewrap) -> None:
        assert (await sh(sandbox, "uname -n")).lines == ["moorage"]

    async def test_reach_the_machines_shared_memory(self, sandbox: Bubblewrap) -> None:
        assert len((await sh(sandbox, "cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg")).lines) == 3


class TestUsingUp:
    async def test_a_fork_bomb_stays_within_its_limit_and_ends(self, sandbox: Bubblewrap) -> None:
        if "pids" not in sandbox.cgroups.enforced:
            pytest.skip("this user cannot make cgroups that limit processes; RLIMIT_NPROC is tried in the next test")
        name, limit = f"att-bomb-{os.getpid()}", 32
        code = "import os, time\nwhile True:\n try: os.fork()\n except OSError: time.sleep(0.01)"
        process = await sandbox.start(spec(PYTHON, "-c", code, limits=small(pids=limit)), name=name, output=Output())
        seen = [figures(name)]
        for _ in range(20):
            await asyncio.sleep(0.05)
            seen.append(figures(name))
        process.kill()
        await process.wait()
        counts = [int(found["pids.current"]) for found in seen if "pids.current" in found]
        assert seen[0]["pids.max"] == str(limit)
        assert limit // 2 < max(counts) <= limit
        assert figures(name) == {}

    async def test_more_processes_than_allowed_without_a_cgroup(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opening, "open_cgroups", lambda node: Cgroups(node=node, parents=()))
        sandbox = (await opening.open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run"))["bubblewrap"]
        code = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError as error:
    print(count, error.errno)
"""
        ran = await py(sandbox, code, limits=small(pids=20, memory=1 << 30))
        await sandbox.close()
        count, number = map(int, ran.lines[0].split())
        assert 5 < count <= 20
        assert number == errno.EAGAIN

    async def test_use_more_memory_than_allowed(self, sandbox: Bubblewrap) -> None:
        if "memory" not in sandbox.cgroups.enforced:
            pytest.skip("this user cannot make memory cgroups; the contract suite tries RLIMIT_AS")
        name = f"att-hog-{os.getpid()}"
        code = (
            "import time; print('ready', flush=True); time.sleep(0.3); block = bytearray(512 << 20); print('survived')"
        )
        ready = asyncio.Event()
        process = await sandbox.start(
            spec(PYTHON, "-c", code, limits=small()), name=name, output=lambda _stream, _data: ready.set()
        )
        await ready.wait()
        found = figures(name)
        exited = await process.wait()
        assert str(256 << 20) in (found.get("memory.limit_in_bytes"), found.get("memory.max"))
        assert (exited.status, exited.out_of_memory) == (-signal.SIGKILL, True)
        assert exited.peak_memory is not None
        assert exited.peak_memory <= 256 << 20

    @pytest.mark.parametrize("place", ["/tmp", "/home/app", "/dev/shm"])
    async def test_fill_a_private_directory(self, sandbox: Bubblewrap, place: str) -> None:
        ran = await sh(
            sandbox, f"head -c 9000000 /dev/zero > {place}/fill; stat -c %s {place}/fill", limits=small(tmp=1 << 20)
        )
        assert b"No space left on device" in ran.stderr
        assert ran.lines == [str(1 << 20)]

    async def test_hide_memory_in_a_private_directory(self, sandbox: Bubblewrap) -> None:
        if "memory" not in sandbox.cgroups.enforced:
            pytest.skip("this user cannot make memory cgroups: only the size of the directory is limited")
        ran = await sh(sandbox, "head -c 512000000 /dev/zero > /tmp/fill", limits=small(tmp=1 << 30, memory=128 << 20))
        assert ran.exit.status != 0
        assert ran.exit.out_of_memory

    async def test_ten_gigabytes_of_output_do_not_grow_the_node(self, sandbox: Bubblewrap) -> None:
        before = psutil.Process().memory_info().rss
        count = 0
        enough = asyncio.Event()

        def output(_stream: str, data: bytes) -> None:
            nonlocal count
            count += len(data)
            if count > 200 << 20:
                enough.set()

        process = await start(sandbox, spec("cat", "/dev/zero"), output)
        await enough.wait()
        process.kill()
        await process.wait()
        assert psutil.Process().memory_info().rss - before < 50 << 20
