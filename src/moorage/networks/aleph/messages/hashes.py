"""The names of messages, files and hosts: hashes and the forms they are written in (contract, section 3.2)."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

CHUNK_SIZE = 262_144
"""Bytes of the file within a leaf, as Kubo imports by default."""
MAX_LINKS = 174
"""Children of a node, as Kubo imports by default."""

HashKind = Literal["storage", "ipfs-v0", "ipfs-v1"]

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_DIGITS = {letter: digit for digit, letter in enumerate(_BASE58)}

_SHAPES: dict[HashKind, re.Pattern[str]] = {
    "storage": re.compile("[0-9a-f]{64}"),
    "ipfs-v0": re.compile(f"Qm[{_BASE58}]{{42,44}}"),
    "ipfs-v1": re.compile("bafy[a-z2-7]{55}"),
}
_HOST_LABEL = re.compile("[A-Za-z2-7]{52}")

_SHA2_256 = b"\x12\x20"
"""What stands before such a digest in a multihash: the function and its 32 bytes."""
_FILE = 2
"""The `Type` of UnixFS for a file and for each piece of one."""


class BadHash(ValueError):
    """A text that is not a hash of the form that is asked for; `str()` of it goes to the client."""


# Item hashes


def kind_of(item_hash: str) -> HashKind:
    """Tell by its shape what a hash is of: sha256 of stored bytes, or a CID.

    Raises BadHash; hexadecimal in upper case is no hash either.
    """
    for kind, shape in _SHAPES.items():
        if shape.fullmatch(item_hash):
            return kind
    raise BadHash(f"is not an item hash: {item_hash!r:.80}")


def hash_kind(text: str) -> Literal["storage", "ipfs"] | None:
    """Tell by its shape where an item hash leads to; None if it is none (section 3.2)."""
    try:
        return "storage" if kind_of(text) == "storage" else "ipfs"
    except BadHash:
        return None


def sha256(content: str | bytes) -> str:
    """Hash content exactly as it came: lower-case hexadecimal, text as UTF-8.

    Raises UnicodeEncodeError, a ValueError, for text with a lone surrogate.
    """
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


# Host names


def host_label(item_hash: str) -> str:
    """Write the hash of a program as the first label of its host name: 52 characters in lower case.

    Raises BadHash for a CID, which does not fit into a label, and for all else that is not a sha256.
    """
    if kind_of(item_hash) != "storage":
        raise BadHash(f"has no host name: {item_hash!r:.80}")
    return base64.b32encode(bytes.fromhex(item_hash)).decode().rstrip("=").lower()


def hash_of_label(label: str) -> str:
    """Read the hash of a program from the first label of a host name, in any case.

    Raises BadHash.
    """
    if _HOST_LABEL.fullmatch(label) is None:
        raise BadHash(f"is not the host label of a program: {label!r:.80}")
    return base64.b32decode(f"{label}====", casefold=True).hex()


# Base58


def base58_encode(data: bytes) -> str:
    """Write bytes in Bitcoin's alphabet; the time grows with the square of their number."""
    number, digits = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def base58_decode(text: str) -> bytes:
    """Read bytes in Bitcoin's alphabet; the time grows with the square of their number.

    Raises ValueError.
    """
    digits = text.lstrip("1")
    number = 0
    for letter in digits:
        if letter not in _BASE58_DIGITS:
            raise ValueError(f"is not base58: {letter!r}")
        number = number * 58 + _BASE58_DIGITS[letter]
    return bytes(len(text) - len(digits)) + number.to_bytes((number.bit_length() + 7) // 8)


# CIDs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """What a node tells its parent of itself."""

    multihash: bytes
    tsize: int
    """Bytes of the node and of all nodes below it."""
    filesize: int
    """Bytes of the file below it."""


def cid_v0(chunks: Iterable[bytes], *, chunk_size: int = CHUNK_SIZE, max_links: int = MAX_LINKS) -> str:
    """Give the CID that Kubo's default import gives a file.

    The chunks may be of any sizes; beside the one at hand no more than `chunk_size` bytes of the file are kept, and
    `max_links` blocks of each row of the tree. Source: Kubo's balanced layout, dag-pb and UnixFS specifications.
    """
    rows: list[list[_Block]] = []
    for piece in _cut(chunks, chunk_size):
        _push(rows, 0, _leaf(piece), max_links)
    return base58_encode(_root(rows, max_links).multihash)


def _cut(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    piece = bytearray()
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            taken = size - len(piece)
            piece += rest[:taken]
            rest = rest[taken:]
            if len(piece) == size:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)


def _push(rows: list[list[_Block]], depth: int, block: _Block, max_links: int) -> None:
    """Append a block to its row; a row that is full becomes one block of the row above."""
    if depth == len(rows):
        rows.append([])
    rows[depth].append(block)
    if len(rows[depth]) == max_links:
        full, rows[depth] = rows[depth], []
        _push(rows, depth + 1, _parent(full), max_links)


def _root(rows: list[list[_Block]], max_links: int) -> _Block:
    """Close the rows from the leaves up, for every leaf is equally deep: the last nodes may have a single child."""
    for depth, row in enumerate(rows):
        if depth == len(rows) - 1 and len(row) == 1:
            return row[0]
        if row:
            _push(rows, depth + 1, _parent(row), max_links)
    return _leaf(b"")


def _leaf(piece: bytes) -> _Block:
    content = _bytes_field(2, piece) if piece else b""
    return _block((), _number_field(1, _FILE) + content + _number_field(3, len(piece)), len(piece))


def _parent(children: Sequence[_Block]) -> _Block:
    filesize = sum(child.filesize for child in children)
    blocksizes = b"".join(_number_field(4, child.filesize) for child in children)
    return _block(children, _number_field(1, _FILE) + _number_field(3, filesize) + blocksizes, filesize)


def _block(children: Sequence[_Block], unixfs: bytes, filesize: int) -> _Block:
    """Serialise a dag-pb node, whose links come before its data although their field number is greater."""
    node = b"".join(_bytes_field(2, _link(child)) for child in children) + _bytes_field(1, unixfs)
    return _Block(
        multihash=_SHA2_256 + hashlib.sha256(node).digest(),
        tsize=len(node) + sum(child.tsize for child in children),
        filesize=filesize,
    )


def _link(child: _Block) -> bytes:
    # The pieces of a file have no names, yet Kubo writes the field.
    return _bytes_field(1, child.multihash) + _bytes_field(2, b"") + _number_field(3, child.tsize)


def _bytes_field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(groups) + bytes([value])
