"""Calls to the network's router (contract, section 4.2)."""

import asyncio
import contextlib
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from moorage.blobs.base import Blobs
from moorage.errors import RouterFailed
from moorage.model.jobs import FileRef
from moorage.networks.infrax import wire
from moorage.networks.infrax.config import SurfaceConfig

DELAYS = (0.2, 0.5, 1.0)
"""Seconds before each of three retries."""
TIMEOUT = 10.0
BATCH = 200
"""Files in one upload: each is an open file."""

T = TypeVar("T")
_APP = TypeAdapter(wire.App | None)
_FILES = TypeAdapter(list[wire.Node])


class Router:
    """The router that drives this node; every call raises RouterFailed after its last try."""

    def __init__(self, config: SurfaceConfig) -> None:
        self._config = config
        self._http = httpx.AsyncClient(
            base_url=config.router_url or "", headers={"X-ETH-ADDRESS": config.eth_address or ""}, timeout=TIMEOUT
        )
        self._node_id: str | None = None
        self._registration = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def node_id(self) -> str:
        """Give the id that the router knows this node by, registering it if that has not happened yet."""
        async with self._registration:
            if self._node_id is None:
                body = {"port": self._config.external_port, "node": self._config.node_def.model_dump()}
                answer = await self._call("POST", "/node", json=body, follow_redirects=True)
                self._node_id = _read(TypeAdapter(wire.Node), answer).id
            return self._node_id

    async def tell_state(self, state: wire.NodeState) -> None:
        """Say whether this node takes work."""
        await self._call("PUT", "/node/state", json={"node_id": await self.node_id(), "state": state})

    async def app(self, app_id: str) -> wire.App | None:
        """Read what the router keeps of an app; None if it does not know it."""
        return _read(_APP, await self._call("GET", f"/app/{_part(app_id)}"))

    async def tell_installed(self, app_id: str) -> None:
        """Say that an app is ready here."""
        await self._call("PUT", f"/node/{_part(await self.node_id())}/app/{_part(app_id)}")

    async def tell_removed(self, app_id: str) -> None:
        """Say that an app is gone from here."""
        await self._call("DELETE", f"/node/{_part(await self.node_id())}/app/{_part(app_id)}")

    async def tell_app_error(self, app_id: str, text: str, kind: str) -> None:
        """Say that an app could not be installed or removed."""
        await self._call("PUT", f"/app/{_part(app_id)}", json={"error": text, "type": kind})

    async def tell_job(self, job: wire.Job, state: wire.JobState) -> None:
        """Say how far a job is."""
        await self._call("PUT", f"/job/{_part(job.id)}", json={**job.model_dump(), "state": state})

    async def tell_result(self, result: wire.Result) -> None:
        """Say what a job came to."""
        await self._call("POST", f"/job/{_part(result.job_id)}/result", json=result.model_dump())

    async def download(self, file: wire.File, save: Callable[[AsyncIterator[bytes]], Awaitable[T]]) -> T:
        """Stream a file into `save`, which is called anew for every try.

        An answer that is not 200, or is shorter than announced, never counts as the file.
        """

        async def fetch() -> T:
            async with self._http.stream("GET", f"/file/{_part(file.id)}", follow_redirects=True) as response:
                if response.status_code != httpx.codes.OK:
                    raise httpx.HTTPStatusError("not the file", request=response.request, response=response)
                return await save(_whole(response, file.size))

        return await self._retried(f"GET /file/{file.id}", fetch)

    async def upload(self, files: Sequence[FileRef], blobs: Blobs) -> list[str]:
        """Store outputs with the router and give their ids, in order."""
        ids: list[str] = []
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            answer = await self._retried("POST /file", partial(self._post_files, batch, blobs))
            stored = _read(_FILES, answer)
            if len(stored) != len(batch):
                raise RouterFailed(f"The router stored {len(stored)} of {len(batch)} files.")
            ids += [file.id for file in stored]
        return ids

    async def _post_files(self, batch: Sequence[FileRef], blobs: Blobs) -> httpx.Response:
        with contextlib.ExitStack() as stack:
            parts = [
                ("file", (file.path, stack.enter_context(blobs.path(file.digest).open("rb")), _content_type(file.path)))
                for file in batch
            ]
            return (await self._http.post("/file", files=parts, timeout=None)).raise_for_status()

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            return (await self._http.request(method, path, **options)).raise_for_status()

        return await self._retried(f"{method} {path}", send)

    async def _retried(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again when the router is out of reach or in trouble; what it refuses stays refused."""
        for delay in (*DELAYS, None):
            try:
                return await attempt()
            except httpx.HTTPStatusError as error:
                reason, final = f"status {error.response.status_code}", error.response.status_code < 500
            except httpx.RequestError as error:
                reason, final = type(error).__name__, False
            if final or delay is None:
                break
            await asyncio.sleep(delay)
        raise RouterFailed(f"The router failed at {what}: {reason}.", refused=final)


async def _whole(response: httpx.Response, announced: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        yield chunk
    if size < announced:
        raise httpx.RemoteProtocolError(f"{size} of {announced} bytes came", request=response.request)


def _read(shape: TypeAdapter[T], answer: httpx.Response) -> T:
    try:
        return shape.validate_json(answer.content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise RouterFailed(f"The router's answer is not understood: {problem['loc']}: {problem['msg']}.") from None


def _part(identifier: str) -> str:
    return quote(identifier, safe="")


def _content_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
