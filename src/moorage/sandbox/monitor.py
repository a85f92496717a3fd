"""The process above a process that has no process namespace of its own: when the first ends, it ends the rest.

Runs in the spawner's children; standard library only.
"""

import contextlib
import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable
from typing import NoReturn

from moorage.sandbox import staging


class _Ended(BaseException):
    """The spawner wants everything ended, or is gone."""


def monitor(execute: Callable[[], object], *, status: int) -> NoReturn:
    """Run `execute` in a child and, when that has ended, kill everything that came out of it.

    Tells `{"monitor": PID}` and then `{"status": CODE}`, or nothing more if it was told to end (SIGTERM).
    """
    staging.prctl(staging.PR_SET_CHILD_SUBREAPER, 1)
    main = os.fork()
    if main == 0:
        execute()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # when the spawner is gone we still have work to do
    signal.signal(signal.SIGTERM, _on_sigterm)
    staging.prctl(staging.PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        tell(status, {"monitor": main})
        tell(status, {"status": _outcome(main)})
    except _Ended:
        tell(status, {"status": -signal.SIGKILL})
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_children()
    os._exit(0)


def end_children() -> None:
    """Kill every descendant: the children of those that die become ours."""
    while pids := children(os.getpid()):
        for pid in pids:
            with contextlib.suppress(PermissionError):  # it became another user: we can only wait for its end
                os.kill(pid, signal.SIGKILL)
        for _ in pids:
            with contextlib.suppress(ChildProcessError):
                os.wait()


def tell(status: int, fact: dict[str, object]) -> None:
    """Write one fact to the spawner, which may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(status, json.dumps(fact).encode() + b"\n")


def children(pid: int) -> list[int]:
    """List the children of a process."""
    return _children()[pid]


def descendants(pid: int) -> list[int]:
    """List everything below a process."""
    family, found = _children(), [pid]
    for member in found:
        found += family[member]
    return found[1:]


def _children() -> dict[int, list[int]]:
    family: dict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{name}/stat", "rb") as file:
            _state, parent, *_ = file.read().rpartition(b")")[2].split()
            family[int(parent)].append(int(name))
    return family


def _outcome(main: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == main:
            return os.waitstatus_to_exitcode(status)


def _on_sigterm(_number: int, _frame: object) -> NoReturn:
    raise _Ended
