"""A process that submits jobs until it is killed, and prints the id of each that was acknowledged."""

import asyncio
import sys
from pathlib import Path

from moorage.store.sqlite import SqliteStore
from tests.contract.store.steps import an_app, submit


async def main(path: Path) -> None:
    store = SqliteStore.open(path)
    await store.add_app(an_app(), message="x")

    async def client() -> None:
        while True:
            sys.stdout.write((await submit(store, labels={"a": "b"})).id + "\n")
            sys.stdout.flush()

    await asyncio.gather(*(client() for _ in range(16)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
