"""Which of the router's jobs were taken on and not yet reported: they outlive the node."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from moorage.networks.infrax import wire

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One job of the router's, and the id that it has among our own."""

    job: wire.Job
    ours: str


@dataclass(frozen=True, slots=True)
class Journal:
    """One small file per job, named by the hash of its id: ids never become parts of paths."""

    directory: Path

    def write(self, entry: Entry) -> None:
        """Keep an entry, durably."""
        path = self._path(entry.job.id)
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump({"ours": entry.ours, "job": entry.job.model_dump()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def drop(self, job_id: str) -> None:
        """Forget a job that was reported."""
        self._path(job_id).unlink(missing_ok=True)

    def read(self) -> Iterator[Entry]:
        """Give what an earlier node left undone; what cannot be read is dropped."""
        for path in sorted(self.directory.glob("*.json")):
            try:
                document = json.loads(path.read_text())
                yield Entry(job=wire.Job.model_validate(document["job"]), ours=document["ours"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("unreadable journal entry dropped", file=path.name, reason=str(error))
                path.unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self.directory / f"{hashlib.sha256(job_id.encode()).hexdigest()}.json"
