"""Who may ask: loopback, tokens, foreign hosts and foreign origins."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from moorage.api.access import Access, Tokens, Trusted, is_loopback, require_safe_address
from moorage.errors import IdempotencyConflict, TokenRequired
from moorage.networks.base import Surface
from moorage.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[Tokens]:
    store = SqliteStore.open(tmp_path / "moorage.db")
    yield Tokens(store, keep=0)
    await store.close()


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    caller = scope["moorage.caller"]
    await JSONResponse({"name": caller.name, "operator": caller.operator})(scope, receive, send)


async def ask(
    tokens: Tokens,
    *,
    bound: str = "127.0.0.1",
    method: str = "GET",
    url: str = "http://127.0.0.1:4000/",
    **headers: str,
) -> httpx.Response:
    transport = httpx.ASGITransport(Access(whoami, tokens=tokens, host=bound))
    async with httpx.AsyncClient(transport=transport) as http:
        return await http.request(method, "http://127.0.0.1:4000/", headers=headers)


@pytest.mark.parametrize("name", ["127.0.0.1:4000", "localhost", "LOCALHOST:80", "[::1]:4000", "127.0.0.1"])
async def test_on_loopback_everybody_is_the_operator(tokens: Tokens, name: str) -> None:
    answer = await ask(tokens, host=name)
    assert answer.json() == {"name": "local", "operator": True}


@pytest.mark.parametrize(
    "name",
    ["evil.example", "evil.example:4000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1]x", "10.0.0.1"],
)
async def test_a_name_that_was_rebound_to_loopback_is_refused(tokens: Tokens, name: str) -> None:
    answer = await ask(tokens, host=name)
    assert (answer.status_code, answer.json()["code"]) == (421, "foreign_host")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:4000"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_page_of_another_origin_changes_nothing(tokens: Tokens, origin: str, method: str) -> None:
    answer = await ask(tokens, method=method, origin=origin)
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")


async def test_a_page_of_the_node_itself_may_change_things(tokens: Tokens) -> None:
    assert (await ask(tokens, method="POST", origin="http://127.0.0.1:4000")).status_code == 200


async def test_a_page_of_another_origin_opens_no_websocket(tokens: Tokens) -> None:
    refused = await ask(tokens, upgrade="WebSocket", origin="http://evil.example")
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
    assert (await ask(tokens, upgrade="websocket", origin="http://127.0.0.1:4000")).status_code == 200
    assert (await ask(tokens, upgrade="websocket")).status_code == 200
    assert (await visit(tokens, "GET", upgrade="websocket", origin="http://evil.example")).status_code == 200


async def test_reading_is_left_to_the_browsers_own_rules(tokens: Tokens) -> None:
    answer = await ask(tokens, origin="http://evil.example")
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_beyond_loopback_a_token_is_needed_even_from_this_machine(tokens: Tokens) -> None:
    secret = await tokens.add("alice", operator=False)
    refused = await ask(tokens, bound="0.0.0.0")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    allowed = await ask(tokens, bound="0.0.0.0", host="node.example", authorization=f"Bearer {secret}")
    assert allowed.json() == {"name": "alice", "operator": False}


async def test_once_there_is_a_token_loopback_needs_one_too(tokens: Tokens) -> None:
    secret = await tokens.add("ops", operator=True)
    assert (await ask(tokens)).status_code == 401
    assert (await ask(tokens, authorization=f"bearer {secret}")).json() == {"name": "ops", "operator": True}
    await tokens.remove("ops")
    assert (await ask(tokens)).json()["name"] == "local"


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer ", "Basic {}", "{}", ""])
async def test_a_wrong_token_is_refused_also_where_none_is_needed(tokens: Tokens, authorization: str) -> None:
    secret = await tokens.add("alice", operator=False)
    answer = await ask(tokens, authorization=authorization.format(secret))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_a_removed_token_is_refused_at_once(tokens: Tokens) -> None:
    kept = Tokens(tokens._store, keep=60)
    secret = await kept.add("alice", operator=False)
    assert (await ask(kept, authorization=f"Bearer {secret}")).status_code == 200
    await kept.remove("alice")
    assert (await ask(kept, authorization=f"Bearer {secret}")).status_code == 401


async def test_the_store_never_sees_a_secret(tokens: Tokens) -> None:
    secret = await tokens.add("alice", operator=False)
    (token,) = await tokens._store.tokens()
    assert secret not in repr(token)
    with pytest.raises(IdempotencyConflict):
        await tokens.add("alice", operator=True)


async def test_nobody_listens_beyond_loopback_without_a_token(tokens: Tokens) -> None:
    await require_safe_address("127.0.0.1", tokens)
    with pytest.raises(TokenRequired):
        await require_safe_address("0.0.0.0", tokens)
    await tokens.add("alice", operator=False)
    await require_safe_address("0.0.0.0", tokens)


async def test_a_networks_own_rules_let_its_clients_in_as_nobody_in_particular(tokens: Tokens) -> None:
    await tokens.add("alice", operator=True)
    gate = Access(whoami, [Surface(admits=lambda scope: scope["path"] == "/job")], tokens=tokens, host="0.0.0.0")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://node.example") as http:
        assert (await http.post("/job")).json() == {"name": "guest", "operator": False}
        assert (await http.post("/v1/jobs")).status_code == 401


async def visit(tokens: Tokens, method: str = "POST", bound: str = "127.0.0.1", **headers: str) -> httpx.Response:
    """Ask what answers for itself at /app, and at the host `app.example`."""
    surface = Surface(visits=lambda scope: scope["path"] == "/app", claims=lambda scope: _host(scope) == b"app.example")
    transport = httpx.ASGITransport(Access(whoami, [surface], tokens=tokens, host=bound))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4000") as http:
        return await http.request(method, "/app", headers=headers)


def _host(scope: Mapping[str, Any]) -> bytes:
    return dict(scope["headers"])[b"host"]


@pytest.mark.parametrize("host", ["127.0.0.1:4000", "app.example"])
@pytest.mark.parametrize("authorization", [{}, {"authorization": "Bearer of-its-own"}])
async def test_what_answers_for_itself_is_open_to_pages_of_every_origin_on_loopback(
    tokens: Tokens, host: str, authorization: dict[str, str]
) -> None:
    answer = await visit(tokens, host=host, origin="http://evil.example", **authorization)
    assert answer.json() == {"name": "guest", "operator": False}


async def test_what_answers_for_itself_is_reached_by_no_name_but_its_own(tokens: Tokens) -> None:
    assert (await visit(tokens, host="evil.example")).status_code == 421


async def test_where_tokens_are_needed_what_answers_for_itself_needs_one_too(tokens: Tokens) -> None:
    assert (await visit(tokens, bound="0.0.0.0")).status_code == 401
    secret = await tokens.add("alice", operator=False)
    assert (await visit(tokens, host="app.example")).status_code == 401
    answer = await visit(tokens, host="app.example", authorization=f"Bearer {secret}")
    assert answer.json()["name"] == "alice"


async def test_nobody_who_answers_learns_a_token(tokens: Tokens) -> None:
    async def names(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse([name.decode() for name, _ in scope["headers"]])(scope, receive, send)

    secret = await tokens.add("alice", operator=False)
    transport = httpx.ASGITransport(Access(names, tokens=tokens, host="127.0.0.1"))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4000") as http:
        answer = await http.get("/", headers={"authorization": f"Bearer {secret}", "x-one": "1"})
    assert "x-one" in answer.json()
    assert "authorization" not in answer.json()


async def test_the_unix_socket_is_trusted_whatever_the_headers_say(tokens: Tokens) -> None:
    await tokens.add("alice", operator=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Trusted(whoami))) as http:
        answer = await http.post("http://anything/", headers={"origin": "http://evil.example"})
    assert answer.json() == {"name": "local", "operator": True}


@pytest.mark.parametrize(
    ("name", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("a.example", False)],
)
async def test_loopback_is_told_by_address(name: str, loopback: bool) -> None:
    assert is_loopback(name) is loopback
