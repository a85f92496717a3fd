"""How a container's output goes on chain (contract, sections 3.3 and 3.8)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from moorage.model.jobs import JSON

KEYS = ("raw_input", "processed_input", "raw_output", "processed_output", "proof")
"""An output with all of these is encoded by them; the values are hexadecimal."""

Style = Literal["python_repr", "json"]
"""How an object is written as a string: as Python's `str` does, like the network's own node, or as JSON."""


class BadOutput(ValueError):
    """An output that cannot go on chain; counts as an error of the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The three byte strings of a delivery."""

    input: bytes = b""
    output: bytes = b""
    proof: bytes = b""


def encode(output: JSON, *, string_output: Style = "python_repr") -> Delivery:
    """Encode an output for the consumer's contract (section 3.8).

    Raises BadOutput, with the text that is shown, for what is no object, reports an error of its own by `code`, or
    has all five keys and no hexadecimal in one of them.
    """
    from eth_abi.abi import encode as abi  # a slow import

    found = _checked(output)
    if not all(key in found for key in KEYS):
        return Delivery(output=abi(["string"], [_text(found, string_output)]))
    raw = {key: _bytes(key, found[key]) for key in KEYS}
    return Delivery(
        input=abi(["bytes", "bytes"], [raw["raw_input"], raw["processed_input"]]),
        output=abi(["bytes", "bytes"], [raw["raw_output"], raw["processed_output"]]),
        proof=raw["proof"],
    )


def _checked(output: JSON) -> Mapping[str, JSON]:
    if not isinstance(output, dict):
        raise BadOutput("Container output is not an object")
    code = output.get("code")
    if code is not None and not (code == "200" or (code == 200 and isinstance(code, int))):
        raise BadOutput(f"Container error: {_text(output, 'json')}")
    return output


def _text(output: Mapping[str, JSON], style: Style) -> str:
    text = str(output) if style == "python_repr" else json.dumps(output, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()  # half a character, as JSON itself would write it


def _bytes(key: str, value: JSON) -> bytes:
    """Read hexadecimal: blanks between bytes and a `0x` before them are tolerated, null is nothing."""
    if value is None:
        return b""
    try:
        return bytes.fromhex(value.strip().removeprefix("0x"))
    except (ValueError, AttributeError):
        raise BadOutput(f"Invalid hex in {key}") from None
