"""`moorage check`: whether an app keeps its network's contract, rule by rule."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from rich.table import Table
from rich.text import Text

from moorage.cli.ending import fetch, show_ending
from moorage.cli.options import JobOptions, OneRequest, Source, help_of
from moorage.cli.render import Progress, out, print_grid, print_json, print_next, printable
from moorage.cli.run import serves_requests, warn_of_no_isolation
from moorage.cli.session import connect
from moorage.cli.watch import exit_status, to_stderr, watch
from moorage.errors import APP
from moorage.model.jobs import Job
from moorage.model.states import JobState

MARKS = {"passed": ("✓", "green"), "failed": ("✗", "bold red"), "not_applicable": ("\N{EN DASH}", "dim")}
"""Sign and colour of each verdict, in the order in which they are counted."""


def check(
    source: Source,
    /,
    *,
    options: JobOptions | None = None,
    network: Annotated[str | None, help_of("Network of the app, if it is not recognised.")] = None,
    name: Annotated[str | None, help_of("Name of the app; by default that of its source.")] = None,
    request: OneRequest = None,
    json: Annotated[bool, help_of("Print one JSON document, and nothing else on standard output.")] = False,
) -> int:
    """Find out whether an app keeps its network's contract: add it if need be, try it, judge what it does.

    Exit status: 0 no rule is broken, 1 at least one is, 2 bad usage or bad source, 3 the node could not check it,
    130 interrupted or cancelled.
    """
    from moorage.cli.intake import ensure_app

    asked = (options or JobOptions()).check(request=request)
    with connect(working=True) as client, Progress(quiet=json) as progress:
        warn_of_no_isolation(client, asked.isolation)
        app = ensure_app(client, str(source), network=network, name=name, progress=progress)
        serves_requests(app, request)
        job = watch(client, asked.submit(client, app, mode="check"), progress, *([] if json else [to_stderr]))
        ending = fetch(client, app, job, None)
    findings = job.value or []
    counts = _counts(findings)
    if json:
        print_json({"findings": findings, **counts, "job": job, "app": app})
    elif job.state is JobState.SUCCEEDED:
        _show(job, findings, counts)
    else:
        show_ending(ending, quiet=False)
    return APP if counts["failed"] else exit_status(job)


def _counts(findings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(finding["verdict"] for finding in findings)
    return {verdict: found[verdict] for verdict in MARKS}


def _show(job: Job, findings: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        sign, style = MARKS[finding["verdict"]]
        table.add_row(Text(sign, style=style), _told(finding))
    print_grid(table)
    out().print(", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items()))
    if counts["failed"]:
        print_next([(f"job logs {job.id}", "what it wrote"), (f"job show {job.id}", "its history")])


def _told(finding: Mapping[str, Any]) -> Text:
    """Write a rule and what there is to say of it; below one that is broken what was found and how to mend it."""
    text = Text(printable(finding["rule"]), style="dim" if finding["verdict"] == "not_applicable" else "")
    if finding["verdict"] != "failed":
        return text.append(f": {printable(finding['message'])}", style="dim") if finding["message"] else text
    hint = finding["hint"] and f"To mend it: {finding['hint']}"
    for line in filter(None, (finding["message"], hint)):
        text.append(f"\n{printable(line)}")
    return text
