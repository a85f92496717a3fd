"""A FastAPI program called through the node, against the same program called directly under uvicorn.

Both run in the same kind of sandbox with the same packages and are asked over Unix sockets by the same client, turn
about. Run alone: `python -m bench.aleph_warm`.
"""

import statistics

import uvloop

from bench.aleph import PATH, Place, by_hand, deploy, load, place

CONNECTIONS, SECONDS, ROUNDS = 32, 4.0, 3
LEAST_SHARE, MOST_ADDED = 0.55, 0.4


async def _measure(where: Place) -> None:
    program = deploy(where.server.connect())
    target = f"/vm/{program}{PATH}"
    with by_hand(where.runtime) as direct:
        await load(where.socket, target, connections=4, seconds=1)
        await load(direct.socket, PATH, connections=4, seconds=1)
        shares, added = [], []
        for _ in range(ROUNDS):
            theirs = len(await load(direct.socket, PATH, connections=CONNECTIONS, seconds=SECONDS)) / SECONDS
            ours = len(await load(where.socket, target, connections=CONNECTIONS, seconds=SECONDS)) / SECONDS
            shares.append((ours / theirs, ours, theirs))
            alone = statistics.median(await load(direct.socket, PATH, connections=1, seconds=SECONDS / 2))
            through = statistics.median(await load(where.socket, target, connections=1, seconds=SECONDS / 2))
            added.append((through - alone) * 1000)
    share, ours, theirs = sorted(shares)[len(shares) // 2]
    print(
        f"aleph warm, {CONNECTIONS} connections: {ours:.0f}/s through the node, {theirs:.0f}/s directly: "
        f"{share:.0%} (at least {LEAST_SHARE:.0%}: {'ok' if share >= LEAST_SHARE else 'MISSED'})"
    )
    extra = statistics.median(added)
    print(
        f"aleph warm, one connection: {extra:.2f} ms more in the median "
        f"(at most {MOST_ADDED} ms: {'ok' if extra <= MOST_ADDED else 'MISSED'})"
    )


def main() -> None:
    """Measure."""
    with place() as where:
        uvloop.run(_measure(where))


if __name__ == "__main__":
    main()
