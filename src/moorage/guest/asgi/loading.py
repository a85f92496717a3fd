"""Import of the program, as if nothing had been imported before (contract, section 2.4)."""

import sys
from collections.abc import Sequence
from functools import reduce
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from .frameworks import framework_of, wants_whole_path
from .program import Program


class NotLoaded(Exception):
    """The entrypoint names nothing that can be called."""


def load(entrypoint: str, module: str | None, path: Sequence[str]) -> Program:
    """Import the program that an entrypoint names; its own packages win over those of the runtime.

    Raises NotLoaded, and whatever the import raises.
    """
    named, _, attribute = entrypoint.rpartition(":")
    name = module or named
    sys.path[:0] = path
    make_way(path, name)
    found: Any = import_module(name)
    try:
        application = reduce(getattr, attribute.split("."), found)
    except AttributeError:
        raise NotLoaded(f"The module {name!r} has no attribute {attribute!r}.") from None
    if not callable(application):
        raise NotLoaded(f"{name}:{attribute} is no ASGI application: it cannot be called.")
    framework = framework_of(application, _Own(path))
    return Program(call=application, framework=framework, whole_path=wants_whole_path(framework))


def make_way(path: Sequence[str], entry: str) -> None:
    """Forget imported modules that the program brings itself; who has imported them keeps them.

    Those of the standard library stay, as programs know them to be there first, unless the entrypoint is one.
    """
    loaded = {name.partition(".")[0] for name in sys.modules} - {"__main__"}
    kept = sys.stdlib_module_names - {entry.partition(".")[0]}
    brought = {name for name in loaded - kept if PathFinder.find_spec(name, path) is not None}
    for name in tuple(sys.modules):
        if name.partition(".")[0] in brought:
            del sys.modules[name]


class _Own:
    """Tells which modules are the program's own code, rather than packages that came with it."""

    def __init__(self, path: Sequence[str]) -> None:
        self._directories = [Path(each) for each in path]

    def __call__(self, module: str) -> bool:
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "/")
        above = [each for each in self._directories if file.is_relative_to(each)]
        nearest = max(above, key=lambda each: len(each.parts), default=None)
        return nearest is not None and (nearest != self._directories[-1] or len(self._directories) == 1)
