"""Answers that take their time: long polls and streams, which all end promptly when the server stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar, cast

from fastapi import Request
from fastapi.sse import format_sse_event
from pydantic import TypeAdapter
from starlette.responses import StreamingResponse

from moorage.api.routing import here
from moorage.model.events import Event
from moorage.model.jobs import Job

EVENT = TypeAdapter(Event)
KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream of events says that it is still there."""

T = TypeVar("T")


async def changed(request: Request, subject: str, after: int, seconds: float) -> bool:
    """Wait until there is an event of a subject later than `after`; False when the time is up or the server stops."""
    node, _ = here(request)
    stop = asyncio.ensure_future(request.app.state.stopping.wait())
    change = asyncio.ensure_future(node.feed.wait(subject, after, seconds))
    try:
        await asyncio.wait({change, stop}, return_when=asyncio.FIRST_COMPLETED)
        return change.done() and change.result()
    finally:
        stop.cancel()
        change.cancel()


async def until(request: Request, job: Job, reached: Callable[[Job], bool], seconds: float) -> Job:
    """Wait until a job is as wished for or has ended, at most so many seconds, and give it as it then is."""
    node, caller = here(request)
    clock = asyncio.get_running_loop()
    deadline = clock.time() + seconds
    while not (reached(job) or job.state.terminal):
        if not await changed(request, job.id, job.seq, max(0.0, deadline - clock.time())):
            break
        job = await node.get_job(job.id, caller=caller)
    return job


def event_stream(request: Request, subject: str | None, after: int) -> StreamingResponse:
    """Answer with the events of a subject, or of the whole node, later than `after` as server-sent events."""
    node, _ = here(request)
    events = node.feed.follow(subject, after)
    body = _server_sent(until_stopped(events, request.app.state.stopping, idle=KEEP_ALIVE), whole=subject is None)
    return StreamingResponse(body, media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def _server_sent(events: AsyncIterator[Event | None], *, whole: bool) -> AsyncIterator[bytes]:
    async for event in events:
        if event is None:
            yield b": still here\n\n"
            continue
        yield format_sse_event(data_str=EVENT.dump_json(event).decode(), id=str(event.id if whole else event.seq))
        if event.final and not whole:
            return


async def until_stopped(
    source: AsyncIterator[T], stopping: asyncio.Event, *, idle: float | None = None
) -> AsyncGenerator[T | None, None]:
    """Give what a source gives until it ends or the server stops; None after each `idle` seconds of silence."""
    end: Any = object()
    stop = asyncio.ensure_future(stopping.wait())
    item: asyncio.Future[Any] | None = None
    try:
        while not stopping.is_set():
            item = item or asyncio.ensure_future(anext(source, end))
            await asyncio.wait({item, stop}, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if item.done():
                value, item = item.result(), None
                if value is end:
                    return
                yield cast("T", value)
            elif not stop.done():
                yield None
    finally:
        stop.cancel()
        if item is not None:
            item.cancel()
