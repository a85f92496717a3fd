"""`moorage service`: what runs long and is shared by jobs."""

import sys
from typing import Annotated

from cyclopts import App as Commands
from rich.text import Text

from moorage.cli.options import help_of
from moorage.cli.render import moment, out, print_facts, print_json, print_table, printable, seconds, size
from moorage.cli.session import connect

service = Commands(name="service", help="Show what runs long and is shared by jobs, such as containers.")

Key = Annotated[str, help_of("Key of a service, such as infernet:echo; `moorage service list` tells it.")]
Json = Annotated[bool, help_of("Print one JSON document.")]

LOG_LINES = 20
"""Last lines of its output that are shown with a service."""


@service.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the services that the node has started since it runs."""
    with connect() as client:
        services = client.services()
    if json:
        print_json(services)
        return
    rows = [
        (each.key, each.state, each.restarts, moment(each.started_at), seconds(each.load.cpu), size(each.load.memory),
         (each.reason or "").partition("\n")[0])
        for each in services
    ]  # fmt: skip
    print_table(("KEY", "STATE", "RESTARTS", "SINCE", "CPU", "MEMORY", "REASON"), rows, empty="There are no services.")


@service.command
def show(key: Key, /, *, json: Json = False) -> None:
    """Show a service: its state and why, what it uses now, and what it wrote last."""
    with connect() as client:
        found = client.service(key)
    if json:
        print_json(found)
        return
    print_facts(
        {
            "key": found.key,
            "state": found.state,
            "reason": found.reason,
            "used by": f"{found.leases} job{'' if found.leases == 1 else 's'}",
            "restarts": found.restarts,
            "since": moment(found.started_at),
            "cpu": seconds(found.load.cpu),
            "memory": size(found.load.memory),
            "processes": found.load.pids,
        }
    )
    lines = found.log_tail.splitlines()[-LOG_LINES:]
    for line in ["", *lines] if lines else []:
        out().print(Text(printable(line)))


@service.command
def logs(key: Key, /, *, json: Json = False) -> None:
    """Print what a service wrote last; the node keeps some kilobytes of it."""
    with connect() as client:
        found = client.service(key)
    if json:
        print_json({"key": found.key, "log_tail": found.log_tail})
    else:
        sys.stdout.write(found.log_tail)
