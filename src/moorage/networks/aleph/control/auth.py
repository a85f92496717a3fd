"""Who asks for an operation on a program: a wallet vouches for a key, and the key for the operation (contract, 4.5)."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import AfterValidator, Base64UrlBytes, BaseModel, BeforeValidator, Field, ValidationError

from moorage.model.limits import KIB
from moorage.networks.aleph.facade.answers import Refused

PUBKEY, OPERATION = "X-SignedPubKey", "X-SignedOperation"
WINDOW = timedelta(minutes=2)
"""How far the time of an operation may be from ours: for so long it can be repeated by whoever overheard it."""
MAX_PAYLOAD = 16 * KIB
"""Characters of a payload; those of the network's clients have some 800."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """Who was found to ask."""

    chain: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for, and when."""

    method: str
    path: str
    now: datetime


def authenticate(pubkey: object, operation: object, asked: Asked, *, domains: Collection[str]) -> Wallet:
    """Find the wallet in whose name something is asked; `domains` are the names of this node, in lower case.

    Both proofs come as JSON in a header, or as objects. Raises Refused with 400 for what cannot be read and 401 for
    what proves nothing.
    """
    signed = _parsed(_Signed, pubkey, PUBKEY)
    vouched = _validated(_PubKey, signed.document, PUBKEY, "data")
    _require(asked.now < vouched.expires, "Token expired")
    _require(_is_of_wallet(signed, vouched), "Invalid signature")
    _require_domain(vouched.domain, domains)
    order = _parsed(_Signed, operation, OPERATION)
    ordered = _validated(_Operation, order.document, OPERATION, "fields")
    _require_domain(ordered.domain, domains)
    _require(ordered.path == asked.path, f"Invalid path. Expected {asked.path}, not {ordered.path}")
    _require(ordered.method == asked.method, f"Invalid method. Expected {asked.method}, not {ordered.method}")
    _require(abs(asked.now - ordered.time) <= WINDOW, "Token expired")
    _require(_is_of_key(order, vouched.pubkey), "Signature could not verified")
    return Wallet(chain=vouched.chain, address=vouched.address)


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise Refused(401, reason)


def _require_domain(domain: str, domains: Collection[str]) -> None:
    _require(domain.lower() in domains, f"Invalid domain: {domain}")


# Reading


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _padded(text: Any) -> Any:
    return f"{text}{'=' * (-len(text) % 4)}" if isinstance(text, str) else text


Moment = Annotated[datetime, AfterValidator(_utc)]
Hex = Annotated[str, Field(max_length=MAX_PAYLOAD, pattern=r"^(0x)?([0-9a-fA-F]{2})*$")]
Coordinate = Annotated[Base64UrlBytes, BeforeValidator(_padded), Field(min_length=32, max_length=32)]


class _Signed(BaseModel):
    payload: Hex
    signature: Hex

    @property
    def content(self) -> bytes:
        return bytes.fromhex(self.payload.removeprefix("0x"))

    @property
    def proof(self) -> bytes:
        return bytes.fromhex(self.signature.removeprefix("0x"))

    @property
    def document(self) -> object:
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None


class _Jwk(BaseModel):
    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: Coordinate
    y: Coordinate


class _PubKey(BaseModel):
    pubkey: _Jwk
    alg: Literal["ECDSA"]
    domain: str
    address: Annotated[str, Field(max_length=128)]
    expires: Moment
    chain: Literal["ETH", "SOL"] = "ETH"


class _Operation(BaseModel):
    time: Moment
    method: str
    path: str
    domain: str


Model = TypeVar("Model", bound=BaseModel)


def _parsed(model: type[Model], given: object, header: str) -> Model:
    if not given:
        raise Refused(400, f"Missing {header} header")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise Refused(400, f"Invalid {header} format") from None
    return _validated(model, given, header, "fields")


def _validated(model: type[Model], document: object, header: str, what: str) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError:
        raise Refused(400, f"Invalid {header} {what}") from None


# Verifying


def _is_of_wallet(signed: _Signed, vouched: _PubKey) -> bool:
    return _WALLETS[vouched.chain](signed, vouched.address)


def _is_of_ethereum(signed: _Signed, address: str) -> bool:
    # A slow import: only what is asked by owners pays for it.
    from moorage.networks.aleph.messages.signatures import BadSignature, verify_evm

    try:
        verify_evm(signed.content, address, signed.proof.hex())
    except BadSignature:
        return False
    return True


def _is_of_solana(signed: _Signed, address: str) -> bool:
    """Verify what wallets of Solana sign: not the payload, but its hexadecimal text."""
    from moorage.networks.aleph.messages.hashes import base58_decode

    try:
        key = Ed25519PublicKey.from_public_bytes(base58_decode(address))
        key.verify(signed.proof, signed.payload.encode())
    except (ValueError, InvalidSignature):
        return False
    return True


_WALLETS: dict[str, Callable[[_Signed, str], bool]] = {"ETH": _is_of_ethereum, "SOL": _is_of_solana}


def _is_of_key(signed: _Signed, jwk: _Jwk) -> bool:
    """Verify ES256: r and s, 32 bytes each."""
    proof = signed.proof
    if len(proof) != 64:
        return False
    r, s = int.from_bytes(proof[:32]), int.from_bytes(proof[32:])
    try:
        _public_key(jwk).verify(encode_dss_signature(r, s), signed.content, ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def _public_key(jwk: _Jwk) -> EllipticCurvePublicKey:
    """Make the key; raises ValueError for what is no point of the curve."""
    return EllipticCurvePublicNumbers(int.from_bytes(jwk.x), int.from_bytes(jwk.y), SECP256R1()).public_key()
