"""Whatever an app does is its own failure, told in words, and the node goes on serving."""

import asyncio
import dataclasses
import os
import time
from pathlib import Path

import pytest

from moorage.model.limits import MIB
from tests.acceptance.conftest import SMALL, Lab

pytestmark = pytest.mark.anyio

HELLO = "print('still here')"


@pytest.fixture(autouse=True)
async def the_node_goes_on_serving(lab: Lab):
    yield
    assert (await lab.run(await lab.app(HELLO))).stdout == b"still here\n"


async def test_a_fork_bomb_is_held_by_its_pids_limit_and_ended_by_its_timeout(lab: Lab):
    bomb = """
import os, time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        children += 1
except OSError as error:
    print(children, type(error).__name__, flush=True)
time.sleep(60)
"""
    limits = dataclasses.replace(SMALL, pids=32)
    done = await lab.run(await lab.app(bomb), limits=limits, seconds=3)
    children, error = done.stdout.split()
    assert error == b"BlockingIOError"
    assert int(children) < 32
    assert done.code == "job_timed_out"
    assert done.job.error is not None
    assert done.job.error.message == "Job timed out after 3 seconds"


async def test_a_memory_hog_is_killed_and_told_so(lab: Lab):
    hog = "chunks = []\nwhile True: chunks.append(bytearray(8 << 20))"
    done = await lab.run(await lab.app(hog), limits=dataclasses.replace(SMALL, memory=64 * MIB))
    assert done.code == "out_of_memory"
    assert done.attempt.usage.peak_memory is not None
    assert done.attempt.usage.peak_memory <= 64 * MIB


async def test_ten_gibibytes_of_stdout_end_the_app_and_cost_no_more_disk_than_the_cap(lab: Lab):
    flood = "import os\nchunk = b'x' * (1 << 20)\nfor _ in range(10 * 1024): os.write(1, chunk)"
    done = await lab.run(await lab.app(flood))
    assert done.code == "log_limit"
    assert len(done.stdout) <= SMALL.log_bytes + 100
    assert b"bytes omitted]" in done.stdout


async def test_output_links_out_of_the_sandbox_and_fifos_are_skipped_with_a_warning(lab: Lab):
    trick = """
import os
os.symlink("/etc/shadow", "output/shadow")
os.symlink("../main.py", "output/main")
os.mkfifo("output/fifo")
open("output/honest.txt", "w").write("kept")
"""
    done = await lab.run(await lab.app(trick))
    assert done.code is None
    assert done.outputs == {"honest.txt": b"kept"}
    warned = {event.message for event in done.events if event.topic == "output.skipped"}
    assert len(warned) == 3
    assert all(any(name in message for message in warned) for name in ("shadow", "main", "fifo"))


async def test_a_daemon_that_outlives_main_is_killed_and_the_job_ends_at_once(lab: Lab):
    daemon = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            open("output/alive", "a").write("x")
            time.sleep(0.01)
    os._exit(0)
os.wait()
print("main is done")
"""
    started = time.monotonic()
    done = await lab.run(await lab.app(daemon))
    assert done.code is None
    assert time.monotonic() - started < 30
    assert done.stdout == b"main is done\n"


async def test_an_app_that_ignores_sigterm_is_killed_after_the_grace(lab: Lab):
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    done = await lab.run(await lab.app(stubborn), seconds=2)
    assert done.stdout == b"deaf\n"
    assert done.code == "job_timed_out"
    assert done.attempt.exit_status == -9
    assert done.attempt.usage.wall < 30


async def test_a_full_tmp_is_the_apps_own_trouble(lab: Lab):
    fill = "with open('/tmp/fill', 'wb') as f:\n    while True: f.write(bytes(1 << 20)); f.flush()"
    limits = dataclasses.replace(SMALL, tmp=8 * MIB)
    done = await lab.run(await lab.app(fill), limits=limits)
    assert done.code == "job_crashed"
    assert b"No space left on device" in done.stderr


async def test_writing_through_an_input_never_reaches_the_store(lab: Lab):
    write = """
with open("input/data.txt", "r+b") as file: file.write(b"OVERWRITTEN")
import os
os.chmod("input/data.txt", 0o600); os.truncate("input/data.txt", 3)
print(open("input/data.txt").read())
"""
    app = await lab.app(write)
    for _ in range(2):
        done = await lab.run(app, inputs={"data.txt": b"the original"})
        assert done.stdout == b"OVE\n"
    digest, _ = await lab.node.blobs.put_bytes(b"the original")
    assert lab.node.blobs.path(digest).read_bytes() == b"the original"


async def test_removing_and_remaking_output_is_allowed(lab: Lab):
    remake = """
import os, shutil
open("output/old", "w").write("old")
shutil.rmtree("output"); os.makedirs("output/sub")
open("output/sub/new", "w").write("new")
shutil.rmtree("input"); os.makedirs("input")
"""
    done = await lab.run(await lab.app(remake), inputs={"a/b": b"x"})
    assert done.outputs == {"sub/new": b"new"}


async def test_an_app_that_fills_its_work_directory_is_ended(lab: Lab):
    fill = """
import os, time
for number in range(100):
    with open(f"part{number}", "wb") as file: file.write(os.urandom(1 << 20))
time.sleep(60)
"""
    done = await lab.run(await lab.app(fill), limits=dataclasses.replace(SMALL, disk=16 * MIB))
    assert done.code == "disk_limit"


async def test_too_many_outputs_fail_the_job_and_keep_its_logs(lab: Lab):
    many = "for n in range(50): open(f'output/{n}', 'w')\nprint('made them')"
    done = await lab.run(await lab.app(many), limits=dataclasses.replace(SMALL, output_files=10))
    assert done.code == "outputs_too_large"
    assert done.stdout == b"made them\n"


async def test_nothing_of_a_finished_job_is_left_in_the_data_directory(lab: Lab, data_dir: Path):
    await lab.run(await lab.app("import os\nos.makedirs('x/y'); os.chmod('x', 0)"))
    for _ in range(500):  # a workspace goes after its owner has been told
        if not list((data_dir / "work").iterdir()):
            break
        await asyncio.sleep(0.02)
    assert list((data_dir / "work").iterdir()) == []
    assert str(data_dir) not in Path(f"/proc/{os.getpid()}/mounts").read_text()
