"""The seam to where attempts are placed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from moorage.model.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One machine that takes attempts: what it has and what of it is free (cpus, bytes)."""

    name: str
    cpus: float
    memory: int
    free_cpus: float
    free_memory: int
    running: int
    """Attempts that hold resources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an attempt cannot be placed now: the placement explanation behind `pending_reason` and `job why`."""

    evaluated: int
    exhausted: dict[str, int]
    """Dimension (`cpus`, `memory`) to the number of places that lack it."""
    message: str
    for_ever: bool = False
    """Whether no place could ever take it."""


class Handle(Protocol):
    """A placed attempt."""

    place: str

    def start(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run the attempt; its resources are given back when `work` has ended, however it ends."""

    def release(self) -> None:
        """Give the resources back: without a start, or once what they were reserved for is over."""


class Engine(Protocol):
    """Places attempts and keeps account of resources."""

    def reserve(self, limits: Limits) -> Handle | Refusal:
        """Reserve `limits.cpus` and `limits.memory`, or say why not."""

    def explain(self, limits: Limits) -> Refusal | None:
        """Say why an attempt could not be placed now; None if it could."""

    def places(self) -> tuple[Place, ...]:
        """List the places."""

    def on_release(self, callback: Callable[[], None]) -> None:
        """Call back whenever resources were given back."""

    async def close(self) -> None:
        """Cancel what runs and wait for it."""
