"""Routes of the node itself: what it is, what its machine can enforce, and who may ask it."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import TypeAdapter

from moorage.api import examples
from moorage.api.access import Tokens
from moorage.api.problems import documented
from moorage.api.routing import answers, here, operated, read, rendered, takes
from moorage.api.schemas import NewToken, TokenBody, TokenName
from moorage.node.info import NodeInfo
from moorage.sandbox.base import Check

NODE = TypeAdapter(NodeInfo)
CHECKS = TypeAdapter(list[Check])
NAMES = TypeAdapter(list[TokenName])
NEW_TOKEN = TypeAdapter(NewToken)

router = APIRouter(prefix="/v1")


@router.get("/node", response_model=NodeInfo, responses=answers(NODE, examples.NODE))
async def show_node(request: Request) -> Response:
    """Show what this node is, what it has and how many jobs are in which state."""
    node, _ = here(request)
    return rendered(NODE, await node.info())


@router.get("/node/doctor", response_model=list[Check], responses=answers(CHECKS, [examples.CHECK]))
async def examine_node(request: Request) -> Response:
    """Find out what this machine can and cannot enforce, and how to mend it (operators only)."""
    return rendered(CHECKS, await operated(request).doctor())


@router.get("/tokens", response_model=list[TokenName], responses=answers(NAMES, [examples.TOKEN_NAME]))
async def list_tokens(request: Request) -> Response:
    """List who has a token (operators only)."""
    tokens = await operated(request).store.tokens()
    return rendered(
        NAMES, [TokenName(name=token.name, operator=token.operator, created_at=token.created_at) for token in tokens]
    )


@router.post(
    "/tokens",
    status_code=201,
    response_model=NewToken,
    responses=answers(NEW_TOKEN, examples.NEW_TOKEN, 409, 413, 415, status=201),
    openapi_extra=takes(TokenBody),
)
async def add_token(request: Request) -> Response:
    """Make a token (operators only); it is shown this once and kept only as a hash."""
    operated(request)
    body = await read(request, TokenBody)
    secret = await _tokens(request).add(body.name, operator=body.operator)
    return rendered(NEW_TOKEN, NewToken(name=body.name, operator=body.operator, token=secret), 201)


@router.delete("/tokens/{name}", status_code=204, responses=documented(404))
async def remove_token(
    request: Request, name: Annotated[str, Path(description="Name of a token.", examples=["alice"])]
) -> Response:
    """Forget a token (operators only); it is refused from now on."""
    operated(request)
    await _tokens(request).remove(name)
    return Response(status_code=204)


def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens
