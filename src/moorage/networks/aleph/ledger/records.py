"""Rows of the ledger as values."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from json import loads
from typing import Literal

from moorage.model.jobs import JSON
from moorage.networks.aleph.messages.envelope import Envelope

Status = Literal["processed", "pending", "rejected", "forgotten"]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Bytes that are stored."""

    hash: str
    """Their sha256 or CID, or a name that the operator gave them."""
    digest: str
    """Of the blob that holds them."""
    size: int
    alias: bool = False
    """Whether `hash` is only a name."""
    kept: bool = False
    """Whether it stays though no message is left that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message that waits, holds, or is forgotten."""

    n: int
    """Its number in the order of arrival."""
    status: Status
    received: float
    """Unix seconds."""
    envelope: Envelope
    content: Mapping[str, JSON] | None
    """None while it is not here, and once it is forgotten."""
    size: int | None
    """Bytes of the content."""
    unsigned: bool
    program: str | None
    """The program through whose guest API it came."""
    code: int | None
    """Why it waits."""
    forgotten_by: str | None

    @property
    def shown(self) -> dict[str, JSON]:
        """The message object that we return (contract, section 4.2)."""
        if self.content is None:
            return self.envelope.without_content
        return self.envelope.shown(self.content, size=self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a message was refused, the latest time it came."""

    item_hash: str
    received: float
    code: int
    details: Mapping[str, JSON]
    message: Mapping[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One use of a program."""

    run_id: str
    item_hash: str
    """Of the version that ran."""
    trigger: str
    started: float
    ended: float | None = None
    status: int | None = None
    refs: Mapping[str, JSON]
    """What its references led to."""
    request: JSON = None
    """What was asked of it, as `runs` writes it."""
    response: JSON = None
    """The body that it answered with, by digest and size; None if there was no answer."""
    export: JSON = None


def record(row: sqlite3.Row) -> Record:
    """Make a record of a row."""
    inline = row["item_content"]
    envelope = Envelope(
        chain=row["chain"],
        sender=row["sender"],
        type=row["type"],
        channel=row["channel"],
        signature=row["signature"],
        time=row["time"],
        item_type=row["item_type"],
        item_content=inline,
        item_hash=row["item_hash"],
        content=None if inline is None else loads(inline),
        given_content=None,
    )
    return Record(
        n=row["n"],
        status=row["status"],
        received=row["received"],
        envelope=envelope,
        content=envelope.content if row["content"] is None else loads(row["content"]),
        size=row["size"],
        unsigned=bool(row["unsigned"]),
        program=row["program"],
        code=row["code"],
        forgotten_by=row["forgotten_by"],
    )


def rejection(row: sqlite3.Row) -> Rejection:
    """Make a rejection of a row."""
    return Rejection(
        item_hash=row["item_hash"],
        received=row["received"],
        code=row["code"],
        details=loads(row["details"]),
        message=loads(row["message"]),
    )


def run(row: sqlite3.Row) -> Run:
    """Make a run of a row."""
    return Run(
        run_id=row["run_id"],
        item_hash=row["item_hash"],
        trigger=row["trigger"],
        started=row["started"],
        ended=row["ended"],
        status=row["status"],
        refs=loads(row["refs"]),
        request=loads(row["request"] or "null"),
        response=loads(row["response"] or "null"),
        export=loads(row["export"] or "null"),
    )
