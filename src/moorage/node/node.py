"""The running node: puts the rooms of the house together, and is what the API and the networks' surfaces call."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from moorage import __version__
from moorage.blobs.local import LocalBlobs
from moorage.engine.local import LocalEngine
from moorage.errors import (
    AddressUnavailable,
    HostIsolationForbidden,
    Infeasible,
    Invalid,
    JobFinished,
    NodeStopping,
    NotFound,
    UnknownIsolation,
)
from moorage.layers.python import PythonEnvironments
from moorage.layers.trees import Trees
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.ids import JOB_ID, new_id
from moorage.model.jobs import JSON, Attempt, FileRef, Job, JobSpec
from moorage.model.states import AppState, JobState
from moorage.networks.base import Children, Network, Surface, installed_networks
from moorage.node.apps import Apps
from moorage.node.config import NodeConfig
from moorage.node.directory import DataDirectory
from moorage.node.explain import Explanation, explain
from moorage.node.feed import Feed
from moorage.node.info import NodeInfo
from moorage.node.lanes import Lanes
from moorage.node.logs import CHUNK
from moorage.node.port import NetworkPort
from moorage.node.recovery import recover
from moorage.node.runner import Runner
from moorage.node.scheduler import Scheduler
from moorage.node.services import LocalServices
from moorage.node.workspace import spread
from moorage.sandbox.base import SANDBOX_UID, Check, ImageSpec, OutputSink, Process, ProcessSpec, Sandbox, Stream
from moorage.sandbox.docker import Docker
from moorage.sandbox.host import Host
from moorage.sandbox.opening import node_id, open_sandboxes
from moorage.sandbox.probe import probe
from moorage.store.base import AppFilter, JobFilter, Page, Store
from moorage.store.sqlite import SqliteStore

_ENDS = frozenset(f"job.{state}" for state in JobState if state.terminal)

log = structlog.get_logger(__name__)

STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


class Node:
    """One node on one data directory; made by `Node.open`.

    Every call takes the caller explicitly and raises classes of `moorage.errors`.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        store: Store,
        sandboxes: dict[str, Sandbox],
        docker: Docker,
        networks: dict[str, Network],
    ) -> None:
        self.config, self.store, self.networks = config, store, networks
        self.directory = DataDirectory(config.data_dir)
        self.started_at = time.time()
        self.feed = Feed(store)
        owner = SANDBOX_UID if os.geteuid() == 0 else None
        self.blobs = LocalBlobs(self.directory.blobs, owner=owner)
        self.docker = docker
        self.services = LocalServices(sandboxes, docker, config.isolation)
        self.apps = Apps(
            store=store,
            networks=networks,
            trees=Trees(self.directory.layers, owner=owner),
            pythons=PythonEnvironments(self.directory.layers, sandboxes["bubblewrap"]),
            hidden_accepts_jobs=config.hidden_accepts_jobs,
        )
        self._sandboxes = sandboxes
        self._runner = Runner(
            store=store,
            blobs=self.blobs,
            apps=self.apps,
            sandboxes=sandboxes,
            networks=networks,
            services=self.services,
            children=self._children,
            isolation=config.isolation,
            work=self.directory.work,
        )
        self._engine = LocalEngine(cpus=config.cpus, memory=config.memory)
        self._scheduler = Scheduler(store=store, engine=self._engine, run=self._runner.run)
        self.lanes = Lanes(store=store, run=self._runner.run)
        self.surfaces: tuple[Surface, ...] = ()
        self.url: str | None = None
        """Where it listens, if it does; set by whoever serves it."""
        self.listen: Callable[[], Awaitable[object]] | None = None
        """Lets a node that listens nowhere do so, on this machine; set by whoever can."""
        self._listening = asyncio.Lock()
        self._stopping = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: NodeConfig, *, working: bool = True) -> AsyncIterator["Node"]:
        """Run a node for as long as the context lasts; unless `working` it leaves the queue to the next one.

        Raises DataDirectoryBusy, DatabaseTooNew, StoreUnavailable, UnknownIsolation.
        """
        directory = DataDirectory(config.data_dir)
        directory.make()
        with directory.hold():
            async with contextlib.AsyncExitStack() as stack:
                store = SqliteStore.open(directory.database)
                stack.push_async_callback(store.close)
                sandboxes = await open_sandboxes(
                    data_dir=directory.root, run_dir=directory.root, warm=config.warm_interpreters
                )
                for sandbox in sandboxes.values():
                    stack.push_async_callback(sandbox.close)
                    await sandbox.reap()  # before anything of the earlier node is touched
                docker = Docker(node=node_id(directory.root))
                stack.push_async_callback(docker.close)
                await docker.reap()
                if config.isolation not in sandboxes:
                    raise UnknownIsolation(f"There is no sandbox called {config.isolation!r}.")
                node = cls(config, store=store, sandboxes=sandboxes, docker=docker, networks=installed_networks())
                await stack.enter_async_context(node._running(working=working))
                yield node

    # apps

    async def add_app(
        self,
        source: Path,
        *,
        caller: Caller,
        network: str | None = None,
        name: str | None = None,
        meta: Mapping[str, JSON] | None = None,
        deploy: bool = True,
    ) -> App:
        """Take over an unpacked source directory as a new app, and install it in the background if `deploy`."""
        return await self.apps.add(source, caller=caller, network=network, name=name, meta=meta or {}, deploy=deploy)

    async def edit_app(
        self,
        app_id: str,
        *,
        caller: Caller,
        source: Path | None = None,
        name: str | None = None,
        meta: Mapping[str, JSON] | None = None,
    ) -> App:
        """Change an app that is not published yet."""
        return await self.apps.edit(app_id, caller=caller, source=source, name=name, meta=meta)

    async def change_app(self, app_id: str, state: AppState, *, caller: Caller, message: str | None = None) -> App:
        """Move an app to another state."""
        return await self.apps.change(app_id, state, caller=caller, message=message)

    async def get_app(self, app_id: str, *, caller: Caller) -> App:
        """Read one app that the caller may see."""
        return await self.apps.get(app_id, caller=caller)

    async def list_apps(self, where: AppFilter, page: Page, *, caller: Caller) -> list[App]:
        """Read the apps that the caller may see, newest first."""
        return await self.apps.list(where, page, caller=caller)

    # jobs

    async def submit(
        self,
        spec: JobSpec,
        *,
        caller: Caller,
        job_id: str | None = None,
        idempotency_key: str | None = None,
        parent_id: str | None = None,
        retry_of: str | None = None,
        lane: str | None = None,
    ) -> tuple[Job, bool]:
        """Accept a job durably; tell whether it is new or the one that an identical request made before.

        In a lane it is always a new one: give it a fresh id.

        Raises NotFound, AppUnavailable, Forbidden, Infeasible, InputUnavailable, Invalid, IdempotencyConflict, …
        """
        self._check(spec, job_id, caller)

        def build(app: App) -> Job:
            self.apps.admit(app, caller)
            return Job(
                id=job_id or new_id("job"),
                owner=caller.name,
                network=app.network,
                app_digest=app.digest,
                layers=app.layers,
                spec=self._feasible(self.networks[app.network].accept(app, spec)),
                idempotency_key=idempotency_key,
                parent_id=parent_id,
                retry_of=retry_of,
                lane=lane,
            )

        if lane is not None:
            if spec.after:
                raise Invalid("A job of a lane runs after no other.")
            job_id = job_id or new_id("job")
            return await self.lanes.submit(lane, spec.app_id, build, owner=caller.name, job_id=job_id), True
        return await self.store.submit(
            spec.app_id, build, owner=caller.name, job_id=job_id, idempotency_key=idempotency_key
        )

    async def get_job(self, job_id: str, *, caller: Caller) -> Job:
        """Read one job of the caller's, with the reason why it waits."""
        job = await self._job(job_id, caller)
        if job.state is not JobState.QUEUED:
            return job
        explanation = await explain(job, self.store, self._engine, self.lanes)
        return dataclasses.replace(job, pending_reason=explanation.summary)

    async def list_jobs(self, where: JobFilter, page: Page, *, caller: Caller) -> list[Job]:
        """Read jobs that the caller may see, newest first."""
        if not caller.operator:
            where = dataclasses.replace(where, owner=caller.name)
        return await self.store.list_jobs(where, page)

    async def why(self, job_id: str, *, caller: Caller) -> Explanation:
        """Explain why a job waits or how it ended."""
        return await explain(await self._job(job_id, caller), self.store, self._engine, self.lanes)

    async def attempts(self, job_id: str, *, caller: Caller) -> list[Attempt]:
        """Read the attempts of a job."""
        await self._job(job_id, caller)
        return await self.store.attempts(job_id)

    async def outputs(self, job_id: str, *, caller: Caller) -> list[FileRef]:
        """Read what a job left."""
        await self._job(job_id, caller)
        return await self.store.outputs(job_id)

    async def cancel(self, job_id: str, *, caller: Caller) -> Job:
        """Cancel a job: at once while it waits, else by ending its processes."""
        await self._job(job_id, caller)
        job = await self.store.cancel(job_id, message=f"{caller.name} cancelled it.")
        self._runner.cancel(job_id)
        return job

    async def retry(self, job_id: str, *, caller: Caller) -> Job:
        """Submit a finished job again as a new one.

        Raises Invalid if it has not finished.
        """
        job = await self._job(job_id, caller)
        if not job.state.terminal:
            raise Invalid(f"Job {job_id} is {job.state}: only a finished job can be retried.")
        if job.lane is not None:
            raise Invalid(f"Job {job_id} came from a client of {job.network}: only that can ask again.")
        return (await self.submit(job.spec, caller=caller, retry_of=job_id))[0]

    async def logs(
        self, job_id: str, *, caller: Caller, stream: Stream | None = None, follow: bool = False
    ) -> AsyncIterator[tuple[Stream, bytes]]:
        """Give what the job's attempts wrote, attempt by attempt; with `follow` until the job has ended."""
        await self._job(job_id, caller)
        streams = (stream,) if stream else STREAMS
        shown = 0
        while True:
            job = await self.store.get_job(job_id)
            for attempt in (await self.store.attempts(job_id))[shown:]:
                live = self._runner.live_log(attempt)
                if live is None and not attempt.state.terminal:
                    break  # it is just starting or just over: the next event tells
                shown += 1
                chunks = live.follow(streams, live=follow) if live else self._stored_log(attempt, streams)
                async for chunk in chunks:
                    yield chunk
            if job.state.terminal or not follow or not await self.feed.wait(job_id, job.seq):
                return

    async def finished_job(self, job_id: str) -> Job:
        """Wait until a job has ended; raises NodeStopping if the node does first."""
        while not (job := await self.store.get_job(job_id)).state.terminal:
            if not await self.feed.wait(job_id, job.seq):
                raise NodeStopping
        return job

    # the node

    async def info(self) -> NodeInfo:
        """Tell what this node is and does."""
        return NodeInfo(
            version=__version__,
            started_at=self.started_at,
            data_dir=str(self.config.data_dir),
            isolation=self.config.isolation,
            networks=tuple(self.networks),
            places=self._engine.places(),
            jobs=await self.store.job_counts(),
        )

    async def doctor(self) -> list[Check]:
        """Find out what this machine can and cannot enforce."""
        return await probe(self.config.data_dir)

    async def start(self, spec: ProcessSpec | ImageSpec, *, output: OutputSink) -> Process:
        """Start a process outside of any job, isolated."""
        if isinstance(spec, ImageSpec):
            return await self.docker.start(spec, output=output, progress=lambda _: None)
        return await self._sandboxes["bubblewrap"].start(spec, name=new_id("own"), output=output)

    async def address(self) -> str:
        """Give the URL where the node listens, and let it listen on this machine if it does not yet.

        Raises AddressUnavailable.
        """
        async with self._listening:
            if self.url is None and self.listen is not None:
                await self.listen()
        if self.url is None:
            raise AddressUnavailable("This node listens on its own socket only.")
        return self.url

    def staging(self) -> Path:
        """Make a fresh private directory for an upload."""
        return self.directory.stage()

    async def idle(self) -> None:
        """Wait until no job is queued or running, nor about to be; for ever, if it leaves the queue to the next one."""
        ended = asyncio.Event()
        unlisten = self.store.listen(lambda events: ended.set() if any(e.topic in _ENDS for e in events) else None)
        try:
            while await self._busy():
                await ended.wait()
                ended.clear()
        finally:
            unlisten()

    async def _busy(self) -> bool:
        """Tell whether anything runs or waits that this node will run: nobody does in a lane that is not open."""
        for surface in self.surfaces:
            if surface.settled is not None:
                await surface.settled()
        if (await self.store.job_counts()).get(JobState.RUNNING):
            return True
        queued = await self.store.list_jobs(JobFilter(state=JobState.QUEUED), Page(limit=1))
        return any(job.lane is None or self.lanes.is_open(job.lane) for job in queued)

    # inside

    @contextlib.asynccontextmanager
    async def _running(self, *, working: bool) -> AsyncIterator[None]:
        await recover(self.store, work=self.directory.work, staging=self.directory.staging)
        spread(self.directory.work)
        await self.apps.resume()
        self.surfaces = tuple(self._surfaces())
        work = [self._scheduler.work, *(task for surface in self.surfaces for task in surface.tasks)] if working else []
        tasks = [asyncio.ensure_future(task()) for task in work]
        for task in tasks:
            task.add_done_callback(_complain)
        try:
            yield
        finally:
            self._stopping = True
            await self.lanes.close()  # first, because what its jobs use belongs to the tasks
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.apps.close()
            await self._engine.close()
            await self.services.close()
            for surface in self.surfaces:
                if surface.close is not None:
                    await surface.close()
            self.feed.close()

    def _surfaces(self) -> list[Surface]:
        surfaces = (
            network.surface(NetworkPort(self, name, self.config.networks.get(name, {})))
            for name, network in self.networks.items()
        )
        return [surface for surface in surfaces if surface is not None]

    def _check(self, spec: JobSpec, job_id: str | None, caller: Caller) -> None:
        if self._stopping:
            raise NodeStopping
        if job_id is not None and not JOB_ID.fullmatch(job_id):
            raise Invalid(f"{job_id!r} cannot be a job id.", hint="Use up to 64 letters, digits, `.`, `_` and `-`.")
        if spec.isolation is not None and spec.isolation not in self._sandboxes:
            raise UnknownIsolation(f"There is no sandbox called {spec.isolation!r}.")
        if spec.isolation == Host.name != self.config.isolation and not caller.same_user:
            raise HostIsolationForbidden

    def _feasible(self, spec: JobSpec) -> JobSpec:
        """Refuse what no place could ever take, and cut the execution timeout to the node's maximum."""
        refusal = self._engine.explain(spec.limits)
        if refusal is not None and refusal.for_ever:
            raise Infeasible(f"The job {refusal.message}.", hint="Ask for less with --cpus and --memory.")
        asked, most = spec.timeouts.execution, self.config.max_timeout
        if asked is not None and asked <= most:
            return spec
        return dataclasses.replace(spec, timeouts=dataclasses.replace(spec.timeouts, execution=most))

    async def _job(self, job_id: str, caller: Caller) -> Job:
        job = await self.store.get_job(job_id)
        if not caller.operator and job.owner != caller.name:
            raise NotFound(f"There is no job {job_id}.")
        return job

    async def _stored_log(self, attempt: Attempt, streams: tuple[Stream, ...]) -> AsyncIterator[tuple[Stream, bytes]]:
        for stream in streams:
            stored = attempt.stdout if stream == "stdout" else attempt.stderr
            if stored is not None:
                with self.blobs.path(stored.digest).open("rb") as file:
                    while chunk := await asyncio.to_thread(file.read, CHUNK):
                        yield stream, chunk

    def _children(self, parent: Job) -> Children:
        return _JobChildren(self, parent)


def _complain(task: asyncio.Task[None]) -> None:
    """Say that background work has ended by a defect, rather than let the node look well without it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("background work of the node has ended", exc_info=error)


@dataclass(frozen=True, slots=True)
class _JobChildren:
    """Child jobs of one job, owned by the owner of the parent."""

    node: Node
    parent: Job

    async def submit(self, spec: JobSpec, *, job_id: str | None = None) -> Job:
        caller = Caller(name=self.parent.owner)
        return (await self.node.submit(spec, caller=caller, job_id=job_id, parent_id=self.parent.id))[0]

    async def wait(self, job_id: str) -> Job:
        return await self.node.finished_job(job_id)

    async def cancel(self, job_id: str) -> None:
        with contextlib.suppress(JobFinished):
            await self.node.cancel(job_id, caller=Caller(name=self.parent.owner))
