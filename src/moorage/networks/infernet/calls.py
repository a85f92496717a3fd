"""Requests to one container, however it is run (contract, sections 3.2 and 3.3)."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Self, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from moorage.errors import MoorageError, ServiceUnavailable
from moorage.model.jobs import JSON
from moorage.model.limits import KIB, MIB
from moorage.networks import http
from moorage.networks.base import Endpoint
from moorage.networks.http import Answer
from moorage.networks.infernet.service import MAX_ERROR, ContainerError, error_of, take
from moorage.networks.infernet.wire import Failure, Output, load

T = TypeVar("T")

MAX_REPLY = 16 * MIB
"""Bytes of an answer; a longer one fails. A stream may be of any length."""
QUICK = 64 * KIB
"""Bytes of an answer that is read in the event loop; a longer one is read beside it."""
REDIRECTS = 5
_KEEPS_BODY = frozenset({301, 302, 307, 308})
"""Redirects that are followed with method and body, to the same host only."""

Acquire = Callable[[], AbstractAsyncContextManager[Endpoint]]
"""Gives where a container answers, once it is ready."""


class TimedOut(ContainerError):
    """A container was silent, or not done, for as long as it was waited for."""


class _Remote:
    """An address on the network, which is always taken to be there."""

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def connect(self) -> socket.socket:
        raise ServiceUnavailable


_REMOTE = _Remote()


def remote() -> AbstractAsyncContextManager[Endpoint]:
    """Give the place of a container that others run."""
    return _REMOTE


class Calls:
    """Asks one container, with connections that are kept; `slots` bounds the requests at once.

    It is at `url`, where others run it, or else behind the endpoint that `acquire` gives.
    """

    def __init__(
        self,
        name: str,
        acquire: Acquire,
        *,
        url: str = "",
        bearer: str = "",
        timeout: float = 180.0,
        stream_idle_timeout: float = 60.0,
        stream_timeout: float = 3600.0,
        slots: asyncio.Semaphore | None = None,
        accept_error_status: bool = False,
    ) -> None:
        self.name, self._acquire, self._timeout = name, acquire, timeout
        self._url, self._host = url, http.host_of(url) if url else "localhost:3000"
        self._base = urlsplit(url).path
        self._idle, self._longest = stream_idle_timeout, stream_timeout
        self._accept_error_status = accept_error_status
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
        self._slots = slots or asyncio.Semaphore(16)
        self._client: http.Client | None = None

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> Self:
        """Give itself, to be closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    async def ask(self, body: bytes) -> Output | Failure:
        """Send what a container is asked, and judge its answer; never raises for what the container does."""
        try:
            async with self.exchange(body, within=self._timeout) as answer:
                reply = await _whole(answer)
        except ContainerError as error:
            return error.failure
        media_type = answer.headers.get("content-type")
        judge = partial(take, answer.status, media_type, reply, accept_error_status=self._accept_error_status)
        return judge() if len(reply) <= QUICK else await asyncio.to_thread(judge)

    async def stream(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """Send what a container is asked and give its answer as it comes, and no faster than it is taken.

        Raises ContainerError, before the first byte or after any.
        """
        try:
            async with self._slots, self._acquire() as endpoint:
                # What takes the bytes may take its time: a limit around that would end it, and not the reading.
                loop = asyncio.get_running_loop()
                until = loop.time() + self._longest
                with await self._soon(self._send(endpoint, "POST", "/service_output", body), until) as answer:
                    if not 200 <= answer.status < 300:
                        raise ContainerError(error_of(answer.status, await self._soon(_head(answer), until)))
                    while chunk := await self._soon(answer.read(), until):
                        yield chunk
                        if loop.time() > until:  # reading what is there already never waits, and so never ends
                            raise self._too_long
        except (http.ConnectFailed, http.Broken, MoorageError) as error:
            raise self._meaning(error) from error

    @asynccontextmanager
    async def exchange(self, body: bytes, *, within: float) -> AsyncIterator[Answer]:
        """Send what a container is asked and give its answer once that begins; its body is still to be read.

        It may take `within` seconds from when the container is ready and free.
        Raises ContainerError, also for what goes wrong while the body is read.
        """
        try:
            async with self._slots, self._acquire() as endpoint, asyncio.timeout(within):
                with await self._send(endpoint, "POST", "/service_output", body) as answer:
                    yield answer
        except TimeoutError:
            raise TimedOut(f"Timeout after {within:g} s") from None
        except (http.ConnectFailed, http.Broken, MoorageError) as error:
            raise self._meaning(error) from error

    @asynccontextmanager
    async def page(
        self, path: str, query: Mapping[str, str] | None = None, *, within: float, follow: bool = True
    ) -> AsyncIterator[Answer]:
        """Give the answer to a GET once it begins, as `exchange` does; that the container starts takes of its time.

        A redirect that is not to be followed is an answer like any other.
        """
        target = f"{path}?{urlencode(query, safe='/')}" if query else path
        try:
            async with asyncio.timeout(within), self._acquire() as endpoint:
                with await self._send(endpoint, "GET", target, follow=follow) as answer:
                    yield answer
        except TimeoutError:
            raise TimedOut(f"Timeout after {within:g} s") from None
        except (http.ConnectFailed, http.Broken, MoorageError) as error:
            raise self._meaning(error) from error

    async def resources(self, model_id: str | None, *, within: float) -> JSON:
        """Ask what a container offers (section 4.3).

        Raises ContainerError, BadBody.
        """
        query = {} if model_id is None else {"model_id": model_id}
        async with self.page("/service-resources", query, within=within) as answer:
            if answer.status != 200:
                raise ContainerError(f"HTTP {answer.status}")
            return load(await _whole(answer))

    async def wait(self) -> None:
        """Wait until a container that the node runs is ready, for as long as its start may take.

        Raises ContainerError with the reason why it is not.
        """
        try:
            async with self._acquire():
                pass
        except MoorageError as error:
            raise self._meaning(error) from error

    async def _send(
        self, endpoint: Endpoint, method: str, path: str, body: bytes = b"", *, follow: bool = True
    ) -> Answer:
        """Send a request, also to where the answer says, but never to another host: that may be one of ours."""
        if self._client is None:
            connect = http.to(self._url) if self._url else http.through(endpoint)
            self._client = http.Client(connect, host=self._host, headers=self._headers)
        target = self._base + path
        for _ in range(REDIRECTS + 1):
            answer = await self._client.request(method, target, body)
            if not follow or (moved := self._moved(answer)) is None:
                return answer
            with answer:
                target = moved
        raise ContainerError(f"More than {REDIRECTS} redirects, the last one to {target}")

    def _moved(self, answer: Answer) -> str | None:
        """Tell where an answer says that the same request is to be sent, if that is on the same host."""
        if answer.status not in _KEEPS_BODY:
            return None
        here = f"{urlsplit(self._url).scheme or 'http'}://{self._host}{answer.target}"
        try:
            there = urlsplit(urljoin(here, answer.headers.get("location", "")))
        except ValueError:
            return None
        target = (there.path or "/") + (f"?{there.query}" if there.query else "")
        same = there[:2] == urlsplit(here)[:2]
        return target if same and target != answer.target else None

    async def _soon(self, work: Awaitable[T], until: float) -> T:
        """Wait no longer than a stream may be silent, or last."""
        left = until - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(left, self._idle)):
                return await work
        except TimeoutError:
            if left <= self._idle:
                raise self._too_long from None
            raise TimedOut(f"Timeout: no byte came for {self._idle:g} s") from None

    @property
    def _too_long(self) -> TimedOut:
        return TimedOut(f"Timeout after {self._longest:g} s")

    def _meaning(self, error: Exception) -> ContainerError:
        """Say what went wrong with a request."""
        if isinstance(error, MoorageError):
            return ContainerError(f"Cannot connect to host {self.name}: {error.message}")
        if isinstance(error, http.ConnectFailed):
            return ContainerError(f"Cannot connect to host {self._host if self._url else self.name}: {error}")
        return ContainerError(f"The connection broke: {error}")


async def _whole(answer: Answer) -> bytes:
    """Read an answer.

    Raises ContainerError if it is too long.
    """
    body = bytearray()
    while chunk := await answer.read():
        body += chunk
        if len(body) > MAX_REPLY:
            raise ContainerError(f"The answer is longer than {MAX_REPLY // MIB} MiB")
    return bytes(body)


async def _head(answer: Answer) -> bytes:
    """Read as much of an answer as an error text shows."""
    head = b""
    while len(head) < MAX_ERROR + 4 and (chunk := await answer.read()):
        head += chunk
    return head[: MAX_ERROR + 4]
