"""How often a client may ask (contract, section 3.1, `server.rate_limit`): GCRA, a burst that refills evenly."""

from collections import OrderedDict
from dataclasses import dataclass

SECOND = 10**9
"""Nanoseconds: whole numbers, since rounding would cost the last request of a burst."""

MAX_CLIENTS = 100_000
"""How many are remembered; beyond that those who have been quiet longest are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a request may pass, and what its answer tells of the limit; seconds are rounded up."""

    limit: int
    remaining: int
    """Requests that may follow at once."""
    reset: int
    """Seconds until the whole burst may follow again."""
    retry_after: int | None = None
    """Seconds until the next request may pass; None for one that may."""

    @property
    def allowed(self) -> bool:
        """Whether the request may pass; otherwise the answer is 429."""
        return self.retry_after is None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of section 4."""
        headers = [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset),
        ]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        return headers


class RateLimiter:
    """Counts each route and client apart: at most `num_requests` at once, which `period` seconds give back."""

    def __init__(self, *, num_requests: int, period: float) -> None:
        self._limit = num_requests
        self._interval = max(1, round(period * SECOND) // num_requests)
        self._burst = self._interval * num_requests
        self._full_at: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        """Give how many are remembered."""
        return len(self._full_at)

    def take(self, route: str, client: str, now: float) -> Verdict:
        """Judge a request at `now`, in seconds of a clock that never goes back; one that is refused costs nothing."""
        moment, key = round(now * SECOND), (route, client)
        self._forget(moment)
        missing = max(0, self._full_at.get(key, moment) - moment)
        after = missing + self._interval
        if after > self._burst:
            return Verdict(
                limit=self._limit, remaining=0, reset=_seconds(missing), retry_after=_seconds(after - self._burst)
            )
        self._full_at[key] = moment + after
        self._full_at.move_to_end(key)
        return Verdict(limit=self._limit, remaining=(self._burst - after) // self._interval, reset=_seconds(after))

    def _forget(self, moment: int) -> None:
        """Drop from the front those that are full again; who has not passed for a period is."""
        while self._full_at:
            key, full_at = next(iter(self._full_at.items()))
            if full_at > moment and len(self._full_at) < MAX_CLIENTS:
                return
            del self._full_at[key]


def _seconds(nanoseconds: int) -> int:
    return -(-nanoseconds // SECOND)
