"""The helper that makes the mounts of processes which are forked from a warm interpreter.

Such a process has its own mount namespace already, in which the sources of its mounts are not to be seen. So they are
mounted here, in the order of their coming, and handed over as descriptors. Runs in a child of the spawner, apart from
it: what a slow disk holds up are other processes that are forked, nothing else. Standard library only.
"""

import json
import os
import socket
from typing import NoReturn

from moorage.sandbox import staging
from moorage.sandbox.messages import receive


def serve(orders: socket.socket, *, owner: int | None, idmap: int | None) -> NoReturn:
    """Work until the spawner is gone.

    An order is a list of mounts (staging.py) with descriptors: the socket on which the process waits for its start, and
    what it gets beside the mounts.
    """
    staging.enter_namespace(own_user=os.geteuid() != 0)
    while True:
        message, descriptors = receive(orders)
        if not message:
            os._exit(0)
        trees: list[int] = []
        with socket.socket(fileno=descriptors[0]) as process:
            try:
                trees = staging.detached(json.loads(message), owner=owner, idmap=idmap)
                socket.send_fds(process, [b"start"], [*descriptors[1:], *trees])
            except OSError as error:
                _tell(process, error)
        for descriptor in (*descriptors[1:], *trees):
            os.close(descriptor)


def _tell(process: socket.socket, error: OSError) -> None:
    """Let the process say why it cannot start: its words reach the node in order with its end."""
    fact = {"step": "mount", "why": str(error), "errno": error.errno or 0}
    try:
        process.send(json.dumps(fact).encode() + b"\n")
    except OSError:  # it is gone already
        return
