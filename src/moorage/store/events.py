"""Histories: events added by others than the store, and all of them read back."""

import sqlite3

from moorage.errors import NotFound
from moorage.model.events import Event
from moorage.store import queries, rows
from moorage.store.transitions import Subject, Transaction

SQL = queries.load("events")


def append(tx: Transaction, event: Event) -> None:
    """Add one event; every job and app has at least the event of its making."""
    last = tx.execute(SQL["last"], (event.subject,)).fetchone()["seq"]
    if last is None:
        raise NotFound(f"There is no job or app {event.subject}.")
    subject = Subject(id=event.subject, seq=last)
    tx.append(subject, event.topic, event.message, attempt_id=event.attempt_id, error=event.error, data=event.data)


def listing(connection: sqlite3.Connection, subject: str | None, after: int, limit: int) -> list[Event]:
    """Read events of one subject by their number, or of all by their id."""
    if subject is None:
        found = connection.execute(SQL["of_all"], (after, limit))
    else:
        found = connection.execute(SQL["of_subject"], (subject, after, limit))
    return [rows.event(row) for row in found]
