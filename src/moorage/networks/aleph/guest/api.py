"""What programs find on their socket: the node's signature, a cache, and the network's API (contract, section 4.4)."""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from moorage.blobs.base import Blobs
from moorage.errors import MoorageError
from moorage.model.jobs import JSON
from moorage.networks.aleph.facade import answers
from moorage.networks.aleph.facade.answers import Json, Refused, body, error, parsed, parsed_aside
from moorage.networks.aleph.facade.publishing import PROGRAM, told
from moorage.networks.aleph.guest.cache import MAX_VALUE, Cache, CacheFull
from moorage.networks.aleph.guest.facts import Guest, guest_of, stored_content
from moorage.networks.aleph.key import NodeKey
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Publisher
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.envelope import BadMessage, Envelope, parse
from moorage.networks.aleph.messages.hashes import sha256

log = structlog.get_logger(__name__)

CHAIN = "ETH"
CACHE = "/cache/"
GUEST = "moorage.aleph.guest"
"""Where the scope of a request tells of the program that makes it."""
MAX_KEY = 512
"""Characters of a key."""

_KEY = re.compile(rf"\w{{1,{MAX_KEY}}}")
_PATTERN = re.compile(rf"[\w?*^\-]{{1,{MAX_KEY}}}")


class GuestApi:
    """Answers programs; each is named by the scope of its requests as `moorage.aleph.program`."""

    def __init__(
        self, facade: ASGIApp, publisher: Publisher, ledger: Ledger, blobs: Blobs, *, key: NodeKey, cache: Cache
    ) -> None:
        self._publisher, self._ledger, self._blobs = publisher, ledger, blobs
        self._key, self._cache = key, cache
        self._app = Starlette(
            routes=[
                Route("/properties", self._properties),
                Route("/sign", self._sign, methods=["POST"]),
                Route("/cache/", self._keys),
                Route("/cache/{key}", self._get),
                Route("/cache/{key}", self._put, methods=["PUT"]),
                Route("/cache/{key}", self._delete, methods=["DELETE"]),
                Route("/api/v0/ipfs/pubsub/pub", self._republish, methods=["POST"]),
                Route("/api/v0/p2p/pubsub/pub", self._republish, methods=["POST"]),
            ],
            exception_handlers={
                Refused: answers.refused,
                HTTPException: answers.unrouted,
                MoorageError: answers.troubled,
                ClientDisconnect: _gone,
            },
        )
        self._app.router.redirect_slashes = False
        self._app.router.default = facade

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or websocket, as an ASGI application."""
        try:
            await self._answer(scope, receive, send)
        except Exception:  # the server sees that the answer is not complete, and says so
            log.exception("guest API failed", program=scope[PROGRAM], path=scope["path"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        guest, path = guest_of(self._ledger, scope[PROGRAM]), scope["path"]
        key = path.removeprefix(CACHE) if path.startswith(CACHE) else None
        if guest is None:
            await _refuse(410, f"Program {scope[PROGRAM]} has been forgotten", scope, receive, send)
        elif not (guest.environment.aleph_api or key is not None):
            await _refuse(403, "aleph_api is not enabled for this program", scope, receive, send)
        elif key and _KEY.fullmatch(key) is None:
            await _refuse(400, "Invalid key", scope, receive, send)
        else:
            scope[GUEST] = guest
            await self._app(scope, receive, send)

    # the node's signature

    async def _properties(self, request: Request) -> Response:
        public = f"0x{self._key.public.hex()}"
        return Json({"chain": CHAIN, "curve": "secp256k1", "address": self._key.address, "public_key": public})

    async def _sign(self, request: Request) -> Response:
        document = await parsed_aside(await body(request))
        if not isinstance(document, dict):
            raise Refused(400, "A message is an object")
        if not rules.same_address(str(document.get("sender") or self._key.address), self._key.address):
            raise Refused(400, "Message sender does not match the address of this node")
        envelope = self._envelope(document)
        if envelope.chain != CHAIN:
            raise Refused(400, f"Message chain is not {CHAIN}")
        if await self._address(envelope) not in rules.names_of(_guest(request).item_hash):
            raise Refused(400, "Message address does not match VM item_hash")
        return Json({**document, **await asyncio.to_thread(self._signed, envelope)})

    def _envelope(self, document: Mapping[str, JSON]) -> Envelope:
        try:
            return parse({**document, "sender": self._key.address, "signature": ""})
        except BadMessage as problem:
            raise Refused(400, str(problem)) from None

    async def _address(self, envelope: Envelope) -> str | None:
        """Give the address in a content, once that is known to be what the hash is of: only the hash is signed."""
        if envelope.item_content is not None and envelope.content is not None:
            if sha256(envelope.item_content) != envelope.item_hash:
                raise Refused(400, "Message item_hash is not the hash of its item_content")
            return _text(envelope.content, "address")
        stored = await stored_content(self._ledger, self._blobs, envelope.item_hash)
        return None if stored is None else _text(await parsed_aside(stored), "address")

    def _signed(self, envelope: Envelope) -> dict[str, JSON]:
        # A slow import: only what signs pays for it.
        from moorage.networks.aleph.messages.signatures import signed_bytes

        content = signed_bytes(
            chain=envelope.chain, sender=envelope.sender, message_type=envelope.type, item_hash=envelope.item_hash
        )
        return {"sender": self._key.address, "signature": self._key.sign(content)}

    async def _republish(self, request: Request) -> Response:
        """Publish as a POST of the program what came by topic, in the way of earlier years."""
        document = await parsed_aside(await body(request))
        if not isinstance(document, dict):
            raise Refused(422, "The request must hold `topic` and `data`")
        data = document.get("data")
        data = _read(data) if isinstance(data, str) else data
        guest = _guest(request)
        content = {**_content(str(document.get("topic")), data), "address": guest.item_hash}
        receipt = await self._publisher.publish(await asyncio.to_thread(self._post, content), program=guest.item_hash)
        return told(receipt) if receipt.status in {"rejected", "forgotten"} else Json({"status": "success"})

    def _post(self, content: Mapping[str, JSON]) -> dict[str, JSON]:
        text = json.dumps(content, separators=(",", ":"))
        message: dict[str, JSON] = {
            "chain": CHAIN,
            "type": "POST",
            "item_type": "inline",
            "item_hash": sha256(text),
            "item_content": text,
            "time": time.time(),
            "channel": None,
        }
        return message | self._signed(self._envelope(message))

    # the cache

    async def _keys(self, request: Request) -> Response:
        pattern = request.query_params.get("pattern", "*")
        if _PATTERN.fullmatch(pattern) is None:
            raise Refused(400, "Invalid key")
        return Json(await self._cache.keys(_guest(request).space, pattern))

    async def _get(self, request: Request) -> Response:
        value = await self._cache.get(_guest(request).space, request.path_params["key"])
        if value is None:
            raise Refused(404, "No such key in cache")
        return Response(value, media_type="application/octet-stream")

    async def _put(self, request: Request) -> Response:
        key, value = request.path_params["key"], await body(request, most=MAX_VALUE)
        try:
            await self._cache.put(_guest(request).space, key, value)
        except CacheFull:
            raise Refused(507, "The cache of this program is full") from None
        return Json(True)

    async def _delete(self, request: Request) -> Response:
        return Json(int(await self._cache.delete(_guest(request).space, request.path_params["key"])))


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})  # before it is accepted: 403
    else:
        await error(status, text)(scope, receive, send)


async def _gone(request: Request, reason: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def _guest(request: Request) -> Guest:
    found = request.scope[GUEST]
    assert isinstance(found, Guest)
    return found


def _text(document: Any, key: str) -> str | None:
    found = document.get(key) if isinstance(document, Mapping) else None
    return found if isinstance(found, str) else None


def _read(text: str) -> Any:
    """Read JSON; text that is none stands for itself."""
    try:
        return parsed(text)
    except Refused:
        return text


def _content(topic: str, data: Any) -> dict[str, JSON]:
    """Take the content of the message that was published, or make one of data that is no message."""
    text = _text(data, "item_content")
    content = parsed(text) if text is not None else {"type": topic, "content": data}
    if not isinstance(content, dict):
        raise Refused(422, "The content of a message is an object")
    return {"time": time.time(), **content}
