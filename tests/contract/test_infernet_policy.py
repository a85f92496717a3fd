"""What the node refuses, in which order and words (contract, section 5.2); items 5 and 6 of the checklist."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter

from moorage.networks.infernet import policy
from moorage.networks.infernet.config import Container
from moorage.networks.infernet.policy import Refusal
from moorage.networks.infernet.wire import DelegatedRequest, OffchainRequest, dump, parse

OWNER, OTHER, ZERO = "0x" + "aB" * 20, "0x" + "22" * 20, "0x" + "00" * 20
HASH = "0x0deeac3a841600829c99f8116bb997da266d4c47a720b00e6ace9594de82dd54"
SIGNATURE = {"nonce": 7, "expiry": 1000, "v": 27, "r": 2**256 - 1, "s": 1}
SUBSCRIPTION = {
    "owner": OWNER, "active_at": 0, "period": 3, "frequency": 2, "redundancy": 2, "containers": HASH.upper(),
    "lazy": False, "verifier": ZERO, "payment_amount": 0, "payment_token": ZERO, "wallet": ZERO, "more": "shown",
}  # fmt: skip
NETS = ["10.1.2.3/8", "192.168.7.7", "2001:db8::5/32", "::ffff:172.16.5.5/108"]


def containers(*entries: Mapping[str, Any]) -> dict[str, Container]:
    found = TypeAdapter(tuple[Container, ...]).validate_python(entries)
    return {container.id: container for container in found}


CONFIGURED = containers(
    {"id": "open"},
    {"id": "inner", "external": False},
    {"id": "proving", "generates_proofs": True},
    {"id": "few", "allowed_ips": NETS, "allowed_delegate_addresses": [OWNER.upper().replace("X", "x")]},
    {"id": "one", "allowed_ips": ["10.0.0.1"], "allowed_delegate_addresses": [OTHER]},
    {"id": "inner few", "external": False, "allowed_ips": NETS} | {"id": "innerfew"},
)


def offchain(names: Sequence[str], *, proof: bool = False, sender: str = "8.8.8.8") -> bytes | None:
    request = OffchainRequest(containers=tuple(names), data={}, requires_proof=proof)
    refusal = policy.offchain(request, sender=policy.client(sender), configured=CONFIGURED)
    return refusal and dump(refusal.document)


@pytest.mark.parametrize(
    ("names", "proof", "answer"),
    [
        (["open"], False, None),
        (["open", "inner"], False, None),
        (["open", "open"], False, None),
        (["open", "proving"], True, None),
        ([], False, b'{"error":"No containers specified","params":{}}\n'),
        (["zz"], False, b'{"error":"Container not supported","params":{"container":"zz"}}\n'),
        (["open", "y", "z"], False, b'{"error":"Container not supported","params":{"container":"y"}}\n'),
        (["Open"], False, b'{"error":"Container not supported","params":{"container":"Open"}}\n'),
        (["inner"], False, b'{"error":"First container must be external","params":{"first_container":"inner"}}\n'),
        (["open"], True, b'{"error":"Container does not generate proof","params":{"container":"open"}}\n'),
        (["proving", "open"], True, b'{"error":"Container does not generate proof","params":{"container":"open"}}\n'),
        (
            ["few"],
            False,
            b'{"error":"Container not allowed for address","params":{"address":"8.8.8.8","container":"few"}}\n',
        ),
        (
            ["open", "few", "one"],
            False,
            b'{"error":"Container not allowed for address","params":{"address":"8.8.8.8","container":"few"}}\n',
        ),
    ],
)
def test_an_offchain_job_is_refused_in_the_words_of_the_contract(
    names: list[str], proof: bool, answer: bytes | None
) -> None:
    """Item 6."""
    assert offchain(names, proof=proof) == answer


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([], b"No containers"),
        (["innerfew", "zz"], b"not supported"),
        (["innerfew"], b"must be external"),
        (["few"], b"not generate proof"),
        (["few", "proving"], b"not allowed"),
    ],
)
def test_of_several_reasons_the_first_of_the_contracts_order_is_given(names: list[str], word: bytes) -> None:
    """Item 6: each request has all the faults that come after the one that is named."""
    assert word in (offchain(names, proof=True) or b"")


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        ("10.255.0.1", True),
        ("::ffff:10.255.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:11.0.0.1", False),
        ("192.168.7.7", True),
        ("192.168.7.8", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
        ("172.16.255.1", True),
        ("::ffff:172.31.0.1", True),
        ("172.32.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_allowed_ips_hold_for_every_family_of_addresses(sender: str, allowed: bool) -> None:
    """Item 5."""
    assert (offchain(["few"], sender=sender) is None) is allowed


def test_an_address_is_shown_as_ipv4_where_it_is_one() -> None:
    assert b'"address":"8.8.4.4"' in (offchain(["few"], sender="::ffff:8.8.4.4") or b"")
    assert b'"address":"2001:db9::1"' in (offchain(["few"], sender="2001:DB9:0::1") or b"")


@pytest.mark.parametrize("text", ["", "here", "10.0.0.0/8", "testclient", "1.2.3.4:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        policy.client(text)


def test_every_container_of_the_chain_must_be_allowed() -> None:
    assert offchain(["few", "one"], sender="10.0.0.1") is None
    assert b'"container":"one"' in (offchain(["few", "one"], sender="10.0.0.2") or b"")


def delegated(
    names: Sequence[str] | None, *, enabled: bool = True, now: float = 999.5, **fields: Any
) -> Refusal | None:
    body = {"signature": SIGNATURE, "subscription": {**SUBSCRIPTION, **fields}, "data": {}, "requires_proof": True}
    request = parse(json.dumps(body).encode())
    assert isinstance(request, DelegatedRequest)
    return policy.delegated(request, chain_enabled=enabled, now=now, resolve={HASH: names}.get, configured=CONFIGURED)


POSTED = {"delegated_subscription": {"signature": SIGNATURE, "subscription": SUBSCRIPTION}}


@pytest.mark.parametrize(
    ("names", "change", "refusal"),
    [
        (["open"], {}, None),
        (["open", "few"], {}, None),
        (["proving"], {"verifier": OTHER}, None),
        (["open"], {"enabled": False}, ("Chain not enabled", POSTED)),
        (["open"], {"now": 1000}, ("Signature expired", POSTED)),
        (None, {}, ("Container-set not supported", {"containers_hash": HASH})),
        (["inner"], {}, ("First container must be external", {"first_container": "inner"})),
        (["proving", "open"], {"verifier": OTHER}, ("Container does not generate proof", {"container": "open"})),
        (["few"], {"owner": OTHER}, ("Container not allowed for address", {"container": "few", "address": OTHER})),
        (["few", "one"], {}, ("Container not allowed for address", {"container": "one", "address": OWNER.lower()})),
    ],
)
def test_a_delegated_subscription_is_refused_in_the_words_of_the_contract(
    names: list[str] | None, change: dict[str, Any], refusal: tuple[str, Any] | None
) -> None:
    found = delegated(names, **change)
    assert found == (refusal and Refusal(text=refusal[0], params=refusal[1]))
    assert found is None or dump(found.document)


@pytest.mark.parametrize(
    ("names", "change", "text"),
    [
        (None, {"enabled": False, "now": 2000}, "Chain not enabled"),
        (None, {"now": 2000}, "Signature expired"),
        (["innerfew"], {}, "First container must be external"),
        (["one"], {}, "Container does not generate proof"),
        (["one", "proving"], {}, "Container not allowed for address"),
    ],
)
def test_a_delegated_subscription_is_checked_in_the_contracts_order(
    names: list[str] | None, change: dict[str, Any], text: str
) -> None:
    """Section 2.5.1: each has all the faults that come after the one that is named."""
    found = delegated(names, verifier=OTHER, **change)
    assert found is not None
    assert found.text == text
