"""A real node that answers on real sockets, in a thread of its own, as the command line runs it."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from moorage.api.server import Listening, serve
from moorage.node.config import NodeConfig
from moorage.node.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A node and where it answers; `portal` runs coroutines in its loop."""

    node: Node
    portal: BlockingPortal
    listening: Listening

    @property
    def url(self) -> str:
        assert self.listening.url
        return self.listening.url

    @property
    def socket(self) -> Path:
        assert self.listening.socket
        return self.listening.socket


@contextlib.asynccontextmanager
async def _served(data_dir: Path, listen: str, config: dict[str, Any]) -> AsyncIterator[tuple[Node, Listening]]:
    async with (
        Node.open(NodeConfig(data_dir=data_dir, **config)) as node,
        serve(node, host=listen, port=0, uds=data_dir / "node.sock") as listening,
    ):
        yield node, listening


@contextlib.contextmanager
def serving(data_dir: Path, *, listen: str = "127.0.0.1", **config: Any) -> Iterator[Served]:
    """Run a node with everything as in production, on a port of `listen` that the kernel chooses."""
    with (
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(_served(data_dir, listen, config)) as (node, listening),
    ):
        yield Served(node=node, portal=portal, listening=listening)
