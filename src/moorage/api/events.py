"""Routes of events: a history as a list, or as server-sent events that go on."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import TypeAdapter

from moorage.api import examples
from moorage.api.apps import AppId
from moorage.api.jobs import JobId, Limit
from moorage.api.routing import answers, here, operated, rendered
from moorage.api.waiting import event_stream
from moorage.model.events import Event
from moorage.node.node import Node

EVENTS = TypeAdapter(list[Event])
SSE = {"text/event-stream": {"schema": {"type": "string"}, "example": 'data: {"topic": "job.queued", ...}\nid: 1\n\n'}}
ANSWERS = answers(EVENTS, [examples.EVENT], 404)
ANSWERS[200]["content"].update(SSE)
ANSWERS[204] = {"description": "Everything up to the end of this history is known already"}

router = APIRouter(prefix="/v1")

After = Annotated[int, Query(ge=0, le=2**53, description="Only later ones than this number.", examples=[0])]
LastId = Annotated[
    str | None, Header(alias="last-event-id", max_length=20, description="Where a stream broke off.", examples=["0"])
]


@router.get("/events", response_model=list[Event], responses=ANSWERS)
async def list_all_events(
    request: Request, after: After = 0, limit: Limit = 1000, last_event_id: LastId = None
) -> Response:
    """List all events of the node, oldest first, or stream them (`Accept: text/event-stream`); numbered by `id`."""
    node = operated(request)
    if not _streamed(request):
        return await _listed(node, None, after, limit)
    return event_stream(request, None, _start(after, last_event_id))


@router.get("/jobs/{job_id}/events", response_model=list[Event], responses=ANSWERS)
async def list_job_events(
    request: Request, job_id: JobId, after: After = 0, limit: Limit = 1000, last_event_id: LastId = None
) -> Response:
    """List a job's events, or stream them until it has ended (`Accept: text/event-stream`); numbered by `seq`."""
    node, caller = here(request)
    job = await node.get_job(job_id, caller=caller)
    if not _streamed(request):
        return await _listed(node, job_id, after, limit)
    start = _start(after, last_event_id)
    return (
        Response(status_code=204) if job.state.terminal and start >= job.seq else event_stream(request, job_id, start)
    )


@router.get("/apps/{app_id}/events", response_model=list[Event], responses=ANSWERS)
async def list_app_events(
    request: Request, app_id: AppId, after: After = 0, limit: Limit = 1000, last_event_id: LastId = None
) -> Response:
    """List an app's events, or stream them until it is removed (`Accept: text/event-stream`); numbered by `seq`."""
    node, caller = here(request)
    await node.get_app(app_id, caller=caller)
    if not _streamed(request):
        return await _listed(node, app_id, after, limit)
    return event_stream(request, app_id, _start(after, last_event_id))


def _streamed(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


def _start(after: int, last_event_id: str | None) -> int:
    return int(last_event_id) if last_event_id and last_event_id.isdecimal() else after


async def _listed(node: Node, subject: str | None, after: int, limit: int) -> Response:
    return rendered(EVENTS, await node.store.events(subject, after=after, limit=limit))
