"""Requests of clients to programs: from an address to an answer (contract, sections 2.6, 4.1 and 5)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from moorage.errors import MoorageError, ServiceUnavailable
from moorage.model.ids import new_id
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.messages.hashes import BadHash, hash_of_label
from moorage.networks.aleph.programs.connections import Broken, Head, Headers, Overdue
from moorage.networks.aleph.programs.deployments import Deployment, Refusal
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.relay import (
    Exchange,
    Limits,
    Message,
    Receive,
    Send,
    TooLarge,
    Tunnel,
    request_head,
)
from moorage.networks.base import Endpoint, Services

PATH = b"/vm/"
LABEL = 52
"""Characters of a host label."""
MARGIN = 1.0
"""Seconds that the node waits longer than a program's host, which ends requests by itself unless it hangs."""
DIED = b"VM did not respond and was shut down"
LATE = b"Program did not respond within `resource.seconds`"
SILENT = b"Program is not listening on port 8080"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request asks of which program."""

    address: str
    """Item hash as the client gave it."""
    root: bytes
    """Path below which the program is; empty where it has a host of its own."""
    suffix: bytes
    """Path within the program, as it came."""


def target_of(scope: Mapping[str, Any], domains: Mapping[str, str]) -> Target | None:
    """Find the program that a request is for: by its host, or else by its path."""
    raw: bytes = scope["raw_path"]
    if (named := program_of_host(scope, domains)) is not None:
        return Target(address=named, root=b"", suffix=raw)
    if not raw.startswith(PATH):
        return None
    address, slash, suffix = raw[len(PATH) :].partition(b"/")
    return Target(address=address.decode("latin-1"), root=PATH + address, suffix=slash + suffix)


def program_of_host(scope: Mapping[str, Any], domains: Mapping[str, str]) -> str | None:
    """Tell which program a request's host stands for, if any (contract, section 4.1)."""
    value = next((value for name, value in scope["headers"] if name == b"host"), b"")
    if len(value) < LABEL and not domains:
        return None
    host = value.decode("latin-1").partition(":")[0].lower()
    if host in domains:
        return domains[host]
    label = host.partition(".")[0]
    if len(label) != LABEL:
        return None
    try:
        return hash_of_label(label)
    except BadHash:
        return None


class Serving:
    """Answers clients of programs."""

    def __init__(self, find: Callable[[str], Instance | Refusal], services: Services, settings: Settings) -> None:
        self._find, self._services, self._settings = find, services, settings

    async def answer(self, target: Target, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; a program that cannot is the client's to know of, in the words of the contract."""
        found = self._find(target.address)
        refusal = found if isinstance(found, Refusal) else _refused(found.deployment, target.address)
        if refusal is not None:
            await refuse(send, refusal)
            return
        assert isinstance(found, Instance)
        run = new_id("run")
        try:
            async with self._services.acquire(found.spec) as endpoint:
                await self._pass(found, endpoint, target, run, scope, receive, send)
        except ServiceUnavailable as error:
            found.log.say(error.message, run=run)
            await refuse(send, _not_started(found, error))
        except MoorageError as error:
            found.log.say(error.message, run=run)
            await refuse(send, _FAILED)

    async def _pass(
        self,
        instance: Instance,
        endpoint: Endpoint,
        target: Target,
        run: str,
        scope: Message,
        receive: Receive,
        send: Send,
    ) -> None:
        upgrade = scope["method"] == "GET" and any(name == b"upgrade" for name, _ in scope["headers"])
        head, body = request_head(scope, *_line(instance, target, run, scope), upgrade=upgrade)
        connection = await instance.pool.take(endpoint)
        exchange = Exchange(connection, scope["moorage.link"], receive, send, self._limits(instance))
        try:
            answer = await exchange.run(scope, head, body=body, adorn=partial(_adorned, instance.deployment, run))
        except TooLarge:
            connection.abort()
            if not exchange.started:
                await refuse(send, Refusal(status=413, error="Request body is too large"), close=True)
        except Overdue:
            connection.abort()
            if not exchange.started:
                await say(send, 504, LATE)
            if instance.asgi:  # its host would have said so: it hangs as a whole
                instance.log.say("It hangs, and is ended.", run=run)
                await self._services.stop(instance.spec.key, kill=True)
        except Broken:
            connection.abort()
            if not exchange.started and not exchange.left:
                await say(send, 502, DIED)
        except BaseException:
            connection.abort()
            raise
        else:
            if answer.status == 101:
                await Tunnel(scope["moorage.link"], connection, answer).over
            else:
                instance.pool.give_back(connection)

    def _limits(self, instance: Instance) -> Limits:
        seconds = float(instance.deployment.program.resources.seconds)
        return Limits(body=self._settings.max_body, silence=seconds + MARGIN if instance.asgi else seconds)


def _refused(deployment: Deployment, address: str) -> Refusal | None:
    if not deployment.program.on.http:
        return Refusal(status=403, error=f"Program {address} does not accept HTTP requests (on.http is false)")
    return None


def _line(instance: Instance, target: Target, run: str, scope: Message) -> tuple[bytes, bytes]:
    """Give the target of a request, and what goes before its headers (see guest/asgi and contract, section 2.7)."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    client = scope.get("client") or ("127.0.0.1", 0)
    if instance.asgi:
        root = target.root or b"-"
        facts = f" {scope['scheme']} {client[0]} {client[1]}\r\n".encode("latin-1")
        path = target.root + (target.suffix or b"/") if target.root else target.suffix
        return path + query, b"moorage: http " + run.encode() + b" " + root + facts
    forwarded = f"x-forwarded-for: {client[0]}\r\nx-forwarded-proto: {scope['scheme']}\r\n".encode("latin-1")
    return (target.suffix or b"/") + query, forwarded + b"x-forwarded-prefix: " + target.root + b"\r\n"


def _adorned(deployment: Deployment, run: str, head: Head) -> Headers:
    return [
        *head.headers,
        (b"aleph-program-itemhash", deployment.item_hash.encode()),
        (b"aleph-program-code-ref", deployment.code_ref.encode()),
        (b"aleph-run-id", run.encode()),
    ]


_FAILED = Refusal(status=500, error="500: Error during vm initialisation")


def _not_started(instance: Instance, error: ServiceUnavailable) -> Refusal:
    if not error.detail.get("late"):
        return _FAILED
    if instance.asgi:
        return Refusal(status=500, error="500: Error during runtime initialisation")
    return Refusal(status=503, error=SILENT.decode(), retry_after=5)


async def refuse(send: Send, refusal: Refusal, *, close: bool = False) -> None:
    """Send why there is no answer of the program, as JSON."""
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    if close:
        headers.append((b"connection", b"close"))
    await _send(send, refusal.status, headers, json.dumps({"error": refusal.error}).encode())


async def say(send: Send, status: int, text: bytes) -> None:
    """Send why there is no answer of the program, as text."""
    await _send(send, status, [(b"content-type", b"text/plain; charset=utf-8")], text)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
