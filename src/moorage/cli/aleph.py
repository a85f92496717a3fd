"""`moorage aleph`: what only Aleph's messages and programs have."""

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App as Commands
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from moorage.cli.options import help_of
from moorage.cli.render import out, print_facts, print_grid, print_json, print_table, printable
from moorage.cli.session import connect
from moorage.errors import USAGE, BadUsage, SourceNotFound

if TYPE_CHECKING:
    from moorage.networks.aleph.explain import Explanation, Proof
    from moorage.networks.aleph.fields import Field
    from moorage.networks.aleph.messages.problems import Problem

SHOWN = 72
"""Characters of a value that a person sees; --json has it whole."""

DIFFERENT = 1
"""Exit status where a run that was made again came to something else."""

aleph = Commands(name="aleph", help="What only Aleph's messages and programs have.")

Json = Annotated[bool, help_of("Print one JSON document.")]


@aleph.command
def explain(
    message: Annotated[
        str | Path,
        help_of("A JSON file with a message of any kind and generation, or - for standard input."),
        Parameter(allow_leading_hyphen=True),
    ],
    /,
    *,
    json: Json = False,
) -> int:
    """Tell what a message means, field by field, or all that is wrong with it. Needs no node.

    Exit status: 0 the message is right, 2 it is wrong.
    """
    from moorage.networks.aleph.explain import explain as explained

    explanation = explained(_read(str(message)))
    if json:
        print_json(explanation.document)
    else:
        _show(explanation)
    return USAGE if explanation.problems else 0


@aleph.command
def post(
    kind: Annotated[str, Parameter(name="TYPE", help="Type of the POST, as its author chooses it.")],
    content: Annotated[str, Parameter(name="JSON", help="What it says, as JSON.", allow_leading_hyphen=True)],
    /,
    *,
    channel: Annotated[str | None, help_of("Channel of the message.")] = None,
    json: Json = False,
) -> None:
    """Publish a POST on this node, signed with its key: programs that subscribed to such messages get it.

    While no server runs this ends once they have.
    """
    try:
        body = {"type": kind, "content": json_text.loads(content), "channel": channel}
    except (ValueError, RecursionError) as error:
        hint = """Quote it for the shell: '{"key": 1}', or '"text"'."""
        raise BadUsage(f"{content!r} is not valid JSON: {error}", hint=hint) from None
    with connect(working=True) as client:
        published = client.ask("POST", "aleph", "posts", body=body)
    if json:
        print_json(published)
    else:
        out().print(published["item_hash"])


@aleph.command
def replay(
    run: Annotated[str, help_of("Id of a run: a response names it in Aleph-Run-Id; a run of a trigger has its job's.")],
    /,
    *,
    json: Json = False,
) -> int:
    """Make a run of a program again, with exactly the files it had, and compare what comes of it.

    It runs in an instance of its own. Persistent volumes begin as those of a new program and are removed afterwards;
    the cache is the program's own, and messages that it publishes are published.
    Exit status: 0 the same came of it, 1 something else.
    """
    with connect() as client:
        found = client.ask("POST", "aleph", "runs", run, "replay")
    if json:
        print_json(found)
    else:
        rows = [
            (each["name"], each["recorded"], each["again"], "equal" if each["equal"] else "different")
            for each in found["compared"]
        ]
        print_table(("", "RECORDED", "AGAIN", ""), rows, empty="")
    return 0 if found["equal"] else DIFFERENT


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        hint = "Give the path of a JSON file, or `-` for standard input."
        raise SourceNotFound(f"{name}: {error.strerror}.", hint=hint) from None


def _show(explanation: "Explanation") -> None:
    print_facts(
        {
            "kind": explanation.kind or "unknown",
            "generation": explanation.generation,
            "told by": explanation.told_by,
            "item hash": explanation.item_hash,
            "hash": _proof(explanation.hash),
            "signature": _proof(explanation.signature),
        }
    )
    if explanation.fields:
        out().print()
        _show_fields(explanation.fields)
    if explanation.warnings or explanation.problems:
        out().print()
        _show_problems(explanation.warnings, explanation.problems)


def _proof(proof: "Proof") -> str:
    words = {"holds": "holds", "fails": "does not hold", "unknown": "not verified", "absent": "none"}
    return f"{words[proof.verdict]}. {proof.message}"


def _show_fields(fields: tuple["Field", ...]) -> None:
    """Print each field with its value, where that came from, and what it does; not those that nobody gave."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for field in fields:
        if field.origin != "default" or field.value not in (None, "", (), {}):
            table.add_row(Text(printable(field.path)), _told(field))
    print_grid(table)


def _told(field: "Field") -> Text:
    name = f" `{field.name}`" if field.origin == "renamed" else ""
    text = Text.assemble((_value(field.value), "bold"), (f"  {field.origin}{name}", "dim"))
    return text.append(f"\n{printable(field.meaning)}")


def _value(value: object) -> str:
    text = printable(json_text.dumps(value, ensure_ascii=False))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _show_problems(warnings: tuple["Problem", ...], problems: tuple["Problem", ...]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for word, style, items in (("warning", "yellow", warnings), ("wrong", "bold red", problems)):
        for item in items:
            table.add_row(Text(word, style=style), Text(printable(_sentences(item))))
    print_grid(table)


def _sentences(problem: "Problem") -> str:
    place = f"`{problem.path}`: " if problem.place else ""
    fix = f" {problem.fix[0].upper()}{problem.fix[1:]}" if problem.fix else ""
    return f"{place}{problem.rule}.{fix}"
