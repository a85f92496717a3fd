"""`[networks.golem]` in the node's configuration."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from moorage.model.limits import MIB
from moorage.networks.manifest import Count, Seconds, Size, Table


class Tree(Table):
    """A root file system that takes the place of an image."""

    root: Path
    """Directory of this machine that holds it."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """What the image would start: its entry point."""
    directory: str = "/golem/work"
    """Directory to start in."""


class Settings(Table):
    """What an operator may say; seconds unless said otherwise. Defaults are those of the contract, section 2.7."""

    development: bool = False
    """Whether descriptors found in the apps directory are enabled at once."""
    allowed: frozenset[str] | None = None
    """Images, as `name:tag`, that may run; None allows all that the container engine has or can pull."""
    images: dict[str, Tree] = Field(default_factory=dict)
    """Image, as `name:tag`, to what takes its place."""
    access: Literal["none", "internet"] = "none"
    """What apps reach over the network."""
    publish_below: tuple[Path, ...] = ()
    """Directories into which results of anybody's tasks may be written, beside those of this user's own."""
    tasks_at_once: Count = 8
    """Tasks whose requestors run; the others wait."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Cpus for each subtask."""
    memory: Size = Size(512 * MIB)
    """Bytes of memory for each subtask, unless its app asks for more."""
    requestor_memory: Size = Size(1024 * MIB)
    """Bytes of memory for each requestor."""
    benchmark: bool = False
    """Whether providers of a kind not measured yet are measured before a task's first subtask."""
    ready_timeout: Seconds = 15.0
    verify_timeout: Seconds = 1800.0
    pending_timeout: Seconds = 60.0
    assign_timeout: Seconds = 300.0
    """For NextSubtask and DiscardSubtasks."""
    abort_timeout: Seconds = 30.0
    benchmark_timeout: Seconds = 300.0
    warm_idle: Seconds = 60.0
    """How long a provider waits for a subtask."""
    stall_grace: Seconds = 30.0
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often a task's requestor is started again."""
    failures: Count | None = None
    """Attempts that may fail in one task; by default the larger of 10 and three times `max_subtasks`."""
    failures_in_row: Count = 5
    losses_in_row: Count = 5
    max_output: Size = Size(10 << 30)
    """Bytes of one subtask's result."""
