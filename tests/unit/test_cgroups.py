"""Cgroups of both versions: where they are made, what is written into them, how leftovers are found."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from moorage.model.limits import Limits
from moorage.sandbox.base import Load
from moorage.sandbox.cgroups import Cgroups, Group, Parent, Usage, open_cgroups
from moorage.sandbox.hierarchies import Hierarchy, hierarchies

pytestmark = pytest.mark.anyio

LIMITS = Limits(memory=64 << 20, pids=9, cpus=1.5)
MOUNT = "{number} 1 0:{number} {root} {mount} rw shared:1 - {kind} {kind} {options}\n"


def a_process(place: Path, cgroup: str, *mounts: tuple[str, str, str, str]) -> Path:
    """Lay out /proc/self as a process sees it; a mount is its root, its directory, its kind and its options."""
    rows = [
        MOUNT.format(number=number, root=root, mount=f"{place}{mount}", kind=kind, options=options)
        for number, (root, mount, kind, options) in enumerate(mounts)
    ]
    (place / "cgroup").write_text(cgroup)
    (place / "mountinfo").write_text("".join(rows))
    return place


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    opened = open_cgroups(f"test-{uuid4().hex[:12]}")
    if not opened.parents:
        pytest.skip("this user may make no cgroups here")
    yield opened
    opened.close()


class TestWhereWeAre:
    def test_version_one_has_a_tree_per_controller(self, tmp_path: Path) -> None:
        proc = a_process(
            tmp_path,
            "3:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/x\n",
            ("/", "/memory", "cgroup", "rw,memory"),
            ("/", "/cpu", "cgroup", "rw,cpu,cpuacct"),
            ("/", "/systemd", "cgroup", "rw,name=systemd"),
        )
        assert [(found.version, found.own, found.controllers) for found in hierarchies(proc)] == [
            (1, tmp_path / "memory/a/b", {"memory"}),
            (1, tmp_path / "cpu", {"cpu"}),
        ]

    def test_version_two_has_one_tree_for_all(self, tmp_path: Path) -> None:
        own = tmp_path / "tree/user.slice/app.scope"
        own.mkdir(parents=True)
        (own / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        proc = a_process(tmp_path, "0::/user.slice/app.scope\n", ("/", "/tree", "cgroup2", "rw,nsdelegate"))
        assert [(found.version, found.own, found.controllers) for found in hierarchies(proc)] == [
            (2, own, {"cpu", "memory", "pids"})
        ]

    def test_in_a_hybrid_each_controller_is_taken_where_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "unified").mkdir()
        (tmp_path / "unified/cgroup.controllers").write_text("pids\n")
        proc = a_process(
            tmp_path,
            "1:memory:/\n0::/\n",
            ("/", "/memory", "cgroup", "rw,memory"),
            ("/", "/unified", "cgroup2", "rw"),
        )
        assert [(found.version, found.controllers) for found in hierarchies(proc)] == [(1, {"memory"}), (2, {"pids"})]

    def test_a_container_sees_the_tree_from_its_own_group_on(self, tmp_path: Path) -> None:
        proc = a_process(tmp_path, "1:memory:/docker/abc/deep\n", ("/docker/abc", "/memory", "cgroup", "rw,memory"))
        (found,) = hierarchies(proc)
        assert found.own == tmp_path / "memory/deep"

    def test_a_group_above_what_is_mounted_counts_as_the_top(self, tmp_path: Path) -> None:
        proc = a_process(tmp_path, "1:memory:/../outside\n", ("/", "/memory", "cgroup", "rw,memory"))
        (found,) = hierarchies(proc)
        assert found.own == tmp_path / "memory"

    def test_spaces_in_a_mount_point_are_understood(self, tmp_path: Path) -> None:
        proc = a_process(tmp_path, "1:memory:/\n", ("/", "/my\\040tree", "cgroup", "rw,memory"))
        (found,) = hierarchies(proc)
        assert found.mount == tmp_path / "my tree"


class TestFiles:
    """What is written and read, on a tree of plain files."""

    @staticmethod
    def a_group(place: Path, version: int, files: dict[str, str]) -> Group:
        (place / "att").mkdir()
        for name, text in files.items():
            (place / "att" / name).write_text(text)
        assert version in (1, 2)
        parent = Parent(version=2 if version == 2 else 1, path=place, controllers=frozenset({"memory", "pids", "cpu"}))
        return Group(name="att", parents=(parent,))

    @pytest.mark.parametrize(
        ("version", "written"),
        [
            (1, {"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "67108864", "pids.max": "9",
                 "cpu.cfs_quota_us": "150000"}),
            (2, {"memory.max": "67108864", "memory.swap.max": "0", "pids.max": "9", "cpu.max": "150000 100000"}),
        ],
    )  # fmt: skip
    def test_limits(self, tmp_path: Path, version: int, written: dict[str, str]) -> None:
        group = self.a_group(tmp_path, version, dict.fromkeys(written, ""))
        group.limit(LIMITS)
        assert {name: (tmp_path / "att" / name).read_text() for name in written} == written
        assert group.limited() == {"memory", "swap", "pids", "cpu"}

    def test_a_machine_that_does_not_count_swap_still_limits_memory(self, tmp_path: Path) -> None:
        group = self.a_group(tmp_path, 2, {"memory.max": "max", "pids.max": "max", "cpu.max": "max 100000"})
        assert group.limited() == set()
        group.limit(LIMITS)
        assert group.limited() == {"memory", "pids", "cpu"}

    @pytest.mark.parametrize(
        ("version", "files"),
        [
            (1, {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                 "memory.max_usage_in_bytes": "4096\n"}),
            (2, {"memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n", "memory.peak": "4096\n"}),
        ],
    )  # fmt: skip
    def test_usage(self, tmp_path: Path, version: int, files: dict[str, str]) -> None:
        assert self.a_group(tmp_path, version, files).usage() == Usage(peak_memory=4096, oom_kills=2)

    def test_a_kernel_without_a_peak_figure_tells_none(self, tmp_path: Path) -> None:
        assert self.a_group(tmp_path, 2, {"memory.events": "oom_kill 0\n"}).usage() == Usage()


class TestReal:
    """What the kernel of this machine makes of it."""

    async def test_a_group_has_its_limits_and_goes_away(self, cgroups: Cgroups) -> None:
        group = cgroups.create("att_1")
        group.limit(LIMITS)
        assert group.limited() - {"swap"} == cgroups.enforced
        await cgroups.remove(group)
        assert not any(Path(file).parent.exists() for file in group.procs)

    async def test_a_group_made_ahead_is_claimed_under_a_name(self, cgroups: Cgroups) -> None:
        spare = cgroups.create("spare-1")
        group = cgroups.claim(spare, "att_2")
        assert all(Path(file).exists() for file in group.procs)
        await cgroups.remove(group)
        assert not any(Path(file).exists() for file in (*group.procs, *spare.procs))

    async def test_what_is_left_in_a_group_is_killed_when_it_is_removed(self, cgroups: Cgroups) -> None:
        group = cgroups.create("att_3")
        left = sleeping_in(group)
        await cgroups.remove(group)
        assert await asyncio.to_thread(left.wait, 30) == -signal.SIGKILL

    async def test_reap_kills_what_an_earlier_node_left_and_nothing_else(self, cgroups: Cgroups) -> None:
        earlier = Cgroups(node=cgroups.node, parents=cgroups.parents, found=cgroups.found)
        left = sleeping_in(earlier.create("att_old"))
        ours = sleeping_in(group := cgroups.create("att_new"))
        others = open_cgroups(f"test-{uuid4().hex[:12]}")
        theirs = sleeping_in(foreign := others.create("att_old"))
        assert await cgroups.reap() == 1
        assert await asyncio.to_thread(left.wait, 30) == -signal.SIGKILL
        assert (ours.poll(), theirs.poll()) == (None, None)
        await cgroups.remove(group)
        await others.remove(foreign)
        others.close()
        ours.wait()
        theirs.wait()

    async def test_reap_finds_leftovers_of_a_node_that_was_started_elsewhere(self, cgroups: Cgroups) -> None:
        for parent in cgroups.parents:
            (parent.path / "elsewhere" / cgroups.node / "att").mkdir(parents=True)
        found = tuple(
            Hierarchy(version=p.version, mount=p.path, own=p.path, controllers=p.controllers) for p in cgroups.parents
        )
        later = Cgroups(node=cgroups.node, parents=(), found=found)
        assert await later.reap() == 0
        for parent in cgroups.parents:
            assert not (parent.path / "elsewhere" / cgroups.node).exists()
            (parent.path / "elsewhere").rmdir()


class TestLoad:
    def test_what_a_group_of_version_two_uses_is_read_from_its_files(self, tmp_path: Path) -> None:
        (tmp_path / "att").mkdir()
        files = {"memory.current": "4096\n", "pids.current": "3\n", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}
        for name, text in files.items():
            (tmp_path / "att" / name).write_text(text)
        parent = Parent(version=2, path=tmp_path, controllers=frozenset({"memory", "pids"}))
        assert Group(name="att", parents=(parent,)).load() == Load(cpu=2.5, memory=4096, pids=3)

    def test_a_group_that_is_gone_uses_nothing(self, tmp_path: Path) -> None:
        parent = Parent(version=2, path=tmp_path, controllers=frozenset({"memory", "pids"}))
        assert Group(name="gone", parents=(parent,)).load() == Load()


VERSION_TWO = """
import json, os, subprocess, sys, asyncio
from pathlib import Path
from moorage.sandbox import hierarchies
from moorage.sandbox.cgroups import Cgroups, Parent
mount, own, controllers = Path(sys.argv[1]), Path(sys.argv[2]), frozenset(sys.argv[3:])
hierarchies.WANTED = controllers
(own / "cgroup.procs").write_text(str(os.getpid()))
def found(place):
    return hierarchies.Hierarchy(version=2, mount=mount, own=place, controllers=controllers)
path, on = hierarchies.find_parent(found(own), "moorage-x")
again, _ = hierarchies.find_parent(found(own / hierarchies.LEAF), "moorage-x")
cgroups = Cgroups(node="moorage-x", parents=(Parent(version=2, path=path, controllers=on),))
group = cgroups.create("att")
command = ["sh", "-c", 'echo 0 > "$1"; setsid sleep 600 & exec sleep 600', "sh", group.procs[0]]
child = subprocess.Popen(command)
while len(Path(group.procs[0]).read_text().split()) < 2:
    pass
killed = group.kill()
status = child.wait()
asyncio.run(cgroups.remove(group))
cgroups.close()
where = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")][0]
print(json.dumps([str(path), sorted(on), str(again), killed, status, where, path.exists()]))
"""


@pytest.fixture
def delegated() -> Iterator[tuple[Path, Path, list[str]]]:
    """A cgroup of version 2 like one that systemd delegates: its mount, itself, the controllers that it may use."""
    mount = next(iter(mounted_version_two()), None)
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root and a mounted version 2 tree")
    control = mount / "cgroup.subtree_control"
    before, able = control.read_text().split(), (mount / "cgroup.controllers").read_text().split()[:3]
    if not able:
        pytest.skip("every controller of this machine is in version 1")
    own = mount / f"moorage-test-{uuid4().hex[:8]}"
    control.write_text(" ".join(f"+{name}" for name in able))
    own.mkdir()
    yield mount, own, able
    for directory in (own / "moorage-node", own):
        if directory.exists():
            directory.rmdir()
    if added := [f"-{name}" for name in able if name not in before]:
        control.write_text(" ".join(added))


def test_in_version_two_a_node_makes_way_for_groups_below_its_own(delegated: tuple[Path, Path, list[str]]) -> None:
    mount, own, controllers = delegated
    command = [sys.executable, "-c", VERSION_TWO, str(mount), str(own), *controllers]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""
    path, leaf = f"{own}/moorage-x", f"0::/{own.relative_to(mount)}/moorage-node"
    expected = f'["{path}", {sorted(controllers)}, "{path}", 2, -9, "{leaf}", false]\n'
    assert result.stdout == expected.replace("'", '"')


def sleeping_in(group: Group) -> subprocess.Popen[bytes]:
    """Start a process that has entered a group."""
    script = 'for file; do echo 0 > "$file"; done; echo; exec sleep 600'
    process = subprocess.Popen(["sh", "-c", script, "sh", *group.procs], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


def mounted_version_two() -> list[Path]:
    rows = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [Path(row[4]) for row in rows if "cgroup2" in row]
