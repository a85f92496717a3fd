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
by seccomp.py. With a network its namespace is connected by internet.py, and /etc has the machine's CA certificates,
with `machines` its hosts, too.

With `root` it is user 0 inside and the same outside, with no right more. Then / is a private file system in memory,
limited to `limits.tmp`, with /root and /run beside what is read-only; there is no /home/app. With a mount at / the
files of that take the place of /usr and its links and of /etc, where hosts, hostname and resolv.conf are still ours.

A process may also be forked from a warm interpreter (warm.py). That lives in a sandbox like this one, with every
capability over it and no filter, and makes for each process a world that is the same as the one described here.
"""

import os
import resource
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from moorage.errors import ArgumentsTooLong, Invalid, SandboxUnavailable
from moorage.guest import interpreter
from moorage.guest.interpreter import CODE, VARIABLE
from moorage.model.ids import new_id
from moorage.sandbox import mountpoints, overlays
from moorage.sandbox.addresses import not_public
from moorage.sandbox.base import LISTENER, PRIVATE, SANDBOX_UID, Mount, OutputSink, Process, ProcessSpec, Stream
from moorage.sandbox.cgroups import Cgroups
from moorage.sandbox.processes import Running, Spawner
from moorage.sandbox.requests import Fork, Launch
from moorage.sandbox.rlimits import rlimits
from moorage.sandbox.view import staged_form, view
from moorage.sandbox.warm import Interpreters, Kind, Lease, own_mounts

log = structlog.get_logger(__name__)

MOST_WORDS = 9_000
"""Bubblewrap refuses a longer command line."""
ISOLATION = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--new-session", "--clearenv"),
)
POWERFUL = ("--uid", "0", "--gid", "0", "--cap-add", "ALL")
"""A warm interpreter is root of its own user namespace: nobody else may mount terminals there."""


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
        self._prlimit = shutil.which("prlimit")

    @property
    def cgroups(self) -> Cgroups:
        """Where its processes are limited."""
        return self._spawner.cgroups

    async def start(self, spec: ProcessSpec, *, name: str, output: OutputSink) -> Process:
        """Start a process.

        Raises SandboxUnavailable if this machine cannot make the sandbox, ArgumentsTooLong, and Invalid for a NUL byte
        in an argument, path or variable, or for a place where nothing can be mounted (mountpoints.py).
        """
        if self._program is None:
            raise SandboxUnavailable("Bubblewrap is not installed.", hint="Install it: apt install bubblewrap")
        mountpoints.check(spec.mounts)
        if spec.network != "none" and self._slirp is None:
            raise SandboxUnavailable(
                "No network can be given in isolation: slirp4netns is not installed.",
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
        self, spec: ProcessSpec, mounts: Sequence[Mount], program: str, *, interpreter: Kind | None = None
    ) -> Launch:
        online = spec.network != "none"
        places = interpreter.places if interpreter else ()
        seen = view(spec, mounts, etc=self._etc, staged=online or _user() is not None, places=places)
        options = (*ISOLATION, *self._role(spec, interpreter), *seen.options, *_circumstances(spec))
        argv = spec.argv if interpreter else (*self._limiter(spec), *spec.argv)
        _check(options, argv)
        return Launch(
            kind="bubblewrap",
            program=program,
            argv=argv,
            options=options,
            user=_user(),
            rlimits=() if interpreter else tuple(rlimits(spec.limits, self.cgroups.enforced)),
            mounts=seen.staged,
            seccomp=str(self._seccomp) if self._seccomp and not interpreter else None,
            slirp=self._slirp if online else None,
            closed=tuple(_closed()) if spec.network == "internet" else (),
            listener=LISTENER if spec.listener else None,
        )

    def _role(self, spec: ProcessSpec, interpreter: Kind | None) -> Iterator[str]:
        """Say who the process is and what it may do in there."""
        if interpreter:
            yield from (*POWERFUL, "--setenv", VARIABLE, str(CODE))
            return
        user = "0" if spec.root else "1000"
        yield from ("--uid", user, "--gid", user, "--cap-drop", "ALL")
        if self.features.disable_userns:
            yield "--disable-userns"

    async def _start_interpreter(self, kind: Kind) -> Running:
        """Start a warm interpreter: without anything of a job in its sandbox, and with power over that."""
        assert self._program is not None
        launch = self._launch(kind.spec, kind.spec.mounts, self._program, interpreter=kind)
        code = Path(interpreter.__file__).read_bytes()
        return await self._spawner.spawn(launch, kind.spec, name=new_id("int"), output=_unheard, code=code)

    def _fork(self, spec: ProcessSpec, number: int) -> Fork:
        limits = [*rlimits(spec.limits, self.cgroups.enforced)]
        if "pids" not in self.cgroups.enforced:
            limits.append((resource.RLIMIT_NPROC, spec.limits.pids))
        return Fork(
            interpreter=number,
            mounts=tuple(staged_form(mount) for mount in own_mounts(spec)),
            targets=tuple(mount.target for mount in own_mounts(spec)),
            argv=spec.argv,
            cwd=spec.cwd,
            private=PRIVATE,
            tmp=spec.limits.tmp,
            rlimits=tuple(limits),
            seccomp=self._seccomp.read_bytes() if self._seccomp else None,
        )

    def _limiter(self, spec: ProcessSpec) -> tuple[str, ...]:
        """Limit processes where no cgroup does: per sandbox, which only a process within it can ask for.

        A tree at / may not have the program that asks, and goes without.
        """
        if "pids" in self.cgroups.enforced or self._prlimit is None or any(each.target == "/" for each in spec.mounts):
            return ()
        return (self._prlimit, f"--nproc={spec.limits.pids}", "--")


def _user() -> int | None:
    """Who isolated processes are outside, if not the node's own user."""
    return SANDBOX_UID if os.geteuid() == 0 else None


def _unheard(_stream: Stream, _data: bytes) -> None:
    """Take no notice: a warm interpreter has nothing to say."""


def _circumstances(spec: ProcessSpec) -> Iterator[str]:
    yield from ("--hostname", spec.hostname)
    if spec.network == "none":
        yield "--unshare-net"  # otherwise it keeps the namespace that it is started in
    for key, value in spec.env.items():
        yield from ("--setenv", key, value)
    yield from ("--chdir", spec.cwd)


def _closed() -> Iterator[tuple[bytes, int]]:
    for network in not_public():
        yield network.network_address.packed, network.prefixlen


def _check(options: tuple[str, ...], argv: tuple[str, ...]) -> None:
    """Refuse what bubblewrap would read as something else: its options are separated by NUL bytes."""
    if len(options) + len(argv) > MOST_WORDS:
        raise ArgumentsTooLong(f"There are {len(argv)} arguments; bubblewrap takes fewer than {MOST_WORDS}.")
    if any("\0" in word for word in (*options, *argv)):
        raise Invalid("An argument, a path or an environment variable has a NUL byte in it.")
