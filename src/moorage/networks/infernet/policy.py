"""Which requests this node refuses, and in which words (contract, section 5.2)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Protocol

from moorage.model.jobs import JSON
from moorage.networks.infernet.wire import DelegatedRequest, OffchainRequest

Network = IPv4Network | IPv6Network
Client = IPv4Address | IPv6Address


class Container(Protocol):
    """What the operator says of a container, as far as it decides who may use it (section 3.1)."""

    @property
    def id(self) -> str:
        """Its name in requests."""

    @property
    def external(self) -> bool:
        """Whether it may be the first of a request."""

    @property
    def generates_proofs(self) -> bool:
        """Whether it may be the last where a proof is asked."""

    @property
    def allowed_ips(self) -> Collection[Network]:
        """Who may send off-chain jobs; nobody named is everybody. IPv4 within IPv6 is IPv4."""

    @property
    def allowed_delegate_addresses(self) -> Collection[str]:
        """Owners whose delegated subscriptions are taken, lower case after `0x`; none named is all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is refused, in the exact words of the network."""

    text: str
    params: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, JSON]:
        """The refusal as JSON; its status is 405."""
        return {"error": self.text, "params": dict(self.params)}


@lru_cache(maxsize=4096)
def client(text: str) -> Client:
    """Read the address of a client; `::ffff:a.b.c.d` is `a.b.c.d` (section 4.7).

    Raises ValueError.
    """
    found = ip_address(text)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


@lru_cache(maxsize=4096)
def text_of(client: Client) -> str:
    """Write the address of a client."""
    return str(client)


def offchain(request: OffchainRequest, *, sender: Client, configured: Mapping[str, Container]) -> Refusal | None:
    """Find the first reason to refuse an off-chain job."""
    if not request.containers:
        return Refusal(text="No containers specified")
    for name in request.containers:
        if name not in configured:
            return Refusal(text="Container not supported", params={"container": name})
    chain = [configured[name] for name in request.containers]
    return _unfit(chain, needs_proof=request.requires_proof) or _denied(
        chain, sender, lambda container: _within(sender, container.allowed_ips)
    )


def delegated(
    request: DelegatedRequest,
    *,
    chain_enabled: bool,
    now: float,
    resolve: Callable[[str], Sequence[str] | None],
    configured: Mapping[str, Container],
) -> Refusal | None:
    """Find the first reason to refuse a delegated subscription, short of its payment (section 2.5.1).

    `now` is the block time. `resolve` finds the names of a container-set by its hash: `0x` and lower case.
    """
    posted = {"delegated_subscription": request.posted}
    if not chain_enabled:
        return Refusal(text="Chain not enabled", params=posted)
    if now >= request.signature.expiry:
        return Refusal(text="Signature expired", params=posted)
    subscription = request.subscription
    names = resolve(subscription.containers)
    if not names:
        return Refusal(text="Container-set not supported", params={"containers_hash": subscription.containers})
    chain = [configured[name] for name in names]
    return _unfit(chain, needs_proof=subscription.needs_proof) or _denied(
        chain, subscription.owner, lambda container: _named(subscription.owner, container.allowed_delegate_addresses)
    )


def _within(address: Client, networks: Collection[Network]) -> bool:
    return not networks or any(address in network for network in networks)


def _named(owner: str, owners: Collection[str]) -> bool:
    return not owners or owner in owners


def _unfit(chain: Sequence[Container], *, needs_proof: bool) -> Refusal | None:
    first, last = chain[0], chain[-1]
    if not first.external:
        return Refusal(text="First container must be external", params={"first_container": first.id})
    if needs_proof and not last.generates_proofs:
        return Refusal(text="Container does not generate proof", params={"container": last.id})
    return None


def _denied(chain: Sequence[Container], address: object, allows: Callable[[Container], bool]) -> Refusal | None:
    """Ask every container of the chain, for any of them may be the one that is kept from others."""
    for container in chain:
        if not allows(container):
            params = {"container": container.id, "address": str(address)}
            return Refusal(text="Container not allowed for address", params=params)
    return None
