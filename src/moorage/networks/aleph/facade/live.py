"""The websocket on which messages come as they are taken (contract, section 4.2)."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from moorage.networks.aleph.facade import queries
from moorage.networks.aleph.facade.answers import Refused, dumps, whole
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.listing import Filter, Listing
from moorage.networks.aleph.ledger.publisher import Change, Publisher

HISTORY, MOST_HISTORY = 10, 200
WAITING = 10_000
"""Messages that may wait for a client; one that reads more slowly is left."""
REFUSED, TOO_SLOW = 1008, 1013


class Live:
    """Sends messages to those who watch."""

    def __init__(self, publisher: Publisher, ledger: Ledger) -> None:
        self._publisher, self._ledger = publisher, ledger

    def routes(self) -> list[WebSocketRoute]:
        """Give the route."""
        return [WebSocketRoute("/api/ws0/messages", self._watch)]

    async def _watch(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            where = queries.of_messages(websocket.query_params)
            history = min(whole(websocket.query_params, "history", HISTORY), MOST_HISTORY - 1)
        except Refused as reason:
            await websocket.close(REFUSED, reason.text)
            return
        await _until_gone(websocket, self._send(websocket, replace(where, ascending=False), history))

    async def _send(self, websocket: WebSocket, where: Filter, history: int) -> None:
        """Send what was, the oldest first, and then what comes."""
        waiting = _Waiting()
        unlisten = self._publisher.listen(waiting.add)
        try:
            earlier = await self._ledger.find(lambda listing: listing.page(where, limit=history))
            for record in reversed(earlier):
                await websocket.send_text(dumps(record.shown).decode())
            sent = {record.envelope.item_hash for record in earlier}
            while (item_hash := await waiting.next()) is not None:
                if item_hash not in sent and (shown := await self._shown(where, item_hash)):
                    await websocket.send_text(shown)
            await websocket.close(TOO_SLOW)
        finally:
            unlisten()

    async def _shown(self, where: Filter, item_hash: str) -> str | None:
        """Write a message, which may have been forgotten meanwhile; None if it is not asked for."""

        def find(listing: Listing) -> str | None:
            record = listing.lookups.record(item_hash) if listing.matches(where, item_hash) else None
            return dumps(record.shown).decode() if record else None

        return await self._ledger.find(find)


class _Waiting:
    """What was taken and is not sent yet: hashes, for messages may be long."""

    def __init__(self) -> None:
        self._hashes: asyncio.Queue[str] = asyncio.Queue(WAITING)
        self._lost = False

    def add(self, change: Change) -> None:
        if change.kind == "processed":
            try:
                self._hashes.put_nowait(change.item_hash)
            except asyncio.QueueFull:
                self._lost = True

    async def next(self) -> str | None:
        """Give what comes next; None if that was lost."""
        return None if self._lost else await self._hashes.get()


async def _until_gone(websocket: WebSocket, sending: Coroutine[Any, Any, None]) -> None:
    """Send until the client leaves; what it says is not heard."""
    tasks = [asyncio.ensure_future(sending), asyncio.ensure_future(_gone(websocket))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect):
            raise end


async def _gone(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
