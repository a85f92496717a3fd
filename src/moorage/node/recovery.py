"""What a starting node does about an earlier one that ended without saying so."""

import asyncio
from pathlib import Path

import structlog

from moorage.errors import JobLost
from moorage.model.jobs import Result
from moorage.model.states import AttemptState
from moorage.node.workspace import remove_workspace
from moorage.store.base import Store

log = structlog.get_logger(__name__)


async def recover(store: Store, *, work: Path, staging: Path) -> None:
    """Mark the earlier node's attempts lost (the policy may retry them) and tidy its files.

    Nothing of it may run any more: see `Sandbox.reap`.
    """
    lost = await store.running()
    for attempt in lost:
        await store.finish(attempt, AttemptState.LOST, Result(error=JobLost().info))
    await asyncio.to_thread(_tidy, work, staging)
    if lost:
        log.warning("an earlier node ended without saying so", attempts_lost=len(lost))


def _tidy(work: Path, staging: Path) -> None:
    for leftover in (*work.iterdir(), *staging.iterdir()):
        remove_workspace(leftover)
