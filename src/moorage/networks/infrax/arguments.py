"""A job's arguments: what is valid (contract, section 5.1) and how they reach the app (section 3.1)."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from moorage.errors import KwargBadKey, KwargInvalidText, KwargsBadType, KwargsTooLarge, KwargTooLong
from moorage.model.jobs import JSON
from moorage.model.limits import KIB

MAX_VALUE = 1024
"""Code points of one value in its argv text form."""
MAX_KEY = 256
"""Code points of one key."""
MAX_KEYS = 256
MAX_BYTES = 512 * KIB
"""Bytes of all arguments as the kernel takes them: UTF-8, each followed by NUL."""

KwargsVia = Literal["both", "stdin", "argv"]
ArgvStyle = Literal["auto", "pairs", "equals"]

_UNSPEAKABLE = re.compile("[\0\ud800-\udfff]")
_BAD_IN_KEY = re.compile(r"[=\s\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Valid arguments of one job: keyword arguments, or positional ones where there are none of those."""

    kwargs: Mapping[str, JSON] = field(default_factory=dict)
    args: Sequence[JSON] = ()

    @property
    def parameters(self) -> Mapping[str, JSON]:
        """What is stored with the job."""
        if self.kwargs:
            return {"kwargs": self.kwargs}
        return {"args": list(self.args)} if self.args else {}

    def stdin(self, via: KwargsVia) -> bytes:
        """Give the whole of standard input: one JSON object in ASCII without a newline, `{}` when there is none."""
        return b"{}" if via == "argv" else json.dumps(self.kwargs).encode()

    def argv(self, via: KwargsVia, style: ArgvStyle) -> tuple[str, ...]:
        """Give what follows `main.py` on the command line."""
        if not self.kwargs:
            return tuple(map(str, self.args))
        return () if via == "stdin" else tuple(_tokens(self.kwargs, style))


def parse(kwargs: JSON, args: JSON, defaults: JSON = None) -> Arguments:
    """Check arguments and put those of a job over its app's defaults.

    Default keys come first (section 1.4); positional arguments count only where no keyword argument is left.
    Raises KwargsBadType, KwargBadKey, KwargInvalidText, KwargTooLong, KwargsTooLarge, naming the key.
    """
    merged = {**_object(defaults, "the app's kwargs"), **_object(kwargs, "kwargs")}
    positional = [] if args is None else args
    if not isinstance(positional, list | tuple):
        raise KwargsBadType(f"`args` is not a list but {type(args).__name__}.")
    if len(merged) > MAX_KEYS:
        raise KwargsTooLarge(f"There are {len(merged)} keyword arguments; at most {MAX_KEYS} are taken.")
    for key, value in merged.items():
        _check_key(key)
        _check_value(value, f"Keyword argument {key!r}")
    for index, value in enumerate(positional):
        _check_value(value, f"Entry {index} of args")
    arguments = Arguments(kwargs=merged, args=() if merged else tuple(positional))
    _check_size(arguments)
    return arguments


def parse_setting(text: str) -> JSON:
    """Read the VALUE of `--set KEY=VALUE`: what it says as JSON, or else the text itself.

    `5` is a number, `Ada` and `007` are text, `"5"` in quotes is text too, `[1,2]` a list and `true` a boolean.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON: such a value is text


def _tokens(kwargs: Mapping[str, JSON], style: ArgvStyle) -> Iterator[str]:
    for key, value in kwargs.items():
        text = str(value)
        # In two tokens argparse takes a leading dash for another option and exits with status 2.
        if style == "equals" or (style == "auto" and text.startswith("-")):
            yield f"--{key}={text}"
        else:
            yield f"--{key}"
            yield text


def _object(value: JSON, what: str) -> Mapping[str, JSON]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise KwargsBadType(f"{what} must be an object, not {type(value).__name__}.")
    return value


def _check_key(key: str) -> None:
    if _UNSPEAKABLE.search(key):
        raise KwargInvalidText(f"The name of keyword argument {key!r} holds a NUL or a lone surrogate.")
    if not key or len(key) > MAX_KEY or key.startswith("-") or _BAD_IN_KEY.search(key):
        raise KwargBadKey(f"{key[:80]!r} cannot be the name of a keyword argument.")


def _check_value(value: JSON, what: str) -> None:
    try:
        too_long = len(str(value)) > MAX_VALUE
    except (RecursionError, ValueError):  # nested, or an integer, beyond what Python writes out
        too_long = True
    if too_long:
        raise KwargTooLong(f"{what} is longer than {MAX_VALUE} characters.")
    if not all(map(_speakable, _leaves(value))):
        raise KwargInvalidText(f"{what} holds a NUL, a lone surrogate or a number that JSON cannot write.")


def _leaves(value: JSON) -> Iterator[JSON]:
    match value:
        case Mapping():
            yield from value
            for item in value.values():
                yield from _leaves(item)
        case list() | tuple():
            for item in value:
                yield from _leaves(item)
        case _:
            yield value


def _speakable(leaf: JSON) -> bool:
    if isinstance(leaf, str):
        return _UNSPEAKABLE.search(leaf) is None
    return not isinstance(leaf, float) or math.isfinite(leaf)


def _check_size(arguments: Arguments) -> None:
    total = sum(len(token.encode()) + 1 for token in arguments.argv("both", "pairs"))
    if total > MAX_BYTES:
        raise KwargsTooLarge(f"The arguments take {total} bytes; at most {MAX_BYTES} are taken.")
