"""A program for tests of HTTP: each function answers the path of its name. And clients that speak as they are told."""

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from moorage.networks.aleph.messages.hashes import host_label

LAB = """
import asyncio, gzip, hashlib, json, os, sys, time

events = {}

def event(name):
    return events.setdefault(name, asyncio.Semaphore(0))

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        return await websocket(scope, receive, send)
    if scope["type"] != "http":
        raise RuntimeError(scope["type"])
    name = scope["path"].strip("/").partition("/")[0] or "scope"
    await globals().get(name, missing)(scope, receive, send)

async def start(send, *headers, status=200):
    headers = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})

async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})

async def text(send, data, *headers, status=200):
    await start(send, *headers, status=status)
    await body(send, data)

async def chunks(receive):
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        yield message.get("body", b"")

def plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value

async def scope(scope, receive, send):
    kinds = {key: type(value).__name__ for key, value in scope.items()}
    await text(send, json.dumps({**plain(scope), "kinds": kinds}).encode(), ("content-type", "application/json"))

async def missing(scope, receive, send):
    await text(send, b"\\x00\\xff no", ("content-type", "image/x-none"), ("x-own", "1"), status=404)

async def echo(scope, receive, send):
    await start(send)
    async for chunk in chunks(receive):
        await body(send, chunk, True)
    await body(send)

async def digest(scope, receive, send):
    found, size = hashlib.sha256(), 0
    async for chunk in chunks(receive):
        found.update(chunk)
        size += len(chunk)
    await text(send, json.dumps([size, found.hexdigest()]).encode())

async def returned(scope, receive, send):
    await text(send, b"".join([chunk async for chunk in chunks(receive)]))

async def first(scope, receive, send):
    await receive()
    await text(send, b"enough")

async def pages(scope, receive, send):
    status = int(scope["path"].rpartition("/")[2])
    await text(send, b"", ("x-own", "1"), status=status)

async def cookies(scope, receive, send):
    await text(send, b"fine", ("set-cookie", "a=1"), ("x-own", "between"), ("set-cookie", "b=2"))

async def packed(scope, receive, send):
    headers = ("content-encoding", "gzip"), ("vary", "accept-encoding"), ("content-type", "text/plain")
    await text(send, gzip.compress(b"packed " * 100), *headers)

async def told(scope, receive, send):
    await text(send, b"fine", ("content-length", "4"))

async def open_ended(scope, receive, send):
    await start(send)
    await body(send, b"first ", True)
    await asyncio.sleep(0)
    await body(send, b"last")

async def sse(scope, receive, send):
    await start(send, ("content-type", "text/event-stream"))
    await body(send, b"data: first\\n\\n", True)
    await event("go").acquire()
    await body(send, b"data: last\\n\\n")

async def go(scope, receive, send):
    event("go").release()
    await text(send, b"gone")

async def stay(scope, receive, send):
    if scope["query_string"] == b"answering":
        await start(send)
        await body(send, b"here", True)
    async for chunk in chunks(receive):
        pass
    event("came").release()
    message = await receive()
    event(message["type"]).release()

async def came(scope, receive, send):
    await event("came").acquire()
    await text(send, b"came")

async def left(scope, receive, send):
    await event("http.disconnect").acquire()
    await text(send, b"left")

async def endless(scope, receive, send):
    await start(send)
    while True:
        await body(send, b"x" * 65536, True)
        await asyncio.sleep(0)

async def slow(scope, receive, send):
    await asyncio.sleep(0.2)
    await text(send, b"slow")

async def after(scope, receive, send):
    await text(send, b"fine")
    await asyncio.sleep(5)

async def says(scope, receive, send):
    print("half a line of", end=" ")
    await asyncio.sleep(0)
    print(scope["query_string"].decode())
    print("an error", file=sys.stderr)
    await text(send, b"said")

async def raises(scope, receive, send):
    raise ValueError("a secret")

async def stock(scope, receive, send):
    await text(send, b"Internal Server Error", status=500)
    raise ValueError("a secret")

async def own(scope, receive, send):
    await text(send, b"Sorry", ("x-own", "1"), status=500)
    raise ValueError("a secret")

async def silent(scope, receive, send):
    pass

async def half(scope, receive, send):
    await start(send)
    await body(send, b"half", True)
    raise ValueError("a secret")

async def never(scope, receive, send):
    try:
        await asyncio.Event().wait()
    finally:
        event("cancelled").release()

async def cancelled(scope, receive, send):
    await event("cancelled").acquire()
    await text(send, b"cancelled")

async def stalls(scope, receive, send):
    await start(send)
    await body(send, b"half", True)
    await asyncio.Event().wait()

async def blocks(scope, receive, send):
    time.sleep(3600)

async def exits(scope, receive, send):
    sys.exit(3)

async def dies(scope, receive, send):
    os._exit(0)

async def killed(scope, receive, send):
    os.kill(os.getpid(), 9)

async def eats(scope, receive, send):
    await text(send, b"%d" % len(b"x" * (1 << 30)))

async def websocket(scope, receive, send):
    path = scope["path"].strip("/")
    assert (await receive())["type"] == "websocket.connect"
    if path == "refused":
        return await send({"type": "websocket.close"})
    if path == "raises":
        raise ValueError("a secret")
    offered = scope["subprotocols"]
    headers = [(b"x-own", b"1")]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None, "headers": headers})
    if path == "scope":
        await send({"type": "websocket.send", "text": json.dumps(plain(scope))})
    if path == "closed":
        return await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
    if path == "raises_later":
        raise ValueError("a secret")
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    print("closed with", message["code"], flush=True)
    event("http.disconnect").release()
"""


def host_of(item_hash: str) -> str:
    """Give the host name of a program on this machine."""
    return f"{host_label(item_hash)}.localhost"


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """Connect to a node."""
    address = urlsplit(url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 80), timeout=30) as found:
        yield found


def until(found: socket.socket, wanted: bytes) -> bytes:
    """Read until this has come."""
    read = b""
    while wanted not in read:
        piece = found.recv(65536)
        assert piece, read
        read += piece
    return read


def to_end(found: socket.socket) -> bytes:
    """Read until the other side closes."""
    read = b""
    while piece := found.recv(65536):
        read += piece
    return read


def say(url: str, request: bytes) -> bytes:
    """Send bytes, and read until the other side closes."""
    with connection(url) as found:
        found.sendall(request)
        return to_end(found)
