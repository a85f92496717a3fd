"""What a job is told on the command line, by `moorage run` and `moorage job submit` alike."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from moorage.cli import inputs
from moorage.client import Client
from moorage.errors import BadUsage
from moorage.model.apps import App
from moorage.model.jobs import Job, Mode

if TYPE_CHECKING:
    from moorage.networks.base import Order


def help_of(text: str) -> Parameter:
    """Describe a flag; none has a negative form, and empty defaults are not worth showing."""
    return Parameter(negative="", show_default=False, help=text)


Source = Annotated[
    str | Path,
    help_of(
        "A folder, an archive of one, a config.json, a program's message or a task as JSON, the name of an image, or "
        "the http(s) URL of a container."
    ),
]
"""Always given as text, since a Path of a URL would be another URL; the Path is for the completion of file names."""


OneRequest = Annotated[
    str | None,
    help_of(
        "One request, such as 'GET /path', to an app that is served; its headers and body go into --set or --data."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The flags; sizes are written as `512MiB`."""

    input: Annotated[
        tuple[str, ...],
        help_of("A file, a folder (its files keep their relative paths) or NAME=PATH of either; repeat it for more."),
    ] = ()
    set: Annotated[tuple[str, ...], help_of("KEY=VALUE, an argument of the app; VALUE is JSON or else text.")] = ()
    data: Annotated[
        str | None,
        help_of("Arguments in the network's own form: a JSON object, or @FILE, or @- for standard input."),
    ] = None
    isolation: Annotated[
        str | None, help_of("Name of the sandbox; `host` is none at all. By default the node's, bubblewrap.")
    ] = None
    timeout: Annotated[float | None, help_of("Seconds that the app may run.")] = None
    cpus: Annotated[str | None, help_of("Cpus to reserve, such as 2 or 500m.")] = None
    memory: Annotated[str | None, help_of("Memory to reserve, such as 2GiB; the app gets no more.")] = None
    disk: Annotated[str | None, help_of("What the app may write, such as 10GiB.")] = None
    label: Annotated[tuple[str, ...], help_of("KEY=VALUE to find the job by.")] = ()
    after: Annotated[
        tuple[str, ...], help_of("Id of a job that must succeed first; its outputs become inputs of this one.")
    ] = ()

    def check(self, *, request: str | None = None) -> "Request":
        """Read everything that can be wrong without a node; `request` goes along with `--set` or `--data`.

        Raises BadUsage, SourceNotFound, FileBadPath, FileDuplicate.
        """
        if self.set and self.data is not None:
            raise BadUsage("--set and --data cannot be given together.", hint="Put all arguments into --data.")
        parameters, settings = inputs.data(self.data), inputs.settings(self.set)
        if request is not None and parameters is not None:
            parameters = {**parameters, "request": request}
        elif request is not None:
            settings["request"] = request
        limits = {"cpus": self.cpus, "memory": self.memory, "disk": self.disk}
        return Request(
            inputs=inputs.input_files(self.input),
            options={
                "settings": settings or None,
                "parameters": parameters,
                "limits": {name: value for name, value in limits.items() if value is not None},
                "timeouts": {} if self.timeout is None else {"execution": self.timeout},
                "isolation": self.isolation,
                "labels": inputs.settings(self.label),
                "after": self.after,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job as it was typed: its files on this machine by name, and everything else."""

    inputs: Mapping[str, Path]
    options: Mapping[str, Any]

    @property
    def isolation(self) -> str | None:
        """The sandbox that was asked for."""
        name: str | None = self.options["isolation"]
        return name

    @property
    def says_something(self) -> bool:
        """Whether anything is asked of the app."""
        return bool(self.options["settings"] or self.options["parameters"])

    def filled(self, order: "Order") -> "Request":
        """Put in what a file asks for. Raises BadUsage, SourceNotFound, FileBadPath, FileDuplicate."""
        if self.says_something or self.inputs:
            raise BadUsage("The file says all of the job.", hint="Leave --set, --data and --input out, or edit it.")
        return replace(
            self, inputs=inputs.named_files(order.inputs), options={**self.options, "parameters": order.parameters}
        )

    def submit(self, client: Client, app: App, *, job_id: str | None = None, mode: Mode = "run") -> Job:
        """Send the files that the node does not have yet, and the job."""
        files = [client.upload_file(path, name) for name, path in self.inputs.items()]
        return client.submit(app.id, inputs=files, job_id=job_id, mode=mode, **self.options)
