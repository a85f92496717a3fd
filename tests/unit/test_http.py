"""The client that services are asked with, against a server that says exactly what a test wants it to say."""

import asyncio
import gzip
import socket
import ssl
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage import __version__
from moorage.errors import ServiceUnavailable
from moorage.networks import http
from moorage.networks.http import MAX_HEAD, READ_AHEAD, Answer, Broken, Client, ConnectFailed, host_of, through, to

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1 << 20
SELF_SIGNED = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1UnoyLlDRIXIQEUw
TL85xWEOCp4rLlNE0VcDmNpgEw6hRANCAAQwJeIBz+qLaqwz1tXQEfJ4+KAeN0vw
T98eI5qTsUeE1eBrD+igjqrbLIRyFaPGWu+yuCjErCWSfhMQmhhjxejD
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBYTCCAQegAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDAl4gHP6otqrDPW
1dAR8nj4oB43S/BP3x4jmpOxR4TV4GsP6KCOqtsshHIVo8Za77K4KMSsJZJ+ExCa
GGPF6MOjSDBGMBQGA1UdEQQNMAuCCWxvY2FsaG9zdDAPBgNVHRMBAf8EBTADAQH/
MB0GA1UdDgQWBBRYaxv96YIoGPKtGNYewOXjfXyIljAKBggqhkjOPQQDAgNIADBF
AiEA61ISIFjPP//zETRiEHZHtEwnVmBs2CILOGuPpMEBROECIH+9pyRCGDYg9pWO
M8eAs/Fcm7WPmd+/RbfnDa9+iFUM
-----END CERTIFICATE-----
"""
"""Key and certificate of `localhost`, of no use anywhere else."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run on the standard library's loop and on the one that the node runs on: their connections are not the same."""
    return "asyncio", {"use_uvloop": request.param}


class Last(bytes):
    """A reply after which the server closes the connection."""


class Cut(Last):
    """One after which it resets it, as the kernel does for who has died."""


class Server:
    """Gives each request the next of its replies, and keeps each connection until the client closes it."""

    def __init__(self, *replies: bytes) -> None:
        self.port, self.replies = 0, list(replies)
        self.requests: list[tuple[int, bytes]] = []  # with the number of the connection that each came over
        self.over: asyncio.Queue[int] = asyncio.Queue()  # the numbers of those that have ended
        self.writers: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers[writer] = asyncio.current_task()
        number = len(self.writers)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, length = head.partition(b"Content-Length: ")
                self.requests.append((number, head + await reader.readexactly(int(length or b"0"))))
                await self.say(self.replies.pop(0), writer)
        self.over.put_nowait(number)
        writer.close()

    async def say(self, reply: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        if isinstance(reply, Cut):
            await asyncio.sleep(0.02)  # so that what was said arrives
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(reply, Last):
            writer.close()

    async def ended(self) -> int:
        return await asyncio.wait_for(self.over.get(), 2)

    @property
    def used(self) -> list[int]:
        return [number for number, _ in self.requests]


@asynccontextmanager
async def scene(*replies: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Client, Server]]:
    server = Server(*replies)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    client = Client(to(f"http://127.0.0.1:{server.port}"), host="host:1", headers={"X-Mine": "1"})
    try:
        yield client, server
    finally:
        client.close()
        listener.close()
        for writer in server.writers:
            writer.transport.abort()
        await asyncio.wait_for(asyncio.gather(*filter(None, server.writers.values())), 5)


async def pieces(answer: Answer) -> list[bytes]:
    found = []
    while piece := await answer.read():
        found.append(piece)
    return found


async def ask(client: Client) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(1):
        with await client.request("GET", "/") as answer:
            return answer.status, answer.headers, b"".join(await pieces(answer))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
IDENTITY = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok"
WHOLE = {
    "of_a_length": (OK, 200, b"ok", True),
    "empty": (b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", 500, b"", True),
    "chunked": (CHUNKED + b"1\r\no\r\n1;why=not\r\nk\r\n0\r\n\r\n", 200, b"ok", True),
    "with_trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\nZ: z\r\n\r\n", 200, b"ok", True),
    "until_close": (Last(b"HTTP/1.1 200 OK\r\n\r\nok"), 200, b"ok", False),
    "until_close_as_it_says": (Last(IDENTITY), 200, b"ok", False),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "not_modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
    "packed_nothing": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "old": (OK.replace(b"1.1", b"1.0"), 200, b"ok", False),
    "old_and_kept": (OK.replace(b"1.1 200 OK", b"1.0 200 OK\r\nConnection: keep-alive"), 200, b"ok", True),
    "old_until_close": (Last(b"HTTP/1.0 200 OK\r\n\r\nok"), 200, b"ok", False),
    "after_continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok", True),
    "after_hints": (HINTS + HINTS + OK, 200, b"ok", True),
    "with_an_offer_to_upgrade": (OK.replace(b"OK", b"OK\r\nConnection: Upgrade\r\nUpgrade: h2c"), 200, b"ok", True),
    "last_one": (OK.replace(b"OK", b"OK\r\nConnection: close"), 200, b"ok", False),
    "another_one_after_it": (OK + OK.replace(b"ok", b"no"), 200, b"ok", False),
    "a_byte_after_it": (OK + b"H", 200, b"ok", False),
    "garbage_after_it": (OK + b"ok", 200, b"ok", False),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "status", "body", "kept"), WHOLE.values(), ids=WHOLE)
async def test_an_answer_is_read_to_its_end(reply: bytes, status: int, body: bytes, kept: bool) -> None:
    async with scene(reply, OK) as (client, server):
        found, _, content = await ask(client)
        assert (found, content) == (status, body)
        assert (await ask(client))[2] == b"ok"
        assert server.used == [1, 1 if kept else 2]


BROKEN = {
    "garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
    "two_lengths": OK.replace(b"OK", b"OK\r\nContent-Length: 3"),
    "length_and_chunks": OK.replace(b"OK", b"OK\r\nTransfer-Encoding: chunked"),
    "no_length": OK.replace(b": 2", b": two"),
    "no_size_of_a_chunk": CHUNKED + b"x\r\n",
    "many_headers": OK.replace(b"OK", b"OK" + b"\r\nName: value" * (MAX_HEAD // 8)),
    "long_trailers": CHUNKED + b"0\r\n" + b"Name: value\r\n" * (MAX_HEAD // 8) + b"\r\n",
    "long_header": OK.replace(b"OK", b"OK\r\nName: " + b"v" * MAX_HEAD),
    "endless_header": b"HTTP/1.1 200 OK\r\nName: " + b"v" * 4 * MAX_HEAD,
    "endless_name": b"HTTP/1.1 200 OK\r\n" + b"n" * 4 * MAX_HEAD,
    "upgrade": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "upgrade_to_nothing": b"HTTP/1.1 101 Switching\r\n\r\n" + OK,
    "interim_one_with_a_body": b"HTTP/1.1 150 A\r\nContent-Length: 2\r\n\r\nno" + OK,
    "closed_before_it": Last(b""),
    "closed_within_the_head": Last(OK[:20]),
    "closed_after_an_interim_one": Last(HINTS),
    "closed_within_the_body": Last(OK[:-1]),
    "closed_within_a_chunk": Last(CHUNKED + b"9\r\nabc"),
    "closed_after_a_chunk": Last(CHUNKED + b"2\r\nok\r\n"),
    "closed_within_the_trailers": Last(CHUNKED + b"0\r\nX: y"),
    "reset_within_the_body": Cut(OK[:-1]),
    "reset_until_close": Cut(b"HTTP/1.1 200 OK\r\n\r\nhalf"),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_whole_answer_is_an_error_and_ends_its_connection(reply: bytes) -> None:
    async with scene(reply, OK) as (client, server):
        with pytest.raises(Broken, match=r"\w"):
            await ask(client)
        assert await server.ended() == 1
        assert (await ask(client))[2] == b"ok"
        assert server.used == [1, 2]


async def test_what_came_before_it_broke_is_given() -> None:
    async with scene(CHUNKED + b"2\r\nok\r\nx") as (client, _):
        with await client.request("GET", "/") as answer:
            assert await answer.read() == b"ok"
            with pytest.raises(Broken):
                await answer.read()


HEADERS = {
    "names_are_in_lower_case": (b"X-One: A", {"x-one": "A"}),
    "the_first_of_one_name_counts": (b"A: 1\r\nB: 2\r\na: 3", {"a": "1", "b": "2"}),
    "one_may_be_empty": (b"A:\r\nB: ", {"a": "", "b": ""}),
    "blanks_around_are_no_part": (b"A: \t1 2 \t", {"a": "1 2"}),
}


@pytest.mark.parametrize(("lines", "headers"), HEADERS.values(), ids=HEADERS)
async def test_headers_of_an_answer(lines: bytes, headers: dict[str, str]) -> None:
    async with scene(HINTS + b"HTTP/1.1 204 None\r\n" + lines + b"\r\n\r\n") as (client, _):
        assert (await ask(client))[1] == headers


framings = st.sampled_from(["length", "chunked", "close"])
bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=4)


@given(framing=framings, chunks=bodies, interim=st.booleans(), cuts=st.sets(st.integers(0, 400)))
def test_it_does_not_matter_where_an_answer_is_cut(
    framing: str, chunks: list[bytes], interim: bool, cuts: set[int]
) -> None:
    body = b"".join(chunks)
    lines = {"length": b"Content-Length: %d\r\n" % len(body), "chunked": CHUNKED[17:-2], "close": b""}[framing]
    sized = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX: y\r\n\r\n"
    said = HINTS * interim + b"HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\n" + lines + b"\r\n"
    said += sized if framing == "chunked" else body
    ends = [0, *sorted(cut for cut in cuts if cut < len(said)), len(said)]
    heard = asyncio.run(_heard([said[start:end] for start, end in pairwise(ends)]))
    assert heard == asyncio.run(_heard([said]))
    assert (heard[0], heard[1]["a"], heard[2]) == (200, "1", body)


async def _heard(said: list[bytes]) -> tuple[int, dict[str, str], bytes]:
    connection = http._Connection(Mock())
    connection.connection_made(Mock(**{"get_write_buffer_size.return_value": 0}))
    asking = asyncio.create_task(connection.exchange(b"", "/"))
    await asyncio.sleep(0)
    for piece in said:
        connection.data_received(piece)
    connection.eof_received()
    answer = await asking
    return answer.status, answer.headers, b"".join(await pieces(answer))


@pytest.mark.parametrize(("length", "used"), [(2, [1, 1]), (3, [1, 2])], ids=["whole", "half"])
async def test_an_answer_need_not_be_read_but_half_of_one_ends_its_connection(length: int, used: list[int]) -> None:
    async with scene(OK.replace(b"2\r", b"%d\r" % length), OK) as (client, server):
        with await client.request("GET", "/"):
            pass
        assert (await ask(client))[2] == b"ok"
        assert server.used == used
        if length == 3:
            assert await server.ended() == 1


@pytest.mark.parametrize("said", [b"", OK, b"\r\n"], ids=["closed", "answered", "spoke"])
async def test_a_connection_that_the_server_closed_or_spoke_on_is_not_used_again(said: bytes) -> None:
    async with scene(OK, OK.replace(b"ok", b"us")) as (client, server):
        await ask(client)
        (writer,) = server.writers
        await server.say(said or Last(b""), writer)
        assert await server.ended() == 1
        await asyncio.sleep(0.02)
        assert (await ask(client))[2] == b"us"
        assert server.used == [1, 2]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_what_changes_nothing_is_asked_again_when_a_connection_closes_just_then(method: str) -> None:
    async with scene(OK, OK) as (client, server):
        await ask(client)
        (writer,) = server.writers
        writer.close()  # nobody has seen it yet
        with pytest.raises(Broken) if method == "POST" else nullcontext():
            (await client.request(method, "/")).__exit__()
        assert server.used == ([1, 2] if method == "GET" else [1])


async def test_connections_are_used_again_and_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEPT_OPEN", 0.1)
    async with scene(OK, OK, OK) as (client, server):
        await asyncio.gather(ask(client), ask(client))
        await asyncio.sleep(0.06)
        await ask(client)
        assert server.over.empty()
        longer = server.used[2]
        assert [await server.ended(), await server.ended()] == [3 - longer, longer]


async def test_closing_ends_idle_connections_at_once_and_others_with_their_answer() -> None:
    async with scene(OK, OK) as (client, server):
        with await client.request("GET", "/") as answer:
            await ask(client)
            client.close()
            assert await server.ended() == 2
            assert await pieces(answer) == [b"ok"]
            assert server.over.empty()
        assert await server.ended() == 1


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", OK[:-1]])
async def test_who_waits_no_longer_leaves_no_connection(said: bytes) -> None:
    async with scene(said) as (client, server):
        asking = asyncio.create_task(ask(client))
        await asyncio.sleep(0.05)
        assert server.used == [1]
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await server.ended() == 1


async def test_a_server_that_says_more_than_is_read_has_to_wait() -> None:
    content = b"".join(number.to_bytes(8) * 8192 for number in range(1024))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
    async with scene(head.encode() + content, OK) as (client, server):
        with await client.request("GET", "/") as answer:
            await asyncio.sleep(0.1)
            (writer,) = server.writers
            assert writer.transport.get_write_buffer_size() > len(content) // 2
            found = await pieces(answer)
        assert b"".join(found) == content
        assert max(map(len, found)) <= 3 * READ_AHEAD
        await ask(client)
        assert server.used == [1, 1]


def packed(name: str, content: bytes) -> bytes:
    lines = f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {len(content)}\r\n\r\n"
    return lines.encode() + content


@pytest.mark.parametrize(("name", "pack"), [("X-GZip", gzip.compress), ("deflate", zlib.compress)])
async def test_packed_content_is_unpacked(name: str, pack: Callable[[bytes], bytes]) -> None:
    content = b"".join(number.to_bytes(4) for number in range(50_000))
    async with scene(packed(name, pack(content)), OK) as (client, server):
        assert (await ask(client))[2] == content
        await ask(client)
        assert server.used == [1, 1]


async def test_what_unpacks_to_very_much_is_given_in_pieces() -> None:
    async with scene(packed("gzip", gzip.compress(bytes(16 * MIB)))) as (client, _):
        with await client.request("GET", "/") as answer:
            sizes = [len(piece) for piece in await pieces(answer)]
        assert max(sizes) <= READ_AHEAD
        assert sum(sizes) == 16 * MIB


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"ok")[:-1], gzip.compress(b"ok")[:-8] + bytes(8), b"plain", 2 * gzip.compress(b"ok")],
    ids=["cut", "wrong", "plain", "two"],
)
async def test_what_is_not_packed_as_it_says_is_an_error(content: bytes) -> None:
    async with scene(packed("gzip", content)) as (client, _):
        with pytest.raises(Broken, match="packed"):
            await ask(client)


async def test_what_follows_packed_content_is_not_gathered() -> None:
    async with scene(packed("gzip", gzip.compress(b"ok") + bytes(16 * MIB))) as (client, _):
        with await client.request("GET", "/") as answer:
            tracemalloc.start()
            with suppress(Broken):
                await pieces(answer)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert most < 4 * MIB


HOSTS = {
    "http://a": "a", "https://a.example:8/b": "a.example:8", "http://[::1]:8/": "[::1]:8",
    "http://b\u00fccher.example:80": "xn--bcher-kva.example:80",
}  # fmt: skip


@pytest.mark.parametrize(("url", "host"), HOSTS.items())
def test_a_host_is_named_as_the_network_knows_it(url: str, host: str) -> None:
    assert host_of(url) == host


TARGETS = {
    "/a/b?c=d&e=%20#f": b"/a/b?c=d&e=%20%23f",
    "/a b/é?q=ü+€": b"/a%20b/%C3%A9?q=%C3%BC+%E2%82%AC",
    '/"<>\\^`{|}\x00\x7f': b"/%22%3C%3E%5C%5E%60%7B%7C%7D%00%7F",
    "/ HTTP/1.1\r\nX: y": b"/%20HTTP/1.1%0D%0AX:%20y",
}


@pytest.mark.parametrize(("body", "length"), [(b"", b""), (b'{"\xff": 1}', b"Content-Length: 8\r\n")])
@pytest.mark.parametrize(("target", "sent"), TARGETS.items())
async def test_a_request_is_sent_as_this(target: str, sent: bytes, body: bytes, length: bytes) -> None:
    async with scene(OK) as (client, server):
        with await client.request("POST", target, body) as answer:
            assert answer.target == target
        lines = b"Host: host:1\r\nUser-Agent: moorage/%b\r\nAccept: */*\r\nAccept-Encoding: identity\r\nX-Mine: 1\r\n"
        head = b"POST %b HTTP/1.1\r\n" % sent + lines % __version__.encode() + length + b"\r\n"
        assert server.requests == [(1, head + body)]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\nX: y"])
async def test_a_header_is_one_line(value: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        Client(to("http://localhost"), host="h", headers={"X": value})
    with pytest.raises(ValueError, match="one line"):
        Client(to("http://localhost"), host=value)


NOWHERE = {
    "refused": (to("http://127.0.0.1:1"), "refused|failed"),
    "no_name": (to("http://a..b"), r"\w"),
    "not_running": (
        through(Mock(connect=AsyncMock(side_effect=ServiceUnavailable("It does not run.")))),
        r"^It does not run\.$",
    ),
}


@pytest.mark.parametrize(("connect", "reason"), NOWHERE.values(), ids=NOWHERE)
async def test_where_nothing_runs_there_is_no_connection(connect: http.Connect, reason: str) -> None:
    with pytest.raises(ConnectFailed, match=reason):
        await Client(connect, host="h").request("GET", "/")


async def test_what_is_sent_through_an_endpoint_is_sent_at_once() -> None:
    async with scene(OK) as (_, server):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.connect(("127.0.0.1", server.port))
        sock.setblocking(False)
        client = Client(through(Mock(connect=AsyncMock(return_value=sock))), host="h")
        await ask(client)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()


async def test_a_service_that_closes_at_once_gives_no_answer() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.close()
    with pytest.raises(Broken):
        await Client(through(Mock(connect=AsyncMock(return_value=ours))), host="h").request("POST", "/", b"{}")


TRUST = {"trusted": ("localhost", ""), "unknown": ("", "certificate"), "of_another": ("127.0.0.1", "certificate")}


@pytest.mark.parametrize(("trusted", "problem"), TRUST.values(), ids=TRUST)
async def test_a_host_has_to_prove_who_it_is(
    trusted: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own := tmp_path / "own.pem").write_text(SELF_SIGNED)
    (tls := ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)).load_cert_chain(own)
    http._tls.cache_clear()
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
    async with scene(OK, OK, Last(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MIB)), tls=tls) as (_, server):
        client = Client(to(f"https://{trusted or 'localhost'}:{server.port}"), host="h")
        with pytest.raises(ConnectFailed, match=problem) if problem else nullcontext():
            assert [(await ask(client))[2] for _ in range(3)] == [b"ok", b"ok", bytes(MIB)]
        assert server.used == ([] if problem else [1, 1, 1])
