"""The translator between the Aleph contract and the node."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moorage.errors import Invalid
from moorage.model.apps import App
from moorage.model.jobs import JSON, JobSpec, Result
from moorage.networks.aleph import manifest
from moorage.networks.base import Context, Finding, Manifest, Port, Surface
from moorage.networks.manifest import unknown_key

if TYPE_CHECKING:
    # What the command line can do without, since it is to start quickly.
    from moorage.networks.aleph.surface import AlephSurface

KEYS = ("request", "headers", "body", "message")
"""What a job of an operator may say: `GET /path` and what goes along with it, or a message that is delivered."""
STRUCTURED = ("headers", "message")
"""Those of them that are JSON where all is text."""


class Aleph:
    """Runs Aleph programs: functions and servers that are published as signed messages."""

    name = manifest.NETWORK
    serves = True
    looks_for = 'the JSON of a program\'s message, or a folder whose moorage.toml says `network = "aleph"`'

    def __init__(self) -> None:
        self._served: AlephSurface | None = None

    def recognizes(self, source: Path) -> bool:
        """Tell whether a folder is a program."""
        return manifest.is_app(source)

    def load(self, source: Path) -> Manifest:
        """Read and validate a program's folder; raises BadManifest."""
        return manifest.read(source)

    def pack(self, source: str, target: Path) -> str | None:
        """Lay a program's message out as a folder."""
        return manifest.pack(source, target)

    def order(self, source: Path) -> None:
        """Know no file that asks for a job."""

    def accept(self, app: App, spec: JobSpec) -> JobSpec:
        """Take a request such as `GET /path`, or a message that nobody needs to have published, for one call.

        Raises Invalid.
        """
        from moorage.networks.aleph.programs.jobs import SMALL, TRIGGERS

        if spec.parameters.get("trigger") in TRIGGERS and app.owner.startswith(f"{self.name}:"):
            return spec  # of our own surface, which says all of it
        for key in spec.parameters:
            if key not in KEYS:
                raise Invalid(unknown_key(key, KEYS))
        if spec.inputs:
            raise Invalid("A program takes no input files.", hint="Send them as the `body` of a request.")
        parameters = {"trigger": "serve"} if spec.mode == "serve" else _asked(spec.parameters)
        limits = replace(spec.limits, cpus=SMALL.cpus, memory=SMALL.memory)
        return replace(spec, parameters=parameters, limits=limits, lost_retries=0)

    def parse_settings(self, settings: Mapping[str, str]) -> Mapping[str, JSON]:
        """Turn `--set KEY=VALUE` pairs into a request or a message. Raises Invalid."""
        return {key: _parsed(key, value) if key in STRUCTURED else value for key, value in settings.items()}

    async def run(self, ctx: Context) -> Result:
        """Make one run of a program, or serve it until the job is cancelled."""
        assert self._served is not None
        return await self._served.run(ctx)

    async def check(self, ctx: Context) -> tuple[Finding, ...]:
        """Judge a program's message, and what the program does."""
        assert self._served is not None
        from moorage.networks.aleph.conformance import check

        return await check(ctx, self._served)

    def surface(self, port: Port) -> Surface | None:
        """Serve the network's API and the programs that are published there."""
        from moorage.networks.aleph.surface import AlephSurface

        self._served = AlephSurface(port)
        return self._served.surface()


def _parsed(key: str, text: str) -> JSON:
    try:
        return json.loads(text)
    except ValueError:
        raise Invalid(f"`{key}` must be JSON.") from None


def _asked(parameters: Mapping[str, Any]) -> dict[str, JSON]:
    if "message" not in parameters:
        return {"trigger": "request", "request": _request(parameters)}
    if len(parameters) > 1:
        raise Invalid("A message is delivered by itself: `message` goes with nothing else.")
    if not isinstance(parameters["message"], dict):
        raise Invalid("`message` must be an object, such as a message of the API; what it lacks is filled in.")
    return {"trigger": "event", "event": parameters["message"]}


def _request(parameters: Mapping[str, Any]) -> dict[str, JSON]:
    line = parameters.get("request", "GET /")
    if not isinstance(line, str):
        raise Invalid("`request` must be text such as `GET /path`.")
    method, _, path = line.partition(" ") if " " in line else ("GET", "", line)
    if not method.isalpha() or not path.startswith("/") or any(sign in path for sign in " \r\n"):
        raise Invalid(
            f"{line!r} is no request.", hint="Write a method and a path, such as `GET /` or `POST /items?x=1`."
        )
    headers, body = parameters.get("headers", {}), parameters.get("body", "")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Invalid('`headers` must be an object of texts, such as {"accept": "text/html"}.')
    if not isinstance(body, str):
        raise Invalid("`body` must be text.")
    return {"method": method.upper(), "path": path, "headers": [list(each) for each in headers.items()], "body": body}
