"""Whether a program keeps the network's contract, and its message too (contract, sections 2.1 to 2.11 and 3.5)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.errors import ProgramUnavailable
from moorage.model.jobs import JSON
from moorage.model.limits import MIB
from moorage.networks.aleph.explain import Proof, explain
from moorage.networks.aleph.manifest import FILE
from moorage.networks.aleph.messages.matching import match
from moorage.networks.aleph.messages.program import cron_path
from moorage.networks.aleph.programs.deployments import Refusal
from moorage.networks.aleph.programs.jobs import appointment, cancellable, delivery
from moorage.networks.aleph.programs.launching import SHUTDOWN
from moorage.networks.aleph.programs.logs import Line
from moorage.networks.aleph.programs.samples import asked_for, completed
from moorage.networks.aleph.trial import Breach, Inapplicable, Trial
from moorage.networks.base import Context, Finding

if TYPE_CHECKING:
    from moorage.networks.aleph.surface import AlephSurface

NONSENSE = "/moorage-check/there-is-no-such-page"
AT_ONCE = 2


async def check(ctx: Context, home: "AlephSurface") -> tuple[Finding, ...]:
    """Judge a program's message, then start the program and try it.

    It is stopped on the way, and runs its schedule and its handler of messages once. Raises BadManifest,
    ProgramUnavailable, JobCancelled.
    """
    ctx.started()
    of_message = _of_message(ctx.layers["app"] / FILE)
    if any(finding.verdict == "failed" for finding in of_message):
        return of_message
    address = await home.local.address(ctx.app.name, ctx.layers)
    found = home.registry.find(address)
    if isinstance(found, Refusal):
        raise ProgramUnavailable(f"{found.error}.")
    asked, lines = ctx.job.spec.parameters, list[Line]()
    trial = Trial(
        services=home.services,
        runs=home.runs,
        instance=found,
        address=address,
        request=asked.get("request") or {"method": "GET", "path": "/", "headers": [], "body": ""},
        event=asked.get("event"),
    )
    unlisten = found.log.listen(lines.append)
    try:
        of_program = await cancellable(ctx, _of_program(trial))
    finally:
        unlisten()
        home.registry.keep_persistent()  # it was stopped
    ctx.collecting()
    if any(finding.verdict == "failed" for finding in of_program):
        ctx.log("stderr", "".join(f"{line.text}\n" for line in lines).encode())
    return of_message + of_program


# The message


def _of_message(path: Path) -> tuple[Finding, ...]:
    rule, genuine = "its message is right", "its hash and signature hold"
    if not path.is_file():
        why = "The node makes and signs the message of a folder itself."
        return tuple(Finding(rule=name, verdict="not_applicable", message=why) for name in (rule, genuine))
    found = explain(path.read_bytes())
    if found.problems:
        return (Finding(rule=rule, verdict="failed", message="\n".join(map(str, found.problems))),)
    said = " ".join(map(str, found.warnings))
    return (
        Finding(rule=rule, verdict="passed", message=f"It is a program as of {found.generation}. {said}".rstrip()),
        _genuine(genuine, found.hash, found.signature),
    )


def _genuine(rule: str, *proofs: Proof) -> Finding:
    said = " ".join(dict.fromkeys(proof.message for proof in proofs))
    unproven = any(proof.verdict != "holds" for proof in proofs)
    return Finding(rule=rule, verdict="not_applicable" if unproven else "passed", message=said)


# The program


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; `judge` gives a remark, or raises Breach or Inapplicable."""

    name: str
    judge: Callable[[Trial], Awaitable[str]]
    hint: str
    gate: bool = False
    """Whether nothing further can be told of a program that breaks it."""


async def _of_program(trial: Trial) -> tuple[Finding, ...]:
    return tuple([await _finding(rule, trial) for rule in RULES])


async def _finding(rule: Rule, trial: Trial) -> Finding:
    if trial.blocked:
        return Finding(rule=rule.name, verdict="not_applicable", message=trial.blocked)
    try:
        return Finding(rule=rule.name, verdict="passed", message=await rule.judge(trial))
    except Inapplicable as reason:
        return Finding(rule=rule.name, verdict="not_applicable", message=str(reason))
    except Breach as breach:
        if rule.gate:
            trial.blocked = f"Not tried: first mend “{rule.name}”."
        return Finding(rule=rule.name, verdict="failed", message=str(breach), hint=breach.hint or rule.hint)


def _over_http(trial: Trial) -> None:
    if not trial.instance.deployment.program.on.http:
        raise Inapplicable("Requests do not reach it: `on.http` is false.")


async def _starts(trial: Trial) -> str:
    await trial.stop()
    return f"It took {await trial.start():.1f} s."


async def _answers(trial: Trial) -> str:
    _over_http(trial)
    return f"{(await trial.own_request()).told}."


async def _knows_nothing_of_nonsense(trial: Trial) -> str:
    _over_http(trial)
    return f"{(await trial.get(NONSENSE)).told}."


async def _answers_at_once(trial: Trial) -> str:
    _over_http(trial)
    answers = await asyncio.gather(*(trial.get(trial.path) for _ in range(AT_ONCE)), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return ""


async def _says_nothing_below_a_head(trial: Trial) -> str:
    _over_http(trial)
    body = await trial.head()
    if body:
        raise Breach(f"HEAD {trial.path} was answered with a body of {len(body)} bytes.")
    return ""


async def _bears_leaving(trial: Trial) -> str:
    _over_http(trial)
    before = trial.services.state(trial.key)
    await trial.leave()
    await trial.get(trial.path)
    after = trial.services.state(trial.key)
    if before and after and before.started_at != after.started_at:
        raise Breach("It ended when a client had left before its answer was there.")
    return ""


async def _keeps_its_times(trial: Trial) -> str:
    program = trial.instance.deployment.program
    if program.on.cron is None:
        raise Inapplicable("It has no schedule.")
    answer = await trial.ask(appointment(trial.call(), cron_path(program), 0))
    if answer.head.status >= 400:
        raise Breach(f"{answer.told}.")
    return f"{answer.told}."


async def _takes_messages(trial: Trial) -> str:
    subscriptions = trial.instance.deployment.program.on.message
    if trial.event is None and not subscriptions:
        raise Inapplicable("It subscribes to no messages.")
    message = completed(trial.event if trial.event is not None else _wanted(subscriptions[0]))
    answer = await trial.ask(delivery(trial.call(), message))
    if answer.head.status >= 400:
        raise Breach(f"{answer.told}.")
    kind = "given" if trial.event is not None else "synthetic"
    return f"A {kind} message was taken: {answer.body.decode(errors='replace')}"


def _wanted(subscription: JSON) -> dict[str, JSON]:
    wanted = asked_for(subscription)
    if not isinstance(wanted, dict) or not match(subscription, completed(wanted)):
        raise Inapplicable("No message could be made up that its first subscription takes; give one as `message`.")
    return wanted


async def _exports(trial: Trial) -> str:
    if trial.instance.deployment.program.export is None:
        raise Inapplicable("It has no `export`.")
    made = await trial.runs.exported(trial.instance, trial.call().run, None)
    if made is None:
        raise Breach("Its export could not be stored.")
    return f"{made.size} bytes, {made.file_hash}."


async def _stays_within_memory(trial: Trial) -> str:
    state, load = trial.services.state(trial.key), await trial.services.load(trial.key)
    if state is None or state.state != "ready":
        raise Breach(state.reason if state and state.reason else "It has ended.")
    if load.memory is None:
        raise Inapplicable("This machine does not tell what it uses.")
    return f"It uses {load.memory // MIB} of {trial.instance.deployment.program.resources.memory} MiB."


async def _ends(trial: Trial) -> str:
    seconds = await trial.stop()
    if seconds >= SHUTDOWN:
        raise Breach(f"It did not end within {SHUTDOWN:g} s.")
    return f"It took {seconds:.1f} s."


async def _starts_again(trial: Trial) -> str:
    await trial.start()
    if trial.instance.deployment.program.on.http:
        return f"{(await trial.get(trial.path)).told}."
    return ""


RULES = (
    Rule(
        name="it starts in time",
        judge=_starts,
        hint="See its log above. An ASGI program must be importable as its entrypoint says; an executable must listen "
        "on port 8080.",
        gate=True,
    ),
    Rule(
        name="it answers a request",
        judge=_answers,
        hint="See its log above for the error. Ask for a path that it has with --request 'GET /path'.",
    ),
    Rule(
        name="what it does not have is its own to answer",
        judge=_knows_nothing_of_nonsense,
        hint="Answer what is not there with status 404; the answer goes to the client as it is.",
    ),
    Rule(
        name=f"{AT_ONCE} requests at once are answered",
        judge=_answers_at_once,
        hint="All requests share one process. Guard what they share, and open databases with a timeout.",
    ),
    Rule(
        name="an answer to HEAD has no body",
        judge=_says_nothing_below_a_head,
        hint="Send the same head as for GET and nothing below it.",
    ),
    Rule(
        name="a client that leaves does it no harm",
        judge=_bears_leaving,
        hint="Writing to a client that is gone fails: let that end the request, not the process.",
    ),
    Rule(
        name="a call of its schedule succeeds",
        judge=_keeps_its_times,
        hint="The schedule asks GET / or the path in `metadata.cron_path`: answer with a status below 400.",
    ),
    Rule(
        name="a message that it subscribed to is taken",
        judge=_takes_messages,
        hint="Nobody published this message: it is what the first subscription asks for and little more. Let the "
        "handler bear what others publish, or give a real one with --data '{\"message\": {…}}'.",
    ),
    Rule(
        name="its export is stored",
        judge=_exports,
        hint="See its log above; the directory that `export.mount` names must be there.",
    ),
    Rule(
        name="it stays within its memory",
        judge=_stays_within_memory,
        hint="Raise `resources.memory`, or let it use less.",
    ),
    Rule(
        name="it ends when it is told to",
        judge=_ends,
        hint="End at SIGTERM: after `exec` a shell script passes it on; in ASGI end the lifespan at shutdown.",
    ),
    Rule(
        name="it starts again",
        judge=_starts_again,
        hint="What it left behind must not keep it from starting: volumes keep what was written there.",
    ),
)
"""In the order in which they are tried."""
