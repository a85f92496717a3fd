"""The default isolation: a world of its own for every process, made by bubblewrap.

What a process finds in it, and nothing else:

    /usr                       of this machine, read-only; /bin, /sbin, /lib* as links into it (or read-only, where
                               a distribution still keeps them apart)
    /etc                       made by us: passwd, group, hosts, nsswitch.conf, and copies of the machine's ld.so.cache,
                               localtime, alternatives and openssl.cnf; read-only
    /proc                      of its own process namespace, kernel settings read-only
    /dev                       null, zero, full, random, urandom, tty, pts, shm; the directory itself read-only
    /tmp, /home/app, /dev/shm  private and empty, each limited to `limits.tmp`
    the mounts of the request  on top

It runs as user 1000 inside; outside that is the node's user, or SANDBOX_UID if the node is root. It has its own user,
process, network, IPC, host name, mount and cgroup namespaces, no capabilities, cannot gain privileges and is filtered
by seccomp.py. With `network="internet"` its network is connected by internet.py, and /etc has the machine's hosts and
CA certificates.

A process may also be forked from a warm interpreter (warm.py). That lives in a sandbox like this one, with every
capability over it and no filter, and makes for each process a world that is the same as the one described here.
"""

import os
import resource
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from moorage.errors import ArgumentsTooLong, Invalid, SandboxUnavailable
from moorage.guest import interpreter
from moorage.guest.interpreter import CODE, VARIABLE
from moorage.model.ids import new_id
from moorage.model.limits import Limits
from moorage.sandbox import overlays
from moorage.sandbox.base import (
    HOME,
    PRIVATE,
    SANDBOX_UID,
    Mount,
    OutputSink,
    Overlay,
    Process,
    ProcessSpec,
    Stream,
    Writable,
)
from moorage.sandbox.cgroups import Cgroups
from moorage.sandbox.internet import NAME_SERVER
from moorage.sandbox.processes import Running, Spawner
from moorage.sandbox.requests import Fork, Launch
from moorage.sandbox.rlimits import rlimits
from moorage.sandbox.staging import STAGE
from moorage.sandbox.warm import Interpreters, Kind, Lease, own_mounts

log = structlog.get_logger(__name__)

MOST_WORDS = 9_000
"""Bubblewrap refuses a longer command line."""
NETWORK_FILES = ("/etc/hosts", "/etc/ssl/certs", "/etc/pki")
ISOLATION = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--hostname", "moorage"),
    *("--die-with-parent", "--new-session", "--clearenv"),
)
ORDINARY = ("--uid", "1000", "--gid", "1000", "--cap-drop", "ALL")
POWERFUL = ("--uid", "0", "--gid", "0", "--cap-add", "ALL")
"""A warm interpreter is root of its own user namespace: nobody else may mount terminals there."""
MACHINE_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What this machine was seen to allow."""

    overlay: bool = True
    disable_userns: bool = True
    """Whether bubblewrap can forbid further user namespaces; the seccomp filter does so in any case."""


class Bubblewrap:
    """Isolation by bubblewrap."""

    name = "bubblewrap"

    def __init__(self, spawner: Spawner, *, etc: Path, seccomp: Path | None, warm: int = 0) -> None:
        self.features = Features()
        self._interpreters = Interpreters(self._start_interpreter, warm)
        self._spawner = spawner
        self._etc = etc
        self._seccomp = seccomp
        self._program = shutil.which("bwrap")
        self._slirp = shutil.which("slirp4netns")
        self._base = tuple(_base())
        self._prlimit = shutil.which("prlimit")

    @property
    def cgroups(self) -> Cgroups:
        """Where its processes are limited."""
        return self._spawner.cgroups

    async def start(self, spec: ProcessSpec, *, name: str, output: OutputSink) -> Process:
        """Start a process.

        Raises SandboxUnavailable if this machine cannot make the sandbox, ArgumentsTooLong, and Invalid for a NUL byte
        in an argument, path or variable.
        """
        if self._program is None:
            raise SandboxUnavailable("Bubblewrap is not installed.", hint="Install it: apt install bubblewrap")
        if spec.network == "internet" and self._slirp is None:
            raise SandboxUnavailable(
                "Packages cannot be fetched in isolation: slirp4netns is not installed.",
                hint="Install it: apt install slirp4netns",
            )
        after = None if _user() else partial(overlays.open_work_directories, spec.mounts)
        spawn = partial(self._spawner.spawn, spec=spec, name=name, output=output, after=after)
        lease = self._interpreters.find(spec) if self.features.overlay else None
        if lease is not None and (forked := await self._forked(lease, spec, spawn)):
            return forked
        mounts = spec.mounts if self.features.overlay else await overlays.materialised(spec.mounts, owner=_user())
        process = await spawn(self._launch(spec, mounts, self._program))
        if lease is not None:
            self._interpreters.give_up(lease)
        return process

    async def _forked(
        self, lease: Lease, spec: ProcessSpec, spawn: Callable[[Fork], Awaitable[Running]]
    ) -> Running | None:
        """Start a process by a fork of a warm interpreter; None where that does not work."""
        try:
            forked = await spawn(self._fork(spec, lease.interpreter.number))
        except BaseException as error:
            lease.end()
            if not isinstance(error, SandboxUnavailable):
                raise
            log.warning("not forked from a warm interpreter", reason=error.message)
            return None
        forked.when_over(lease.end)
        return forked

    async def reap(self) -> int:
        """Kill everything that an earlier node on this data directory left running; return how many processes."""
        return await self.cgroups.reap()

    async def close(self) -> None:
        """Kill what still runs, end the spawner and give the cgroups back, also for sandboxes that share them."""
        await self._interpreters.close()
        await self._spawner.stop()
        self.cgroups.close()

    def _launch(
        self, spec: ProcessSpec, mounts: tuple[Mount, ...], program: str, *, role: tuple[str, ...] = ORDINARY
    ) -> Launch:
        online, ordinary = spec.network == "internet", role is ORDINARY
        staged = online or _user() is not None or any(isinstance(mount, Overlay) for mount in mounts)
        sources = [f"{STAGE}/{number}" if staged else str(_source(mount)) for number, mount in enumerate(mounts)]
        etc = f"{STAGE}/{len(mounts)}" if staged else str(self._etc)
        if ordinary and self.features.disable_userns:
            role = (*role, "--disable-userns")
        options = (*self._base, *role, *self._options(spec, mounts, sources, etc))
        argv = (*self._limiter(spec.limits), *spec.argv) if ordinary else spec.argv
        _check(options, argv)
        return Launch(
            kind="bubblewrap",
            program=program,
            argv=argv,
            options=options,
            user=_user(),
            rlimits=tuple(rlimits(spec.limits, self.cgroups.enforced)) if ordinary else (),
            mounts=tuple(_staged(mount) for mount in (*mounts, self._etc)) if staged else None,
            seccomp=str(self._seccomp) if self._seccomp and ordinary else None,
            slirp=self._slirp if online else None,
        )

    async def _start_interpreter(self, kind: Kind) -> Running:
        """Start a warm interpreter: without anything of a job in its sandbox, and with power over that."""
        assert self._program is not None
        places = (word for target in kind.places for word in ("--dir", target))
        role = (*POWERFUL, *places, "--setenv", VARIABLE, str(CODE))
        launch = self._launch(kind.spec, kind.spec.mounts, self._program, role=role)
        code = Path(interpreter.__file__).read_bytes()
        return await self._spawner.spawn(launch, kind.spec, name=new_id("int"), output=_unheard, code=code)

    def _fork(self, spec: ProcessSpec, number: int) -> Fork:
        limits = [*rlimits(spec.limits, self.cgroups.enforced)]
        if "pids" not in self.cgroups.enforced:
            limits.append((resource.RLIMIT_NPROC, spec.limits.pids))
        return Fork(
            interpreter=number,
            mounts=tuple(_staged(mount) for mount in own_mounts(spec)),
            targets=tuple(mount.target for mount in own_mounts(spec)),
            argv=spec.argv,
            cwd=spec.cwd,
            private=PRIVATE,
            tmp=spec.limits.tmp,
            rlimits=tuple(limits),
            seccomp=self._seccomp.read_bytes() if self._seccomp else None,
        )

    def _limiter(self, limits: Limits) -> tuple[str, ...]:
        """Limit processes where no cgroup does: per sandbox, which only a process within it can ask for."""
        if "pids" in self.cgroups.enforced or self._prlimit is None:
            return ()
        return (self._prlimit, f"--nproc={limits.pids}", "--")

    def _options(self, spec: ProcessSpec, mounts: tuple[Mount, ...], sources: list[str], etc: str) -> Iterator[str]:
        yield from ("--ro-bind", etc, "/etc")
        yield from _network(spec.network)
        size = str(spec.limits.tmp)
        for target in PRIVATE:
            yield from ("--perms", "1777", "--size", size, "--tmpfs", target)
        for mount, source in zip(mounts, sources, strict=True):
            yield from ("--bind" if isinstance(mount, Writable | Overlay) else "--ro-bind", source, mount.target)
        yield from ("--remount-ro", "/", "--remount-ro", "/dev")
        for key, value in spec.env.items():
            yield from ("--setenv", key, value)
        yield from ("--chdir", spec.cwd)


def make_etc(directory: Path) -> None:
    """Make the little /etc that every sandbox sees; it holds nothing that tells about the machine."""
    files = {
        "passwd": f"app:x:1000:1000:app:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "group": "app:x:1000:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 moorage\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "resolv.conf": f"nameserver {NAME_SERVER}\n",
    }
    (directory / "ssl" / "certs").mkdir(parents=True)
    (directory / "pki").mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    for name in ("ld.so.cache", "localtime", "ssl/openssl.cnf"):
        if Path("/etc", name).is_file():
            shutil.copyfile(Path("/etc", name), directory / name)
    if Path("/etc/alternatives").is_dir():
        shutil.copytree("/etc/alternatives", directory / "alternatives", symlinks=True)


def _base() -> Iterator[str]:
    """Give the options that are the same for every process."""
    yield from ISOLATION
    yield from ("--ro-bind", "/usr", "/usr")
    for name in MACHINE_DIRECTORIES:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--proc", "/proc", "--dev", "/dev", "--symlink", "/tmp", "/var/tmp")  # noqa: S108 - in the sandbox


def _user() -> int | None:
    """Who isolated processes are outside, if not the node's own user."""
    return SANDBOX_UID if os.geteuid() == 0 else None


def _unheard(_stream: Stream, _data: bytes) -> None:
    """Take no notice: a warm interpreter has nothing to say."""


def _network(network: str) -> Iterator[str]:
    if network == "none":
        yield "--unshare-net"
        return  # otherwise it keeps the namespace that it is started in
    for path in NETWORK_FILES:
        yield from ("--ro-bind-try", path, path)


def _source(mount: Mount) -> Path:
    assert not isinstance(mount, Overlay)
    return mount.source


def _staged(mount: Mount | Path) -> dict[str, Any]:
    if isinstance(mount, Overlay):
        return {
            "lower": [str(path) for path in mount.lower],
            "upper": str(mount.upper),
            "work": str(mount.work),
            "make": mount.make,
        }
    source = mount if isinstance(mount, Path) else mount.source
    return {"source": str(source), "writable": isinstance(mount, Writable)}


def _check(options: tuple[str, ...], argv: tuple[str, ...]) -> None:
    """Refuse what bubblewrap would read as something else: its options are separated by NUL bytes."""
    if len(options) + len(argv) > MOST_WORDS:
        raise ArgumentsTooLong(f"There are {len(argv)} arguments; bubblewrap takes fewer than {MOST_WORDS}.")
    if any("\0" in word for word in (*options, *argv)):
        raise Invalid("An argument, a path or an environment variable has a NUL byte in it.")
