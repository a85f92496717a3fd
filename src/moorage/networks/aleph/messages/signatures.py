"""Who signed a message, and the node's own signatures (contract, section 3.3)."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eth_hash.auto import keccak
from eth_keys import exceptions
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import PrivateKey, PublicKey, Signature

from moorage.model.limits import KIB
from moorage.networks.aleph.messages.hashes import base58_decode

MAX_SIGNATURE = 2 * KIB
"""Characters of a signature; the longest that wallets make here, Solana's JSON, has some 200."""

EVM_CHAINS = frozenset({
    "ARB", "BASE", "BLAST", "BOB", "BSC", "CYBER", "ETH", "ETHERLINK", "FRAX", "HYPE", "INK", "LENS", "LINEA", "LISK",
    "METIS", "MODE", "NEO", "OP", "POL", "SONIC", "UNICHAIN", "WLD", "ZORA",
})  # fmt: skip
"""Chains whose messages are signed as Ethereum's are."""

_EVM_ADDRESS = re.compile("0[xX][0-9a-fA-F]{40}")
_EVM_SIGNATURE = re.compile("(?:0[xX])?([0-9a-fA-F]{130})")
_AVAX_ADDRESS = re.compile("[0-9A-Za-z]+-(avax1[02-9ac-hj-np-z]{38})")
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class BadSignature(ValueError):
    """A signature that does not show that the sender sent the message; `str()` of it goes to the client."""


class CannotVerify(ValueError):
    """A chain whose signatures cannot be verified here, so that no message of it is taken."""


def signed_bytes(*, chain: str, sender: str, message_type: str, item_hash: str) -> bytes:
    """Give the bytes of a message that are signed, on every chain.

    Raises UnicodeEncodeError, a ValueError, for text with a lone surrogate.
    """
    return f"{chain}\n{sender}\n{message_type}\n{item_hash}".encode()


# Verification


def verify(*, chain: str, sender: str, message_type: str, item_hash: str, signature: object) -> None:
    """Check that a message was signed by its sender; whether `item_hash` is the hash of its content is not looked at.

    Raises BadSignature, and CannotVerify for a chain that has no verifier here.
    """
    verifier = _VERIFIERS.get(chain)
    if verifier is None:
        raise CannotVerify(f"chain: this node cannot verify signatures of {chain!r:.40}")
    if not isinstance(signature, str):
        raise BadSignature("signature: is not text")
    if len(signature) > MAX_SIGNATURE:
        raise BadSignature(f"signature: is longer than {MAX_SIGNATURE} characters")
    try:
        content = signed_bytes(chain=chain, sender=sender, message_type=message_type, item_hash=item_hash)
    except UnicodeEncodeError:
        raise BadSignature("message: holds a lone surrogate, which nobody can sign") from None
    verifier(content, sender, signature)


def _foreign() -> BadSignature:
    return BadSignature("signature: is not the sender's signature of this message")


def verify_evm(content: bytes, sender: str, signature: str) -> None:
    """Check that an Ethereum account signed these bytes, as wallets sign messages; its address may have any case.

    A high s passes, as it does where Ethereum recovers (EIP-2 binds transactions alone). Raises BadSignature.
    """
    if _EVM_ADDRESS.fullmatch(sender) is None:
        raise BadSignature("sender: is not an address, `0x` and 40 hexadecimal digits")
    if (found := _EVM_SIGNATURE.fullmatch(signature)) is None:
        raise BadSignature("signature: is not 65 bytes in hexadecimal")
    rsv = bytearray.fromhex(found[1])
    if rsv[64] in (27, 28):
        rsv[64] -= 27
    if _signer(_evm_digest(content), bytes(rsv)).to_address() != sender.lower():
        raise _foreign()


def _verify_avalanche(content: bytes, sender: str, signature: str) -> None:
    if _EVM_ADDRESS.fullmatch(sender):
        verify_evm(content, sender, signature)
        return
    if (found := _AVAX_ADDRESS.fullmatch(sender)) is None:
        raise BadSignature("sender: is neither an Avalanche address nor an Ethereum one")
    signed = _base58("signature", signature, size=69)
    rsv, checksum = signed[:65], signed[65:]
    if hashlib.sha256(rsv).digest()[-4:] != checksum:
        raise BadSignature("signature: its checksum is wrong")
    framed = b"\x1aAvalanche Signed Message:\n" + len(content).to_bytes(4) + content
    if _avalanche_address(_signer(hashlib.sha256(framed).digest(), rsv)) != found[1]:
        raise _foreign()


def _verify_ed25519(content: bytes, sender: str, signature: str) -> None:
    try:
        document = json.loads(signature)
    except (ValueError, RecursionError):
        raise BadSignature("signature: is not JSON") from None
    match document:
        case {"signature": str(detached), "publicKey": str(public_key)}:
            version = document.get("version", 1)
        case _:
            raise BadSignature("signature: is not an object with the texts `signature` and `publicKey`")
    if version is True or version != 1:
        raise BadSignature("signature: its version is not 1")
    if public_key != sender:
        raise BadSignature("signature: its publicKey is not the sender")
    key = Ed25519PublicKey.from_public_bytes(_base58("publicKey", public_key, size=32))
    try:
        key.verify(_base58("signature", detached, size=64), content)
    except InvalidSignature:
        raise _foreign() from None


_VERIFIERS: Mapping[str, Callable[[bytes, str, str], None]] = {
    **dict.fromkeys(EVM_CHAINS, verify_evm),
    "AVAX": _verify_avalanche,
    "ES": _verify_ed25519,
    "SOL": _verify_ed25519,
}


def _base58(name: str, text: str, *, size: int) -> bytes:
    try:
        data = base58_decode(text)
    except ValueError:
        raise BadSignature(f"{name}: is not base58") from None
    if len(data) != size:
        raise BadSignature(f"{name}: is not {size} bytes")
    return data


def _signer(digest: bytes, rsv: bytes) -> PublicKey:
    """Recover the public key; the last of the 65 bytes is the parity, 0 or 1."""
    try:
        return Signature(rsv).recover_public_key_from_msg_hash(digest)
    except exceptions.BadSignature:
        raise BadSignature("signature: no key can have made it") from None


def _evm_digest(content: bytes) -> bytes:
    return keccak(b"\x19Ethereum Signed Message:\n%d" % len(content) + content)


def _avalanche_address(key: PublicKey) -> str:
    # Not from hashlib: OpenSSL may come without it. A slow import that hardly any node needs.
    from Crypto.Hash import RIPEMD160

    digest = RIPEMD160.new(hashlib.sha256(key.to_compressed_bytes()).digest()).digest()
    number = int.from_bytes(digest)
    return _bech32("avax", [number >> shift & 31 for shift in range(155, -1, -5)])


def _bech32(prefix: str, digits: list[int]) -> str:
    """Write numbers of five bits as BIP 173 does."""
    spread = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    checksum = _bech32_remainder([*spread, *digits, 0, 0, 0, 0, 0, 0]) ^ 1
    digits = digits + [checksum >> shift & 31 for shift in range(25, -1, -5)]
    return f"{prefix}1{''.join(_BECH32[digit] for digit in digits)}"


def _bech32_remainder(digits: list[int]) -> int:
    remainder = 1
    for digit in digits:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ digit
        for bit, term in enumerate(_BECH32_GENERATOR):
            if top >> bit & 1:
                remainder ^= term
    return remainder


# The node's own key


def sign_evm(private_key: bytes, message: bytes) -> str:
    """Sign as Ethereum accounts do, the same each time: `0x` and 65 bytes in hexadecimal, the last of them 27 or 28.

    Raises ValueError for what is not a private key.
    """
    rsv = bytearray(_private_key(private_key).sign_msg_hash(_evm_digest(message)).to_bytes())
    rsv[64] += 27
    return f"0x{rsv.hex()}"


def address_of(private_key: bytes) -> str:
    """Give the address of a private key, its case as the checksum of EIP-55.

    Raises ValueError for what is not a private key.
    """
    return str(_private_key(private_key).public_key.to_checksum_address())


def public_key_of(private_key: bytes) -> bytes:
    """Give the public key of a private key, compressed to 33 bytes.

    Raises ValueError for what is not a private key.
    """
    return _private_key(private_key).public_key.to_compressed_bytes()


def _private_key(private_key: bytes) -> PrivateKey:
    # Looked at here, since what eth-keys says of a bad key would show it.
    if len(private_key) != 32 or not 0 < int.from_bytes(private_key) < SECPK1_N:
        raise ValueError("is not a private key: 32 bytes, above zero and below the order of secp256k1")
    return PrivateKey(private_key)
