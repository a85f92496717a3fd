"""A task in which nothing happens any more, and what is tried before it is given up (contract, section 2.7)."""

import time

from moorage.networks.golem.driving.course import Course
from moorage.networks.golem.driving.discarding import discard
from moorage.networks.golem.driving.verifying import Verifier
from moorage.networks.golem.states import TaskStatus


class Stall:
    """The steps of one task; each is taken once in one stall, and they begin anew when something happens."""

    def __init__(self, course: Course, verifier: Verifier) -> None:
        self._course, self._verifier = course, verifier
        self._since: float | None = None
        self._asked = False

    @property
    def is_one(self) -> bool:
        """Whether all that is under way waits for something else, and nothing is."""
        course, verifier = self._course, self._verifier
        return verifier.idle and all(each in verifier.parked for each in course.active)

    def over(self) -> None:
        """Take note that the app has something to hand out."""
        self._since, self._asked = None, False

    async def mend(self) -> None:
        """Take the next step: ask for verdicts again, discard what failed, wait, give up."""
        course = self._course
        if not self._asked and self._verifier.parked:
            self._asked = True
            self._verifier.ask_parked()
            return
        failed = await course.records.failed_not_discarded(course.task.id)
        if failed:
            await discard(course, failed)
        if self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > course.settings.stall_grace:
            course.end(TaskStatus.ABORTED, f"stalled: {self._words()}")

    def _words(self) -> str:
        waiting = len(self._course.active)
        if waiting:
            return f"{waiting} results wait for others, and there are no others"
        return "the app has nothing to hand out, and none of its parts has been accepted"
