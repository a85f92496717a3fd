"""What the host answers in place of the program (contract, section 2.6, A18 to A23, and section 5)."""

from dataclasses import dataclass
from typing import Literal

from . import log
from .program import Send

ERROR = b"moorage-error"
"""Header that tells the node that the program did not answer, and why."""

Why = Literal["exception", "no-response", "timeout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the host's own."""

    status: int
    why: Why
    text: str

    async def send(self, send: Send, kind: str = "http") -> None:
        """Send it to who made a request, or would have liked a websocket (`websocket.http`)."""
        body = self.text.encode(errors="backslashreplace")
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (ERROR, self.why.encode()),
        ]
        await send({"type": f"{kind}.response.start", "status": self.status, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": body})


LATE = Answer(status=504, why="timeout", text="Program did not respond within `resource.seconds`")
SILENT = Answer(status=500, why="no-response", text="Program returned without sending a response")


def failure(error: BaseException, run: str, *, public: bool) -> Answer:
    """Answer in place of a program that raised; its owner finds the traceback in the log."""
    text = log.traceback_of(error)
    log.say(text)
    if not public:
        withheld = f"Traceback withheld, request {run}; the owner can read it in the program log."
        text = f"Internal error in program. {withheld}"
    return Answer(status=500, why="exception", text=text)
