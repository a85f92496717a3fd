"""Work that several ask for at the same time, done once."""

import asyncio
from collections.abc import Awaitable, Callable

Progress = Callable[[str], None]
"""Called in the event loop with one line of text."""

Work = Callable[[Progress], Awaitable[str]]


class Once:
    """Runs of work by key: whoever asks for one that is under way waits for it and hears of its progress."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    async def do(self, key: str, work: Work, progress: Progress) -> str:
        """Do the work, or wait for it if it is being done; it is cancelled when nobody waits any more.

        Raises what the work raises, to everybody who waits.
        """
        run = self._runs.get(key)
        if run is None or run.task.done():
            run = self._runs[key] = _Run(work)
        else:
            progress("The same is being made for another app already: waiting for it.")
        run.listeners.append(progress)
        try:
            return await asyncio.shield(run.task)
        finally:
            run.listeners.remove(progress)
            if not run.listeners and self._runs.get(key) is run:
                del self._runs[key]
                await run.stop()


class _Run:
    def __init__(self, work: Work) -> None:
        self.listeners: list[Progress] = []
        self.task = asyncio.ensure_future(work(self.tell))

    def tell(self, line: str) -> None:
        for listener in self.listeners:
            listener(line)

    async def stop(self) -> None:
        """Cancel the work if it is not done, and see to its end."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
