"""The one seam that matters: a network translates between its contract and the node's nouns.

Networks are found through the entry-point group `moorage.networks`; the rest of the node never names one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from socket import SOCK_STREAM, SocketKind, socket
from typing import Any, Literal, Protocol

from moorage.blobs.base import Blobs
from moorage.errors import ServiceUnavailable, SourceNotRecognized, UnknownNetwork
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.jobs import JSON, Attempt, FileRef, Job, JobSpec, Result
from moorage.model.states import AppState
from moorage.sandbox.base import ImageSpec, Load, OutputSink, Process, ProcessSpec
from moorage.sandbox.supervise import Outcome
from moorage.store.base import AppFilter, JobFilter, Page


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonEnvironment:
    """Python and packages that an app runs with; the node makes a layer of it."""

    version: str = "3.11"
    requirements: str | None = None
    """Path of the requirements file within the app; None for the bare environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a network read from a source."""

    network: str
    name: str
    environments: Mapping[str, PythonEnvironment] = field(default_factory=dict)
    """Role of the layer, such as `python`, to what it is made of."""
    data: Mapping[str, JSON] = field(default_factory=dict)
    """The network's own facts; stored with the app and given back to `run`."""
    ignore: tuple[str, ...] = ()
    """Names of top-level entries that are no part of the app."""
    warnings: tuple[str, ...] = ()
    operator_only: tuple[str, ...] = ()
    """What it asks for that only an operator may grant, each in a few words: nobody else may add such an app."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a file asks of an app that is installed, or lies beside it: a job."""

    app: str
    """The app, in the network's own words."""
    fits: Callable[[App], bool]
    """Tells whether an app is the one."""
    beside: Path | None
    """Source of the app, if it lies beside the file."""
    parameters: Mapping[str, JSON]
    inputs: Mapping[str, Path]
    """Name to the file or folder of this machine."""
    out: Path | None
    """Where the results are to be, unless the caller says otherwise."""
    warnings: tuple[str, ...] = ()


class Endpoint(Protocol):
    """Where a service answers."""

    async def connect(self) -> socket:
        """Open a connection: a stream that does not block.

        Raises ServiceUnavailable when nothing takes it.
        """


async def accepts(endpoint: Endpoint) -> bool:
    """Tell whether a service takes connections: what there is to know of one whose protocol is unknown."""
    try:
        (await endpoint.connect()).close()
    except ServiceUnavailable:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """A long-running process that listens on a port of its own, shared by all that name the same `key`."""

    key: str
    process: "ProcessSpec | ImageSpec | Prepare"
    port: int
    """Where it listens, unless it was given a listener."""
    isolation: str | None = None
    ready: Callable[[Endpoint], Awaitable[bool]] = accepts
    """Tells of a process that has started whether it can be used."""
    ready_within: float = 60.0
    idle_after: float = 60.0
    """Seconds without a lease after which it is stopped, unless it is kept."""
    grace: float = 0.0
    """Seconds that it has to end by itself once it is told to; 0 kills it at once."""
    patient: bool = True
    """Whether starts after failures in a row are put off, longer each time."""
    output: OutputSink | None = None
    """What hears all that it says; the end of that is kept in any case."""


Prepare = Callable[[], AbstractAsyncContextManager[ProcessSpec]]
"""Makes ready for one start of a service what it needs, for as long as the process lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """What the node tells of one service."""

    key: str
    state: str
    """`starting`, `ready`, `failed` or `stopped`."""
    leases: int
    restarts: int
    started_at: float | None
    reason: str | None
    """Why it is in this state, or what it does in order to start."""
    log_tail: str
    idle_since: float | None = None
    """Since when nobody needs it (in the loop's time), if it runs and is not kept."""
    load: Load = field(default_factory=Load)
    """What it uses now, where that was asked for."""


class Services(Protocol):
    """Long-running instances of apps."""

    def acquire(self, spec: ServiceSpec) -> AbstractAsyncContextManager[Endpoint]:
        """Hold a ready service for as long as the context lasts, starting it if need be."""

    def keep(self, spec: ServiceSpec) -> None:
        """Start a service and keep it running, whether anybody needs it or not, until the node stops.

        One that ends is started again, with a growing pause after each failure in a row. `acquire` waits for it while
        it starts, and says why at once while it has failed.
        """

    async def stop(self, key: str) -> bool:
        """Stop a service and wait for its end; tell whether it ran. It is no longer kept, and starts when needed."""

    async def kill(self, key: str) -> None:
        """End what runs of a service at once, and wait for that; it starts anew when needed, or if it is kept."""

    def retire(self, key: str) -> None:
        """Stop a service for good as soon as nobody holds it."""

    async def connect(self, key: str, port: int, kind: SocketKind = SOCK_STREAM) -> socket:
        """Connect to any port in the network of a service that runs; give a socket that does not block.

        Raises ServiceUnavailable when nothing takes it; a datagram socket learns that later.
        """

    def state(self, key: str) -> ServiceState | None:
        """Tell of a service that was needed or kept; None of any other."""

    async def load(self, key: str) -> Load:
        """Tell what a service uses now: nothing if it does not run."""


class Children(Protocol):
    """Jobs that a job starts."""

    async def submit(self, spec: JobSpec, *, job_id: str | None = None) -> Job:
        """Accept a child job of the running job; one of this id that was accepted before is that."""

    async def wait(self, job_id: str) -> Job:
        """Wait until a child job has ended. Raises NodeStopping if the node does first."""

    async def cancel(self, job_id: str) -> None:
        """Cancel a child job, unless it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that a network may touch while it drives one attempt."""

    job: Job
    app: App
    attempt: Attempt
    workspace: Path
    """A private directory, made fresh and removed after collection; not for a job of a lane."""
    layers: Mapping[str, Path]
    """Role to directory: `app` holds the app's files, `python` its environment."""
    inputs: tuple[FileRef, ...]
    """The job's own inputs and those that it takes from jobs it runs after."""
    blobs: Blobs
    services: Services
    children: Children
    start: Callable[[ProcessSpec], Awaitable[Process]]
    """Start a process in the job's sandbox; its streams go to the job's logs."""
    supervise: Callable[[Process], Awaitable[Outcome]]
    """Wait for a process under the job's execution timeout, disk limit and cancellation."""
    collect: Callable[[Path], Awaitable[tuple[FileRef, ...]]]
    """Store what an output directory holds, within the job's output limits, and warn of what was skipped."""
    emit: Callable[..., None]
    """`emit(topic, message, **data)` appends an event to the job's history."""
    started: Callable[[], None]
    """Tell that the app's own process has started: the attempt is `running`."""
    collecting: Callable[[], None]
    """Tell that the app is done and its outputs are being stored."""
    log: OutputSink
    """Write to the job's logs in the app's place; a job of a lane has none."""
    cancelled: "Cancellation"


class Cancellation(asyncio.Event):
    """Set once a job is to be cancelled, which also calls back whoever must not wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.on_set: Callable[[], object] | None = None

    def set(self) -> None:
        """Cancel."""
        super().set()
        if self.on_set is not None:
            self.on_set()


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLoad:
    """How many jobs of open lanes there are."""

    waiting: int
    running: int


class Port(Protocol):
    """The running node as a network's own surface sees it."""

    config: Mapping[str, JSON]
    """The node's configuration table that bears the network's name."""

    @property
    def directory(self) -> Path:
        """A private directory of the network, as durable as the store."""

    @property
    def cpus(self) -> float:
        """Cpus that the operator lets apps use."""

    @property
    def memory(self) -> int:
        """Bytes that the operator lets apps use."""

    @property
    def services(self) -> Services:
        """Long-running instances of apps."""

    def staging(self) -> Path:
        """Make a fresh private directory for the files of an app that is to be added."""

    async def list_apps(self, where: AppFilter) -> list[App]:
        """Read all apps that match."""

    async def add_app(
        self, source: Path, *, caller: Caller, network: str, name: str | None = None, meta: Mapping[str, JSON]
    ) -> App:
        """Keep the files below `source` (a directory, moved or copied) as an app and begin to install it."""

    async def edit_app(self, app_id: str, source: Path, *, caller: Caller) -> App:
        """Replace the files of an app that is not published; once this returns, it is installed."""

    def layer_paths(self, app: App) -> Mapping[str, Path]:
        """Give the directories of an app's layers by role: `app` holds its files."""

    async def settled_app(self, app_id: str) -> App:
        """Wait until an app is installed or has failed to be."""

    async def change_app(self, app_id: str, state: AppState, *, caller: Caller, message: str) -> App:
        """Move an app to another state."""

    async def submit(self, spec: JobSpec, *, caller: Caller, job_id: str | None = None, lane: str | None = None) -> Job:
        """Accept a job, in a lane or for the engine to place."""

    async def open_lane(self, lane: str, *, width: int) -> None:
        """Let the jobs of a lane run from now on: in their order, `width` at once.

        They ask services and run no process of their own, so they take no place in the engine, no directory and no
        log. What an earlier node left in the lane goes first.
        """

    def lane_load(self, lane: str | None = None) -> LaneLoad:
        """Count the jobs of an open lane, or of all."""

    def end_of(self, job_id: str) -> asyncio.Future[Result | None] | None:
        """Give what is done once a job has left its lane; None a moment later, and if it was never in one.

        It holds the job's result, or None if that has to be read.
        """

    async def get_job(self, job_id: str) -> Job:
        """Read one job; raises NotFound."""

    async def list_jobs(self, where: JobFilter, page: Page) -> list[Job]:
        """Read jobs, newest first."""

    async def cancel(self, job_id: str, *, caller: Caller) -> Job:
        """Cancel a job: at once while it waits, else by telling it."""

    async def forget_jobs(self, *, caller: Caller, before: float, keep: int) -> None:
        """Forget the caller's jobs that ended before a moment, and of the others all but the latest `keep`."""

    async def finished_job(self, job_id: str) -> Job:
        """Wait until a job has ended."""

    async def job_attempts(self, job_id: str) -> list[Attempt]:
        """Read the attempts of a job."""

    async def job_outputs(self, job_id: str) -> list[FileRef]:
        """Read what a job left."""

    def watch(self, subject: str) -> Any:
        """Iterate over the events of a job or app as they come (`async for event in ...`), from the first on."""

    @property
    def blobs(self) -> Blobs:
        """The node's blobs."""

    async def address(self) -> str:
        """Give the URL where the node listens, and let it listen on this machine if it does not yet."""

    async def python(self, requirements: Path) -> Path:
        """Give the layer of a Python environment with the packages of a file; it is built if it is not there.

        Raises InstallFailed, PythonNotFound, DiskFull.
        """

    async def start(self, spec: ProcessSpec | ImageSpec, *, output: OutputSink) -> Process:
        """Start a process of the network's own, isolated, or a container of an image.

        Raises SandboxUnavailable.
        """

    async def image(self, name: str) -> str:
        """Have an image of the container engine, pulled if need be; give its id, which differs with its content.

        Raises SandboxUnavailable.
        """

    async def export(self, image: str, target: Path) -> None:
        """Write the files of an image that `image` gave as the tar `target`; nothing of it is run.

        Raises SandboxUnavailable.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check of one rule of the network's contract came to."""

    rule: str
    """In a few words, such as `an error has an error status`."""
    verdict: Literal["passed", "failed", "not_applicable"]
    message: str = ""
    """What was found; for a failure with the reply that broke the rule."""
    hint: str | None = None
    """How to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What a network adds to the node so that its existing clients work."""

    routers: tuple[Any, ...] = ()
    """FastAPI routers, mounted at the root of the node's port."""
    app: Any | None = None
    """An ASGI application that answers `paths`, and all `below` others, past the node's own framework."""
    paths: tuple[str, ...] = ()
    """What it answers."""
    below: tuple[str, ...] = ()
    """Paths that end in `/`; it answers all below them, too."""
    claims: Callable[[Mapping[str, Any]], bool] | None = None
    """Tells of a request (its ASGI scope) whether it is for the application whatever its path, as by its host."""
    visits: Callable[[Mapping[str, Any]], bool] | None = None
    """Tells of a request (its ASGI scope) to the application whether it is for what answers for itself, as any website
    does: where nobody needs a token, pages of every origin may make it, and its Authorization is none of the node's."""
    tasks: tuple[Callable[[], Awaitable[None]], ...] = ()
    """Background work for as long as the node runs."""
    settled: Callable[[], Awaitable[None]] | None = None
    """Waits until its background work has submitted all jobs that it owes now: a node with no job is idle only then."""
    close: Callable[[], Awaitable[None]] | None = None
    """Gives back what the surface holds, after its services and all that it answers have ended."""
    admits: Callable[[Mapping[str, Any]], bool] | None = None
    """Tells of a request (its ASGI scope) whether the network's own rules let it in without a token; where
    there is an `app`, of requests to that and of no others."""

    def answers(self, scope: Mapping[str, Any]) -> bool:
        """Tell whether the application answers a request, by its path."""
        path = scope["path"]
        return path in self.paths or path.startswith(self.below)


class Network(Protocol):
    """Translator between one network's contract and the node."""

    name: str
    serves: bool
    """Whether its apps answer requests, so that `moorage run` without any lets them do so."""
    looks_for: str
    """What its apps look like, in a phrase, for whoever brings something else."""

    def recognizes(self, source: Path) -> bool:
        """Tell whether a directory or file is an app of this network."""

    def load(self, source: Path) -> Manifest:
        """Read and validate an unpacked source.

        Raises BadApp or BadManifest naming the file, the field and the fix.
        """

    def pack(self, source: str, target: Path) -> str | None:
        """Lay out what is no folder of an app, such as a reference or a single file, as one at `target`.

        Gives the app's name, or None (and leaves no `target`) if the source is none of this network's.
        Raises SourceNotFound, BadManifest.
        """

    def order(self, source: Path) -> Order | None:
        """Read a file that asks for a job of an app; None if it is none of this network's.

        Raises SourceNotFound, Invalid (or a subclass).
        """

    def accept(self, app: App, spec: JobSpec) -> JobSpec:
        """Validate a job's parameters against the app and fill in what the contract says; pure and quick.

        Raises Invalid (or a subclass) with the code of the contract.
        """

    def parse_settings(self, settings: Mapping[str, str]) -> Mapping[str, JSON]:
        """Turn `--set KEY=VALUE` pairs into job parameters."""

    async def run(self, ctx: Context) -> Result:
        """Drive one attempt to its end; whatever the app does is a Result, an exception is the node's fault."""

    async def check(self, ctx: Context) -> tuple[Finding, ...]:
        """Find out whether an app keeps its network's contract."""

    def surface(self, port: Port) -> Surface | None:
        """Give the network's own routes and background work, if its configuration asks for them."""


def installed_networks() -> dict[str, Network]:
    """Find the networks of this installation by their entry points."""
    return {point.name: point.load()() for point in sorted(entry_points(group="moorage.networks"))}


def choose(networks: Mapping[str, Network], source: Path, name: str | None) -> Network:
    """Take the named network, or the one that recognises the source.

    Raises UnknownNetwork, SourceNotRecognized.
    """
    if name is not None:
        if name not in networks:
            raise UnknownNetwork(f"No network is called {name!r}.", hint=f"Use one of: {', '.join(networks)}.")
        return networks[name]
    for network in networks.values():
        if network.recognizes(source):
            return network
    known = "; ".join(f"{network.name}: {network.looks_for}" for network in networks.values())
    raise SourceNotRecognized(hint=f"{SourceNotRecognized.hint} Known here: {known}.")
