"""What every sandbox does, whatever it isolates: one suite over all of them."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from moorage.errors import ArgumentsTooLong, Invalid, SandboxUnavailable
from moorage.sandbox.base import HOME, Load, Overlay, Process, ReadOnly, Sandbox, Writable
from moorage.sandbox.bubblewrap import Bubblewrap, Features
from moorage.sandbox.opening import open_sandboxes
from moorage.sandbox.supervise import supervise
from tests.sandboxing import (
    PYTHON,
    Environment,
    Forking,
    Output,
    Ran,
    alive,
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

BOTH_STREAMS = """
import os, threading
def fill(descriptor):
    for _ in range(160):
        os.write(descriptor, b"x" * 65536)
threads = [threading.Thread(target=fill, args=(number,)) for number in (1, 2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open(os.devnull, os.O_RDWR)
        [os.dup2(null, number) for number in range(3)]
        os.execvp("sleep", ["sleep", sys.argv[1]])
    os._exit(0)
os.wait()
print("left one behind")
"""
CHANGES = """
import os, shutil
print(sorted(os.listdir(".")), open("main.py").read(), open("input/photo").read())
open("main.py", "a").write(" changed")
open("input/photo", "w").write("overwritten")
os.remove("input/second")
shutil.rmtree("output")
os.makedirs("output/deep")
open("output/deep/result", "w").write("made")
shutil.move("input/photo", "output/photo")
for folder, _, names in sorted(os.walk(".")):
    print(folder, [(name, open(os.path.join(folder, name)).read()) for name in sorted(names)])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("python"))


@pytest.fixture
async def sandboxes(tmp_path: Path, environment: Environment) -> AsyncIterator[dict[str, Sandbox]]:
    opened = await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run", warm=100)
    assert isinstance(opened["bubblewrap"], Bubblewrap)
    yield {**opened, "forked": Forking(opened["bubblewrap"], environment)}
    await opened["bubblewrap"].close()


@pytest.fixture(params=["bubblewrap", "forked", "host"])
def sandbox(request: pytest.FixtureRequest, sandboxes: dict[str, Sandbox]) -> Sandbox:
    return sandboxes[request.param]


@pytest.fixture
def bubblewrap(sandboxes: dict[str, Sandbox]) -> Bubblewrap:
    opened = sandboxes["bubblewrap"]
    assert isinstance(opened, Bubblewrap)
    return opened


def a_work_directory(place: Path) -> Overlay:
    """Two lower trees, as the node makes them: an app and its inputs."""
    app, inputs = place / "app", place / "inputs"
    (app / "output").mkdir(parents=True)
    (app / "output" / "old").write_text("shipped with the app")
    (app / "main.py").write_text("the app")
    (inputs / "input").mkdir(parents=True)
    (inputs / "input" / "photo").write_text("original")
    (inputs / "input" / "second").write_text("original too")
    (inputs / "main.py").write_text("an input that is called like a file of the app")
    os.link(inputs / "input" / "photo", place / "stored")
    for name in ("upper", "work"):
        (place / name).mkdir()
    return Overlay(lower=(app, inputs), upper=place / "upper", work=place / "work", target="/app")


class TestStart:
    async def test_arguments_variables_and_directory_reach_the_process(self, sandbox: Sandbox, tmp_path: Path) -> None:
        mounts = (Writable(source=a_file(tmp_path), target="/here"),)
        ran = await run(
            sandbox,
            spec(
                "sh", "-c", 'printf "%s\\n" "$@" "$NAME"; cat here', "sh", "", "a b", "ä\n*", "--flag", "$HOME",
                env={"NAME": "vàlue with spaces"}, cwd="/here", mounts=mounts,
            ),
        )  # fmt: skip
        assert ran.stdout.decode() == "\na b\nä\n*\n--flag\n$HOME\nvàlue with spaces\ncontent"

    async def test_nothing_of_the_nodes_environment_is_inherited(self, sandbox: Sandbox) -> None:
        ran = await sh(sandbox, "env", env={"ONLY": "this"})
        assert {line.split("=")[0] for line in ran.lines} <= {
            "ONLY",
            "PATH",
            "PWD",
            "_",
            "SHLVL",
            "LC_CTYPE",
        }  # Python sets that

    async def test_bytes_that_are_not_text_survive_in_arguments(self, sandbox: Sandbox) -> None:
        ran = await run(sandbox, spec("printf", "%s", os.fsdecode(b"\xff\xfe")))
        assert ran.stdout == b"\xff\xfe"

    async def test_large_standard_input_arrives_whole_and_ends(self, sandbox: Sandbox) -> None:
        ran = await sh(sandbox, "wc -c", stdin=os.urandom(3 << 20))
        assert ran.stdout.split() == [b"3145728"]

    async def test_unread_standard_input_holds_nothing_up(self, sandbox: Sandbox) -> None:
        ran = await sh(sandbox, "exit 4", stdin=b"x" * (1 << 20))
        assert ran.exit.status == 4

    async def test_half_a_mebibyte_of_arguments(self, sandbox: Sandbox) -> None:
        words = [str(number % 10) * 4096 for number in range(128)]
        ran = await run(sandbox, spec(PYTHON, "-c", "import sys; print(*sys.argv[1:], sep='')", *words))
        assert ran.stdout.decode() == "".join(words) + "\n"

    async def test_an_argument_longer_than_the_kernel_takes_is_refused(self, sandbox: Sandbox) -> None:
        with pytest.raises(ArgumentsTooLong):
            await run(sandbox, spec("true", "x" * (256 << 10)))

    async def test_more_arguments_than_bubblewrap_takes_are_refused(self, bubblewrap: Bubblewrap) -> None:
        with pytest.raises(ArgumentsTooLong, match="bubblewrap takes fewer"):
            await run(bubblewrap, spec("true", *["x"] * 10_000))

    async def test_a_program_that_is_not_there_is_no_failure_of_the_app(self, sandbox: Sandbox) -> None:
        if is_limited_by_prlimit(sandbox):
            pytest.skip("this user cannot make cgroups: prlimit executes the program, and its failure is a status 127")
        if isinstance(sandbox, Forking):
            pytest.skip("what was forked executes the program, and its failure is the app's own")
        with pytest.raises(SandboxUnavailable, match="no-such-program"):
            await run(sandbox, spec("/no-such-program"))

    async def test_a_mount_that_is_not_there_is_named(self, bubblewrap: Bubblewrap) -> None:
        with pytest.raises(SandboxUnavailable, match="/no/such/place"):
            await run(bubblewrap, spec("true", mounts=(ReadOnly(source=Path("/no/such/place"), target="/x"),)))

    async def test_after_a_failed_start_the_next_one_works(self, bubblewrap: Bubblewrap) -> None:
        for _ in range(2):
            with pytest.raises(SandboxUnavailable):
                await run(bubblewrap, spec("true", cwd="/no/such/place"))
            assert (await sh(bubblewrap, "echo fine")).stdout == b"fine\n"

    async def test_a_nul_byte_is_refused_and_starts_nothing(self, bubblewrap: Bubblewrap) -> None:
        with pytest.raises(Invalid, match="NUL"):
            await sh(bubblewrap, "true", env={"X": "\0--bind\0/\0/machine"})

    async def test_pythons_of_the_machine_and_of_the_node_run_with_their_libraries(
        self, bubblewrap: Bubblewrap
    ) -> None:
        code = "import ssl, sqlite3, ctypes, zoneinfo; ssl.create_default_context(); print('whole')"
        for python in (PYTHON, *(["/usr/bin/python3"] if Path("/usr/bin/python3").exists() else [])):
            ran = await run(bubblewrap, spec(python, "-c", code))
            assert (ran.stderr, ran.stdout) == (b"", b"whole\n")

    async def test_a_cancelled_start_leaves_nothing(self, sandbox: Sandbox) -> None:
        mark = marker()
        task = asyncio.create_task(start(sandbox, spec("sleep", mark), Output()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(mark)


class TestStreams:
    async def test_ten_megabytes_on_both_streams_at_once(self, sandbox: Sandbox) -> None:
        ran = await py(sandbox, BOTH_STREAMS)
        assert (ran.exit.status, len(ran.stdout), len(ran.stderr)) == (0, 160 << 16, 160 << 16)

    async def test_output_comes_while_the_process_runs(self, sandbox: Sandbox) -> None:
        came = asyncio.Event()
        process = await start(sandbox, spec("sh", "-c", "echo early; sleep 600"), lambda _stream, _data: came.set())
        await asyncio.wait_for(came.wait(), 30)
        process.kill()
        assert (await process.wait()).status == -signal.SIGKILL

    async def test_what_was_written_last_is_not_lost(self, sandbox: Sandbox) -> None:
        for _ in range(10):
            ran = await sh(sandbox, "head -c 60000 /dev/zero; echo last >&2")
            assert (len(ran.stdout), ran.stderr) == (60000, b"last\n")


class TestEnd:
    @pytest.mark.parametrize("code", [0, 1, 7, 100, 255])
    async def test_the_exit_code_is_the_processes_own(self, sandbox: Sandbox, code: int) -> None:
        assert (await sh(sandbox, f"exit {code}")).exit.status == code

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    async def test_a_signal_is_told_as_its_negative_number(self, sandbox: Sandbox, number: signal.Signals) -> None:
        assert (await sh(sandbox, f"kill -{int(number)} $$")).exit.status == -number

    async def test_kill_ends_the_whole_tree(self, sandbox: Sandbox) -> None:
        mark, ready = marker(), asyncio.Event()
        script = f"(setsid sleep {mark} & sleep {mark} & echo; wait) & sleep {mark}"
        process = await start(sandbox, spec("sh", "-c", script), lambda _stream, _data: ready.set())
        await ready.wait()
        while len(alive(mark)) < 3:  # noqa: ASYNC110 - between fork and exec a child has no marker yet
            await asyncio.sleep(0.01)
        process.kill()
        assert (await process.wait()).status == -signal.SIGKILL
        assert alive(mark) == []

    async def test_terminate_reaches_every_process_and_lets_it_finish(self, sandbox: Sandbox) -> None:
        said, ready = Output(), asyncio.Event()
        script = """trap 'wait; exit 3' TERM
        sh -c 'trap "echo child; exit" TERM; echo ready; while :; do sleep 0.05; done' & wait"""

        def output(stream: str, data: bytes) -> None:
            said("stdout" if stream == "stdout" else "stderr", data)
            ready.set()

        process = await start(sandbox, spec("sh", "-c", script), output)
        await ready.wait()
        process.terminate()
        assert (await process.wait()).status == 3
        assert said.stdout == b"ready\nchild\n"

    async def test_a_daemonised_child_does_not_outlive_the_process(self, sandbox: Sandbox) -> None:
        mark = marker()
        ran = await run(sandbox, spec(PYTHON, "-c", DAEMON, mark))
        assert (ran.exit.status, ran.stdout) == (0, b"left one behind\n")
        assert alive(mark) == []

    async def test_what_ignores_sigterm_is_killed_after_the_grace(self, sandbox: Sandbox) -> None:
        process = await start(sandbox, spec("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"), Output())
        outcome = await supervise(process, timeout=0.3, cancelled=asyncio.Event(), grace=0.3)
        assert (outcome.cut, outcome.exit.status) == ("timeout", -signal.SIGKILL)

    async def test_closing_kills_what_runs(self, tmp_path: Path, sandboxes: dict[str, Sandbox]) -> None:
        mark = marker()
        processes = [await start(sandboxes[name], spec("sleep", mark), Output()) for name in sandboxes]
        assert len(alive(mark)) >= len(processes)
        await sandboxes["host"].close()
        assert [(await process.wait()).status for process in processes] == [-signal.SIGKILL] * 3
        assert alive(mark) == []

    async def test_when_the_spawner_is_killed_its_processes_end_and_the_next_start_works(
        self, sandbox: Sandbox
    ) -> None:
        mark = marker()
        process = await start(sandbox, spec("sleep", mark), Output())
        (helper,) = [
            child for child in psutil.Process().children() if "moorage.sandbox.spawner" in " ".join(child.cmdline())
        ]
        helper.kill()
        with pytest.raises(SandboxUnavailable):
            await process.wait()
        await gone(mark)
        assert (await sh(sandbox, "echo again")).stdout == b"again\n"

    async def test_forty_at_once_keep_apart(self, sandbox: Sandbox) -> None:
        async def one(number: int) -> Ran:
            return await sh(
                sandbox,
                f"cat; echo {number} > ~/mine; sleep 0.1; cat ~/mine",
                stdin=b"%d\n" % number,
                env={"HOME": HOME},
            )

        runs = await asyncio.gather(*(one(number) for number in range(40)))
        assert [ran.stdout.decode() for ran in runs] == [f"{number}\n{number}\n" for number in range(40)]


BURN = """
import time
kept = b"x" * (32 << 20)
while time.process_time() < 0.3:
    pass
print(1, flush=True)
time.sleep(99)
"""


async def test_what_a_running_process_uses_is_told_until_it_ends(bubblewrap: Bubblewrap) -> None:
    output = Output()
    process = await start(bubblewrap, spec(PYTHON, "-c", BURN, limits=small()), output)
    while not output.stdout:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)
    load = await process.load()
    cgroups = bubblewrap.cgroups
    assert "memory" not in cgroups.enforced or (load.memory or 0) > 32 << 20
    assert "pids" not in cgroups.enforced or (load.pids or 0) >= 2
    assert not cgroups.parents or 0.2 <= (load.cpu or 0) < 10
    process.kill()
    await process.wait()
    assert await process.load() == Load()


SERVER = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    if os.fork() == 0:
        connection.sendall(sys.argv[2].encode())
        while data := connection.recv(65536):
            connection.sendall(data)
        os._exit(0)
    connection.close()
"""


async def a_server(sandbox: Sandbox, port: int, greeting: str) -> tuple[Process, int]:
    """Start what listens on a port of its own network (0: any) and greets; tell which port."""
    said: asyncio.Queue[bytes] = asyncio.Queue()
    request = spec(PYTHON, "-c", SERVER, str(port), greeting)
    process = await start(sandbox, request, lambda _stream, data: said.put_nowait(data))
    return process, int(await asyncio.wait_for(said.get(), 30))


class TestConnections:
    async def test_what_listens_in_there_is_reached_and_carries_bytes_both_ways(self, sandbox: Sandbox) -> None:
        process, port = await a_server(sandbox, 0, "hello ")
        reader, writer = await asyncio.open_connection(sock=await process.connect(port))
        block = os.urandom(4 << 20)
        writer.write(block)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 30) == b"hello " + block
        writer.close()
        process.kill()
        await process.wait()

    async def test_the_same_port_in_two_sandboxes_is_two_ports(self, bubblewrap: Bubblewrap) -> None:
        servers = [await a_server(bubblewrap, 3000, greeting) for greeting in ("one", "two")]
        heard = []
        for process, _ in servers:
            reader, writer = await asyncio.open_connection(sock=await process.connect(3000))
            heard.append(await reader.readexactly(3))
            writer.close()
            process.kill()
            await process.wait()
        assert heard == [b"one", b"two"]

    async def test_a_port_on_which_nothing_listens_is_refused(self, sandbox: Sandbox) -> None:
        process, port = await a_server(sandbox, 0, "")
        with pytest.raises(ConnectionRefusedError):
            await process.connect(1 if port != 1 else 2)
        process.kill()
        await process.wait()

    async def test_a_process_that_is_gone_cannot_be_reached(self, sandbox: Sandbox) -> None:
        process, port = await a_server(sandbox, 0, "")
        process.kill()
        await process.wait()
        with pytest.raises(ProcessLookupError):
            await process.connect(port)

    async def test_many_connections_at_once(self, bubblewrap: Bubblewrap) -> None:
        process, _ = await a_server(bubblewrap, 3000, "x")
        connections = await asyncio.gather(*(process.connect(3000) for _ in range(50)))
        assert len({connection.fileno() for connection in connections}) == 50
        for connection in connections:
            connection.close()
        process.kill()
        assert (await process.wait()).status == -signal.SIGKILL


class TestFigures:
    async def test_time_and_memory_are_measured(self, sandbox: Sandbox) -> None:
        code = "import time; block = b'x' * (64 << 20)\nwhile time.process_time() < 0.4: pass"
        exited = (await py(sandbox, code)).exit
        assert exited.cpu is not None
        assert exited.peak_memory is not None
        assert exited.wall >= 0.4
        assert 0.4 <= exited.cpu < exited.wall * 2 + 0.1
        assert (64 << 20) <= exited.peak_memory < (256 << 20)
        assert not exited.out_of_memory

    async def test_the_memory_limit_ends_a_hog(self, sandbox: Sandbox, bubblewrap: Bubblewrap) -> None:
        exited = (await py(sandbox, "block = b'x' * (512 << 20); print('survived')", limits=small())).exit
        assert exited.status != 0
        if "memory" in bubblewrap.cgroups.enforced:
            assert exited.out_of_memory
            assert exited.peak_memory is not None
            assert exited.peak_memory <= 256 << 20

    async def test_a_child_that_was_killed_for_memory_is_told_of(
        self, sandbox: Sandbox, bubblewrap: Bubblewrap
    ) -> None:
        if "memory" not in bubblewrap.cgroups.enforced:
            pytest.skip("this user cannot make memory cgroups: there is no memory killer, allocations fail instead")
        code = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b = bytearray(512 << 20)']); print('lives')"
        )
        ran = await py(sandbox, code, limits=small())
        assert (ran.exit.status, ran.stdout, ran.exit.out_of_memory) == (0, b"lives\n", True)

    async def test_the_number_of_open_files_is_limited(self, sandbox: Sandbox) -> None:
        assert (await sh(sandbox, "ulimit -n; ulimit -c", limits=small(open_files=64))).lines == ["64", "0"]

    async def test_the_size_of_a_file_is_limited(self, sandbox: Sandbox) -> None:
        ran = await sh(sandbox, "head -c 3000000 /dev/zero > file; stat -c %s file", limits=small(disk=1 << 20))
        assert ran.lines[-1] == str(1 << 20)


class TestOverlay:
    async def test_changes_stay_in_the_upper_tree(self, sandbox: Sandbox, tmp_path: Path) -> None:
        work = a_work_directory(tmp_path)
        ran = await py(sandbox, CHANGES, mounts=(work,), cwd="/app")
        assert ran.stderr == b""
        assert ran.lines == [
            "['input', 'main.py', 'output'] the app original",
            ". [('main.py', 'the app changed')]",
            "./input []",
            "./output [('photo', 'overwritten')]",
            "./output/deep [('result', 'made')]",
        ]
        assert (work.upper / "output" / "deep" / "result").read_text() == "made"
        assert (work.upper / "output" / "photo").read_text() == "overwritten"
        assert (work.upper / "main.py").read_text() == "the app changed"

    async def test_the_lower_trees_and_what_is_linked_into_them_stay_as_they_were(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        work = a_work_directory(tmp_path)
        before = {
            path: (path.lstat(), path.is_file() and path.read_bytes())
            for tree in work.lower
            for path in tree.rglob("*")
        }
        assert (await py(sandbox, CHANGES, mounts=(work,), cwd="/app")).exit.status == 0
        after = {
            path: (path.lstat(), path.is_file() and path.read_bytes())
            for tree in work.lower
            for path in tree.rglob("*")
        }
        assert {path: content for path, (_, content) in after.items()} == {
            path: content for path, (_, content) in before.items()
        }
        assert all(after[path][0].st_mtime_ns == before[path][0].st_mtime_ns for path in before)
        assert all(after[path][0].st_uid == before[path][0].st_uid for path in before)
        assert (tmp_path / "stored").read_text() == "original"

    async def test_a_copy_looks_the_same_as_the_overlay(self, bubblewrap: Bubblewrap, tmp_path: Path) -> None:
        if not bubblewrap.features.overlay:
            pytest.skip("overlayfs is not to be had on this file system")
        outputs = []
        for overlay in (True, False):
            bubblewrap.features = Features(overlay=overlay, disable_userns=bubblewrap.features.disable_userns)
            work = a_work_directory(tmp_path / str(overlay))
            outputs.append((await py(bubblewrap, CHANGES, mounts=(work,), cwd="/app")).stdout)
            assert (work.upper / "output" / "deep" / "result").read_text() == "made"
        assert outputs[0] == outputs[1]

    async def test_of_two_lower_trees_the_first_wins_also_when_copied(
        self, bubblewrap: Bubblewrap, tmp_path: Path
    ) -> None:
        trees = [tmp_path / "first", tmp_path / "second"]
        (trees[0] / "both").mkdir(parents=True)
        (trees[0] / "both" / "file").write_text("first")
        (trees[0] / "kind").write_text("a file")
        (trees[0] / "link").symlink_to("both/file")
        (trees[1] / "both").mkdir(parents=True)
        (trees[1] / "both" / "file").write_text("second")
        (trees[1] / "both" / "more").write_text("second")
        (trees[1] / "kind" / "inner").mkdir(parents=True)
        for copied in (False, True):
            bubblewrap.features = Features(overlay=bubblewrap.features.overlay and not copied)
            upper, work = tmp_path / f"upper{copied}", tmp_path / f"work{copied}"
            upper.mkdir()
            work.mkdir()
            overlay = Overlay(lower=tuple(trees), upper=upper, work=work, target="/tree")
            ran = await sh(
                bubblewrap, "cat both/file both/more kind link; readlink link; ls", mounts=(overlay,), cwd="/tree"
            )
            assert ran.stdout == b"firstseconda filefirstboth/file\nboth\nkind\nlink\n"

    async def test_the_node_can_remove_everything_afterwards(self, sandbox: Sandbox, tmp_path: Path) -> None:
        work = a_work_directory(tmp_path / "attempt")
        assert (await py(sandbox, CHANGES, mounts=(work,), cwd="/app")).exit.status == 0
        shutil.rmtree(tmp_path / "attempt")

    async def test_one_upper_tree_serves_two_processes_in_turn(self, sandbox: Sandbox, tmp_path: Path) -> None:
        work = a_work_directory(tmp_path)
        assert (await sh(sandbox, "echo once > new", mounts=(work,), cwd="/app")).exit.status == 0
        assert (await sh(sandbox, "cat new main.py", mounts=(work,), cwd="/app")).stdout == b"once\nthe app"


class TestMounts:
    async def test_a_writable_directory_is_written_for_the_node_to_read(self, sandbox: Sandbox, tmp_path: Path) -> None:
        place = a_file(tmp_path)
        ran = await sh(
            sandbox, "cat here; echo more > there", mounts=(Writable(source=place, target="/place"),), cwd="/place"
        )
        assert ran.stdout == b"content"
        assert (place / "there").read_text() == "more\n"

    async def test_sources_below_private_directories_can_be_seen(self, bubblewrap: Bubblewrap, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        place = a_file(tmp_path)
        mounts = (ReadOnly(source=place, target="/tree"), ReadOnly(source=place / "here", target="/file"))
        assert (await sh(bubblewrap, "cat /tree/here /file", mounts=mounts)).stdout == b"contentcontent"


def test_it_all_works_on_uvloop_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scene() -> bytes:
        sandboxes = await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run")
        try:
            return (await py(sandboxes["bubblewrap"], BOTH_STREAMS)).stdout
        finally:
            await sandboxes["bubblewrap"].close()

    assert len(uvloop.run(scene())) == 160 << 16


def a_file(place: Path) -> Path:
    directory = place / "directory"
    directory.mkdir()
    (directory / "here").write_text("content")
    return directory


def is_limited_by_prlimit(sandbox: Sandbox) -> bool:
    return isinstance(sandbox, Bubblewrap) and "pids" not in sandbox.cgroups.enforced


async def gone(mark: str) -> None:
    async with asyncio.timeout(30):
        while alive(mark):  # noqa: ASYNC110 - nobody tells us when a stranger's process ends
            await asyncio.sleep(0.02)
