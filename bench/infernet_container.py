"""An Infernet container that answers at once: the least that can stand behind `POST /service_output`."""

import asyncio
from typing import Any

import httptools
import uvloop

ANSWER = b'{"output": "hello"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
CHUNK = bytes(256 * 1024)
STREAM = 1 << 30


class Container(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._writable = asyncio.Event()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Read."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep what was asked."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer."""
        body, self._body = self._body, b""
        if b'"destination":2' in body.replace(b" ", b""):
            self._task = asyncio.ensure_future(self._stream())
        else:
            self._transport.write(HEAD + ANSWER)

    def pause_writing(self) -> None:
        """Wait for who reads."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    async def _stream(self) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                              b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        for _ in range(STREAM // len(CHUNK)):
            await self._writable.wait()
            self._transport.writelines([b"%x\r\n" % len(CHUNK), CHUNK, b"\r\n"])
        self._transport.write(b"0\r\n\r\n")


async def main() -> None:
    """Listen on a port that the kernel chooses, and say which."""
    listening = await asyncio.get_running_loop().create_server(Container, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
