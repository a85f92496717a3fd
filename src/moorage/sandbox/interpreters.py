"""The spawner's lines to warm interpreters (guest/interpreter.py) and to the helper that mounts for them (mounter.py).

Standard library only.
"""

import contextlib
import json
import os
import re
import socket
from typing import Any

from moorage.sandbox.launch import be_mounter
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


class Mounter:
    """The helper that mounts, started when it is needed."""

    def __init__(self, *, owner: int | None, idmap: int | None) -> None:
        self._owner, self._idmap = owner, idmap
        self._line: socket.socket | None = None
        self.pid: int | None = None

    def mount(self, mounts: list[dict[str, Any]], descriptors: list[int]) -> None:
        """Have mounts made and passed on, with what else there is, to the process at the first descriptor.

        Raises OSError if the helper cannot be started or takes no more orders now.
        """
        if self._line is None:
            self._start()
        assert self._line is not None
        socket.send_fds(self._line, [json.dumps(mounts).encode()], descriptors, socket.MSG_DONTWAIT)

    def ended(self) -> None:
        """Take note that the helper has ended: the next order starts another."""
        if self._line is not None:
            self._line.close()
        self._line = self.pid = None

    def _start(self) -> None:
        parent = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                be_mounter(theirs, parent=parent, owner=self._owner, idmap=self._idmap)
        self._line, self.pid = ours, pid


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
