"""Routes by which files come in (contract, section 4.2)."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moorage.blobs.base import Blobs
from moorage.networks.aleph.facade.answers import Json, Refused, body, error, parsed_aside
from moorage.networks.aleph.facade.forms import Upload
from moorage.networks.aleph.facade.publishing import PROGRAM, STATUS, told
from moorage.networks.aleph.ledger.examination import (
    MAX_STORED_CONTENT,
    SIGNATURE,
    Receipt,
    WrongFile,
    require_file,
    unverified,
)
from moorage.networks.aleph.ledger.publisher import Publisher
from moorage.networks.aleph.ledger.records import File
from moorage.networks.aleph.messages.envelope import BadMessage, Envelope, parse
from moorage.networks.aleph.messages.hashes import cid_v0

NO_DIRECTORIES = "IPFS directories are not supported"
CHUNK = 1 << 20

Name = Callable[[str, Path], str]
"""Names a file, given the sha256 of its bytes and where they are; may take long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes that may be uploaded at once."""

    signed: int = 100 << 20
    """Together with the STORE message of its owner."""
    unsigned: int = 25 << 20
    """By anybody."""


class Uploads:
    """Takes files, which go to the blobs as they come."""

    def __init__(self, publisher: Publisher, blobs: Blobs, limits: Limits) -> None:
        self._publisher, self._blobs, self._limits = publisher, blobs, limits

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/api/v0/storage/add_file", self._storage_file, methods=["POST"]),
            Route("/api/v0/ipfs/add_file", self._ipfs_file, methods=["POST"]),
            Route("/api/v0/storage/add_json", self._storage_json, methods=["POST"]),
            Route("/api/v0/ipfs/add_json", self._ipfs_json, methods=["POST"]),
            Route("/api/v0/ipfs/add_car", _no_directories, methods=["POST"]),
        ]

    async def _storage_file(self, request: Request) -> Response:
        return await self._taken(request, _sha256)

    async def _ipfs_file(self, request: Request) -> Response:
        return await self._taken(request, _cid)

    async def _taken(self, request: Request, name: Name) -> Response:
        upload = Upload(self._limits.signed, self._limits.unsigned)
        try:
            digest, size = await self._blobs.put(self._vetted(upload, request, name))
        except WrongFile as reason:
            return error(422, str(reason))
        except _Unverified as reason:
            # It is refused for just that, and remembered.
            return _refusal(await self._publisher.publish(reason.message, program=request.scope.get(PROGRAM)))
        file = await self._named(digest, size, name)
        answer = {"status": "success", "hash": file.hash, "name": upload.filename or file.hash, "size": file.size}
        if "metadata" not in upload.fields:
            await self._publisher.add_file(file)
            return Json(answer)
        message = _message(await parsed_aside(bytes(upload.fields["metadata"])))
        try:
            receipt = await self._publisher.publish(message, program=request.scope.get(PROGRAM), file=file)
        except WrongFile as reason:
            return error(422, str(reason))
        if receipt.status in {"rejected", "forgotten"}:
            return _refusal(receipt)
        return Json(answer | {"message_status": receipt.status}, STATUS[receipt.status])

    async def _vetted(self, upload: Upload, request: Request, name: Name) -> AsyncIterator[bytes]:
        """Give the bytes of a file, and fail before they are kept if a message came along that is not to be taken.

        Only a message that is verified raises the limit, where it comes first. Raises Refused, WrongFile.
        """
        digest, verified = hashlib.sha256(), False
        async for piece in upload.file(request):
            if not verified and upload.size > self._limits.unsigned and "metadata" in upload.fields:
                await _verified(upload)
                verified = True
            digest.update(piece)
            yield piece
        if "metadata" not in upload.fields:
            return
        envelope = await _verified(upload)
        if name is _sha256:  # a CID is told by the whole file, once it is here
            require_file(envelope, digest.hexdigest())

    async def _storage_json(self, request: Request) -> Response:
        return await self._taken_json(request, _sha256)

    async def _ipfs_json(self, request: Request) -> Response:
        return await self._taken_json(request, _cid)

    async def _taken_json(self, request: Request, name: Name) -> Response:
        document = await parsed_aside(await body(request, most=MAX_STORED_CONTENT))
        text = json.dumps(document, separators=(",", ":"), sort_keys=True)
        file = await self._named(*await self._blobs.put_bytes(text.encode()), name)
        await self._publisher.add_file(file)
        return Json({"status": "success", "hash": file.hash})

    async def _named(self, digest: str, size: int, name: Name) -> File:
        hashed = await asyncio.to_thread(name, digest, self._blobs.path(digest))
        return File(hash=hashed, digest=digest, size=size)


async def _no_directories(request: Request) -> Response:
    return error(403, NO_DIRECTORIES)


def _sha256(digest: str, path: Path) -> str:
    return digest


def _cid(digest: str, path: Path) -> str:
    return cid_v0(_chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


class _Unverified(Exception):
    """A message that came along with a file is none, or not of its sender."""

    def __init__(self, message: Any) -> None:
        super().__init__()
        self.message = message


async def _verified(upload: Upload) -> Envelope:
    message = _message(await parsed_aside(bytes(upload.fields["metadata"])))
    try:
        envelope = parse(message)
    except BadMessage:
        raise _Unverified(message) from None
    if await asyncio.to_thread(unverified, envelope):
        raise _Unverified(message)
    return envelope


def _refusal(receipt: Receipt) -> Response:
    return told(receipt, status=403 if receipt.error_code == SIGNATURE else None)


def _message(metadata: Any) -> Any:
    message = metadata.get("message") if isinstance(metadata, dict) else None
    if not isinstance(message, dict) or message.get("type") != "STORE":
        raise Refused(422, "The metadata must hold a STORE as `message`")
    return message
