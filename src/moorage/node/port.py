"""The running node as a network's own surface sees it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.blobs.base import Blobs
from moorage.errors import NodeStopping
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.events import Event
from moorage.model.jobs import JSON, Attempt, FileRef, Job, JobSpec, Result
from moorage.model.states import AppState
from moorage.networks.base import LaneLoad, Services
from moorage.sandbox.base import ImageSpec, OutputSink, Process, ProcessSpec
from moorage.store.base import AppFilter, JobFilter, Page

if TYPE_CHECKING:
    from moorage.node.node import Node


class NetworkPort:
    """Implements `networks.base.Port` on a node."""

    def __init__(self, node: "Node", network: str, config: Mapping[str, JSON]) -> None:
        self._node, self._network, self.config = node, network, config

    @property
    def blobs(self) -> Blobs:
        """The node's blobs."""
        return self._node.blobs

    @property
    def directory(self) -> Path:
        """A private directory of the network, as durable as the store."""
        return self._node.directory.of_network(self._network)

    @property
    def cpus(self) -> float:
        """Cpus that the operator lets apps use."""
        return self._node.config.cpus

    @property
    def memory(self) -> int:
        """Bytes that the operator lets apps use."""
        return self._node.config.memory

    @property
    def services(self) -> Services:
        """Long-running instances of apps."""
        return self._node.services

    def staging(self) -> Path:
        """Make a fresh private directory for the files of an app that is to be added."""
        return self._node.staging()

    async def list_apps(self, where: AppFilter) -> list[App]:
        """Read all apps that match."""
        found: list[App] = []
        while page := await self._node.store.list_apps(where, Page(before=found[-1].id if found else None)):
            found += page
        return found

    async def add_app(
        self, source: Path, *, caller: Caller, network: str, name: str | None = None, meta: Mapping[str, JSON]
    ) -> App:
        """Keep the files below `source` as an app and begin to install it."""
        return await self._node.add_app(source, caller=caller, network=network, name=name, meta=meta)

    async def settled_app(self, app_id: str) -> App:
        """Wait until an app is installed or has failed to be."""
        while (app := await self._node.store.get_app(app_id)).state is AppState.CREATED:
            if not await self._node.feed.wait(app_id, app.seq):
                raise NodeStopping
        return app

    async def change_app(self, app_id: str, state: AppState, *, caller: Caller, message: str) -> App:
        """Move an app to another state."""
        return await self._node.change_app(app_id, state, caller=caller, message=message)

    async def edit_app(self, app_id: str, source: Path, *, caller: Caller) -> App:
        """Replace the files of an app that is not published; once this returns, it is installed."""
        return await self._node.edit_app(app_id, caller=caller, source=source)

    def layer_paths(self, app: App) -> dict[str, Path]:
        """Give the directories of an app's layers by role."""
        return self._node.apps.layer_paths(app.digest, app.layers)

    async def submit(self, spec: JobSpec, *, caller: Caller, job_id: str | None = None, lane: str | None = None) -> Job:
        """Accept a job, in a lane or for the engine to place."""
        return (await self._node.submit(spec, caller=caller, job_id=job_id, lane=lane))[0]

    async def open_lane(self, lane: str, *, width: int) -> None:
        """Let the jobs of a lane run from now on: in their order, `width` at once."""
        await self._node.lanes.open(lane, width=width)

    def lane_load(self, lane: str | None = None) -> LaneLoad:
        """Count the jobs of an open lane, or of all."""
        return self._node.lanes.load(lane)

    def end_of(self, job_id: str) -> "asyncio.Future[Result | None] | None":
        """Give what is done once a job has left its lane; None a moment later, and if it was in none."""
        return self._node.lanes.end_of(job_id)

    async def get_job(self, job_id: str) -> Job:
        """Read one job."""
        return await self._node.store.get_job(job_id)

    async def list_jobs(self, where: JobFilter, page: Page) -> list[Job]:
        """Read jobs, newest first."""
        return await self._node.store.list_jobs(where, page)

    async def cancel(self, job_id: str, *, caller: Caller) -> Job:
        """Cancel a job."""
        return await self._node.cancel(job_id, caller=caller)

    async def forget_jobs(self, *, caller: Caller, before: float, keep: int) -> None:
        """Forget the caller's jobs that ended before a moment, and of the others all but the latest `keep`."""
        await self._node.store.forget(owner=caller.name, before=before, keep=keep)

    async def finished_job(self, job_id: str) -> Job:
        """Wait until a job has ended."""
        return await self._node.finished_job(job_id)

    async def job_attempts(self, job_id: str) -> list[Attempt]:
        """Read the attempts of a job."""
        return await self._node.store.attempts(job_id)

    async def job_outputs(self, job_id: str) -> list[FileRef]:
        """Read what a job left."""
        return await self._node.store.outputs(job_id)

    async def address(self) -> str:
        """Give the URL where the node listens, and let it listen on this machine if it does not yet."""
        return await self._node.address()

    async def python(self, requirements: Path) -> Path:
        """Give the layer of a Python environment with the packages of a file."""
        return await self._node.apps.python(requirements)

    async def start(self, spec: ProcessSpec | ImageSpec, *, output: OutputSink) -> Process:
        """Start a process of the network's own, or a container of an image."""
        return await self._node.start(spec, output=output)

    async def image(self, name: str) -> str:
        """Have an image of the container engine; give its id."""
        return await self._node.docker.image(name)

    async def export(self, image: str, target: Path) -> None:
        """Write the files of an image as a tar."""
        await self._node.docker.export(image, target)

    def watch(self, subject: str) -> AsyncIterator[Event]:
        """Iterate over the events of a job or app as they come, from the first on."""
        return self._node.feed.follow(subject)
