"""What the spawner knows of a process that it was asked for. Standard library only."""

import contextlib
import os
import signal
import socket
import time
from typing import Any

from moorage.sandbox.interpreters import Interpreter
from moorage.sandbox.monitor import descendants


class Job:
    """A started process: `outer` is our child; `inner` is what bubblewrap made process 1 of its own world.

    Where it is forked from a warm interpreter, both are process 1 of its own world, and not our child.
    """

    def __init__(self, number: int, outer: int, status: int, orders: socket.socket) -> None:
        self.number = number
        self.outer = outer
        self.orders = orders
        self.interpreter: Interpreter | None = None  # that it is forked from, if it is not our own child
        self.process: int | None = None  # a descriptor of `outer`, where that is an interpreter's child
        self.doomed = False
        self.running = False
        self.inner: int | None = None
        self.inner_gone = False
        self.monitored = False  # whether `outer` is a monitor (monitor.py), which ends what is below it
        self.status: int | None = status
        self.told = b""
        self.started = time.monotonic()
        self.code: int | None = None
        self.exit_code: int | None = None
        self.cpu = 0.0
        self.peak = 0

    @property
    def over(self) -> bool:
        """Whether every process of it is gone."""
        return self.code is not None and (self.inner is None or self.inner_gone)

    def count(self, usage: Any) -> None:
        """Add what a process that has ended used."""
        self.cpu += usage.ru_utime + usage.ru_stime
        self.peak = max(self.peak, usage.ru_maxrss << 10)

    @property
    def exists(self) -> bool:
        """Whether `inner` is still its process's number, and nobody else's by now."""
        try:
            if self.process is not None:
                signal.pidfd_send_signal(self.process, 0)
                return True
            with open(f"/proc/{self.inner}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            return False
        return parent in {self.outer, os.getpid()}

    def kill(self) -> None:
        """End it: what its outer process leaves is ended by the spawner, by monitor.py or by the kernel."""
        if self.interpreter is not None:
            self.doomed = True
            self.orders.close()  # it ends by itself if it waits for its start
            if self.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.process, signal.SIGKILL)
        elif self.code is None:
            os.kill(self.outer, signal.SIGTERM if self.monitored else signal.SIGKILL)

    def terminate(self) -> None:
        """Ask all of it to end."""
        if not self.outer:
            return
        for pid in descendants(self.inner or self.outer) or [self.outer]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def from_shell(code: int) -> int:
    """Turn bubblewrap's 128 + signal into minus the signal; an app that exits with such a code looks the same."""
    return 128 - code if 128 < code <= 128 + signal.NSIG else code
