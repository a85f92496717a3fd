"""What programs said, for their owners: at once, or as it comes (contract, section 4.5)."""

import asyncio
import contextlib
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from moorage.model.jobs import JSON
from moorage.networks.aleph.control.access import Gate, NotOwner
from moorage.networks.aleph.control.auth import OPERATION, PUBKEY
from moorage.networks.aleph.facade.answers import Json, Refused, parsed
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.rules import Machine
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.logs import Line, ProgramLog
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.base import Services

PATIENCE = 10.0
"""Seconds that a client has to say who it is."""
WAITING = 10_000
"""Lines that may wait for a client; one that reads more slowly is left."""
TOO_SLOW = 1013


class Logs:
    """Shows the logs of programs to those who may see them."""

    def __init__(self, gate: Gate, registry: Registry, services: Services, lookups: Lookups) -> None:
        self._gate, self._registry, self._services, self._lookups = gate, registry, services, lookups

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/control/machine/{ref}/logs", self._all),
            WebSocketRoute("/control/machine/{ref}/stream_logs", self._stream),
        ]

    async def _all(self, request: Request) -> Response:
        ref = str(request.path_params["ref"])
        await self._gate.enter(request, ref)
        lines = await asyncio.to_thread(self._log(ref).lines)
        if not lines and not self._was_started(ref):
            raise Refused(404, "No execution found for this VM")
        return Json([_entry(ref, line) for line in lines])

    async def _stream(self, websocket: WebSocket) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.accept()
            try:
                await self._enter(websocket)
            except Refused as refused:
                await _fail(websocket, refused.text)
            except NotOwner:
                await _fail(websocket, "Unauthorized sender")
            except TimeoutError:
                await _fail(websocket, "No auth message")
            else:
                await _follow(websocket, self._log(str(websocket.path_params["ref"])))

    async def _enter(self, websocket: WebSocket) -> None:
        """Take the first frame in place of headers, which browsers cannot give to websockets.

        Raises Refused, NotOwner, TimeoutError, WebSocketDisconnect.
        """
        async with asyncio.timeout(PATIENCE):
            message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        document = parsed(message.get("text") or "")
        proofs = document.get("auth") if isinstance(document, dict) else None
        if not isinstance(proofs, dict):
            raise Refused(400, "Invalid auth message")
        ref, pubkey, operation = str(websocket.path_params["ref"]), proofs.get(PUBKEY), proofs.get(OPERATION)
        await self._gate.admit(websocket, ref, pubkey=pubkey, operation=operation)

    def _was_started(self, ref: str) -> bool:
        found = self._registry.find(ref)
        return isinstance(found, Instance) and self._services.state(found.spec.key) is not None

    def _log(self, ref: str) -> ProgramLog:
        message = self._lookups.message(ref)
        assert message is not None
        assert isinstance(message.content, Machine)
        return self._registry.log_of(rules.origin(message.content, ref))


class _Waiting:
    """What was said and is not sent yet."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[Line] = asyncio.Queue(WAITING)
        self._lost = False

    def add(self, line: Line) -> None:
        try:
            self._lines.put_nowait(line)
        except asyncio.QueueFull:
            self._lost = True

    async def next(self) -> Line | None:
        """Give what comes next; None if that was lost."""
        return None if self._lost else await self._lines.get()


async def _follow(websocket: WebSocket, log: ProgramLog) -> None:
    """Send what is said from now on, until the client leaves."""
    lines = _Waiting()
    unlisten = log.listen(lines.add)
    sending = asyncio.ensure_future(_send(websocket, lines))
    try:
        while (await websocket.receive())["type"] != "websocket.disconnect":
            pass
    finally:
        unlisten()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(websocket: WebSocket, lines: _Waiting) -> None:
    await websocket.send_json({"status": "connected"})
    while (line := await lines.next()) is not None:
        await websocket.send_json({"type": line.source, "message": line.text})
    await websocket.close(TOO_SLOW)


async def _fail(websocket: WebSocket, reason: str) -> None:
    await websocket.send_json({"status": "failed", "reason": reason})
    await websocket.close()


def _entry(ref: str, line: Line) -> dict[str, JSON]:
    """Write a line as journals do; they know of two streams only."""
    stream = "stdout" if line.source == "stdout" else "stderr"
    return {
        "SYSLOG_IDENTIFIER": f"vm-{ref}-{stream}",
        "MESSAGE": line.text,
        "file": stream,
        "__REALTIME_TIMESTAMP": str(datetime.fromtimestamp(line.time, UTC)),
    }
