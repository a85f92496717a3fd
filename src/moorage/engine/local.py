"""Places attempts on this machine, as tasks of the node's own event loop."""

import asyncio
from collections.abc import Awaitable, Callable

from moorage.engine.base import Handle, Place, Refusal
from moorage.model.limits import MIB, Limits

NAME = "local"


class LocalEngine:
    """One place with a fixed number of cpus and bytes of memory.

    Implements `engine.base.Engine`.
    """

    def __init__(self, *, cpus: float, memory: int) -> None:
        self._cpus, self._memory = cpus, memory
        self._free_cpus, self._free_memory = cpus, memory
        self._on_release: list[Callable[[], None]] = []
        self._reserved = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def reserve(self, limits: Limits) -> Handle | Refusal:
        """Reserve `limits.cpus` and `limits.memory`, or say why not."""
        refusal = self.explain(limits)
        if refusal is not None:
            return refusal
        self._free_cpus = round(self._free_cpus - limits.cpus, 6)
        self._free_memory -= limits.memory
        self._reserved += 1
        return LocalHandle(self, limits)

    def explain(self, limits: Limits) -> Refusal | None:
        """Say why an attempt could not be placed now; None if it could."""
        lacking = {}
        for_ever = False
        if limits.cpus > self._free_cpus:
            lacking["cpus"] = f"needs {limits.cpus:g} cpus, {self._free_cpus:g} of {self._cpus:g} are free"
            for_ever |= limits.cpus > self._cpus
        if limits.memory > self._free_memory:
            lacking["memory"] = (
                f"needs {limits.memory // MIB} MiB of memory, "
                f"{self._free_memory // MIB} of {self._memory // MIB} MiB are free"
            )
            for_ever |= limits.memory > self._memory
        if not lacking:
            return None
        return Refusal(
            evaluated=1, exhausted=dict.fromkeys(lacking, 1), message="; ".join(lacking.values()), for_ever=for_ever
        )

    def places(self) -> tuple[Place, ...]:
        """List the one place there is."""
        here = Place(
            name=NAME,
            cpus=self._cpus,
            memory=self._memory,
            free_cpus=self._free_cpus,
            free_memory=self._free_memory,
            running=self._reserved,
        )
        return (here,)

    def on_release(self, callback: Callable[[], None]) -> None:
        """Call back whenever resources were given back."""
        self._on_release.append(callback)

    async def close(self) -> None:
        """Cancel what runs and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Callable[[], Awaitable[object]], handle: "LocalHandle") -> None:
        task = asyncio.ensure_future(_as_coroutine(work))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(done, handle))

    def _end(self, task: asyncio.Task[None], handle: "LocalHandle") -> None:
        self._tasks.discard(task)
        handle.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "An attempt raised out of its runner", "exception": error, "task": task}
            )

    def _give_back(self, limits: Limits) -> None:
        self._free_cpus = round(self._free_cpus + limits.cpus, 6)
        self._free_memory += limits.memory
        self._reserved -= 1
        for callback in self._on_release:
            callback()


class LocalHandle:
    """A reservation on this machine."""

    place = NAME

    def __init__(self, engine: LocalEngine, limits: Limits) -> None:
        self._engine = engine
        self._limits: Limits | None = limits

    def start(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run the attempt; its resources are given back when `work` has ended, however it ends."""
        self._engine._run(work, self)

    def release(self) -> None:
        """Give the resources back; doing so twice is harmless."""
        limits, self._limits = self._limits, None
        if limits is not None:
            self._engine._give_back(limits)


async def _as_coroutine(work: Callable[[], Awaitable[object]]) -> None:
    await work()
