"""Cgroups: limits that hold for a whole process tree, and the name by which leftovers are found.

Version 1, version 2 and hybrids of the two look the same from outside: a group per attempt below one directory of the
node, `moorage-ID`, in every hierarchy that has a controller we want. Files are read and written in the event loop: the
kernel answers them in microseconds.
"""

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from moorage.model.limits import Limits
from moorage.sandbox.base import Load
from moorage.sandbox.hierarchies import Hierarchy, find_parent, hierarchies

PERIOD = 100_000
"""Microseconds over which a share of the processors is given out."""
LEAST_QUOTA = 1_000
KILL_WITHIN = 5.0
LIMIT_FILES = {
    1: {
        "memory": "memory.limit_in_bytes",
        "swap": "memory.memsw.limit_in_bytes",
        "pids": "pids.max",
        "cpu": "cpu.cfs_quota_us",
    },
    2: {"memory": "memory.max", "swap": "memory.swap.max", "pids": "pids.max", "cpu": "cpu.max"},
}
UNLIMITED = ("max", "-1", str((1 << 63) - 4096))
LOAD_FILES = {1: "memory.usage_in_bytes", 2: "memory.current"}
MEMORY_FILES = {1: ("memory.oom_control", "memory.max_usage_in_bytes"), 2: ("memory.events", "memory.peak")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a group used, in bytes (None where nothing counts it), and how many processes were killed for memory.

    CPU time is not among it: the spawner gets that of a whole tree from wait4.
    """

    peak_memory: int | None = None
    oom_kills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The node's directory in one hierarchy, and the controllers that limit the groups below it."""

    version: Literal[1, 2]
    path: Path
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cgroup of one attempt: a directory in each hierarchy."""

    name: str
    parents: tuple[Parent, ...]

    @property
    def procs(self) -> tuple[str, ...]:
        """Files to which a process writes "0" to enter."""
        return tuple(f"{parent.path}/{self.name}/cgroup.procs" for parent in self.parents)

    def limit(self, limits: Limits) -> None:
        """Set its limits."""
        for parent in self.parents:
            _limit(parent, f"{parent.path}/{self.name}", limits)

    def limited(self) -> set[str]:
        """Read back which limits it has: `memory`, `pids`, `cpu` and `swap`."""
        return {name for parent in self.parents for name in _limited(parent, f"{parent.path}/{self.name}")}

    def usage(self) -> Usage:
        """Read what its processes have used so far."""
        return next((_usage(parent, self.name) for parent in self.parents if "memory" in parent.controllers), Usage())

    def load(self) -> Load:
        """Read what its processes use now; memory includes the files that they have cached."""
        places: list[tuple[int, str]] = [(parent.version, f"{parent.path}/{self.name}") for parent in self.parents]
        return Load(
            cpu=_cpu(places),
            memory=_first(f"{place}/{LOAD_FILES[version]}" for version, place in places),
            pids=_first(f"{place}/pids.current" for _, place in places),
        )

    def kill(self) -> int:
        """Kill its processes; return how many there were."""
        return sum(_kill(parent.path / self.name) for parent in self.parents[:1])

    async def remove(self) -> None:
        """Remove it as soon as its processes are gone, killing those that are left.

        In a thread: the kernel takes up to a millisecond for each directory.
        """
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for parent in self.parents:
            _end(parent.path / self.name)


@dataclass(slots=True, kw_only=True)
class Cgroups:
    """The cgroups of one node."""

    node: str
    parents: tuple[Parent, ...]
    found: tuple[Hierarchy, ...] = ()
    _live: set[str] = field(default_factory=set)

    @property
    def enforced(self) -> frozenset[str]:
        """Which of `memory`, `pids` and `cpu` hold on this machine."""
        return frozenset().union(*(parent.controllers for parent in self.parents))

    def create(self, name: str) -> Group:
        """Make an empty group without limits.

        Raises OSError if the kernel has no room for more.
        """
        group = Group(name=name, parents=self.parents)
        self._live.add(name)
        try:
            for parent in self.parents:
                os.mkdir(f"{parent.path}/{name}")  # noqa: PTH102 - hot path, and half of it would be pathlib
        except OSError:
            for parent in self.parents:
                _removed(parent.path / name)
            self._live.discard(name)
            raise
        return group

    def claim(self, spare: Group, name: str) -> Group:
        """Give a group that was made ahead of need its name; in version 2 it keeps the one that it has."""
        if any(parent.version == 2 for parent in self.parents):
            return spare
        self._live.add(name)
        for parent in self.parents:
            os.rename(f"{parent.path}/{spare.name}", f"{parent.path}/{name}")  # noqa: PTH104 - hot path
        self._live.discard(spare.name)
        return Group(name=name, parents=self.parents)

    async def remove(self, group: Group) -> None:
        """Remove the group of an attempt that has ended."""
        await group.remove()
        self._live.discard(group.name)

    def drop(self, group: Group) -> None:
        """Remove a group that nothing has entered."""
        for parent in self.parents:
            _removed(parent.path / group.name)
        self._live.discard(group.name)

    async def reap(self) -> int:
        """Kill what earlier nodes of the same data directory left, wherever in the trees; return how many processes."""
        return await asyncio.to_thread(self._reap)

    def close(self) -> None:
        """Give the node's directories back."""
        for parent in self.parents:
            with contextlib.suppress(OSError):
                parent.path.rmdir()

    def _reap(self) -> int:
        killed: set[int] = set()
        for directory in self._node_directories():
            for group in [path for path in directory.iterdir() if path.is_dir() and path.name not in self._live]:
                killed |= _end(group)
            if directory not in {parent.path for parent in self.parents}:
                with contextlib.suppress(OSError):
                    directory.rmdir()
        return len(killed)

    def _node_directories(self) -> Iterator[Path]:
        for hierarchy in self.found:
            for path, names, _ in os.walk(hierarchy.mount):
                if self.node in names:
                    names.remove(self.node)
                    yield Path(path, self.node)


def open_cgroups(node_id: str) -> Cgroups:
    """Find where this process may make cgroups, for a node known by `node_id` (a hash of its data directory)."""
    node, found = f"moorage-{node_id}", tuple(hierarchies())
    parents = [_open_parent(hierarchy, node) for hierarchy in found]
    return Cgroups(node=node, parents=tuple(parent for parent in parents if parent), found=found)


def _open_parent(hierarchy: Hierarchy, node: str) -> Parent | None:
    place = find_parent(hierarchy, node)
    if place is None:
        return None
    path, controllers = place
    _weigh(hierarchy.version, path)
    return Parent(version=hierarchy.version, path=path, controllers=controllers)


def _weigh(version: int, path: Path) -> None:
    """Give the attempts together the weight of a process on every processor, not that of a single one."""
    processors = os.cpu_count() or 1
    with contextlib.suppress(OSError):
        if version == 1:
            _write(f"{path}/cpu.shares", 1024 * processors)
        else:
            _write(f"{path}/cpu.weight", min(100 * processors, 10_000))


def _limit(parent: Parent, path: str, limits: Limits) -> None:
    files, quota = LIMIT_FILES[parent.version], max(int(limits.cpus * PERIOD), LEAST_QUOTA)
    one = parent.version == 1
    if "memory" in parent.controllers:
        _write(f"{path}/{files['memory']}", limits.memory)
        with contextlib.suppress(OSError):  # swap may not be counted on this machine: `moorage doctor` says so
            _write(f"{path}/{files['swap']}", limits.memory if one else 0)
    if "pids" in parent.controllers:
        _write(f"{path}/{files['pids']}", limits.pids)
    if "cpu" in parent.controllers:
        with contextlib.suppress(OSError):  # more than a group above us has is refused, and that group still limits
            _write(f"{path}/{files['cpu']}", quota if one else f"{quota} {PERIOD}")


def _limited(parent: Parent, path: str) -> Iterator[str]:
    for name, file in LIMIT_FILES[parent.version].items():
        with contextlib.suppress(FileNotFoundError):
            if _read(f"{path}/{file}").split()[0] not in UNLIMITED:
                yield name


def _usage(parent: Parent, name: str) -> Usage:
    events, peak = MEMORY_FILES[parent.version]
    usage = Usage(oom_kills=_table(f"{parent.path}/{name}/{events}").get("oom_kill", 0))
    with contextlib.suppress(FileNotFoundError):  # Linux before 5.19 keeps no peak in version 2
        usage = replace(usage, peak_memory=int(_read(f"{parent.path}/{name}/{peak}")))
    return usage


def _cpu(places: list[tuple[int, str]]) -> float | None:
    """Tell the seconds of processor time that a group has used; None if it is gone.

    Where nothing counts them, those of its processes and of the children that these have waited for are added up.
    """
    if (nanoseconds := _first(f"{place}/cpuacct.usage" for _, place in places)) is not None:
        return nanoseconds / 1e9
    for version, place in places:
        with contextlib.suppress(OSError):
            if version == 2:
                return _table(f"{place}/cpu.stat")["usage_usec"] / 1e6
    members = _members(Path(places[0][1])) if places else []
    return sum(map(_ticks, members)) / os.sysconf("SC_CLK_TCK") if members else None


def _ticks(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has just ended
        return sum(map(int, _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:15]))
    return 0


def _first(files: Iterable[str]) -> int | None:
    """Read the number in the first of these files that is there."""
    for file in files:
        with contextlib.suppress(OSError):
            return int(_read(file))
    return None


def _end(path: Path) -> set[int]:
    """Kill the processes of a leftover group until there are none and remove it."""
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_WITHIN
    while not _removed(path) and time.monotonic() < deadline:
        killed.update(_members(path))
        _kill(path)
        time.sleep(0.01)
    return killed


def _removed(path: Path) -> bool:
    try:
        os.rmdir(path)  # noqa: PTH106 - hot path
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _kill(path: Path) -> int:
    """Kill every process of a group: at once where the kernel can, else one by one."""
    members = _members(path)
    try:
        _write(f"{path}/cgroup.kill", 1)
    except OSError:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    return len(members)


def _members(path: Path) -> list[int]:
    try:
        return [int(line) for line in _read(f"{path}/cgroup.procs").split()]
    except FileNotFoundError:
        return []


def _table(path: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in _read(path).splitlines())}


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16).decode()
    finally:
        os.close(descriptor)


def _write(path: str, value: object) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)
