"""From the spawner's fork to the process itself: the steps that a child takes, in an order that matters.

Runs in the spawner's children; standard library only, and of that what is written in C: every page that Python code
touches here is copied first. The request is a marshalled dictionary in a memory file:

    kind         "bubblewrap" or "host"
    program      path of bubblewrap
    argv         arguments of the process, its name first
    options      bubblewrap's own options
    env, cwd     of a host process (bubblewrap has them among its options)
    user         uid and gid to become, or None
    rlimits      pairs of the number of a resource limit and its value
    mounts       to stage (staging.py), or None to leave the mounts of the machine alone
    seccomp      path of a filter program, or None
    slirp        path of slirp4netns for a process that is connected to the internet, or None; there must be mounts
    closed       networks that it does not reach nevertheless (routes.py)
    listener     at which number it finds a socket to listen on, which comes as one descriptor more, or None

A warm interpreter (guest/interpreter.py) gets two descriptors more: the spawner's socket and its own code.
"""

import _signal  # type: ignore[import-not-found]  # `signal` without its enumerations
import contextlib
import errno
import fcntl
import marshal
import os
import resource
import signal
import socket
from typing import Any, NoReturn

from moorage.guest.interpreter import CODE, CONTROL
from moorage.sandbox import internet, mounter, staging
from moorage.sandbox.messages import receive
from moorage.sandbox.monitor import monitor, tell

SIGNALS = tuple(map(int, (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)))
"""Those that the spawner or Python itself treats in its own way."""
OURS = 10
"""Descriptors from here on are nobody's but ours."""
REACH_WITHIN = 5.0
"""Seconds for a connection to be taken; on a loopback only one whose listener is overwhelmed needs any."""


def launch(order: dict[str, Any], orders: socket.socket, *, status: int, parent: int, idmap: int | None) -> NoReturn:
    """Get ready, wait for the request and become the requested process.

    What fails on the way is told as `{"step": WHAT, "why": TEXT, "errno": NUMBER}`.
    """
    step = ["get ready"]
    try:
        _forget_all_but(orders.fileno(), status, idmap)
        status, idmap = _apart(status), None if idmap is None else _apart(idmap)
        _detach()
        staging.die_with(parent)
        step[0] = "enter the cgroup"
        for path in order["cgroups"]:
            _enter(path)
        if order["spare"]:
            tell(status, {"ready": True})
        step[0] = "read the request"
        request = _take(orders)
        step[0] = "connect to the internet"
        _connect(request)
        own = _own_options(request["seccomp"], status)
        step[0] = "mount"
        _see(request, idmap)
        step[0] = "execute"
        _execute(request, own, status, parent)
    except Exception as error:  # a child must never run on as a second spawner
        tell(status, {"step": step[0], "why": str(error), "errno": getattr(error, "errno", None) or 0})
    finally:
        os._exit(1)


def be_mounter(orders: socket.socket, *, parent: int, idmap: int | None, **more: Any) -> NoReturn:
    """Become the helper that mounts for warm interpreters (mounter.py)."""
    try:
        _forget_all_but(orders.fileno(), idmap)
        _detach()
        staging.die_with(parent)
        mounter.serve(orders, idmap=idmap, **more)
    finally:
        os._exit(1)


def reach(port: int, kind: int, reply: socket.socket, *, parent: int, network: int | None) -> NoReturn:
    """Connect to a port on the loopback of a network namespace (None: ours) and send the socket as `reply`.

    What fails is sent as the number of the error.
    """
    try:
        _forget_all_but(reply.fileno(), network)
        _detach()
        staging.die_with(parent)
        if network is not None:
            staging.join_network(network)
        with socket.socket(socket.AF_INET, kind) as connection:
            connection.settimeout(REACH_WITHIN)
            connection.connect(("127.0.0.1", port))
            socket.send_fds(reply, [b"0"], [connection.fileno()])
    except OSError as error:
        reply.send(str(error.errno or errno.ETIMEDOUT).encode())
    finally:
        os._exit(0)


def _take(orders: socket.socket) -> dict[str, Any]:
    """Wait for the request and put the streams where they belong."""
    message, descriptors = receive(orders)
    if not message:
        os._exit(1)
    request, *streams = descriptors
    content = marshal.loads(os.read(request, os.fstat(request).st_size))  # noqa: S302 - the node's own
    places = (0, 1, 2, CONTROL, CODE) if content["listener"] is None else (0, 1, 2, content["listener"])
    for number, stream in zip(places, streams, strict=False):
        os.dup2(stream, number, inheritable=number != content["listener"])
    return dict(content)


def _apart(number: int) -> int:
    """Keep a descriptor of ours where no process expects one of its own."""
    return number if number >= OURS else fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, OURS)


def _forget_all_but(*wanted: int | None) -> None:
    """Close what belongs to the spawner: with its socket a process could give it orders."""
    first = 3
    for number in sorted(number for number in wanted if number is not None):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _detach() -> None:
    """Leave the spawner's session and give every signal its default meaning."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, b"0")
    os.close(descriptor)


def _connect(request: dict[str, Any]) -> None:
    """Start what connects it while no descriptor is there that it could inherit."""
    if request["slirp"] is not None:
        staging.enter_namespace(own_user=os.geteuid() != 0)
        internet.connect(request["slirp"], request["user"], request["closed"])


def _see(request: dict[str, Any], idmap: int | None) -> None:
    if request["mounts"] is None:
        return
    if request["slirp"] is None:
        staging.enter_namespace(own_user=os.geteuid() != 0)
    staging.stage(request["mounts"], owner=request["user"], idmap=idmap)


def _own_options(seccomp: str | None, status: int) -> list[str]:
    """Name the descriptors that bubblewrap gets from us."""
    options = ["--json-status-fd", str(status)]
    if seccomp is not None:
        options += ["--seccomp", _pass_on(os.open(seccomp, os.O_RDONLY | os.O_CLOEXEC))]
    return options


def _execute(request: dict[str, Any], own: list[str], status: int, parent: int) -> None:
    if request["listener"] is not None:
        _pass_on(request["listener"])  # not before: what connects the process must not have it
    if request["kind"] == "host":
        monitor(lambda: _execute_host(request), status=status)
    _pass_on(status)
    options = _pass_on(_memory_file([*own, *request["options"]]))
    _become(request["user"])
    staging.die_with(parent)
    _limit(request["rlimits"])
    os.execve(request["program"], ["bwrap", "--args", options, "--", *request["argv"]], {})  # noqa: S606


def _execute_host(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    _limit(request["rlimits"])
    os.execvpe(request["argv"][0], request["argv"], request["env"])  # noqa: S606


def _become(user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def _limit(limits: list[tuple[int, int]]) -> None:
    for number, value in limits:
        _, hard = resource.getrlimit(number)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):  # some machines let nobody change a limit; go on without
            resource.setrlimit(number, (lower, lower))


def _pass_on(descriptor: int) -> str:
    os.set_inheritable(descriptor, True)
    return str(descriptor)


def _memory_file(words: list[str]) -> int:
    """Hold bubblewrap's options, which name the environment, where other users of the machine cannot list them."""
    descriptor = os.memfd_create("options", os.MFD_CLOEXEC)
    os.write(descriptor, b"".join([os.fsencode(word) + b"\0" for word in words]))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
