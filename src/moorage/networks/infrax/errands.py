"""What the router asks of this node, from its first step to what it is told at the end (contract, section 4.2)."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from moorage.blobs.names import join, refuse_duplicates
from moorage.blobs.space import disk_full
from moorage.errors import (
    AppUnavailable,
    BadApp,
    InputUnavailable,
    InstallFailed,
    MoorageError,
    NodeStopping,
    RouterFailed,
)
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.jobs import Attempt, FileRef, JobSpec
from moorage.model.states import AppState
from moorage.networks.base import Port
from moorage.networks.infrax import texts, wire
from moorage.networks.infrax.journal import Entry
from moorage.networks.infrax.manifest import NETWORK
from moorage.networks.infrax.router import Router
from moorage.store.base import AppFilter

log = structlog.get_logger(__name__)

ROUTER = Caller(name="infrax:router")
"""Owner of everything that the router asks for; it alone decides who may run its apps."""
ROUTER_ID = "router_id"
"""Where an app's `meta` keeps the router's id of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a job came to; `attempt` is None if its process never started."""

    error: str | None = None
    attempt: Attempt | None = None
    outputs: tuple[FileRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Errands:
    """The router's requests, carried out on a node."""

    port: Port
    router: Router

    async def installed(self, app_id: str | None = None) -> list[App]:
        """List the apps that the router had installed here and that are ready, or those of one id."""
        where = AppFilter(owner=ROUTER.name, network=NETWORK, state=AppState.TESTING)
        apps = await self.port.list_apps(where)
        return [app for app in apps if ROUTER_ID in app.meta and app_id in {None, app.meta[ROUTER_ID]}]

    async def install(self, app_id: str) -> None:
        """Fetch an app, install it and tell the router; all or nothing."""
        try:
            await self._install(app_id)
        except NodeStopping:
            raise
        except MoorageError as error:
            await self.router.tell_app_error(app_id, error.message, "INSTALL_ERROR")
        else:
            await self.router.tell_installed(app_id)

    async def remove(self, app_id: str) -> None:
        """Remove an app and tell the router."""
        try:
            for app in await self.installed(app_id):
                await self.port.change_app(app.id, AppState.REMOVED, caller=ROUTER, message="The router removed it.")
        except MoorageError as error:
            await self.router.tell_app_error(app_id, error.message, "UNINSTALL_ERROR")
        else:
            await self.router.tell_removed(app_id)

    async def perform(self, entry: Entry) -> None:
        """Run a job and report it; where it was begun by an earlier node, go on with that.

        Raises RouterFailed if the router could not be told the result now, so that it is told later.
        """
        ran = await self._run(entry)
        if ran.attempt is not None:
            await _attempted(self.router.tell_job(entry.job, "FINISHING"))
        ids, error = await self._upload(ran)
        failure = await _attempted(self.router.tell_result(await self._result(entry.job, ran, ids, error)))
        await _attempted(self.router.tell_job(entry.job, "FINISHED"))
        if failure is not None and not failure.detail.get("refused"):
            raise failure

    async def _install(self, app_id: str) -> None:
        described = await self.router.app(app_id)
        if described is None:
            raise BadApp("The router does not know this app.")
        source = self.port.staging()
        try:
            await self._fetch_app(described, source)
            meta = {**(described.meta or {}), ROUTER_ID: app_id}
            name = described.name or app_id
            added = await self.port.add_app(source, caller=ROUTER, network=NETWORK, name=name, meta=meta)
        finally:
            await asyncio.to_thread(shutil.rmtree, source, ignore_errors=True)
        settled = await self.port.settled_app(added.id)
        if settled.state is not AppState.TESTING:
            raise InstallFailed(settled.error.message if settled.error else None)

    async def _fetch_app(self, described: wire.App, source: Path) -> None:
        names = safe_names(described.files)
        for file, name in zip(described.files, names, strict=True):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            await self.router.download(file, partial(_save, target))

    async def _run(self, entry: Entry) -> Ran:
        try:
            inputs = await self._fetch_inputs(entry.job.files or [])
            spec = await self._spec(entry.job, inputs)
            await self.port.submit(spec, caller=ROUTER, job_id=entry.ours)
            done = await self.port.finished_job(entry.ours)
        except NodeStopping:
            raise
        except MoorageError as error:
            return Ran(error=error.message)
        last = (await self.port.job_attempts(entry.ours))[-1:]
        started = next((attempt for attempt in last if attempt.exit_status is not None), None)
        text = texts.error_text(done.error, started.exit_status if started else None)
        return Ran(error=text, attempt=started, outputs=tuple(await self.port.job_outputs(entry.ours)))

    async def _fetch_inputs(self, files: list[wire.File]) -> tuple[FileRef, ...]:
        found = []
        for file, name in zip(files, safe_names(files), strict=True):
            try:
                digest, size = await self.router.download(file, self.port.blobs.put)
            except RouterFailed as error:
                log.warning("input not fetched", file=file.id, reason=error.message)
                raise InputUnavailable(texts.missing_input(file.name)) from None
            found.append(FileRef(path=name, digest=digest, size=size))
        return tuple(found)

    async def _spec(self, job: wire.Job, inputs: tuple[FileRef, ...]) -> JobSpec:
        apps = await self.installed(job.app_id)
        if not apps:
            raise AppUnavailable("App is not installed")
        return JobSpec(app_id=apps[0].id, parameters=wire.arguments_of(job), inputs=inputs)

    async def _upload(self, ran: Ran) -> tuple[list[str], str | None]:
        """Hand the outputs to the router; their loss makes a failure of a success (section 6, item 7)."""
        try:
            return (await self.router.upload(ran.outputs, self.port.blobs) if ran.outputs else []), ran.error
        except MoorageError as error:
            log.warning("outputs not stored by the router", reason=error.message)
            return [], ran.error or texts.UPLOAD_FAILED

    async def _result(self, job: wire.Job, ran: Ran, ids: list[str], error: str | None) -> wire.Result:
        return wire.Result(
            job_id=job.id,
            execution_time=ran.attempt.usage.wall if ran.attempt else 0.0,
            output=await asyncio.to_thread(self._output, ran.attempt) if ran.attempt else None,
            success=error is None,
            error=error,
            file_ids=ids,
        )

    def _output(self, attempt: Attempt) -> str:
        stdout, stderr = (
            self.port.blobs.path(log.digest).read_bytes() if log else b"" for log in (attempt.stdout, attempt.stderr)
        )
        return texts.output_text(stdout, stderr)


def safe_names(files: list[wire.File]) -> list[str]:
    """Give each file the one path it is laid out at.

    Raises FileBadPath, FileDuplicate naming the entry (section 5.2).
    """
    names = [join(file.path, file.name) for file in files]
    refuse_duplicates(names)
    return names


async def _save(target: Path, chunks: AsyncIterator[bytes]) -> None:
    with disk_full(), target.open("wb") as file:
        async for chunk in chunks:
            file.write(chunk)


async def _attempted(call: Awaitable[None]) -> RouterFailed | None:
    """Tell the router something whose loss must not keep it from being told the rest; return what went wrong."""
    try:
        await call
    except RouterFailed as error:
        log.warning("router not told", reason=error.message)
        return error
    return None
