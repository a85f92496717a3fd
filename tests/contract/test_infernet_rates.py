"""How often a client may ask (contract, section 3.1 `server.rate_limit`, and section 4)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.networks.infernet import rates
from moorage.networks.infernet.rates import RateLimiter

NOW = 1_790_000_000.123


def test_a_burst_passes_and_then_one_request_for_each_interval() -> None:
    limiter = RateLimiter(num_requests=3, period=6)
    burst = [limiter.take("/info", "a", NOW) for _ in range(4)]
    assert [verdict.allowed for verdict in burst] == [True, True, True, False]
    assert [verdict.remaining for verdict in burst] == [2, 1, 0, 0]
    assert [verdict.reset for verdict in burst] == [2, 4, 6, 6]
    assert not limiter.take("/info", "a", NOW + 1.9).allowed
    assert limiter.take("/info", "a", NOW + 2).allowed
    assert not limiter.take("/info", "a", NOW + 2).allowed
    assert limiter.take("/info", "a", NOW + 8).remaining == 2, "the whole burst is there again"


def test_the_headers_are_those_of_the_contract() -> None:
    limiter = RateLimiter(num_requests=2, period=60)
    assert limiter.take("/info", "a", NOW).headers == [
        (b"ratelimit-limit", b"2"), (b"ratelimit-remaining", b"1"), (b"ratelimit-reset", b"30"),
    ]  # fmt: skip
    limiter.take("/info", "a", NOW)
    assert limiter.take("/info", "a", NOW + 0.5).headers == [
        (b"ratelimit-limit", b"2"), (b"ratelimit-remaining", b"0"), (b"ratelimit-reset", b"60"),
        (b"retry-after", b"30"),
    ]  # fmt: skip


def test_routes_and_clients_are_counted_apart() -> None:
    limiter = RateLimiter(num_requests=1, period=60)
    assert all(limiter.take(route, client, NOW).allowed for route in ("/a", "/b") for client in ("x", "y"))
    assert not limiter.take("/a", "x", NOW).allowed


def test_a_refused_request_costs_nothing() -> None:
    limiter = RateLimiter(num_requests=1, period=10)
    limiter.take("/a", "x", NOW)
    assert {limiter.take("/a", "x", NOW + tenth / 10).allowed for tenth in range(100)} == {False}
    assert limiter.take("/a", "x", NOW + 10).allowed


@pytest.mark.parametrize(("num_requests", "period"), [(60, 60.0), (1, 0.1), (7, 60.0), (100_000, 0.5), (3, 1e-9)])
def test_the_burst_is_as_large_as_was_configured(num_requests: int, period: float) -> None:
    limiter = RateLimiter(num_requests=num_requests, period=period)
    verdicts = [limiter.take("/a", "x", NOW) for _ in range(num_requests + 1)]
    assert [verdict.allowed for verdict in verdicts] == [True] * num_requests + [False]
    assert verdicts[num_requests - 1].remaining == 0


@settings(deadline=None)
@given(st.integers(1, 100), st.floats(0.01, 1000), st.lists(st.floats(0, 100), max_size=50))
def test_who_waits_as_told_may_pass(num_requests: int, period: float, pauses: list[float]) -> None:
    limiter, now = RateLimiter(num_requests=num_requests, period=period), NOW
    for pause in pauses:
        now += pause
        verdict = limiter.take("/a", "x", now)
        if verdict.retry_after is not None:
            assert verdict.retry_after >= 1
            now += verdict.retry_after
            assert limiter.take("/a", "x", now).allowed


def test_those_that_are_full_again_are_forgotten() -> None:
    limiter = RateLimiter(num_requests=10, period=10)
    for number in range(5000):
        limiter.take("/a", str(number), NOW + number / 100)
        assert len(limiter) <= 102, "each is full again after a second"
    limiter.take("/a", "last", NOW + 1000)
    assert len(limiter) == 1


def test_there_is_an_end_to_how_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_CLIENTS", 100)
    limiter = RateLimiter(num_requests=1, period=1e9)
    for number in range(1000):
        limiter.take("/a", str(number), NOW)
    assert len(limiter) == 100
    assert not limiter.take("/a", "999", NOW).allowed
