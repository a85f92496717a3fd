"""Who asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who may own apps and jobs; an operator may also see and stop everybody's."""

    name: str
    operator: bool = False
    same_user: bool = False
    """Whether it is known to be the node's own user, who gains nothing from a job without isolation."""


LOCAL = Caller(name="local", operator=True)
"""Whoever reaches the node over loopback: any user of this machine."""

NODE_USER = Caller(name="local", operator=True, same_user=True)
"""Whoever opens the node's own socket, which only its user can."""
