"""Routes by which messages and posts are read (contract, section 4.2)."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moorage.model.jobs import JSON
from moorage.networks.aleph.facade import queries
from moorage.networks.aleph.facade.answers import Json, asked_hash, dumps, error, iso
from moorage.networks.aleph.facade.queries import Page
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.listing import Listing
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.ledger.records import Record
from moorage.networks.aleph.messages import rules


class Messages:
    """Reads messages and posts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/api/v0/messages.json", self._list),
            Route("/api/v0/messages/page/{page}.json", self._list),
            Route("/api/v0/messages/{hash}", self._one),
            Route("/api/v0/messages/{hash}/status", self._status),
            Route("/api/v0/messages/{hash}/content", self._content),
            Route("/api/v0/posts.json", self._posts),
        ]

    async def _list(self, request: Request) -> Response:
        where, page = queries.of_messages(request.query_params), Page.asked(request.query_params, request.path_params)

        def find(listing: Any) -> bytes:
            found, told = page.find(listing, where, "messages")
            return dumps({"messages": [record.shown for record in found], **told})

        return Json(await self._ledger.find(find))

    async def _posts(self, request: Request) -> Response:
        where, page = queries.of_posts(request.query_params), Page.asked(request.query_params, request.path_params)

        def find(listing: Any) -> bytes:
            found, told = page.find(listing, where, "posts")
            return dumps({"posts": [_post(listing.lookups, record) for record in found], **told})

        return Json(await self._ledger.find(find))

    async def _one(self, request: Request) -> Response:
        item_hash = asked_hash(request)

        def find(listing: Listing) -> bytes | None:
            found = _standing(listing.lookups, item_hash)
            return dumps(found) if found else None

        found = await self._ledger.find(find)
        return Json(found) if found else error(404, "Message not found")

    async def _status(self, request: Request) -> Response:
        item_hash = asked_hash(request)
        found = await self._ledger.find(lambda listing: _standing(listing.lookups, item_hash))
        if found is None:
            return error(404, "Message not found")
        return Json({key: found[key] for key in ("status", "item_hash", "reception_time")})

    async def _content(self, request: Request) -> Response:
        item_hash = asked_hash(request)

        def find(listing: Listing) -> Response:
            return _content(listing.lookups, item_hash)

        return await self._ledger.find(find)


def _content(lookups: Lookups, item_hash: str) -> Response:
    record = lookups.record(item_hash)
    if record is not None and record.content is not None:
        content = record.content
        return Json(content.get("content") if record.envelope.type == "POST" else content)
    found = _standing(lookups, item_hash)
    return error(422, f"Message is {found['status']}") if found else error(404, "Message not found")


def _standing(lookups: Lookups, item_hash: str) -> dict[str, Any] | None:
    """Tell of a message what there is to tell; None if it was never here."""
    record = lookups.record(item_hash)
    if record is not None:
        return _settled(record)
    if waiting := lookups.pending(item_hash):
        messages: list[JSON] = [each.shown for each in waiting]
        return {**_head("pending", item_hash, waiting[0].received), "messages": messages, "message": messages[0]}
    rejection = lookups.rejection(item_hash)
    if rejection is None:
        return None
    head = _head("rejected", item_hash, rejection.received)
    return {**head, "error_code": rejection.code, "details": rejection.details, "message": rejection.message}


def _settled(record: Record) -> dict[str, Any]:
    head = _head(record.status, record.envelope.item_hash, record.received)
    by = {"forgotten_by": [record.forgotten_by]} if record.status == "forgotten" else {}
    return {**head, "message": record.shown, **by}


def _head(status: str, item_hash: str, received: float) -> dict[str, Any]:
    return {"status": status, "item_hash": item_hash, "reception_time": iso(received)}


def _post(lookups: Lookups, original: Record) -> Mapping[str, JSON]:
    """Show a post: its original, with what its newest amend says."""
    message = lookups.message(original.envelope.item_hash)
    newest = rules.current_post(lookups, message).item_hash if message else original.envelope.item_hash
    latest = original if newest == original.envelope.item_hash else lookups.record(newest) or original
    first, last = original.content or {}, latest.content or {}
    return {
        **latest.envelope.broadcast,
        "type": first.get("type"),
        "content": last.get("content"),
        "size": latest.size,
        "confirmed": False,
        "confirmations": [],
        "original_item_hash": original.envelope.item_hash,
        "original_signature": original.envelope.signature,
        "original_type": first.get("type"),
        "hash": original.envelope.item_hash,
        "ref": first.get("ref"),
        "address": first.get("address"),
    }
