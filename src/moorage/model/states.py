"""States of apps, jobs and attempts, and which state may follow which."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class AppState(StrEnum):
    """Life of an app; meaning and table: InfraX contract, section 1.3."""

    CREATED = "CREATED"
    """Its files are stored; it is not installed and cannot run."""
    TESTING = "TESTING"
    """Installed; only its author may create jobs and may still edit it."""
    PUBLISHED = "PUBLISHED"
    """Pinned by digest; anybody may create jobs."""
    HIDDEN = "HIDDEN"
    """Withdrawn for now; queued jobs keep their place."""
    ERROR = "ERROR"
    """Could not be installed, or its stored files are gone or altered."""
    REMOVED = "REMOVED"
    """Gone for good."""


class JobState(StrEnum):
    """Life of a job as its owner sees it."""

    QUEUED = "queued"
    """Durable and waiting; `pending_reason` says for what."""
    RUNNING = "running"
    """One attempt holds the lease."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Tell whether nothing can follow."""
        return not JOB_TRANSITIONS[self]


class AttemptState(StrEnum):
    """Life of one try at a job."""

    PLACED = "placed"
    """Resources are reserved."""
    PREPARING = "preparing"
    """Layers and work directory are being made."""
    RUNNING = "running"
    """The app's own process runs."""
    COLLECTING = "collecting"
    """The app is done; its outputs are being stored."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The app's fault; not retried."""
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The node or place went away; never the app's fault, retried by default."""

    @property
    def terminal(self) -> bool:
        """Tell whether nothing can follow."""
        return not ATTEMPT_TRANSITIONS[self]


_A, _J, _T = AppState, JobState, AttemptState

APP_TRANSITIONS: Mapping[AppState, frozenset[AppState]] = {
    _A.CREATED: frozenset({_A.TESTING, _A.ERROR, _A.REMOVED}),
    _A.TESTING: frozenset({_A.PUBLISHED, _A.ERROR, _A.REMOVED}),
    _A.PUBLISHED: frozenset({_A.HIDDEN, _A.ERROR, _A.REMOVED}),
    _A.HIDDEN: frozenset({_A.PUBLISHED, _A.ERROR, _A.REMOVED}),
    _A.ERROR: frozenset({_A.REMOVED}),
    _A.REMOVED: frozenset(),
}

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    # queued → failed: a queue timeout, or a job it runs after has failed.
    _J.QUEUED: frozenset({_J.RUNNING, _J.FAILED, _J.CANCELLED}),
    # running → queued: its attempt was lost and the policy retries it.
    _J.RUNNING: frozenset({_J.QUEUED, _J.SUCCEEDED, _J.FAILED, _J.CANCELLED}),
    _J.SUCCEEDED: frozenset(),
    _J.FAILED: frozenset(),
    _J.CANCELLED: frozenset(),
}

_ENDS = frozenset({_T.FAILED, _T.TIMED_OUT, _T.CANCELLED, _T.LOST})

ATTEMPT_TRANSITIONS: Mapping[AttemptState, frozenset[AttemptState]] = {
    _T.PLACED: _ENDS | {_T.PREPARING},
    _T.PREPARING: _ENDS | {_T.RUNNING},
    # running → succeeded: a job of a lane leaves no files.
    _T.RUNNING: _ENDS | {_T.COLLECTING, _T.SUCCEEDED},
    _T.COLLECTING: _ENDS | {_T.SUCCEEDED},
    _T.SUCCEEDED: frozenset(),
    _T.FAILED: frozenset(),
    _T.TIMED_OUT: frozenset(),
    _T.CANCELLED: frozenset(),
    _T.LOST: frozenset(),
}

EDITABLE: frozenset[AppState] = frozenset({_A.CREATED, _A.TESTING})
"""App states in which the author may change files, defaults, requirements, requests or the name."""

RUNNABLE: frozenset[AppState] = frozenset({_A.TESTING, _A.PUBLISHED})
"""App states in which jobs may be created."""

S = TypeVar("S", bound=StrEnum)


def may_follow(table: Mapping[S, frozenset[S]], old: S, new: S) -> bool:
    """Tell whether `new` may follow `old` in a transition table."""
    return new in table[old]
