"""The translator between the Infernet contract and the node."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from moorage.errors import Invalid, JobTimedOut
from moorage.model.apps import App
from moorage.model.jobs import JSON, JobSpec, Result
from moorage.networks.base import Context, Finding, Manifest, Port, Surface
from moorage.networks.infernet import chain, manifest
from moorage.networks.infernet.chain import SMALL, Request
from moorage.networks.infernet.config import Container
from moorage.networks.manifest import unknown_key, with_declared

if TYPE_CHECKING:
    # What the command line can do without, since it is to start quickly.
    from moorage.networks.infernet.calls import Calls
    from moorage.networks.infernet.surface import InfernetSurface

KEYS = ("containers", "data", "requires_proof")
"""What a job may say: a chain of containers, what the first is given, and whether a proof is asked."""


class Infernet:
    """Runs Infernet containers: HTTP services that answer `POST /service_output`."""

    name = manifest.NETWORK
    serves = False
    looks_for = (
        "a config.json, an image, the http(s) URL of a running container, or a folder whose moorage.toml says "
        '`network = "infernet"` and how it starts'
    )

    def __init__(self) -> None:
        self._served: InfernetSurface | None = None
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def recognizes(self, source: Path) -> bool:
        """Tell whether a folder is an Infernet app."""
        return manifest.is_app(source)

    def load(self, source: Path) -> Manifest:
        """Read and validate an app's folder; raises BadManifest."""
        return manifest.read(source)

    def pack(self, source: str, target: Path) -> str | None:
        """Lay out a `config.json`, the address of a container or an image as an app's folder."""
        return manifest.pack(source, target)

    def order(self, source: Path) -> None:
        """Know no file that asks for a job."""

    def accept(self, app: App, spec: JobSpec) -> JobSpec:
        """Take a whole request (`containers` and `data`), or else all parameters as the data of the only container.

        Raises Invalid.
        """
        if spec.limits is SMALL:
            return spec  # of our own surface, which says all of it
        known = {container["id"]: container for container in app.manifest["containers"]}
        spec = replace(spec, lost_retries=0)
        for container in known.values():
            spec = with_declared(spec, container["limits"])
        if spec.mode == "check":
            whole = spec.parameters.keys() >= {"containers", "data"}
            return replace(spec, parameters=spec.parameters["data"] if whole else spec.parameters)
        request = _request(spec.parameters, tuple(known))
        if spec.mode == "stream" and len(request.containers) > 1:
            raise Invalid("Only one container can stream.")
        return replace(spec, parameters=request.parameters)

    def parse_settings(self, settings: Mapping[str, str]) -> Mapping[str, JSON]:
        """Turn `--set KEY=VALUE` pairs into the data; VALUE is JSON, or else text as it stands."""
        return {key: _parsed(value) for key, value in settings.items()}

    async def run(self, ctx: Context) -> Result:
        """Ask the containers of a job, one after the other, or pass on the stream of one."""
        if ctx.job.lane is not None:
            return await self._ask(ctx)
        ctx.started()
        execution = ctx.job.spec.timeouts.execution
        try:
            async with asyncio.timeout(execution):
                result = await self._ask(ctx)
        except TimeoutError:
            return Result(error=JobTimedOut(f"The job did not end within {execution:g} s.").info, timed_out=True)
        ctx.collecting()
        if result.error is not None:
            self._tell(ctx)
        if ctx.job.spec.mode == "run" and result.error is None:
            ctx.log(
                "stdout",
                json.dumps(result.value[-1]["output"], ensure_ascii=False).encode(errors="backslashreplace") + b"\n",
            )
        return result

    async def _ask(self, ctx: Context) -> Result:
        request = Request.of(ctx.job.spec.parameters)
        with self._asking(ctx, request.containers) as asked:
            if ctx.job.spec.mode == "stream":
                write, left = self._outlet(ctx)
                return await chain.stream(request, asked[0], write, ctx.cancelled, left=left)
            return await chain.run(request, asked, ctx.cancelled)

    async def check(self, ctx: Context) -> tuple[Finding, ...]:
        """Send every container what the contract says, and judge its answers."""
        from moorage.networks.infernet.conformance import check

        ctx.started()
        findings: list[Finding] = []
        containers = manifest.installed(ctx.layers["app"]).containers
        for container in containers:
            with self._asking(ctx, (container.id,)) as (calls,):
                found = await check(container, calls, ctx.job.spec.parameters or None)
            several = len(containers) > 1
            findings += (replace(each, rule=f"{container.id}: {each.rule}") if several else each for each in found)
        ctx.collecting()
        if any(finding.verdict == "failed" for finding in findings):
            self._tell(ctx)
        return tuple(findings)

    def _tell(self, ctx: Context) -> None:
        """Write into the job's log what its containers said last, for whoever looks for the reason."""
        from moorage.networks.infernet.backends import app_service_of

        app = manifest.installed(ctx.layers["app"])
        for container in app.containers if app.manage_containers else ():
            state = ctx.services.state(app_service_of(container, ctx).key)
            if state is not None:
                ctx.log("stderr", state.log_tail.encode())

    def surface(self, port: Port) -> Surface | None:
        """Serve the network's own node, if the configuration names a `config.json`."""
        if not port.config:
            return None
        from moorage.networks.infernet.surface import InfernetSurface

        self._served = InfernetSurface(port)
        return self._served.surface()

    @contextmanager
    def _asking(self, ctx: Context, names: tuple[str, ...]) -> "Iterator[tuple[Calls, ...]]":
        """Give what asks the containers of a job: those that are served, or those of the app, started for it."""
        if self._served is not None and (ctx.job.lane is not None or self._served.serves(ctx.app)):
            yield tuple(self._served.calls(name) for name in names)
            return
        from moorage.networks.infernet.backends import address_of, app_service_of, calls_of

        app = manifest.installed(ctx.layers["app"])
        containers = {container.id: container for container in app.containers}
        with ExitStack() as stack:
            asked: list[Calls] = []
            for name in names:
                container, service = containers[name], None
                if app.manage_containers:
                    service = app_service_of(container, ctx)
                slots = self._slots_of(service.key if service else address_of(container), container)
                calls = calls_of(container, ctx.services, service, address_of(container), slots)
                asked.append(stack.enter_context(calls))
            yield tuple(asked)

    def _slots_of(self, key: str, container: Container) -> asyncio.Semaphore:
        """Give what bounds the requests at once of all jobs that share a container."""
        return self._slots.setdefault(key, asyncio.Semaphore(container.moorage.concurrency))

    def _outlet(self, ctx: Context) -> tuple[chain.Write, chain.Left]:
        """Give where the bytes of a stream go: to the client that waits for them, or to the job's log."""
        if ctx.job.lane is not None:
            assert self._served is not None
            outlet = self._served.outlet(ctx.job.id)
            return outlet.write, lambda: outlet.left

        async def write(chunk: bytes) -> None:
            ctx.log("stdout", chunk)

        return write, lambda: False


def _request(parameters: Mapping[str, JSON], known: Sequence[str]) -> Request:
    if not parameters.keys() >= {"containers", "data"}:
        if len(known) > 1:
            raise Invalid(
                f"The app has several containers: {', '.join(known)}.",
                hint=f"""Say which: {{"containers": ["{known[0]}"], "data": {{...}}}}.""",
            )
        return Request(containers=(known[0],), data=dict(parameters))
    for key in parameters:
        if key not in KEYS:
            raise Invalid(unknown_key(key, KEYS))
    names, proof = parameters["containers"], parameters.get("requires_proof") or False
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Invalid("`containers` must be a list of names.")
    for name in names:
        if name not in known:
            raise Invalid(f"There is no container {name!r}.", hint=f"There is: {', '.join(known)}.")
    if not isinstance(parameters["data"], dict):
        raise Invalid("`data` must be an object.")
    if not isinstance(proof, bool):
        raise Invalid("`requires_proof` must be true or false.")
    return Request(containers=tuple(names), data=parameters["data"], requires_proof=proof)


def _parsed(value: str) -> JSON:
    try:
        return json.loads(value)
    except ValueError:
        return value
