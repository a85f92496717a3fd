"""Resource limits: what the kernel holds each single process to, with or without cgroups."""

import resource
from collections.abc import Iterator

from moorage.model.limits import Limits


def rlimits(limits: Limits, enforced: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Give pairs of resource number and ceiling; `enforced` says which of the limits cgroups take care of.

    Without a memory cgroup the address space of each process is limited in its place.
    """
    yield resource.RLIMIT_CORE, 0
    yield resource.RLIMIT_NOFILE, limits.open_files
    yield resource.RLIMIT_FSIZE, limits.disk
    if "memory" not in enforced:
        yield resource.RLIMIT_AS, limits.memory
