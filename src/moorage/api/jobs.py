"""Routes of jobs: submit, look, wait, cancel, retry, and why."""

import asyncio
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import TypeAdapter

from moorage.api import examples
from moorage.api.routing import answers, header, here, read, rendered, takes
from moorage.api.schemas import JobBody, NamedFile
from moorage.api.waiting import changed, until
from moorage.blobs.names import join, refuse_duplicates
from moorage.errors import InputUnavailable, Invalid
from moorage.model.callers import Caller
from moorage.model.jobs import JSON, Attempt, FileRef, Job, JobSpec
from moorage.model.limits import Limits, Timeouts
from moorage.model.states import JobState
from moorage.node.explain import Explanation
from moorage.node.node import Node
from moorage.store.base import JobFilter, Page

JOB = TypeAdapter(Job)
JOBS = TypeAdapter(list[Job])
ATTEMPTS = TypeAdapter(list[Attempt])
EXPLANATION = TypeAdapter(Explanation)
PREFERRED_WAIT = re.compile(r"(?:^|[,\s])wait=(\d{1,4})(?:$|[,;\s])")
LONGEST_WAIT = 300.0

router = APIRouter(prefix="/v1")

JobId = Annotated[str, Path(description="Id of a job.", examples=[examples.JOB_ID])]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait at most.", examples=[0.5])]
SUBMISSION = takes(
    JobBody,
    header("Idempotency-Key", "The same key with the same request gives the same job.", "k-1"),
    header("Prefer", "`wait=SECONDS` answers only when the job has ended.", "wait=1"),
)
ACCEPTED = answers(JOB, examples.JOB) | answers(JOB, examples.JOB, 404, 409, 413, 415, status=201)
ACCEPTED[200] |= {"model": Job, "description": "The same request was made before; this is its job"}

Before = Annotated[
    str | None, Query(max_length=255, description="Show those older than this one.", examples=[examples.JOB_ID])
]
Seen = Annotated[
    int | None,
    Query(ge=0, le=2**53, description="Wait for an event later than this `seq`; by default the next.", examples=[1]),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.", examples=[50])]


@router.post(
    "/jobs",
    status_code=201,
    response_model=Job,
    responses=ACCEPTED,
    openapi_extra=SUBMISSION,
)
async def submit_job(request: Request) -> Response:
    """Accept a job; it is durable once this is answered."""
    return await _submit(request, None)


@router.put(
    "/jobs/{job_id}",
    status_code=201,
    response_model=Job,
    responses=ACCEPTED,
    openapi_extra=SUBMISSION,
)
async def put_job(request: Request, job_id: JobId) -> Response:
    """Accept a job under an id of the client's choice; repeating the request gives the same job."""
    return await _submit(request, job_id)


@router.get("/jobs", response_model=list[Job], responses=answers(JOBS, [examples.JOB], 404))
async def list_jobs(
    request: Request,
    *,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.", examples=["queued"])] = None,
    app_id: Annotated[
        str | None, Query(max_length=255, description="Only jobs of this app.", examples=[examples.APP_ID])
    ] = None,
    network: Annotated[
        str | None, Query(max_length=255, description="Only jobs of this network.", examples=["infrax"])
    ] = None,
    parent_id: Annotated[
        str | None, Query(max_length=255, description="Only children of this job.", examples=[examples.JOB_ID])
    ] = None,
    label: Annotated[
        list[str] | None,
        Query(
            max_length=64, description="Only jobs with all of these labels: `KEY=VALUE`.", examples=[["project=whales"]]
        ),
    ] = None,
    before: Before = None,
    limit: Limit = 50,
) -> Response:
    """List jobs, newest first; go on with `before` set to the id of the last one."""
    node, caller = here(request)
    where = JobFilter(state=state, app_id=app_id, network=network, parent_id=parent_id, labels=_labels(label))
    return rendered(JOBS, await node.list_jobs(where, Page(limit=limit, before=before), caller=caller))


@router.get("/jobs/{job_id}", response_model=Job, responses=answers(JOB, examples.JOB, 404))
async def show_job(
    request: Request,
    job_id: JobId,
    wait: Wait = 0,
    after: Seen = None,
) -> Response:
    """Show a job; with `wait`, as soon as something has happened to it, and at once if it has ended."""
    node, caller = here(request)
    job = await node.get_job(job_id, caller=caller)
    seen = job.seq if after is None else after
    if wait and job.seq <= seen and not job.state.terminal and await changed(request, job_id, seen, wait):
        job = await node.get_job(job_id, caller=caller)
    return rendered(JOB, job)


@router.get("/jobs/{job_id}/wait", response_model=Job, responses=answers(JOB, examples.JOB, 404))
async def wait_for_job(
    request: Request,
    job_id: JobId,
    state: Annotated[
        JobState | Literal["settled"], Query(description="Wait for this; `settled` is any end.", examples=["settled"])
    ] = "settled",
    timeout: Wait = 60,
) -> Response:
    """Wait until a job is in a state or has ended; when the time is up, answer with the job as it then is."""
    node, caller = here(request)
    job = await node.get_job(job_id, caller=caller)
    return rendered(JOB, await until(request, job, lambda job: job.state == state, timeout))


@router.post("/jobs/{job_id}/cancel", response_model=Job, responses=answers(JOB, examples.JOB, 404, 409))
async def cancel_job(request: Request, job_id: JobId) -> Response:
    """Cancel a job: at once while it waits, else by ending its processes."""
    node, caller = here(request)
    return rendered(JOB, await node.cancel(job_id, caller=caller))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=201,
    response_model=Job,
    responses=answers(JOB, examples.JOB, 404, 409, status=201),
)
async def retry_job(request: Request, job_id: JobId) -> Response:
    """Submit a job that has ended again, as a new one."""
    node, caller = here(request)
    job = await node.retry(job_id, caller=caller)
    return rendered(JOB, job, 201, {"location": f"/v1/jobs/{job.id}"})


@router.get("/jobs/{job_id}/why", response_model=Explanation, responses=answers(EXPLANATION, examples.EXPLANATION, 404))
async def explain_job(request: Request, job_id: JobId) -> Response:
    """Say why a job waits, or ended as it did."""
    node, caller = here(request)
    return rendered(EXPLANATION, await node.why(job_id, caller=caller))


@router.get(
    "/jobs/{job_id}/attempts", response_model=list[Attempt], responses=answers(ATTEMPTS, [examples.ATTEMPT], 404)
)
async def list_attempts(request: Request, job_id: JobId) -> Response:
    """List the attempts at a job, in order."""
    node, caller = here(request)
    return rendered(ATTEMPTS, await node.attempts(job_id, caller=caller))


async def _submit(request: Request, job_id: str | None) -> Response:
    node, caller = here(request)
    body = await read(request, JobBody)
    key = _short(request, "idempotency-key")
    job, new = await node.submit(await _spec(node, caller, body), caller=caller, job_id=job_id, idempotency_key=key)
    headers = {"location": f"/v1/jobs/{job.id}"}
    if match := PREFERRED_WAIT.search(request.headers.get("prefer", "")):
        job = await until(request, job, lambda job: False, min(float(match[1]), LONGEST_WAIT))
        headers["preference-applied"] = f"wait={match[1]}"
    return rendered(JOB, job, 201 if new else 200, headers)


def _short(request: Request, header: str) -> str | None:
    value = request.headers.get(header)
    if value is not None and not 0 < len(value) <= 255:
        raise Invalid(f"The header {header} has 1 to 255 characters.")
    return value


async def _spec(node: Node, caller: Caller, body: JobBody) -> JobSpec:
    return JobSpec(
        app_id=body.app_id,
        parameters=await _parameters(node, caller, body),
        inputs=await _inputs(node, body.inputs) if body.inputs else (),
        limits=body.limits.limits() if body.limits else Limits(),
        timeouts=body.timeouts.timeouts() if body.timeouts else Timeouts(),
        isolation=body.isolation,
        lost_retries=body.lost_retries,
        labels=body.labels or {},
        after=tuple(body.after or ()),
        mode=body.mode,
    )


async def _parameters(node: Node, caller: Caller, body: JobBody) -> dict[str, JSON]:
    if body.settings is None:
        return body.parameters or {}
    if body.parameters is not None:
        raise Invalid("Give either `parameters` or `settings`, not both.")
    app = await node.get_app(body.app_id, caller=caller)
    return dict(node.networks[app.network].parse_settings(body.settings))


async def _inputs(node: Node, files: list[NamedFile]) -> tuple[FileRef, ...]:
    names = [join(file.path, file.name) for file in files]
    refuse_duplicates(names)
    sizes = await asyncio.to_thread(lambda: [node.blobs.size(file.digest) for file in files])
    return tuple(
        FileRef(path=name, digest=file.digest, size=_known(name, size))
        for name, file, size in zip(names, files, sizes, strict=True)
    )


def _known(name: str, size: int | None) -> int:
    if size is None:
        raise InputUnavailable(f"The bytes of input file {name} are not here.")
    return size


def _labels(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise Invalid(f"{wrong[0]!r} is not KEY=VALUE.")
    return dict(pair.split("=", 1) for pair in pairs)
