"""Numbered facts in the history of a job or an app."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moorage.model.jobs import JSON, ErrorInfo
from moorage.model.states import AppState, JobState

PROGRESS = "job.progress"
"""Topic of how far a job has come: `data` holds `done` and `of`, two counts."""
FINAL = frozenset({f"app.{AppState.REMOVED.lower()}", *(f"job.{state}" for state in JobState if state.terminal)})
"""Topics after which a history has nothing more to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact: `seq` counts from 1 without gaps within its subject, `id` grows over the whole node."""

    id: int = 0
    subject: str
    """Id of the job or app."""
    seq: int = 0
    time: float = 0.0
    topic: str
    """Such as `job.queued`, `attempt.running`, `app.testing`, `layer.progress`, `output.skipped`."""
    message: str
    attempt_id: str | None = None
    error: ErrorInfo | None = None
    data: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Tell whether its subject's history ends with it."""
        return self.topic in FINAL
