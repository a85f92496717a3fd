"""The life of the host: import, start-up, requests, shutdown."""

import asyncio
import atexit
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.machinery import PathFinder
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from . import log
from .adapter import CONNECTION, Adapter
from .exits import NOT_IMPORTED, NOT_STARTED, leave, leave_as
from .lifespan import Lifespan, NotStarted
from .loading import NotLoaded, load
from .program import Program

Settings = Mapping[str, Any]
BACKLOG = 1024
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""To who asks for a websocket with a head that cannot be taken."""
KEEP_ALIVE = 24 * 3600
"""Seconds that an idle connection is kept; it is the node that ends them."""
CANCELLED = 1.0
"""Seconds that tasks have to end once they are cancelled."""
MISTAKES = logging.Logger("moorage")  # noqa: LOG001 - out of the reach of the program's configuration
"""Where uvicorn tells of exceptions, which are the host's own; all else that it says has been said already."""
MISTAKES.addFilter(lambda record: record.exc_info is not None)


def main() -> None:
    """Serve the program that standard input describes, until SIGTERM."""
    settings = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    log.capture()
    loop = _new_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_live(settings))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (SystemExit, KeyboardInterrupt) as end:
        leave_as(end)
    loop.close()
    atexit._run_exitfuncs()
    leave(0)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _live(settings: Settings) -> None:
    config = _configured()  # before the import: uvicorn imports parts of itself for it, and a program may bring another
    program = _imported(settings)
    lifespan = Lifespan(program.call)
    try:
        await lifespan.start(settings["startup_timeout"])
    except NotStarted as error:
        log.say(str(error))
        leave(NOT_STARTED)
    config.loaded_app = Adapter(
        program=program,
        lifespan=lifespan.supported,
        seconds=settings["seconds"],
        public=settings["traceback"] == "public",
    )
    state = ServerState()
    await _serve(settings["listener"], lambda: Protocol(config, state, lifespan.state))
    deadline = time.monotonic() + settings["shutdown_timeout"]
    await _drain(state, settings["shutdown_timeout"] / 2)
    await lifespan.stop(deadline - time.monotonic())
    await _cancel(asyncio.all_tasks() - {asyncio.current_task()})


def _configured() -> Config:
    config = Config(
        _nothing,
        http=Protocol,
        ws=_websocket,  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        interface="asgi3",
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        workers=1,  # or a variable of the program's would tell
    )
    config.load()
    return config


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stand where the program will be."""


def _imported(settings: Settings) -> Program:
    path = settings["path"]
    if PathFinder.find_spec("uvicorn", path) or PathFinder.find_spec("websockets", path):
        _import_websockets()  # while it is still the host's own that is found
    sys.argv[:] = settings["argv"]
    faulthandler.dump_traceback_later(settings["import_timeout"], exit=True)
    try:
        program = load(settings["entrypoint"], settings["module"], path)
    except BaseException as error:  # to be ended by its own import is no way to be served, either
        log.say(str(error) if isinstance(error, NotLoaded) else log.traceback_of(error))
        leave(NOT_IMPORTED)
    faulthandler.cancel_dump_traceback_later()
    return program


async def _serve(descriptor: int, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Answer requests until SIGTERM."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    server = await loop.create_unix_server(protocol, sock=listener, backlog=BACKLOG)
    await stopped.wait()
    server.close()


async def _drain(state: ServerState, within: float) -> None:
    """Let requests end that have begun; cancel those that take too long."""
    for connection in tuple(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(tuple(state.tasks), timeout=within)
    await _cancel(state.tasks)


async def _cancel(tasks: "set[asyncio.Task[Any]]") -> None:
    for task in tuple(tasks):
        task.cancel()
    if tasks:
        await asyncio.wait(tuple(tasks), timeout=CANCELLED)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with the node; requests know what connection they came on."""

    received = 0.0
    """When the latest bytes of a body came, in the loop's time."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, state, app_state)
        self.logger = MISTAKES

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self.received = self.loop.time()
        super().on_body(body)


@cache
def _import_websockets() -> Any:
    """Import what few programs need: it takes longer than all the rest of uvicorn."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class Websocket(WebSocketsSansIOProtocol):
        """Answers also those whose heads it does not take: uvicorn lets them wait."""

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self.transport.write(REFUSAL)
                self.transport.close()

    return Websocket


def _websocket(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> asyncio.Protocol:
    """Make what goes on with a connection that becomes a websocket."""
    protocol: asyncio.Protocol = _import_websockets()(config, server_state, app_state)
    protocol.logger = MISTAKES  # type: ignore[attr-defined]
    return protocol
