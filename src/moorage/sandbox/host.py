"""No isolation: a process of this machine like any other, for development where namespaces are not to be had.

There are no mounts, so the sandbox's paths do not exist. Instead a path that begins with the target of a mount is
turned into the same path below its source (the longest target wins): in the working directory, in every argument
that is such a path as a whole, and in every variable, each of its colon-separated parts. The overlay's trees are
copied into `upper`; the home directory and scratch directories are made on disk.

What differs from the real isolation: the process runs as the node's user and sees the whole machine, its name and its
network; read-only mounts are not held read-only; /tmp is the machine's and not limited, nor are scratch directories;
programs that keep a sandbox path elsewhere (a shebang line, a configuration file) do not find it; the number of
processes is limited by cgroups only; a tree at / is not to be had.
What stays: whole process trees are ended, and limits hold as far as cgroups and resource limits go.
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from moorage.sandbox import overlays
from moorage.sandbox.base import HOME, LISTENER, ROOT_HOME, OutputSink, Process, ProcessSpec, Scratch
from moorage.sandbox.processes import Spawner
from moorage.sandbox.requests import Launch
from moorage.sandbox.rlimits import rlimits


class Host:
    """No isolation; must be asked for by name."""

    name = "host"

    def __init__(self, spawner: Spawner, *, homes: Path) -> None:
        self._spawner = spawner
        self._homes = homes

    async def start(self, spec: ProcessSpec, *, name: str, output: OutputSink) -> Process:
        """Start a process.

        Raises SandboxUnavailable if it cannot be executed, ArgumentsTooLong, DiskFull.
        """
        place = self._homes / name
        home = place / "home"
        home.mkdir(parents=True)
        remove = partial(shutil.rmtree, place, ignore_errors=True)
        try:
            places = {ROOT_HOME if spec.root else HOME: str(home)}
            for mount in await overlays.materialised(spec.mounts, owner=None):
                places[mount.target] = mkdtemp(dir=place) if isinstance(mount, Scratch) else str(mount.source)
            launch = self._launch(spec, places)
        except BaseException:
            remove()
            raise
        return await self._spawner.spawn(launch, spec, name=name, output=output, after=remove)

    async def reap(self) -> int:
        """Kill everything that an earlier node on this data directory left running; return how many processes."""
        return await self._spawner.cgroups.reap()

    async def close(self) -> None:
        """Kill what still runs, end the spawner and give the cgroups back, also for sandboxes that share them."""
        await self._spawner.stop()
        self._spawner.cgroups.close()

    def _launch(self, spec: ProcessSpec, places: Mapping[str, str]) -> Launch:
        return Launch(
            kind="host",
            argv=tuple(translate(word, places) for word in spec.argv),
            env={key: ":".join(translate(part, places) for part in text.split(":")) for key, text in spec.env.items()},
            cwd=translate(spec.cwd, places),
            rlimits=tuple(rlimits(spec.limits, self._spawner.cgroups.enforced)),
            listener=LISTENER if spec.listener else None,
        )


def translate(text: str, places: Mapping[str, str]) -> str:
    """Turn a path of the sandbox into the path of this machine that stands for it; leave any other text alone."""
    fitting = [target for target in places if text == target or text.startswith(f"{target}/")]
    if not fitting:
        return text
    target = max(fitting, key=len)
    return places[target] + text.removeprefix(target)
