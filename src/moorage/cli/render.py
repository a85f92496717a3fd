"""How things look on a terminal: tables, facts, progress, errors, and the commands that lead on."""

import contextlib
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.filesize import decimal
from rich.status import Status
from rich.table import Table
from rich.text import Text

from moorage.errors import MoorageError

STYLES = {
    "succeeded": "green",
    "PUBLISHED": "green",
    "running": "yellow",
    "TESTING": "yellow",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "ERROR": "red",
    "cancelled": "dim",
    "REMOVED": "dim",
}
"""Colours of states; the others have none."""


def out() -> Console:
    """Give standard output; a pipe gets lines as long as they are."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)


def err() -> Console:
    """Give standard error, where everything goes that is not the result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under their headings, or say on standard error that there are none."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*map(_cell, row))
    if table.row_count:
        print_grid(table)
    else:
        err().print(empty)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values below each other; what is None is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, _cell(value))
    print_grid(table)


def print_grid(table: Table) -> None:
    """Print a table on standard output, without blanks at the ends of its lines."""
    console = out()
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def print_error(error: MoorageError, *, as_json: bool = False) -> None:
    """Print one block on standard error; with --json also a document on standard output."""
    if as_json:
        print_json({"error": error.info})
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), printable(error.message)))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), printable(error.hint)))
    console.print(Text.assemble(("code: ", "bold"), error.code))


def print_warning(message: str) -> None:
    """Print a warning that nobody should miss, on standard error."""
    err().print(Text(printable(message), style="bold red"))


def note(message: str) -> None:
    """Print a remark on standard error, if anybody reads it."""
    with contextlib.suppress(BrokenPipeError):
        err().print(Text(printable(message), style="dim"))


def print_next(commands: Iterable[tuple[str, str]]) -> None:
    """Print the exact commands to look further, each with what it does, on standard error."""
    rows = [(f"{program()} {command}", meaning) for command, meaning in commands]
    width = max(len(command) for command, _ in rows)
    err().print()
    for command, meaning in rows:
        err().print(Text.assemble((command.ljust(width), "bold"), "  ", (meaning, "dim")))


def program() -> str:
    """Give the name by which the person can call this program again."""
    if shutil.which("moorage"):
        return "moorage"
    return shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "moorage" else "moorage"


def size(number: int | None) -> str | None:
    """Write bytes for people, such as `1.2 MB`."""
    return None if number is None else decimal(number)


def seconds(number: float | None) -> str | None:
    """Write seconds for people, such as `0.31 s` or `2 min 5 s`."""
    if number is None:
        return None
    return f"{number:.2f} s" if number < 60 else f"{int(number) // 60} min {int(number) % 60} s"


def moment(time: float | None) -> str | None:
    """Write a Unix time as local date and time."""
    return None if time is None else datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Progress:
    """What is happening now: one changing line on a terminal's standard error, nothing elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        console = err()
        self._quiet = quiet
        self._status = Status("", console=console) if console.is_terminal and not quiet else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    @property
    def is_seen(self) -> bool:
        """Whether anybody sees the line."""
        return self._status is not None

    def show(self, message: str) -> None:
        """Replace the line."""
        if self._status is not None:
            self._status.update(Text(printable(message), style="dim", overflow="ellipsis", no_wrap=True))
            self._status.start()

    def remark(self, message: str) -> None:
        """Print a line that stays, in its place."""
        self.clear()
        if not self._quiet:
            note(message)

    def clear(self) -> None:
        """Take the line away, to make room for other output."""
        if self._status is not None:
            self._status.stop()


def printable(text: str) -> str:
    """Replace what could steer a terminal: names and messages may come from strangers."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _cell(value: object) -> Text:
    text = "" if value is None else printable(str(value))
    return Text(text, style=STYLES.get(text, ""))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
