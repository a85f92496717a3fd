"""Proofs of owners: a wallet vouches for a key, and the key for an operation (contract, section 4.5).

Item 48 of the acceptance checklist (section 8).
"""

import json
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest

from moorage.networks.aleph.control.auth import Asked, Wallet, authenticate
from moorage.networks.aleph.facade.answers import Refused
from tests import aleph
from tests.aleph_control import NOW, Signer, SolanaSigner, iso

PATH = "/control/machine/ab/stop"
ASKED = Asked(method="POST", path=PATH, now=NOW)
DOMAINS = {"localhost", "::1"}
SIGNER = Signer()
MARGIN = timedelta(seconds=1)


def found(pubkey: Any, operation: Any, asked: Asked = ASKED) -> Wallet:
    return authenticate(pubkey, operation, asked, domains=DOMAINS)


def refused(pubkey: Any, operation: Any, asked: Asked = ASKED) -> tuple[int, str]:
    with pytest.raises(Refused) as refusal:
        found(pubkey, operation, asked)
    return refusal.value.status, refusal.value.text


@pytest.mark.parametrize("write", [json.dumps, dict])
def test_the_wallet_that_vouches_is_found(write: Any) -> None:
    wallet = found(write(SIGNER.pubkey()), write(SIGNER.operation(PATH)))
    assert wallet == Wallet(chain="ETH", address=SIGNER.wallet.address)


def test_a_wallet_of_solana_signs_the_text_of_the_payload() -> None:
    signer = SolanaSigner()
    assert found(signer.pubkey(), signer.operation(PATH)).chain == "SOL"
    other = SolanaSigner(key=signer.key)
    proof = {**signer.pubkey(), "signature": other.pubkey()["signature"]}
    assert refused(proof, signer.operation(PATH)) == (401, "Invalid signature")
    for address in ("1" * 32, "not base58", "1" * 20):
        assert refused(signer.pubkey(address=address), signer.operation(PATH)) == (401, "Invalid signature")


@pytest.mark.parametrize(
    ("chain", "domain", "expires"),
    [
        (None, "LOCALHOST", "2026-01-02T03:04:06"),
        ("ETH", "::1", "2026-01-02T04:04:06+01:00"),
    ],
)
def test_what_clients_write_otherwise_is_understood(chain: str | None, domain: str, expires: str) -> None:
    fields = {"chain": chain} if chain else {}
    found(SIGNER.pubkey(domain=domain, expires=expires, **fields), SIGNER.operation(PATH, domain=domain))


def _pubkey(**fields: Any) -> Any:
    return {"payload": json.dumps(fields).encode().hex(), "signature": "00" * 65}


_VOUCHED = {"pubkey": SIGNER.jwk, "alg": "ECDSA", "domain": "localhost", "address": "0x0", "expires": iso(NOW)}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "Missing X-SignedPubKey header"),
        ("", "Missing X-SignedPubKey header"),
        ("{", "Invalid X-SignedPubKey format"),
        ("[" * 100_000, "Invalid X-SignedPubKey format"),
        ("[]", "Invalid X-SignedPubKey fields"),
        ("{}", "Invalid X-SignedPubKey fields"),
        ({"payload": "zz", "signature": ""}, "Invalid X-SignedPubKey fields"),
        ({"payload": "00" * 20_000, "signature": ""}, "Invalid X-SignedPubKey fields"),
        ({"payload": 1, "signature": "00"}, "Invalid X-SignedPubKey fields"),
        ({"payload": "", "signature": ""}, "Invalid X-SignedPubKey data"),
        (_pubkey(), "Invalid X-SignedPubKey data"),
        (_pubkey(**_VOUCHED | {"alg": "RSA"}), "Invalid X-SignedPubKey data"),
        (_pubkey(**_VOUCHED | {"chain": "AVAX"}), "Invalid X-SignedPubKey data"),
        (_pubkey(**_VOUCHED | {"expires": "tomorrow"}), "Invalid X-SignedPubKey data"),
        (_pubkey(**_VOUCHED | {"pubkey": SIGNER.jwk | {"x": "AA"}}), "Invalid X-SignedPubKey data"),
        (_pubkey(**_VOUCHED | {"pubkey": SIGNER.jwk | {"crv": "P-384"}}), "Invalid X-SignedPubKey data"),
    ],
)
def test_a_voucher_that_cannot_be_read_is_refused(given: Any, reason: str) -> None:
    assert refused(given, SIGNER.operation(PATH)) == (400, reason)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "Missing X-SignedOperation header"),
        ("{", "Invalid X-SignedOperation format"),
        ("1", "Invalid X-SignedOperation fields"),
        ({"payload": "00"}, "Invalid X-SignedOperation fields"),
        (_pubkey(time="now", method="POST", path=PATH, domain="localhost"), "Invalid X-SignedOperation fields"),
        (_pubkey(time=iso(NOW), method="POST", domain="localhost"), "Invalid X-SignedOperation fields"),
    ],
)
def test_an_operation_that_cannot_be_read_is_refused(given: Any, reason: str) -> None:
    assert refused(SIGNER.pubkey(), given) == (400, reason)


def test_a_voucher_has_an_end() -> None:
    proof = SIGNER.pubkey(expires=iso(NOW + MARGIN))
    found(proof, SIGNER.operation(PATH))
    later = replace(ASKED, now=NOW + MARGIN)
    assert refused(proof, SIGNER.operation(PATH), later) == (401, "Token expired")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_operation_is_repeated_for_two_minutes_at_most(sign: int) -> None:
    at = NOW + sign * timedelta(minutes=2)
    found(SIGNER.pubkey(), SIGNER.operation(PATH, time=iso(at)))
    late = SIGNER.operation(PATH, time=iso(at + sign * MARGIN))
    assert refused(SIGNER.pubkey(), late) == (401, "Token expired")
    assert refused(SIGNER.pubkey(), SIGNER.operation(PATH), replace(ASKED, now=at + sign * MARGIN))[0] == 401


def test_another_time_zone_is_the_same_moment() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    assert there.tzinfo is not UTC
    found(SIGNER.pubkey(), SIGNER.operation(PATH, time=there.isoformat()))


def test_nobody_vouches_for_another() -> None:
    stranger = Signer(aleph.Wallet(2), SIGNER.key)
    forged = stranger.pubkey(address=SIGNER.wallet.address)
    assert refused(forged, SIGNER.operation(PATH)) == (401, "Invalid signature")


def test_a_voucher_is_not_changed_afterwards() -> None:
    proof = SIGNER.pubkey()
    payload = json.loads(bytes.fromhex(proof["payload"])) | {"expires": iso(NOW + timedelta(days=9))}
    assert refused({**proof, "payload": json.dumps(payload).encode().hex()}, SIGNER.operation(PATH)) == (
        401,
        "Invalid signature",
    )


def test_the_operation_is_signed_by_the_key_that_was_vouched_for() -> None:
    other = Signer()
    assert refused(SIGNER.pubkey(), other.operation(PATH)) == (401, "Signature could not verified")
    for signature in ("", "00" * 64, "ff" * 64, "00" * 63):
        forged = {**SIGNER.operation(PATH), "signature": signature}
        assert refused(SIGNER.pubkey(), forged) == (401, "Signature could not verified")


def test_a_key_that_is_no_point_of_the_curve_signs_nothing() -> None:
    proof = SIGNER.pubkey(pubkey=SIGNER.jwk | {"x": SIGNER.jwk["y"]})
    assert refused(proof, SIGNER.operation(PATH)) == (401, "Signature could not verified")


@pytest.mark.parametrize("pubkey", [{"domain": "example.org"}, {}])
def test_what_is_for_another_node_is_refused(pubkey: dict[str, str]) -> None:
    operation = SIGNER.operation(PATH, domain="localhost" if pubkey else "example.org")
    assert refused(SIGNER.pubkey(**pubkey), operation) == (401, "Invalid domain: example.org")


def test_what_is_for_another_request_is_refused() -> None:
    for path in (f"{PATH}/", PATH.upper(), "/control/machine/ab/erase"):
        status, reason = refused(SIGNER.pubkey(), SIGNER.operation(path))
        assert status == 401
        assert reason.startswith("Invalid path. ")
    status, reason = refused(SIGNER.pubkey(), SIGNER.operation(PATH, method="GET"))
    assert status == 401
    assert reason.startswith("Invalid method. ")
