"""How the process ends."""

import os
from typing import NoReturn

from . import log

NOT_IMPORTED, NOT_STARTED = 70, 71
"""Statuses of a program that cannot be imported, or that does not start."""
INTERRUPTED = 130


def leave(status: int) -> NoReturn:
    """End at once; threads of the program may never end."""
    log.finish_all()
    os._exit(status)


def leave_as(end: BaseException) -> NoReturn:
    """End as SystemExit asks for, or KeyboardInterrupt (contract, section 2.6, A21)."""
    code = end.code if isinstance(end, SystemExit) else INTERRUPTED
    if code is not None and not isinstance(code, int):
        log.say(str(code))
        code = 1
    leave(code or 0)
