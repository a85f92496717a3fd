"""The system calls that no isolated process may make, whatever the kernel would say to it.

A list of what is denied, in the spirit of Docker's default profile: everything else is allowed, so that ordinary
programs work. Each group is denied because namespaces and capabilities alone have failed to contain it before, or
because it opens much kernel code to somebody who has no use for it.
"""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DENIED = {
    "mounts: they undo the view of the file system that the sandbox consists of": (
        "mount umount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick "
        "mount_setattr statmount listmount"
    ),
    "namespaces: in a user namespace of its own a process has every capability over new kernel objects": (
        "unshare setns"
    ),
    "keyrings: they are not namespaced, and belong to the user that all sandboxes share outside": (
        "add_key request_key keyctl"
    ),
    "programs in the kernel, its tracing and profiling: a steady source of privilege escalation": (
        "bpf perf_event_open lookup_dcookie"
    ),
    "page faults served by user space: they make kernel races winnable": "userfaultfd",
    "io_uring: it makes system calls that no filter sees": "io_uring_setup io_uring_enter io_uring_register",
    "the machine's kernel, modules, clock, swap, accounting, quotas and power": (
        "kexec_load kexec_file_load init_module finit_module delete_module create_module query_module get_kernel_syms "
        "clock_settime clock_settime64 clock_adjtime clock_adjtime64 settimeofday adjtimex stime swapon swapoff acct "
        "quotactl quotactl_fd reboot sethostname setdomainname syslog _sysctl sysfs ustat uselib vhangup nfsservctl"
    ),
    "files by handle: they reach past every mount": "open_by_handle_at name_to_handle_at",
    "hardware: ports and memory policy of other processes": (
        "iopl ioperm ioprio_set vm86 vm86old modify_ldt move_pages migrate_pages mbind set_mempolicy "
        "set_mempolicy_home_node process_madvise pciconfig_read pciconfig_write pciconfig_iobase"
    ),
    "files that other processes opened": "pidfd_getfd kcmp",
    "file system notification over a whole mount": "fanotify_init fanotify_mark",
}
NEW_NAMESPACES = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
"""Flags of clone(2), each denied. clone3(2) hides its flags from a filter, so it seems not to exist: callers then
use clone."""
TERMINAL_INJECTION = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C}
"""They put input into the terminal of whoever started us."""
SOCKETS = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}
"""Address families that may be used; the others reach hardware, hypervisors or seldom-used kernel code."""
LAST_SOCKET = max(SOCKETS.values())
QUERY_PERSONALITY = 0xFFFFFFFF
"""The only harmless value: others switch off protections such as address space randomisation."""
LOW_WORD = 0xFFFFFFFF
"""The kernel reads these arguments as 32 bits: a comparison of all 64 could be evaded."""


def write_filter(path: Path) -> bool:
    """Write the filter as a program that bubblewrap loads; tell whether libseccomp is there to make it."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return False
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for action, name, conditions in _rules(pyseccomp):
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
            program.add_rule(pyseccomp.ERRNO(action), name, *conditions)
    with path.open("wb") as file:
        program.export_bpf(file)
    return True


def _rules(library: Any) -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    """Give what is denied as error number, system call and conditions on its arguments."""

    def equals(argument: int, value: int, mask: int = LOW_WORD) -> Any:
        return library.Arg(argument, library.MASKED_EQ, mask, value)

    for names in DENIED.values():
        yield from ((errno.EPERM, name, ()) for name in names.split())
    yield errno.ENOSYS, "clone3", ()
    for flag in NEW_NAMESPACES.values():
        if flag > 0xFF:  # the low byte is clone's exit signal
            yield errno.EPERM, "clone", (equals(0, flag, flag),)
    for request in TERMINAL_INJECTION.values():
        yield errno.EPERM, "ioctl", (equals(1, request),)
    for family in set(range(LAST_SOCKET)) - set(SOCKETS.values()):
        yield errno.EAFNOSUPPORT, "socket", (equals(0, family),)
    yield errno.EAFNOSUPPORT, "socket", (library.Arg(0, library.GT, LAST_SOCKET),)
    yield errno.EPERM, "personality", (library.Arg(0, library.NE, QUERY_PERSONALITY),)
