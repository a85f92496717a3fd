"""`moorage --help` from start to end: at most 300 ms, shown beside a Python that does nothing.

Run: `uv run python -m bench.cli_start`.
"""

import statistics
import subprocess
import sys
import time

from bench.common import MOORAGE

RUNS = 20
LIMIT = 300.0


def main() -> float:
    commands = {"moorage --help": [str(MOORAGE), "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(milliseconds(command))
    help_, nothing = (statistics.median(each[2:]) for each in times.values())
    verdict = "ok" if help_ <= LIMIT else "TOO SLOW"
    print(f"cli start: {help_:.0f} ms, a bare Python {nothing:.0f} ms, limit {LIMIT:.0f} ms: {verdict}")
    return help_


def milliseconds(command: list[str]) -> float:
    begun = time.monotonic_ns()
    subprocess.run(command, check=True, capture_output=True)
    return (time.monotonic_ns() - begun) / 1e6


if __name__ == "__main__":
    main()
