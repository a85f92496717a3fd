"""The records: one SQLite file with every task, subtask and benchmark that this node knows.

Each write is one transaction and one step of a task: before a call of its app what is about to be asked, after it what
came of it. So whatever kills the node, the next one knows which outcomes it does not know (contract, section 2.8).
Writes are done in the order of the calls, and those that wait share a commit; all raise DiskFull and StoreUnavailable,
and IllegalTransition for what may not follow. Reads run in the event loop, the long ones in pieces.
"""

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from json import loads
from pathlib import Path
from typing import Any, Self, Unpack

from moorage.errors import NotFound
from moorage.model.jobs import JSON
from moorage.networks.golem.records import database, model, writes
from moorage.networks.golem.records.model import Benchmark, Counts, Subtask, Task
from moorage.networks.golem.records.writes import READS
from moorage.networks.golem.states import SubtaskStatus, TaskStatus
from moorage.store.database import connect, translated
from moorage.store.writer import Writer

FILE = "golem.sqlite"
FILES = 16
"""Task files that are kept as they were read: one may have 16 MiB, and never changes."""
CHUNK = 10
"""Rows read at a time: about 0.2 ms."""


class Records:
    """The records in one SQLite file; made by `open`, inside the event loop that uses it.

    Tasks are named by the ids of their jobs.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._writer = Writer(database.create(path), clock, lambda events: None)
        self._reader = connect(path, read_only=True)
        # By number: what is behind one never changes, and no number is used twice.
        self._file = lru_cache(FILES)(self._read_file)

    @classmethod
    def open(cls, directory: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """Open the records of a directory, which is made if need be; one process at a time does so.

        Raises DatabaseTooNew, DiskFull, StoreUnavailable.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with translated():
            return cls(directory / FILE, clock=clock)

    async def close(self) -> None:
        """Finish what was asked for and close."""
        self._reader.close()
        # Last, because the last connection folds the log back into the database.
        await self._writer.close()

    # tasks

    def create(self, task: Task) -> asyncio.Future[Task]:
        """Keep a new task."""
        return self._writer.write(lambda tx: writes.create(tx, task))

    async def creating(self, job_id: str) -> Task:
        """Note that CreateTask is about to be sent; once only under each `task_id`."""
        await self._writer.write(lambda tx: writes.creating(tx, job_id))
        return self._known(job_id)

    async def created_anew(self, job_id: str, task_id: str) -> Task:
        """Give a task whose creation is `sent` another id for its app."""
        await self._writer.write(lambda tx: writes.created_anew(tx, job_id, task_id))
        return self._known(job_id)

    async def created(self, job_id: str, *, env_id: str, prerequisites: str, min_memory: int) -> Task:
        """Note what CreateTask has answered: the task waits, and its clock runs."""
        within = self._known(job_id).file["golem"]["task_timeout"]
        await self._writer.write(
            lambda tx: writes.created(
                tx, job_id, env_id=env_id, prerequisites=prerequisites, min_memory=min_memory, within=within
            )
        )
        return self._known(job_id)

    def restarted(self, job_id: str) -> asyncio.Future[None]:
        """Count a start of a task's requestor in the place of one that died."""
        return self._writer.write(lambda tx: writes.restarted(tx, job_id))

    def restarted_as(self, job_id: str, successor: str) -> asyncio.Future[None]:
        """Note which task was made of one."""
        return self._writer.write(lambda tx: writes.restarted_as(tx, job_id, successor))

    def published(self, job_id: str, stale: Sequence[str]) -> asyncio.Future[None]:
        """Note that a task's results are where its user looks for them, without the files that are `stale`."""
        return self._writer.write(lambda tx: writes.published(tx, job_id, stale))

    def end(self, job_id: str, status: TaskStatus, message: str = "") -> asyncio.Future[None]:
        """End a task.

        Subtasks that are under way end with it: `cancelled` in a task that is aborted, `timeout` in one whose time is
        over.
        """
        return self._writer.write(lambda tx: writes.end(tx, job_id, status, message))

    async def delete(self, job_id: str) -> None:
        """Forget a task that has ended, and all that belongs to it, in writes that let others in between.

        If it was interrupted, it can be done again.
        """
        while not await self._delete_some(job_id):
            pass

    def _delete_some(self, job_id: str) -> asyncio.Future[bool]:
        return self._writer.write(lambda tx: writes.delete_some(tx, job_id))

    # subtasks

    def ask(self, job_id: str, subtask_id: str, *, slot: int, node_id: str) -> asyncio.Future[None]:
        """Note that NextSubtask is about to be sent; no task that has ended asks for more."""
        return self._writer.write(lambda tx: writes.ask(tx, job_id, subtask_id, slot=slot, node_id=node_id))

    def refuse(self, subtask_id: str) -> asyncio.Future[None]:
        """Note that NextSubtask has not given a subtask, or is not known to have."""
        return self._writer.write(lambda tx: writes.refuse(tx, subtask_id))

    def assign(
        self,
        subtask_id: str,
        *,
        parameters: str,
        resources: Sequence[str],
        deadline: float,
        slots: Sequence[int],
        jobs: Sequence[str],
    ) -> asyncio.Future[Subtask]:
        """Note the subtask that NextSubtask has given; its task computes then.

        Raises NotFound for an id that was not asked for.
        """
        return self._writer.write(
            lambda tx: writes.assign(
                tx, subtask_id, parameters=parameters, resources=resources, deadline=deadline, slots=slots, jobs=jobs
            )
        )

    def verifying(
        self,
        subtask_id: str,
        *,
        file: str,
        size: int,
        digest: str | None = None,
        usage: Mapping[str, JSON] | None = None,
    ) -> asyncio.Future[Subtask]:
        """Note that a subtask's result is where the app looks for it."""
        return self._writer.write(
            lambda tx: writes.verifying(tx, subtask_id, file=file, size=size, digest=digest, usage=usage)
        )

    def asked_verdict(self, subtask_id: str) -> asyncio.Future[None]:
        """Note that Verify is about to be sent."""
        return self._writer.write(lambda tx: writes.asked_verdict(tx, subtask_id))

    def park(self, subtask_id: str) -> asyncio.Future[None]:
        """Note that Verify has answered AWAITING_DATA, until it is sent again."""
        return self._writer.write(lambda tx: writes.park(tx, subtask_id))

    def conclude(
        self,
        subtask_id: str,
        status: SubtaskStatus,
        *,
        verdict: int | None = None,
        reason: str = "",
        code: str | None = None,
        owed: bool = False,
        paths: Sequence[str] = (),
        usage: Mapping[str, JSON] | None = None,
        **counts: Unpack[Counts],
    ) -> asyncio.Future[None]:
        """End a subtask, and note what its task has had then.

        `owed` says that AbortSubtask is about to be sent, `paths` which files of the results came with the verdict.
        """
        return self._writer.write(
            lambda tx: writes.conclude(
                tx,
                subtask_id,
                status,
                verdict=verdict,
                reason=reason,
                code=code,
                owed=owed,
                paths=paths,
                usage=usage,
                counts=counts,
            )
        )

    def abort_told(self, subtask_id: str) -> asyncio.Future[None]:
        """Note that the app has answered AbortSubtask."""
        return self._writer.write(lambda tx: writes.abort_told(tx, subtask_id))

    def discarding(self, ids: Sequence[str]) -> asyncio.Future[None]:
        """Note that DiscardSubtasks is about to be sent."""
        return self._writer.write(lambda tx: writes.discarding(tx, ids))

    def restart_subtasks(self, job_id: str, named: Sequence[str]) -> asyncio.Future[tuple[tuple[str, ...], int]]:
        """Note what DiscardSubtasks has answered, which is nothing if it failed.

        Gives the ids of what was restarted, and how many subtasks of the task are still finished.
        """
        return self._writer.write(lambda tx: writes.restart_subtasks(tx, job_id, named))

    # what is known

    def get(self, job_id: str) -> Task | None:
        """Look up a task."""
        row = self._one("task", job_id)
        file = self._file(row["n"]) if row else None
        return model.task(row, file) if row and file else None

    async def tasks(self, owner: str | None = None) -> list[Task]:
        """List tasks, of one owner or of all, by the time of their start, or else of their submission."""
        found = self._all("tasks") if owner is None else self._all("tasks_of", owner)
        return await self._tasks(found)

    async def unfinished(self) -> list[Task]:
        """List the tasks that have not ended."""
        return await self._tasks(self._all("unfinished"))

    def subtask(self, subtask_id: str) -> Subtask | None:
        """Look up a subtask."""
        row = self._one("subtask", subtask_id)
        return model.subtask(row) if row else None

    async def subtasks(self, job_id: str, *, after: int = 0, limit: int | None = None) -> list[Subtask]:
        """List subtasks of a task by number, from the one after `after` on."""
        return [model.subtask(row) async for row in self._pieces("subtasks", job_id, after, limit)]

    def active(self, job_id: str) -> list[Subtask]:
        """List the subtasks of a task that are under way."""
        return [model.subtask(row) for row in self._all("active", job_id)]

    def counts(self, job_id: str) -> dict[SubtaskStatus, int]:
        """Count the subtasks of a task by status; a status that none has is left out."""
        return {SubtaskStatus(row["status"]): row["count"] for row in self._all("counts", job_id)}

    def asked(self, job_id: str) -> list[str]:
        """List the ids under which NextSubtask was sent, and nobody knows the reply."""
        return self._ids("asked", job_id)

    def owed(self, job_id: str) -> list[str]:
        """List the ids of subtasks for which AbortSubtask was not answered."""
        return self._ids("owed", job_id)

    def discards(self, job_id: str) -> list[str]:
        """List the ids of subtasks for which DiscardSubtasks was sent, and nobody knows the reply."""
        return self._ids("discarding", job_id)

    async def failed_not_discarded(self, job_id: str) -> list[str]:
        """List the ids of subtasks with the status `failure` for which DiscardSubtasks was never sent."""
        return [row["id"] async for row in self._pieces("failed_not_discarded", job_id)]

    async def attributions(self, job_id: str) -> tuple[list[tuple[str, str]], set[str]]:
        """List which file of a task's results came with which subtask, and give the ids of those discarded since."""
        pairs, discarded = [], set()
        async for row in self._pieces("attributions", job_id):
            pairs.append((row["path"], row["subtask"]))
            if row["status"] == SubtaskStatus.RESTARTED:
                discarded.add(row["subtask"])
        return pairs, discarded

    # benchmarks

    def benchmark(self, env_id: str, prereq_hash: str) -> Benchmark | None:
        """Look up how fast this machine is at one kind of work."""
        row = self._one("benchmark", env_id, prereq_hash)
        return model.benchmark(row) if row else None

    def add_benchmark(self, benchmark: Benchmark) -> asyncio.Future[None]:
        """Keep a score, in place of an earlier one of the same kind of work."""
        return self._writer.write(lambda tx: writes.add_benchmark(tx, benchmark))

    def clear_benchmarks(self) -> asyncio.Future[None]:
        """Forget all scores."""
        return self._writer.write(writes.clear_benchmarks)

    # plumbing

    def _known(self, job_id: str) -> Task:
        task = self.get(job_id)
        if task is None:
            raise NotFound(f"There is no task {job_id}.")
        return task

    def _read_file(self, number: int) -> Mapping[str, JSON] | None:
        row = self._one("file", number)
        return loads(row["file"]) if row else None  # the task was deleted just now

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with translated(), closing(self._reader.execute(READS[query], values)) as cursor:
            return cursor.fetchall()

    def _one(self, query: str, *values: Any) -> sqlite3.Row | None:
        return next(iter(self._all(query, *values)), None)

    def _ids(self, query: str, job_id: str) -> list[str]:
        return [row["id"] for row in self._all(query, job_id)]

    async def _pieces(
        self, query: str, job_id: str, after: int = 0, limit: int | None = None
    ) -> AsyncIterator[sqlite3.Row]:
        """Read rows in pieces, between which the loop does something else."""
        left = sys.maxsize if limit is None else limit
        while left > 0:
            piece = self._all(query, job_id, after, min(CHUNK, left))
            for row in piece:
                yield row
            if len(piece) < CHUNK:
                return
            after, left = piece[-1]["place"], left - CHUNK
            await asyncio.sleep(0)

    async def _tasks(self, rows: Sequence[sqlite3.Row]) -> list[Task]:
        found = []
        for row in rows:
            task = self.get(row["id"])
            if task is not None:  # else it was deleted meanwhile
                found.append(task)
            await asyncio.sleep(0)
        return found
