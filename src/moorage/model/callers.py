"""Who asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who may own apps and jobs; an operator may also see and stop everybody's."""

    name: str
    operator: bool = False


LOCAL = Caller(name="local", operator=True)
"""Whoever reaches the node over loopback or its own socket."""
