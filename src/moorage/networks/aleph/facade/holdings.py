"""Routes by which files and aggregates are read, and what is said of prices and balances (contract, section 4.2)."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from moorage import __version__
from moorage.blobs.base import Blobs
from moorage.errors import NotFound
from moorage.networks.aleph.facade.answers import (
    Json,
    Refused,
    asked_hash,
    body,
    error,
    flag,
    iso,
    listed,
    parsed_aside,
    whole,
)
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.hashes import hash_kind
from moorage.networks.aleph.messages.rules import Message

CHUNK = 3 << 18
"""Bytes of a file that become base64 at a time; a multiple of three, so that the pieces join."""
BALANCE = 1_000_000_000
"""Nothing costs anything here, but clients look before they publish."""
PRICING_OWNER = "0xFba561a84A537fCaa567bb7A2257e7142701ae2A"
_FREE = {
    "price": {"storage": {"holding": "0"}, "compute_unit": {"holding": "0"}},
    "tiers": [{"id": f"tier-{n}", "compute_units": units} for n, units in enumerate((1, 2, 4, 6, 8, 12), start=1)],
    "compute_unit": {"vcpus": 1, "memory_mib": 2048, "disk_mib": 2048},
}
PRICING = {"program": _FREE, "program_persistent": _FREE}
"""The network's price list, which its command line reads before it publishes a program."""


class Holdings:
    """Reads files and aggregates."""

    def __init__(self, ledger: Ledger, blobs: Blobs) -> None:
        self._ledger, self._blobs = ledger, blobs

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/api/v0/storage/raw/{hash}", self._raw),
            Route("/api/v0/storage/by-message-hash/{hash}", self._by_message),
            Route("/api/v0/storage/by-ref/{ref}", self._by_ref),
            Route("/api/v0/storage/by-ref/{owner}/{ref}", self._by_name),
            Route("/api/v0/storage/{hash}", self._embedded),
            Route("/api/v0/aggregates/{address}.json", self._aggregates),
            Route("/api/v0/addresses/{address}/balance", _balance),
            Route("/api/v0/price/estimate", _estimate, methods=["POST"]),
            Route("/api/v0/price/{hash}", self._price),
            Route("/api/v0/programs/on/message", self._subscriptions),
            Route("/api/v0/info/public.json", _info),
            Route("/api/v0/version", _version),
            Route("/version", _version),
        ]

    # files

    async def _raw(self, request: Request) -> Response:
        return FileResponse(self._path(asked_hash(request)), media_type="application/octet-stream")

    async def _embedded(self, request: Request) -> Response:
        file_hash = asked_hash(request)
        pieces = _base64(self._path(file_hash), file_hash)
        return StreamingResponse(pieces, media_type="application/json")

    def _path(self, file_hash: str) -> Path:
        found = self._ledger.own_file(file_hash)
        try:
            if found is not None:
                return self._blobs.path(found[0])
        except NotFound:
            pass
        raise Refused(404, "Not found")

    async def _by_message(self, request: Request) -> Response:
        return self._file_of(self._ledger.message(asked_hash(request)))

    async def _by_ref(self, request: Request) -> Response:
        ref = str(request.path_params["ref"])
        return self._file_of(rules.resolve(self._ledger, ref, use_latest=True))

    async def _by_name(self, request: Request) -> Response:
        named = self._ledger.named_store(request.path_params["owner"], request.path_params["ref"])
        return self._file_of(self._ledger.message(named) if named else None)

    def _file_of(self, message: Message | None) -> Response:
        if message is None or not isinstance(store := message.content, Store):
            return error(404, "Not found")
        found = self._ledger.own_file(store.item_hash)
        return Json(
            {
                "ref": store.ref,
                "owner": store.address,
                "file_hash": store.item_hash,
                "download_url": f"/api/v0/storage/raw/{store.item_hash}",
                "size": found[1] if found else 0,
            }
        )

    # aggregates

    async def _aggregates(self, request: Request) -> Response:
        query, address = request.query_params, str(request.path_params["address"])
        keys, limit = listed(query, "keys"), whole(query, "limit", 1000, least=1)
        found = await self._ledger.find(lambda listing: _aggregates(listing.lookups, address, keys))
        found = dict(list(found.items())[:limit])
        if not found:
            return error(404, "No aggregate found for this address")
        data = {key: content for key, (content, _) in found.items()}
        if flag(query, "value_only") and len(data) == 1:
            return Json(next(iter(data.values())))
        info = {key: about for key, (_, about) in found.items()} if flag(query, "with_info") else {}
        return Json({"address": address, "data": data, "info": info})

    # programs

    async def _price(self, request: Request) -> Response:
        item_hash = asked_hash(request)
        content = await self._ledger.find(lambda listing: _content(listing.lookups, item_hash))
        return Json(_cost(content)) if content else error(404, "Message not found")

    async def _subscriptions(self, request: Request) -> Response:
        found = ((item_hash, self._ledger.program(item_hash)) for item_hash in self._ledger.triggered())
        return Json(
            [
                {"item_hash": item_hash, "content": {"on": {"message": loaded.program.on.message}}}
                for item_hash, loaded in found
                if loaded and loaded.program.on.message
            ]
        )


def _base64(path: Path, file_hash: str) -> Iterator[bytes]:
    engine = "ipfs" if hash_kind(file_hash) == "ipfs" else "storage"
    yield f'{{"status":"success","hash":"{file_hash}","engine":"{engine}","content":"'.encode()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield base64.b64encode(chunk)
    yield b'"}'


def _aggregates(lookups: Lookups, address: str, keys: list[str]) -> dict[str, tuple[Any, Any]]:
    """Merge the aggregates of an address, and tell when they were made."""
    found: dict[str, tuple[Any, Any]] = {}
    if rules.same_address(address, PRICING_OWNER):
        found["pricing"] = (PRICING, None)
    for key in lookups.keys(address):
        elements = lookups.elements(address, key)
        found[key] = (rules.merged(elements), _about(elements))
    return {key: found[key] for key in keys if key in found} if keys else found


def _about(elements: list[Message]) -> dict[str, str]:
    first, last = min(elements, key=lambda each: each.time), max(elements, key=lambda each: each.time)
    return {
        "created": iso(first.time),
        "last_updated": iso(last.time),
        "original_item_hash": first.item_hash,
        "last_update_item_hash": last.item_hash,
    }


def _content(lookups: Lookups, item_hash: str) -> Any:
    record = lookups.record(item_hash)
    return record.content if record else None


async def _balance(request: Request) -> Response:
    document = {"balance": BALANCE, "details": {}, "locked_amount": 0.0, "credit_balance": 0}
    return Json({"address": request.path_params["address"], **document})


async def _estimate(request: Request) -> Response:
    document = await parsed_aside(await body(request))
    message = document.get("message") if isinstance(document, dict) else None
    text = message.get("item_content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise Refused(422, "The request must hold a `message` with its `item_content`")
    return Json(_cost(await parsed_aside(text)))


def _cost(content: Any) -> dict[str, Any]:
    """Say that it is free, in the way its owner would pay."""
    content = content if isinstance(content, dict) else {}
    payment = content.get("payment")
    kind, address = payment.get("type") if isinstance(payment, dict) else None, content.get("address")
    return {
        "required_tokens": 0.0,
        "payment_type": kind if kind and isinstance(kind, str) else "hold",
        "cost": "0",
        "detail": [],
        "charged_address": address if isinstance(address, str) else None,
    }


async def _info(request: Request) -> Response:
    return Json({"node_multi_addresses": []})


async def _version(request: Request) -> Response:
    return Json({"version": f"moorage {__version__}"})
