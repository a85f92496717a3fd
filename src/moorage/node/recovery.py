"""What a starting node does about an earlier one that ended without saying so."""

import asyncio
import shutil
from pathlib import Path

import structlog

from moorage.errors import JobLost
from moorage.model.jobs import Result
from moorage.model.states import AttemptState
from moorage.node.workspace import remove_workspace
from moorage.sandbox.base import Sandbox
from moorage.store.base import Store

log = structlog.get_logger(__name__)


async def recover(store: Store, sandboxes: dict[str, Sandbox], *, work: Path, staging: Path) -> None:
    """Kill what is left of the earlier node, mark its attempts lost (the policy may retry them), tidy its files."""
    killed = sum([await sandbox.reap() for sandbox in sandboxes.values()])
    lost = await store.running()
    for attempt in lost:
        await store.finish(attempt, AttemptState.LOST, Result(error=JobLost().info))
    await asyncio.to_thread(_tidy, work, staging)
    if killed or lost:
        log.warning("recovered from an earlier node", processes_killed=killed, attempts_lost=len(lost))


def _tidy(work: Path, staging: Path) -> None:
    for workspace in work.iterdir():
        remove_workspace(workspace)
    for leftover in staging.iterdir():
        shutil.rmtree(leftover, ignore_errors=True)
