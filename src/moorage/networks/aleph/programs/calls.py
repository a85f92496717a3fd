"""Requests that the node itself makes to a program: events, times of its schedule, calls of its operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moorage.errors import MoorageError, ProgramDied, ProgramTimedOut
from moorage.model.jobs import JSON
from moorage.networks.aleph.programs.connections import Broken, Head, Overdue
from moorage.networks.aleph.programs.instances import Instance, connected
from moorage.networks.aleph.programs.runs import Export, Runs, described
from moorage.networks.aleph.programs.serving import MARGIN, PATH
from moorage.networks.base import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request of the node's own."""

    run: str
    kind: str = "http"
    """`http`, or `event` for a message in the body."""
    method: str = "GET"
    path: str = "/"
    """Path and query within the program."""
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    address: str
    """Item hash by which the program is called; empty where it has a host of its own."""
    message: str | None = None
    """Hash of the message that is in the body: it may be forgotten, so that no copy of it is kept."""


async def call(services: Services, instance: Instance, request: Call, write: Callable[[bytes], object]) -> Head:
    """Start the program if need be and ask it; the body of its answer goes to `write`, piece by piece.

    Raises ServiceUnavailable if it does not start, ProgramDied, ProgramTimedOut, and what is wrong with its files.
    """
    seconds = float(instance.deployment.program.resources.seconds)
    async with connected(services, instance) as connection:
        try:
            silence = seconds + (MARGIN if instance.asgi else 0)
            connection.begin(written(request, asgi=instance.asgi), silence=silence, bodiless=request.method == "HEAD")
            head = await connection.head()
            more = True
            while more:
                data, more = await connection.read()
                write(data)
        except Broken as error:
            connection.abort()
            raise ProgramDied from error
        except Overdue as error:
            connection.abort()
            if instance.asgi:
                await services.kill(instance.spec.key)
            raise ProgramTimedOut(f"The program did not respond within {seconds:g} s.") from error
        except BaseException:
            connection.abort()
            raise
        instance.pool.give_back(connection)
        return head


async def recorded(
    runs: Runs, services: Services, instance: Instance, request: Call, *, trigger: str, write: Callable[[bytes], object]
) -> tuple[Head, Export | None]:
    """Do the same, and write the run down; give also what it exports.

    Raises like `call`.
    """
    async with services.acquire(instance.spec):  # it goes on until its export is kept
        recording = runs.begin(instance, request.run, trigger, _described(request))
        if request.message is None:
            recording.asked.take(request.body)

        def note(data: bytes) -> None:
            recording.answered.take(data)
            write(data)

        try:
            head = await call(services, instance, request, note)
        except MoorageError:
            await recording.end(None)
            raise
        recording.status = head.status
        return head, await recording.end(head)


def _described(request: Call) -> dict[str, JSON]:
    return described(
        kind=request.kind,
        address=request.address,
        method=request.method,
        path=request.path.encode(errors="surrogateescape"),
        headers=[(name.encode(), value.encode(errors="surrogateescape")) for name, value in request.headers],
        message=request.message,
    )


def written(request: Call, *, asgi: bool) -> bytes:
    """Write a request as the program, or the host of an ASGI program, is to read it."""
    root = f"{PATH.decode()}{request.address}" if request.address else ""
    headers, given = list(request.headers), {name.lower() for name, _ in request.headers}
    if "host" not in given:
        headers.insert(0, ("host", "localhost"))
    if request.body and "content-length" not in given:
        headers.append(("content-length", str(len(request.body))))
    target = request.path
    if asgi:
        target = root + target if request.kind == "http" else target
        headers.insert(0, ("moorage", f"{request.kind} {request.run} {root or '-'} http 127.0.0.1 0"))
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + request.body
