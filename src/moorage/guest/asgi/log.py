"""What the program prints, each line marked with the run that it belongs to (contract, section 2.6, A29)."""

import io
import os
import sys
import traceback
from contextvars import ContextVar

OWN = os.path.dirname(__file__)  # noqa: PTH120 - as it is in tracebacks
RUN: ContextVar[str | None] = ContextVar("moorage-run", default=None)
"""Id of the run that this task belongs to."""


class Marked(io.TextIOWrapper):
    """A standard stream; lines of a run are written one by one, as soon as they end, everything else as ever."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._unfinished: dict[str, str] = {}

    def write(self, text: str) -> int:
        """Write; the end of a run's text waits for the rest of its line."""
        run = RUN.get()
        if run is None:
            return super().write(text)
        *lines, rest = (self._unfinished.pop(run, "") + text).split("\n")
        if rest:
            self._unfinished[run] = rest
        for line in lines:
            self._put(run, line)
        return len(text)

    def finish(self, run: str) -> None:
        """Write what a run has left of a line."""
        if rest := self._unfinished.pop(run, ""):
            self._put(run, rest)

    def finish_all(self) -> None:
        """Write what all of them have left."""
        for run in tuple(self._unfinished):
            self.finish(run)
        self.flush()

    def _put(self, run: str, line: str) -> None:
        self.flush()
        data = f"\x1e{run}\x1f{line}\n".encode(self.encoding, "backslashreplace")
        while data:
            data = data[os.write(self.fileno(), data) :]


out, err = Marked(sys.stdout), Marked(sys.stderr)  # type: ignore[arg-type]


def capture() -> None:
    """Put the marked streams in the place of Python's own."""
    sys.stdout, sys.stderr = out, err


def finish(run: str) -> None:
    """Write what a run has left of its lines."""
    out.finish(run)
    err.finish(run)


def finish_all() -> None:
    """Write everything that is left: the process ends."""
    out.finish_all()
    err.finish_all()


def traceback_of(error: BaseException) -> str:
    """Describe an exception as Python does, without the frames of the host that come first."""
    frames = error.__traceback__
    while frames and frames.tb_next and os.path.dirname(frames.tb_frame.f_code.co_filename) == OWN:  # noqa: PTH120
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def say(text: str) -> None:
    """Tell the owner of the program something."""
    err.write(text if text.endswith("\n") else f"{text}\n")
