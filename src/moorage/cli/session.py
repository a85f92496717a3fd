"""How a command reaches a node: by address, through the data directory, or by being one for as long as it takes."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from moorage.cli.render import note
from moorage.client import Client
from moorage.errors import DataDirectoryBusy
from moorage.node.directory import DataDirectory

PATIENCE = 30.0
"""Seconds to wait for a node that holds the data directory but does not answer: it is starting or stopping."""


@contextlib.contextmanager
def connect(*, working: bool = False) -> Iterator[Client]:
    """Reach the node: `MOORAGE_URL`, else the one that holds the data directory, else one in this process.

    A node in this process runs jobs only if `working`. Then it stays until the commands that joined it have ended
    and the queue is empty.
    Raises NodeUnreachable, DataDirectoryBusy and what opening a node raises.
    """
    with contextlib.ExitStack() as stack:
        client = _remote() or Client(_local(stack, working=working))
        yield stack.enter_context(client)


def running_node() -> Client | None:
    """Give the node that a command would reach without being one itself."""
    address = answering(_directory())
    return _remote() or (Client(address) if address else None)


def answering(directory: DataDirectory) -> Path | None:
    """Give the socket of the node that holds a data directory, if it answers."""
    presence = directory.presence()
    if presence is None or presence.socket is None:
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(presence.socket)
        except OSError:
            return None
    return Path(presence.socket)


def _directory() -> DataDirectory:
    from moorage.node.config import default_data_dir

    return DataDirectory(default_data_dir())


def _remote() -> Client | None:
    address = os.environ.get("MOORAGE_URL")
    return Client(address, token=os.environ.get("MOORAGE_TOKEN")) if address else None


def _local(stack: contextlib.ExitStack, *, working: bool) -> Path:
    directory = _directory()
    directory.make()
    guests = stack.enter_context((directory.root / "guests").open("a"))
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return _join(directory, guests) or _embed(directory, guests, stack, working=working)
        except DataDirectoryBusy:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _join(directory: DataDirectory, guests: IO[str]) -> Path | None:
    """Use the node that answers there; the shared lock keeps it from leaving meanwhile if it is another command's."""
    if answering(directory) is None:
        return None
    fcntl.flock(guests, fcntl.LOCK_SH)
    if (address := answering(directory)) is None:  # it left before the lock was ours
        fcntl.flock(guests, fcntl.LOCK_UN)
    return address


def _embed(directory: DataDirectory, guests: IO[str], stack: contextlib.ExitStack, *, working: bool) -> Path:
    from moorage.cli.embedded import Embedded, embedded

    node: Embedded = stack.enter_context(embedded(directory, working=working))
    if working:
        stack.callback(_linger, node.idle, guests)
    return node.socket


def _linger(idle: Callable[[float | None], bool], guests: IO[str]) -> None:
    """Stay while other commands use this node and while jobs are queued; Ctrl-C leaves those to the next node."""
    try:
        if not _alone(guests, wait=False) or not idle(0.5):
            note("This node has other jobs to finish. Ctrl-C leaves them to the next one.")
        _alone(guests, wait=True)
        idle(None)
    except KeyboardInterrupt:
        note("Left them in the queue.")


def _alone(guests: IO[str], *, wait: bool) -> bool:
    """Tell whether no other command uses this node, and keep others from joining it if so."""
    try:
        fcntl.flock(guests, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
