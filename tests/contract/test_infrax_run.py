"""One run of an InfraX app: `InfraX.run` in a real sandbox, on real blobs (contract, section 2).

Numbers in docstrings are items of the acceptance checklist (section 8).
"""

import asyncio
import dataclasses
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moorage.blobs.collect import collect
from moorage.blobs.local import LocalBlobs
from moorage.errors import InputUnavailable
from moorage.layers.python import PythonEnvironments
from moorage.layers.trees import Trees
from moorage.model.apps import App
from moorage.model.ids import new_id
from moorage.model.jobs import Attempt, FileRef, Job, JobSpec, Result
from moorage.model.limits import MIB, Limits, Timeouts
from moorage.model.states import AppState, AttemptState
from moorage.networks.base import Context
from moorage.networks.infrax.network import InfraX
from moorage.networks.infrax.texts import output_text
from moorage.sandbox.base import SANDBOX_UID, Sandbox
from moorage.sandbox.opening import open_sandboxes
from moorage.sandbox.supervise import supervise

pytestmark = pytest.mark.anyio

LIMITS = Limits(memory=256 * MIB)


@dataclass
class Seen:
    """What a run came to."""

    result: Result = field(default_factory=Result)
    outputs: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    events: list[tuple[str, str]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the app has written something."""

    @property
    def stdout(self) -> str:
        return self.streams["stdout"].decode()

    @property
    def error(self) -> str | None:
        return self.result.error.message if self.result.error else None

    def check(self) -> "Seen":
        assert self.result.error is None, (self.error, self.streams["stderr"].decode())
        return self


@dataclass
class Lab:
    """Real parts, and the short way to run an app on them."""

    root: Path
    sandbox: Sandbox
    blobs: LocalBlobs
    trees: Trees
    python: Path
    network: InfraX = field(default_factory=InfraX)

    async def app(self, main: str, *, toml: str = "", files: Mapping[str, str] | None = None, **meta: Any) -> App:
        """Keep an app as the node does."""
        source = self.root / new_id("source")
        for name, text in {"main.py": main, **(files or {}), **({"moorage.toml": toml} if toml else {})}.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
        manifest = self.network.load(source)
        tree = await self.trees.add(source, manifest.ignore)
        return App(id=new_id("app"), network="infrax", name="app", owner="me", state=AppState.TESTING,
                   digest=tree.digest, size=tree.size, files=tree.files, manifest=manifest.data, meta=meta)  # fmt: skip

    async def files(self, inputs: Mapping[str, bytes]) -> tuple[FileRef, ...]:
        stored = [(path, *await self.blobs.put_bytes(data)) for path, data in inputs.items()]
        return tuple(FileRef(path=path, digest=digest, size=size) for path, digest, size in stored)

    async def run(
        self,
        app: App | str,
        inputs: Mapping[str, bytes] | None = None,
        *,
        limits: Limits = LIMITS,
        cancelled: asyncio.Event | None = None,
        seen: Seen | None = None,
        granted: float = 60,
        **parameters: Any,
    ) -> Seen:
        """Run a job of an app, or of the app with this main.py, and check that it left no workspace behind."""
        app = app if isinstance(app, App) else await self.app(app)
        asked = JobSpec(app_id=app.id, parameters=parameters, inputs=await self.files(inputs or {}), limits=limits)
        spec = self.network.accept(app, asked)
        timeout = min(spec.timeouts.execution or granted, granted)
        spec = dataclasses.replace(spec, timeouts=Timeouts(execution=timeout))
        job = Job(id=new_id("job"), owner="me", network="infrax", app_digest=app.digest, spec=spec)
        seen = seen or Seen()
        ctx = self._context(app, job, seen, cancelled or asyncio.Event())
        try:
            seen.result = await self.network.run(ctx)
        finally:
            await asyncio.to_thread(shutil.rmtree, ctx.workspace)
        for file in seen.result.outputs:
            seen.outputs[file.path] = self.blobs.path(file.digest).read_bytes()
        return seen

    def _context(self, app: App, job: Job, seen: Seen, cancelled: asyncio.Event) -> Context:
        attempt = Attempt(id=new_id("att"), job_id=job.id, number=1, state=AttemptState.PREPARING, lease=1,
                          place="here", created_at=0.0)  # fmt: skip
        workspace = self.root / attempt.id
        workspace.mkdir(mode=0o711)

        def log(stream: str, data: bytes) -> None:
            seen.streams[stream] += data
            seen.spoke.set()

        return Context(
            job=job,
            app=app,
            attempt=attempt,
            workspace=workspace,
            layers={"app": self.trees.path(Trees.name(app.digest)), "python": self.python},
            inputs=job.spec.inputs,
            blobs=self.blobs,
            services=None,  # type: ignore[arg-type]  # InfraX has none
            children=None,  # type: ignore[arg-type]  # InfraX has none
            start=lambda spec: self.sandbox.start(spec, name=attempt.id, output=log),
            supervise=lambda process: supervise(process, timeout=job.spec.timeouts.execution, cancelled=cancelled),
            collect=lambda directory: collect(
                directory, self.blobs, max_bytes=job.spec.limits.output_bytes, max_files=job.spec.limits.output_files,
                warn=lambda topic, message, _: seen.events.append((topic, message)),
            ),
            emit=lambda topic, message, **_: seen.events.append((topic, message)),
            started=lambda: seen.steps.append("started"),
            collecting=lambda: seen.steps.append("collecting"),
            log=log,
            cancelled=cancelled,
        )  # fmt: skip


@pytest.fixture
async def lab(tmp_path: Path, layers_dir: Path) -> AsyncIterator[Lab]:
    owner = SANDBOX_UID if os.geteuid() == 0 else None
    sandbox = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path))["bubblewrap"]
    try:
        trees = Trees(layers_dir, owner=owner)
        empty = tmp_path / "empty"
        empty.mkdir()
        pythons = PythonEnvironments(layers_dir, sandbox)
        name = await pythons.ensure(
            version="3.11", requirements=None, tree=empty, tree_digest="", progress=lambda line: None
        )
        yield Lab(tmp_path, sandbox, LocalBlobs(tmp_path / "blobs", owner=owner), trees, pythons.path(name))
    finally:
        await sandbox.close()


READS_STDIN = "import json, sys; print(json.load(sys.stdin))"
READS_ARGV = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--message_string")
print(vars(parser.parse_args()))
"""
TELLS = "import json, sys; print(json.dumps([sys.argv[1:], sys.stdin.read()]))"


async def test_both_kinds_of_apps_get_the_right_value_from_the_same_job(lab: Lab) -> None:
    """Item 1, and the second documented example (section 1.2)."""
    for main in (READS_STDIN, READS_ARGV):
        seen = await lab.run(main, kwargs={"message_string": "Hello InfraX!"})
        assert seen.check().stdout == "{'message_string': 'Hello InfraX!'}\n"


async def test_without_arguments_stdin_is_an_empty_object_and_then_ends(lab: Lab) -> None:
    """Item 2."""
    assert json.loads((await lab.run(TELLS)).check().stdout) == [[], "{}"]


async def test_an_app_that_never_reads_stdin_finishes_also_with_many_arguments(lab: Lab) -> None:
    """Item 2."""
    kwargs = {f"k{number}": "🚢" * 1024 for number in range(75)}
    seen = await lab.run("import sys; print(len(sys.argv))", kwargs=kwargs)
    assert seen.check().stdout == "151\n"


async def test_awkward_values_reach_the_app_intact(lab: Lab) -> None:
    """Item 3."""
    kwargs = {"a": "-x", "b": "", "c": 'it\'s "$(id)"', "d": "two\nlines", "e": "grüße 🚢", "f": None, "g": -5}
    argv, stdin = json.loads((await lab.run(TELLS, kwargs=kwargs)).check().stdout)
    assert json.loads(stdin) == kwargs
    assert argv == ["--a=-x", "--b", "", "--c", kwargs["c"], "--d", kwargs["d"], "--e", kwargs["e"], "--f", "None",
                    "--g=-5"]  # fmt: skip


@pytest.mark.parametrize(("via", "argv", "stdin"), [("stdin", [], '{"a": 1}'), ("argv", ["--a", "1"], "{}")])
async def test_the_knob_kwargs_via_is_obeyed(lab: Lab, via: str, argv: list[str], stdin: str) -> None:
    """Item 5."""
    app = await lab.app(TELLS, toml=f'network = "infrax"\n[infrax]\nkwargs_via = "{via}"')
    assert json.loads((await lab.run(app, kwargs={"a": 1})).check().stdout) == [argv, stdin]


async def test_positional_arguments_and_defaults_reach_the_app(lab: Lab) -> None:
    """Item 5, and section 1.4."""
    assert json.loads((await lab.run(TELLS, args=["x", 1])).check().stdout) == [["x", "1"], "{}"]
    app = await lab.app(TELLS, kwargs={"a": 1, "b": 2})
    assert json.loads((await lab.run(app, kwargs={"b": 3})).check().stdout)[1] == '{"a": 1, "b": 3}'


async def test_the_app_starts_in_its_root_with_fresh_input_and_output(lab: Lab) -> None:
    """Item 6: the archive's own input/ and output/ are not there."""
    main = "import os; print(os.getcwd(), sorted(os.listdir()), os.listdir('input'), os.listdir('output'))"
    app = await lab.app(main, files={"input/old": "", "output/old": "", "part.py": ""})
    assert (await lab.run(app)).check().stdout == "/app ['input', 'main.py', 'output', 'part.py'] [] []\n"


async def test_input_and_output_can_be_removed_and_made_again(lab: Lab) -> None:
    """Item 6."""
    main = """
import os, shutil
for name in ("output", "input"):
    shutil.rmtree(name)
    os.makedirs(name)
    assert os.listdir(name) == []
    open(f"{name}/new", "w").write(name)
"""
    for inputs in ({}, {"a": b"1", "deep/b": b"2"}):
        assert (await lab.run(main, inputs)).check().outputs == {"new": b"output"}


async def test_input_files_are_joined(lab: Lab) -> None:
    """Item 7, and the first documented example (section 1.2), whose order is not asserted."""
    main = """
import os
text = "\\n".join(open(f"input/{name}").read() for name in os.listdir("input"))
open("output/output.txt", "w").write(text)
"""
    seen = await lab.run(main, {"one": b"Hello", "two": b"InfraX!"})
    assert sorted(seen.check().outputs["output.txt"].split(b"\n")) == [b"Hello", b"InfraX!"]


async def test_inputs_and_outputs_have_sub_directories_hidden_and_empty_files(lab: Lab) -> None:
    """Item 7; section 6, items 2 and 3."""
    main = "import shutil; shutil.copytree('input', 'output', dirs_exist_ok=True); open('output/empty', 'w')"
    files = {"a/b/c.txt": b"deep", ".hidden": b"h", "ünï 🚢/x y": b"\0\xff"}
    assert (await lab.run(main, files)).check().outputs == {**files, "empty": b""}


async def test_much_on_both_streams_at_once_does_not_block(lab: Lab) -> None:
    """Item 8; section 6, item 1."""
    main = """
import sys, threading
def flood(stream):
    for _ in range(160):
        stream.write(b"x" * 65536)
threads = [threading.Thread(target=flood, args=(stream.buffer,)) for stream in (sys.stdout, sys.stderr)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    seen = (await lab.run(main)).check()
    assert [len(seen.streams[name]) for name in ("stdout", "stderr")] == [160 * 65536] * 2


async def test_output_is_shown_as_the_network_does(lab: Lab) -> None:
    """Item 8."""
    main = "import sys; sys.stdout.buffer.write(b'a\\r\\nb\\rc\\xff'); sys.stderr.write('e')"
    streams = (await lab.run(main)).check().streams
    assert output_text(bytes(streams["stdout"]), bytes(streams["stderr"])) == "a\nb\nc\ufffd\ne"
    quiet = (await lab.run("")).check().streams
    assert output_text(bytes(quiet["stdout"]), bytes(quiet["stderr"])) == "\n"


async def test_what_is_printed_arrives_before_the_end(lab: Lab) -> None:
    """Output is not held back: PYTHONUNBUFFERED is set."""
    cancelled, seen = asyncio.Event(), Seen()
    app = await lab.app("import time; print('first'); time.sleep(600)")
    task = asyncio.ensure_future(lab.run(app, cancelled=cancelled, seen=seen))
    await seen.spoke.wait()
    cancelled.set()
    await task
    assert seen.stdout.strip() == "first"
    assert seen.error == "Job cancelled"


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("raise ValueError", 1)]
)
async def test_a_failing_app_is_told_by_its_status_and_keeps_its_outputs(lab: Lab, end: str, status: int) -> None:
    """Item 9."""
    seen = await lab.run(f"import os, sys; open('output/kept', 'w').write('x'); {end}")
    assert seen.error == f"Job failed with exit code {status}"
    assert seen.result.error is not None
    assert seen.result.error.code == "job_crashed"
    assert seen.result.exit_status == status
    assert seen.outputs == {"kept": b"x"}


async def test_a_successful_run_reports_its_steps_and_what_it_used(lab: Lab) -> None:
    seen = (await lab.run("sum(range(10**6))")).check()
    assert seen.steps == ["started", "collecting"]
    assert seen.result.exit_status == 0
    assert 0 < seen.result.usage.wall < 60


async def test_time_to_give_up_ends_the_app_and_all_its_children(lab: Lab) -> None:
    """Item 10: neither ignores SIGTERM nor a child keeps the job alive."""
    main = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("output/kept", "w")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""
    seen = await lab.run(main, time_to_give_up=1)
    assert seen.error == "Job timed out after 1 seconds"
    assert seen.result.timed_out
    assert seen.outputs == {"kept": b""}


async def test_a_background_child_does_not_keep_a_finished_job_alive(lab: Lab) -> None:
    """Item 10; the child holds the streams open."""
    main = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("done")
"""
    seen = (await lab.run(main, granted=30)).check()
    assert seen.stdout == "done\n"


async def test_a_wish_beyond_the_maximum_of_the_node_is_cut_with_a_warning(lab: Lab) -> None:
    seen = (await lab.run("", time_to_give_up=1000, granted=60)).check()
    assert [message for topic, message in seen.events if topic == "job.warning"] == [
        "time_to_give_up of 1000 seconds is cut to this node's maximum of 60."
    ]


async def test_the_environment_is_that_of_the_contract(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 11: section 2, step 9; PWD is bubblewrap's own and says only what the contract says anyway."""
    monkeypatch.setenv("SECRET_OF_THE_NODE", "x")
    main = (
        "import json, os, sys; print(json.dumps([dict(os.environ), sys.executable, sys.prefix, sys.version_info[:2]]))"
    )
    env, executable, prefix, version = json.loads((await lab.run(main)).check().stdout)
    assert env.pop("PWD", "/app") == "/app"
    assert env.pop("PATH").split(":")[0] == "/opt/env/bin"
    assert env == {"HOME": "/home/app", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    assert executable.startswith("/opt/env/bin/python")
    assert (prefix, version) == ("/opt/env", [3, 11])


async def test_pip_and_setuptools_are_there_and_home_is_private(lab: Lab) -> None:
    """Section 2, steps 2 and 9."""
    main = """
import os, setuptools, pip, tempfile, pathlib
home = pathlib.Path.home()
print(os.listdir(home))
(home / "x").write_text("y")
print(tempfile.gettempdir())
"""
    app = await lab.app(main)
    for _ in range(2):
        assert (await lab.run(app)).check().stdout == "[]\n/tmp\n"


async def test_nothing_of_the_machine_is_seen_or_written(lab: Lab, tmp_path: Path) -> None:
    """Item 11."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    main = f"""
import os
assert not os.path.exists({str(secret)!r})
for path in ("/x", "/usr/x", "/etc/x", "/opt/env/x", "/opt/x", "/bin/x"):
    try:
        open(path, "w")
    except OSError:
        continue
    raise SystemExit(path)
"""
    (await lab.run(main)).check()


async def test_links_fifos_and_sockets_in_output_are_skipped_with_a_warning(lab: Lab) -> None:
    """Item 11; a link to a file inside is stored as a copy."""
    main = """
import os, socket
os.chdir("output")
open("real", "w").write("r")
os.symlink("/etc/passwd", "passwd")
os.symlink("../main.py", "up")
os.symlink("real", "copy")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
"""
    seen = (await lab.run(main)).check()
    assert seen.outputs == {"real": b"r", "copy": b"r"}
    warned = " ".join(message for topic, message in seen.events if topic == "output.skipped")
    assert all(f"output/{name} " in warned for name in ("passwd", "up", "fifo", "socket"))


@pytest.mark.parametrize(
    "replace", ["", "open('output', 'w')", "os.symlink('/etc', 'output')", "os.symlink('input', 'output')"]
)
async def test_an_output_directory_that_is_gone_means_no_files_and_a_warning(lab: Lab, replace: str) -> None:
    """Section 5.3."""
    seen = (await lab.run(f"import os; os.rmdir('output'); {replace}", {"secret": b"x"})).check()
    assert seen.outputs == {}
    assert [topic for topic, _ in seen.events] == ["output.missing"]


async def test_too_many_outputs_fail_the_job_and_say_so(lab: Lab) -> None:
    """Section 5.3."""
    main = "import sys; [open(f'output/{n}', 'w') for n in range(5)]; sys.exit(int(sys.argv[-1]))"
    limits = dataclasses.replace(LIMITS, output_files=3)
    seen = await lab.run(main, limits=limits, args=[0])
    assert seen.result.error is not None
    assert seen.result.error.code == "outputs_too_large"
    assert seen.result.exit_status == 0
    assert (await lab.run(main, limits=limits, args=[3])).error == "Job failed with exit code 3"


async def test_an_app_may_change_its_inputs_and_its_own_files_and_nobody_else_notices(lab: Lab) -> None:
    """Item 12: the next job and the stored blobs are unaffected."""
    main = """
import os, pathlib
paths = ["main.py", "data/part.txt", "input/a.txt", "input/deep/b.txt"]
print([pathlib.Path(path).read_text() for path in paths[1:]])
for path in paths:
    with open(path, "r+") as file:
        file.write("spoilt")
    os.chmod(path, 0o600)
    pathlib.Path(path).with_suffix(".new").write_text("new")
os.rename("input/a.txt", "input/renamed")
os.unlink("data/part.txt")
"""
    app = await lab.app(main, files={"data/part.txt": "part"})
    inputs = {"a.txt": b"alpha", "deep/b.txt": b"beta"}
    for _ in range(2):
        assert (await lab.run(app, inputs)).check().stdout == "['part', 'alpha', 'beta']\n"
    assert await lab.trees.verify(Trees.name(app.digest))
    for file, data in zip(await lab.files(inputs), inputs.values(), strict=True):
        assert lab.blobs.path(file.digest).read_bytes() == data


async def test_twenty_jobs_of_one_app_at_once_keep_to_themselves(lab: Lab) -> None:
    """Item 12."""
    main = """
import os, sys
name = open("input/name").read()
open("beside", "x").write(name)
open("main.py", "a").write("# " + name)
open("output/name", "w").write(name + str(sorted(os.listdir())))
"""
    app = await lab.app(main)
    runs = (lab.run(app, {"name": str(number).encode()}) for number in range(20))
    for number, seen in enumerate(await asyncio.gather(*runs)):
        assert seen.check().outputs["name"] == f"{number}['beside', 'input', 'main.py', 'output']".encode()


async def test_input_readonly_keeps_the_inputs_as_they_are(lab: Lab) -> None:
    """Section 2, step 7."""
    main = """
try:
    open("input/a", "w")
except OSError as error:
    print(open("input/a").read(), error.strerror)
"""
    app = await lab.app(main, toml='network = "infrax"\n[infrax]\ninput_readonly = true')
    assert (await lab.run(app, {"a": b"kept"})).check().stdout == "kept Read-only file system\n"


async def test_a_job_that_is_cancelled_before_the_start_never_starts(lab: Lab) -> None:
    cancelled = asyncio.Event()
    cancelled.set()
    seen = await lab.run("print('ran')", cancelled=cancelled)
    assert (seen.error, seen.steps, seen.stdout) == ("Job cancelled", [], "")


async def test_an_input_that_is_not_in_the_store_is_named(lab: Lab) -> None:
    """Section 5.4."""
    app = await lab.app("")
    lost = await lab.files({"notes.txt": b"soon gone"})
    lab.blobs.path(lost[0].digest).unlink()
    spec = JobSpec(app_id=app.id, inputs=lost)
    job = Job(id=new_id("job"), owner="me", network="infrax", app_digest=app.digest, spec=spec)
    with pytest.raises(InputUnavailable, match=r"^Failed to download input file notes\.txt$"):
        await lab.network.run(lab._context(app, job, Seen(), asyncio.Event()))


async def test_an_app_that_uses_too_much_memory_is_told_so(lab: Lab) -> None:
    seen = await lab.run(
        "x = [bytearray(2**20) for _ in range(4096)]", limits=dataclasses.replace(LIMITS, memory=64 * MIB)
    )
    assert seen.result.error is not None
    if seen.result.error.code == "job_crashed":
        pytest.skip("this machine limits memory without a cgroup: the app sees MemoryError and exits by itself")
    assert seen.result.error.code == "out_of_memory"
    assert seen.result.exit_status == -9
