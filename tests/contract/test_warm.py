"""Processes forked from a warm interpreter: they find what those find for which Python was started anew."""

import asyncio
import dataclasses
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from moorage.errors import SandboxUnavailable
from moorage.sandbox import warm
from moorage.sandbox.base import Overlay, ProcessSpec, ReadOnly
from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import ENV, Output, Ran, make_environment, run, spec, start, warmed

pytestmark = pytest.mark.anyio

RUN = """
import sys
FORKED = "_ctypes" in sys.modules
del sys
exec(open("/app/main.py").read())
"""
FACTS = """
import sys, os
found = {
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
import gc, resource, signal, socket, threading, locale
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
def runtime(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReadOnly, ...]:
    return make_environment(tmp_path_factory.mktemp("python") / "env", RUN)


@pytest.fixture
async def bubblewrap(tmp_path: Path) -> AsyncIterator[Bubblewrap]:
    opened = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run", warm=2))["bubblewrap"]
    assert isinstance(opened, Bubblewrap)
    yield opened
    await opened.close()


App = Callable[..., ProcessSpec]


@pytest.fixture
def app(tmp_path: Path, runtime: tuple[ReadOnly, ...]) -> App:
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
        fields = {"mounts": (tree,), "cwd": "/app", "env": {"LANG": "C.UTF-8", "HOME": "/home/app"}, **more}
        argv = (f"{ENV}/bin/python", f"{ENV}/run.py", *arguments)
        described = spec(*argv, **fields)
        return ProcessSpec(
            argv=argv, cwd="/app", env=described.env, mounts=(tree,), runtime=runtime, stdin=described.stdin
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


async def test_a_process_with_a_network_is_never_forked(bubblewrap: Bubblewrap, app: App) -> None:
    request = app("")
    assert warm.kind_of(request) is not None
    assert warm.kind_of(dataclasses.replace(request, network="internet")) is None


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


async def test_when_an_interpreter_is_killed_its_forks_end_and_the_next_process_runs(
    bubblewrap: Bubblewrap, app: App
) -> None:
    request = app("import time; print('here', flush=True); time.sleep(600)")
    interpreter = await warmed(bubblewrap, request)
    ready = asyncio.Event()
    process = await start(bubblewrap, request, lambda _stream, _data: ready.set())
    await ready.wait()
    psutil.Process(interpreter).kill()
    with pytest.raises(SandboxUnavailable, match="its interpreter has ended"):
        await process.wait()
    assert (await run(bubblewrap, app("print(FORKED)"))).lines == ["False"]
    assert (await forked(bubblewrap, app("print(FORKED)"))).lines == ["True"]


async def test_an_interpreter_that_cannot_start_is_done_without(bubblewrap: Bubblewrap, app: App) -> None:
    def request() -> ProcessSpec:
        described = app("print(FORKED)")
        return ProcessSpec(
            argv=("/usr/bin/python3", *described.argv[1:]), cwd="/app", env={}, mounts=described.mounts,
            runtime=described.runtime,
        )  # fmt: skip

    if not Path("/usr/bin/python3").exists():
        pytest.skip("this machine has no Python in /usr")
    for _ in range(3):  # that Python does not read our hook
        assert (await run(bubblewrap, request())).lines == ["False"]
        await asyncio.sleep(0.2)


async def test_an_interpreter_from_which_nothing_can_be_forked_is_given_up(
    bubblewrap: Bubblewrap, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = psutil.Process(await warmed(bubblewrap, app("")))
    fork = bubblewrap._fork
    monkeypatch.setattr(bubblewrap, "_fork", lambda *a: dataclasses.replace(fork(*a), targets=("/nowhere",)))
    assert (await run(bubblewrap, app("print(FORKED)"))).lines == ["False"]
    await eventually(lambda: not interpreter.is_running())
    assert bubblewrap._interpreters.find(app("")) is None


async def test_a_mount_that_fails_is_named_and_the_next_fork_works(bubblewrap: Bubblewrap, app: App) -> None:
    broken = app("")
    await warmed(bubblewrap, broken)
    (tree,) = broken.mounts
    assert isinstance(tree, Overlay)
    (tree.lower[0] / "main.py").unlink()
    tree.lower[0].rmdir()
    with pytest.raises(SandboxUnavailable, match=str(tree.lower[0])):
        await run(bubblewrap, broken)
    assert (await forked(bubblewrap, app("print(FORKED)"))).lines == ["True"]


async def test_helpers_hold_nothing_of_processes_that_have_ended(bubblewrap: Bubblewrap, app: App) -> None:
    await forked(bubblewrap, app(""))
    (spawner,) = psutil.Process().children()
    helpers = [spawner, *spawner.children()]
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


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.02)
