"""Requests to one container, however it is run (contract, sections 3.2 and 3.3)."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector

from moorage.errors import MoorageError, ServiceUnavailable
from moorage.model.jobs import JSON
from moorage.model.limits import KIB, MIB
from moorage.networks.base import Endpoint
from moorage.networks.infernet.service import MAX_ERROR, ContainerError, error_of, take
from moorage.networks.infernet.wire import Failure, Output, load

MAX_REPLY = 16 * MIB
"""Bytes of an answer; a longer one fails. A stream may be of any length."""
QUICK = 64 * KIB
"""Bytes of an answer that is read in the event loop; a longer one is read beside it."""
READ_AHEAD = 256 * KIB
"""Bytes of a stream that are read before anybody takes them."""
KEPT_OPEN = 1.5
"""Seconds that an idle connection is kept: less than common servers do, which would close it just when it is used."""
REDIRECTS = 5
_KEEPS_BODY = frozenset({301, 302, 307, 308})
"""Redirects that are followed with method and body, to the same host only."""

_UNLIMITED = aiohttp.ClientTimeout(total=None)

Acquire = Callable[[], AbstractAsyncContextManager[Endpoint]]
"""Gives where a container answers, once it is ready."""


class TimedOut(ContainerError):
    """A container was silent, or not done, for as long as it was waited for."""


class Through(BaseConnector):
    """Connects through an endpoint, whatever host a URL names."""

    allowed_protocol_schema_set = frozenset({"http", ""})

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(limit=0, keepalive_timeout=KEPT_OPEN)
        self._endpoint = endpoint

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        try:
            sock = await self._endpoint.connect()
        except ServiceUnavailable as error:
            refused = ConnectionRefusedError(111, error.message)
            raise aiohttp.ClientConnectorError(req.connection_key, refused) from error
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, protocol = await self._loop.create_connection(self._factory, sock=sock)
        return protocol


class _Remote:
    """An address on the network, which the library connects to by itself; it is always taken to be there."""

    async def connect(self) -> socket.socket:
        raise ServiceUnavailable


@asynccontextmanager
async def remote() -> AsyncIterator[Endpoint]:
    """Give the place of a container that others run."""
    yield _Remote()


class Calls:
    """Asks one container, with connections that are kept; `slots` bounds the requests at once."""

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
        self._url = url or "http://localhost:3000"
        self._remote = bool(url)
        self._idle, self._longest = stream_idle_timeout, stream_timeout
        self._accept_error_status = accept_error_status
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
        self._slots = slots or asyncio.Semaphore(16)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        """Give itself, to be closed at the end."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def ask(self, body: bytes) -> Output | Failure:
        """Send what a container is asked, and judge its answer; never raises for what the container does."""
        try:
            status, media_type, reply = await self.reply(body)
        except ContainerError as error:
            return error.failure
        judge = partial(take, status, media_type, reply, accept_error_status=self._accept_error_status)
        return judge() if len(reply) <= QUICK else await asyncio.to_thread(judge)

    async def reply(self, body: bytes) -> tuple[int, str | None, bytes]:
        """Send what a container is asked and give status, `Content-Type` and body of its answer.

        Raises ContainerError.
        """
        async with self.exchange(body, within=self._timeout) as response:
            return response.status, response.headers.get("Content-Type"), await _whole(response)

    async def stream(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """Send what a container is asked and give its answer as it comes, and no faster than it is taken.

        Raises ContainerError, before the first byte or after any.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_read=self._idle)
        async with (
            self._slots,
            self._ready() as session,
            _translated(self._longest, self._idle),
            AsyncExitStack() as stack,
        ):
            # What takes the bytes may take its time: a limit around that would end it, and not the reading.
            until = asyncio.get_running_loop().time() + self._longest
            async with asyncio.timeout_at(until):
                response = await stack.enter_async_context(self._post(session, body, limits))
                if not 200 <= response.status < 300:
                    raise ContainerError(error_of(response.status, await _head(response)))
            while True:
                async with asyncio.timeout_at(until):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                yield chunk

    @asynccontextmanager
    async def exchange(self, body: bytes, *, within: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send what a container is asked and give its answer once that begins; its body is still to be read.

        It may take `within` seconds from when the container is ready and free.
        Raises ContainerError, also for what goes wrong while the body is read.
        """
        async with (
            self._slots,
            self._ready() as session,
            _bounded(within),
            self._post(session, body, _UNLIMITED) as response,
        ):
            yield response

    async def resources(self, model_id: str | None, *, within: float) -> JSON:
        """Ask what a container offers (section 4.3).

        Raises ContainerError.
        """
        query = {} if model_id is None else {"model_id": model_id}
        async with self.page("/service-resources", query, within=within) as response:
            if response.status != 200:
                raise ContainerError(f"HTTP {response.status}")
            return load(await _whole(response))

    @asynccontextmanager
    async def page(
        self, path: str, query: Mapping[str, str] | None = None, *, within: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer to a GET once it begins, as `exchange` does."""
        async with (
            _bounded(within),
            self._ready() as session,
            self._send(session, "GET", f"{self._url}{path}{_query(query)}", _UNLIMITED) as response,
        ):
            yield response

    async def status_of(self, path: str, *, within: float) -> int:
        """Give the status with which a container answers a GET.

        Raises ContainerError.
        """
        async with (
            _bounded(within),
            self._ready() as session,
            session.get(self._url + path, headers=self._headers, allow_redirects=False) as response,
        ):
            return response.status

    async def wait(self) -> None:
        """Wait until a container that the node runs is ready, for as long as its start may take.

        Raises ContainerError with the reason why it is not.
        """
        async with self._ready():
            pass

    @asynccontextmanager
    async def _ready(self) -> AsyncIterator[aiohttp.ClientSession]:
        try:
            async with self._acquire() as endpoint:
                if self._session is None:
                    self._session = _session(
                        aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_OPEN)
                        if self._remote
                        else Through(endpoint)
                    )
                yield self._session
        except MoorageError as error:
            raise ContainerError(f"Cannot connect to host {self.name}: {error.message}") from error

    def _post(
        self, session: aiohttp.ClientSession, body: bytes, limits: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._send(session, "POST", f"{self._url}/service_output", limits, body)

    @asynccontextmanager
    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        limits: aiohttp.ClientTimeout,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, also to where the answer says, but never to another host: that may be one of ours."""
        for _ in range(REDIRECTS + 1):
            async with session.request(
                method, url, data=body, headers=self._headers, allow_redirects=False, timeout=limits
            ) as response:
                target = _redirected(url, response)
                if target is None:
                    yield response
                    return
            url = target
        raise ContainerError(f"More than {REDIRECTS} redirects, the last one to {url}")


def _session(connector: BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_AHEAD,
        timeout=aiohttp.ClientTimeout(total=None),
    )


@asynccontextmanager
async def _bounded(seconds: float, idle: float | None = None) -> AsyncIterator[None]:
    """Make whatever goes wrong with a request a ContainerError, and bound it in time."""
    async with _translated(seconds, idle), asyncio.timeout(seconds):
        yield


@asynccontextmanager
async def _translated(seconds: float, idle: float | None = None) -> AsyncIterator[None]:
    try:
        yield
    except aiohttp.SocketTimeoutError:
        raise TimedOut(f"Timeout: no byte came for {idle or seconds:g} s") from None
    except TimeoutError:
        raise TimedOut(f"Timeout after {seconds:g} s") from None
    except aiohttp.ClientConnectorError as error:
        raise ContainerError(str(error)) from None
    except (aiohttp.ClientError, OSError) as error:
        raise ContainerError(f"The connection broke: {str(error) or type(error).__name__}") from None


def _redirected(url: str, response: aiohttp.ClientResponse) -> str | None:
    """Tell where an answer says that the same request is to be sent, if that is on the same host."""
    if response.status not in _KEEPS_BODY:
        return None
    try:
        target = urljoin(url, response.headers.get("Location", ""))
        same = urlsplit(target)[:2] == urlsplit(url)[:2]
    except ValueError:
        return None
    return target if same and target != url else None


def _query(query: Mapping[str, str] | None) -> str:
    return f"?{urlencode(query)}" if query else ""


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer.

    Raises ContainerError if it is too long.
    """
    if response.content_length is not None and response.content_length <= READ_AHEAD and not _packed(response):
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_REPLY:
            raise ContainerError(f"The answer is longer than {MAX_REPLY // MIB} MiB")
    return bytes(body)


def _packed(response: aiohttp.ClientResponse) -> bool:
    """Tell whether an answer may be longer than its length."""
    return "Content-Encoding" in response.headers


async def _head(response: aiohttp.ClientResponse) -> bytes:
    """Read as much of an answer as an error text shows."""
    return await response.content.read(MAX_ERROR + 4)
