"""Routes of services: long-running instances of apps."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import TypeAdapter

from moorage.api import examples
from moorage.api.routing import answers, operated, rendered
from moorage.errors import NotFound
from moorage.networks.base import ServiceState

SERVICE = TypeAdapter(ServiceState)
SERVICES = TypeAdapter(list[ServiceState])

router = APIRouter(prefix="/v1")


@router.get("/services", response_model=list[ServiceState], responses=answers(SERVICES, [examples.SERVICE]))
async def list_services(request: Request) -> Response:
    """List the services that were ever needed (operators only)."""
    return rendered(SERVICES, list(await operated(request).services.measured()))


@router.get("/services/{key:path}", response_model=ServiceState, responses=answers(SERVICE, examples.SERVICE, 404))
async def show_service(
    request: Request, key: Annotated[str, Path(description="Key of a service.", examples=[examples.SERVICE.key])]
) -> Response:
    """Show one service (operators only)."""
    for service in await operated(request).services.measured():
        if service.key == key:
            return rendered(SERVICE, service)
    raise NotFound(f"There is no service {key}.", hint="List them with `moorage service list` or GET /v1/services.")
