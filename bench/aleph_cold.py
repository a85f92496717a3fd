"""From a program's message to the first byte of its first answer, against starting it by hand; and many at once.

By hand is bubblewrap and uvicorn with the same packages, asked as soon as it listens. Also: what idle programs leave,
and what installed ones cost. Run alone: `python -m bench.aleph_cold`.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from bench.aleph import PATH, PROGRAM, Place, ask, by_hand, deploy, place
from bench.common import report

ROUNDS, AT_ONCE, INSTALLED = 7, 20, 200
MIB = 1 << 20


def _ours(where: Place, number: int) -> float:
    connection = where.server.connect()
    program = deploy(connection, f"{PROGRAM}\n# {number}\n")
    begun = time.perf_counter()
    ask(connection, f"/vm/{program}{PATH}")
    return (time.perf_counter() - begun) * 1000


def _theirs(where: Place) -> float:
    begun = time.perf_counter()
    with by_hand(where.runtime):
        return (time.perf_counter() - begun) * 1000


def _all_at_once(where: Place) -> float:
    connection = where.server.connect()
    programs = [deploy(connection, f"{PROGRAM}\n# at once {number}\n") for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        begun = time.perf_counter()
        list(threads.map(lambda program: ask(where.server.connect(), f"/vm/{program}{PATH}"), programs))
        return (time.perf_counter() - begun) * 1000


def _ideal(where: Place) -> float:
    """Start as many by hand, as many at a time as there are processors: nothing waits, and nothing is in the way."""

    def start(_: int) -> None:
        with by_hand(where.runtime):
            pass

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        begun = time.perf_counter()
        list(threads.map(start, range(AT_ONCE)))
        return (time.perf_counter() - begun) * 1000


def _installed(where: Place) -> float:
    connection = where.server.connect()
    deploy(connection, f"{PROGRAM}\n# before\n")
    before = where.server.memory()
    for number in range(INSTALLED):
        deploy(connection, f"{PROGRAM}\n# installed {number}\n")
    return (where.server.memory() - before) / MIB


def main() -> None:
    """Measure."""
    with place() as where:
        ours, theirs = [], []
        for number in range(ROUNDS):
            theirs.append(_theirs(where))
            ours.append(_ours(where, number))
        report("aleph cold, message to first byte", ours, theirs, limit=1.25)
    with place() as where:
        report(f"aleph cold, {AT_ONCE} at once", [_all_at_once(where)], [_ideal(where)], limit=2.0)
    with place() as where:
        grown = _installed(where)
        print(f"aleph: {INSTALLED} installed programs: {grown:.1f} MiB (under 10: {'ok' if grown < 10 else 'MISSED'})")


if __name__ == "__main__":
    main()
