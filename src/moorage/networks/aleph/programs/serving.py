"""Requests of clients to programs: from an address to an answer (contract, sections 2.6, 4.1 and 5)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from moorage.errors import DiskFull, MoorageError, NoCapacity, SandboxUnavailable, ServiceUnavailable
from moorage.model.ids import new_id
from moorage.model.jobs import JSON
from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.messages.hashes import BadHash, hash_of_label
from moorage.networks.aleph.programs.connections import OURS, Broken, Connection, Head, Headers, Overdue
from moorage.networks.aleph.programs.deployments import Deployment, Refusal
from moorage.networks.aleph.programs.instances import Instance, connected
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
from moorage.networks.aleph.programs.runs import OUTPUT_DATA, Runs, described, is_recorded
from moorage.networks.base import Services

PATH = b"/vm/"
LABEL = 52
"""Characters of a host label."""
MARGIN = 1.0
"""Seconds that the node waits longer than a program's host, which ends requests by itself unless it hangs."""
DIED = b"VM did not respond and was shut down"
LATE = b"Program did not respond within `resource.seconds`"
RETRY = 5
"""Seconds after which a client may ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request asks of which program."""

    address: str
    """Item hash as the client gave it, or a host's label that stands for none."""
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
        return label


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A client's request to a program, and the run that it makes."""

    target: Target
    run: str
    scope: Message
    receive: Receive
    send: Send


class Serving:
    """Answers clients of programs."""

    def __init__(
        self, find: Callable[[str], Instance | Refusal], services: Services, runs: Runs, settings: Settings
    ) -> None:
        self._find, self._services, self._runs, self._settings = find, services, runs, settings

    async def answer(self, target: Target, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; a program that cannot is the client's to know of, in the words of the contract."""
        found = self._find(target.address)
        refusal = found if isinstance(found, Refusal) else _refused(found.deployment, target.address)
        if refusal is not None:
            await refuse(send, refusal if target.root or refusal.status != 400 else _NOBODY)
            return
        if _length(scope) > self._settings.max_body:
            await refuse(send, _TOO_LARGE)
            return
        assert isinstance(found, Instance)
        request = _Request(target=target, run=new_id("run"), scope=scope, receive=receive, send=send)
        try:
            async with connected(self._services, found) as connection:
                await self._run(found, connection, request)
        except MoorageError as error:
            found.log.say(error.message, run=request.run)
            await refuse(send, _not_started(found, error))

    async def _run(self, instance: Instance, connection: Connection, request: _Request) -> None:
        """Pass a request on; where its program asks for that, write the run down and keep what it exports."""
        recording = None
        if is_recorded(instance.deployment.program):
            recording = self._runs.begin(instance, request.run, "http", _asked(request.target, request.scope))
            receive, send = recording.watched(request.receive, request.send)
            request = replace(request, receive=receive, send=send)
        head = await self._pass(instance, connection, request)
        if recording is not None:
            await recording.end(head)
        elif head is not None and OUTPUT_DATA in head.private:
            await self._runs.add_output(instance, request.run, head)

    async def _pass(self, instance: Instance, connection: Connection, request: _Request) -> Head | None:
        """Give the head of the program's answer, if the client has got all of it."""
        scope, link = request.scope, request.scope["moorage.link"]
        upgrade = scope["method"] == "GET" and any(name == b"upgrade" for name, _ in scope["headers"])
        head, body = request_head(scope, *_line(instance, request), upgrade=upgrade)
        exchange = Exchange(connection, link, request.receive, request.send, self._limits(instance))
        adorn = partial(_adorned, instance.deployment, request.run)
        try:
            answer = await exchange.run(scope, head, body=body, adorn=adorn)
        except (Broken, Overdue, TooLarge) as error:
            connection.abort()
            await self._explain(instance, request, exchange, error)
            return None
        except BaseException:
            connection.abort()
            raise
        if answer.status == 101:
            await Tunnel(link, connection, answer).last(scope["moorage.stopping"])
        else:
            instance.pool.give_back(connection)
        return answer

    async def _explain(self, instance: Instance, request: _Request, exchange: Exchange, error: Exception) -> None:
        """Tell a client why there is no answer, if it is there and has got none; before that, end what hangs or dies.

        The host of an ASGI program breaks off nothing before it has answered, and it keeps the time itself.
        """
        untold = not (exchange.started or exchange.left)
        if instance.asgi and (isinstance(error, Overdue) or (isinstance(error, Broken) and untold)):
            instance.log.say("It hangs or has died, and is ended.", run=request.run)
            await self._services.kill(instance.spec.key)
        if untold:
            await _apologize(request.send, error)

    def _limits(self, instance: Instance) -> Limits:
        seconds = float(instance.deployment.program.resources.seconds)
        return Limits(body=self._settings.max_body, silence=seconds + MARGIN if instance.asgi else seconds)


def _refused(deployment: Deployment, address: str) -> Refusal | None:
    if not deployment.program.on.http:
        return Refusal(status=403, error=f"Program {address} does not accept HTTP requests (on.http is false)")
    return None


def _asked(target: Target, scope: Message) -> dict[str, JSON]:
    """Describe a request as `calls` can make it again."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return described(
        address=target.address if target.root else "",
        method=scope["method"],
        path=(target.suffix or b"/") + query,
        headers=scope["headers"],
    )


def _length(scope: Message) -> int:
    """Give the bytes of a request's body, as far as they are known."""
    return int(next((value for name, value in scope["headers"] if name == b"content-length"), 0))


def _line(instance: Instance, request: _Request) -> tuple[bytes, Headers]:
    """Give the target of a request, and what goes before its headers (see guest/asgi and contract, section 2.7)."""
    target, scope = request.target, request.scope
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    host, port = scope.get("client") or ("127.0.0.1", 0)
    scheme = scope["scheme"].replace("ws", "http")  # a proxy may have called it that
    path = (target.suffix or b"/") + query
    if instance.asgi:
        root = target.root.decode("latin-1") or "-"
        return target.root + path, [(OURS, f"http {request.run} {root} {scheme} {host} {port}".encode("latin-1"))]
    facts = ((b"for", host.encode()), (b"proto", scheme.encode()), (b"prefix", target.root))
    return path, [(b"x-forwarded-" + name, value) for name, value in facts]


def _adorned(deployment: Deployment, run: str, head: Head) -> Headers:
    return [
        *head.headers,
        (b"aleph-program-itemhash", deployment.item_hash.encode()),
        (b"aleph-program-code-ref", deployment.code_ref.encode()),
        (b"aleph-run-id", run.encode()),
    ]


_NOBODY = Refusal(status=404, error="404: Invalid message reference")
_TOO_LARGE = Refusal(status=413, error="Request body is too large")
_NO_ROOM = Refusal(status=503, error="This CRN cannot host the requested workload at this time.", retry_after=RETRY)
_SILENT = Refusal(status=503, error="Program is not listening on port 8080", retry_after=RETRY)
_NEVER_READY = Refusal(status=500, error="500: Error during runtime initialisation")
_FAILED = Refusal(status=500, error="500: Error during vm initialisation")


def _not_started(instance: Instance, error: MoorageError) -> Refusal:
    if isinstance(error, DiskFull | NoCapacity | SandboxUnavailable):
        return _NO_ROOM
    if not isinstance(error, ServiceUnavailable) or not error.detail.get("late"):
        return _FAILED
    return _NEVER_READY if instance.asgi else _SILENT


async def refuse(send: Send, refusal: Refusal) -> None:
    """Send why there is no answer of the program, as JSON."""
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    if refusal is _TOO_LARGE:  # and the rest of the body is not waited for
        headers.append((b"connection", b"close"))
    await _send(send, refusal.status, headers, json.dumps({"error": refusal.error}).encode())


async def _apologize(send: Send, error: Exception) -> None:
    if isinstance(error, TooLarge):
        await refuse(send, _TOO_LARGE)
        return
    status, text = (504, LATE) if isinstance(error, Overdue) else (502, DIED)
    await _send(send, status, [(b"content-type", b"text/plain; charset=utf-8")], text)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
