"""What the ledger knows, read over one connection; each look-up is driven by an index."""

import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from moorage.networks.aleph.ledger import database, facts, records
from moorage.networks.aleph.ledger.facts import Facts
from moorage.networks.aleph.ledger.records import Record, Rejection, Run
from moorage.networks.aleph.messages.drafts import Loaded
from moorage.networks.aleph.messages.rules import Message
from moorage.store.database import translated

SQL = database.load("lookups")

PROGRAMS = 128
"""Programs that are kept as they were read, for each request asks for one."""


class Lookups:
    """The ledger as the rules see it, and what else is asked of it; one thread at a time uses an object.

    All raise StoreUnavailable where the database fails.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # By number: what is behind one never changes while it holds, and no number is used twice.
        self._program = lru_cache(PROGRAMS)(self._read)

    # as the rules ask

    def message(self, item_hash: str) -> Message | None:
        """Look up a message that holds."""
        row = self._row("processed", item_hash)
        return self._facts(row).message if row else None

    def forgotten(self, item_hash: str) -> bool:
        """Tell whether a message was here and is forgotten."""
        return self._row("forgotten", item_hash) is not None

    def referring(self, ref: str) -> list[Message]:
        """List what amends, updates or replaces a message, or bears a name that its owner chose."""
        return list(self._messages("referring", ref))

    def elements(self, owner: str, key: str) -> list[Message]:
        """List the AGGREGATEs of an owner under a key."""
        return list(self._messages("elements", key, owner))

    def using(self, ref: str) -> list[Message]:
        """List the programs that cannot do without a file."""
        return list(self._messages("using", ref))

    def has_file(self, file_hash: str) -> bool:
        """Tell whether a file of this hash, or alias, is stored."""
        return self._row("file", file_hash) is not None

    # records

    def record(self, item_hash: str) -> Record | None:
        """Look up a message that holds or is forgotten."""
        row = self._row("settled", item_hash)
        return records.record(row) if row else None

    def pending(self, item_hash: str) -> list[Record]:
        """List the messages of this hash that wait: several may claim it."""
        return [records.record(row) for row in self._rows("pending", item_hash)]

    def all_pending(self) -> list[int]:
        """List the numbers of all messages that wait."""
        return [row["n"] for row in self._rows("all_pending")]

    def numbered(self, n: int) -> Record | None:
        """Look up a message by its number."""
        row = self._row("by_number", n)
        return records.record(row) if row else None

    def rejection(self, item_hash: str) -> Rejection | None:
        """Tell why a message was refused."""
        row = self._row("rejection", item_hash)
        return records.rejection(row) if row else None

    def unsigned(self, item_hash: str) -> bool:
        """Tell whether a message that holds was loaded by the operator without a signature that was verified."""
        row = self._row("processed", item_hash)
        return row is not None and bool(row["unsigned"])

    def waits_for(self, item_hash: str) -> tuple[str, ...]:
        """Tell what a pending message waits for: hashes of messages and files, keys of aggregates."""
        return tuple(row["name"] for row in self._rows("awaited", item_hash))

    def awaited_by(self, n: int) -> frozenset[str]:
        """Tell what the pending message of a number waits for."""
        return frozenset(row["name"] for row in self._rows("awaited_by", n))

    def awaiting(self, name: str) -> list[int]:
        """List the numbers of the pending messages that wait for something."""
        return [row["n"] for row in self._rows("awaiting", name)]

    # programs

    def program(self, item_hash: str) -> Loaded | None:
        """Give a program that holds."""
        row = self._row("processed", item_hash)
        return self._facts(row).loaded if row else None

    def programs(self) -> list[str]:
        """List the hashes of all programs that hold, amends included."""
        return [row["item_hash"] for row in self._rows("programs")]

    def triggered(self) -> list[str]:
        """List the hashes of those that run for messages, by the clock, or all the time."""
        return [row["item_hash"] for row in self._rows("triggered")]

    # files

    def file(self, file_hash: str) -> tuple[str, int] | None:
        """Give the digest of the blob and the size of a file, by its sha256, CID or alias."""
        row = self._row("file", file_hash)
        return (row["digest"], row["size"]) if row else None

    def own_file(self, file_hash: str) -> tuple[str, int] | None:
        """Give a file as `file` does, but by no alias: what is found has this hash."""
        row = self._row("own_file", file_hash)
        return (row["digest"], row["size"]) if row else None

    def newest_store_of(self, owner: str) -> str | None:
        """Give the hash of an owner's STORE with the greatest `content.time`."""
        row = self._row("newest_store", owner)
        return row["item_hash"] if row else None

    def named_store(self, owner: str, ref: str) -> str | None:
        """Give the hash of the newest STORE for which an owner chose this name."""
        row = self._row("named_store", {"owner": owner, "ref": ref})
        return row["item_hash"] if row else None

    # aggregates, deliveries and runs

    def keys(self, owner: str) -> list[str]:
        """List the keys of an owner's aggregates."""
        return [row["key"] for row in self._rows("keys", owner)]

    def deliveries(self) -> list[tuple[str, str]]:
        """List what is still to be delivered, the hash of the message and of the program, as messages arrived."""
        return [(row["message"], row["program"]) for row in self._rows("deliveries")]

    def run(self, run_id: str) -> Run | None:
        """Look up a run."""
        row = self._row("run", run_id)
        return records.run(row) if row else None

    # plumbing

    def _facts(self, row: Any) -> Facts:
        return self._program(row["n"]) if row["role"] == "PROGRAM" else self._read(row["n"])

    def _read(self, n: int) -> Facts:
        found = self.numbered(n)
        assert found is not None
        assert found.content is not None
        return facts.read(found.envelope, found.content, unsigned=found.unsigned)

    def _messages(self, query: str, *values: str) -> Iterator[Message]:
        return (self._facts(row).message for row in self._rows(query, *values))

    def _row(self, query: str, *values: Any) -> Any:
        found = self._rows(query, *values)
        return found[0] if found else None

    def _rows(self, query: str, *values: Any) -> list[Any]:
        given = values[0] if values and isinstance(values[0], dict) else values
        with translated():
            return self._connection.execute(SQL[query], given).fetchall()
