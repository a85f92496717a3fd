"""Writes at work in a transaction, and the one way in which states change."""

import sqlite3
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from moorage.errors import IllegalTransition
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import JSON, ErrorInfo
from moorage.model.states import (
    APP_TRANSITIONS,
    ATTEMPT_TRANSITIONS,
    JOB_TRANSITIONS,
    AppState,
    AttemptState,
    JobState,
    S,
    may_follow,
)
from moorage.store import queries, rows

SQL = queries.load("transitions")

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A write that may be long: it yields wherever the loop may do something else in between."""


@dataclass(slots=True, kw_only=True)
class Subject:
    """Whose history grows: a job or an app, and the number of its last event."""

    id: str
    seq: int


@dataclass(slots=True, kw_only=True)
class Transaction:
    """What the writes of a group have at hand: the connection, the time, and the events made so far."""

    connection: sqlite3.Connection
    now: float
    events: list[Event] = field(default_factory=list)
    begins: bool = False
    """Whether a write has begun something whose requests are better on their way before the disk is waited for."""
    apps: dict[str, App] = field(default_factory=dict)
    """Apps as they are in this transaction, as far as they were read: most writes are jobs of a few apps."""

    def execute(self, sql: str, values: tuple[Any, ...] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self.connection.execute(sql, values)

    def one(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Row | None:
        """Read one row."""
        row: sqlite3.Row | None = self.connection.execute(sql, values).fetchone()
        return row

    def append(
        self,
        subject: Subject,
        topic: str,
        message: str,
        *,
        attempt_id: str | None = None,
        error: ErrorInfo | None = None,
        data: Mapping[str, JSON] | None = None,
    ) -> None:
        """Add the next event to a history."""
        subject.seq += 1
        self.apps.pop(subject.id, None)
        # A message may quote a file name that is not valid UTF-8, and must be kept all the same.
        if not message.isascii():
            message = message.encode(errors="backslashreplace").decode()
        error_text, data_text = rows.error_text(error), rows.dumps(dict(data)) if data else None
        values = (subject.id, subject.seq, self.now, topic, message, attempt_id, error_text, data_text)
        cursor = self.execute(SQL["append"], values)
        self.events.append(
            Event(
                id=cursor.lastrowid or 0,
                subject=subject.id,
                seq=subject.seq,
                time=self.now,
                topic=topic,
                message=message,
                attempt_id=attempt_id,
                error=error,
                data=data or {},
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Generic[S]):
    """A kind of thing that has states."""

    noun: str
    states: type[S]
    table: Mapping[S, frozenset[S]]


APP = Machine(noun="app", states=AppState, table=APP_TRANSITIONS)
JOB = Machine(noun="job", states=JobState, table=JOB_TRANSITIONS)
ATTEMPT = Machine(noun="attempt", states=AttemptState, table=ATTEMPT_TRANSITIONS)


def transition(
    tx: Transaction,
    machine: Machine[S],
    subject: Subject,
    old: str,
    new: S,
    *,
    update: str,
    values: Mapping[str, Any],
    message: str,
    attempt_id: str | None = None,
    error: ErrorInfo | None = None,
) -> None:
    """Change a state: check the table, run `update` (which takes `:state`) and append `<noun>.<state>`.

    Every state change of an app, job or attempt comes through here. Raises IllegalTransition.
    """
    if not may_follow(machine.table, machine.states(old), new):
        raise IllegalTransition(f"The {machine.noun} is {old}; it cannot become {new}.", old=old, new=new.value)
    tx.execute(update, {**values, "state": new.value})
    tx.append(subject, f"{machine.noun}.{new.lower()}", message, attempt_id=attempt_id, error=error)
