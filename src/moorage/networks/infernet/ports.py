"""Which port of this machine each container gets (contract, section 2.1)."""

from collections.abc import Callable, Iterable

from moorage.errors import AddressUnavailable

FALLBACK_PORTS = range(3999, 1023, -1)
"""Host ports for containers whose own is taken, in this order."""


def assign_ports(wanted: Iterable[int], taken: Callable[[int], bool]) -> tuple[int, ...]:
    """Give each container, in order, its own host port: the wanted one or the first free from 3999 down (section 2.1).

    `taken` tells of a port whether something else on this machine has it.
    Raises AddressUnavailable.
    """
    assigned: list[int] = []
    for port in wanted:
        free = (other for other in (port, *FALLBACK_PORTS) if other not in assigned and not taken(other))
        chosen = next(free, None)
        if chosen is None:
            raise AddressUnavailable(f"Port {port} is taken, and so is every one from 3999 down to 1024.")
        assigned.append(chosen)
    return tuple(assigned)
