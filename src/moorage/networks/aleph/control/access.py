"""Who may control a program: its owner, and whom the owner lets publish programs (contract, sections 3.6 and 4.5)."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime

from starlette.requests import HTTPConnection

from moorage.networks.aleph.control.auth import OPERATION, PUBKEY, Asked, Wallet, authenticate
from moorage.networks.aleph.facade.answers import Refused
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.hashes import hash_kind
from moorage.networks.aleph.messages.rules import Machine, Message


class NotOwner(Exception):
    """Whoever asks may not do that."""


class Gate:
    """Lets owners in."""

    def __init__(self, lookups: Lookups, domains: Collection[str], clock: Callable[[], float]) -> None:
        self._lookups, self._domains, self._clock = lookups, frozenset(map(str.lower, domains)), clock

    async def admit(self, connection: HTTPConnection, item_hash: str, *, pubkey: object, operation: object) -> None:
        """See that a program is here and that it is for whoever asks to control.

        Raises Refused, NotOwner.
        """
        self._program(item_hash)  # to verify costs more than to look
        wallet = await self._wallet(connection, pubkey, operation)
        if not self._may_control(wallet, self._program(item_hash)):
            raise NotOwner

    async def enter(self, connection: HTTPConnection, item_hash: str) -> None:
        """Do so with the proofs in the headers of a request.

        Raises Refused, NotOwner.
        """
        headers = connection.headers
        await self.admit(connection, item_hash, pubkey=headers.get(PUBKEY), operation=headers.get(OPERATION))

    async def _wallet(self, connection: HTTPConnection, pubkey: object, operation: object) -> Wallet:
        method = connection.scope.get("method", "GET")  # websockets begin with one, too
        now = datetime.fromtimestamp(self._clock(), UTC)
        asked = Asked(method=method, path=connection.scope["path"], now=now)
        return await asyncio.to_thread(authenticate, pubkey, operation, asked, domains=self._domains)

    def _program(self, item_hash: str) -> Message:
        if hash_kind(item_hash) is None:
            raise Refused(400, f"Invalid ref: '{item_hash}'")
        message = self._lookups.message(item_hash)
        if message is None or message.type != "PROGRAM" or not isinstance(message.content, Machine):
            raise absent(item_hash)
        return message

    def _may_control(self, wallet: Wallet, message: Message) -> bool:
        return rules.authorised(self._lookups, replace(message, chain=wallet.chain, sender=wallet.address))


def absent(item_hash: str) -> Refused:
    """Say that there is no such program."""
    return Refused(404, f"No virtual machine with ref {item_hash}")
