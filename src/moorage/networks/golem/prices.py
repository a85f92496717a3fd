"""What a task would cost on the network, which is only for display, and spans of time as its users see them."""


def payment(price_per_hour: int, seconds: int) -> int:
    """Give the price of so many seconds of one provider, in wei as `price_per_hour` is (contract, section 3.5)."""
    return (price_per_hour * seconds + 3599) // 3600


def estimated_cost(price_per_hour: int, *, subtask_timeout: int, max_subtasks: int) -> int:
    """Give the most that a task costs unless subtasks are repeated, in wei: each takes all its seconds."""
    return payment(price_per_hour, subtask_timeout) * max_subtasks


def format_duration(seconds: float) -> str:
    """Write whole seconds as `H:MM:SS`, such as `0:10:00` (contract, section 4)."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
