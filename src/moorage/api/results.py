"""Routes of what a job leaves: outputs, one by one or as an archive, and logs."""

import base64
import json
import mimetypes
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import TypeAdapter
from starlette.responses import FileResponse, StreamingResponse

from moorage.api import examples
from moorage.api.archive import zip_stream
from moorage.api.jobs import JobId
from moorage.api.problems import documented
from moorage.api.routing import answers, here, rendered, streams
from moorage.api.waiting import until_stopped
from moorage.blobs.tar import Member, tar_stream
from moorage.errors import NotFound
from moorage.model.jobs import FileRef
from moorage.sandbox.base import Stream

OUTPUTS = TypeAdapter(list[FileRef])
UNTRUSTED = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox; default-src 'none'"}
"""Whatever an app wrote must never run as a page of this node."""
RANGES: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that was asked for"},
    400: {"description": "The range cannot be understood", "content": {"text/plain": {"schema": {"type": "string"}}}},
    416: {"description": "The file is shorter than that", "content": {"text/plain": {"schema": {"type": "string"}}}},
}
BYTES = {"schema": {"type": "string", "format": "binary"}}
LINE = '{"stream": "stdout", "text": "42 words\\n"}\n'

router = APIRouter(prefix="/v1")


@router.get("/jobs/{job_id}/outputs", response_model=list[FileRef], responses=answers(OUTPUTS, [examples.FILE], 404))
async def list_outputs(request: Request, job_id: JobId) -> Response:
    """List what a job left, sorted by path; while it runs, what earlier attempts left."""
    node, caller = here(request)
    return rendered(OUTPUTS, await node.outputs(job_id, caller=caller))


@router.get("/jobs/{job_id}/outputs.zip", response_class=Response, responses=streams("application/zip", "PK...", 404))
async def zip_outputs(request: Request, job_id: JobId) -> Response:
    """Give all outputs as one .zip."""
    files, when = await _stored(request, job_id)
    return StreamingResponse(zip_stream(files, when), media_type="application/zip", headers=_named(f"{job_id}.zip"))


@router.get("/jobs/{job_id}/outputs.tar", response_class=Response, responses=streams("application/x-tar", "...", 404))
async def tar_outputs(request: Request, job_id: JobId) -> Response:
    """Give all outputs as one .tar."""
    files, when = await _stored(request, job_id)
    members = (Member(name=ref.path, size=ref.size, mtime=int(when), path=path) for ref, path in files)
    return StreamingResponse(tar_stream(members), media_type="application/x-tar", headers=_named(f"{job_id}.tar"))


@router.get(
    "/jobs/{job_id}/outputs/{path:path}",
    response_class=FileResponse,
    responses={
        **documented(404),
        **RANGES,
        200: {"description": "The file", "content": {"*/*": {**BYTES, "example": "42"}}},
    },
)
async def show_output(
    request: Request,
    job_id: JobId,
    path: Annotated[str, Path(description="Path of an output.", examples=[examples.FILE.path])],
) -> Response:
    """Give one output, or a range of it; its type is guessed from its name."""
    node, caller = here(request)
    for ref in await node.outputs(job_id, caller=caller):
        if ref.path == path:
            kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
            return FileResponse(node.blobs.path(ref.digest), headers={**UNTRUSTED, **_tagged(ref)}, media_type=kind)
    raise NotFound(f"Job {job_id} has left no {path!r}.", hint="List its outputs.")


@router.get(
    "/jobs/{job_id}/logs",
    response_class=Response,
    responses={
        200: {
            "description": "Success",
            "content": {"application/x-ndjson": {**BYTES, "example": LINE}, "text/plain": {**BYTES, "example": "42\n"}},
        },
        **documented(404),
    },
)
async def show_logs(
    request: Request,
    job_id: JobId,
    stream: Annotated[Stream | None, Query(description="Only this one, as plain text.", examples=["stdout"])] = None,
    follow: Annotated[bool, Query(description="Go on until the job has ended.", examples=[False])] = False,
) -> Response:
    """Give what a job has written.

    One stream comes as it is. Both together come as lines of JSON: `stream`, and the bytes as `text`, or as
    `base64` where they are not UTF-8.
    """
    node, caller = here(request)
    await node.get_job(job_id, caller=caller)
    chunks = until_stopped(node.logs(job_id, caller=caller, stream=stream, follow=follow), request.app.state.stopping)
    if stream is not None:
        return StreamingResponse(_plain(chunks), media_type="text/plain", headers=UNTRUSTED)
    return StreamingResponse(_lines(chunks), media_type="application/x-ndjson", headers=UNTRUSTED)


async def _stored(request: Request, job_id: str) -> tuple[list[tuple[FileRef, FilePath]], float]:
    node, caller = here(request)
    job = await node.get_job(job_id, caller=caller)
    outputs = await node.outputs(job_id, caller=caller)
    return [(ref, node.blobs.path(ref.digest)) for ref in outputs], job.finished_at or job.created_at


def _named(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _tagged(ref: FileRef) -> dict[str, str]:
    return {"etag": f'"{ref.digest}"'}


async def _plain(chunks: AsyncGenerator[tuple[Stream, bytes] | None, None]) -> AsyncIterator[bytes]:
    async for item in chunks:
        if item is not None:
            yield item[1]


async def _lines(chunks: AsyncGenerator[tuple[Stream, bytes] | None, None]) -> AsyncIterator[bytes]:
    async for item in chunks:
        if item is not None:
            yield json.dumps(_line(*item)).encode() + b"\n"


def _line(stream: Stream, chunk: bytes) -> dict[str, str]:
    try:
        return {"stream": stream, "text": chunk.decode()}
    except UnicodeDecodeError:
        return {"stream": stream, "base64": base64.b64encode(chunk).decode()}
