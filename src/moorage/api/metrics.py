"""Figures for Prometheus: a registry of its own per node, filled from events and requests."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from moorage.api.problems import documented
from moorage.api.routing import here
from moorage.model.events import Event
from moorage.model.states import AttemptState, JobState

DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
ENDS = {f"attempt.{state}": str(state) for state in AttemptState if state.terminal}
BEGINNINGS = {"attempt.placed", "attempt.running"}
SHOWN = 'moorage_jobs{state="queued"} 2.0\n'

router = APIRouter()


class Metrics:
    """What one node counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Gauge("moorage_jobs", "Stored jobs.", ["state"], registry=self.registry)
        self.attempts = Counter(
            "moorage_attempts", "Attempts that ended since the node started.", ["state"], registry=self.registry
        )
        self.attempt_seconds = Histogram(
            "moorage_attempt_seconds", "From placing to end.", buckets=DURATIONS, registry=self.registry
        )
        self.cpus = Gauge("moorage_free_cpus", "Cpus not reserved.", ["place"], registry=self.registry)
        self.memory = Gauge("moorage_free_memory_bytes", "Memory not reserved.", ["place"], registry=self.registry)
        self.requests = Counter(
            "moorage_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._placed: dict[str, float] = {}

    def notice(self, events: Sequence[Event]) -> None:
        """Count what has happened."""
        for event in events:
            if event.attempt_id is None:
                continue
            if event.topic in BEGINNINGS:
                self._placed.setdefault(event.attempt_id, event.time)
            elif event.topic in ENDS:
                self.attempts.labels(ENDS[event.topic]).inc()
                self.attempt_seconds.observe(event.time - self._placed.pop(event.attempt_id, event.time))


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Figures", "content": {"text/plain": {"schema": {"type": "string"}, "example": SHOWN}}},
        **documented(),
    },
)
async def show_metrics(request: Request) -> Response:
    """Show figures in the text format of Prometheus."""
    node, _ = here(request)
    metrics: Metrics = request.app.state.metrics
    info = await node.info()
    for state in JobState:
        metrics.jobs.labels(state).set(info.jobs.get(state, 0))
    for place in info.places:
        metrics.cpus.labels(place.name).set(place.free_cpus)
        metrics.memory.labels(place.name).set(place.free_memory)
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
