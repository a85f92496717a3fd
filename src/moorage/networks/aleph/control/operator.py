"""What only the node's operator may ask, beside the node's own API: to publish in its name, to make a run again."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from moorage.errors import Forbidden
from moorage.model.callers import Caller
from moorage.model.jobs import JSON
from moorage.networks.aleph.local import Local
from moorage.networks.aleph.programs.replays import Replays


class Post(BaseModel, extra="forbid"):
    """A POST that is to be published."""

    type: str
    content: Any
    channel: str | None = None


class Operator:
    """Answers the operator's command line."""

    def __init__(self, local: Local, replays: Replays) -> None:
        self._local, self._replays = local, replays

    def router(self) -> APIRouter:
        """Give the routes."""
        routes = APIRouter(prefix="/v1/aleph", include_in_schema=False)
        routes.add_api_route("/posts", self._post, methods=["POST"])
        routes.add_api_route("/runs/{run}/replay", self._replay, methods=["POST"])
        return routes

    async def _post(self, request: Request, post: Post) -> dict[str, JSON]:
        _require_operator(request)
        return {"item_hash": await self._local.post(post.type, post.content, channel=post.channel)}

    async def _replay(self, request: Request, run: str) -> dict[str, JSON]:
        _require_operator(request)
        return (await self._replays.replay(run)).document


def _require_operator(request: Request) -> None:
    caller: Caller = request.scope["moorage.caller"]
    if not caller.operator:
        raise Forbidden(f"{caller.name} is no operator of this node.")
