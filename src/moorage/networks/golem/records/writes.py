"""Changes of the records; each function runs within a transaction, and is one step of a task."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from json import dumps

from moorage.errors import IllegalTransition, NotFound
from moorage.model.jobs import JSON
from moorage.networks.golem.records import database, model
from moorage.networks.golem.records.model import Benchmark, Counts, Subtask, Task
from moorage.networks.golem.states import SUBTASK_TRANSITIONS, SubtaskStatus, TaskStatus, check_transition
from moorage.store.transitions import Steps, Transaction

READS, SQL = database.load("reads"), database.load("writes")

CHUNK = 100
"""Subtasks dropped at a time."""

_UNDER_WAY: Mapping[TaskStatus, tuple[SubtaskStatus, str]] = {
    TaskStatus.ABORTED: (SubtaskStatus.CANCELLED, "aborted"),
    TaskStatus.TIMEOUT: (SubtaskStatus.TIMEOUT, "task_timeout"),
}
"""What a task's end makes of its active subtasks, and the code that says so (contract, sections 2.9 and 5)."""


# tasks


def create(tx: Transaction, task: Task) -> Task:
    """Keep a new task."""
    task = replace(task, updated_at=tx.now)
    number = tx.execute(SQL["add_task"], model.task_columns(task)).lastrowid
    tx.execute(SQL["add_file"], (number, dumps(dict(task.file))))
    return task


def creating(tx: Transaction, job_id: str) -> None:
    """Note that CreateTask is about to be sent."""
    _require_creation(tx, job_id, "unsent")
    _update(tx, "creating", job_id)


def created_anew(tx: Transaction, job_id: str, task_id: str) -> None:
    """Give a task another id for its app, since it is unknown what became of it under the present one."""
    _require_creation(tx, job_id, "sent")
    _update(tx, "created_anew", job_id, task_id=task_id)


def created(tx: Transaction, job_id: str, *, env_id: str, prerequisites: str, min_memory: int, within: float) -> None:
    """Note what CreateTask has answered; the task's clock runs, and stops in `within` seconds."""
    _require_creation(tx, job_id, "sent")
    check_transition(_task_status(tx, job_id), TaskStatus.WAITING)
    answer = {"env_id": env_id, "prerequisites": prerequisites, "min_memory": min_memory}
    _update(tx, "created", job_id, within=within, **answer)


def restarted(tx: Transaction, job_id: str) -> None:
    """Count a start of the requestor in the place of one that died."""
    _update(tx, "restarted", job_id)


def restarted_as(tx: Transaction, job_id: str, successor: str) -> None:
    """Note which task was made of one."""
    _update(tx, "restarted_as", job_id, successor=successor)


def published(tx: Transaction, job_id: str, stale: Sequence[str]) -> None:
    """Note that the results are where their user looks for them."""
    _update(tx, "published", job_id, stale=dumps(stale))


def end(tx: Transaction, job_id: str, status: TaskStatus, message: str) -> None:
    """End a task, and with it all of its subtasks that are under way."""
    check_transition(_task_status(tx, job_id), status)
    _update(tx, "end", job_id, status=status, message=_storable(message) or None)
    tx.execute(SQL["forget_asked"], (job_id,))
    if status in _UNDER_WAY:
        ended, code = _UNDER_WAY[status]
        tx.execute(SQL["end_subtasks"], {"id": job_id, "status": ended, "code": code, "now": tx.now})


def delete_some(tx: Transaction, job_id: str) -> bool:
    """Forget some of a task that has ended, and tell whether that was the last of it."""
    status = _task_status(tx, job_id)
    if not status.completed:
        raise IllegalTransition(f"The task is {status}; it cannot be deleted.")
    if tx.execute(SQL["drop_subtasks"], (job_id, CHUNK)).rowcount == CHUNK:
        return False
    tx.execute(SQL["drop_task"], (job_id,))
    return True


# from NextSubtask to the verdict


def ask(tx: Transaction, job_id: str, subtask_id: str, *, slot: int, node_id: str) -> None:
    """Note that NextSubtask is about to be sent."""
    _require_computing(_task_status(tx, job_id))
    tx.execute(SQL["ask"], (subtask_id, job_id, slot, node_id))


def refuse(tx: Transaction, subtask_id: str) -> None:
    """Forget an id for which there is no subtask."""
    tx.execute(SQL["answered"], (subtask_id,)).fetchall()


def assign(
    tx: Transaction,
    subtask_id: str,
    *,
    parameters: str,
    resources: Sequence[str],
    deadline: float,
    slots: Sequence[int],
    jobs: Sequence[str],
) -> Subtask:
    """Keep a subtask that NextSubtask has answered with; its task computes."""
    asked = tx.one(SQL["answered"], (subtask_id,))
    if asked is None:
        raise NotFound(f"No subtask was asked for as {subtask_id}.")
    _require_computing(_task_status(tx, asked["task"]))
    number = tx.execute(SQL["assigned"], _values(tx, asked["task"])).fetchone()["assigned"]
    subtask = Subtask(
        id=subtask_id,
        task=asked["task"],
        number=number,
        slots=tuple(slots),
        node_id=asked["node_id"],
        status=SubtaskStatus.STARTING,
        parameters=parameters,
        resources=tuple(resources),
        jobs=tuple(jobs),
        started_at=tx.now,
        deadline=deadline,
    )
    tx.execute(SQL["assign"], model.subtask_columns(subtask))
    return subtask


def verifying(
    tx: Transaction, subtask_id: str, *, file: str, size: int, digest: str | None, usage: Mapping[str, JSON] | None
) -> Subtask:
    """Note that a result was computed, and is where the app looks for it.

    Fetching it is a rename, so that nothing is written of a subtask that is `downloading`.
    """
    task, status = _subtask_status(tx, subtask_id)
    if status is SubtaskStatus.STARTING:
        status = SubtaskStatus.DOWNLOADING
    check_transition(status, SubtaskStatus.VERIFYING)
    result = {"file": file, "size": size, "digest": digest, "usage": model.usage_text(usage)}
    tx.execute(SQL["verifying"], {"id": subtask_id, **result})
    _update(tx, "touch", task)
    row = tx.one(READS["subtask"], (subtask_id,))
    assert row is not None
    return model.subtask(row)


def asked_verdict(tx: Transaction, subtask_id: str) -> None:
    """Note that Verify is about to be sent."""
    _while_verifying(tx, "asked_verdict", subtask_id)


def park(tx: Transaction, subtask_id: str) -> None:
    """Note that Verify has answered AWAITING_DATA."""
    _while_verifying(tx, "park", subtask_id)


def conclude(
    tx: Transaction,
    subtask_id: str,
    status: SubtaskStatus,
    *,
    verdict: int | None,
    reason: str,
    code: str | None,
    owed: bool,
    paths: Sequence[str],
    usage: Mapping[str, JSON] | None,
    counts: Counts,
) -> Steps[None]:
    """End a subtask, and keep what its task has had then."""
    task, old = _subtask_status(tx, subtask_id)
    check_transition(old, status)
    told = {
        "id": subtask_id,
        "status": status,
        "verdict": verdict,
        "reason": _storable(reason),
        "code": code,
        "owed": owed,
        "usage": model.usage_text(usage),
        "now": tx.now,
    }
    tx.execute(SQL["conclude"], told)
    _update(tx, "count", task, **counts)
    for path in paths:
        tx.execute(SQL["attribute"], (task, subtask_id, path))
        yield


def abort_told(tx: Transaction, subtask_id: str) -> None:
    """Note that the app has answered AbortSubtask."""
    tx.execute(SQL["abort_told"], (subtask_id,))


# discards


def discarding(tx: Transaction, ids: Iterable[str]) -> Steps[None]:
    """Note that DiscardSubtasks is about to be sent."""
    for subtask_id in ids:
        tx.execute(SQL["discarding"], (subtask_id,))
        yield


def restart_subtasks(tx: Transaction, job_id: str, named: Iterable[str]) -> Steps[tuple[tuple[str, ...], int]]:
    """Note what DiscardSubtasks has answered; gives the ids of what was restarted, and how many are still finished.

    Ids that this task does not know are ignored, and so are those of subtasks that came to nothing anyway (contract,
    sections 2.8 and 2.9).
    """
    restarted = []
    for subtask_id in named:
        if _restart(tx, job_id, subtask_id):
            restarted.append(subtask_id)
        yield
    tx.execute(SQL["discarded"], (job_id,))
    _update(tx, "touch", job_id)
    finished = tx.one(SQL["finished"], (job_id,))
    return tuple(restarted), finished["count"] if finished else 0


def _restart(tx: Transaction, job_id: str, subtask_id: str) -> bool:
    row = tx.one(SQL["subtask_status"], (subtask_id,))
    if row is None or row["task"] != job_id:
        return False
    if SubtaskStatus.RESTARTED not in SUBTASK_TRANSITIONS[SubtaskStatus(row["status"])]:
        return False
    tx.execute(SQL["restart_subtask"], {"id": subtask_id, "now": tx.now})
    return True


# benchmarks


def add_benchmark(tx: Transaction, benchmark: Benchmark) -> None:
    """Keep a score, in place of an earlier one of the same kind of work."""
    tx.execute(SQL["add_benchmark"], model.benchmark_columns(benchmark))


def clear_benchmarks(tx: Transaction) -> None:
    """Forget all scores."""
    tx.execute(SQL["clear_benchmarks"])


# plumbing


def _values(tx: Transaction, job_id: str, **changes: object) -> dict[str, object]:
    return {"id": job_id, "now": tx.now, **changes}


def _update(tx: Transaction, query: str, job_id: str, **changes: object) -> None:
    if not tx.execute(SQL[query], _values(tx, job_id, **changes)).rowcount:
        raise NotFound(f"There is no task {job_id}.")


def _task_row(tx: Transaction, job_id: str) -> sqlite3.Row:
    row = tx.one(SQL["task_status"], (job_id,))
    if row is None:
        raise NotFound(f"There is no task {job_id}.")
    return row


def _task_status(tx: Transaction, job_id: str) -> TaskStatus:
    return TaskStatus(_task_row(tx, job_id)["status"])


def _subtask_status(tx: Transaction, subtask_id: str) -> tuple[str, SubtaskStatus]:
    """Give the task of a subtask, and its status."""
    row = tx.one(SQL["subtask_status"], (subtask_id,))
    if row is None:
        raise NotFound(f"There is no subtask {subtask_id}.")
    return row["task"], SubtaskStatus(row["status"])


def _require_creation(tx: Transaction, job_id: str, expected: model.Call) -> None:
    """Keep CreateTask from being sent twice under one id (contract, section 2.3)."""
    creation = _task_row(tx, job_id)["creation"]
    if creation != expected:
        raise IllegalTransition(f"CreateTask is {creation}, and not {expected}.")


def _require_computing(status: TaskStatus) -> None:
    if status is not TaskStatus.COMPUTING:
        check_transition(status, TaskStatus.COMPUTING)


def _while_verifying(tx: Transaction, query: str, subtask_id: str) -> None:
    if not tx.execute(SQL[query], (subtask_id,)).rowcount:
        _, status = _subtask_status(tx, subtask_id)
        raise IllegalTransition(f"The subtask is {status}; there is no verdict to be had.")


def _storable(text: str) -> str:
    """Give a text that the database takes: it may quote a name of a file that is not valid Unicode."""
    return text.encode(errors="backslashreplace").decode()
