"""What the host knows of the program that it serves."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Any]

VERSIONS = {"version": "3.0", "spec_version": "2.0"}
"""Of ASGI, as scopes tell it that uvicorn does not make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An imported program."""

    call: Application
    framework: str | None
    """Package that its application comes from; None if it is a callable of the program's own."""
    whole_path: bool
    """Whether `path` is to include `root_path` (contract, section 2.6, path table)."""


async def run(application: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the program until it is done, also with what it returns to be awaited (contract, section 2.6, A26)."""
    result = await application(scope, receive, send)
    if result is not None and hasattr(result, "__await__"):
        await result
