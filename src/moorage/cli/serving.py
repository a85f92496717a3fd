"""The node as a service: it starts, tells where it listens, and ends on a signal."""

import asyncio
import gc
import os
import signal
from collections.abc import Iterator, Sequence

import uvloop
from rich.text import Text

from moorage.api.access import is_loopback
from moorage.api.server import Listening
from moorage.api.server import serve as listen
from moorage.cli.render import err, print_warning, printable
from moorage.model.states import JobState
from moorage.networks.base import Surface
from moorage.node.config import NodeConfig
from moorage.node.node import Node
from moorage.sandbox.base import Check


def serve(config: NodeConfig) -> None:
    """Run a node until SIGTERM or SIGINT."""
    uvloop.run(_serve(config))


async def _serve(config: NodeConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop)
    async with Node.open(config) as node:
        socket = node.directory.socket
        async with listen(node, host=config.host, port=config.port, uds=socket) as listening:
            node.directory.announce(url=listening.url, socket=socket)
            _greet(config, listening, node.surfaces)
            _warn(await node.doctor())
            gc.freeze()  # what is loaded by now stays: no collection needs to look at it again
            gc.set_threshold(10_000, 20, 20)  # hardly anything of a request is a cycle
            await stop.wait()
            asking = node.lanes.load().running
            running = (await node.store.job_counts()).get(JobState.RUNNING, 0) - asking
        err().print("; ".join(_farewell(running, asking)) + ".")


def _farewell(running: int, asking: int) -> Iterator[str]:
    yield "Stopping"
    if running:
        yield "a running job goes back to the queue" if running == 1 else f"{running} running jobs go back to the queue"
    if asking:
        yield "a request to a service is given up" if asking == 1 else f"{asking} requests to services are given up"


def _stop(asked: asyncio.Event) -> None:
    """Stop in order; asked a second time, at once, as after a `kill -9`: the next start mends what is left."""
    if asked.is_set():
        os._exit(130)
    asked.set()


def _greet(config: NodeConfig, listening: Listening, surfaces: Sequence[Surface]) -> None:
    console = err()
    console.print(f"Moorage listens on {listening.url} and on {listening.socket}")
    console.print(f"data directory {config.data_dir}, isolation {config.isolation}", style="dim")
    if config.isolation == "host":
        print_warning("Isolation is `host`: apps can read, change and reach all that this process can.")
    if is_loopback(config.host):
        console.print("Only this machine can reach it. Ctrl-C stops it.", style="dim")
        return
    opened = [path for each in surfaces if each.admits for path in (*each.paths, *(f"{top}*" for top in each.below))]
    if opened:
        console.print(f"{_listed(opened)} are open to everybody who reaches the port.", style="yellow")
    console.print("Everything else needs a token; `moorage token add NAME` makes one. Ctrl-C stops it.", style="dim")


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _warn(checks: list[Check]) -> None:
    missing = [check for check in checks if not check.ok]
    for check in missing:
        err().print(Text(f"{check.name}: {printable(check.message)}", style="yellow"))
    if missing:
        err().print("`moorage doctor` tells how to mend that.", style="dim")
