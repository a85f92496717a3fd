"""Tokens of callers."""

import sqlite3

from moorage.errors import IdempotencyConflict, NotFound
from moorage.store import queries, rows
from moorage.store.base import Token
from moorage.store.transitions import Transaction

SQL = queries.load("tokens")


def add(tx: Transaction, token: Token) -> None:
    """Keep a token."""
    try:
        tx.execute(SQL["insert"], (token.name, token.sha256, token.operator, token.created_at))
    except sqlite3.IntegrityError as error:
        raise IdempotencyConflict(f"There is a token for {token.name} already.") from error


def listing(connection: sqlite3.Connection) -> list[Token]:
    """Read all tokens, by name."""
    return [rows.token(row) for row in connection.execute(SQL["all"])]


def remove(tx: Transaction, name: str) -> None:
    """Forget a token."""
    if not tx.execute(SQL["delete"], (name,)).rowcount:
        raise NotFound(f"There is no token for {name}.")
