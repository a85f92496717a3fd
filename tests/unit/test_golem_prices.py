"""Prices and spans of time as they are shown (contract, sections 3.5 and 4)."""

import pytest

from moorage.networks.golem.prices import estimated_cost, format_duration, payment


@pytest.mark.parametrize(
    ("price", "seconds", "wei"),
    [(3600, 1, 1), (3600, 3600, 3600), (1, 1, 1), (1, 3600, 1), (1, 3601, 2), (0, 3600, 0), (7, 0, 0),
     (10**18, 120, 33_333_333_333_333_334)],
)  # fmt: skip
def test_a_started_wei_is_paid_in_full(price: int, seconds: int, wei: int) -> None:
    assert payment(price, seconds) == wei


def test_each_subtask_is_estimated_with_all_its_seconds() -> None:
    assert estimated_cost(10**18, subtask_timeout=120, max_subtasks=3) == 3 * 33_333_333_333_333_334


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (600, "0:10:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (90_000, "25:00:00")],
)
def test_a_span_is_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
