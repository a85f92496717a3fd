"""The translator between the Golem contract and the node."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moorage.errors import BadTaskFile, Invalid
from moorage.model.apps import App
from moorage.model.jobs import JSON, JobSpec, Result
from moorage.networks.base import Context, Finding, Manifest, Order, Port, Surface
from moorage.networks.golem import manifest, task_file
from moorage.networks.golem.task_file import TaskFile
from moorage.networks.manifest import with_declared

if TYPE_CHECKING:
    # What the command line can do without, since it is to start quickly.
    from moorage.networks.golem.surface import GolemSurface

LOST_RETRIES = 1_000_000
"""A task goes on after every restart of the node: its own deadline ends it."""
SUBTASK = frozenset({"subtask", "slot"})
"""Parameters of the child jobs of a task."""


class Golem:
    """Runs Golem Task API apps: requestors that split a task, and providers that compute its parts."""

    name = manifest.NETWORK
    serves = False
    looks_for = (
        "a task file or an app's descriptor, both as JSON, or a folder whose moorage.toml says "
        '`network = "golem"` and how it starts'
    )

    def __init__(self) -> None:
        self._served: GolemSurface | None = None

    def recognizes(self, source: Path) -> bool:
        """Tell whether a folder is a Golem app."""
        return manifest.is_app(source)

    def load(self, source: Path) -> Manifest:
        """Read and validate an app's folder; raises BadManifest."""
        return manifest.read(source)

    def pack(self, source: str, target: Path) -> str | None:
        """Lay a descriptor out as an app's folder."""
        return manifest.pack(source, target)

    def order(self, source: Path) -> Order | None:
        """Read a task file; its app is one that is installed, or lies beside it. Raises BadTaskFile."""
        text = source.read_bytes()
        if not task_file.is_task(_document(text)):
            return None
        task = task_file.parse(text, file=str(source))
        return Order(
            app=task.app_id,
            fits=lambda app: app.network == self.name and task.app_id in manifest.ids_of(app.manifest),
            beside=manifest.beside(source, task.app_id),
            parameters=_parameters(task),
            inputs={name: Path(path) for name, path in task.inputs.items()},
            out=None if task.output_directory is None else Path(task.output_directory),
            warnings=task.warnings,
        )

    def accept(self, app: App, spec: JobSpec) -> JobSpec:
        """Take a task in the words of a task file; its resources are the job's inputs. Raises BadTaskFile, Invalid."""
        if spec.parameters.keys() == SUBTASK:
            return spec  # it runs only as the child of its task
        if spec.isolation is not None:
            raise Invalid("An app of this network is not run in another isolation.", hint="Leave --isolation out.")
        spec = with_declared(spec, app.manifest["limits"])
        limits = replace(spec.limits, cpus=0.0, memory=0)  # its parts reserve what they use
        if spec.mode == "check":
            return replace(spec, limits=limits, lost_retries=0)
        task = task_file.parse(spec.parameters, file="task")
        if task.app_id not in manifest.ids_of(app.manifest):
            raise BadTaskFile(f"The task is for app {task.app_id}, and this is {app.manifest['app_id']}.")
        timeouts = replace(spec.timeouts, execution=float(task.task_timeout))
        return replace(spec, parameters=_parameters(task), limits=limits, timeouts=timeouts, lost_retries=LOST_RETRIES)

    def parse_settings(self, settings: Mapping[str, str]) -> Mapping[str, JSON]:
        """Refuse `--set`: a task is a file. Raises Invalid."""
        if settings:
            raise Invalid("A task is not given by --set.", hint="Write a task file, or give --data @TASK.json.")
        return {}

    async def run(self, ctx: Context) -> Result:
        """Drive a task, or compute one of its subtasks."""
        assert self._served is not None
        return await self._served.run(ctx)

    async def check(self, ctx: Context) -> tuple[Finding, ...]:
        """Drive an app through the whole protocol, and judge what it does."""
        assert self._served is not None
        return await self._served.check(ctx)

    def surface(self, port: Port) -> Surface:
        """Run what all tasks share."""
        from moorage.networks.golem.surface import GolemSurface

        self._served = GolemSurface(port)
        return self._served.surface()


def _parameters(task: TaskFile) -> dict[str, JSON]:
    """Give a task's job its parameters: numbers as numbers, and no resource by a path of somebody's machine."""
    document: dict[str, Any] = task.document
    return {**document, "golem": {**document["golem"], "resources": []}}


def _document(text: bytes) -> JSON:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
