"""Lists of messages by the filters of the API (contract, section 4.2)."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from moorage.networks.aleph.ledger import database, records
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.ledger.records import Record
from moorage.store.database import translated

SQL = database.load("listing")

Name = Literal[
    "types", "statuses", "addresses", "owners", "refs", "hashes", "content_types", "content_keys", "content_hashes",
    "channels", "chains", "tags",
]  # fmt: skip

_COLUMNS: Mapping[Name, str] = {
    "types": "type",
    "statuses": "status",
    "addresses": "sender",
    "owners": "owner",
    "refs": "ref",
    "hashes": "item_hash",
    "content_types": "kind",
    "content_keys": "key",
    "content_hashes": "file",
    "channels": "channel",
    "chains": "chain",
}
_CONDITIONS: Mapping[Name, str] = {
    **{name: SQL["among"].format(column=column, name=name) for name, column in _COLUMNS.items()},
    "tags": SQL["tagged"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which messages are asked for, and in which order."""

    among: Mapping[Name, Sequence[str]] = field(default_factory=dict)
    """The values, one of which a message must have."""
    start: float | None = None
    """Seconds since 1970, included."""
    end: float | None = None
    """Seconds since 1970, excluded."""
    ascending: bool = False
    originals: bool = False
    """Whether POSTs that amend others are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page ended."""

    time: float
    n: int


class Listing:
    """Looks through messages, the newest first unless the filter says otherwise; one thread at a time uses it.

    What the operator loaded unsigned is no message of the network, and never listed.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.lookups = Lookups(connection)
        """For what is to be said of the messages that were found."""

    def page(self, where: Filter, *, limit: int | None, offset: int = 0) -> list[Record]:
        """Read messages by how many others come before."""
        values = {"limit": -1 if limit is None else limit, "offset": offset}
        return self._records("page", where, values)

    def after(self, where: Filter, place: Place | None, *, limit: int) -> list[Record]:
        """Read the messages after the end of a page; from the first on if there was none."""
        if place is None:
            return self.page(where, limit=limit)
        return self._records("after", where, {"limit": limit, "time": place.time, "n": place.n})

    def count(self, where: Filter) -> int:
        """Count messages."""
        return int(self._rows("count", where, {})[0][0])

    def matches(self, where: Filter, item_hash: str) -> bool:
        """Tell whether a message is among those asked for."""
        return bool(self._rows("matches", where, {"item_hash": item_hash}))

    def _records(self, query: str, where: Filter, values: Mapping[str, Any]) -> list[Record]:
        return [records.record(row) for row in self._rows(query, where, values)]

    def _rows(self, query: str, where: Filter, values: Mapping[str, Any]) -> list[Any]:
        order, beyond = ("ASC", ">") if where.ascending else ("DESC", "<")
        text = SQL[query].format(filters=_filters(where), order=order, beyond=beyond)
        with translated():
            return self._connection.execute(text, {**_values(where), **values}).fetchall()


def _filters(where: Filter) -> str:
    parts = ["NOT unsigned"]
    parts += [_CONDITIONS[name] for name in where.among]
    if where.start is not None:
        parts.append("time >= :start")
    if where.end is not None:
        parts.append("time < :end")
    if where.originals:
        parts.append("kind <> 'amend'")
    return " AND ".join(parts)


def _values(where: Filter) -> dict[str, Any]:
    among: dict[str, Any] = {name: json.dumps(list(values)) for name, values in where.among.items()}
    return {**among, "start": where.start, "end": where.end}
