"""How often what may go wrong in one task, and how long to wait after it did (contract, section 2.7)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["loss", "failure"]
"""A loss is the infrastructure's doing; everything else that is no success is a failure."""

FIRST, LONGEST = 0.2, 30.0
"""Seconds of pause after the first non-success in a row, doubled for each further one, and at most."""
LEAST = 10
"""Failures that every task may have."""
PER_SUBTASK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What one task may have of each."""

    failures: int
    failures_in_row: int
    losses_in_row: int

    @classmethod
    def for_task(
        cls, max_subtasks: int, *, failures: int | None, failures_in_row: int, losses_in_row: int
    ) -> "Allowed":
        """Give what a task of so many subtasks may have; by default ten failures, or three for each subtask."""
        return cls(
            failures=failures or max(LEAST, PER_SUBTASK * max_subtasks),
            failures_in_row=failures_in_row,
            losses_in_row=losses_in_row,
        )


@dataclass(slots=True, kw_only=True)
class Budget:
    """What one task has had."""

    allowed: Allowed
    failures: int = 0
    failures_in_row: int = 0
    losses_in_row: int = 0
    clock: Callable[[], float] = time.monotonic
    _pause: float = 0.0
    _until: float = field(init=False, default=0.0)

    def succeed(self) -> None:
        """Count a success."""
        self.failures_in_row = self.losses_in_row = 0
        self._pause = self._until = 0.0

    def fail(self, kind: Kind) -> str | None:
        """Count a non-success; tell what is exceeded by it."""
        self._pause = min(LONGEST, self._pause * 2 or FIRST)
        self._until = self.clock() + self._pause
        if kind == "loss":
            self.losses_in_row += 1
        else:
            self.failures += 1
            self.failures_in_row += 1
        return self.exceeded

    @property
    def exceeded(self) -> str | None:
        """Tell what is exceeded, in words."""
        allowed = self.allowed
        if self.losses_in_row >= allowed.losses_in_row:
            return f"{self.losses_in_row} attempts in a row were lost"
        if self.failures_in_row >= allowed.failures_in_row:
            return f"{self.failures_in_row} attempts in a row failed"
        return f"{self.failures} attempts failed" if self.failures >= allowed.failures else None

    @property
    def wait(self) -> float:
        """Seconds to wait before the next attempt."""
        return max(0.0, self._until - self.clock())
