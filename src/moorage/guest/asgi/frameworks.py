"""Which framework a program is written with, and what that makes of paths (contract, section 2.6, path table)."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

KNOWN = frozenset({"blacksheep", "django", "falcon", "fastapi", "litestar", "quart", "sanic", "starlette"})
"""Packages of frameworks."""
HELPERS = frozenset({"starlette.config", "starlette.responses"})
"""Modules whose objects can be called, too, but find no way by a path."""
DEEPEST = 32
"""Wrappers that are looked through: some answer to every name."""

Own = Callable[[str], bool]
"""Tells whether a module is the program's own code."""


def framework_of(application: Any, own: Own) -> str | None:
    """Name the package that an application comes from; None if it is the program's own and has no framework inside."""
    application = _unwrapped(application)
    known = _known(application)
    if known is not None:
        return known
    if own(_module(application)):
        return next(filter(None, map(_known, _inside(application, own))), None)
    return _module(application).partition(".")[0]


def wants_whole_path(framework: str | None) -> bool:
    """Tell whether a framework takes `root_path` off `path` by itself, as ASGI has it now."""
    if framework in {"starlette", "fastapi"}:
        return hasattr(sys.modules.get("starlette._utils"), "get_route_path")
    return framework is not None


def _unwrapped(application: Any) -> Any:
    """Follow the attributes by which wrappers name what they wrap."""
    for _ in range(DEEPEST):
        if _known(application) is not None and not _is_middleware(application):
            break
        inner = getattr(application, "http_app", None) or getattr(application, "app", None)
        if not callable(inner):
            break
        application = inner
    return application


def _is_middleware(application: Any) -> bool:
    return ".middleware" in type(application).__module__


def _known(application: Any) -> str | None:
    for each in _classes(application):
        package = each.__module__.partition(".")[0]
        if package in KNOWN and each.__module__ not in HELPERS and callable(application):
            return package
    return None


def _classes(application: Any) -> tuple[type, ...]:
    if isinstance(application, MethodType):
        application = application.__self__
    return type(application).__mro__


def _module(application: Any) -> str:
    """Name the module that defines a function, or the class of anything else."""
    while isinstance(application, partial | MethodType):
        application = application.func if isinstance(application, partial) else application.__self__
    definition = application if isinstance(application, FunctionType | type) else type(application)
    return definition.__module__ or ""


def _inside(application: Any, own: Own) -> Iterator[Any]:
    """List the objects that a callable of the program's own holds or names, and those that these do."""
    waiting, seen = [application], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if own(_module(each)) and not isinstance(each, type):
            waiting += _held(each)


def _held(application: Any) -> Iterator[Any]:
    if isinstance(application, partial):
        yield from (application.func, *application.args, *application.keywords.values())
    elif isinstance(application, FunctionType):
        yield from (application.__globals__.get(name) for name in application.__code__.co_names)
        yield from (cell.cell_contents for cell in application.__closure__ or () if _full(cell))
    else:
        yield from getattr(application, "__dict__", {}).values()
        yield getattr(type(application), "__call__", None)  # noqa: B004 - its code is wanted


def _full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises if there is nothing
    except ValueError:
        return False
    return True
