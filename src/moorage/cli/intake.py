"""From a source to an app that can run: found again, edited or added, and installed."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from moorage.cli.render import Progress
from moorage.client import Client
from moorage.errors import AppNotEditable, Forbidden, SourceNotFound, error_for
from moorage.layers.archives import unpack
from moorage.layers.trees import describe
from moorage.model.apps import App
from moorage.model.states import EDITABLE, RUNNABLE, AppState
from moorage.networks.base import choose, installed_networks

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


def ensure_app(client: Client, source: Path, *, network: str | None, name: str | None, progress: Progress) -> App:
    """Give an app with exactly the files of a source, ready to run.

    One with these files is used as it is. Otherwise one of this name that is not published yet is edited; else a new
    one is added. Raises SourceNotFound, SourceNotRecognized, BadApp, BadManifest, InstallFailed, …
    """
    name = name or _name(source)
    with _folder(source) as folder:
        progress.show(f"reading {name}")
        translator = choose(installed_networks(), folder, network)
        digest = describe(folder, translator.load(folder).ignore).digest
        apps = [app for app in client.apps(name=name, network=translator.name) if app.state in EDITABLE | RUNNABLE]
        app = next((app for app in apps if app.digest == digest), None)
        if app is None:
            progress.show(f"installing {name}")
            app = _edited(client, apps, folder, progress) or client.add_app_from(
                folder, network=translator.name, name=name
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


@contextlib.contextmanager
def _folder(source: Path) -> Iterator[Path]:
    """Give a source as a folder: an archive is unpacked for as long as the context lasts."""
    if not source.exists():
        raise SourceNotFound(f"There is no file or folder {source}.")
    if source.is_dir() or not source.name.lower().endswith(ARCHIVES):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="moorage-") as temporary:
        folder = Path(temporary, _name(source))
        unpack(source, folder)
        yield folder


def _name(source: Path) -> str:
    """Name an app after its folder or archive."""
    name = source.resolve().name
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or "app"
