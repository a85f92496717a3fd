"""The one way in which states change, and what the database's errors mean."""

import sqlite3
from collections.abc import Iterator
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from moorage.errors import DiskFull, IllegalTransition, StoreUnavailable
from moorage.store.database import create, meaning
from moorage.store.transitions import APP, ATTEMPT, JOB, Machine, Subject, Transaction, transition

PAIRS = [(machine, *pair) for machine in (APP, JOB, ATTEMPT) for pair in product(machine.states, repeat=2)]


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Transaction]:
    connection = create(tmp_path / "moorage.db")
    connection.execute("CREATE TEMP TABLE thing AS SELECT 'old' AS state")
    yield Transaction(connection=connection, now=1.0)
    connection.close()


@pytest.mark.parametrize(("machine", "old", "new"), PAIRS)
def test_a_state_changes_with_its_event_if_the_table_allows_it(
    tx: Transaction, machine: Machine[Any], old: StrEnum, new: StrEnum
):
    subject, update = Subject(id="s", seq=4), "UPDATE thing SET state = :state"

    def change() -> None:
        transition(tx, machine, subject, old.value, new, update=update, values={}, message="m")

    if new in machine.table[old]:
        change()
        (event,) = tx.events
        assert (event.subject, event.seq, event.topic) == ("s", 5, f"{machine.noun}.{new.lower()}")
        assert tx.execute("SELECT state FROM thing").fetchone()["state"] == new.value
        assert tx.execute("SELECT topic FROM events WHERE subject = 's'").fetchone()["topic"] == event.topic
    else:
        with pytest.raises(IllegalTransition, match=f"{old.value}.*{new.value}"):
            change()
        assert tx.events == []
        assert tx.execute("SELECT state FROM thing").fetchone()["state"] == "old"
        assert tx.execute("SELECT count(*) AS n FROM events").fetchone()["n"] == 0


@pytest.mark.parametrize(
    ("code", "kind", "message", "retryable"),
    [
        (sqlite3.SQLITE_FULL, DiskFull, "no space", True),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable, "locked", True),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreUnavailable, "read-only", False),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreUnavailable, "damaged", False),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailable, "disk reports", False),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailable, "cannot be opened", False),
        (sqlite3.SQLITE_ERROR, StoreUnavailable, "refused", False),
    ],
)
def test_errors_of_the_database_are_told_in_our_words(
    code: int, kind: type[StoreUnavailable | DiskFull], message: str, retryable: bool
):
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    told = meaning(error)
    assert isinstance(told, kind)
    assert message in told.message
    assert told.retryable is retryable
