"""A warm Python interpreter: it waits in the middle of its own start, and forks for each process that is wanted.

It is started in a base environment (layers/python.py), in which nothing is installed but `HOOK`: a `.pth` file, which
Python reads while it starts, before it looks at the script that it was told to run. The hook executes this file, which
waits. Each fork gets a world of its own, in which the app's environment lies over the base, and goes on with the start
of Python as if it had just begun. So the app finds what it would find in an interpreter that was started for it: its
own packages and arguments, no frames of ours, no modules of ours.

The process that waits has every capability over its own sandbox; nothing of an app or its packages ever runs in it:

    bubblewrap's sandbox: the machine's /usr, a Python, the base environment, nothing of any job
    └─ the warm interpreter, which forks
       └─ process 1 of a job's own namespaces: makes its world, gives up all privileges for good, and forks
          └─ process 2: the app

The spawner (sandbox/spawner.py) speaks with it on a socket: `fork NUMBER` with descriptors (the socket on which the
start will come, a pipe for facts, files of cgroups to enter), answered with `forked NUMBER` and a descriptor of the
process, or `failed NUMBER ERRNO`, and in the end `ended NUMBER STATUS CPU PEAK`. The start comes with the request
(sandbox/requests.py, Fork), the streams and the mounts; facts are those of sandbox/launch.py.

Standard library only, and of that what an app may well import again: it runs in the app's own Python.
"""

import _signal  # type: ignore[import-not-found]  # `signal` without its enumerations
import _socket
import ctypes
import gc
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` is a slow import
    from typing import Any

VARIABLE = "MOORAGE_INTERPRETER"
NAME = "moorage"
HOOK = (
    f'import os, sys; os.environ.get("{VARIABLE}") and (exec(open(int(os.environ.pop("{VARIABLE}")), "rb").read(), '
    f'dict(__name__="{NAME}", modules=set(sys.modules), importers=set(sys.path_importer_cache))), '
    f"addsitedir(sitedir, known_paths))\n"
)
"""One line within site's own function: what it does last is to read the `.pth` files of the app's environment."""
CONTROL, CODE = 100, 101
"""Descriptors of the warm interpreter: the spawner's socket, and this file."""

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAP_AMBIENT = 24, 38, 22, 47
SECCOMP_MODE_FILTER, PR_CAP_AMBIENT_CLEAR_ALL, CAPABILITY_VERSION_3 = 2, 4, 0x20080522
SYS_MOVE_MOUNT, MOVE_MOUNT_F_EMPTY_PATH, AT_FDCWD, SYS_CLOSE_RANGE = 429, 4, -100, 436
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
KERNEL_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
"""What is read-only there."""

_libc = ctypes.CDLL(None, use_errno=True)


def serve(modules: set[str], importers: set[str]) -> None:
    """Wait for work; return in each app's own process, ready to go on with the start of Python.

    The arguments name what Python had imported and where it had looked before: an app may have modules that are called
    like those of ours.
    """
    try:
        request = Interpreter().wait()
    except BaseException:  # with every capability, the start of Python must not go on
        os._exit(1)
    for name in set(sys.modules) - modules:
        if not name.startswith("_"):  # written in C, and nobody's name for a module
            del sys.modules[name]
    for path in set(sys.path_importer_cache) - importers:
        del sys.path_importer_cache[path]
    sys.orig_argv[:] = request["argv"]
    sys.argv[:] = request["argv"][1:]


class Interpreter:
    """The process that waits."""

    def __init__(self) -> None:
        self._pythons_own = [number for number in range(3, CONTROL) if _exists(number)]
        self._control = _socket.socket(fileno=CONTROL)
        self._poll = select.poll()
        self._poll.register(CONTROL, select.POLLIN)
        self._children: dict[int, tuple[bytes, int]] = {}
        self._own_world = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def wait(self) -> "dict[str, Any]":
        """Serve the spawner until it hangs up; give the request of a job in that job's own process."""
        gc.disable()
        gc.freeze()  # a collection in a fork would copy every page of ours
        self._control.send(b"ready")
        while True:
            for descriptor, _event in self._poll.poll():
                if descriptor != CONTROL:
                    self._reap(descriptor)
                elif request := self._obey():
                    return request

    def _obey(self) -> "dict[str, Any] | None":
        message, descriptors = _receive(self._control)
        if not message:
            os._exit(0)
        number = message.split()[1]
        try:
            _check(_libc.unshare(CLONE_NEWPID))
            pid = os.fork()
        except OSError as error:
            pid = -1
            self._control.send(b"failed %s %d" % (number, error.errno or 0))
        if pid == 0:
            self._control.detach()
            return become(descriptors[0], descriptors[1], descriptors[2:], keep=self._pythons_own)
        _check(_libc.setns(self._own_world, CLONE_NEWPID))
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._announce(number, pid)
        return None

    def _announce(self, number: bytes, pid: int) -> None:
        try:
            process = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            self._control.send(b"failed %s %d" % (number, error.errno or 0))
            return
        self._children[process] = number, pid
        self._poll.register(process, select.POLLIN)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", process))
        self._control.sendmsg([b"forked " + number], [rights])

    def _reap(self, process: int) -> None:
        number, pid = self._children.pop(process)
        _, status, usage = os.wait4(pid, 0)
        self._poll.unregister(process)
        os.close(process)
        facts = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10
        self._control.send(b"ended %s %d %f %d" % (number, *facts))


def become(orders: int, status: int, groups: list[int], *, keep: list[int]) -> "dict[str, Any]":
    """As process 1 of its own world: get everything ready, and fork the app's process, in which alone it returns."""
    step = "get ready"
    try:
        _close_all_but(*keep, orders, status, *groups)
        os.setsid()
        step = "enter the cgroup"
        for group in groups:
            _write(group, "0")
        step = "make namespaces"
        kernel = _make_world()
        os.write(status, b'{"ready": true}\n')
        step = "read the request"
        request, mounts = _take(orders, status)
        step = "mount"
        _see(request, mounts)
        step = "give up privileges"
        _give_up(request, kernel)
        os.write(status, b'{"running": true}\n')
        _close_all_but(*keep)
        app = os.fork()
        if app:
            _close_all_but()
            os._exit(_wait_for(app))
    except BaseException as error:
        try:
            os.write(status, _described(step, error))
        finally:
            os._exit(1)
    gc.unfreeze()
    gc.enable()
    return request


def _make_world() -> int:
    """Make namespaces, among them a network that holds nothing but loopback; give /proc/sys as it is when writable."""
    kinds = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    _check(_libc.unshare(kinds))
    _bring_up_loopback()
    harmless = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _mount("proc", "/proc", "proc", harmless)
    kernel = os.open("/proc/sys", os.O_PATH | os.O_CLOEXEC)
    for path in filter(_exists, KERNEL_SETTINGS):
        _mount(path, path, None, MS_BIND)
        _mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | harmless)
    _mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    return kernel


def _bring_up_loopback() -> None:
    request = struct.pack("16sh22x", b"lo", IFF_UP)
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0)
    _check(_libc.ioctl(connection.fileno(), ctypes.c_ulong(SIOCSIFFLAGS), request))
    connection.close()


def _take(orders: int, status: int) -> "tuple[dict[str, Any], list[int]]":
    """Wait for the start, or for word of what went wrong with it."""
    connection = _socket.socket(fileno=orders)
    message, descriptors = _receive(connection)
    connection.detach()
    if message != b"start":
        os.write(status, message)
        os._exit(1)
    content, *streams = descriptors[:4]
    request = marshal.loads(os.read(content, os.fstat(content).st_size))  # noqa: S302 - the node's own
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    return request, descriptors[4:]


def _see(request: "dict[str, Any]", mounts: list[int]) -> None:
    for target in request["private"]:
        _mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={request['tmp']}")
    for mount, target in zip(mounts, request["targets"], strict=True):
        path = os.fsencode(target)
        _check(_libc.syscall(SYS_MOVE_MOUNT, mount, b"", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH))
    os.chdir(request["cwd"])


def _give_up(request: "dict[str, Any]", kernel: int) -> None:
    """Enter a user namespace that owns nothing of all this and can have none below it; drop what can be dropped."""
    _check(_libc.unshare(CLONE_NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", "1000 0 1"), ("gid_map", "1000 0 1")):
        _write(os.open(f"/proc/self/{name}", os.O_WRONLY), text)
    _write(os.open("user/max_user_namespaces", os.O_WRONLY, dir_fd=kernel), "0")
    for number, value in request["rlimits"]:
        _limit(number, value)
    capability = 0
    while _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    _check(_libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)))
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if request["seccomp"]:
        _filter(request["seccomp"])


def _limit(number: int, value: int) -> None:
    _, hard = resource.getrlimit(number)
    lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:  # noqa: SIM105 - contextlib would be one module more
        resource.setrlimit(number, (lower, lower))
    except (OSError, ValueError):  # some machines let nobody change a limit; go on without
        pass


def _filter(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0))


def _wait_for(app: int) -> int:
    """Bury whoever dies in this world, until the app does; give its status as a shell would."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # which means for a process 1 that it is ignored
    while True:
        pid, status = os.wait()
        if pid == app:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _described(step: str, error: BaseException) -> bytes:
    words = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    text = "".join(letter if letter.isprintable() and letter not in '"\\' else " " for letter in words)
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    return b'{"step": "%s", "why": "%s", "errno": %d}\n' % (step.encode(), text.encode(), number)


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    message, extra, _, _ = connection.recvmsg(65536, _socket.CMSG_LEN(64 * 4), _socket.MSG_CMSG_CLOEXEC)
    return message, [number for _, _, data in extra for (number,) in struct.iter_unpack("i", data)]


def _close_all_but(*wanted: int) -> None:
    first = 3
    for number in sorted(wanted):
        if first < number:
            _close_range(first, number - 1)
        first = number + 1
    _close_range(first, 0xFFFFFFFF)  # whatever the limit is now: it may have been higher


def _close_range(first: int, last: int) -> None:
    """Close descriptors by the kernel's own call: not every Python has been compiled to know it."""
    _check(_libc.syscall(SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0))


def _exists(what: "str | int") -> bool:
    """Tell whether there is such a path, or such an open descriptor."""
    try:
        os.stat(what)
    except OSError:
        return False
    return True


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options)))


def _write(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())
    os.close(descriptor)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == NAME:
    serve(globals()["modules"], globals()["importers"])
