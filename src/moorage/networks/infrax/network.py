"""The translator between the InfraX contract and the node."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from moorage.errors import Invalid
from moorage.model.apps import App
from moorage.model.jobs import JSON, JobSpec, Result
from moorage.networks.base import Context, Finding, Manifest, Port, Surface
from moorage.networks.infrax import arguments, job, manifest
from moorage.networks.manifest import unknown_key, with_declared

PARAMETERS = ("kwargs", "args", "time_to_give_up")
"""What a job may say: keyword arguments, positional ones, and seconds until it is given up."""


class InfraX:
    """Runs InfraX apps: a folder with main.py; files and keyword arguments in, files and text out."""

    name = manifest.NETWORK
    serves = False
    looks_for = "a folder or archive with main.py"

    def recognizes(self, source: Path) -> bool:
        """Tell whether a directory holds an InfraX app."""
        return manifest.is_app(source)

    def load(self, source: Path) -> Manifest:
        """Read and validate an app's directory; raises BadApp, BadManifest."""
        return manifest.read(source)

    def pack(self, source: str, target: Path) -> str | None:
        """Say that there are no other forms of an InfraX app than a folder or an archive of one."""
        return None

    def order(self, source: Path) -> None:
        """Know no file that asks for a job."""

    def accept(self, app: App, spec: JobSpec) -> JobSpec:
        """Check the arguments, put them over the app's defaults, and apply `time_to_give_up` and `[limits]`.

        Raises Invalid with a code of section 5.1 of the contract.
        """
        for name in spec.parameters:
            if name not in PARAMETERS:
                raise Invalid(unknown_key(name, PARAMETERS))
        found = arguments.parse(spec.parameters.get("kwargs"), spec.parameters.get("args"), app.meta.get("kwargs"))
        spec = with_declared(spec, app.manifest.get("limits", {}))
        return _with_patience(replace(spec, parameters=found.parameters), spec.parameters.get("time_to_give_up"))

    def parse_settings(self, settings: Mapping[str, str]) -> Mapping[str, JSON]:
        """Turn `--set KEY=VALUE` pairs into keyword arguments; VALUE is JSON, or else text as it stands."""
        return {"kwargs": {key: arguments.parse_setting(value) for key, value in settings.items()}} if settings else {}

    async def run(self, ctx: Context) -> Result:
        """Run main.py once and collect output/."""
        return await job.run(ctx)

    async def check(self, ctx: Context) -> tuple[Finding, ...]:
        """Find out whether main.py runs at all: everything else is up to the app."""
        return await job.check(ctx)

    def surface(self, port: Port) -> Surface | None:
        """Serve the network's router, if the configuration says `surface = true`."""
        if not port.config:
            return None
        from moorage.networks.infrax.config import read_config
        from moorage.networks.infrax.surface import RouterSurface

        config = read_config(port.config)
        return RouterSurface(port, config).surface() if config.surface else None


def _with_patience(spec: JobSpec, seconds: JSON) -> JobSpec:
    """Make `time_to_give_up` the execution timeout: null and 0 mean the default; the node has a maximum."""
    if seconds is None:
        return spec
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise Invalid(f"`time_to_give_up` must be a number of seconds, 0 or more, not {seconds!r}.")
    if seconds == 0:
        return spec
    timeouts = replace(spec.timeouts, execution=seconds)
    return replace(spec, timeouts=timeouts, parameters={**spec.parameters, "time_to_give_up": seconds})
