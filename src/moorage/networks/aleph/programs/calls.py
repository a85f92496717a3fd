"""Requests that the node itself makes to a program: events, times of its schedule, calls of its operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moorage.errors import ProgramDied, ProgramTimedOut
from moorage.networks.aleph.programs.connections import Broken, Head, Overdue
from moorage.networks.aleph.programs.instances import Instance
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
    """Item hash by which the program is called."""


async def call(services: Services, instance: Instance, request: Call, write: Callable[[bytes], object]) -> Head:
    """Start the program if need be and ask it; the body of its answer goes to `write`, piece by piece.

    Raises ServiceUnavailable if it does not start, ProgramDied, ProgramTimedOut, and what is wrong with its files.
    """
    seconds = float(instance.deployment.program.resources.seconds)
    async with services.acquire(instance.spec) as endpoint:
        connection = await instance.pool.take(endpoint)
        try:
            silence = seconds + (MARGIN if instance.asgi else 0)
            connection.begin(_written(request, asgi=instance.asgi), silence=silence, bodiless=request.method == "HEAD")
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
                await services.stop(instance.spec.key, kill=True)
            raise ProgramTimedOut(f"The program did not respond within {seconds:g} s.") from error
        except BaseException:
            connection.abort()
            raise
        instance.pool.give_back(connection)
        return head


def _written(request: Call, *, asgi: bool) -> bytes:
    root = f"{PATH.decode()}{request.address}"
    headers = [("host", "localhost"), *request.headers, ("content-length", str(len(request.body)))]
    target = request.path
    if asgi:
        target = root + target if request.kind == "http" else target
        headers.insert(0, ("moorage", f"{request.kind} {request.run} {root} http 127.0.0.1 0"))
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + request.body
