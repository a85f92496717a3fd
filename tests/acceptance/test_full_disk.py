"""A disk that is full fails the job that needs the space, loses nothing, and the node goes on."""

import asyncio
import contextlib
from pathlib import Path

from moorage.model.callers import LOCAL
from moorage.model.limits import GIB, MIB
from moorage.model.states import JobState
from moorage.node.config import NodeConfig
from moorage.node.node import Node
from tests.acceptance.conftest import SMALL, Lab
from tests.small_disk import run_on_small_disk

HALF = 40 * MIB


async def no_space_to_collect(data_dir: Path) -> None:
    async with Node.open(NodeConfig(data_dir=data_dir / "node", cpus=4, memory=8 * GIB)) as node:
        lab = Lab(node)
        app = await lab.app(
            "import json, sys, os\nopen('output/big', 'wb').write(os.urandom(json.load(sys.stdin)['size']))"
        )
        before = await lab.run(app, kwargs={"size": 1000})
        assert before.job.error is None, before.stderr
        done = await lab.run(app, kwargs={"size": HALF}, limits=SMALL)
        assert done.code == "disk_full", (done.job.error, done.stderr)
        assert done.job.error is not None
        assert done.job.error.retryable
        assert done.outputs == {}
        after = await lab.run(app, kwargs={"size": 1000})
        assert len(after.outputs["big"]) == 1000
        left = [path for path in (data_dir / "node" / "blobs").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in left) < MIB


def test_no_space_while_collecting_fails_the_job_and_leaves_nothing_half_stored(tmp_path: Path):
    run_on_small_disk(no_space_to_collect, tmp_path / "disk", "96m")


async def no_space_to_stop(data_dir: Path) -> None:
    config = NodeConfig(data_dir=data_dir / "node", cpus=4, memory=8 * GIB)
    async with asyncio.timeout(120):
        async with Node.open(config) as node:
            lab = Lab(node)
            job = await lab.submit(await lab.app("print('up', flush=True)\nimport time\ntime.sleep(60)"))
            async for _ in node.logs(job.id, caller=LOCAL, follow=True):
                break
            with contextlib.suppress(OSError), (data_dir / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
        (data_dir / "ballast").unlink()
        async with Node.open(config, working=False) as node:
            assert (await node.get_job(job.id, caller=LOCAL)).state is JobState.QUEUED


def test_no_space_does_not_keep_a_node_from_stopping(tmp_path: Path):
    run_on_small_disk(no_space_to_stop, tmp_path / "disk", "96m")
