"""What every request goes through once it has been let in: it is counted, and a failure of the node is told as such."""

import structlog
from prometheus_client import Counter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moorage.api.metrics import Metrics
from moorage.api.problems import problem
from moorage.errors import InternalError
from moorage.model.ids import new_id

log = structlog.get_logger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Guard:
    """Counts requests by route and status, and turns whatever nobody expected into a problem that names a log entry.

    No traceback is ever shown.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._requests = app, metrics.requests
        self._counters: dict[tuple[str, str, int], Counter] = {}  # finding one anew takes longer than counting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                self._count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            pass
        except Exception:
            incident = new_id("err")
            log.exception("request failed", incident=incident, method=scope.get("method"), path=scope.get("path"))
            if started:
                raise
            failed = problem(InternalError(f"The node failed; its log knows it as {incident}."))
            await failed(scope, receive, watched)

    def _count(self, scope: Scope, status: int) -> None:
        labels = (*_labels(scope), status)
        counter = self._counters.get(labels)
        if counter is None:
            counter = self._counters[labels] = self._requests.labels(*labels)
        counter.inc()


def _labels(scope: Scope) -> tuple[str, str]:
    """Name a request by what the node made of it, never by what the client wrote: labels must not grow for ever."""
    method = scope["method"] if scope["method"] in METHODS else "other"
    route = getattr(scope.get("route"), "path", None) or (scope["path"] if "endpoint" in scope else "unknown")
    return method, route
