"""The life of apps on a real node: what happens while they are installed, and to files that somebody altered."""

import asyncio
from pathlib import Path

import pytest

from moorage.errors import AppNotEditable, AppUnavailable
from moorage.layers.trees import Trees
from moorage.model.apps import App
from moorage.model.callers import LOCAL
from moorage.model.states import AppState, JobState
from moorage.node.config import NodeConfig
from moorage.node.node import Node
from tests.acceptance.conftest import Lab

pytestmark = pytest.mark.anyio


def source(lab: Lab, main: str) -> Path:
    """Lay out the files of an app where the node takes them over."""
    folder = lab.node.staging()
    (folder / "main.py").write_text(main)
    return folder


async def settled(node: Node, app: App) -> App:
    async with asyncio.timeout(60):
        while (app := await node.get_app(app.id, caller=LOCAL)).state is AppState.CREATED:
            await node.feed.wait(app.id, app.seq)
    return app


async def test_altered_files_are_noticed_and_bring_the_app_to_error(lab: Lab, data_dir: Path):
    app = await lab.app("print('as it was published')")
    assert (await lab.run(app)).job.state is JobState.SUCCEEDED
    (main,) = data_dir.rglob(f"*{Trees.name(app.digest)}*/**/main.py")
    main.chmod(0o644)
    main.write_text("print('altered')")
    done = await lab.run(app)
    assert done.code == "app_tampered"
    assert done.stdout == b""
    assert (await lab.node.get_app(app.id, caller=LOCAL)).state is AppState.ERROR


async def test_an_edit_while_the_app_is_installed_leaves_it_able_to_run(lab: Lab):
    await lab.app("print('first')")  # builds the environment, so that the next installation is quick
    app = await lab.node.add_app(source(lab, "print('old')"), caller=LOCAL, network="infrax", name="edited")
    large = source(lab, "print('new')")  # so that the installation ends while the edit is under way
    for number in range(500):
        (large / f"{number}.txt").write_text("x")
    await lab.node.edit_app(app.id, caller=LOCAL, source=large)
    done = await lab.run(await settled(lab.node, app))
    assert done.stdout == b"new\n", done.job.error


async def test_a_refused_edit_leaves_nothing_of_its_upload(lab: Lab):
    app = await lab.app("print('fixed')")
    await lab.node.change_app(app.id, AppState.PUBLISHED, caller=LOCAL)
    upload = source(lab, "print('changed')")
    with pytest.raises(AppNotEditable):
        await lab.node.edit_app(app.id, caller=LOCAL, source=upload)
    assert not upload.exists()


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_hidden_app_takes_jobs_only_if_the_operator_wants_it(data_dir: Path, accepts: bool):
    async with Node.open(NodeConfig(data_dir=data_dir, hidden_accepts_jobs=accepts)) as node:
        lab = Lab(node)
        app = await lab.app("print('still here')")
        for state in (AppState.PUBLISHED, AppState.HIDDEN):
            await node.change_app(app.id, state, caller=LOCAL)
        if accepts:
            assert (await lab.run(app)).stdout == b"still here\n"
        else:
            with pytest.raises(AppUnavailable, match="HIDDEN"):
                await lab.submit(app)


async def test_a_deployment_that_the_node_did_not_finish_is_finished_by_the_next(tmp_path: Path):
    config = NodeConfig(data_dir=tmp_path / "node")
    async with Node.open(config) as node:
        app = await node.add_app(
            source(Lab(node), "print()"), caller=LOCAL, network="infrax", name="late", deploy=False
        )
        await node.change_app(app.id, AppState.TESTING, caller=LOCAL)
    async with Node.open(config) as node:
        assert (await settled(node, app)).state is AppState.TESTING
