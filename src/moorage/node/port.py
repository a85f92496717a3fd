"""The running node as a network's own surface sees it."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.blobs.base import Blobs
from moorage.errors import NodeStopping
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.events import Event
from moorage.model.jobs import JSON, Attempt, FileRef, Job, JobSpec
from moorage.model.states import AppState
from moorage.store.base import AppFilter, Page

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

    async def submit(self, spec: JobSpec, *, caller: Caller, job_id: str | None = None) -> Job:
        """Accept a job."""
        return (await self._node.submit(spec, caller=caller, job_id=job_id))[0]

    async def finished_job(self, job_id: str) -> Job:
        """Wait until a job has ended."""
        return await self._node.finished_job(job_id)

    async def job_attempts(self, job_id: str) -> list[Attempt]:
        """Read the attempts of a job."""
        return await self._node.store.attempts(job_id)

    async def job_outputs(self, job_id: str) -> list[FileRef]:
        """Read what a job left."""
        return await self._node.store.outputs(job_id)

    def watch(self, subject: str) -> AsyncIterator[Event]:
        """Iterate over the events of a job or app as they come, from the first on."""
        return self._node.feed.follow(subject)
