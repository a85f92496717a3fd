"""The database file of the records and its queries."""

import sqlite3
from contextlib import ExitStack, closing
from importlib.resources import files
from pathlib import Path

from moorage.errors import DatabaseTooNew
from moorage.store.database import connect, translated

SCHEMA = 1


def load(name: str) -> dict[str, str]:
    """Read the queries of `sql/<name>.sql`, each below its own line `-- name: <query>`."""
    parts = (part.split("\n", 1) for part in _text(name).split("-- name: ")[1:])
    return {head.strip(): body.strip() for head, body in parts}


def create(path: Path) -> sqlite3.Connection:
    """Open the connection that writes, and make the file if it is not there.

    Raises DatabaseTooNew, DiskFull, StoreUnavailable.
    """
    with translated(), ExitStack() as stack:
        connection = stack.enter_context(closing(connect(path)))
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA:
            raise DatabaseTooNew(f"{path.name} has schema {version}; this version of Moorage knows up to {SCHEMA}.")
        connection.execute("PRAGMA journal_mode = WAL")
        if version < SCHEMA:
            connection.executescript(f"BEGIN IMMEDIATE;\n{_text('schema')}\nCOMMIT;")
        stack.pop_all()
    return connection


def _text(name: str) -> str:
    return files(__package__).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
