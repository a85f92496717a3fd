"""Routes of apps: add, look, edit, change state."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import TypeAdapter

from moorage.api import examples
from moorage.api.jobs import Before, Limit, Seen, Wait
from moorage.api.routing import answers, here, read, rendered, takes
from moorage.api.schemas import AppBody, EditBody, StateBody
from moorage.api.sources import staged
from moorage.api.waiting import changed
from moorage.model.apps import App
from moorage.model.states import AppState
from moorage.store.base import AppFilter, Page

APP = TypeAdapter(App)
APPS = TypeAdapter(list[App])

router = APIRouter(prefix="/v1")

AppId = Annotated[str, Path(description="Id of an app.", examples=[examples.APP_ID])]


@router.post(
    "/apps",
    status_code=201,
    response_model=App,
    responses=answers(APP, examples.APP, 404, 409, 413, 415, 507, status=201),
    openapi_extra=takes(AppBody),
)
async def add_app(request: Request) -> Response:
    """Keep uploaded files as an app, and with `deploy` install it in the background (CREATED → TESTING | ERROR)."""
    node, caller = here(request)
    body = await read(request, AppBody)
    source = await staged(node, body.source)
    app = await node.add_app(
        source, caller=caller, network=body.network, name=body.name, meta=body.meta, deploy=body.deploy
    )
    return rendered(APP, app, 201, {"location": f"/v1/apps/{app.id}"})


@router.get("/apps", response_model=list[App], responses=answers(APPS, [examples.APP], 404))
async def list_apps(
    request: Request,
    *,
    state: Annotated[AppState | None, Query(description="Only apps in this state.", examples=["TESTING"])] = None,
    network: Annotated[
        str | None, Query(max_length=255, description="Only apps of this network.", examples=["infrax"])
    ] = None,
    name: Annotated[
        str | None, Query(max_length=255, description="Only apps of this name.", examples=["word-count"])
    ] = None,
    owner: Annotated[
        str | None, Query(max_length=255, description="Only apps of this owner.", examples=["local"])
    ] = None,
    before: Before = None,
    limit: Limit = 50,
) -> Response:
    """List apps, newest first; go on with `before` set to the id of the last one."""
    node, caller = here(request)
    where = AppFilter(state=state, network=network, name=name, owner=owner)
    return rendered(APPS, await node.list_apps(where, Page(limit=limit, before=before), caller=caller))


@router.get("/apps/{app_id}", response_model=App, responses=answers(APP, examples.APP, 404))
async def show_app(
    request: Request,
    app_id: AppId,
    wait: Wait = 0,
    after: Seen = None,
) -> Response:
    """Show an app; with `wait`, as soon as something has happened to it."""
    node, caller = here(request)
    app = await node.get_app(app_id, caller=caller)
    seen = app.seq if after is None else after
    if wait and app.seq <= seen and await changed(request, app_id, seen, wait):
        app = await node.get_app(app_id, caller=caller)
    return rendered(APP, app)


@router.put(
    "/apps/{app_id}",
    response_model=App,
    responses=answers(APP, examples.APP, 404, 409, 413, 415, 507),
    openapi_extra=takes(EditBody),
)
async def edit_app(request: Request, app_id: AppId) -> Response:
    """Change files, name or defaults of an app that is not published yet."""
    node, caller = here(request)
    body = await read(request, EditBody)
    await node.get_app(app_id, caller=caller)
    source = await staged(node, body.source) if body.source else None
    return rendered(APP, await node.edit_app(app_id, caller=caller, source=source, name=body.name, meta=body.meta))


@router.put(
    "/apps/{app_id}/state",
    response_model=App,
    responses=answers(APP, examples.APP, 404, 409, 413, 415),
    openapi_extra=takes(StateBody),
)
async def change_app(request: Request, app_id: AppId) -> Response:
    """Move an app to another state: publish, hide, bring back, remove."""
    node, caller = here(request)
    body = await read(request, StateBody)
    return rendered(APP, await node.change_app(app_id, body.state, caller=caller, message=None))
