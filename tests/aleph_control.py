"""Proofs as the network's clients make them for owners, and programs that seem to run."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moorage.errors import ServiceUnavailable
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.control.app import Control
from moorage.networks.aleph.messages.hashes import base58_encode
from moorage.networks.aleph.messages.signatures import sign_evm
from moorage.networks.aleph.programs.deployments import Resolver
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.networks.base import Endpoint, ServiceSpec, ServiceState
from tests.aleph import Desk, Wallet, opened

DOMAIN = "localhost"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Signer:
    """A client that has a key of its own, for which a wallet vouches."""

    wallet: Wallet = field(default_factory=Wallet)
    key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP256R1()))

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": _base64url(numbers.x), "y": _base64url(numbers.y)}

    def pubkey(self, **fields: Any) -> dict[str, Any]:
        expires = iso(NOW + timedelta(days=1))
        document = {"pubkey": self.jwk, "alg": "ECDSA", "domain": DOMAIN, "address": self.wallet.address,
                    "expires": expires, "chain": "ETH", **fields}  # fmt: skip
        payload = json.dumps(document).encode()
        return {"sender": "anybody", "payload": payload.hex(), "signature": sign_evm(self.wallet.key, payload)}

    def operation(self, path: str, **fields: Any) -> dict[str, str]:
        document = {"time": iso(NOW), "method": "POST", "path": path, "domain": DOMAIN, **fields}
        payload = json.dumps(document).encode()
        r, s = decode_dss_signature(self.key.sign(payload, ECDSA(SHA256())))
        return {"payload": payload.hex(), "signature": (r.to_bytes(32) + s.to_bytes(32)).hex()}

    def headers(self, path: str, **fields: Any) -> dict[str, str]:
        return {
            "X-SignedPubKey": json.dumps(self.pubkey()),
            "X-SignedOperation": json.dumps(self.operation(path, **fields)),
        }


@dataclass(frozen=True)
class SolanaSigner(Signer):
    """One whose wallet is of Solana."""

    solana: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def pubkey(self, **fields: Any) -> dict[str, Any]:
        public = self.solana.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        document = super().pubkey(**{"address": base58_encode(public), "chain": "SOL", **fields})
        return {**document, "signature": f"0x{self.solana.sign(document['payload'].encode()).hex()}"}


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32)).decode().rstrip("=")


def iso(moment: datetime) -> str:
    """Write a moment as the SDK does."""
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


class SeemingServices:
    """Services that are ready at once and do nothing; `broken` ones do not start."""

    def __init__(self) -> None:
        self.states: dict[str, ServiceState] = {}
        self.kept: set[str] = set()
        self.broken = False

    @contextlib.asynccontextmanager
    async def acquire(self, spec: ServiceSpec) -> AsyncIterator[Endpoint]:
        if self.broken:
            raise ServiceUnavailable("It did not start.")
        self._become(spec.key, "ready")
        yield cast("Endpoint", None)

    def keep(self, spec: ServiceSpec) -> None:
        self.kept.add(spec.key)
        self._become(spec.key, "ready")

    async def stop(self, key: str, *, kill: bool = False) -> bool:
        ran = key in self.states and self.states[key].state == "ready"
        self.kept.discard(key)
        if ran:
            self._become(key, "stopped")
        return ran

    def retire(self, key: str) -> None:
        self.kept.discard(key)
        self.states.pop(key, None)

    def state(self, key: str) -> ServiceState | None:
        return self.states.get(key)

    def _become(self, key: str, state: str) -> None:
        self.states[key] = ServiceState(
            key=key, state=state, leases=0, restarts=0, started_at=NOW.timestamp(), reason=None, log_tail=""
        )


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """A ledger with programs that seem to run, and their control."""

    desk: Desk
    services: SeemingServices
    registry: Registry
    volumes: Volumes
    control: Control

    async def program(self, owner: Wallet, **rest: Any) -> str:
        code = await self.desk.file(b"app = None")
        message: Mapping[str, Any] = owner.program(code, **rest)
        assert await self.desk.take(message) == "processed"
        self.registry.refresh()
        return str(message["item_hash"])

    async def run(self, item_hash: str) -> Instance:
        """Have a program run."""
        instance = self.registry.find(item_hash)
        assert isinstance(instance, Instance)
        async with self.services.acquire(instance.spec):
            return instance

    def runs(self, instance: Instance) -> bool:
        state = self.services.state(instance.spec.key)
        return state is not None and state.state == "ready"


@contextlib.asynccontextmanager
async def controlled(directory: Path, **rest: Any) -> AsyncIterator[Controlled]:
    """Open a ledger and the control of its programs, whose present is `NOW`."""
    async with opened(directory) as desk:
        services, volumes = SeemingServices(), Volumes(directory / "volumes", desk.blobs)
        registry = Registry(
            directory,
            ledger=desk.ledger,
            resolver=Resolver(desk.ledger, desk.blobs, {}),
            launcher=cast("Any", None),  # nothing is started
            services=services,
            settings=Settings(),
        )
        options = {"hosts": {DOMAIN, "127.0.0.1"}, "directory": directory, "clock": NOW.timestamp, **rest}
        control = Control(registry, services, desk.ledger, volumes, **options)
        yield Controlled(desk=desk, services=services, registry=registry, volumes=volumes, control=control)
