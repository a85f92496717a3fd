"""One attempt, from its placement to its result."""

import asyncio
import contextlib
import dataclasses
import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from moorage.blobs.base import Blobs
from moorage.blobs.collect import collect
from moorage.errors import (
    DiskFull,
    DiskLimit,
    FileDuplicate,
    InternalError,
    JobCancelled,
    JobLost,
    LeaseLost,
    LogLimit,
    MoorageError,
    NotFound,
    StoreUnavailable,
    TotalTimeout,
    UnknownIsolation,
)
from moorage.model.events import Event
from moorage.model.jobs import JSON, Attempt, FileRef, Job, Result
from moorage.model.states import AttemptState
from moorage.networks.base import Cancellation, Children, Context, Network, Services
from moorage.node.apps import Apps
from moorage.node.logs import AttemptLog
from moorage.node.workspace import make_workspace, remove_workspace
from moorage.sandbox.base import Process, ProcessSpec, Sandbox, Stream
from moorage.sandbox.disk import DiskWatch
from moorage.sandbox.supervise import Outcome, supervise
from moorage.store.base import Store

log = structlog.get_logger(__name__)

Write = Callable[[], asyncio.Future[None]]
"""Hands one fact to the store when called; the result waits until it is durable."""

TOGETHER = 0.025
"""Seconds that progress waits for more of it to share a commit."""
NO_STORE = 1.0
"""Seconds between two tries to write while the store cannot, as on a full disk."""
NOWHERE = Path("/dev/null/none")
"""The directory of an attempt that has none."""
COLLECTING = 8
"""Attempts that may store their outputs beside those that hold resources."""


@dataclass(slots=True, kw_only=True)
class Live:
    """What the node holds of an attempt while it runs."""

    job: Job
    attempt: Attempt
    workspace: Path
    log: AttemptLog
    cancelled: Cancellation = field(default_factory=Cancellation)
    release: Callable[[], None]
    """Gives the reserved resources back."""
    progress: list[Write] = field(default_factory=list)
    """Facts that wait a moment, so that several share one commit."""
    flush_at: asyncio.TimerHandle | None = None
    writes: list[asyncio.Future[None]] = field(default_factory=list)
    """Facts on their way into the store."""
    collecting: bool = False
    watch: DiskWatch | None = None
    process: Process | None = None

    def write(self, stream: Stream, chunk: bytes) -> None:
        """Take what the app wrote, and end an app that floods a stream."""
        self.log.write(stream, chunk)
        if self.process is not None and self.flooded:
            self.process.kill()

    @property
    def flooded(self) -> bool:
        """Tell whether a stream has passed its limit."""
        return self.log.longest > self.job.spec.limits.stream_bytes

    @property
    def total_left(self) -> float | None:
        """Seconds until the job's total timeout."""
        total = self.job.spec.timeouts.total
        return None if total is None else max(0.0, self.job.created_at + total - time.time())

    @property
    def timeout(self) -> float | None:
        """Seconds that its process may run: the execution timeout, or what is left of the total one."""
        limits = [seconds for seconds in (self.job.spec.timeouts.execution, self.total_left) if seconds is not None]
        return min(limits, default=None)


class Runner:
    """Drives attempts; `live` holds those that are under way, by job id."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        apps: Apps,
        sandboxes: dict[str, Sandbox],
        networks: dict[str, Network],
        services: Services,
        children: Callable[[Job], Children],
        isolation: str,
        work: Path,
    ) -> None:
        self._store, self._blobs, self._apps = store, blobs, apps
        self._sandboxes, self._networks, self._isolation = sandboxes, networks, isolation
        self._services, self._children, self._work = services, children, work
        self.live: dict[str, Live] = {}

    def cancel(self, job_id: str) -> None:
        """Tell a running attempt that its job is to be cancelled."""
        if job_id in self.live:
            self.live[job_id].cancelled.set()

    def live_log(self, attempt: Attempt) -> AttemptLog | None:
        """Give the log of an attempt that is under way here."""
        live = self.live.get(attempt.job_id)
        return live.log if live is not None and live.attempt.id == attempt.id else None

    async def run(
        self, job: Job, attempt: Attempt, release: Callable[[], None] = lambda: None, *, waited: bool = True
    ) -> Result | None:
        """Run an attempt and write down how it ended; when the node stops meanwhile, as lost.

        Gives the result as it is in the store then, or None if its end was not this attempt's to say.

        `release` is called as soon as the app's processes are gone: storing outputs needs no reservation.
        A job of a lane gets no directory and no log, since it runs no process. One that never `waited` in the queue
        cannot have been cancelled there.
        """
        workspace = self._work / attempt.id if job.lane is None else NOWHERE
        log_bytes = job.spec.limits.log_bytes
        live = Live(
            job=job, attempt=attempt, workspace=workspace, log=AttemptLog(workspace, log_bytes), release=release
        )
        self.live[job.id] = live
        try:
            return await self._conclude(live, await self._drive(live, waited=waited))
        except asyncio.CancelledError:
            self._flush(live)
            # The end was written already, or cannot be: then the next start writes it. A node that stops never waits.
            # NotFound: it began before it was accepted for good, and was not.
            with contextlib.suppress(LeaseLost, NotFound, DiskFull, StoreUnavailable):
                await self._store.finish(attempt, AttemptState.LOST, Result(error=JobLost().info))
            raise
        except LeaseLost as error:
            log.warning("result refused", job=job.id, attempt=attempt.id, reason=error.message)
            return None
        finally:
            del self.live[job.id]
            live.log.end()
            live.log.close()
            if job.lane is None:
                await asyncio.shield(asyncio.to_thread(remove_workspace, workspace))

    async def _drive(self, live: Live, *, waited: bool) -> Result:
        """Prepare and run; everything that goes wrong is a result."""
        try:
            if waited and await self._store.cancelling(live.job.id):  # asked for between the claim and `live`
                live.cancelled.set()
            if live.job.lane is None:
                self._advance(live, AttemptState.PREPARING, "Its work directory is being made.")
                make_workspace(live.workspace)
            if live.total_left == 0.0:
                return Result(error=TotalTimeout().info, timed_out=True)
            return await self._ask(self._networks[live.job.network], await self._context(live))
        except MoorageError as error:
            return Result(error=error.info)
        except OSError as error:
            return Result(error=_machine_trouble(error).info)
        except Exception:
            log.exception("attempt failed inside the node", job=live.job.id, attempt=live.attempt.id)
            return Result(error=InternalError().info)
        finally:
            if live.watch is not None:
                live.watch.stop()

    async def _ask(self, network: Network, ctx: Context) -> Result:
        if ctx.job.spec.mode != "check":
            return await network.run(ctx)
        findings = await network.check(ctx)
        return Result(value=[dataclasses.asdict(finding) for finding in findings])

    async def _conclude(self, live: Live, result: Result) -> Result:
        result = _overruled(live, result)
        stdout, stderr = await self._store_logs(live) if live.job.lane is None else (None, None)
        await self._write_end(live, _state_of(live, result), result, stdout=stdout, stderr=stderr)
        if live.writes:
            await asyncio.gather(*live.writes)
        return result

    async def _store_logs(self, live: Live) -> tuple[FileRef | None, FileRef | None]:
        live.log.end()
        try:
            return await live.log.store("stdout", self._blobs), await live.log.store("stderr", self._blobs)
        except DiskFull as error:
            self._emit(live, "log.dropped", error.message, {})
            return None, None

    async def _write_end(self, live: Live, state: AttemptState, result: Result, **logs: FileRef | None) -> None:
        """Write the end, and with it all progress that is not written yet; a store that cannot is waited for."""
        self._flush(live)
        while True:
            try:
                await self._store.finish(live.attempt, state, result, **logs)  # it is written even if this is cancelled
            except (DiskFull, StoreUnavailable) as error:
                log.warning("the end of an attempt waits for the store", attempt=live.attempt.id, reason=error.message)
                await asyncio.gather(*live.writes)
                await asyncio.sleep(NO_STORE)
            else:
                return

    async def _context(self, live: Live) -> Context:
        app = await (self._apps.pinned if live.job.lane is None else self._apps.accepted)(live.job)
        layers = self._apps.layer_paths(app.digest, app.layers) if live.job.lane is None else {}
        sandbox = self._sandbox(live.job)
        inputs = await self._inputs(live.job)
        return Context(
            job=live.job,
            app=app,
            attempt=live.attempt,
            workspace=live.workspace,
            layers=layers,
            inputs=inputs,
            blobs=self._blobs,
            services=self._services,
            children=self._children(live.job),
            start=lambda spec: self._start(live, sandbox, spec),
            supervise=lambda process: self._supervise(live, process),
            collect=lambda directory: self._collect(live, directory),
            emit=lambda topic, message, **data: self._emit(live, topic, message, data),
            started=lambda: self._advance(live, AttemptState.RUNNING, "The app has started."),
            collecting=lambda: self._collecting(live),
            log=live.log.write if live.job.lane is None else _drop,
            cancelled=live.cancelled,
        )

    def _sandbox(self, job: Job) -> Sandbox:
        name = job.spec.isolation or self._isolation
        if name not in self._sandboxes:
            raise UnknownIsolation(f"This node has no sandbox called {name!r}.")
        return self._sandboxes[name]

    async def _inputs(self, job: Job) -> tuple[FileRef, ...]:
        """Join the job's own inputs with the outputs of the jobs it runs after."""
        files = {file.path: file for file in job.spec.inputs}
        for earlier in job.spec.after:
            for file in await self._store.outputs(earlier):
                if file.path in files:
                    raise FileDuplicate(f"Job {earlier} left {file.path!r}, which is an input already.")
                files[file.path] = file
        return tuple(files.values())

    async def _start(self, live: Live, sandbox: Sandbox, spec: ProcessSpec) -> Process:
        live.process = await sandbox.start(spec, name=live.attempt.id, output=live.write)
        return live.process

    async def _supervise(self, live: Live, process: Process) -> Outcome:
        live.watch = DiskWatch(live.workspace, live.job.spec.limits.disk, process.kill)
        try:
            return await supervise(process, timeout=live.timeout, cancelled=live.cancelled)
        finally:
            live.watch.stop()

    async def _collect(self, live: Live, directory: Path) -> tuple[FileRef, ...]:
        limits = live.job.spec.limits
        return await collect(
            directory,
            self._blobs,
            max_bytes=limits.output_bytes,
            max_files=limits.output_files,
            warn=lambda topic, message, data: self._emit(live, topic, message, data),
        )

    def _collecting(self, live: Live) -> None:
        live.collecting = True
        if sum(other.collecting for other in self.live.values()) <= COLLECTING:
            live.release()
        self._advance(live, AttemptState.COLLECTING, "Its outputs are being stored.")

    def _advance(self, live: Live, state: AttemptState, message: str) -> None:
        self._later(live, lambda: self._store.advance(live.attempt, state, message=message))

    def _emit(self, live: Live, topic: str, message: str, data: dict[str, JSON]) -> None:
        self._later(live, lambda: self._append(live, topic, message, data))

    def _append(self, live: Live, topic: str, message: str, data: dict[str, JSON]) -> asyncio.Future[None]:
        return self._store.append(
            Event(subject=live.job.id, attempt_id=live.attempt.id, topic=topic, message=message, data=data)
        )

    def _later(self, live: Live, write: Write) -> None:
        """Write progress soon, without waiting for the disk."""
        live.progress.append(write)
        if live.flush_at is None:
            live.flush_at = asyncio.get_running_loop().call_later(TOGETHER, self._flush, live)

    def _flush(self, live: Live) -> None:
        """Hand all progress to the store, which keeps the order."""
        if live.flush_at is not None:
            live.flush_at.cancel()
            live.flush_at = None
        if live.progress:
            batch, live.progress = live.progress, []
            live.writes.append(asyncio.ensure_future(_write_all(batch, [write() for write in batch])))


async def _write_all(batch: list[Write], answers: Sequence[asyncio.Future[None]]) -> None:
    """Wait until a batch is durable; what the store cannot take now is written again, in its order."""
    while answers:
        results = await asyncio.gather(*answers, return_exceptions=True)
        for error in results:
            if error is not None and not isinstance(error, DiskFull | StoreUnavailable):
                raise error
        batch = [write for write, error in zip(batch, results, strict=True) if error is not None]
        if batch:
            await asyncio.sleep(NO_STORE)
        answers = [write() for write in batch]


def _drop(stream: Stream, chunk: bytes) -> None:
    """Take what nobody keeps."""


def _overruled(live: Live, result: Result) -> Result:
    """Put the node's own reason in the place of the app's where the node ended it."""
    limits = live.job.spec.limits
    if live.log.error is not None:
        return dataclasses.replace(result, error=_machine_trouble(live.log.error).info)
    if live.watch is not None and live.watch.exceeded:
        message = f"The app wrote more than {limits.disk} bytes into its work directory."
        return dataclasses.replace(result, error=DiskLimit(message).info)
    if live.flooded:
        message = f"The app wrote more than {limits.stream_bytes} bytes to stdout or stderr."
        return dataclasses.replace(result, error=LogLimit(message).info)
    if result.timed_out and live.total_left == 0.0:
        return dataclasses.replace(result, error=TotalTimeout().info)
    if live.cancelled.is_set() and result.error is not None:
        return dataclasses.replace(result, error=JobCancelled().info)
    return result


def _state_of(live: Live, result: Result) -> AttemptState:
    if result.error is None:
        return AttemptState.SUCCEEDED
    if live.cancelled.is_set():
        return AttemptState.CANCELLED
    return AttemptState.TIMED_OUT if result.timed_out else AttemptState.FAILED


def _machine_trouble(error: OSError) -> MoorageError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull()
    return InternalError(f"The node could not use its disk: {error.strerror}.")
