"""Where an app's processes come from: an image, a root file system, or the app's own folder (contract, 2.1, 3.7)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

from moorage.errors import PrerequisitesDenied
from moorage.layers.python import python_runtime
from moorage.model.limits import Limits
from moorage.networks.golem.config import Settings
from moorage.networks.golem.manifest import Facts
from moorage.networks.golem.prerequisites import DOCKER_GPU, LOCAL, Prerequisites
from moorage.sandbox.base import SANDBOX_UID, ImageSpec, ProcessSpec, ReadOnly, Writable

WORK = "/golem/work"
"""Where an app finds its directory."""
APP = "/app"
"""Where an app that runs from its own folder finds that."""
GPU = {
    "GPU_ENABLED": "1",
    "GPU_VENDOR": "NVIDIA",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,graphics,utility",
}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Role = Literal["requestor", "provider"]


class Environment(Protocol):
    """What starts an app in one of its roles."""

    def process(self, role: Role, port: int, work: Path, limits: Limits) -> ProcessSpec | ImageSpec:
        """Say what is started for a role, which listens on `port` and finds `work` at WORK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of the container engine; the user is never root, whatever the image says."""

    prerequisites: Prerequisites
    network: Literal["none", "internet"]

    def process(self, role: Role, port: int, work: Path, limits: Limits) -> ImageSpec:
        """Append the role and the port to the image's entry point, and nothing else."""
        gpu = self.prerequisites.env_id == DOCKER_GPU
        return ImageSpec(
            image=self.prerequisites.reference,
            name=f"moorage-golem-{uuid4().hex}",
            command=(role, str(port)),
            env=GPU if gpu else {},
            volumes=(f"{work}:{WORK}",),
            gpu=gpu,
            user=_user(),
            port=port,
            limits=limits,
            network=self.network,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A root file system that the operator has unpacked, with what its image would start."""

    root: Path
    command: tuple[str, ...]
    directory: str
    network: Literal["none", "internet"]

    def process(self, role: Role, port: int, work: Path, limits: Limits) -> ProcessSpec:
        """Start it with the tree, which it cannot change, in the place of the machine's files."""
        return ProcessSpec(
            argv=(*self.command, role, str(port)),
            cwd=self.directory,
            env={"PATH": SYSTEM_PATH, "HOME": "/tmp"},  # noqa: S108 - in the sandbox
            mounts=(ReadOnly(source=self.root, target="/"), Writable(source=work, target=WORK)),
            limits=limits,
            network=self.network,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The app's own folder, with its Python environment."""

    folder: Path
    python: Path
    command: tuple[str, ...]
    network: Literal["none", "internet"]

    def process(self, role: Role, port: int, work: Path, limits: Limits) -> ProcessSpec:
        """Start the folder's command in the folder, which it cannot change."""
        runtime = python_runtime(self.python)
        return ProcessSpec(
            argv=(*self.command, role, str(port)),
            cwd=APP,
            env=runtime.env,
            mounts=(
                ReadOnly(source=self.folder, target=APP),
                *runtime.mounts,
                Writable(source=work, target=WORK),
            ),
            limits=limits,
            network=self.network,
        )


def resolve(prerequisites: Prerequisites, *, app: Facts, layers: Mapping[str, Path], settings: Settings) -> Environment:
    """Find what the prerequisites of an app, or of its providers, stand for.

    An image that the app's folder, or the operator, has something for is that; any other is the engine's.
    Raises PrerequisitesDenied.
    """
    network = settings.access
    if prerequisites.env_id == LOCAL or (app.image == prerequisites.reference and app.command):
        command = prerequisites.command or app.command
        if not command or "python" not in layers:
            raise PrerequisitesDenied(f"App {app.descriptor.name} has no folder with a command.")
        return Folder(folder=layers["app"], python=layers["python"], command=command, network=network)
    mapped = settings.images.get(prerequisites.reference)
    if mapped is not None:
        return Tree(root=mapped.root, command=mapped.command, directory=mapped.directory, network=network)
    if settings.allowed is not None and prerequisites.reference not in settings.allowed:
        raise PrerequisitesDenied(f"The operator allows no image {prerequisites.reference}.")
    return Image(prerequisites=prerequisites, network=network)


def _user() -> str:
    if os.geteuid() == 0:
        return f"{SANDBOX_UID}:{SANDBOX_UID}"
    return f"{os.geteuid()}:{os.getegid()}"
