"""One run of an app, from its work directory to its result (contract, section 2, steps 6 to 15)."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from moorage.errors import InputUnavailable, JobCancelled, JobCrashed, JobTimedOut, MoorageError, OutOfMemory
from moorage.layers.python import python_runtime
from moorage.model.jobs import Result, Usage
from moorage.networks.base import Context, Finding
from moorage.networks.infrax import texts
from moorage.networks.infrax.arguments import Arguments
from moorage.networks.infrax.manifest import MAIN, Knobs, knobs_of
from moorage.sandbox.base import SANDBOX_UID, Mount, Overlay, ProcessSpec, ReadOnly
from moorage.sandbox.supervise import Outcome

APP = "/app"


async def run(ctx: Context) -> Result:
    """Drive one attempt; whatever the app does is a Result.

    Raises MoorageError for what is not the app's doing, such as InputUnavailable.
    """
    knobs = knobs_of(ctx.app)
    await _lay_out(ctx)
    _warn_of_clamp(ctx)
    if ctx.cancelled.is_set():
        return Result(error=JobCancelled().info)
    process = await ctx.start(_process(ctx, knobs))
    ctx.started()
    outcome = await ctx.supervise(process)
    ctx.collecting()
    return await _collect(ctx, _judge(ctx, outcome))


async def check(ctx: Context) -> tuple[Finding, ...]:
    """Find out whether Python can read main.py, in the sandbox and with the app's own interpreter."""
    process = await ctx.start(replace(_process(ctx, knobs_of(ctx.app)), argv=_compiler(ctx), interpreter=()))
    ctx.started()
    outcome = await ctx.supervise(process)
    if outcome.cut is not None:
        raise JobCancelled if outcome.cut == "cancel" else JobTimedOut
    ctx.collecting()
    rule = "main.py is valid Python"
    if outcome.exit.status == 0:
        return (Finding(rule=rule, verdict="passed"),)
    hint = "Read the error with `moorage job logs`."
    return (Finding(rule=rule, verdict="failed", message="It cannot be compiled.", hint=hint),)


def _compiler(ctx: Context) -> tuple[str, ...]:
    return python_runtime(ctx.layers["python"]).python, "-c", f"compile(open('{MAIN}', 'rb').read(), '{MAIN}', 'exec')"


async def _lay_out(ctx: Context) -> None:
    """Make the parts of the work directory: `input/` and `output/` are ordinary directories, no mount points."""
    if not ctx.inputs:
        return
    for name in ("inputs", "inputs/input"):
        _make(ctx.workspace / name)
    try:
        await asyncio.to_thread(ctx.blobs.link, ctx.inputs, ctx.workspace / "inputs" / "input")
    except InputUnavailable as error:
        name = error.detail.get("path", "")
        raise InputUnavailable(texts.missing_input(name), hint=error.hint, path=name) from error


def _make(directory: Path) -> None:
    """Make a directory into which the app may write: a node that runs as root runs apps as somebody else."""
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, SANDBOX_UID, SANDBOX_UID)


def _process(ctx: Context, knobs: Knobs) -> ProcessSpec:
    parameters = ctx.job.spec.parameters
    arguments = Arguments(kwargs=parameters.get("kwargs", {}), args=parameters.get("args", ()))
    runtime = python_runtime(ctx.layers["python"])
    return ProcessSpec(
        argv=(runtime.python, MAIN, *arguments.argv(knobs.kwargs_via, knobs.argv_style)),
        cwd=APP,
        env=runtime.env,
        mounts=(*_mounts(ctx, knobs), *runtime.mounts),
        interpreter=runtime.interpreter,
        stdin=arguments.stdin(knobs.kwargs_via),
        limits=ctx.job.spec.limits,
    )


def _mounts(ctx: Context, knobs: Knobs) -> tuple[Mount, ...]:
    upper, inputs, app = ctx.workspace / "upper", ctx.workspace / "inputs", ctx.layers["app"]
    lower = (inputs, app) if ctx.inputs else (app,)
    make = ("output",) if ctx.inputs else ("output", "input")
    tree = Overlay(lower=lower, upper=upper, work=ctx.workspace / "work", target=APP, make=make)
    if knobs.input_readonly:
        source = (inputs if ctx.inputs else upper) / "input"
        return tree, ReadOnly(source=source, target=f"{APP}/input")
    return (tree,)


def _judge(ctx: Context, outcome: Outcome) -> Result:
    """Say what the end of the process means (section 5.4)."""
    status, spec = outcome.exit.status, ctx.job.spec
    error: MoorageError | None = None
    if outcome.cut == "timeout":
        error = JobTimedOut(texts.timed_out(spec.timeouts.execution or outcome.exit.wall))
    elif outcome.cut == "cancel":
        error = JobCancelled()
    elif status and outcome.exit.out_of_memory:
        error = OutOfMemory(f"The app used more than its limit of {spec.limits.memory} bytes of memory.")
    elif status:
        error = JobCrashed(texts.crashed(status))
    return Result(
        error=error.info if error else None,
        timed_out=outcome.cut == "timeout",
        exit_status=status,
        usage=Usage(wall=outcome.exit.wall, cpu=outcome.exit.cpu, peak_memory=outcome.exit.peak_memory),
    )


async def _collect(ctx: Context, result: Result) -> Result:
    """Add the outputs, which are kept also when the app failed; what the app did weighs more than their loss."""
    try:
        return replace(result, outputs=await ctx.collect(ctx.workspace / "upper" / "output"))
    except MoorageError as error:
        return replace(result, error=result.error or error.info)


def _warn_of_clamp(ctx: Context) -> None:
    asked = ctx.job.spec.parameters.get("time_to_give_up")
    granted = ctx.job.spec.timeouts.execution
    if asked and granted is not None and asked > granted:
        ctx.emit("job.warning", f"time_to_give_up of {asked:g} seconds is cut to this node's maximum of {granted:g}.")
