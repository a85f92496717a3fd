"""Run a process to its end under a deadline and a cancel signal; the same for every kind of sandbox."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from moorage.sandbox.base import Exit, Process

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL (InfraX contract, section 2, step 12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a supervised process ended, and whether it was made to."""

    exit: Exit
    cut: Literal["timeout", "cancel"] | None = None


async def supervise(
    process: Process, *, timeout: float | None, cancelled: asyncio.Event, grace: float = GRACE
) -> Outcome:
    """Wait for the process; on timeout or cancel send SIGTERM, wait `grace` seconds, then SIGKILL.

    If the calling task itself is cancelled, everything is killed at once.
    """
    ended = asyncio.ensure_future(process.wait())
    wanted = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({ended, wanted}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return Outcome(exit=ended.result())
        cut: Literal["timeout", "cancel"] = "cancel" if wanted.done() else "timeout"
        process.terminate()
        await asyncio.wait({ended}, timeout=grace)
        if not ended.done():
            process.kill()
        return Outcome(exit=await ended, cut=cut)
    finally:
        wanted.cancel()
        if not ended.done():
            process.kill()
            ended.cancel()
