"""What the guest API must know of the programs that ask, and of what they bring (contract, sections 2.5 and 4.4)."""

import asyncio
from dataclasses import dataclass

from moorage.blobs.base import Blobs
from moorage.errors import NotFound
from moorage.networks.aleph.ledger.examination import MAX_STORED_CONTENT
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.program import Environment
from moorage.networks.aleph.messages.rules import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A program that asks."""

    item_hash: str
    environment: Environment
    owner: str
    origin: str
    """The original of which it is a version."""

    @property
    def space(self) -> str:
        """The name space of its cache: its versions share it as they share volumes, so that amends lose nothing."""
        return f"owner:{self.owner.lower()}" if self.environment.shared_cache else f"program:{self.origin}"


def guest_of(lookups: Lookups, item_hash: str) -> Guest | None:
    """Look a program up; None once it is forgotten."""
    loaded, message = lookups.program(item_hash), lookups.message(item_hash)
    if loaded is None or message is None or not isinstance(message.content, Machine):
        return None
    return Guest(
        item_hash=item_hash,
        environment=loaded.program.environment,
        owner=message.owner,
        origin=rules.origin(message.content, item_hash),
    )


async def stored_content(lookups: Lookups, blobs: Blobs, item_hash: str) -> bytes | None:
    """Read the content of a message that is a file of its own; None if it is not here, or too long to be one."""
    found = lookups.own_file(item_hash)
    if found is None or found[1] > MAX_STORED_CONTENT:
        return None
    try:
        return await asyncio.to_thread(blobs.path(found[0]).read_bytes)
    except NotFound:
        return None
