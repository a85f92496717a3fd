"""What one attempt may use and how long it may take."""

from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings for one attempt; `cpus` and `memory` are also what is reserved for it.

    Sizes are in bytes.
    """

    cpus: float = 1.0
    memory: int = GIB
    pids: int = 256
    disk: int = 8 * GIB
    """What the attempt may write into its work directory."""
    tmp: int = 256 * MIB
    """Size of its private /tmp (counted as memory)."""
    open_files: int = 4096
    output_bytes: int = 8 * GIB
    output_files: int = 10_000
    log_bytes: int = 16 * MIB
    """Kept of each of stdout and stderr: the first and the last half."""
    stream_bytes: int = GIB
    """What the app may write to each of stdout and stderr before it is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds a job may take; None means no limit.

    `execution` counts from the start of the app's process, `total` from submission.
    """

    queue: float | None = None
    execution: float | None = 3600.0
    total: float | None = None
