"""The application that uvicorn calls: it takes what the node says about a request, and calls the program with it."""

from dataclasses import dataclass
from functools import lru_cache

from . import log
from .conversation import Conversation
from .event import Event, send_json
from .exchange import Exchange
from .exits import leave_as
from .program import Program, Receive, Scope, Send

CONNECTION = "moorage.connection"
"""Key of a scope at which the protocol leaves itself."""
NO_ROOT = "-"
PORT_DIGITS = 5
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Makes requests of the node into calls of the program (see `__main__`)."""

    program: Program
    lifespan: bool
    seconds: float
    public: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        kind, run, root, scheme, host, port = scope["headers"].pop(0)[1].decode("latin-1").split(" ")
        self._describe(scope, root, scheme, (host, int(port)))
        log.RUN.set(run)
        try:
            if scope["type"] == "websocket":
                conversation = Conversation(send, run, self.seconds, public=self.public)
                await conversation.run(self.program.call, scope, receive)
            elif kind == "ready":
                facts = {"asgi": True, "lifespan": self.lifespan, "framework": self.program.framework}
                await send_json(send, facts)
            else:
                exchange = Exchange(scope.pop(CONNECTION), send, run, self.seconds, public=self.public)
                call = Event(self.program.call) if kind == "event" else self.program.call
                await exchange.run(call, scope, receive)
        except (SystemExit, KeyboardInterrupt) as end:  # uvicorn would take it for an error
            leave_as(end)
        finally:
            log.finish(run)

    def _describe(self, scope: Scope, root: str, scheme: str, client: tuple[str, int]) -> None:
        """Complete a scope with what only the node knows (contract, section 2.6, A6 and A7)."""
        if scope["type"] == "websocket":
            scheme = "wss" if scheme == "https" else "ws"
        scope["scheme"], scope["client"], scope["server"] = scheme, client, _server(scope, scheme)
        if root == NO_ROOT:
            return
        scope["root_path"] = root
        if not self.program.whole_path:
            scope["path"] = scope["path"][len(root) :] or "/"
            scope["raw_path"] = scope["raw_path"][len(root) :] or b"/"


def _server(scope: Scope, scheme: str) -> tuple[str, int] | None:
    """Find the host and port that a request is for."""
    for name, value in scope["headers"]:
        if name == b"host":
            return _host_and_port(value, scheme)
    return None


@lru_cache
def _host_and_port(value: bytes, scheme: str) -> tuple[str, int]:
    text = value.decode("latin-1")
    host, _, port = text.rpartition(":")
    if port.isdecimal() and len(port) <= PORT_DIGITS:
        return host.strip("[]"), int(port)
    return text.removesuffix(":").strip("[]"), PORTS[scheme]
