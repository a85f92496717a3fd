"""What this machine can and cannot enforce, found out by trying it: the lines of `moorage doctor`."""

import asyncio
import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from moorage.errors import MoorageError
from moorage.model.limits import MIB, Limits
from moorage.sandbox.base import SANDBOX_UID, Check, ProcessSpec, Sandbox
from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.cgroups import Cgroups
from moorage.sandbox.docker import describe_engine
from moorage.sandbox.internet import TUN
from moorage.sandbox.opening import open_sandboxes

TRIAL = "cat /proc/self/status; head -c 4194304 /dev/zero > /tmp/fill || echo FULL"
ROUTES = "cat /proc/net/route"
DELEGATE = "systemd-run --user --scope -p Delegate=yes moorage serve (or run the node as root)"
INSTEAD = {
    "memory": "Each single process is held to the limit (RLIMIT_AS), not all of a job together.",
    "pids": "The number of processes is held by RLIMIT_NPROC.",
    "cpu": "A job may use every processor.",
}
SWITCHES = {
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel/unprivileged_userns_clone": ("0", "1"),
    "user/max_user_namespaces": ("0", "15000"),
}
"""Settings by which distributions forbid user namespaces to ordinary users: the value that does, one that does not."""


async def probe(data_dir: Path) -> list[Check]:
    """Try what isolation needs, on the file system of `data_dir`, and say what is missing and how to mend it."""
    place = await asyncio.to_thread(_make_place, data_dir)
    try:
        sandboxes = await open_sandboxes(data_dir=place, run_dir=place)
        bubblewrap = sandboxes["bubblewrap"]
        assert isinstance(bubblewrap, Bubblewrap)
        try:
            said, routes = await _try(bubblewrap, TRIAL), await _try(bubblewrap, ROUTES, "internet")
            return [*await asyncio.to_thread(_report, bubblewrap, said, routes, place), await _docker()]
        finally:
            await bubblewrap.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def _make_place(data_dir: Path) -> Path:
    """Make a directory on the file system where the data is or will be, if we may."""
    for parent in (data_dir, *data_dir.parents):
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=".moorage-probe-", dir=parent))
    return Path(tempfile.mkdtemp(prefix="moorage-probe-"))


async def _try(sandbox: Sandbox, script: str, network: Literal["none", "internet"] = "none") -> str | MoorageError:
    """Run a small process and return what it said, or why it could not be run."""
    said: list[bytes] = []
    spec = ProcessSpec(
        argv=("/bin/sh", "-c", script),
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        limits=Limits(tmp=MIB, memory=256 * MIB),
        network=network,
    )
    try:
        process = await sandbox.start(spec, name="probe", output=lambda _stream, data: said.append(data))
        await process.wait()
    except MoorageError as error:
        return error
    return b"".join(said).decode(errors="replace")


async def _docker() -> Check:
    try:
        return _check("docker", ok=True, message=await describe_engine())
    except MoorageError as error:
        otherwise = f"Containers of images cannot be run: {error.message}"
        return _check("docker", ok=False, message="", otherwise=otherwise, fix=error.hint)


def _report(bubblewrap: Bubblewrap, said: str | MoorageError, routes: str | MoorageError, place: Path) -> list[Check]:
    isolation = (*_isolation(bubblewrap, said), _internet(routes))
    return [*_machine(), *isolation, *_cgroups(bubblewrap.cgroups), _reflink(place)]


def _machine() -> Iterator[Check]:
    uid = os.geteuid()
    who = f"root; isolated processes run as user {SANDBOX_UID}" if uid == 0 else f"user {uid}; so do isolated processes"
    yield _check("kernel", ok=True, message=f"Linux {platform.release()} ({platform.machine()}).")
    yield _check("user", ok=True, message=f"The node runs as {who}.")


def _isolation(bubblewrap: Bubblewrap, said: str | MoorageError) -> Iterator[Check]:
    yield _bubblewrap()
    yield _namespaces(said)
    text = said if isinstance(said, str) else ""
    features = bubblewrap.features
    yield _check(
        "overlayfs",
        ok=bool(text) and features.overlay,
        message="Work directories are mounted, not copied.",
        otherwise="The app and its inputs are copied (or reflinked) for every job.",
        fix="Linux 5.19 as root, 5.11 as an ordinary user, and a data directory on ext4, XFS, Btrfs or tmpfs",
    )
    yield _check(
        "seccomp",
        ok=re.search(r"^Seccomp:\s+2$", text, re.MULTILINE) is not None,
        message="System calls are filtered.",
        otherwise="System calls are not filtered: the kernel's own checks must do.",
        fix="apt install libseccomp2",
    )
    yield _check(
        "userns",
        ok=bool(text) and features.disable_userns,
        message="No user namespace can be made in a sandbox.",
        otherwise="User namespaces in a sandbox are denied by the seccomp filter only.",
        fix="apt install bubblewrap (0.8 or newer)",
    )
    yield _check("tmpfs", ok="FULL" in text, message="/tmp is limited.", otherwise="/tmp is not limited.")  # noqa: S108


def _bubblewrap() -> Check:
    path = shutil.which("bwrap")
    version = subprocess.run([path, "--version"], check=False, capture_output=True, text=True).stdout if path else ""
    return _check(
        "bubblewrap",
        required=True,
        ok=bool(version),
        message=f"{version.strip()} at {path}.",
        otherwise="Bubblewrap is not installed: jobs cannot run isolated.",
        fix="apt install bubblewrap",
    )


def _namespaces(said: str | MoorageError) -> Check:
    return _check(
        "namespaces",
        required=True,
        ok="NoNewPrivs:\t1" in said if isinstance(said, str) else False,
        message="A process ran in namespaces of its own.",
        otherwise=f"No process could be isolated: {said}",
        fix=" && ".join(_switches()) or "allow user namespaces; in a container: run it with --privileged",
    )


def _internet(routes: str | MoorageError) -> Check:
    return _check(
        "network.internet",
        ok=re.search(r"^tap0\t0{8}\t", routes, re.MULTILINE) is not None if isinstance(routes, str) else False,
        message="Packages are fetched through a network of their own.",
        otherwise=f"Apps with requirements cannot be installed: {routes}",
        fix=" && ".join(_connections()),
    )


def _connections() -> Iterator[str]:
    """Name what a network of its own needs."""
    yield "apt install slirp4netns"
    if not os.access(TUN, os.R_OK | os.W_OK):
        yield f"modprobe tun && chmod 0666 {TUN}"
    yield from _switches()


def _switches() -> Iterator[str]:
    """Name the settings that forbid user namespaces here."""
    for name, (bad, good) in SWITCHES.items():
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == bad:
                yield f"sysctl -w {name.replace('/', '.')}={good}"


def _cgroups(cgroups: Cgroups) -> Iterator[Check]:
    versions = " and ".join(sorted({str(parent.version) for parent in cgroups.parents}))
    places = ", ".join(str(parent.path.parent) for parent in cgroups.parents)
    yield _check(
        "cgroup",
        ok=bool(versions),
        message=f"Version {versions}: {places}.",
        otherwise="No cgroup can be made here: limits hold for single processes only.",
        fix=DELEGATE,
    )
    held = _held(cgroups)
    for name, instead in INSTEAD.items():
        message = "The limit holds for all processes of a job together."
        yield _check(f"cgroup.{name}", ok=name in held, message=message, otherwise=instead, fix=DELEGATE)
    yield _check(
        "cgroup.swap",
        ok="swap" in held or len(Path("/proc/swaps").read_text().splitlines()) < 2,
        message="Memory limits include swap.",
        otherwise="A job at its memory limit can go on in swap, slowly.",
        fix="boot with swapaccount=1, or swapoff -a",
    )


def _held(cgroups: Cgroups) -> set[str]:
    """Make a group, limit it, and read back which limits it has."""
    if not cgroups.parents:
        return set()
    group = cgroups.create("probe-limits")
    try:
        group.limit(Limits(memory=64 * MIB, pids=7, cpus=0.5))
        return group.limited()
    finally:
        cgroups.drop(group)


def _reflink(place: Path) -> Check:
    (place / "file").write_bytes(b"moorage")
    copied = subprocess.run(
        ["cp", "--reflink=always", str(place / "file"), str(place / "copy")], check=False, capture_output=True
    )
    return _check(
        "reflink",
        ok=copied.returncode == 0,
        message="Copies of files share their content.",
        otherwise="Copies of files take time and space.",
        fix="put the data directory on Btrfs or on XFS (mkfs.xfs -m reflink=1)",
    )


def _check(
    name: str, *, ok: bool, message: str, otherwise: str = "", fix: str | None = None, required: bool = False
) -> Check:
    good = Check(name=name, ok=True, required=required, message=message)
    return good if ok else replace(good, ok=False, message=otherwise, fix=fix)
