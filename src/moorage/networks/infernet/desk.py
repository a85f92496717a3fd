"""The jobs of clients: accepted, found again, waited for, cancelled and listed (contract, sections 4.4 and 4.7)."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from uuid_utils import uuid4

from moorage.errors import JobFinished, NotFound
from moorage.model.jobs import JSON, Job, JobSpec, Mode, Result
from moorage.model.limits import KIB
from moorage.networks.base import Port
from moorage.networks.infernet import chain, policy, wire
from moorage.networks.infernet.chain import SMALL, ended, result_of
from moorage.networks.infernet.config import Results
from moorage.networks.infernet.fleet import OPERATOR, Fleet
from moorage.networks.infernet.manifest import NETWORK
from moorage.networks.infernet.policy import Client, Refusal, text_of
from moorage.networks.infernet.reports import Reports
from moorage.networks.infernet.wire import BadBody, JobResult, OffchainRequest, encode
from moorage.store.base import JobFilter, Page

LISTED = 1000
"""Ids that a list holds unless it is asked for fewer or more."""
MOST_LISTED = 10_000
RECENT = 1000
"""Answers that are kept at hand."""
SHORT = 16 * KIB
"""Bytes of the longest answer that is kept so."""
CLIENT = "client"
"""Label of a job with the address that sent it."""


class NotNow(Exception):
    """A job cannot be accepted now; its text goes to the client."""


class Desk:
    """Takes clients' jobs to the lanes of their first containers, and tells what became of them."""

    def __init__(self, port: Port, fleet: Fleet, *, max_queue: int) -> None:
        self._port, self._fleet, self._max_queue = port, fleet, max_queue
        self._reports = Reports(port.directory / "reports.db")
        self._recent: dict[str, bytes] = {}
        """What is answered of the jobs that ended last, unless it is long: it is asked for very soon, and then never
        changes."""
        self._is_open = False

    async def open(self) -> None:
        """Accept jobs from now on, and let those go on that an earlier node left."""
        for name, container in self._fleet.containers.items():
            await self._port.open_lane(f"{NETWORK}:{name}", width=container.moorage.concurrency)
        self._is_open = True
        await self._end_strays()

    def close(self) -> None:
        """Close the file of reports."""
        self._reports.close()

    def refusal(self, found: wire.Request, client: Client) -> Refusal | None:
        """Find the first reason to refuse a request."""
        if isinstance(found, OffchainRequest):
            return policy.offchain(found, sender=client, configured=self._fleet.containers)
        return policy.delegated(
            found, chain_enabled=False, now=time.time(), resolve=lambda _: None, configured=self._fleet.containers
        )

    async def submit(self, found: OffchainRequest, client: Client, *, mode: Mode, job_id: str | None = None) -> str:
        """Accept a job durably and give its id.

        Raises NotNow while the node starts and when too many jobs wait.
        """
        if not self._is_open or self._fleet.app_id is None:
            raise NotNow("The node is starting")
        lane = f"{NETWORK}:{found.containers[0]}"
        if self._port.lane_load(lane).waiting >= self._max_queue:
            raise NotNow("The queue is full")
        request = chain.Request(containers=found.containers, data=found.data, requires_proof=found.requires_proof)
        spec = JobSpec(
            app_id=self._fleet.app_id,
            parameters=request.parameters,
            limits=SMALL,
            lost_retries=0,
            labels={CLIENT: text_of(client)},
            mode=mode,
        )
        job = await self._port.submit(spec, caller=OPERATOR, job_id=job_id or str(uuid4()), lane=lane)
        if (end := self._port.end_of(job.id)) is not None:
            end.add_done_callback(partial(self._remember, job))
        return job.id

    async def own(self, job_id: str) -> Job | None:
        """Read a job that a client was given the id of; None for anything else."""
        try:
            job = await self._port.get_job(job_id)
        except NotFound:
            return None
        return job if job.owner == OPERATOR.name else None

    async def answer(self, job_id: str, client: Client, *, intermediate: bool = False) -> bytes | None:
        """Tell in JSON what became of a job, or what the client itself reported of it; None if nothing is known."""
        if not intermediate and (recent := self._recent.get(job_id)) is not None:
            return recent
        result = await self._result(job_id, client)
        return None if result is None else encode(result.document(intermediate=intermediate))

    async def wait(self, ids: Sequence[str], seconds: float, *, stopping: asyncio.Future[Any]) -> None:
        """Wait until none of the jobs runs, the time is up, or the server stops."""
        until = time.monotonic() + seconds
        for job_id in ids:
            end = self._port.end_of(job_id)
            if end is not None:
                left = max(0.0, until - time.monotonic())
                ends: set[asyncio.Future[Any]] = {end, stopping}
                await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job, unless it has ended."""
        with suppress(JobFinished):
            await self._port.cancel(job_id, caller=OPERATOR)

    async def ids(self, client: Client, query: Mapping[str, str]) -> list[str]:
        """List a client's own jobs, latest first."""
        pending = {"true": True, "false": False}.get(query.get("pending", "").lower())
        limit = int(number(query, "limit", LISTED, MOST_LISTED))
        ended = None if pending is None else not pending
        where = JobFilter(owner=OPERATOR.name, network=NETWORK, labels={CLIENT: text_of(client)}, ended=ended)
        try:
            jobs = await self._port.list_jobs(where, Page(limit=limit, before=query.get("after")))
        except NotFound:
            raise BadBody("after: there is no such job") from None
        ids = [job.id for job in jobs]
        if "after" in query:
            return ids
        return ids + self._reports.ids(text_of(client), pending=pending, limit=limit - len(ids))

    async def report(self, client: Client, report: wire.StatusReport) -> None:
        """Keep what a client says of a job that is none of the node's own."""
        if await self.own(report.id) is None:
            self._reports.keep(text_of(client), report)

    async def tidy(self, kept: Results) -> None:
        """Forget what is older, or more, than is to be kept.

        Raises DiskFull, StoreUnavailable.
        """
        before = time.time() - kept.ttl
        try:
            await self._port.forget_jobs(caller=OPERATOR, before=before, keep=kept.max)
        finally:
            self._recent.clear()  # some of them are forgotten now
        self._reports.forget(before=before, keep=kept.max)

    def _remember(self, job: Job, end: asyncio.Future[Result | None]) -> None:
        result = end.result()
        if result is None or not _short((result.value or [None])[-1]):
            return
        answer = encode(ended(job, result).document(intermediate=False))
        if len(answer) <= SHORT:
            self._recent[job.id] = answer
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    async def _result(self, job_id: str, client: Client) -> JobResult | None:
        end = self._port.end_of(job_id)
        if end is not None and not end.done():
            return JobResult(id=job_id, status="running")
        job = await self.own(job_id)
        return self._reports.find(text_of(client), job_id) if job is None else result_of(job)

    async def _end_strays(self) -> None:
        """Let jobs go on, and so fail, that an earlier node left for containers which are not configured any more."""
        opened, page = {f"{NETWORK}:{name}" for name in self._fleet.containers}, Page()
        where = JobFilter(owner=OPERATOR.name, network=NETWORK, ended=False)
        while jobs := await self._port.list_jobs(where, page):
            for lane in {job.lane for job in jobs if job.lane is not None} - opened:
                await self._port.open_lane(lane, width=1)
                opened.add(lane)
            page = Page(before=jobs[-1].id)


def _short(value: JSON) -> bool:
    """Tell whether JSON may be short, without looking at more of it than that."""
    left, rest = SHORT, [value]
    while rest and left > 0:
        each = rest.pop()
        left -= _least(each)
        if left > 0 and isinstance(each, list | dict):
            rest += each
            rest += each.values() if isinstance(each, dict) else ()
    return left > 0


def _least(value: JSON) -> int:
    """Give a number of characters that a value has at least."""
    if isinstance(value, str | list | dict):
        return len(value)
    return value.bit_length() // 4 if isinstance(value, int) else 1


def number(query: Mapping[str, str], name: str, default: float, most: float) -> float:
    """Read a number from a query.

    Raises BadBody.
    """
    text = query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:  # also NaN
        raise BadBody(f"{name}: should be a number, 0 or more")
    return min(value, most)
