"""What containers are sent and how their replies are taken (contract, sections 3.2 and 3.3).

Items 2 and 3 of the acceptance checklist (section 8), for what needs no container.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.networks.infernet.service import MAX_ERROR, Place, request_body, take
from moorage.networks.infernet.wire import Failure, Output

CHAIN, OFFCHAIN, STREAM = Place.CHAIN, Place.OFFCHAIN, Place.STREAM
HEX = b"\x00\xab\xff"


@pytest.mark.parametrize(
    ("way", "place", "data", "proof", "body"),
    [
        ((OFFCHAIN, OFFCHAIN), (0, 1), {"b": 1, "a": "ö"}, False,
         b'{"source":1,"destination":1,"data":{"b":1,"a":"\\u00f6"},"requires_proof":false}'),
        ((OFFCHAIN, OFFCHAIN), (0, 3), {}, True, b'{"source":1,"destination":1,"data":{},"requires_proof":true}'),
        ((OFFCHAIN, OFFCHAIN), (1, 3), "t", True, b'{"source":1,"destination":1,"data":"t","requires_proof":true}'),
        ((OFFCHAIN, OFFCHAIN), (2, 3), None, True, b'{"source":1,"destination":1,"data":null,"requires_proof":true}'),
        ((OFFCHAIN, STREAM), (0, 1), {"a": [1.0]}, True, b'{"source":1,"destination":2,"data":{"a":[1.0]}}'),
        ((CHAIN, CHAIN), (0, 1), HEX, False, b'{"source":0,"destination":0,"data":"00abff","requires_proof":false}'),
        ((CHAIN, CHAIN), (0, 1), b"", True, b'{"source":0,"destination":0,"data":"","requires_proof":true}'),
        ((CHAIN, CHAIN), (0, 3), HEX, True, b'{"source":0,"destination":1,"data":"00abff","requires_proof":true}'),
        ((CHAIN, CHAIN), (1, 3), [1], True, b'{"source":1,"destination":1,"data":[1],"requires_proof":true}'),
        ((CHAIN, CHAIN), (2, 3), {}, True, b'{"source":1,"destination":0,"data":{},"requires_proof":true}'),
        ((OFFCHAIN, CHAIN), (0, 1), {"a": 1}, False,
         b'{"source":1,"destination":0,"data":{"a":1},"requires_proof":false}'),
        ((OFFCHAIN, CHAIN), (0, 3), {}, False, b'{"source":1,"destination":1,"data":{},"requires_proof":false}'),
        ((OFFCHAIN, CHAIN), (1, 3), {}, False, b'{"source":1,"destination":1,"data":{},"requires_proof":false}'),
        ((OFFCHAIN, CHAIN), (2, 3), 2**256 - 1, False,
         b'{"source":1,"destination":0,"data":%d,"requires_proof":false}' % (2**256 - 1)),
    ],
    ids=[
        "off-chain, single", "off-chain, first", "off-chain, middle", "off-chain, last", "streaming",
        "on-chain, single", "on-chain, empty input", "on-chain, first", "on-chain, middle", "on-chain, last",
        "delegated, single", "delegated, first", "delegated, middle", "delegated, last",
    ],
)  # fmt: skip
def test_a_container_is_sent_exactly_the_body_of_the_contract(
    way: tuple[Place, Place], place: tuple[int, int], data: Any, proof: bool, body: bytes
) -> None:
    """Item 2."""
    (source, destination), (position, length) = way, place
    found = request_body(
        data, source=source, destination=destination, requires_proof=proof, position=position, length=length
    )
    assert found == body


JSON = "application/json"


def mistyped(media_type: str) -> Failure:
    return Failure(error=f"Attempt to decode JSON with unexpected mimetype: {media_type}")


@pytest.mark.parametrize(
    ("status", "media_type", "body", "expected"),
    [
        (200, JSON, b'{"a":1}', Output(value={"a": 1})),
        (201, "application/json; charset=utf-8", b"{}", Output(value={})),
        (299, "Application/JSON", b"{}", Output(value={})),
        (200, "application/problem+json", b"{}", Output(value={})),
        (200, "application/vnd.api-v1.2+json ;x=y", b"{}", Output(value={})),
        (200, JSON, b'"text"', Output(value="text")),
        (200, JSON, b"5", Output(value=5)),
        (200, JSON, b"[1,2]", Output(value=[1, 2])),
        (200, JSON, b"null", Output(value=None)),
        (200, JSON, b"", Output(value=None)),
        (204, JSON, b" \r\n", Output(value=None)),
        (200, JSON, b'{"code":"400","name":"x"}', Output(value={"code": "400", "name": "x"})),
        (200, JSON, b'"\\ud800"', Output(value="\ud800")),
        (500, JSON, b'{"code":"500"}', Failure(error='HTTP 500: {"code":"500"}')),
        (404, JSON, b"", Failure(error="HTTP 404: ")),
        (308, JSON, b"{}", Failure(error="HTTP 308: {}")),
        (199, JSON, b"{}", Failure(error="HTTP 199: {}")),
        (500, "text/html", b"<h1>oops</h1>", Failure(error="HTTP 500: <h1>oops</h1>")),
        (502, None, b"\xff", Failure(error="HTTP 502: \N{REPLACEMENT CHARACTER}")),
        (200, "text/plain", b"{}", mistyped("text/plain")),
        (200, "text/json", b"{}", mistyped("text/json")),
        (200, "text/plain; charset=x", b"", mistyped("text/plain")),
        (200, "application/jsonp", b"{}", mistyped("application/jsonp")),
        (200, None, b"{}", mistyped("(none)")),
        (200, "", b"", mistyped("(none)")),
        (200, JSON, b"{oops", Failure(error="{oops")),
        (200, JSON, b"\xff\xfe", Failure(error="\N{REPLACEMENT CHARACTER}" * 2)),
        (200, JSON, b'{"x":NaN}', Failure(error='{"x":NaN}')),
        (200, JSON, b"1e999", Failure(error="1e999")),
        (200, JSON, b"1" * 5000, Failure(error="1" * 4096)),
        (200, JSON, b"[" * 100_000, Failure(error="[" * 4096)),
    ],
)  # fmt: skip
def test_a_reply_is_taken_as_the_contract_says(
    status: int, media_type: str | None, body: bytes, expected: Output | Failure
) -> None:
    """Item 3: the rows of table 3.3, column "ours"."""
    assert take(status, media_type, body) == expected


@pytest.mark.parametrize(
    ("status", "media_type", "body", "expected"),
    [
        (500, JSON, b'{"code":"500"}', Output(value={"code": "500"})),
        (404, JSON, b"", Output(value=None)),
        (500, JSON, b"oops", Failure(error="oops")),
        (500, "text/html", b"oops", Failure(error="HTTP 500: oops")),
        (200, "text/html", b"oops", mistyped("text/html")),
        (200, JSON, b"1", Output(value=1)),
    ],
)
def test_an_error_status_with_json_is_an_output_where_the_operator_says_so(
    status: int, media_type: str, body: bytes, expected: Output | Failure
) -> None:
    assert take(status, media_type, body, accept_error_status=True) == expected


def test_big_integers_stay_exact_and_keys_keep_their_order() -> None:
    found = take(200, JSON, b'{"z":%d,"a":-%d,"m":1.0,"z2":{"b":1,"a":2}}' % (2**256 - 1, 2**255))
    assert isinstance(found, Output)
    assert str(found.value) == f"{{'z': {2**256 - 1}, 'a': -{2**255}, 'm': 1.0, 'z2': {{'b': 1, 'a': 2}}}}"


@pytest.mark.parametrize("character", ["x", "é", "€", "\N{PARTY POPPER}"])
@pytest.mark.parametrize("shift", range(4))
def test_an_error_is_cut_at_four_kib_between_characters(character: str, shift: int) -> None:
    text = "x" * shift + character * 5000
    for status, prefix in ((200, ""), (500, "HTTP 500: ")):
        found = take(status, JSON, text.encode())
        assert isinstance(found, Failure)
        assert (prefix + text).startswith(found.error)
        assert MAX_ERROR - 4 < len(found.error.encode()) <= MAX_ERROR


def test_an_error_that_is_no_text_is_cut_too() -> None:
    found = take(500, None, b"\xff" * 5000)
    assert isinstance(found, Failure)
    assert len(found.error.encode()) <= MAX_ERROR


@settings(deadline=None)
@given(
    st.integers(100, 999),
    st.none() | st.text() | st.sampled_from([JSON, "application/a+json", "text/plain"]),
    st.binary() | st.text('[]{}",:\\ \n0truefalsnNa.-eE').map(str.encode),
    st.booleans(),
)
def test_no_reply_makes_taking_it_raise_and_no_error_is_empty(
    status: int, media_type: str | None, body: bytes, accept: bool
) -> None:
    found = take(status, media_type, body, accept_error_status=accept)
    assert isinstance(found, Output) or 0 < len(found.error.encode()) <= MAX_ERROR
