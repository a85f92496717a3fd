"""A node in this process, in a thread with an event loop of its own, that answers on a Unix socket only."""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from moorage.api.server import serve
from moorage.cli.logs import log_warnings
from moorage.node.config import load_config
from moorage.node.directory import DataDirectory
from moorage.node.node import Node

LOOPBACK = "127.0.0.1"
LONGEST_ADDRESS = 107
"""Bytes of a Unix socket's path that the kernel takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The node as the command's own thread sees it."""

    socket: Path
    node: Node
    loop: asyncio.AbstractEventLoop
    stopped: asyncio.Event

    def idle(self, timeout: float | None = None) -> bool:
        """Wait until no job is queued or running, at most `timeout` seconds; tell whether that is so."""
        waiting = asyncio.run_coroutine_threadsafe(asyncio.wait_for(self.node.idle(), timeout), self.loop)
        try:
            waiting.result()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Let the node end."""
        self.loop.call_soon_threadsafe(self.stopped.set)


@contextlib.contextmanager
def embedded(directory: DataDirectory, *, working: bool) -> Iterator[Embedded]:
    """Run a node for as long as the context lasts; other commands find it only if it is `working`.

    Raises what `Node.open` raises.
    """
    log_warnings()
    ready: Future[Embedded] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_live(directory, ready, working=working)), name="node")
    thread.start()
    try:
        yield ready.result()
    finally:
        ready.add_done_callback(_stop)
        thread.join()


async def _live(directory: DataDirectory, ready: "Future[Embedded]", *, working: bool) -> None:
    stopped = asyncio.Event()
    try:
        async with contextlib.AsyncExitStack() as stack:
            node = await stack.enter_async_context(
                Node.open(load_config(None, data_dir=directory.root), working=working)
            )
            address = stack.enter_context(_socket(directory))
            await stack.enter_async_context(serve(node, uds=address))
            node.listen = lambda: stack.enter_async_context(serve(node, host=LOOPBACK))
            if working:
                directory.announce(url=None, socket=address)
            loop = asyncio.get_running_loop()
            ready.set_result(Embedded(socket=address, node=node, loop=loop, stopped=stopped))
            await stopped.wait()
    except Exception as error:
        if ready.done():
            raise
        ready.set_exception(error)


def _stop(ready: "Future[Embedded]") -> None:
    if ready.exception() is None:
        ready.result().stop()


@contextlib.contextmanager
def _socket(directory: DataDirectory) -> Iterator[Path]:
    """Give the socket in the data directory, or one in a private temporary directory where that path is too long."""
    if len(os.fsencode(directory.socket)) <= LONGEST_ADDRESS:
        yield directory.socket
        return
    with tempfile.TemporaryDirectory(prefix="moorage-") as temporary:
        yield Path(temporary, "node.sock")
