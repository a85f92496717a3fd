"""Jobs, their attempts and what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moorage.model.limits import Limits, Timeouts
from moorage.model.states import AttemptState, JobState

Mode = Literal["run", "stream", "serve", "check"]
JSON = Any
"""A value that `json.dumps` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file by name: its relative POSIX path, the digest of its bytes (sha256 hex) and its size in bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """Why something failed, in the words of the error catalogue (`moorage.errors`)."""

    code: str
    message: str
    hint: str | None = None
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What was asked for; never changes after submission."""

    app_id: str
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    """In the app's network's own words (InfraX: kwargs, args)."""
    inputs: tuple[FileRef, ...] = ()
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    isolation: str | None = None
    """Name of a sandbox; None is the node's default."""
    lost_retries: int = 2
    """How often a job whose attempt was lost is tried again."""
    labels: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    """Ids of jobs that must have succeeded first; their outputs become inputs of this one."""
    mode: Mode = "run"
    """`stream` asks for what the app gives as it comes, where its network makes a difference; `serve` lets an app that
    answers requests do so until the job is cancelled, which is its success; `check` finds out whether the app keeps its
    network's contract: the job's value is the findings then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an attempt used: seconds and bytes; None where this machine cannot tell."""

    wall: float = 0.0
    """App process start to exit on the monotonic clock; 0.0 if it never started."""
    cpu: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one attempt came to, as its network reports it to the runner.

    `error` is None exactly when the app succeeded.
    """

    error: ErrorInfo | None = None
    timed_out: bool = False
    exit_status: int | None = None
    """Exit code, or minus the number of the signal that ended the process."""
    usage: Usage = field(default_factory=Usage)
    outputs: tuple[FileRef, ...] = ()
    value: JSON = None
    """A small JSON result, for networks whose apps answer with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job; a result counts only with the `lease` that the store gave it."""

    id: str
    job_id: str
    number: int
    state: AttemptState
    lease: int
    place: str
    """Name of the engine node it was placed on."""
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    exit_status: int | None = None
    usage: Usage = field(default_factory=Usage)
    error: ErrorInfo | None = None
    stdout: FileRef | None = None
    stderr: FileRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request to run an app; times are Unix seconds."""

    id: str
    owner: str
    network: str
    app_digest: str
    """Digest of the app's files at submission: exactly these run."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """The app's layers at submission: role to layer name."""
    spec: JobSpec
    lane: str | None = None
    """The queue in which it waits, if its network has one for it; else the engine places it."""
    state: JobState = JobState.QUEUED
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    seq: int = 0
    """Number of the last event of its history."""
    error: ErrorInfo | None = None
    value: JSON = None
    pending_reason: str | None = None
    """Why a queued job waits, in one sentence; worked out when the job is read, never stored."""
    idempotency_key: str | None = None
    parent_id: str | None = None
    retry_of: str | None = None
