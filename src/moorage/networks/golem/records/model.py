"""What is remembered of tasks, subtasks and benchmarks, and rows as such values; times are Unix seconds."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps, loads
from typing import Any, Literal, TypedDict

from moorage.model.jobs import JSON
from moorage.networks.golem.states import SubtaskStatus, TaskStatus

Call = Literal["unsent", "sent", "replied"]
"""How far a call of the app has come; of one that is `sent`, nobody knows the outcome."""

_LISTS = ("slots", "resources", "jobs")
"""Fields of subtasks that are JSON in their rows."""


class Counts(TypedDict):
    """How many attempts of a task came to nothing; in a row are those since the last success."""

    failures: int
    failures_in_row: int
    losses_in_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as its user knows it."""

    id: str
    """Of the task's job."""
    task_id: str
    """By which the app knows it; another one if the outcome of CreateTask is unknown."""
    app_id: str
    app_digest: str
    """Of the app's files."""
    name: str
    owner: str
    file: Mapping[str, JSON]
    """The task file, as `TaskFile.document` gives it."""
    status: TaskStatus
    created_at: float
    started_at: float | None = None
    """When its clock began to run."""
    deadline: float | None = None
    updated_at: float = 0.0
    creation: Call = "unsent"
    """How far CreateTask has come under the present `task_id`."""
    creations: int = 0
    """How often CreateTask was sent, each time under another `task_id`."""
    env_id: str | None = None
    """Of its providers, as CreateTask has answered; so are the next two."""
    prerequisites: str | None = None
    """JSON text."""
    min_memory: int = 0
    """Bytes."""
    restarts: int = 0
    """How often its requestor was started again."""
    failures: int = 0
    """As `Counts` says, and the next two."""
    failures_in_row: int = 0
    losses_in_row: int = 0
    assigned: int = 0
    """How many subtasks were handed out, which is the number of the latest."""
    status_message: str | None = None
    """Why it ended as it did."""
    publish_to: str | None = None
    """Directory into which the node itself writes the results."""
    published: bool = False
    stale_outputs: tuple[str, ...] = ()
    """Files that belong to discarded subtasks only, and so are none of the results (contract, section 2.5)."""
    restarted_as: str | None = None
    """Id of the task that was made of it."""

    @property
    def parameters(self) -> str:
        """What the app is told, as its protocol writes JSON (contract, section 3.2)."""
        return dumps(self.file["app"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtask:
    """One attempt at a piece of work."""

    id: str
    task: str
    """Id of the task's job."""
    number: int
    """In the order of assignment; the first is 1."""
    slots: tuple[int, ...]
    """Where it is computed: several if it is computed more than once."""
    node_id: str
    """What the app was told for the first of the slots."""
    status: SubtaskStatus
    parameters: str
    """As the app gave them."""
    resources: tuple[str, ...]
    jobs: tuple[str, ...]
    """Ids of the child jobs, one for each slot."""
    started_at: float
    deadline: float | None
    finished_at: float | None = None
    file: str | None = None
    """Name of the result."""
    size: int | None = None
    """Bytes of it."""
    digest: str | None = None
    verdict: int | None = None
    """As Verify has answered, whatever the number."""
    reason: str = ""
    code: str | None = None
    """Why it was no success (contract, section 5)."""
    parked: bool = False
    """Whether its verdict waits for those of others."""
    verifications: int = 0
    """How often Verify was sent."""
    owed: bool = False
    """Whether the app has still to be told by AbortSubtask that it is over."""
    discard: Call = "unsent"
    """How far the latest DiscardSubtasks that named it has come."""
    usage: Mapping[str, JSON] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """How fast this machine is at one kind of work (contract, section 2.6)."""

    env_id: str
    prereq_hash: str
    score: float
    at: float


def task_columns(task: Task) -> dict[str, Any]:
    """Give a task for its row, but for the file, which is in another table."""
    return {**_columns(task), "stale_outputs": dumps(task.stale_outputs)}


def subtask_columns(subtask: Subtask) -> dict[str, Any]:
    """Give a subtask for its row."""
    texts = {name: dumps(getattr(subtask, name)) for name in _LISTS}
    return {**_columns(subtask), **texts, "usage": usage_text(subtask.usage)}


def benchmark_columns(benchmark: Benchmark) -> dict[str, Any]:
    """Give a benchmark for its row."""
    return _columns(benchmark)


def usage_text(usage: Mapping[str, JSON] | None) -> str | None:
    """Write down what an attempt used."""
    return None if usage is None else dumps(dict(usage))


def task(row: sqlite3.Row, file: Mapping[str, JSON]) -> Task:
    """Make a task of a row, and its file."""
    values = _values(row, Task)
    told = {
        "file": file,
        "status": TaskStatus(values["status"]),
        "published": bool(values["published"]),
        "stale_outputs": tuple(loads(values["stale_outputs"])),
    }
    return Task(**{**values, **told})


def subtask(row: sqlite3.Row) -> Subtask:
    """Make a subtask of a row."""
    values = _values(row, Subtask)
    told = {
        "status": SubtaskStatus(values["status"]),
        "parked": bool(values["parked"]),
        "owed": bool(values["owed"]),
        "usage": None if values["usage"] is None else loads(values["usage"]),
    }
    lists = {name: tuple(loads(values[name])) for name in _LISTS}
    return Subtask(**{**values, **told, **lists})


def benchmark(row: sqlite3.Row) -> Benchmark:
    """Make a benchmark of a row."""
    return Benchmark(**_values(row, Benchmark))


def _columns(value: Task | Subtask | Benchmark) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _values(row: sqlite3.Row, kind: type[Task | Subtask | Benchmark]) -> dict[str, Any]:
    # Not `row[name]` for each: it looks through all names.
    fields = kind.__dataclass_fields__
    return {name: value for name, value in zip(row.keys(), row, strict=True) if name in fields}
