"""Changes of the ledger; each function runs within a transaction of the caller."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moorage.model.jobs import JSON
from moorage.networks.aleph.ledger import database
from moorage.networks.aleph.ledger.facts import Facts
from moorage.networks.aleph.ledger.records import File, Record, Run
from moorage.networks.aleph.messages.envelope import Envelope

SQL = database.load("writes")

MAX_REJECTIONS = 1000
"""Refusals that are remembered: anybody can cause them."""
MAX_RUNS = 10_000
"""Runs that are remembered: the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message that is to be kept."""

    n: int | None
    """Its number, if it has waited here."""
    envelope: Envelope
    received: float
    facts: Facts | None
    """None while the content is not here."""
    content: str | None = None
    """The text of a stored content."""
    size: int | None = None
    unsigned: bool = False
    program: str | None = None


def keep_pending(connection: sqlite3.Connection, entry: Entry, *, code: int, missing: Iterable[str]) -> None:
    """Keep a message that waits."""
    n = _insert(connection, entry, "pending", code=code)
    connection.executemany(SQL["await"], ((name, n) for name in missing))
    connection.execute(SQL["drop_rejection"], (entry.envelope.item_hash,))


def keep_processed(connection: sqlite3.Connection, entry: Entry) -> None:
    """Keep a message that holds, in place of any other that claims its hash."""
    connection.execute(SQL["drop_others"], (entry.envelope.item_hash,))
    n = _insert(connection, entry, "processed")
    assert entry.facts is not None
    connection.executemany(SQL["tag"], ((tag, n) for tag in entry.facts.tags))
    connection.executemany(SQL["use"], ((ref, n) for ref in entry.facts.uses))
    connection.execute(SQL["drop_rejection"], (entry.envelope.item_hash,))


def reject(
    connection: sqlite3.Connection,
    item_hash: str,
    message: Mapping[str, JSON],
    *,
    received: float,
    code: int,
    details: Mapping[str, JSON],
) -> None:
    """Remember why a message was refused, unless there is one of this hash that was not."""
    if connection.execute(SQL["known"], (item_hash,)).fetchone():
        return
    connection.execute(SQL["reject"], (item_hash, received, code, json.dumps(details), json.dumps(message)))
    connection.execute(SQL["drop_old_rejections"], (MAX_REJECTIONS,))


def drop(connection: sqlite3.Connection, n: int | None) -> None:
    """Take out a message that waited, if it has."""
    connection.execute(SQL["drop"], (n,))


def forget(connection: sqlite3.Connection, targets: Collection[Record], *, by: str) -> None:
    """Leave of messages nothing but the envelope (contract, section 3.6).

    A file goes with its last STORE, unless a program names it; its bytes stay where blobs are, but by no name here.
    """
    for target in targets:
        item_hash = target.envelope.item_hash
        connection.execute(SQL["untag"], (target.n,))
        connection.execute(SQL["unuse"], (target.n,))
        connection.execute(SQL["forget"], {"item_hash": item_hash, "by": by}).fetchall()
        connection.execute(SQL["undeliver"], {"item_hash": item_hash})
        file = target.content.get("item_hash") if target.content and target.envelope.type == "STORE" else None
        connection.execute(SQL["drop_file"], {"hash": file})


def add_file(connection: sqlite3.Connection, file: File) -> None:
    """Keep where the bytes of a file are; one that has the hash is never replaced by an alias."""
    connection.execute(SQL["add_file"], (file.hash, file.digest, file.size, file.alias, file.kept))


def add_deliveries(connection: sqlite3.Connection, item_hash: str, programs: Iterable[str]) -> None:
    """Note to which programs a message is to be delivered."""
    connection.executemany(SQL["deliver"], ((item_hash, program) for program in programs))


def add_run(connection: sqlite3.Connection, run: Run) -> None:
    """Keep that a run has begun, in place of an earlier try at it."""
    values = (run.run_id, run.item_hash, run.trigger, run.started, json.dumps(run.refs))
    connection.execute(SQL["add_run"], values)
    connection.execute(SQL["forget_old_runs"], (MAX_RUNS,))


def end_run(connection: sqlite3.Connection, run: Run) -> None:
    """Keep what came of a run."""
    told = map(json.dumps, (run.request, run.response, run.export))
    connection.execute(SQL["end_run"], (run.ended, run.status, *told, run.run_id))


def _insert(connection: sqlite3.Connection, entry: Entry, status: str, *, code: int | None = None) -> int:
    drop(connection, entry.n)
    n = connection.execute(SQL["insert"], {**_columns(entry), "status": status, "code": code}).lastrowid
    assert n is not None
    return n


def _columns(entry: Entry) -> dict[str, Any]:
    envelope, facts = entry.envelope, entry.facts
    return {
        **envelope.broadcast,
        "n": entry.n,
        "received": entry.received,
        "content": entry.content,
        "size": entry.size,
        "unsigned": entry.unsigned,
        "program": entry.program,
        "role": facts and facts.message.type,
        "owner": facts and facts.message.owner,
        "made": facts and facts.message.time,
        "ref": facts and facts.ref,
        "kind": facts and facts.kind,
        "key": facts and facts.key,
        "file": facts and facts.file,
        "triggered": bool(facts and facts.triggered),
    }
