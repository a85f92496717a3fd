"""What makes a folder an InfraX app (contract, section 1.1) and the knobs of its `[infrax]` table."""

from collections.abc import Iterator
from pathlib import Path

from moorage.errors import BadApp, BadManifest
from moorage.model.apps import App
from moorage.networks.base import Manifest, PythonEnvironment
from moorage.networks.infrax.arguments import ArgvStyle, KwargsVia
from moorage.networks.manifest import AppFile, Table, network_of, read_app_file

NETWORK = "infrax"
MAIN = "main.py"
REQUIREMENTS = "requirements.txt"
IGNORED = ("input", "output", ".venv", "__pycache__")
"""Top-level entries that are no part of an app."""


class Knobs(Table):
    """`[infrax]` in moorage.toml."""

    kwargs_via: KwargsVia = "both"
    """How keyword arguments reach the app (section 3.1)."""
    argv_style: ArgvStyle = "auto"
    """How they are written on the command line (section 3.1)."""
    input_readonly: bool = False
    """Whether the app may not change `input/` (section 2, step 7)."""


def is_app(source: Path) -> bool:
    """Tell whether a directory is an InfraX app: moorage.toml says so, or says nothing and there is a main.py."""
    return source.is_dir() and (network_of(source) or NETWORK) == NETWORK and (source / MAIN).exists()


def read(source: Path) -> Manifest:
    """Read and validate an app's directory.

    Raises BadApp and BadManifest naming what is wrong and how to mend it.
    """
    app_file, knobs = read_app_file(source, NETWORK, Knobs)
    _check_main(source)
    if app_file.command is not None:
        raise BadManifest(f"moorage.toml: an InfraX app starts with `python {MAIN}`; remove `command`.")
    return Manifest(
        network=NETWORK,
        name=source.name,
        environments={"python": PythonEnvironment(requirements=_requirements(source, app_file))},
        data={**knobs.model_dump(), "limits": app_file.limits.model_dump(exclude_none=True)},
        ignore=IGNORED,
        warnings=tuple(_warnings(source, app_file)),
    )


def knobs_of(app: App) -> Knobs:
    """Give the knobs that were read when the app was added."""
    return Knobs.model_validate({key: app.manifest[key] for key in Knobs.model_fields if key in app.manifest})


def _check_main(source: Path) -> None:
    main = source / MAIN
    if main.is_dir():
        raise BadApp(f"{MAIN} is a directory.", hint=f"Put the program itself into a file called {MAIN}.")
    if not main.is_file():
        raise BadApp(f"There is no {MAIN} in {source.name}.", hint=f"An InfraX app starts with {MAIN} in its root.")


def _requirements(source: Path, app_file: AppFile) -> str | None:
    name = app_file.python or REQUIREMENTS
    path = source / name
    if path.is_dir():
        raise BadApp(f"{name} is a directory.", hint="It must be a file with one requirement a line.")
    if path.is_file() and path.resolve().is_relative_to(source.resolve()):
        return name
    if app_file.python is not None:
        raise BadManifest(f"moorage.toml: `python` names {name!r}, which is no file of the app.")
    return None


def _warnings(source: Path, app_file: AppFile) -> Iterator[str]:
    for name in ("input", "output", ".venv"):
        if (source / name).exists():
            yield f"{name}/ is left out: the node makes its own for every job."
    if app_file.network_access.policy != "none":
        yield "The app asks for network access; this node grants none, so it runs without."
