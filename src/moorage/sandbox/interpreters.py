"""The spawner's line to a warm interpreter; guest/interpreter.py is the other end. Standard library only."""

import contextlib
import os
import re
import socket

from moorage.sandbox.messages import NOW, receive


class Interpreter:
    """A warm interpreter, by the number of its own process."""

    def __init__(self, number: int, control: socket.socket) -> None:
        self.number = number
        self.control = control

    def fork(self, number: int, descriptors: list[int]) -> None:
        """Ask for a process; raises OSError if the interpreter is gone or takes nothing now."""
        socket.send_fds(self.control, [b"fork %d" % number], descriptors, socket.MSG_DONTWAIT)

    def hear(self) -> tuple[list[str], list[int]]:
        """Take one reply as words and descriptors; no words when the interpreter is gone."""
        message, descriptors = receive(self.control, NOW)
        return message.decode(errors="replace").split(), descriptors


def pid_of(process: int) -> int | None:
    """Tell the process that a descriptor of one means, by its number here."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{process}") as file:
        found = re.search(r"^Pid:\s*(\d+)$", file.read(), re.MULTILINE)
        return int(found[1]) if found else None
    return None


def open_groups(paths: list[str]) -> list[int]:
    """Open files of cgroups for a process that cannot see them to enter."""
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))  # noqa: PERF401 - closed if one fails
    except OSError:
        close_all(opened)
        raise
    return opened


def close_all(descriptors: list[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
