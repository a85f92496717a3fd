"""Signatures of messages, and the node's own (contract, section 3.3).

Item 6 of the acceptance checklist (section 8) for what needs no server.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_keys.datatypes import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.networks.aleph.messages.hashes import base58_encode
from moorage.networks.aleph.messages.signatures import (
    MAX_SIGNATURE,
    BadSignature,
    CannotVerify,
    address_of,
    public_key_of,
    sign_evm,
    signed_bytes,
    verify,
)
from tests.ethereum import Account, encode_defunct

HASH = "1d3842fc4257c0fd4f9c7d5c55bba16264de8d44f47265a14f8f6eb4d542dda2"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
EVM = [
    "ARB", "BASE", "BLAST", "BOB", "BSC", "CYBER", "ETH", "ETHERLINK", "FRAX", "HYPE", "INK", "LENS", "LINEA", "LISK",
    "METIS", "MODE", "NEO", "OP", "POL", "SONIC", "UNICHAIN", "WLD", "ZORA",
]  # fmt: skip
UNVERIFIED = ["AURORA", "CSDK", "DOT", "NULS", "NULS2", "STT", "TEZOS"]

KEY = bytes.fromhex("56289e99c94b6912bfc12adc093c9b51124f0dc54ac7a766b2bc5ccf558d8027")
"""The well-known key of local Avalanche networks, with the addresses that their documentation gives it."""
ADDRESS = "0x8db97C7cEcE249c2b98bDC0226Cc4C2A57BF52FC"
AVALANCHE = "X-avax18jma8ppw3nhx5r4ap8clazz0dps7rv5ukulre5"
SOLANA = Ed25519PrivateKey.from_private_bytes(KEY)
SOLANA_ADDRESS = base58_encode(SOLANA.public_key().public_bytes_raw())


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What `verify` is given of a message."""

    chain: str
    sender: str
    message_type: str = "STORE"
    item_hash: str = HASH
    signature: Any = ""

    @property
    def content(self) -> bytes:
        return f"{self.chain}\n{self.sender}\n{self.message_type}\n{self.item_hash}".encode()

    def check(self) -> None:
        verify(
            chain=self.chain,
            sender=self.sender,
            message_type=self.message_type,
            item_hash=self.item_hash,
            signature=self.signature,
        )

    @property
    def refusal(self) -> str:
        with pytest.raises(BadSignature) as caught:
            self.check()
        return str(caught.value)


def ethereum(chain: str = "ETH", *, sender: str = ADDRESS, **fields: str) -> Envelope:
    """Sign with the wallets' own library."""
    message = Envelope(chain=chain, sender=sender, **fields)
    signed = Account.sign_message(encode_defunct(primitive=message.content), KEY)
    return replace(message, signature=signed.signature.hex().removeprefix("0x"))


def avalanche_text(rsv: bytes) -> str:
    return base58_encode(rsv + hashlib.sha256(rsv).digest()[-4:])


def avalanche(sender: str = AVALANCHE) -> Envelope:
    message = Envelope(chain="AVAX", sender=sender)
    framed = b"\x1aAvalanche Signed Message:\n\0\0\0" + bytes([len(message.content)]) + message.content
    rsv = PrivateKey(KEY).sign_msg_hash(hashlib.sha256(framed).digest()).to_bytes()
    return replace(message, signature=avalanche_text(rsv))


def solana_text(detached: bytes, **fields: object) -> str:
    return json.dumps({"signature": base58_encode(detached), "publicKey": SOLANA_ADDRESS, "version": 1, **fields})


def solana(chain: str = "SOL") -> Envelope:
    message = Envelope(chain=chain, sender=SOLANA_ADDRESS)
    return replace(message, signature=solana_text(SOLANA.sign(message.content)))


SIGNED: dict[str, Callable[[], Envelope]] = {
    "ETH": ethereum,
    "AVAX": avalanche,
    "AVAX by 0x": lambda: ethereum("AVAX"),
    "SOL": solana,
}
signed_message = pytest.mark.parametrize("make", SIGNED.values(), ids=SIGNED.keys())


def hexadecimal(message: Envelope) -> bytearray:
    return bytearray.fromhex(message.signature)


def test_the_signed_bytes_are_four_lines_without_a_last_newline() -> None:
    content = signed_bytes(chain="ETH", sender="0xé", message_type="POST", item_hash=HASH)
    assert content == b"ETH\n0x\xc3\xa9\nPOST\n" + HASH.encode()


# All chains


@pytest.mark.parametrize("chain", [*EVM, "AVAX"])
def test_a_signature_by_an_ethereum_wallet_is_accepted(chain: str) -> None:
    ethereum(chain).check()


@pytest.mark.parametrize("chain", ["SOL", "ES"])
def test_a_signature_by_a_solana_wallet_is_accepted(chain: str) -> None:
    solana(chain).check()


@pytest.mark.parametrize("sender", [AVALANCHE, AVALANCHE.replace("X-", "P-"), AVALANCHE.replace("X-", "C-")])
def test_a_signature_by_an_avalanche_wallet_is_accepted(sender: str) -> None:
    avalanche(sender).check()


@pytest.mark.parametrize("chain", [*UNVERIFIED, "", "eth", "ETH ", "BTC", "x" * 10_000])
def test_a_chain_without_a_verifier_is_never_accepted(chain: str) -> None:
    for signature in (ethereum(chain).signature, "", None):
        with pytest.raises(CannotVerify, match="cannot verify signatures of") as caught:
            Envelope(chain=chain, sender=ADDRESS, signature=signature).check()
        assert len(str(caught.value)) < 100


@signed_message
def test_a_signature_is_for_one_type_hash_and_sender_alone(make: Callable[[], Envelope]) -> None:
    message = make()
    message.check()
    assert replace(message, message_type="POST").refusal
    assert replace(message, item_hash="0" * 64).refusal
    assert replace(message, sender="0x" + "1" * 40).refusal
    assert replace(message, sender="X-avax1" + "q" * 38).refusal
    assert replace(message, sender=base58_encode(b"1" * 32)).refusal


@pytest.mark.parametrize(
    ("message", "chain"), [(ethereum(), "BASE"), (ethereum(), "AVAX"), (ethereum("AVAX"), "ETH"), (solana(), "ES")]
)
def test_a_signature_is_for_one_chain_alone(message: Envelope, chain: str) -> None:
    message.check()
    assert replace(message, chain=chain).refusal


@signed_message
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["chain", "sender", "message_type", "item_hash"]), st.integers(0, 63), st.characters(codec="utf-8")
)
def test_one_changed_character_of_what_is_signed_is_refused(
    make: Callable[[], Envelope], field: str, position: int, letter: str
) -> None:
    message = make()
    text: str = getattr(message, field)
    position %= len(text)
    changed = text[:position] + letter + text[position + 1 :]
    if changed == text:
        return
    fields: dict[str, Any] = {field: changed}
    with pytest.raises((BadSignature, CannotVerify)):
        replace(message, **fields).check()


@signed_message
@pytest.mark.parametrize("field", ["sender", "message_type", "item_hash"])
def test_text_that_utf_8_cannot_carry_is_refused(make: Callable[[], Envelope], field: str) -> None:
    fields: dict[str, Any] = {field: "\ud800"}
    assert replace(make(), **fields).refusal


@signed_message
@pytest.mark.parametrize("signature", [None, True, 1, 1.5, b"0x", [], ["0x"], {"signature": "x", "publicKey": "y"}])
def test_a_signature_that_is_not_text_is_refused(make: Callable[[], Envelope], signature: object) -> None:
    assert replace(make(), signature=signature).refusal == "signature: is not text"


@signed_message
def test_a_signature_that_is_too_long_is_refused_unread(make: Callable[[], Envelope]) -> None:
    assert "is longer than" in replace(make(), signature="1" * (MAX_SIGNATURE + 1)).refusal
    assert "is longer than" not in replace(make(), signature="1" * MAX_SIGNATURE).refusal


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["signature", "publicKey", "version"]), inner),
    max_leaves=5,
)
GARBAGE = st.one_of(
    JSON_VALUES,
    st.binary(),
    JSON_VALUES.map(json.dumps),
    st.text(st.characters(exclude_categories=())),
    st.binary(min_size=60, max_size=70).map(bytes.hex),
    st.binary(min_size=65, max_size=65).map(lambda rsv: f"0x{rsv.hex()}"),
    st.binary(min_size=65, max_size=65).map(avalanche_text),
    st.binary(min_size=60, max_size=70).map(solana_text),
    st.tuples(st.sampled_from("[{\"'1a"), st.integers(0, MAX_SIGNATURE)).map(lambda drawn: drawn[0] * drawn[1]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["ETH", "AVAX", "SOL"]),
    st.sampled_from([ADDRESS, AVALANCHE, SOLANA_ADDRESS, "", "0x"]) | st.text(st.characters(exclude_categories=())),
    GARBAGE,
)
def test_garbage_is_refused_as_a_bad_signature(chain: str, sender: str, signature: object) -> None:
    assert Envelope(chain=chain, sender=sender, signature=signature).refusal


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_bytes_that_are_no_ed25519_key_are_refused(public_key: bytes, signature: bytes) -> None:
    sender = base58_encode(public_key)
    assert Envelope(chain="SOL", sender=sender, signature=solana_text(signature, publicKey=sender)).refusal


# Ethereum


@pytest.mark.parametrize("prefix", ["", "0x", "0X"])
@pytest.mark.parametrize("offset", [0, 27])
@pytest.mark.parametrize("message_type", ["POST", "STORE", "PROGRAM", "FORGET"])
def test_0x_is_optional_and_v_counts_from_0_or_27(prefix: str, offset: int, message_type: str) -> None:
    message = ethereum(message_type=message_type)
    rsv = hexadecimal(message)
    rsv[64] += offset - 27
    replace(message, signature=prefix + rsv.hex()).check()
    replace(message, signature=prefix + rsv.hex().upper()).check()


@pytest.mark.parametrize("sender", [ADDRESS, ADDRESS.lower(), "0x" + ADDRESS[2:].upper()])
def test_the_case_of_an_address_does_not_matter_but_is_signed(sender: str) -> None:
    ethereum(sender=sender).check()
    assert replace(ethereum(sender=sender), sender=ADDRESS.swapcase()).refusal


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 64), st.integers(1, 255))
def test_one_changed_byte_of_an_ethereum_signature_is_refused(position: int, change: int) -> None:
    message = ethereum()
    rsv = hexadecimal(message)
    v = rsv[64]
    rsv[position] ^= change
    if rsv[64] == v - 27:
        return  # the same parity
    assert replace(message, signature=rsv.hex()).refusal


@pytest.mark.parametrize("v", [2, 3, 26, 29, 30, 35, 36, 37, 38, 255])
def test_other_values_of_v_are_refused(v: int) -> None:
    message = ethereum()
    assert replace(message, signature=(hexadecimal(message)[:64] + bytes([v])).hex()).refusal


def test_a_high_s_is_accepted_as_ethereum_recovers_it() -> None:
    message = ethereum()
    rsv = hexadecimal(message)
    rsv[32:64] = (ORDER - int.from_bytes(rsv[32:64])).to_bytes(32)
    assert replace(message, signature=rsv.hex()).refusal
    rsv[64] = 27 + 28 - rsv[64]
    assert Account.recover_message(encode_defunct(primitive=message.content), signature=bytes(rsv)) == ADDRESS
    replace(message, signature=rsv.hex()).check()


@pytest.mark.parametrize("number", [0, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("start", [0, 32])
def test_numbers_outside_the_group_are_refused(number: int, start: int) -> None:
    message = ethereum()
    rsv = hexadecimal(message)
    rsv[start : start + 32] = number.to_bytes(32)
    assert replace(message, signature=rsv.hex()).refusal == "signature: no key can have made it"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "0x",
        lambda text: text[:-1],
        lambda text: text[:-2],
        lambda text: text + "00",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: "0x0x" + text,
        lambda text: text[:-1] + "\uff11",
        lambda text: text[:64] + " " + text[64:-1],
    ],
)
def test_other_text_is_no_ethereum_signature(spoil: Callable[[str], str]) -> None:
    message = ethereum()
    assert replace(message, signature=spoil(message.signature)).refusal == "signature: is not 65 bytes in hexadecimal"


@pytest.mark.parametrize("sender", ["", ADDRESS[2:], ADDRESS + "0", ADDRESS + "\n", ADDRESS[:-1], AVALANCHE])
def test_an_ethereum_sender_is_an_address(sender: str) -> None:
    assert ethereum(sender=sender).refusal.startswith("sender: is not an address")


# Solana


def test_the_version_may_be_absent() -> None:
    message = solana()
    document = json.loads(message.signature)
    del document["version"]
    replace(message, signature=json.dumps(document)).check()


@pytest.mark.parametrize("version", [0, 2, "1", None, True, [1]])
def test_another_version_is_refused(version: object) -> None:
    message = solana()
    signature = solana_text(SOLANA.sign(message.content), version=version)
    assert replace(message, signature=signature).refusal == "signature: its version is not 1"


def test_the_public_key_has_to_be_the_sender() -> None:
    message = replace(solana(), sender=base58_encode(b"1" * 32))
    signature = solana_text(SOLANA.sign(message.content))
    assert replace(message, signature=signature).refusal == "signature: its publicKey is not the sender"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 63), st.integers(1, 255))
def test_one_changed_byte_of_a_solana_signature_is_refused(position: int, change: int) -> None:
    message = solana()
    signature = bytearray(SOLANA.sign(message.content))
    signature[position] ^= change
    assert replace(message, signature=solana_text(bytes(signature))).refusal


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "{}",
        "[]",
        "null",
        '"text"',
        "[" * MAX_SIGNATURE,
        "1" * MAX_SIGNATURE,
        base58_encode(b"1" * 64),
        solana_text(b""),
        solana_text(b"1" * 63),
        solana_text(b"1" * 65),
        solana_text(b"1" * 64, signature="0OIl"),
        solana_text(b"1" * 64, signature="\ud800"),
        solana_text(b"1" * 64, signature=None),
        solana_text(b"1" * 64, publicKey=["x"]),
        json.dumps({"signature": base58_encode(b"1" * 64)}),
        json.dumps({"publicKey": SOLANA_ADDRESS}),
    ],
)
def test_other_text_is_no_solana_signature(signature: str) -> None:
    assert replace(solana(), signature=signature).refusal


@pytest.mark.parametrize("sender", ["", "0OIl", SOLANA_ADDRESS + "1", base58_encode(b"1" * 31), "\n"])
def test_a_solana_sender_is_a_public_key(sender: str) -> None:
    message = Envelope(chain="SOL", sender=sender)
    signature = solana_text(SOLANA.sign(message.content), publicKey=sender)
    assert replace(message, signature=signature).refusal.startswith("publicKey:")


# Avalanche


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 64), st.integers(1, 255))
def test_one_changed_byte_of_an_avalanche_signature_is_refused(position: int, change: int) -> None:
    message = avalanche()
    content = hashlib.sha256(b"\x1aAvalanche Signed Message:\n\0\0\0" + bytes([len(message.content)]) + message.content)
    rsv = bytearray(PrivateKey(KEY).sign_msg_hash(content.digest()).to_bytes())
    assert avalanche_text(bytes(rsv)) == message.signature
    rsv[position] ^= change
    assert replace(message, signature=avalanche_text(bytes(rsv))).refusal


def test_a_changed_letter_of_an_avalanche_signature_breaks_its_checksum() -> None:
    message = avalanche()
    letter = "2" if message.signature[-1] != "2" else "3"
    changed = message.signature[:-1] + letter
    assert replace(message, signature=changed).refusal == "signature: its checksum is wrong"


@pytest.mark.parametrize(
    "sender",
    [
        AVALANCHE[2:],
        AVALANCHE[1:],
        AVALANCHE[:-1],
        AVALANCHE[:-1] + "q",
        AVALANCHE + "q",
        AVALANCHE.upper(),
        AVALANCHE.replace("avax", "fuji"),
        AVALANCHE.replace("X-", "X\n-"),
        AVALANCHE + "\n",
        "",
        "X-",
    ],
)
def test_an_avalanche_sender_is_an_address_with_its_chain(sender: str) -> None:
    assert avalanche(sender).refusal


# The node's own key


@settings(max_examples=30, deadline=None)
@given(st.integers(1, ORDER - 1), st.binary(max_size=200))
def test_the_node_signs_as_an_ethereum_wallet_does(number: int, message: bytes) -> None:
    key = number.to_bytes(32)
    account = Account.from_key(key)
    signed = account.sign_message(encode_defunct(primitive=message))
    assert sign_evm(key, message) == "0x" + signed.signature.hex().removeprefix("0x")
    assert address_of(key) == account.address
    assert public_key_of(key) == PrivateKey(key).public_key.to_compressed_bytes()


def test_what_the_node_signs_is_accepted() -> None:
    message = Envelope(chain="ETH", sender=address_of(KEY))
    signature = sign_evm(KEY, message.content)
    assert signature.startswith("0x")
    assert len(signature) == 132
    assert signature[-2:] in {"1b", "1c"}
    replace(message, signature=signature).check()


def test_the_key_of_the_documentation_has_its_address() -> None:
    assert address_of(KEY) == ADDRESS
    one = (1).to_bytes(32)
    assert public_key_of(one).hex() == "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert address_of(one) == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"


@pytest.mark.parametrize("key", [b"", bytes(32), bytes(31), KEY + b"\0", ORDER.to_bytes(32), b"\xff" * 32])
def test_bytes_that_are_no_private_key_are_refused_unnamed(key: bytes) -> None:
    for use in (address_of, public_key_of, lambda key: sign_evm(key, b"")):
        with pytest.raises(ValueError, match="is not a private key: 32 bytes, above zero"):
            use(key)
