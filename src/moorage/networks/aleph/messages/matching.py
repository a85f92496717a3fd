"""Which messages a program's subscriptions take (contract, section 2.9).

Nothing here recurses, and lists are compared by the numbers of their items: neither deep nor long JSON of a stranger
can overflow the stack or take more time than its size is worth.
"""

import re
from collections.abc import Hashable, Iterable

from moorage.model.jobs import JSON

_ADDRESS = re.compile("0[xX][0-9a-fA-F]{40}")

_Numbers = dict[Hashable, int]
"""A number for every value met so far; equal values have the same one."""


def matches(subscriptions: Iterable[JSON], message: JSON) -> bool:
    """Tell whether any of the subscriptions takes this message: its envelope with the parsed content."""
    return any(match(subscription, message) for subscription in subscriptions)


def match(subscription: JSON, message: JSON) -> bool:
    """Tell whether one subscription takes this message.

    An object asks for its keys at least, and `{}` for nothing. A list takes any of its items, and in a list one
    item is enough. Equality is that of JSON: 1 is 1.0 and never true; `0x` addresses have no case.
    """
    numbers: _Numbers = {}
    pending = [(subscription, message)]
    while pending:
        wanted, found = pending.pop()
        if not isinstance(wanted, dict):
            if not _fits(wanted, found, numbers):
                return False
            continue
        if not isinstance(found, dict) or not wanted.keys() <= found.keys():
            return False
        pending += ((value, found[key]) for key, value in wanted.items())
    return True


def _fits(wanted: JSON, found: JSON, numbers: _Numbers) -> bool:
    """Compare where an object is no longer asked for."""
    options = {_number(wanted, numbers)}
    if isinstance(wanted, list):
        options |= {_number(item, numbers) for item in wanted}
    if _number(found, numbers) in options:
        return True
    return isinstance(found, list) and any(_number(item, numbers) in options for item in found)


def equal(left: JSON, right: JSON) -> bool:
    """Tell whether two values are the same JSON, addresses compared without case."""
    numbers: _Numbers = {}
    return _number(left, numbers) == _number(right, numbers)


def _number(value: JSON, numbers: _Numbers) -> int:
    """Give a value its number after its parts: each list or object is met twice, before them and after."""
    pending, done = [(value, False)], list[int]()
    while pending:
        node, parts_done = pending.pop()
        if not isinstance(node, dict | list):
            done.append(numbers.setdefault(_scalar(node), len(numbers)))
        elif not parts_done:
            pending.append((node, True))
            pending += ((part, False) for part in (node.values() if isinstance(node, dict) else node))
        else:
            start = len(done) - len(node)
            parts = done[start:]
            del done[start:]
            done.append(numbers.setdefault(_container(node, parts), len(numbers)))
    return done[0]


def _container(node: dict[str, JSON] | list[JSON], parts: list[int]) -> Hashable:
    """Describe a list or object by the numbers of its parts, which come last first."""
    if isinstance(node, dict):
        return "object", frozenset(zip(reversed(node), parts, strict=True))
    return "list", tuple(parts)


def _scalar(value: JSON) -> Hashable:
    """Describe a value so that equal ones look the same.

    Numbers are written out, since a stranger can choose integers that collide in a dict.
    """
    if isinstance(value, bool) or value is None:
        return "word", value
    if isinstance(value, str):
        return "string", value.lower() if _ADDRESS.fullmatch(value) else value
    if isinstance(value, float) and not value.is_integer():
        return "number", value.hex()
    return "number", hex(int(value))
