"""Golem as this node runs it: what all tasks share."""

import asyncio
from uuid import uuid4

from moorage.model.jobs import Result
from moorage.networks.base import Context, Finding, Port, Surface
from moorage.networks.golem.config import Settings
from moorage.networks.golem.driving.running import Workshop, compute_subtask, run
from moorage.networks.golem.records.records import Records
from moorage.networks.manifest import validated

NODE = "node"
"""File with the secret of which the ids are made that apps are given for slots."""


class GolemSurface:
    """Everything of Golem that runs as long as the node does."""

    def __init__(self, port: Port) -> None:
        settings = validated(Settings, port.config, file="configuration", under="networks.golem")
        port.directory.mkdir(parents=True, exist_ok=True)
        self._shop = Workshop(
            port=port,
            settings=settings,
            records=Records.open(port.directory),
            node=_node(port),
            places=asyncio.Semaphore(settings.tasks_at_once),
        )

    def surface(self) -> Surface:
        """Give what closes with the node."""
        return Surface(close=self._shop.records.close)

    async def run(self, ctx: Context) -> Result:
        """Drive a task, or compute one of its subtasks."""
        return await (compute_subtask if "subtask" in ctx.job.spec.parameters else run)(ctx, self._shop)

    async def check(self, ctx: Context) -> tuple[Finding, ...]:
        """Judge an app."""
        raise NotImplementedError


def _node(port: Port) -> str:
    """Give the node's own secret, which is made once."""
    path = port.directory / NODE
    if not path.exists():
        staged = path.with_suffix(".new")
        staged.write_text(uuid4().hex)
        staged.replace(path)
    return path.read_text()
