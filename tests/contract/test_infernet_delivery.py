"""What a contract is handed of a container's output: byte for byte (contract, sections 3.3 and 3.8)."""

import contextlib
import json
from typing import Any

import pytest
from eth_abi.abi import decode
from hypothesis import given
from hypothesis import strategies as st

from moorage.networks.infernet.delivery import KEYS, BadOutput, Delivery, encode

EMPTY_PAIR = bytes.fromhex("40".zfill(64) + "60".zfill(64) + "0" * 128)
BIG = (1 << 256) - 1
FIVE = dict.fromkeys(KEYS, "")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def text_of(delivery: Delivery) -> str:
    (text,) = decode(["string"], delivery.output)
    return str(text)


def test_the_five_keys_become_two_pairs_and_a_proof() -> None:
    output = {**FIVE, "raw_input": "01", "processed_input": "02 03", "raw_output": "ff", "proof": "0A0b", "more": 1}
    delivery = encode(output)
    assert decode(["bytes", "bytes"], delivery.input) == (b"\x01", b"\x02\x03")
    assert decode(["bytes", "bytes"], delivery.output) == (b"\xff", b"")
    assert delivery.proof == b"\x0a\x0b"


def test_a_pair_is_laid_out_as_the_abi_says() -> None:
    word = "{:064x}".format
    expected = word(0x40) + word(0x80) + word(1) + "aa".ljust(64, "0") + word(2) + "bbcc".ljust(64, "0")
    assert encode({**FIVE, "raw_output": "aa", "processed_output": "bbcc"}).output.hex() == expected


@pytest.mark.parametrize("nothing", ["", None, "0x", "  "])
def test_five_keys_of_nothing_are_a_pair_of_nothing_and_no_proof(nothing: str | None) -> None:
    assert encode(dict.fromkeys(KEYS, nothing)) == Delivery(input=EMPTY_PAIR, output=EMPTY_PAIR, proof=b"")


def test_a_prefix_is_stripped() -> None:
    assert encode({**FIVE, "proof": "0xdead"}).proof == b"\xde\xad"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["0", "zz", "0x0", 1, True, [], {}, 1.5, "é"])
def test_what_is_no_hexadecimal_is_named(key: str, value: Any) -> None:
    with pytest.raises(BadOutput, match=f"^Invalid hex in {key}$"):
        encode({**FIVE, key: value})


def test_any_other_object_is_one_string_as_python_writes_it() -> None:
    delivery = encode(json.loads('{"data":"hello","ok":true,"n":null,"f":1.0}'))
    expected = "{'data': 'hello', 'ok': True, 'n': None, 'f': 1.0}"
    assert len(expected) == 50
    assert delivery.output.hex() == f"{0x20:064x}{50:064x}" + expected.encode().hex().ljust(128, "0")
    assert (delivery.input, delivery.proof) == (b"", b"")


@pytest.mark.parametrize(
    ("document", "python", "as_json"),
    [
        ('{"a": "it\'s"}', """{'a': "it's"}""", '{"a": "it\'s"}'),
        ('{"a": "both \' and \\""}', """{'a': 'both \\' and "'}""", '{"a": "both \' and \\""}'),
        ('{"b": 1, "a": [1, {"c": null}]}', "{'b': 1, 'a': [1, {'c': None}]}", '{"b": 1, "a": [1, {"c": null}]}'),
        ('{"ü": "漢"}', "{'ü': '漢'}", '{"ü": "漢"}'),
        (f'{{"n": {BIG}}}', f"{{'n': {BIG}}}", f'{{"n": {BIG}}}'),
        ('{"f": 1e22, "g": 0.1}', "{'f': 1e+22, 'g': 0.1}", '{"f": 1e+22, "g": 0.1}'),
        ('{"half": "\\ud800"}', "{'half': '\\ud800'}", '{"half": "\\ud800"}'),
        ("{}", "{}", "{}"),
    ],
    ids=["quote", "both quotes", "nested", "unicode", "big", "floats", "half a character", "empty"],
)
def test_both_ways_to_write_an_object(document: str, python: str, as_json: str) -> None:
    assert text_of(encode(json.loads(document))) == python
    assert text_of(encode(json.loads(document), string_output="json")) == as_json


def test_four_of_the_five_keys_are_an_object_like_any_other() -> None:
    four = dict.fromkeys(KEYS[:4], "")
    assert text_of(encode(four)) == str(four)


@pytest.mark.parametrize("output", [None, [], "text", 1, True])
def test_what_is_no_object_is_an_error_of_the_container(output: Any) -> None:
    with pytest.raises(BadOutput, match=r"^Container output is not an object$"):
        encode(output)


@pytest.mark.parametrize("code", ["400", 400, "", 0, True, 200.5, "200 "])
def test_a_code_other_than_200_is_an_error_of_the_container(code: Any) -> None:
    with pytest.raises(BadOutput, match=r"^Container error: .*no such model"):
        encode({"code": code, "description": "no such model"})


@pytest.mark.parametrize("code", ["200", 200, None])
def test_a_code_of_200_is_none(code: Any) -> None:
    assert text_of(encode({"code": code})) == str({"code": code})


@given(JSON)
def test_whatever_a_container_gives_is_encoded_or_refused(output: Any) -> None:
    for style in ("python_repr", "json"):
        with contextlib.suppress(BadOutput):
            assert len(encode(output, string_output=style).output) % 32 == 0
