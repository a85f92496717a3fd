"""Waiting for events: the store is the truth, a wake-up only says when to look again."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from moorage.model.events import Event
from moorage.store.base import Store


class Feed:
    """Lets many callers wait for the history of one job or app, or of the whole node, to go on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sleepers: defaultdict[str | None, set[asyncio.Future[bool]]] = defaultdict(set)
        self._closed = False
        self._unlisten = store.listen(self._deliver)

    async def wait(self, subject: str | None, after: int, timeout: float | None = None) -> bool:
        """Wait until there is an event later than `after`; False on timeout or when the node stops.

        `after` is a `seq` of the subject, or with subject None an event `id`; `timeout` is in seconds.
        """
        sleeper = self._sleep(subject)
        try:
            if await self._store.events(subject, after=after, limit=1):
                return True
            return not self._closed and await asyncio.wait_for(sleeper, timeout)
        except TimeoutError:
            return False
        finally:
            self._forget(subject, sleeper)

    async def follow(self, subject: str | None, after: int = 0) -> AsyncIterator[Event]:
        """Give every event later than `after`, from the store first and then as they come, until the node stops."""
        while not self._closed:
            sleeper = self._sleep(subject)
            try:
                events = await self._store.events(subject, after=after)
                for event in events:
                    after = event.id if subject is None else event.seq
                    yield event
                if not events:
                    await sleeper
            finally:
                self._forget(subject, sleeper)

    def close(self) -> None:
        """End every wait."""
        self._closed = True
        self._unlisten()
        for sleepers in list(self._sleepers.values()):
            _wake(sleepers, more=False)

    def _deliver(self, events: Sequence[Event]) -> None:
        for subject in {event.subject for event in events}:
            if subject in self._sleepers:
                _wake(self._sleepers[subject], more=True)
        if None in self._sleepers:
            _wake(self._sleepers[None], more=True)

    def _sleep(self, subject: str | None) -> asyncio.Future[bool]:
        sleeper = asyncio.get_running_loop().create_future()
        if self._closed:
            sleeper.set_result(False)
        self._sleepers[subject].add(sleeper)
        return sleeper

    def _forget(self, subject: str | None, sleeper: asyncio.Future[bool]) -> None:
        sleepers = self._sleepers[subject]
        sleepers.discard(sleeper)
        if not sleepers:
            del self._sleepers[subject]


def _wake(sleepers: set[asyncio.Future[bool]], *, more: bool) -> None:
    for sleeper in sleepers:
        if not sleeper.done():
            sleeper.set_result(more)
