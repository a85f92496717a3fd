"""From a source to an app that can run: found again, edited or added, and installed."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moorage.cli.render import Progress
from moorage.client import Client
from moorage.errors import (
    AppNotEditable,
    AppUnavailable,
    Forbidden,
    MoorageError,
    SourceNotFound,
    SourceNotRecognized,
    error_for,
)
from moorage.layers.archives import unpack
from moorage.layers.trees import describe
from moorage.model.apps import App
from moorage.model.states import EDITABLE, RUNNABLE, AppState
from moorage.networks.base import Network, Order, choose, installed_networks

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What was named, as a folder of one network."""

    folder: Path
    name: str
    network: Network


def order_of(source: str, network: str | None) -> Order | None:
    """Read a file that asks for a job of an app; None for every other source.

    Raises SourceNotFound, UnknownNetwork and what is wrong with the file.
    """
    if not source.endswith(".json") or not os.path.isfile(source):  # noqa: PTH113 - a Path may be too long to look for
        return None
    path = Path(source)
    networks = installed_networks()
    chosen = networks.values() if network is None else (choose(networks, path, network),)
    return next((order for each in chosen if (order := each.order(path)) is not None), None)


def ordered_app(client: Client, order: Order, *, progress: Progress) -> App:
    """Give the app that a file asks for: one that is installed, or else the one beside it.

    Raises AppUnavailable and what `ensure_app` raises.
    """
    for warning in order.warnings:
        progress.remark(warning)
    for app in client.apps():
        if app.state in EDITABLE | RUNNABLE and order.fits(app):
            return _installed(client, app, progress)
    if order.beside is None:
        raise AppUnavailable(
            f"App {order.app} is not installed, and does not lie beside the file.",
            hint="Add it first: `moorage app add SOURCE`.",
        )
    return ensure_app(client, str(order.beside), network=None, name=None, progress=progress)


def ensure_app(client: Client, source: str, *, network: str | None, name: str | None, progress: Progress) -> App:
    """Give an app with exactly the files of a source, ready to run.

    One with these files is used as it is. Otherwise one of this name that is not published yet is edited; else a new
    one is added. Raises SourceNotFound, SourceNotRecognized, BadApp, BadManifest, InstallFailed, …
    """
    progress.show(f"reading {source}")
    with tempfile.TemporaryDirectory(prefix="moorage-") as temporary:
        found = _opened(source, network, Path(temporary), progress)
        name = name or found.name
        digest = describe(found.folder, found.network.load(found.folder).ignore).digest
        apps = [app for app in client.apps(name=name, network=found.network.name) if app.state in EDITABLE | RUNNABLE]
        app = next((app for app in apps if app.digest == digest), None)
        if app is None:
            progress.show(f"installing {name}")
            app = _edited(client, apps, found.folder, progress) or client.add_app_from(
                found.folder, network=found.network.name, name=name
            )
    return _installed(client, app, progress)


def _edited(client: Client, apps: list[App], folder: Path, progress: Progress) -> App | None:
    """Edit the newest app that may be; None if there is none of the caller's own, or no more."""
    for app in apps:
        if app.state in EDITABLE:
            threading.Thread(target=_narrate, args=(client, app, progress), daemon=True).start()
            with contextlib.suppress(Forbidden, AppNotEditable):
                return client.edit_app(app.id, source=folder)
    return None


def _narrate(client: Client, app: App, progress: Progress) -> None:
    """Show what happens to an app until it is edited; an edit that fails ends this with its connection."""
    with contextlib.suppress(Exception):
        for event in client.follow_events(app.id, after=app.seq):
            if event.topic == "app.edited":
                return
            progress.show(f"{app.name}: {event.message}")


def _installed(client: Client, app: App, progress: Progress) -> App:
    if app.state is AppState.CREATED:
        for event in client.follow_events(app.id):
            progress.show(f"{app.name}: {event.message}")
            if event.topic in {"app.testing", "app.error"}:
                break
        app = client.app(app.id)
    if app.error is not None:
        raise error_for(app.error.code, 422)(app.error.message, hint=app.error.hint, retryable=app.error.retryable)
    return app


def _opened(source: str, network: str | None, temporary: Path, progress: Progress) -> _Source:
    """Give a source as a folder: an archive is unpacked, and what a network knows how to pack is packed."""
    networks = installed_networks()
    # A Path of a URL would be another URL: there is none before it is known that there is something.
    path = Path(source) if os.path.lexists(source) else None
    if path is not None and not path.is_dir():
        path = _unpacked(path, temporary)
    if path is not None and path.is_dir():
        return _Source(folder=path, name=_name(path), network=choose(networks, path, network))
    if network is not None:
        networks = {network: choose(networks, temporary, network)}
    packed = _packed(source, networks, temporary / "packed")
    if packed is None:
        raise _unknown(source, networks)
    if path is None and not any(sign in source for sign in ":@"):
        network = packed.network.name
        progress.remark(f"There is no file or folder {source}: {network} takes it as the name of an image or the like.")
    return packed


def _unpacked(path: Path, temporary: Path) -> Path:
    """Unpack an archive; any other file stays what it is."""
    if not path.name.lower().endswith(ARCHIVES):
        return path
    folder = temporary / _name(path)
    unpack(path, folder)
    return folder


def _packed(source: str, networks: Mapping[str, Network], target: Path) -> _Source | None:
    """Let the networks make a folder of what is none; the first that can has it."""
    for network in networks.values():
        name = network.pack(source, target)
        if name is not None:
            return _Source(folder=target, name=name, network=network)
    return None


def _unknown(source: str, networks: Mapping[str, Network]) -> MoorageError:
    known = "; ".join(f"{network.name}: {network.looks_for}" for network in networks.values())
    if os.path.lexists(source) or "://" in source:
        return SourceNotRecognized(f"No network takes {source}.", hint=f"Known here: {known}.")
    return SourceNotFound(f"There is no file or folder {source}.", hint=f"Known here: {known}.")


def _name(source: Path) -> str:
    """Name an app after its folder or archive."""
    name = source.resolve().name
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or "app"
