"""`moorage doctor`: what this machine can and cannot enforce."""

import asyncio
from typing import Annotated

from rich.table import Table
from rich.text import Text

from moorage.cli.options import help_of
from moorage.cli.render import print_grid, print_json, printable
from moorage.cli.session import running_node
from moorage.errors import NODE
from moorage.sandbox.base import Check


def doctor(*, json: Annotated[bool, help_of("Print one JSON document.")] = False) -> int:
    """Tell what this machine can and cannot enforce, and how to mend it.

    Exit status: 0 if everything is there that isolation needs, else 3.
    """
    checks = _checks()
    if json:
        print_json(checks)
    else:
        _show(checks)
    return 0 if all(check.ok for check in checks if check.required) else NODE


def _checks() -> list[Check]:
    """Ask the running node, whose limits and rights count, or look at this machine as this user."""
    node = running_node()
    if node is not None:
        with node:
            return node.doctor()
    from moorage.node.config import default_data_dir
    from moorage.sandbox.probe import probe

    return asyncio.run(probe(default_data_dir()))


def _show(checks: list[Check]) -> None:
    table = Table("", "CHECK", "", box=None, pad_edge=False, header_style="bold")
    table.columns[1].no_wrap = True
    for check in checks:
        message = printable(check.message) + (f"\nTo mend it: {printable(check.fix)}" if check.fix else "")
        table.add_row(_mark(check), check.name, message)
    print_grid(table)


def _mark(check: Check) -> Text:
    if check.ok:
        return Text("ok", style="green")
    return Text("missing", style="bold red") if check.required else Text("weaker", style="yellow")
