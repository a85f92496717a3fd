"""Who may control a program: its owner, and whom the owner lets publish programs (contract, sections 3.6 and 4.5)."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime

from starlette.requests import HTTPConnection

from moorage.networks.aleph.control.auth import OPERATION, PUBKEY, Asked, Wallet, authenticate
from moorage.networks.aleph.facade.answers import Refused
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.envelope import hash_kind
from moorage.networks.aleph.messages.rules import Machine, Message


class NotOwner(Exception):
    """Whoever asks may not do that."""


class Gate:
    """Lets owners in."""

    def __init__(self, lookups: Lookups, domains: Collection[str], clock: Callable[[], float]) -> None:
        self._lookups, self._domains, self._clock = lookups, frozenset(map(str.lower, domains)), clock

    def wallet(self, connection: HTTPConnection, pubkey: object, operation: object) -> Wallet:
        """Find out who asks.

        Raises Refused.
        """
        method = connection.scope.get("method", "GET")  # websockets begin with one, too
        now = datetime.fromtimestamp(self._clock(), UTC)
        asked = Asked(method=method, path=connection.scope["path"], now=now)
        return authenticate(pubkey, operation, asked, domains=self._domains)

    def admit(self, wallet: Wallet, item_hash: str) -> None:
        """See that a program is here and that it is for this wallet to control.

        Raises Refused, NotOwner.
        """
        if hash_kind(item_hash) is None:
            raise Refused(400, f"Invalid ref: '{item_hash}'")
        message = self._lookups.message(item_hash)
        if message is None or message.type != "PROGRAM" or not isinstance(message.content, Machine):
            raise absent(item_hash)
        if not self._may_control(wallet, message):
            raise NotOwner

    def enter(self, connection: HTTPConnection, item_hash: str) -> None:
        """Do both, with the proofs in the headers of a request.

        Raises Refused, NotOwner.
        """
        headers = connection.headers
        self.admit(self.wallet(connection, headers.get(PUBKEY), headers.get(OPERATION)), item_hash)

    def _may_control(self, wallet: Wallet, message: Message) -> bool:
        return rules.authorised(self._lookups, replace(message, chain=wallet.chain, sender=wallet.address))


def absent(item_hash: str) -> Refused:
    """Say that there is no such program."""
    return Refused(404, f"No virtual machine with ref {item_hash}")
