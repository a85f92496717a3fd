"""Strict JSON objects, as task files, descriptors and prerequisites are read, and what is wrong with one in words."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NoReturn

from pydantic import ValidationError

from moorage.blobs.names import shown
from moorage.model.jobs import JSON

MAX_DEPTH = 100
"""Levels of lists and objects within each other; whatever is read here can be written within other JSON again."""

MISSING = "is missing"
MAX_PROBLEMS = 20
"""How many are told of at once."""

Source = str | bytes | Mapping[str, JSON]
"""An object, or the text of one."""


class BadDocument(ValueError):
    """It is not the JSON object that it should be; the text says why, as a sentence about `it` without a full stop."""


def read_object(source: Source) -> dict[str, JSON]:
    """Read a JSON object: the order of keys and the types of values are kept, integers are exact.

    What could not be kept as it was read is refused: equal keys, NaN, infinities, what a double cannot hold, lone
    surrogates, and more than MAX_DEPTH levels. An object that was read elsewhere is looked at just so.
    Raises BadDocument.
    """
    try:
        text = _text(source)
        document = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise BadDocument("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadDocument(f"it is not valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(document, dict):
        raise BadDocument("it is not a JSON object")
    if text.count("[") + text.count("{") > MAX_DEPTH and _deep(document):
        raise _too_deep()
    if _SURROGATE.search(text) and _LONE_SURROGATE.search(json.dumps(document, ensure_ascii=False)):
        raise BadDocument("it holds a lone surrogate")
    return document


def object_in(value: JSON) -> dict[str, JSON]:
    """Take a value that has to be an object, as it is. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports ValueError
    return value


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Give for each of the first problems the key, with an index if it is in a list, and what is wrong there."""
    for item in error.errors(include_url=False)[:MAX_PROBLEMS]:
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in item["loc"])
        reason = str(item["ctx"]["error"]) if item["type"] == "value_error" else _REASONS.get(item["type"], item["msg"])
        yield "".join(steps).removeprefix("."), reason


def readable(key: str) -> str:
    """Make any key fit for a message."""
    return key if key.isprintable() and len(key) <= 200 else shown(key)


_REASONS = {"missing": MISSING, "tuple_type": "must be a list"}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
"""Also one that is written as an escape, and may be half of a pair."""


def _text(source: Source) -> str:
    if isinstance(source, bytes):
        source = source.decode()
    text = source if isinstance(source, str) else json.dumps(dict(source))
    if text.startswith("\ufeff"):
        raise BadDocument("it begins with a byte order mark; save it as UTF-8 without one")
    return text


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    document = dict(pairs)
    if len(document) < len(pairs):
        (repeated, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise BadDocument(f"it has the key {shown(repeated)} twice in one object; leave one of them out")
    return document


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadDocument(f"it holds an integer of {len(text)} digits") from None


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise BadDocument(f"it holds {shown(text)}, which is no finite number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_refuse)


def _too_deep() -> BadDocument:
    return BadDocument(f"it is nested deeper than {MAX_DEPTH} levels")


def _deep(document: dict[str, JSON]) -> bool:
    """Look level by level, since a recursive search would meet the very limit that is guarded here."""
    level: list[dict[str, JSON] | list[JSON]] = [document]
    for _ in range(MAX_DEPTH):
        parts = (node.values() if isinstance(node, dict) else node for node in level)
        level = [part for part in chain.from_iterable(parts) if isinstance(part, dict | list)]
    return bool(level)
