"""Hashes of messages and files, and host names (contract, section 3.2).

Items 25 and 46 of the acceptance checklist (section 8) for what needs no server, and item 4 for the shapes of hashes.
"""

import hashlib
import tracemalloc
from collections import deque
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.networks.aleph.messages.hashes import (
    CHUNK_SIZE,
    MAX_LINKS,
    BadHash,
    HashKind,
    base58_decode,
    base58_encode,
    cid_v0,
    hash_of_label,
    host_label,
    kind_of,
    sha256,
)

HASH = "1d3842fc4257c0fd4f9c7d5c55bba16264de8d44f47265a14f8f6eb4d542dda2"
LABEL = "du4ef7cck7ap2t44pvoflo5bmjsn5dke6rzglikpr5xljvkc3wra"
HELLO = "QmWfVY9y3xjsixTgbd9AorQxH7VtMpzfx2HaWtsoUYecaX"
CID_V1 = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
MIB = 1 << 20


def zeros(size: int, *, chunk: int = MIB) -> Iterator[bytes]:
    """Give a file of zeros chunk by chunk."""
    for start in range(0, size, chunk):
        yield bytes(min(chunk, size - start))


# Item hashes


@pytest.mark.parametrize(
    ("item_hash", "kind"),
    [
        (HASH, "storage"),
        (HELLO, "ipfs-v0"),
        ("Qm" + "1" * 42, "ipfs-v0"),
        ("Qm" + "z" * 44, "ipfs-v0"),
        (CID_V1, "ipfs-v1"),
    ],
)
def test_the_shape_of_a_hash_tells_its_kind(item_hash: str, kind: HashKind) -> None:
    assert kind_of(item_hash) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        HASH.upper(),
        HASH[:-1],
        HASH + "0",
        HASH + "\n",
        " " + HASH,
        "0x" + HASH,
        HASH[:-1] + "g",
        HASH[:-1] + "\uff11",
        "Qm" + "1" * 41,
        "Qm" + "1" * 45,
        "qm" + HELLO[2:],
        HELLO[:-1] + "0",
        HELLO[:-1] + "l",
        HELLO + "\n",
        CID_V1[:-1],
        CID_V1 + "a",
        CID_V1[:-1] + "1",
        CID_V1.upper(),
        "bafk" + CID_V1[4:],
    ],
)
def test_nothing_else_is_a_hash(text: str) -> None:
    with pytest.raises(BadHash):
        kind_of(text)


def test_a_refusal_does_not_repeat_all_of_a_long_text() -> None:
    with pytest.raises(BadHash) as caught:
        kind_of("x" * MIB)
    assert len(str(caught.value)) < 200


def test_text_is_hashed_as_utf_8_and_exactly_as_it_came() -> None:
    assert sha256('{"a":"é"}') == sha256('{"a":"é"}'.encode()) == hashlib.sha256(b'{"a":"\xc3\xa9"}').hexdigest()
    assert sha256('{"a": "é"}') != sha256('{"a":"é"}')
    assert sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_text_that_utf_8_cannot_carry_has_no_hash() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        sha256("\ud800")


# Host names


def test_the_host_label_of_the_contract_reads_both_ways() -> None:
    assert host_label(HASH) == LABEL
    assert hash_of_label(LABEL) == hash_of_label(LABEL.upper()) == hash_of_label(LABEL.title()) == HASH


@given(st.binary(min_size=32, max_size=32))
def test_every_program_hash_has_a_label_that_gives_it_back(digest: bytes) -> None:
    label = host_label(digest.hex())
    assert len(label) == 52
    assert hash_of_label(label) == digest.hex()


@pytest.mark.parametrize("item_hash", [HELLO, CID_V1, HASH.upper(), ""])
def test_a_cid_and_what_is_no_hash_have_no_label(item_hash: str) -> None:
    with pytest.raises(BadHash):
        host_label(item_hash)


@pytest.mark.parametrize(
    "label",
    ["", LABEL[:-1], LABEL + "a", LABEL[:-1] + "=", LABEL[:-1] + "1", LABEL[:-1] + "\u0131", LABEL + "\n", HASH],
)
def test_other_labels_name_no_program(label: str) -> None:
    with pytest.raises(BadHash):
        hash_of_label(label)


# Base58


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\0", "1"),
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (
            b"The quick brown fox jumps over the lazy dog.",
            "USm3fpXnKG5EUBx2ndxBDMPVciP5hGey2Jh4NDv6gmeo1LkMeiKrLJUUBk6Z",
        ),
        (bytes.fromhex("0000287fb4cd"), "11233QC4"),
    ],
)
def test_base58_is_that_of_bitcoin(data: bytes, text: str) -> None:
    assert base58_encode(data) == text
    assert base58_decode(text) == data


@given(st.binary(max_size=80))
def test_base58_gives_bytes_back(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


@given(st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=80))
def test_bytes_have_one_base58_text_alone(text: str) -> None:
    assert base58_encode(base58_decode(text)) == text


@pytest.mark.parametrize("text", ["0", "O", "I", "l", " 2", "2\n", "é", "\u0661", "\ud800"])
def test_other_letters_are_not_base58(text: str) -> None:
    with pytest.raises(ValueError, match="base58"):
        base58_decode(text)


# CIDs


@pytest.mark.parametrize(
    ("content", "cid"),
    [
        ([b"hello"], HELLO),
        ([], "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        ([b""], "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (zeros(262_145), "QmbVuw4C4vcmVKqxoWtgDVobvcHrSn51qsmQmyxjk4sB2Q"),
        (zeros(600_000), "QmRGw3jDTE2Bu51tEYn2JoyQq3ApDaJm8DpRxM68WqK7fU"),
        (zeros(600_000, chunk=999), "QmRGw3jDTE2Bu51tEYn2JoyQq3ApDaJm8DpRxM68WqK7fU"),
    ],
)
def test_a_file_has_the_cid_that_kubo_gives_it(content: Iterable[bytes], cid: str) -> None:
    assert cid_v0(content) == cid
    assert kind_of(cid) == "ipfs-v0"


def test_a_file_of_two_levels_has_its_cid_without_being_kept_in_memory() -> None:
    tracemalloc.start()
    try:
        assert cid_v0(zeros(45_613_057)) == "QmehMASWcBsX7VcEQqs6rpR5AHoBfKyBVEgmkJHjpPg8jq"
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()


Tree = bytes | list["Tree"]


def balanced(pieces: Iterable[bytes], *, width: int) -> Tree:
    """Lay out a file as Kubo does: a tree that is full becomes the first child of one that is a level higher."""
    waiting = deque(pieces)

    def filled(children: list[Tree], depth: int) -> Tree:
        while waiting and len(children) < width:
            children.append(waiting.popleft() if depth == 1 else filled([], depth - 1))
        return children

    root: Tree = waiting.popleft() if waiting else b""
    depth = 0
    while waiting:
        depth += 1
        root = filled([root], depth)
    return root


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def imported(tree: Tree) -> tuple[bytes, int, int]:
    """Give the digest of a tree's root, the bytes of its nodes and those of the file."""
    links, sizes = b"", b""
    total = filesize = 0
    if isinstance(tree, bytes):
        filesize = len(tree)
        unixfs = b"\x08\x02" + (b"\x12" + varint(filesize) + tree if tree else b"") + b"\x18" + varint(filesize)
    else:
        for child in tree:
            digest, weight, size = imported(child)
            link = b"\x0a\x22\x12\x20" + digest + b"\x12\x00\x18" + varint(weight)
            links += b"\x12" + varint(len(link)) + link
            sizes += b"\x20" + varint(size)
            total, filesize = total + weight, filesize + size
        unixfs = b"\x08\x02\x18" + varint(filesize) + sizes
    node = links + b"\x0a" + varint(len(unixfs)) + unixfs
    return hashlib.sha256(node).digest(), total + len(node), filesize


def cid_of(tree: Tree) -> str:
    return base58_encode(b"\x12\x20" + imported(tree)[0])


def test_the_layout_that_the_next_tests_compare_with_is_that_of_the_contract() -> None:
    pieces = [bytes(CHUNK_SIZE)] * MAX_LINKS + [b"\0"]
    assert cid_of(balanced(pieces, width=MAX_LINKS)) == "QmehMASWcBsX7VcEQqs6rpR5AHoBfKyBVEgmkJHjpPg8jq"


def test_a_tree_grows_a_third_level_whose_last_branch_is_as_deep_as_the_first() -> None:
    content = bytes(index % 251 for index in range(MAX_LINKS**2 + 1))
    tree = balanced((bytes([byte]) for byte in content), width=MAX_LINKS)
    assert isinstance(tree, list)
    first, last = tree
    assert len(first) == MAX_LINKS
    assert last == [[content[-1:]]]
    assert cid_v0([content], chunk_size=1) == cid_of(tree)
    full = balanced((bytes([byte]) for byte in content[:-1]), width=MAX_LINKS)
    assert full == first
    assert cid_v0([content[:-1]], chunk_size=1) == cid_of(full)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_tree_of_any_size_has_the_layout_of_kubo(width: int) -> None:
    for size in range(width**4 + 2):
        content = bytes(index % 251 for index in range(size))
        assert cid_v0([content], chunk_size=1, max_links=width) == cid_of(
            balanced((bytes([byte]) for byte in content), width=width)
        )


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 8))
def test_the_chunks_a_file_comes_in_do_not_matter(chunks: list[bytes], size: int) -> None:
    content = b"".join(chunks)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    assert cid_v0(chunks, chunk_size=size, max_links=3) == cid_of(balanced(pieces, width=3))
