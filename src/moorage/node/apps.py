"""The life of apps: intake, installation, edits, changes of state, and the promise that stored files are unaltered."""

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import structlog

from moorage.errors import (
    AppNotEditable,
    AppTampered,
    AppUnavailable,
    DiskFull,
    Forbidden,
    InternalError,
    MoorageError,
    NotFound,
    StoreUnavailable,
)
from moorage.layers.python import PythonEnvironments
from moorage.layers.trees import Tree, Trees
from moorage.model.apps import App
from moorage.model.callers import Caller
from moorage.model.events import Event
from moorage.model.ids import new_id
from moorage.model.jobs import JSON, Job
from moorage.model.states import APP_TRANSITIONS, EDITABLE, RUNNABLE, AppState, may_follow
from moorage.networks.base import Manifest, Network, PythonEnvironment, choose
from moorage.store.base import AppFilter, Page, Store

log = structlog.get_logger(__name__)

FEW = 64
"""Files that are looked at in less time than the way to a thread and back takes."""

NO_STORE = 1.0
"""Seconds between two tries to write while the store cannot, as on a full disk."""

OPERATOR_MAY = frozenset({AppState.HIDDEN, AppState.ERROR, AppState.REMOVED})
"""States to which an operator, too, may move somebody's app (InfraX contract, section 1.3)."""


class Apps:
    """Keeps apps and installs them, one background task each."""

    def __init__(
        self,
        *,
        store: Store,
        networks: Mapping[str, Network],
        trees: Trees,
        pythons: PythonEnvironments,
        hidden_accepts_jobs: bool,
    ) -> None:
        self._store, self._networks, self._trees, self._pythons = store, networks, trees, pythons
        self._hidden_accepts_jobs = hidden_accepts_jobs
        self._installing: dict[str, asyncio.Task[None]] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._fingerprints: dict[str, int] = {}
        self._accepted: dict[str, App] = {}
        """Apps of lanes, by id: a few, asked for with every job."""

    async def add(
        self,
        source: Path,
        *,
        caller: Caller,
        network: str | None,
        name: str | None,
        meta: Mapping[str, JSON],
        deploy: bool,
    ) -> App:
        """Take over an unpacked source as a new app, and install it in the background if `deploy`."""
        manifest, tree = await self._take(source, network, caller)
        app = App(
            id=new_id("app"),
            network=manifest.network,
            name=name or manifest.name,
            owner=caller.name,
            state=AppState.CREATED,
            meta=meta,
            deploy=deploy,
            **_content(manifest, tree),
        )
        app = await self._store.add_app(app, message=f"{app.name} was added: {tree.files} files, {tree.size} bytes.")
        await self._warn(app.id, manifest)
        if deploy:
            self._begin(app)
        return app

    async def edit(
        self, app_id: str, *, caller: Caller, source: Path | None, name: str | None, meta: Mapping[str, JSON] | None
    ) -> App:
        """Change an app that is not published yet; with new files, only once their environment is built.

        Raises AppNotEditable, InstallFailed (nothing is changed then).
        """
        changes: dict[str, Any] = {
            key: value for key, value in {"name": name, "meta": meta}.items() if value is not None
        }
        await self._editable(app_id, caller, source)
        if source is not None:
            async with self._alone(app_id):
                changes |= await self._replace(await self._editable(app_id, caller, source), source, caller)
                return await self._store.edit_app(app_id, message="The app was edited.", **changes)
        return await self._store.edit_app(app_id, message="The app was edited.", **changes)

    async def change(self, app_id: str, state: AppState, *, caller: Caller, message: str | None = None) -> App:
        """Move an app to another state; CREATED → TESTING installs it first (in the background).

        Raises Forbidden, IllegalTransition.
        """
        app = await self.get(app_id, caller=caller)
        if not (caller.operator and state in OPERATOR_MAY):
            _own(app, caller)
        if app.state is AppState.CREATED and state is AppState.TESTING:
            if not app.deploy:  # noted, so that a later node goes on with it
                app = await self._store.edit_app(app_id, message=message or f"{caller.name} deploys it.", deploy=True)
            self._begin(app)
            return app
        return await self._store.transition_app(app_id, state, message=message or f"{caller.name} made it {state}.")

    async def get(self, app_id: str, *, caller: Caller) -> App:
        """Read an app that the caller may see; never-published ones are there only for author and operator."""
        app = await self._store.get_app(app_id)
        if not (app.published or caller.operator or app.owner == caller.name):
            raise NotFound(f"There is no app {app_id}.")
        return app

    async def list(self, where: AppFilter, page: Page, *, caller: Caller) -> list[App]:
        """Read the apps that the caller may see."""
        if not caller.operator:
            where = dataclasses.replace(where, visible_to=caller.name)
        return await self._store.list_apps(where, page)

    def admit(self, app: App, caller: Caller) -> None:
        """Refuse a job of an app whose state, or whose author, does not allow it (InfraX contract, section 1.3)."""
        visible = app.published or caller.operator or app.owner == caller.name
        if not visible:
            raise NotFound(f"There is no app {app.id}.")
        if app.state is AppState.HIDDEN and self._hidden_accepts_jobs:
            return
        if app.state not in RUNNABLE:
            raise AppUnavailable(f"App {app.name} is {app.state}: it takes no jobs.", hint=_way_on(app))
        if app.state is AppState.TESTING and app.owner != caller.name:
            raise Forbidden(f"App {app.name} is TESTING: only its author {app.owner} may run it.")

    async def pinned(self, job: Job) -> App:
        """Give the app with exactly the files that the job was accepted for.

        Raises AppTampered, and moves the app to ERROR, if the stored files are gone or altered.
        """
        app = await self._store.get_app(job.spec.app_id)
        tree = Trees.name(job.app_digest)
        if not await self._intact(tree, app.files):
            error = AppTampered(f"The stored files of app {app.name} do not match digest {job.app_digest[:12]}.")
            if app.digest == job.app_digest and may_follow(APP_TRANSITIONS, app.state, AppState.ERROR):
                await self._store.transition_app(app.id, AppState.ERROR, message=error.message, error=error.info)
            raise error
        if app.digest == job.app_digest:
            return dataclasses.replace(app, layers=job.layers)
        manifest = self._networks[app.network].load(self._trees.path(tree))
        return dataclasses.replace(app, digest=job.app_digest, layers=job.layers, manifest=dict(manifest.data))

    async def accepted(self, job: Job) -> App:
        """Give the app of a job that does not use its files, as it was when the job was accepted."""
        known = self._accepted.get(job.spec.app_id)
        if known is None or known.digest != job.app_digest:
            known = self._accepted[job.spec.app_id] = await self.pinned(job)
        return known

    def layer_paths(self, digest: str, layers: Mapping[str, str]) -> dict[str, Path]:
        """Give the directories of an app's files and layers, by role."""
        paths = {"app": self._trees.path(Trees.name(digest))}
        return paths | {role: self._pythons.path(name) for role, name in layers.items()}

    async def python(self, requirements: Path) -> Path:
        """Give the layer of a Python environment with the packages of a file; it is built if it is not there."""
        name = await self._pythons.ensure(
            version=PythonEnvironment().version,
            requirements=requirements.name,
            tree=requirements.parent,
            tree_digest="",
            progress=lambda _: None,
        )
        return self._pythons.path(name)

    async def resume(self) -> None:
        """Go on with installations that an earlier node did not finish."""
        before: str | None = None
        while apps := await self._store.list_apps(AppFilter(state=AppState.CREATED), Page(limit=100, before=before)):
            before = apps[-1].id
            for app in apps:
                if app.deploy:
                    self._begin(app)

    async def close(self) -> None:
        """Stop installing; the next start goes on with it."""
        for task in self._installing.values():
            task.cancel()
        await asyncio.gather(*self._installing.values(), return_exceptions=True)

    async def _take(self, source: Path, network: str | None, caller: Caller) -> tuple[Manifest, Tree]:
        manifest = await asyncio.to_thread(self._load, source, network, caller)
        try:
            return manifest, await self._trees.add(source, manifest.ignore)
        finally:
            await asyncio.to_thread(shutil.rmtree, source, ignore_errors=True)

    def _load(self, source: Path, network: str | None, caller: Caller) -> Manifest:
        try:
            manifest = choose(self._networks, source, network).load(source)
            _grant(manifest, caller)
        except BaseException:
            shutil.rmtree(source, ignore_errors=True)
            raise
        return manifest

    def _alone(self, app_id: str) -> asyncio.Lock:
        """Give the lock under which an app's files and the environment for them change together."""
        return self._changing.setdefault(app_id, asyncio.Lock())

    async def _editable(self, app_id: str, caller: Caller, source: Path | None) -> App:
        """Give an app that the caller may edit; of a refused edit no uploaded files are left."""
        try:
            app = await self.get(app_id, caller=caller)
            _own(app, caller)
            if app.state not in EDITABLE:
                raise AppNotEditable(f"App {app.name} is {app.state}: it cannot be edited any more.")
        except MoorageError:
            if source is not None:
                await asyncio.to_thread(shutil.rmtree, source, ignore_errors=True)
            raise
        return app

    async def _replace(self, app: App, source: Path, caller: Caller) -> dict[str, Any]:
        manifest, tree = await self._take(source, app.network, caller)
        layers = app.layers
        if app.state is AppState.TESTING:
            layers = await self._build(app.id, manifest.environments, tree.name, tree.digest)
        await self._warn(app.id, manifest)
        return {**_content(manifest, tree), "layers": layers}

    def _begin(self, app: App) -> None:
        if app.id not in self._installing:
            self._installing[app.id] = asyncio.ensure_future(self._install(app))

    async def _install(self, app: App) -> None:
        try:
            async with self._alone(app.id):
                layers = await self._layers(await self._store.get_app(app.id))
                await self._store.transition_app(app.id, AppState.TESTING, message="It is installed.", layers=layers)
        except MoorageError as error:
            await self._give_up(app, error)
        except Exception:
            log.exception("installation failed inside the node", app=app.id)
            await self._give_up(app, InternalError("The node failed while it installed the app."))
        finally:
            del self._installing[app.id]

    async def _layers(self, app: App) -> dict[str, str]:
        tree = Trees.name(app.digest)
        manifest = await asyncio.to_thread(self._networks[app.network].load, self._trees.path(tree))
        return await self._build(app.id, manifest.environments, tree, app.digest)

    async def _give_up(self, app: App, error: MoorageError) -> None:
        """Move an app to ERROR; a store that cannot write now is waited for."""
        while (await self._store.get_app(app.id)).state is AppState.CREATED:
            try:
                await self._store.transition_app(app.id, AppState.ERROR, message=error.message, error=error.info)
            except (DiskFull, StoreUnavailable) as trouble:
                log.warning("an app's failure waits for the store", app=app.id, reason=trouble.message)
                await asyncio.sleep(NO_STORE)

    async def _build(
        self, app_id: str, environments: Mapping[str, PythonEnvironment], tree: str, digest: str
    ) -> dict[str, str]:
        writes: list[asyncio.Future[None]] = []

        def progress(line: str) -> None:
            event = Event(subject=app_id, topic="layer.progress", message=line)
            writes.append(self._store.append(event))

        try:
            return {
                role: await self._pythons.ensure(
                    version=python.version,
                    requirements=python.requirements,
                    tree=self._trees.path(tree),
                    tree_digest=digest,
                    progress=progress,
                )
                for role, python in environments.items()
            }
        finally:
            await asyncio.gather(*writes)

    async def _warn(self, app_id: str, manifest: Manifest) -> None:
        for warning in manifest.warnings:
            await self._store.append(Event(subject=app_id, topic="app.warning", message=warning))

    async def _intact(self, tree: str, files: int) -> bool:
        """Verify a tree by its digest when this node first sees it, and whenever its files were touched since."""
        path = self._trees.path(tree)
        fingerprint = _fingerprint(path) if files <= FEW else await asyncio.to_thread(_fingerprint, path)
        if fingerprint is not None and self._fingerprints.get(tree) == fingerprint:
            return True
        intact = fingerprint is not None and await self._trees.verify(tree)
        if intact and fingerprint is not None:
            self._fingerprints[tree] = fingerprint
        return intact


def _grant(manifest: Manifest, caller: Caller) -> None:
    if manifest.operator_only and not caller.operator:
        asked = ", ".join(manifest.operator_only)
        raise Forbidden(f"The app asks for what only an operator of this node may grant: {asked}.")


def _content(manifest: Manifest, tree: Tree) -> dict[str, Any]:
    return {"digest": tree.digest, "size": tree.size, "files": tree.files, "manifest": dict(manifest.data)}


def _own(app: App, caller: Caller) -> None:
    if app.owner != caller.name:
        raise Forbidden(f"App {app.name} belongs to {app.owner}.")


def _way_on(app: App) -> str:
    return {
        AppState.CREATED: "Wait until it is installed: `moorage app show` tells.",
        AppState.HIDDEN: "Its author can bring it back with `moorage app unhide`.",
        AppState.ERROR: "See why with `moorage app show`, then add it again.",
    }.get(app.state, "Add it again.")


def _fingerprint(tree: Path) -> int | None:
    """Sum up what changes whenever a file is touched; None if the tree is not there.

    The inode's change time cannot be set by anybody, so an altered file shows without being read.
    """
    facts: list[tuple[str, int, int, int]] = []
    try:
        for directory, _, names in os.walk(tree):
            for name in names:
                status = os.lstat(os.path.join(directory, name))  # noqa: PTH118 - once per job: speed counts
                facts.append((name, status.st_ino, status.st_size, status.st_ctime_ns))
    except OSError:
        return None
    return hash(tuple(sorted(facts))) if facts else None
