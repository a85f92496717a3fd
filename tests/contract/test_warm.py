"""Processes forked from a warm interpreter: they find what those find for which Python was started anew."""

import ast
import asyncio
import contextlib
import dataclasses
import errno
import itertools
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from moorage.errors import SandboxUnavailable
from moorage.guest import interpreter
from moorage.sandbox import warm
from moorage.sandbox.base import Overlay, ProcessSpec, ReadOnly
from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import ENV, Environment, Output, Ran, make_environment, run, small, start, warmed

pytestmark = pytest.mark.anyio

RUN = """
import sys
FORKED = "_ctypes" in sys.modules
del sys
exec(open("/app/main.py").read())
"""
PACKAGES = {
    "package.py": "where = 'site-packages'",
    "!first.pth": (
        "import os, sys; sys.first = [os.getpid(), 'ctypes' in sys.modules, "
        "open('/proc/self/status').read().split('CapPrm:')[1].split()[0]]\n"
    ),
    "zzz.pth": "import package; package.seen = 'by zzz.pth'\n/opt/env\n",
}
FACTS = """
import gc, os, sys
found = {
    "packages": [sys.first, sys.modules["package"].seen, gc.get_freeze_count(), sorted(sys.path_importer_cache)],
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": list(sys.flags), "main": sorted(globals()),
    "modules": sorted(name for name in sys.modules if not name.startswith("_")),
    "interpreter": [sys.executable, sys.prefix, sys.base_prefix, sys.version],
    "loader": type(__loader__).__name__, "file": [__file__, __name__, __spec__],
    "frame": sys._getframe().f_back.f_back is None, "recursion": sys.getrecursionlimit(),
    "stdin": [repr(sys.stdin), sys.stdin.isatty(), sys.stdin.seekable(), sys.stdin.read()],
    "stdout": [[repr(s), s.line_buffering, s.write_through, s.errors, s.seekable()] for s in (sys.stdout, sys.stderr)],
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "process": [os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), os.getuid(), os.getgid(), os.getgroups()],
    "place": [os.getcwd(), os.umask(0o22), os.uname().nodename, sorted(os.listdir("/")), os.nice(0)],
    "environment": dict(os.environ), "private": [os.listdir(p) for p in ("/tmp", "/home/app", "/dev/shm", "/dev/pts")],
    "processes": sorted(name for name in os.listdir("/proc") if name.isdigit()),
}
import resource, signal, socket, threading, locale
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mounts = {}
for line in open("/proc/self/mountinfo"):
    fields, kind = line.split(" - ")
    _, _, _, _, target, options, *_ = fields.split()
    if not target.startswith("/proc/"):
        mounts[target] = [options, kind.split()[0]]
found |= {
    "collector": [gc.isenabled(), gc.get_threshold()], "threads": threading.active_count(),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:7] == "RLIMIT_"},
    "signals": {n: str(signal.getsignal(n)) for n in signal.valid_signals()}, "locale": locale.getlocale(),
    "status": {k: v for k, v in status.items() if k[:3] in ("Cap", "Uid", "Gid", "Sig", "Sec", "NoN", "NSp", "NSs")},
    "mounts": mounts, "interfaces": socket.if_nameindex(),
}
found["status"].pop("SigQ")
import json
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("python"), RUN, PACKAGES)


@pytest.fixture
async def bubblewrap(tmp_path: Path) -> AsyncIterator[Bubblewrap]:
    opened = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run", warm=2))["bubblewrap"]
    assert isinstance(opened, Bubblewrap)
    yield opened
    await opened.close()


App = Callable[..., ProcessSpec]


@pytest.fixture
def app(tmp_path: Path, environment: Environment) -> App:
    """Describe a run of an app whose files are given; each run has a work directory of its own."""
    count = 0

    def describe(main: str, *arguments: str, files: dict[str, str] | None = None, **more: object) -> ProcessSpec:
        nonlocal count
        count += 1
        place = tmp_path / f"run{count}"
        (place / "app").mkdir(parents=True)
        for name, text in {"main.py": main, **(files or {})}.items():
            (place / "app" / name).write_text(text)
        tree = Overlay(lower=(place / "app",), upper=place / "upper", work=place / "work", target="/app")
        fields = {"env": {"LANG": "C.UTF-8", "HOME": "/home/app"}, "limits": small(), **more}
        return ProcessSpec(
            argv=(f"{ENV}/bin/python", f"{ENV}/run.py", *arguments),
            cwd="/app",
            mounts=(tree, *environment.mounts),
            interpreter=environment.interpreter,
            **fields,
        )

    return describe


async def forked(bubblewrap: Bubblewrap, request: ProcessSpec) -> Ran:
    await warmed(bubblewrap, request)
    return await run(bubblewrap, request)


async def both(bubblewrap: Bubblewrap, describe: Callable[[], ProcessSpec]) -> tuple[Ran, Ran]:
    """Run the same thing in a Python that is started for it, and in a fork of a warm one."""
    return await run(bubblewrap, describe()), await forked(bubblewrap, describe())


async def test_everything_that_an_app_can_ask_about_itself_is_the_same(bubblewrap: Bubblewrap, app: App) -> None:
    fresh, warm_ = await both(bubblewrap, lambda: app(FACTS, "a b", "--flag", "ü", stdin=b"input"))
    assert (fresh.stderr, warm_.stderr) == (b"", b"")
    expected, found = (json.loads(ran.stdout) for ran in (fresh, warm_))
    assert {name: found[name] for name in expected if found[name] != expected[name]} == {}


async def test_code_of_packages_runs_without_any_privilege(bubblewrap: Bubblewrap, app: App) -> None:
    ran = await forked(bubblewrap, app("import sys; print(sys.first)"))
    assert ran.lines == [str([2, False, "0" * 16])]


@pytest.mark.parametrize("open_files", [5, 6, 8, 20])
async def test_no_descriptor_is_left_however_few_an_app_may_have(
    bubblewrap: Bubblewrap, app: App, open_files: int
) -> None:
    main = """
import os
def kind(number):
    try: return os.readlink(f"/proc/self/fd/{number}").split(":")[0]
    except OSError: return None
print([(number, kind(number)) for number in range(200) if kind(number)])
"""
    ran = await forked(bubblewrap, app(main, limits=small(open_files=open_files)))
    (found,) = (ast.literal_eval(line) for line in ran.lines)
    assert [kind for number, kind in found if number < 3] == ["/memfd", "pipe", "pipe"]
    assert {kind for number, kind in found if number > 2} <= {"/opt/env/run.py"}


async def test_what_belongs_to_the_kernel_is_read_only(bubblewrap: Bubblewrap, app: App) -> None:
    main = """
import os
for name in ("sys", "sysrq-trigger", "irq", "bus"):
    if os.path.exists(f"/proc/{name}"):
        print(bool(os.statvfs(f"/proc/{name}").f_flag & os.ST_RDONLY))
try: open("/proc/sys/net/ipv4/ip_forward", "w")
except OSError as error: print(error.errno)
"""
    ran = await forked(bubblewrap, app(main))
    assert set(ran.lines[:-1]) == {"True"}
    assert int(ran.lines[-1]) in (errno.EROFS, errno.EACCES)


def test_an_interpreter_that_cannot_wait_ends_instead_of_going_on(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, "print('the script ran')")
    base = environment.interpreter[0].source
    with Path(interpreter.__file__).open("rb") as code:
        ran = subprocess.run(
            [base / "bin" / "python", tmp_path / "env" / "run.py"],
            env={interpreter.VARIABLE: str(code.fileno())},
            pass_fds=[code.fileno()],  # but no socket of a spawner
            capture_output=True,
            check=False,
        )
    assert (ran.returncode, ran.stdout) == (1, b"")


async def test_the_first_is_started_the_second_warms_up_and_later_ones_are_forked(
    bubblewrap: Bubblewrap, app: App
) -> None:
    runs = [await run(bubblewrap, app("print(FORKED)")) for _ in range(2)]
    assert [ran.lines for ran in runs] == [["False"], ["False"]]
    assert (await forked(bubblewrap, app("print(FORKED)"))).lines == ["True"]


@pytest.mark.parametrize(
    ("main", "status"),
    [
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os._exit(255)", 255),
        ("1 / 0", 1),
        ("raise SystemExit('a reason')", 1),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os, signal; signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, time; os.kill(1, 2); time.sleep(0.1); print('on')", 0),
        ("import atexit; atexit.register(print, 'the end'); print('late', end='')", 0),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('done'))).start()", 0),
        ("import os; os.fork(); print('both')", 0),
    ],
)
async def test_it_ends_as_it_would_alone(bubblewrap: Bubblewrap, app: App, main: str, status: int) -> None:
    fresh, warm_ = await both(bubblewrap, lambda: app(main))
    assert warm_.exit.status == fresh.exit.status == status
    assert (warm_.stdout, warm_.stderr) == (fresh.stdout, fresh.stderr)


async def test_modules_of_an_app_win_over_those_that_the_interpreter_used(bubblewrap: Bubblewrap, app: App) -> None:
    names = ("ctypes", "select", "struct", "resource")
    files = {f"{name}.py": f"name = 'the {name} of the app'" for name in names}
    asked = ", ".join(names)
    main = f"import sys; sys.path.insert(0, '/app')\nimport {asked}\nprint(*[module.name for module in ({asked})])"
    fresh, warm_ = await both(bubblewrap, lambda: app(main, files=files))
    assert warm_.lines == fresh.lines == [" ".join(f"the {name} of the app" for name in names)]


async def test_the_library_works_as_ever(bubblewrap: Bubblewrap, app: App) -> None:
    main = """
import concurrent.futures, ctypes, json, multiprocessing, os, random, resource, select, socket, struct, subprocess, sys
class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_double)]
assert ctypes.CDLL(None).getpid() == os.getpid() and ctypes.sizeof(Pair) == 16
ends = socket.socketpair()
ends[0].send(struct.pack("i", 7))
assert select.select([ends[1]], [], [], 5)[0] and struct.unpack("i", ends[1].recv(4)) == (7,)
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout == "42\\n"
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
import threading; threading.Thread(target=print, args=("threads",)).start()
"""
    ran = await forked(bubblewrap, app(main))
    assert (ran.stderr, ran.lines) == (b"", ["threads"])


async def test_two_forks_do_not_draw_the_same_random_numbers(bubblewrap: Bubblewrap, app: App) -> None:
    main = "import random, uuid; print(random.random(), uuid.uuid4())"
    drawn = [(await forked(bubblewrap, app(main))).stdout for _ in range(3)]
    assert len(set(drawn)) == 3


async def test_forks_of_one_interpreter_share_nothing(bubblewrap: Bubblewrap, app: App) -> None:
    main = "import os; os.environ['SEEN'] = '1'; open('/tmp/seen', 'w'); open('/app/seen', 'w')"
    look = "import os; print(os.environ.get('SEEN'), os.listdir('/tmp'), os.listdir('/app'))"
    await forked(bubblewrap, app(main))
    assert (await forked(bubblewrap, app(look))).lines == ["None [] ['main.py']"]


async def test_none_is_kept_where_none_is_wanted(tmp_path: Path, app: App) -> None:
    sandbox = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run"))["bubblewrap"]
    runs = [await run(sandbox, app("print(FORKED)")) for _ in range(4)]
    await sandbox.close()
    assert [ran.lines for ran in runs] == [["False"]] * 4


async def test_what_cannot_be_forked_is_started(bubblewrap: Bubblewrap, app: App, tmp_path: Path) -> None:
    request = app("")
    hidden = ReadOnly(source=tmp_path, target="/home/app/.local")
    assert warm.kind_of(request) is not None
    assert warm.kind_of(dataclasses.replace(request, network="internet")) is None
    assert warm.kind_of(dataclasses.replace(request, interpreter=(*request.interpreter, hidden))) is None
    assert warm.kind_of(dataclasses.replace(request, argv=(*request.argv, "x" * 200_000))) is None


async def test_no_more_are_kept_than_wanted(bubblewrap: Bubblewrap, app: App) -> None:
    for name in ("one", "two"):
        await warmed(bubblewrap, app("", env={"LANG": "C.UTF-8", "NAME": name}))
    third = app("", env={"LANG": "C.UTF-8", "NAME": "three"})
    assert [bubblewrap._interpreters.find(third) for _ in range(3)] == [None] * 3


async def test_one_that_nobody_asks_for_is_ended(
    bubblewrap: Bubblewrap, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "IDLE", 0.4)
    process = psutil.Process(await warmed(bubblewrap, app("")))
    await eventually(lambda: not process.is_running())
    assert (await run(bubblewrap, app("print(FORKED)"))).lines == ["False"]


async def test_one_that_nobody_asks_for_outlives_its_forks(
    bubblewrap: Bubblewrap, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "IDLE", 0.3)
    interpreter_ = psutil.Process(await warmed(bubblewrap, app("")))
    ran = await run(bubblewrap, app("import time; time.sleep(1.2); print(FORKED)"))
    assert (ran.exit.status, ran.lines) == (0, ["True"])
    await eventually(lambda: not interpreter_.is_running())


async def test_a_failed_fork_leaves_the_other_forks_alone(
    bubblewrap: Bubblewrap, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = app("import sys, time; print('here', flush=True); time.sleep(0.7); print('done')")
    await warmed(bubblewrap, request)
    output, ready = Output(), asyncio.Event()
    process = await start(bubblewrap, request, lambda stream, data: (output(stream, data), ready.set()))
    await ready.wait()
    fork = bubblewrap._fork
    monkeypatch.setattr(bubblewrap, "_fork", lambda *a: dataclasses.replace(fork(*a), targets=("/nowhere",) * 2))
    assert (await run(bubblewrap, app("print(FORKED)"))).lines == ["False"]
    assert (await process.wait()).status == 0
    assert output.stdout == b"here\ndone\n"


async def test_failed_forks_among_many_end_none_of_the_others(
    bubblewrap: Bubblewrap, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await warmed(bubblewrap, app(""))
    fork, count = bubblewrap._fork, itertools.count()

    def sometimes_broken(*arguments: object) -> object:
        made = fork(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(made, targets=("/nowhere",) * 2) if next(count) % 5 == 3 else made

    monkeypatch.setattr(bubblewrap, "_fork", sometimes_broken)
    runs = await asyncio.gather(*(run(bubblewrap, app("import time; time.sleep(0.2)")) for _ in range(30)))
    assert [ran.exit.status for ran in runs] == [0] * 30


async def test_mounts_that_hang_hold_up_nothing_else(bubblewrap: Bubblewrap, app: App) -> None:
    request = app("print(FORKED)")
    await warmed(bubblewrap, request)
    await run(bubblewrap, app(""))
    (mounter,) = [child for child in spawner().children() if child.name() == "moorage-spawner" and not child.children()]
    mounter.suspend()
    try:
        waiting = [asyncio.create_task(run(bubblewrap, app("print(FORKED)"))) for _ in range(150)]
        await asyncio.sleep(0.5)
        alone = await start(bubblewrap, dataclasses.replace(request, interpreter=(), mounts=request.mounts), Output())
        alone.kill()
        await asyncio.wait_for(alone.wait(), 20)
    finally:
        mounter.resume()
    assert {(await task).exit.status for task in waiting} == {0}


async def test_limits_that_nothing_fits_in_leave_nothing_behind(bubblewrap: Bubblewrap, app: App) -> None:
    if "memory" not in bubblewrap.cgroups.enforced:
        pytest.skip("this user cannot make memory cgroups: there is nothing to be too small")
    await forked(bubblewrap, app(""))
    await asyncio.sleep(0.2)
    before = len(spawner().children(recursive=True))
    for _ in range(5):
        with contextlib.suppress(SandboxUnavailable):
            assert (await run(bubblewrap, app("", limits=small(memory=4096)))).exit.status != 0
    await eventually(lambda: len(spawner().children(recursive=True)) <= before + 1)


async def test_a_data_directory_may_be_called_anything(tmp_path: Path, app: App) -> None:
    run_dir = tmp_path / "a,b:c d"
    sandbox = (await open_sandboxes(data_dir=tmp_path, run_dir=run_dir, warm=1))["bubblewrap"]
    assert isinstance(sandbox, Bubblewrap)
    ran = await forked(sandbox, app("print(FORKED)"))
    await sandbox.close()
    assert ran.lines == ["True"]


async def test_when_an_interpreter_is_killed_its_forks_end_and_the_next_process_runs(
    bubblewrap: Bubblewrap, app: App
) -> None:
    request = app("import time; print('here', flush=True); time.sleep(600)")
    pid = await warmed(bubblewrap, request)
    ready = asyncio.Event()
    process = await start(bubblewrap, request, lambda _stream, _data: ready.set())
    await ready.wait()
    psutil.Process(pid).kill()
    with pytest.raises(SandboxUnavailable, match="its interpreter has ended"):
        await process.wait()
    assert (await run(bubblewrap, app("print(FORKED)"))).lines == ["False"]
    assert (await forked(bubblewrap, app("print(FORKED)"))).lines == ["True"]


async def test_an_interpreter_that_cannot_start_is_done_without(bubblewrap: Bubblewrap, app: App) -> None:
    def request() -> ProcessSpec:
        described = app("print(FORKED)")
        return ProcessSpec(
            argv=("/usr/bin/python3", *described.argv[1:]), cwd="/app", env={}, mounts=described.mounts,
            interpreter=described.interpreter,
        )  # fmt: skip

    if not Path("/usr/bin/python3").exists():
        pytest.skip("this machine has no Python in /usr")
    for _ in range(3):  # that Python does not read our hook
        assert (await run(bubblewrap, request())).lines == ["False"]
        await asyncio.sleep(0.2)


async def test_an_interpreter_from_which_nothing_can_be_forked_is_given_up(
    bubblewrap: Bubblewrap, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter_ = psutil.Process(await warmed(bubblewrap, app("")))
    fork = bubblewrap._fork
    monkeypatch.setattr(bubblewrap, "_fork", lambda *a: dataclasses.replace(fork(*a), targets=("/nowhere",) * 2))
    assert (await run(bubblewrap, app("print(FORKED)"))).lines == ["False"]
    await eventually(lambda: not interpreter_.is_running())
    assert bubblewrap._interpreters.find(app("")) is None


async def test_a_mount_that_fails_is_named_and_the_next_fork_works(bubblewrap: Bubblewrap, app: App) -> None:
    broken = app("")
    await warmed(bubblewrap, broken)
    await run(bubblewrap, app(""))
    tree = broken.mounts[0]
    assert isinstance(tree, Overlay)
    (tree.lower[0] / "main.py").unlink()
    tree.lower[0].rmdir()
    (mounter,) = [child for child in spawner().children() if child.name() == "moorage-spawner" and not child.children()]
    before = mounts_of(mounter)
    for _ in range(3):
        with pytest.raises(SandboxUnavailable, match=str(tree.lower[0])):
            await run(bubblewrap, broken)
    assert mounts_of(mounter) == before
    assert (await forked(bubblewrap, app("print(FORKED)"))).lines == ["True"]


async def test_helpers_hold_nothing_of_processes_that_have_ended(bubblewrap: Bubblewrap, app: App) -> None:
    await forked(bubblewrap, app(""))
    helpers = [spawner(), *spawner().children()]
    before = [helper.num_fds() for helper in helpers]
    for _ in range(10):
        await asyncio.gather(*(run(bubblewrap, app("import os; os.mkfifo('x')")) for _ in range(4)))
    after = [helper.num_fds() for helper in helpers]
    assert max(b - a for a, b in zip(before, after, strict=True)) <= 2 * 4  # a spare one or two may wait


async def test_a_job_is_killed_before_it_has_begun(bubblewrap: Bubblewrap, app: App) -> None:
    request = app("import time; time.sleep(600)")
    await warmed(bubblewrap, request)
    task = asyncio.create_task(start(bubblewrap, request, Output()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await forked(bubblewrap, app("print(FORKED)"))).lines == ["True"]


def spawner() -> psutil.Process:
    children = psutil.Process().children()
    (found,) = [child for child in children if "moorage.sandbox.spawner" in " ".join(child.cmdline())]
    return found


def mounts_of(process: psutil.Process) -> int:
    return len(Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines())


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.02)
