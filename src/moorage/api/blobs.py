"""Routes of blobs: bytes in and out by digest, never as a whole in memory."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import TypeAdapter
from starlette.responses import FileResponse

from moorage.api import examples
from moorage.api.problems import documented
from moorage.api.results import BYTES, RANGES, UNTRUSTED
from moorage.api.routing import answers, here, rendered
from moorage.api.schemas import DIGEST, Stored
from moorage.errors import NotFound

STORED = TypeAdapter(Stored)
UPLOAD = {"requestBody": {"required": True, "content": {"application/octet-stream": {**BYTES, "example": "test"}}}}

router = APIRouter(prefix="/v1")

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="sha256 in lower-case hex.", examples=[DIGEST])]


@router.post(
    "/blobs",
    status_code=201,
    response_model=Stored,
    responses=answers(STORED, examples.STORED, 507, status=201),
    openapi_extra=UPLOAD,
)
async def upload(request: Request) -> Response:
    """Store the request body; it is durable once this is answered."""
    node, _ = here(request)
    digest, size = await node.blobs.put(request.stream())
    return rendered(STORED, Stored(digest=digest, size=size), 201, _location(digest))


@router.put(
    "/blobs/{digest}",
    status_code=201,
    response_model=Stored,
    responses=answers(STORED, examples.STORED, 507, status=201),
    openapi_extra=UPLOAD,
)
async def upload_verified(request: Request, digest: Digest) -> Response:
    """Store the request body if it has this digest."""
    node, _ = here(request)
    _, size = await node.blobs.put(request.stream(), expect=digest)
    return rendered(STORED, Stored(digest=digest, size=size), 201, _location(digest))


@router.head(
    "/blobs/{digest}", response_class=Response, responses={200: {"description": "It is here"}, **documented(404)}
)
async def look(request: Request, digest: Digest) -> Response:
    """Tell whether a blob is here, and its size as Content-Length."""
    return Response(headers={"content-length": str(_size(request, digest)), "accept-ranges": "bytes"})


@router.get(
    "/blobs/{digest}",
    response_class=FileResponse,
    responses={
        **documented(404),
        **RANGES,
        200: {"description": "The bytes", "content": {"application/octet-stream": {**BYTES, "example": "test"}}},
    },
)
async def download(request: Request, digest: Digest) -> Response:
    """Give a blob, or a range of it."""
    node, _ = here(request)
    _size(request, digest)
    headers = {**UNTRUSTED, "etag": f'"{digest}"', "cache-control": "private, immutable, max-age=31536000"}
    return FileResponse(node.blobs.path(digest), headers=headers, media_type="application/octet-stream")


def _size(request: Request, digest: str) -> int:
    node, _ = here(request)
    size = node.blobs.size(digest)
    if size is None:
        raise NotFound(f"There is no blob {digest}.", hint="Upload it with POST /v1/blobs.")
    return size


def _location(digest: str) -> dict[str, str]:
    return {"location": f"/v1/blobs/{digest}"}
