"""HTTP to a node, as its client needs it: typed answers, streams, and errors as the classes they were."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from moorage.errors import NodeUnreachable, error_for
from moorage.model.events import Event

if TYPE_CHECKING:
    # These take longer to import than a command line may take to start.
    import httpx
    from pydantic import TypeAdapter

T = TypeVar("T")


class Connection:
    """A connection to one node, by its URL or by the path of its Unix socket."""

    def __init__(self, address: str, token: str | None) -> None:
        import httpx

        self.address = address
        local = not address.startswith(("http://", "https://"))
        self._http = httpx.Client(
            base_url="http://localhost" if local else address,
            transport=httpx.HTTPTransport(uds=address) if local else None,
            headers={"authorization": f"Bearer {token}"} if token else None,
            timeout=httpx.Timeout(120, connect=5),
            trust_env=False,
        )

    def close(self) -> None:
        """Close it."""
        self._http.close()

    def read(self, kind: type[T], method: str, path: str, **request: Any) -> T:
        """Send a request and give the answer as dataclasses."""
        adapter: TypeAdapter[T] = _adapter(cast("Any", kind))
        return adapter.validate_json(self.call(method, path, **request).content)

    def call(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, **request: Any
    ) -> "httpx.Response":
        """Send a request; parameters that are None are left out.

        Raises what the node raised, or NodeUnreachable.
        """
        with self._reaching():
            return _succeeded(self._http.request(method, path, params=_given(params), **request))

    def has(self, path: str) -> bool:
        """Tell whether there is something at a path."""
        with self._reaching():
            return self._http.head(path).status_code == 200

    @contextlib.contextmanager
    def stream(self, path: str, **request: Any) -> Iterator["httpx.Response"]:
        """Get something as a stream that may last."""
        with self._reaching(), self._http.stream("GET", path, timeout=None, **request) as answer:
            if answer.is_error:
                answer.read()
            yield _succeeded(answer)

    def events(self, path: str, after: int) -> Iterator[Event | None]:
        """Get server-sent events later than `after`, until the node ends the stream; None if it will send no more."""
        from httpx_sse import EventSource

        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        with self.stream(path, headers=headers) as answer:
            if answer.status_code == 204:
                yield None
                return
            for message in EventSource(answer).iter_sse():
                if message.data:  # a keep-alive comment comes out as an empty message
                    yield _adapter(Event).validate_json(message.data)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            raise NodeUnreachable(f"No node answers at {self.address}: {error}.") from error


def route(*parts: str) -> str:
    """Make the path of a resource; its parts may hold anything."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def deadline_in(seconds: float | None) -> float:
    """Give the end of a wait on the monotonic clock; None waits for ever."""
    return math.inf if seconds is None else time.monotonic() + seconds


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _succeeded(answer: "httpx.Response") -> "httpx.Response":
    if not answer.is_error:
        return answer
    try:
        problem = answer.json()
        kind = error_for(problem["code"], answer.status_code)
        error = kind(problem["detail"], hint=problem["hint"], retryable=problem["retryable"])
    except (ValueError, KeyError, TypeError, AttributeError):
        error = NodeUnreachable(f"What answers at {answer.url} is no node: status {answer.status_code}.")
    raise error


def _given(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {key: value for key, value in params.items() if value is not None} if params else None
