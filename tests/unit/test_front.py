"""To whom requests go: what a network claims is that network's, whatever paths another has."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from moorage.api.access import Trusted
from moorage.api.app import Front
from moorage.api.metrics import Metrics
from moorage.networks.base import Surface

pytestmark = pytest.mark.anyio
Ask = Callable[[str], Awaitable[str]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    app = FastAPI()
    app.state.stopping, app.state.metrics = asyncio.Event(), Metrics()
    surfaces = [
        Surface(app=_saying("one"), paths=("/info",)),
        Surface(app=_saying("other"), below=("/vm/",), claims=lambda scope: (b"host", b"mine") in scope["headers"]),
    ]
    front = Front(app, surfaces, Trusted)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front)) as http:

        async def answer(url: str) -> str:
            return (await http.get(url)).text

        yield answer
    app.state.stopping.set()
    await front._stopping


def _saying(text: str) -> ASGIApp:
    return PlainTextResponse(text)


async def test_requests_go_by_their_path(ask: Ask) -> None:
    assert [await ask(f"http://node{path}") for path in ("/info", "/vm/x")] == ["one", "other"]
    assert "Not Found" in await ask("http://node/vm")


async def test_a_host_that_is_claimed_has_all_paths(ask: Ask) -> None:
    assert [await ask(f"http://mine{path}") for path in ("/info", "/vm/x", "/v1/jobs")] == ["other"] * 3
