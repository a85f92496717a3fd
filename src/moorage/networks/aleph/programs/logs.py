"""What a program says, line by line, with its time and the run that said it (contract, section 2.6, A29)."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from moorage.model.limits import KIB, MIB

MOST = 4 * MIB
"""Bytes of a file; there is one before it, so that between one and two times this is kept of each program."""
LONGEST = 16 * KIB
"""Bytes of a line; a longer one is cut into several."""
TAG, END = b"\x1e", b"\x1f"
"""What the program's host puts around the id of a run at the beginning of a line."""

Source = Literal["stdout", "stderr", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a program, or of the node about it (`system`)."""

    time: float
    source: Source
    text: str
    run: str | None = None


@dataclass(slots=True)
class ProgramLog:
    """The log of one program, kept in a file."""

    path: Path
    _rest: dict[str, bytes] = field(default_factory=dict)
    _listeners: list[Callable[[Line], object]] = field(default_factory=list)

    def write(self, stream: Source, chunk: bytes) -> None:
        """Take what the program wrote."""
        *lines, rest = (self._rest.get(stream, b"") + chunk).split(b"\n")
        while len(rest) > LONGEST:
            lines.append(rest[:LONGEST])
            rest = rest[LONGEST:]
        self._rest[stream] = rest
        self._keep([_line(stream, line) for line in lines])

    def say(self, text: str, *, run: str | None = None) -> None:
        """Add a line of the node's own."""
        self._keep([Line(time=time.time(), source="system", text=text, run=run)])

    def flush(self) -> None:
        """Take an unfinished line as finished: the program has ended."""
        for stream, rest in self._rest.items():
            if rest:
                self._keep([_line(stream, rest)])  # type: ignore[arg-type]
        self._rest.clear()

    def lines(self, most: int = 10_000) -> list[Line]:
        """Read the latest lines, oldest first."""
        found: deque[Line] = deque(maxlen=most)
        for path in (self._older, self.path):
            with suppress(FileNotFoundError), path.open() as file:
                found.extend(_lines(file))
        return list(found)

    def listen(self, callback: Callable[[Line], object]) -> Callable[[], None]:
        """Call back with each line as it comes; the result ends it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def remove(self) -> None:
        """Forget all of it."""
        for path in (self._older, self.path):
            path.unlink(missing_ok=True)

    @property
    def _older(self) -> Path:
        return self.path.with_suffix(".old")

    def _keep(self, lines: list[Line]) -> None:
        if not lines:
            return
        with suppress(OSError):  # a full disk costs the log, not the program
            with self.path.open("a") as file:
                file.writelines(f"{json.dumps(asdict(line))}\n" for line in lines)
                full = file.tell() > MOST
            if full:
                self.path.replace(self._older)
        for line in lines:
            for listener in tuple(self._listeners):
                listener(line)


def _line(stream: Source, raw: bytes) -> Line:
    run = None
    if raw.startswith(TAG) and END in raw:
        tag, raw = raw[1:].split(END, 1)
        run = tag.decode(errors="replace")
    return Line(time=time.time(), source=stream, text=raw.decode(errors="replace"), run=run)


def _lines(file: "Iterator[str]") -> Iterator[Line]:
    for text in file:
        with suppress(ValueError, TypeError):  # cut off by a crash
            yield Line(**json.loads(text))
