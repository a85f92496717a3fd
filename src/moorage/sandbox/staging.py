"""What the kernel is asked for before a process starts: namespaces of its own, and the mounts that it will see.

Runs in the spawner's children (spawner.py); standard library only. libc is called directly because a shell with
mount(8) takes ten times as long.

Every source of a mount is staged as /tmp/0, /tmp/1, ... on a tmpfs that only this mount namespace has. An isolated
process of a root node runs as another user (base.py, SANDBOX_UID): the staged paths are open to it even when the
sources lie below directories that are not.
"""

import contextlib
import ctypes
import os
import signal
import stat
import time
from collections.abc import Sequence
from typing import Any

STAGE = "/tmp"  # noqa: S108 - there on every Linux (bubblewrap needs it too), and covered in our own namespace only

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 0x2, 0x4, 0x1000, 0x4000, 0x80000
MNT_DETACH = 2
NS_GET_USERNS = 0xB701
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
"""The same on every architecture, as are all system calls since Linux 5.0."""
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x100000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("spread", ctypes.c_uint64),
        ("ns", ctypes.c_uint64),
    )


def die_with(parent: int) -> None:
    """Be killed when the parent dies, or now if it has died already; to be said again after a change of user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    _check(_libc.prctl(option, value, 0, 0, 0))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """Mount something; the arguments are those of the system call."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options)), target)


def enter_namespace(*, own_user: bool) -> None:
    """Give this process a mount namespace of its own, which follows the machine's mounts and never changes them.

    `own_user` adds the user namespace that an ordinary user needs for it, in which the user stays who it is.
    """
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if own_user else 0)))
    if own_user:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    mount("none", "/", flags=MS_SLAVE | MS_REC)


def stage(mounts: Sequence[dict[str, Any]], *, owner: int | None, idmap: int | None) -> None:
    """Mount the sources at /tmp/0, /tmp/1, ... in their order.

    A mount is `{"source": PATH, "writable": BOOL}`, `{"text": TEXT}` for a file that holds just that, or `{"lower":
    [PATH], "upper": PATH | None, "work": PATH, "make": [NAME]}`, perhaps with `"points": {PATH: BOOL}`: empty
    directories (true: files) that come before the lower trees.
    `owner` is the user that writable directories of root are given to, `idmap` the namespace in which root's files
    are that user's, so that a process may change its own copy of a file that belongs to root.
    """
    held: list[int] = []
    try:
        opened = [_open(item, owner, held) for item in mounts]
        mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        for number, (item, sources) in enumerate(zip(mounts, opened, strict=True)):
            _attach(item, sources, f"{STAGE}/{number}", owner, idmap)
    finally:
        for descriptor in held:
            os.close(descriptor)


def detached(mounts: Sequence[dict[str, Any]], *, owner: int | None, idmap: int | None) -> list[int]:
    """Open mounts of the sources that are nowhere to be seen, for a process in another mount namespace to attach."""
    covered = os.stat(STAGE).st_dev
    trees: list[int] = []
    try:
        stage(mounts, owner=owner, idmap=idmap)
        for number, item in enumerate(mounts):
            trees.append(_open_clone(f"{STAGE}/{number}", item))
    except OSError:
        for tree in trees:
            os.close(tree)
        raise
    finally:
        if os.stat(STAGE).st_dev != covered:
            _check(_libc.umount2(os.fsencode(STAGE), MNT_DETACH), STAGE)
    return trees


def _open_clone(path: str, item: dict[str, Any]) -> int:
    writable = item.get("writable", True)
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE
    tree = _check(_libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags), path)
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (0 if writable else MOUNT_ATTR_RDONLY)
    _set_attributes(tree, _MountAttr(set=attributes), AT_EMPTY_PATH | AT_RECURSIVE)
    return tree


def join(descriptor: int, kind: int) -> None:
    """Enter a namespace of this kind (CLONE_NEW...)."""
    _check(_libc.setns(descriptor, kind))


def join_network(network: int) -> None:
    """Enter a network namespace: as root at once, as anybody else by way of the user namespace that owns it."""
    if os.geteuid() != 0:
        join(_check(_libc.ioctl(network, ctypes.c_ulong(NS_GET_USERNS))), CLONE_NEWUSER)
    join(network, CLONE_NEWNET)


def idmap_namespace(owner: int) -> int:
    """Open a user namespace that maps root to `owner`, for mounts that show root's files as the owner's."""
    return _namespaces(CLONE_NEWUSER, "user", root=(owner, owner))[0]


def network_namespace(user: int | None) -> tuple[int, int]:
    """Open a user namespace whose root is `user` (None: who this is), and in it a network with nothing in it."""
    root = (os.geteuid(), os.getegid()) if user is None else (user, user)
    owner, network = _namespaces(CLONE_NEWUSER | CLONE_NEWNET, "user", "net", root=root)
    return owner, network


def _namespaces(kinds: int, *names: str, root: tuple[int, int]) -> list[int]:
    """Open namespaces that a child makes, with `root` as their root: what is open outlives the child."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, bytes([0 if _libc.unshare(kinds) == 0 else ctypes.get_errno()]))
        time.sleep(60)
        os._exit(0)
    try:
        if failure := os.read(ours, 1)[0]:
            raise OSError(failure, os.strerror(failure))
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {root[0]} 1"), ("gid_map", f"0 {root[1]} 1")):
            _write(f"/proc/{child}/{name}", text)
        return [os.open(f"/proc/{child}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]
    finally:
        os.close(ours)
        os.close(theirs)
        os.kill(child, 9)
        os.waitpid(child, 0)


def _open(item: dict[str, Any], owner: int | None, held: list[int]) -> list[int]:
    """Open what an item names: its source, or its lower trees and then, if it has them, its upper and its work."""
    if "source" in item:
        return [_reach(item["source"], owner if item["writable"] else None, held)]
    lower = [_reach(path, None, held) for path in item.get("lower", ())]
    if item.get("upper") is None:
        return lower
    for path in (item["work"], item["upper"], *(f"{item['upper']}/{name}" for name in item["make"])):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    for name in item["make"]:
        _reach(f"{item['upper']}/{name}", owner, held)
    return [*lower, _reach(item["upper"], owner, held), _open_work(item["work"], held)]


def _open_work(path: str, held: list[int]) -> int:
    """Open a work directory that was never used: `volatile` forbids to use one twice."""
    work = _reach(path, None, held)
    if not os.listdir(_path(work)):
        return work
    inner = f"{_path(work)}/{time.time_ns()}"
    os.mkdir(inner)
    return _reach(inner, None, held)


def _reach(path: str, owner: int | None, held: list[int]) -> int:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    held.append(descriptor)
    if owner is not None and os.fstat(descriptor).st_uid == 0:
        os.chown(_path(descriptor), owner, owner)
    return descriptor


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _attach(item: dict[str, Any], sources: list[int], target: str, owner: int | None, idmap: int | None) -> None:
    if "source" in item:
        _bind(sources[0], target)
    elif "text" in item:
        _write(target, item["text"])
        os.chmod(target, 0o644)
    else:
        trees = [_lower(tree, f"{target}.{number}", idmap) for number, tree in enumerate(sources[: len(item["lower"])])]
        if points := item.get("points"):
            _make_points(points, f"{target}.points", owner)
            trees.insert(0, f"{target}.points")
        _overlay(trees, sources[len(item["lower"]) :], target)


def _make_points(points: dict[str, bool], directory: str, owner: int | None) -> None:
    """Make places for mounts that belong to the owner, as do the directories on the way to them."""
    os.mkdir(directory, 0o755)
    for path, is_file in points.items():
        os.makedirs(directory + (os.path.dirname(path) if is_file else path), exist_ok=True)
        if is_file:
            _write(directory + path, "")
    if owner is not None:
        for path, _, files in os.walk(directory):
            for name in ("", *files):
                os.chown(f"{path}/{name}", owner, owner)


def _bind(source: int, target: str) -> None:
    _make_mount_point(source, target)
    mount(_path(source), target, flags=MS_BIND | MS_REC)


def _make_mount_point(source: int, target: str) -> None:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))


def _overlay(lower: list[str], writable: list[int], target: str) -> None:
    """Mount an overlay that keeps whole what the process writes; `writable` is its upper and work, or nothing.

    redirect_dir and metacopy are off so that what is renamed into a directory of `upper` is found there with its
    content. `volatile` spares a flush of the whole file system at the end: a crashed attempt is never collected.
    """
    options = [f"lowerdir={':'.join(lower)}", "redirect_dir=nofollow,metacopy=off,index=off"]
    if writable:
        options += [f"upperdir={_path(writable[0])}", f"workdir={_path(writable[1])}", "volatile"]
    if os.geteuid() != 0:
        options.append("userxattr")
    os.mkdir(target)
    mount("overlay", target, "overlay", 0, ",".join(options))


def _lower(tree: int, target: str, idmap: int | None) -> str:
    if idmap is None or os.fstat(tree).st_uid != 0:
        return _path(tree)
    copy = _check(_libc.syscall(SYS_OPEN_TREE, tree, b"", OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH))
    _set_attributes(copy, _MountAttr(set=MOUNT_ATTR_IDMAP, ns=idmap), AT_EMPTY_PATH)
    os.mkdir(target)
    _check(_libc.syscall(SYS_MOVE_MOUNT, copy, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH))
    os.close(copy)
    return target


def _set_attributes(tree: int, attributes: _MountAttr, flags: int) -> None:
    size = ctypes.sizeof(attributes)
    _check(_libc.syscall(SYS_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(attributes), size))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
