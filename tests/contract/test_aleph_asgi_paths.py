"""What paths programs see and make (contract, section 2.6, A7 and the path table)."""

from pathlib import Path
from typing import Any

import pytest

from tests.aleph_host import ECHO, ROOT, hosted

pytestmark = pytest.mark.anyio

WRAPPED_RAW = f"""{ECHO}
class Wrapper:
    def __init__(self, http_app):
        self.http_app = http_app

    async def __call__(self, scope, receive, send):
        await self.http_app(scope, receive, send)

app = Wrapper(app)
"""
RAW_WITH_HELPERS = f"""{ECHO}
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
missing, bare = PlainTextResponse("no", 404), app

async def app(scope, receive, send):
    if scope["path"] == "/missing":
        return await missing(scope, receive, send)
    assert Request(scope).url.path and JSONResponse
    await bare(scope, receive, send)
"""
METHOD = f"""{ECHO}
class Site:
    async def answer(self, scope, receive, send):
        await echo(scope, receive, send)

echo, app = app, Site().answer
"""


@pytest.mark.parametrize("code", [ECHO, WRAPPED_RAW, RAW_WITH_HELPERS, METHOD])
async def test_a_callable_of_the_programs_own_sees_the_path_below_its_root(tmp_path: Path, code: str) -> None:
    async with hosted(tmp_path, code) as host:
        below, top, own_host = await host.get("/a%2Fb"), await host.get("/"), await host.get("/a", root="")
        assert (await host.get(kind="ready")).json()["framework"] is None
    keys = ("path", "raw_path", "root_path")
    assert [below.json()[key] for key in keys] == ["/a/b", "/a%2Fb", ROOT]
    assert [top.json()[key] for key in keys] == ["/", "/", ROOT]
    assert [own_host.json()[key] for key in keys] == ["/a", "/a", ""]


STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

async def show(request):
    scope = request.scope
    url = str(request.url_for("inner:item", item="7"))
    return JSONResponse([scope["path"], scope["root_path"], url, str(request.url)])

inner = [Route("/items/{item}", show, name="item"), Route("/slash/", show)]
app = Starlette(routes=[Route("/", show), Mount("/inner", routes=inner, name="inner")])
"""
FASTAPI = """
from fastapi import FastAPI, Request

app, inner = FastAPI(), FastAPI()

@inner.get("/items/{item}", name="item")
@inner.get("/slash/")
@app.get("/")
async def show(request: Request):
    scope = request.scope
    root = scope["root_path"].removesuffix("/inner")
    url = f"{request.base_url}".removesuffix("/").removesuffix("/inner") + "/inner" + inner.url_path_for("item", item=7)
    return [scope["path"], root, url, str(request.url)]

app.mount("/inner", inner)
"""
WRAPPERS = {
    "itself": "",
    "middleware": """
from starlette.middleware.cors import CORSMiddleware
app = CORSMiddleware(app, allow_origins=["*"])
""",
    "a class that names it": """
class Wrapper:
    def __init__(self, app):
        self.app = app

    def __getattr__(self, name):
        return getattr(self.app, name)

    async def __call__(self, scope, receive, send):
        await self.app(scope=scope, receive=receive, send=send)

app = Wrapper(app)
""",
    "a class that hides it": """
class Wrapper:
    def __init__(self, app):
        self._hidden = app

    async def __call__(self, scope, receive, send):
        await self._hidden(scope, receive, send)

app = Wrapper(app)
""",
    "a function": """
framework = app
async def app(scope, receive, send):
    await framework(scope, receive, send)
""",
    "a closure": """
def wrap(inside):
    async def wrapped(scope, receive, send):
        await inside(scope, receive, send)
    return wrapped

app = wrap(app)
""",
    "a partial function": """
from functools import partial
async def call(inside, scope, receive, send):
    await inside(scope, receive, send)

app = partial(call, app)
""",
    "a class of its own": """
app.__class__ = type("Mine", (type(app),), {"__module__": __name__})
""",
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("code", [STARLETTE, FASTAPI], ids=["starlette", "fastapi"])
async def test_frameworks_find_their_ways_below_a_root_and_make_links_with_it(
    tmp_path: Path, code: str, wrapper: str
) -> None:
    async with hosted(tmp_path, code + wrapper) as host:
        ready: dict[str, Any] = (await host.get(kind="ready")).json()
        below = [await host.get("/"), await host.get("/inner/items/7"), await host.get("/inner/slash")]
        own_host = [await host.get(path, root="") for path in ("/", "/inner/items/7", "/inner/slash")]
    assert ready["framework"] == ("fastapi" if "FastAPI" in code else "starlette")
    for root, (top, item, slash) in ((ROOT, below), ("", own_host)):
        site = f"https://node.example:81{root}"
        assert top.json() == [f"{root}/", root, f"{site}/inner/items/7", f"{site}/"]
        assert item.json()[3] == f"{site}/inner/items/7"
        assert slash.headers["location"] == f"{site}/inner/slash/"


async def test_an_older_starlette_gets_the_path_below_its_root(tmp_path: Path) -> None:
    code = f"""{ECHO}
import starlette._utils
from starlette.applications import Starlette
del starlette._utils.get_route_path
raw = app

class Old(Starlette):
    async def __call__(self, scope, receive, send):
        await raw(scope, receive, send)

app = Old()
"""
    async with hosted(tmp_path, code) as host:
        assert (await host.get("/a")).json()["path"] == "/a"


DJANGO = """
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path, reverse

def show(request, item):
    return HttpResponse(f"{item} {request.path} {request.path_info} {reverse('show', args=[8])}")

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x")
urlpatterns = [path("items/<int:item>", show, name="show")]
app = get_asgi_application()
"""


async def test_django_finds_its_way_below_a_root(tmp_path: Path) -> None:
    async with hosted(tmp_path, DJANGO) as host:
        below, own_host = await host.get("/items/7"), await host.get("/items/7", root="")
        assert (await host.get(kind="ready")).json()["framework"] == "django"
    assert below.text == f"7 {ROOT}/items/7 /items/7 {ROOT}/items/8"
    assert own_host.text == "7 /items/7 /items/7 /items/8"


PACKAGE = """
class App:
    def __init__(self, answer):
        self.answer = answer

    def __call__(self, *args):
        return self.answer(*args)
"""


async def test_an_unknown_framework_gets_the_whole_path(tmp_path: Path) -> None:
    code = f"{ECHO}\nfrom exotic.applications import App\napp = App(app)"
    async with hosted(tmp_path, code, packages={"exotic/applications.py": PACKAGE}) as host:
        assert (await host.get("/a")).json()["path"] == f"{ROOT}/a"
        assert (await host.get(kind="ready")).json()["framework"] == "exotic"
