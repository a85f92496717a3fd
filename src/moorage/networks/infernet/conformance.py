"""Whether a running container keeps the network's contract (sections 1.1, 3.2, 3.3, 3.8, 4.3 and 4.6)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from moorage.model.jobs import JSON
from moorage.networks.base import Finding
from moorage.networks.infernet import judges
from moorage.networks.infernet.calls import Calls
from moorage.networks.infernet.config import Container
from moorage.networks.infernet.delivery import KEYS
from moorage.networks.infernet.judges import AT_ONCE, PATH, RESOURCES
from moorage.networks.infernet.probe import Breach, Inapplicable, Probe


async def check(container: Container, calls: Calls, data: Mapping[str, JSON] | None = None) -> tuple[Finding, ...]:
    """Try every rule on a container, with `data` as its input; without, a refusal of the sample is no failure."""
    probe = Probe(container, calls, data)
    return tuple([await _finding(rule, probe) for rule in RULES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; `judge` gives a remark, or raises Breach or Inapplicable."""

    name: str
    judge: Callable[[Probe], Awaitable[str]]
    hint: str
    gate: bool = False
    """Whether nothing further can be told of a container that breaks it."""


async def _finding(rule: Rule, probe: Probe) -> Finding:
    if probe.blocked:
        return Finding(rule=rule.name, verdict="not_applicable", message=probe.blocked)
    try:
        return Finding(rule=rule.name, verdict="passed", message=await rule.judge(probe))
    except Inapplicable as reason:
        return Finding(rule=rule.name, verdict="not_applicable", message=str(reason))
    except Breach as breach:
        if rule.gate and not probe.blocked:
            probe.blocked = f"Not tried: first mend “{rule.name}”."
        return Finding(rule=rule.name, verdict="failed", message=str(breach), hint=breach.hint or rule.hint)


ANSWER_400 = 'Answer status 400 with JSON: {"code": "400", "name": "Bad Request", "description": "…"}'
_MISSING = (
    f"""Read with `.get("requires_proof", False)`, not `["requires_proof"]`. If it does not stream: {ANSWER_400}."""
)
_SOURCE = f"When source is 0, data is hexadecimal text: bytes.fromhex(data). If it cannot serve this: {ANSWER_400}."

RULES = (
    Rule(
        name="it becomes ready on port 3000",
        judge=judges.ready,
        hint="Listen on 0.0.0.0:3000, as `gunicorn app:app --bind=0.0.0.0:3000` or `uvicorn app:app --host 0.0.0.0 "
        "--port 3000` do, and answer GET / with any status.",
        gate=True,
    ),
    Rule(name="a request is answered in full and in time", judge=judges.answers, hint="", gate=True),
    Rule(
        name=f"POST {PATH} exists",
        judge=judges.exists,
        hint=f'Give it the route: @app.post("{PATH}").',
        gate=True,
    ),
    Rule(
        name="a success has a 2xx status",
        judge=judges.succeeds,
        hint=f"See its log for the error. What is the client's fault is an error of its own: {ANSWER_400}. "
        "If the sample is not for it, give real data with --data.",
        gate=True,
    ),
    Rule(
        name="a connection can be used again",
        judge=judges.again,
        hint="Send as many bytes as Content-Length says, and `Connection: close` before closing it.",
        gate=True,
    ),
    Rule(
        name="an answer has a JSON media type",
        judge=judges.typed,
        hint="Return jsonify(…) or a dict (Flask), a dict or JSONResponse (FastAPI); a str goes out as text.",
    ),
    Rule(
        name="an answer is valid JSON",
        judge=judges.valid,
        hint="Let the framework or json.dumps write it; NaN and Infinity are no JSON: send null.",
    ),
    Rule(
        name="an error has an error status",
        judge=judges.honest,
        hint="The node takes 2xx for a success. Return the status too: `return {…}, 400` (Flask), "
        "`JSONResponse({…}, status_code=400)` (FastAPI).",
    ),
    Rule(
        name="data that it cannot use is refused in JSON",
        judge=judges.robust,
        hint="The container before may hand on any JSON: test `isinstance(data, dict)` and use `data.get(…)`. "
        f"{ANSWER_400}.",
    ),
    Rule(name="input from the chain is taken", judge=judges.onchain, hint=_SOURCE),
    Rule(
        name="empty input from the chain is taken or refused in JSON",
        judge=judges.empty,
        hint=f'A contract without getContainerInputs gives data "". {ANSWER_400}.',
    ),
    Rule(name="input from the chain is taken by the first of several containers", judge=judges.first, hint=_SOURCE),
    Rule(
        name="output for the chain is given by the last of several containers",
        judge=judges.last,
        hint=f"Its data are the output of the one before, as they are. If it cannot be used: {ANSWER_400}.",
    ),
    Rule(
        name="output for the chain is given for delegated input",
        judge=judges.delegated,
        hint=f"When source is 1, data is an object, whatever the destination. If it cannot serve this: {ANSWER_400}.",
    ),
    Rule(
        name="output for the chain is an object without an error code",
        judge=judges.objects,
        hint="When destination is 0, return an object. Give an error the status 400, "
        'and a success no `code` other than "200".',
    ),
    Rule(
        name="output for the chain lacks none of the five keys",
        judge=judges.complete,
        hint=f'Return all of {", ".join(KEYS)}; "" where there is nothing.',
    ),
    Rule(
        name="the five keys hold hexadecimal without 0x",
        judge=judges.hexadecimal,
        hint='Return value.hex() for bytes and "" or null for nothing; take off a 0x with .removeprefix("0x").',
    ),
    Rule(
        name="a proof is there where one is required",
        judge=judges.proves,
        hint="When requires_proof is true, return the five keys with the proof in hexadecimal; or say "
        '`"generates_proofs": false` in its configuration.',
    ),
    Rule(
        name=f"GET {RESOURCES} gives JSON", judge=judges.resources, hint="Return a dict from it, or have no such route."
    ),
    Rule(
        name=f"{AT_ONCE} requests at once are answered",
        judge=judges.crowd,
        hint="Give the server more workers or threads, and guard what they share; or have it given fewer at once: "
        "`concurrency` in its configuration.",
    ),
    Rule(name="a stream is given, without requires_proof in the request", judge=judges.streams, hint=_MISSING),
)
"""In the order in which they are tried: a stream last, since it may keep a container busy that nobody reads from."""
