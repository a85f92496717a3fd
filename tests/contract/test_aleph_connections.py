"""Connections to programs: used again where that is sound, and answers read from them however they are written."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from moorage.networks.aleph.programs.connections import Broken, Connection, Overdue, Pool

pytestmark = pytest.mark.anyio

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Program:
    """A server that answers each request as it is told; counts its connections."""

    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)

    async def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setblocking(False)
        return sock


@contextlib.asynccontextmanager
async def program(*answers: bytes, close: bool = False, silent: bool = False) -> AsyncIterator[Program]:
    """Run a server that gives these answers, one after the other on all its connections."""
    told = Program()
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while left and not silent:
                told.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(left.pop(0))
                await writer.drain()
                if close:
                    break
            if silent:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    told.port = server.sockets[0].getsockname()[1]
    try:
        yield told
    finally:
        server.close()
        await server.wait_closed()


async def ask(pool: Pool, server: Program, request: bytes = ASK, *, silence: float = 5.0) -> tuple[int, bytes]:
    """Make one request and read its answer."""
    connection = await pool.take(server)
    try:
        connection.begin(request, silence=silence, bodiless=request.startswith(b"HEAD"))
        head, body, more = await connection.head(), b"", True
        while more:
            data, more = await connection.read()
            body += data
    except BaseException:
        connection.abort()
        raise
    pool.give_back(connection)
    return head.status, body


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool(keep=60)
    yield made
    made.close()


async def test_a_connection_is_used_for_one_request_after_the_other(pool: Pool) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    bodiless = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"
    async with program(OK, chunked, bodiless, b"HTTP/1.1 204 No Content\r\n\r\n", OK) as server:
        assert await ask(pool, server) == (200, b"ok")
        assert await ask(pool, server) == (200, b"ok")
        assert await ask(pool, server, ASK.replace(b"GET", b"HEAD")) == (200, b"")
        assert await ask(pool, server) == (204, b"")
        assert await ask(pool, server) == (200, b"ok")
        assert server.connections == 1


async def test_a_connection_that_ends_with_its_answer_is_not_used_again(pool: Pool) -> None:
    closing = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    async with program(closing, b"HTTP/1.0 200 OK\r\n\r\nuntil the end", OK, close=True) as server:
        assert await ask(pool, server) == (200, b"ok")
        assert await ask(pool, server) == (200, b"until the end")
        assert await ask(pool, server) == (200, b"ok")
        assert server.connections == 3


async def test_lines_may_end_with_a_line_feed_only(pool: Pool) -> None:
    async with program(b"HTTP/1.0 200 OK\ncontent-type: text/plain\n\nhello", close=True) as server:
        assert await ask(pool, server) == (200, b"hello")


async def test_informational_answers_are_passed_over(pool: Pool) -> None:
    async with program(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK) as server:
        assert await ask(pool, server) == (200, b"ok")


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", b"no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nx"],
)
async def test_what_is_no_whole_answer_is_broken(pool: Pool, answer: bytes) -> None:
    async with program(answer, close=True) as server:
        with pytest.raises(Broken):
            await ask(pool, server)


@pytest.mark.parametrize("status", [b"000", b"099", b"600", b"999"])
async def test_a_status_that_means_nothing_is_broken(pool: Pool, status: bytes) -> None:
    async with program(OK.replace(b"200", status)) as server:
        with pytest.raises(Broken, match="status"):
            await ask(pool, server)


async def test_a_program_that_is_silent_for_too_long_is_overdue(pool: Pool) -> None:
    async with program(silent=True) as server:
        with pytest.raises(Overdue):
            await ask(pool, server, silence=0.1)


async def test_headers_of_one_hop_and_of_the_node_are_kept_from_clients(pool: Pool) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nConnection: keep-alive\r\nset-cookie: b\r\nmoorage-error: timeout\r\n"
        b"content-length: 0\r\n\r\n"
    )
    async with program(head) as server:
        connection: Connection = await pool.take(server)
        connection.begin(ASK, silence=5, bodiless=False)
        found = await connection.head()
        assert found.headers == [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"0")]
        assert found.private == {b"moorage-error": b"timeout"}
        pool.give_back(connection)
