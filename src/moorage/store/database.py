"""Connections to the database file, its migrations, and what its errors mean to a user."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.resources import files
from pathlib import Path

from moorage.errors import DatabaseTooNew, DiskFull, Invalid, StoreUnavailable

BUSY_SECONDS = 10.0
STATEMENTS = 256
"""Prepared statements kept by each connection: more than we have queries."""

_TROUBLE = {
    sqlite3.SQLITE_BUSY: "Another process keeps the database locked.",
    sqlite3.SQLITE_LOCKED: "Another process keeps the database locked.",
    sqlite3.SQLITE_READONLY: "The database cannot be written: it is read-only.",
    sqlite3.SQLITE_CORRUPT: "The database is damaged.",
    sqlite3.SQLITE_NOTADB: "The database file is not a database.",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened.",
    sqlite3.SQLITE_IOERR: "The database's disk reports an error.",
}


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection that one thread at a time uses; transactions are begun and ended by hand."""
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    # Savepoints keep copies of pages: in memory rather than in temporary files.
    connection.execute("PRAGMA temp_store = MEMORY")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def create(path: Path) -> sqlite3.Connection:
    """Open the writer's connection and bring the file to the present schema.

    Raises DatabaseTooNew before anything is changed, DiskFull, StoreUnavailable.
    """
    with translated(), ExitStack() as stack:
        connection = stack.enter_context(closing(connect(path)))
        version, known = _version(connection), _migrations()
        _refuse_newer(path, version, len(known))
        connection.execute("PRAGMA journal_mode = WAL")
        for number, script in enumerate(known[version:], start=version + 1):
            _apply(connection, number, script)
        stack.pop_all()
    return connection


def _refuse_newer(path: Path, version: int, known: int) -> None:
    if version > known:
        raise DatabaseTooNew(f"{path.name} has schema {version}; this version of Moorage knows up to {known}.")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrations() -> list[str]:
    folder = files("moorage.store").joinpath("migrations")
    scripts = sorted((each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name)
    return [script.read_text(encoding="utf-8") for script in scripts]


def _apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the database in the words of our catalogue."""
    try:
        yield
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise meaning(error) from error


def meaning(error: Exception) -> Exception:
    """Say what an error of the database means to a user; any other error means what it says."""
    if isinstance(error, UnicodeEncodeError):
        return Invalid(f"A text is not valid Unicode: {error.object!a}.")
    if not isinstance(error, sqlite3.Error):
        return error
    code = _primary(error)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("The database cannot grow: no space is left on its disk.")
    message = _TROUBLE.get(code, "The database refused a request.")
    return StoreUnavailable(f"{message} ({error})", retryable=passes(error))


def passes(error: sqlite3.Error) -> bool:
    """Tell whether a trouble ends by itself: another process has the database locked."""
    return _primary(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _primary(error: sqlite3.Error) -> int:
    # Extended codes keep the primary one in their low byte.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
