"""Who may ask: loopback and the node's own socket are trusted, everybody else brings a token."""

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from moorage.api.problems import problem
from moorage.errors import ForeignHost, ForeignOrigin, MoorageError, TokenRequired, Unauthorized
from moorage.model.callers import LOCAL, NODE_USER, Caller
from moorage.networks.base import Surface
from moorage.store.base import Store, Token

HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::\d+)?")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
GUEST = Caller(name="guest")
"""Whom a network's own rules have let in; its routes say for themselves in whose name they act."""


class Tokens:
    """The callers that the store's tokens stand for, read anew after `keep` seconds."""

    def __init__(self, store: Store, *, keep: float = 2.0) -> None:
        self._store, self._keep = store, keep
        self._callers: dict[str, Caller] = {}
        self._until = 0.0

    async def add(self, name: str, *, operator: bool) -> str:
        """Make a token and return its secret, which is kept only as a hash.

        Raises IdempotencyConflict if the name is taken.
        """
        secret = f"moor_{secrets.token_urlsafe(32)}"
        await self._store.add_token(
            Token(name=name, sha256=_hash(secret), operator=operator, created_at=round(time.time(), 3))
        )
        self._until = 0.0
        return secret

    async def remove(self, name: str) -> None:
        """Forget a token; it is refused from now on."""
        await self._store.remove_token(name)
        self._until = 0.0

    async def exist(self) -> bool:
        """Tell whether there is any token."""
        return bool(await self._known())

    async def caller(self, authorization: str) -> Caller:
        """Find who an `Authorization` header stands for.

        Raises Unauthorized.
        """
        scheme, _, secret = authorization.partition(" ")
        found = (await self._known()).get(_hash(secret.strip())) if scheme.lower() == "bearer" else None
        if found is None:
            raise Unauthorized("This token is not known here.")
        return found

    async def _known(self) -> dict[str, Caller]:
        if time.monotonic() >= self._until:
            tokens = await self._store.tokens()
            self._callers = {token.sha256: Caller(name=token.name, operator=token.operator) for token in tokens}
            self._until = time.monotonic() + self._keep
        return self._callers


class Access:
    """Lets a request that came over TCP through, with its caller, or answers why not.

    On loopback, while there are no tokens, every request is the operator's if its Host is a loopback name (so that
    no foreign web page reaches the node under a name of its own) and, when it changes something or opens a websocket,
    its Origin is ours.
    What answers for itself (`Surface.visits`) is open to pages of any Origin then, also by its own Host.
    Otherwise a token is needed, or a network whose own rules (`Surface.admits`) let the request in.
    """

    def __init__(self, app: ASGIApp, surfaces: Sequence[Surface] = (), *, tokens: Tokens, host: str) -> None:
        self._app, self._tokens, self._surfaces = app, tokens, surfaces
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        try:
            scope["moorage.caller"] = await self._caller(scope)
        except MoorageError as error:
            await problem(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        if any(each.admits is not None and each.admits(scope) for each in self._surfaces):
            return GUEST
        headers = Headers(scope=scope)
        trusting = self._loopback and not await self._tokens.exist()
        visit = trusting and any(each.visits is not None and each.visits(scope) for each in self._surfaces)
        if not visit and (authorization := headers.get("authorization")) is not None:
            caller = await self._tokens.caller(authorization)
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"authorization"]
            return caller  # and whoever answers never learns the token
        if not trusting:
            raise Unauthorized
        host = headers.get("host", "")
        if not _names_loopback(host) and not (visit and self._claimed(scope)):
            raise ForeignHost(f"This node is not {host or 'without a name'}.")
        if visit:
            return GUEST
        if not _readable_by_pages(scope, headers) and not _same_origin(headers.get("origin"), host):
            raise ForeignOrigin(f"A page of {headers['origin']} may neither change anything nor open a websocket here.")
        return LOCAL

    def _claimed(self, scope: Scope) -> bool:
        return any(each.claims is not None and each.claims(scope) for each in self._surfaces)


class Trusted:
    """Lets every request through as the operator's: for the Unix socket that only the node's user can open.

    The rules of networks let in nobody who is not in already.
    """

    def __init__(self, app: ASGIApp, surfaces: Sequence[Surface] = ()) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        scope["moorage.caller"] = NODE_USER
        await self._app(scope, receive, send)


async def require_safe_address(host: str, tokens: Tokens, *, opened: bool = False) -> None:
    """Refuse to listen beyond loopback while nobody has a token and no network has `opened` its paths.

    Raises TokenRequired.
    """
    if not is_loopback(host) and not opened and not await tokens.exist():
        raise TokenRequired(f"Listening on {host} lets other machines in, and there is no token yet.")


@lru_cache(maxsize=256)
def is_loopback(name: str) -> bool:
    """Tell whether a host name or address stands for this machine and cannot be reached from another."""
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _names_loopback(host: str) -> bool:
    match = HOST.fullmatch(host)
    return match is not None and is_loopback(match[1] or match[2])


def _readable_by_pages(scope: Scope, headers: Headers) -> bool:
    """Tell whether browsers keep the answer from foreign pages by themselves, as they do not for websockets."""
    return scope["method"] in SAFE and "websocket" not in headers.get("upgrade", "").lower()


def _same_origin(origin: str | None, host: str) -> bool:
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()
