"""One message of the network that the program has subscribed to (contract, section 2.6, A25 to A27)."""

import json

from .program import VERSIONS, Application, Message, Receive, Scope, Send, run

ALEPH_MESSAGE = "aleph.message"


class Event:
    """The program as an application that takes messages by HTTP, and answers with the first object that it sends."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._result: Message | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the program."""
        body = await _read(receive)
        events = iter([{"type": ALEPH_MESSAGE, "body": body, "more_body": False}])

        async def receive_message() -> Message:
            return next(events, None) or await receive()

        message_scope = {"type": ALEPH_MESSAGE, "asgi": VERSIONS.copy(), "body": body, "state": scope["state"]}
        await run(self._application, message_scope, receive_message, self._take)
        try:
            await send_json(send, {"result": self._result})
        except (TypeError, ValueError):  # keys that JSON does not know, or a dictionary that holds itself
            await send_json(send, {"result": repr(self._result)})

    async def _take(self, message: Message) -> None:
        if self._result is None and isinstance(message, dict):
            self._result = message


async def _read(receive: Receive) -> str:
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body.decode()


async def send_json(send: Send, value: object) -> None:
    """Answer the node; what JSON does not know is given as Python writes it."""
    body = json.dumps(value, default=repr).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
