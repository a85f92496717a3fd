"""A real node in this process, with apps written by the tests."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moorage.model.apps import App
from moorage.model.callers import LOCAL
from moorage.model.events import Event
from moorage.model.jobs import Attempt, FileRef, Job, JobSpec
from moorage.model.limits import GIB, Limits, Timeouts
from moorage.model.states import AppState
from moorage.node.config import NodeConfig
from moorage.node.node import Node

SMALL = Limits(cpus=0.5, memory=128 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A job that has ended, with everything that it left."""

    job: Job
    attempt: Attempt
    outputs: dict[str, bytes]
    stdout: bytes
    stderr: bytes
    events: list[Event]

    @property
    def code(self) -> str | None:
        return self.job.error.code if self.job.error else None

    @property
    def topics(self) -> list[str]:
        return [event.topic for event in self.events]


class Lab:
    """A node, and the short way to add an app and to run it."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def app(self, main: str, *, files: Mapping[str, str] | None = None, name: str = "app") -> App:
        source = self.node.staging()
        for path, text in {"main.py": main, **(files or {})}.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(text)
        app = await self.node.add_app(source, caller=LOCAL, network="infrax", name=name)
        while (app := await self.node.get_app(app.id, caller=LOCAL)).state is AppState.CREATED:
            await self.node.feed.wait(app.id, app.seq)
        return app

    async def submit(
        self,
        app: App,
        *,
        inputs: Mapping[str, bytes] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        limits: Limits = SMALL,
        seconds: float = 60,
        **spec: Any,
    ) -> Job:
        files = []
        for path, data in (inputs or {}).items():
            digest, size = await self.node.blobs.put_bytes(data)
            files.append(FileRef(path=path, digest=digest, size=size))
        job, _ = await self.node.submit(
            JobSpec(
                app_id=app.id,
                parameters={"kwargs": dict(kwargs or {})},
                inputs=tuple(files),
                limits=limits,
                timeouts=Timeouts(execution=seconds),
                **spec,
            ),
            caller=LOCAL,
        )
        return job

    async def finish(self, job: Job) -> Finished:
        job = await self.node.finished_job(job.id)
        outputs = await self.node.outputs(job.id, caller=LOCAL)
        attempt = (await self.node.attempts(job.id, caller=LOCAL))[-1]
        return Finished(
            job=job,
            attempt=attempt,
            outputs={file.path: self.node.blobs.path(file.digest).read_bytes() for file in outputs},
            stdout=self._log(attempt.stdout),
            stderr=self._log(attempt.stderr),
            events=await self.node.store.events(job.id),
        )

    async def run(self, app: App, **request: Any) -> Finished:
        return await self.finish(await self.submit(app, **request))

    def _log(self, file: FileRef | None) -> bytes:
        return self.node.blobs.path(file.digest).read_bytes() if file else b""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data directory for the whole run, so that the Python environment is built once."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture
async def lab(data_dir: Path) -> AsyncIterator[Lab]:
    """A running node that may reserve more than this machine has: small jobs share it."""
    async with Node.open(NodeConfig(data_dir=data_dir, cpus=64, memory=64 * GIB)) as node:
        yield Lab(node)
