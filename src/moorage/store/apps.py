"""Apps: kept, edited and moved from state to state."""

import sqlite3
from dataclasses import replace
from typing import Any

from moorage.errors import AppNotEditable, AppUnavailable, IdempotencyConflict, NotFound
from moorage.model.apps import App
from moorage.model.jobs import ErrorInfo
from moorage.model.states import EDITABLE, AppState
from moorage.store import jobs, queries, rows
from moorage.store.base import AppFilter, Page
from moorage.store.transitions import APP, Steps, Subject, Transaction, transition

SQL = queries.load("apps")

CHANGEABLE = frozenset({"name", "digest", "size", "files", "manifest", "meta", "layers", "deploy"})
"""Fields of an app that an edit or a transition may change; the others are its identity or the store's own."""

GONE = {AppState.ERROR: "The app has an error.", AppState.REMOVED: "The app was removed."}
"""States from which an app does not come back, and what its queued jobs are told."""


def add(tx: Transaction, app: App, *, message: str) -> App:
    """Keep a new app."""
    app = replace(app, created_at=tx.now, updated_at=tx.now, seq=0)
    try:
        tx.execute(SQL["insert"], rows.app_columns(app))
        tx.append(subject := Subject(id=app.id, seq=0), "app.created", message)
    except sqlite3.IntegrityError as error:
        raise IdempotencyConflict(f"The id {app.id} is taken.") from error
    return replace(app, seq=subject.seq)


def get(connection: sqlite3.Connection, app_id: str) -> App:
    """Read one app."""
    row = connection.execute(SQL["get"], (app_id,)).fetchone()
    if row is None:
        raise NotFound(f"There is no app {app_id}.")
    return rows.app(row)


def known(tx: Transaction, app_id: str) -> App:
    """Give an app as it is inside the transaction."""
    if app_id not in tx.apps:
        tx.apps[app_id] = get(tx.connection, app_id)
    return tx.apps[app_id]


def listing(connection: sqlite3.Connection, where: AppFilter, page: Page) -> list[App]:
    """Read apps, newest first."""
    values = {
        "owner": where.owner,
        "network": where.network,
        "name": where.name,
        "state": where.state,
        "visible_to": where.visible_to,
        "limit": page.limit,
        "before": None if page.before is None else _place(connection, page.before),
    }
    return [rows.app(row) for row in connection.execute(SQL["list"], values)]


def _place(connection: sqlite3.Connection, app_id: str) -> int:
    row = connection.execute(SQL["place"], (app_id,)).fetchone()
    if row is None:
        raise NotFound(f"There is no app {app_id}.")
    return int(row["n"])


def edit(tx: Transaction, app_id: str, *, message: str, changes: dict[str, Any]) -> App:
    """Change fields of an app that is not pinned yet."""
    app = get(tx.connection, app_id)
    if app.state not in EDITABLE:
        raise AppNotEditable(f"The app is {app.state}; it is pinned by its digest and never edited.")
    edited = replace(app, updated_at=tx.now, **_checked(changes))
    tx.execute(SQL["update"], rows.app_columns(edited))
    tx.append(subject := Subject(id=app.id, seq=app.seq), "app.edited", message)
    return replace(edited, seq=subject.seq)


def change_state(
    tx: Transaction, app_id: str, new: AppState, *, message: str, error: ErrorInfo | None, changes: dict[str, Any]
) -> Steps[App]:
    """Move an app to another state; its queued jobs are cancelled if it is gone for good."""
    app = get(tx.connection, app_id)
    changed = replace(
        app,
        state=new,
        published=app.published or new is AppState.PUBLISHED,
        error=error or app.error,
        updated_at=tx.now,
        **_checked(changes),
    )
    subject, values = Subject(id=app.id, seq=app.seq), rows.app_columns(changed)
    transition(tx, APP, subject, app.state, new, update=SQL["update"], values=values, message=message, error=error)
    if new in GONE:
        yield from jobs.cancel_of_app(tx, app_id, AppUnavailable(GONE[new]).info)
    return replace(changed, seq=subject.seq)


def _checked(changes: dict[str, Any]) -> dict[str, Any]:
    if unknown := changes.keys() - CHANGEABLE:
        raise TypeError(f"An app's {', '.join(sorted(unknown))} cannot be changed")
    return changes
