"""What each rule for a container asks, and what breaks it: a judge gives a remark, or raises Breach or Inapplicable."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from moorage.blobs.names import shown
from moorage.model.jobs import JSON
from moorage.networks.infernet.delivery import KEYS, BadOutput, encode
from moorage.networks.infernet.probe import STREAMED, Breach, Inapplicable, Lost, Probe, Reply
from moorage.networks.infernet.service import ContainerError, Place
from moorage.networks.infernet.wire import BadBody, Failure, load

PATH = "/service_output"
RESOURCES = "/service-resources"
AT_ONCE = 20
ODD: Mapping[str, JSON] = {"{}": {}, '"text"': "text", "[1]": [1], "null": None}
"""Data that the container before may hand on, and that hardly any container can use."""


# Any request


async def ready(probe: Probe) -> str:
    """Ask for a page, whose status does not matter."""
    path = probe.container.moorage.health_path
    try:
        await probe.calls.wait()
        async with probe.calls.page(path, within=probe.patience, follow=False) as answer:
            status = answer.status
    except ContainerError as error:
        raise Breach(f"GET {path}: {error.failure.error}") from None
    return f"GET {path} is answered with HTTP {status}."


async def answers(probe: Probe) -> str:
    """Look whether the whole answer comes."""
    reply = await probe.ask(probe.sample)
    return f"It took {reply.took:.2g} s."


async def exists(probe: Probe) -> str:
    """Look for the route, and whether it is reached at once."""
    reply = await probe.ask(probe.sample)
    if reply.status in {404, 405}:
        raise Breach(f"POST {PATH}: {reply}")
    if not reply.path.endswith(PATH):
        return f"It redirects to {reply.path}, which costs each request a second one: serve {PATH} itself."
    return ""


async def succeeds(probe: Probe) -> str:
    """Look at the status alone."""
    reply = await probe.ask(probe.sample)
    if reply.status in {401, 403}:
        raise Breach(str(reply), hint="Give its `bearer` in the configuration, or have it ask for none.")
    if probe.is_sample and reply.refuses:
        raise Inapplicable(f"It refuses the sample data; give real data with --data. {reply}")
    if not reply.ok:
        raise Breach(str(reply))
    return f"HTTP {reply.status}"


async def typed(probe: Probe) -> str:
    """Look at the media type of a success."""
    reply = await _success(probe)
    if not reply.is_json:
        raise Breach(str(reply))
    return str(reply.media_type)


async def valid(probe: Probe) -> str:
    """Read a success as strictly as the node does, whatever its media type."""
    reply = await _success(probe)
    if not reply.body.strip():
        return "The body is empty, which counts as null."
    try:
        load(reply.body)
    except BadBody as error:
        raise Breach(f"{error.text.removeprefix('body: ')}. {reply}") from None
    return ""


async def _success(probe: Probe) -> Reply:
    reply = await probe.ask(probe.sample)
    if not reply.ok:
        raise Inapplicable("It refuses the sample data.")
    return reply


async def again(probe: Probe) -> str:
    """Ask one time after the other on what is one connection, if the container keeps it."""
    try:
        replies = [await probe.send(probe.sample) for _ in range(2)]
    except Lost as lost:
        raise Breach(f"A request after the first: {lost}") from None
    return "" if replies[-1].kept else "It closes each connection after its answer: allowed, but slower."


async def crowd(probe: Probe) -> str:
    """Ask many times at once, and expect what one alone got."""
    alone = await probe.ask(probe.sample)
    within = min(probe.container.moorage.timeout, probe.patience + AT_ONCE * alone.took)
    defects = await asyncio.gather(*(_differs(probe, alone, within) for _ in range(AT_ONCE)))
    others = Counter(filter(None, defects))
    if others:
        what, _ = others.most_common(1)[0]
        raise Breach(f"{others.total()} of {AT_ONCE} were not answered as one alone was: {what}")
    return ""


async def _differs(probe: Probe, alone: Reply, within: float) -> str:
    try:
        reply = await probe.send(probe.sample, within=within)
    except Lost as lost:
        return str(lost)
    return "" if reply.status == alone.status else str(reply)


# Data and errors


async def robust(probe: Probe) -> str:
    """Hand on odd data, and accept a success or an error in JSON."""
    told = []
    for name, data in ODD.items():
        reply = await probe.ask(probe.offchain(data))
        if not (reply.ok or reply.is_json):
            raise Breach(f"data {name}: {reply}")
        told.append(f"{name}: HTTP {reply.status}")
    return ", ".join(told)


async def honest(probe: Probe) -> str:
    """Look for an error in what has the status of a success."""
    for data in (probe.data, {}, None):
        reply = await probe.ask(probe.offchain(data))
        if reply.ok and _reports_error(reply):
            raise Breach(f"data {shown(str(data))}: {reply}")
    return ""


def _reports_error(reply: Reply) -> bool:
    """Tell whether an answer looks like an error: off the chain, `code` may be anything else, such as a program."""
    value = None if isinstance(reply.outcome, Failure) else reply.outcome.value
    if not isinstance(value, dict):
        return False
    code = str(value.get("code"))
    return bool(value.get("error")) or (len(code) == 3 and code.isdecimal() and code[0] in "45")


# The chain


async def onchain(probe: Probe) -> str:
    """Give input from the chain, and ask for output for it."""
    return await _taken(probe, probe.from_chain(Place.CHAIN))


async def first(probe: Probe) -> str:
    """Give input from the chain, and ask for output for the next container."""
    return await _taken(probe, probe.from_chain(Place.OFFCHAIN))


async def last(probe: Probe) -> str:
    """Give the output of a container, and ask for output for the chain."""
    return await _taken(probe, await _last_body(probe))


async def delegated(probe: Probe) -> str:
    """Give data as from off the chain, and ask for output for the chain."""
    return await _taken(probe, probe.to_chain(probe.data))


async def empty(probe: Probe) -> str:
    """Give input from the chain that is empty, and accept a success or an error in JSON."""
    reply = await probe.ask(probe.empty)
    if not (reply.ok or reply.is_json):
        raise Breach(f'data "": {reply}')
    return f"HTTP {reply.status}"


async def _taken(probe: Probe, body: bytes) -> str:
    await _needs_json(probe)
    reply = await probe.ask(body)
    if reply.refuses:
        raise Inapplicable(f"It does not take this. {reply}")
    if isinstance(reply.outcome, Failure):
        raise Breach(str(reply))
    return f"HTTP {reply.status}"


async def _needs_json(probe: Probe) -> None:
    """Spare a container whose plain answers are no JSON that each rule repeats it."""
    reply = await probe.ask(probe.sample)
    if reply.ok and isinstance(reply.outcome, Failure):
        raise Inapplicable("Its answers are no JSON, as reported above.")


async def _last_body(probe: Probe) -> bytes:
    """Write what the last of several containers is sent, taking for the one before what this one itself gives."""
    for body in (probe.from_chain(Place.OFFCHAIN), probe.sample):
        with suppress(Breach, Inapplicable):
            outcome = (await probe.ask(body)).outcome
            if not isinstance(outcome, Failure):
                return probe.to_chain(outcome.value)
    raise Inapplicable("There is no output of its own to hand on.")


# Output for the chain


async def objects(probe: Probe) -> str:
    """Look for what cannot be delivered at all."""
    for what, output in await _outputs(probe):
        if (error := _refusal(output)) is not None:
            raise Breach(f"{what}: {error}: {shown(str(output))}")
    return ""


async def complete(probe: Probe) -> str:
    """Look for what would be delivered as a string and was surely not meant to be."""
    remark = ""
    for what, output in await _objects(probe):
        missing = [key for key in KEYS if key not in output]
        if missing:
            text = encode(output, string_output=probe.container.moorage.string_output).output[64:].rstrip(b"\0")
            remark = f"{what}: goes on chain as the string {shown(text.decode())}"
        if 0 < len(missing) <= 2:  # with three of the names, the five were meant; one or two may be its own
            raise Breach(f"without {', '.join(missing)}, {remark}")
    return remark and f"No five keys, so {remark}"


async def hexadecimal(probe: Probe) -> str:
    """Look into the five keys."""
    found = [(what, output) for what, output in await _objects(probe) if _has_five(output)]
    if not found:
        raise Inapplicable("No answer has the five keys.")
    for what, output in found:
        try:
            encode(output)
        except BadOutput as error:
            raise Breach(f"{what}: {error}: {shown(str(output))}") from None
        for key in KEYS:
            if output[key] and output[key].strip().startswith("0x"):
                raise Breach(
                    f"{what}: {key} begins with 0x, which the network's own node refuses: {shown(output[key])}"
                )
    return ""


async def proves(probe: Probe) -> str:
    """Require a proof, of a container that says it gives them."""
    if not probe.container.generates_proofs:
        raise Inapplicable("`generates_proofs` is not set for it.")
    await _needs_json(probe)
    for body in (probe.from_chain(Place.CHAIN, proof=True), probe.to_chain(probe.data, proof=True)):
        reply = await probe.ask(body)
        if not reply.refuses:
            return _proof(reply)
    raise Inapplicable(f"It gives no output for the chain. {reply}")


def _proof(reply: Reply) -> str:
    outcome = reply.outcome
    if isinstance(outcome, Failure) or not _has_five(outcome.value):
        raise Breach(f"Not the five keys: {reply}")
    try:
        proof = encode(outcome.value).proof
    except BadOutput as error:
        raise Breach(f"{error}: {reply}") from None
    if not proof:
        raise Breach(f"proof is {outcome.value['proof']!r}: {reply}")
    return f"{len(proof)} bytes"


async def _outputs(probe: Probe) -> list[tuple[str, JSON]]:
    """Give what came as output for the chain; raises Inapplicable if nothing did."""
    await _needs_json(probe)
    bodies = {"input from the chain": probe.from_chain(Place.CHAIN), "delegated input": probe.to_chain(probe.data)}
    with suppress(Inapplicable):
        bodies["last of several containers"] = await _last_body(probe)
    found: list[tuple[str, JSON]] = []
    for what, body in bodies.items():
        with suppress(Breach, Inapplicable):
            outcome = (await probe.ask(body)).outcome
            if not isinstance(outcome, Failure):
                found.append((what, outcome.value))
    if not found:
        raise Inapplicable("It gives no output for the chain.")
    return found


async def _objects(probe: Probe) -> list[tuple[str, dict[str, JSON]]]:
    """Give of the output for the chain what `objects` lets pass; raises Inapplicable if there is nothing."""
    found = [(what, output) for what, output in await _outputs(probe) if _refusal(output) is None]
    if not found:
        raise Inapplicable("It gives no object for the chain.")
    return found


def _refusal(output: JSON) -> BadOutput | None:
    try:
        encode({"code": output.get("code")} if isinstance(output, dict) else output)
    except BadOutput as error:
        return error
    return None


def _has_five(output: JSON) -> bool:
    return isinstance(output, dict) and all(key in output for key in KEYS)


# Others


async def resources(probe: Probe) -> str:
    """Ask what the container offers, if it has the route."""
    try:
        reply = await probe.get(RESOURCES)
    except Lost as lost:
        raise Breach(f"GET {RESOURCES}: {lost}", lost.hint) from None
    if reply.status in {404, 405}:
        raise Inapplicable(f"It has none (HTTP {reply.status}), nor need it.")
    try:
        load(reply.body)
    except BadBody:
        raise Breach(f"GET {RESOURCES}: {reply}") from None
    if reply.status != 200:
        raise Breach(f"GET {RESOURCES}: {reply}")
    return ""


async def streams(probe: Probe) -> str:
    """Ask for a stream, and look at its beginning."""
    reply = await probe.ask(probe.streaming, streamed=True)
    if reply.refuses:
        raise Inapplicable(f"It does not stream. {reply}")
    if not reply.ok or not reply.body:
        raise Breach(str(reply))
    if reply.is_json:
        return "It answers JSON: destination 2 makes no difference to it."
    pieces = "one piece" if reply.pieces == 1 else f"{reply.pieces} pieces over {reply.seconds:.2g} s"
    return f"{'more than ' if len(reply.body) > STREAMED else ''}{len(reply.body)} bytes in {pieces}"
