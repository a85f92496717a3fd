"""Where a program finds its code, its data and its volumes, and what is started (contract, sections 2.4 and 2.5)."""

import asyncio
import os
import posixpath
import shutil
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moorage.blobs.beneath import open_file, open_root
from moorage.blobs.space import disk_full
from moorage.errors import BadApp, VolumeTooSmall
from moorage.model.jobs import JSON
from moorage.model.limits import GIB, MIB
from moorage.networks.aleph.messages.program import (
    Code,
    EphemeralVolume,
    ImmutableVolume,
    Interface,
    PersistentVolume,
    Program,
    command,
    data_mounts,
    export_mount,
    interface,
    interface_of_plain,
    volume_mounts,
    volume_name,
)
from moorage.networks.aleph.programs.deployments import Deployment
from moorage.networks.aleph.programs.export import Place
from moorage.networks.aleph.programs.files import PLAIN, Files, copy_tree, own
from moorage.networks.aleph.programs.volumes import Fill, Room, Volumes
from moorage.sandbox.base import Mount, Overlay, ReadOnly, Scratch, Writable
from moorage.sandbox.disk import usage_of

ROOT, CODE, PACKAGES = "/opt", "/opt/code", "/opt/packages"
MODULES = ("main.py", "app.py", "application.py")
"""Where the entrypoint is looked for that names no module of an archive."""
MODULE = "main"
"""What plain code is called whose entrypoint names no module."""
DISK = 8 * GIB
"""Bytes that an instance may write to the disk beside its volumes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one start of a program is to find."""

    interface: Interface
    mounts: tuple[Mount, ...]
    cwd: str
    argv: tuple[str, ...] = ()
    """How an executable is started."""
    host: Mapping[str, JSON] = field(default_factory=dict)
    """What the host of ASGI programs is told of one (guest/asgi)."""
    rooms: tuple[Room, ...]
    """Directories whose size is to be watched, as nothing else limits it."""
    export: Place | None
    """What is archived after each run."""


async def lay_out(deployment: Deployment, files: Files, volumes: Volumes, directory: Path) -> Layout:
    """Make ready what a program is to find; `directory` is empty and the instance's own.

    Raises what is wrong with its files: BadArchive and what else Files.tree does, BadApp, VolumeTooSmall.
    """
    program = deployment.program
    tree = await files.tree(deployment.files[program.code.ref], program.code.encoding)
    kind = await asyncio.to_thread(_interface, program, tree)
    code = await asyncio.to_thread(_executable if kind == "binary" else _application, program, tree, directory)
    data = await _data(deployment, files, directory)
    kept = [mounted async for mounted in _volumes(deployment, files, volumes)]
    # Of two things at one place it is the last that is seen.
    mounts = {mount.target: mount for mount in (*code.mounts, *data, *(mount for mount, _ in kept))}
    export = await asyncio.to_thread(_export, export_mount(program), mounts, directory)
    if "/" in mounts:
        raise BadApp("Nothing can be mounted at `/`.", hint="Name a directory of its own as `mount`.")
    return Layout(
        interface=kind,
        mounts=tuple(mounts.values()),
        cwd=code.cwd,
        argv=code.argv,
        host=code.host,
        rooms=(Room(path=directory, limit=DISK), *(room for _, room in kept if room is not None)),
        export=export,
    )


# Code


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    """How code is mounted and started."""

    mounts: tuple[Mount, ...]
    cwd: str = "/"
    argv: tuple[str, ...] = ()
    host: Mapping[str, JSON] = field(default_factory=dict)


def _interface(program: Program, tree: Path) -> Interface:
    known = interface(program)
    if known is not None:
        return known
    if program.code.encoding == "plain":
        with (tree / PLAIN).open("rb") as code:
            return interface_of_plain(code.read(8))
    return "binary" if _find(tree, program.code.entrypoint) else "asgi"


def _application(program: Program, tree: Path, directory: Path) -> _Code:
    code = program.code
    named = code.entrypoint.partition(":")[0] if ":" in code.entrypoint else None
    if code.encoding == "plain":
        file = _inside(f"{(named or MODULE).replace('.', '/')}.py")
        return _hosted(code, (ReadOnly(source=tree / PLAIN, target=file),), None if named else MODULE)
    module = None if named else _module(tree, code.entrypoint)
    if code.encoding == "zip":
        return _hosted(code, _at_root(tree, directory), module, (ROOT, CODE, PACKAGES))
    return _hosted(code, (_overlay(tree, CODE, directory / "code"),), module)


def _hosted(
    code: Code, mounts: tuple[Mount, ...], module: str | None, path: tuple[str, ...] = (CODE, PACKAGES)
) -> _Code:
    argv = [code.entrypoint, *code.args]
    return _Code(mounts=mounts, host={"entrypoint": code.entrypoint, "module": module, "argv": argv, "path": [*path]})


def _at_root(tree: Path, directory: Path) -> tuple[Mount, ...]:
    """Show a zip at ROOT, and at CODE too unless it has something of that name."""
    root = _overlay(tree, ROOT, directory / "root")
    if os.path.lexists(tree / "code"):
        return (root,)
    return root, _overlay(tree, CODE, directory / "code")


def _module(tree: Path, entrypoint: str) -> str:
    """Find the module whose attribute an entrypoint is: a well-known one, or the only one."""
    modules = {path.name for path in tree.glob("*.py") if not path.is_symlink() and path.is_file()}
    found = [name for name in MODULES if name in modules] or sorted(modules)
    if not found or (found[0] not in MODULES and len(found) > 1):
        raise BadApp(
            f"The entrypoint {entrypoint!r} names neither a file of the code nor a module.",
            hint="Write it as `module:attribute`, or name a file.",
        )
    return found[0].removesuffix(".py")


def _executable(program: Program, tree: Path, directory: Path) -> _Code:
    code = program.code
    if code.encoding == "plain":
        file = _inside(code.entrypoint)
        return _Code(mounts=(ReadOnly(source=tree / PLAIN, target=file),), argv=(file, *code.args))
    mounts: tuple[Mount, ...] = (_overlay(tree, CODE, directory / "code"),)
    argv, cwd = (code.entrypoint, *code.args), "/"
    found = _find(tree, argv[0])
    if found is None:
        argv, cwd = command(code), CODE
        found = _find(tree, argv[0])
    if found is None:  # a command of the machine
        return _Code(mounts=mounts, cwd=cwd, argv=argv)
    if not found.executable:
        mounts = (*mounts, _made_executable(tree / found.path, f"{CODE}/{found.path}", directory))
    return _Code(mounts=mounts, cwd=cwd, argv=(_inside(argv[0]), *argv[1:]))


def _made_executable(source: Path, target: str, directory: Path) -> ReadOnly:
    copy = directory / "entrypoint"
    with disk_full():
        shutil.copyfile(source, copy, follow_symlinks=False)
        copy.chmod(0o755)
        own(copy)
    return ReadOnly(source=copy, target=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    path: str
    """Below the tree, and through no link."""
    executable: bool


def _find(tree: Path, name: str) -> _Found | None:
    """Find a file of the code by what it is called seen from CODE; no link leads out of it."""
    path = posixpath.normpath(posixpath.join(CODE, name))
    if not path.startswith(f"{CODE}/"):
        return None
    root = open_root(tree)
    try:
        file = open_file(root, path.removeprefix(f"{CODE}/"))
    finally:
        os.close(root)
    if file is None:
        return None
    with os.fdopen(file) as opened:
        mode = os.fstat(opened.fileno()).st_mode
        real = Path(os.readlink(f"/proc/self/fd/{opened.fileno()}"))  # noqa: PTH115 - what the kernel opened
    return _Found(path=str(real.relative_to(tree.resolve())), executable=bool(mode & stat.S_IXUSR))


def _inside(name: str) -> str:
    """Give the path that a name has in CODE. Raises BadApp if it leads out."""
    path = posixpath.normpath(posixpath.join(CODE, name))
    if not path.startswith(f"{CODE}/"):
        raise BadApp(f"The entrypoint leads out of {CODE}.", hint="Name a file of the code.")
    return path


# Data and volumes


async def _data(deployment: Deployment, files: Files, directory: Path) -> list[Mount]:
    """Show the data; one and the same copy at both places where it is exported, for what is written shows there."""
    data, exported = deployment.program.data, export_mount(deployment.program)
    if data is None:
        return []
    tree = await files.tree(deployment.files[data.ref], data.encoding)
    targets = data_mounts(deployment.program)
    if exported is None or not any(_within(exported, target) for target in targets):
        return [_overlay(tree, target, directory / f"data-{number}") for number, target in enumerate(targets)]
    copy = directory / "data"
    await asyncio.to_thread(copy_tree, tree, copy)
    return [Writable(source=copy, target=target) for target in targets]


async def _volumes(deployment: Deployment, files: Files, volumes: Volumes) -> AsyncIterator[tuple[Mount, Room | None]]:
    program = deployment.program
    for index, (volume, target) in enumerate(zip(program.volumes, volume_mounts(program), strict=True)):
        match volume:
            case ImmutableVolume():
                tree = await files.tree(deployment.files[volume.ref], None)
                yield ReadOnly(source=tree, target=target), None
            case EphemeralVolume():
                yield Scratch(target=target, size=volume.size_mib * MIB), None
            case PersistentVolume():
                name = volume_name(volume, index)
                path = await volumes.open(deployment.origin, name, _parent(deployment, volume, name, files))
                yield Writable(source=path, target=target), Room(path=path, limit=volume.size_mib * MIB)


def _parent(deployment: Deployment, volume: PersistentVolume, name: str, files: Files) -> Fill | None:
    if volume.parent is None:
        return None
    parent = deployment.files[volume.parent.ref]

    async def fill(target: Path) -> None:
        tree = await files.tree(parent, None)
        size, limit = await asyncio.to_thread(usage_of, tree), volume.size_mib * MIB
        if size > limit:
            raise VolumeTooSmall(
                f"The volume {name!r} takes {limit} bytes; its parent has {size}.",
                volume_name=name, parent_ref=parent.ref, parent_file=parent.digest, parent_size=size, volume_size=limit,
            )  # fmt: skip
        await asyncio.to_thread(copy_tree, tree, target)

    return fill


def _export(path: str | None, mounts: dict[str, Mount], directory: Path) -> Place | None:
    """Find the directory of this machine that is seen at `path`; where there is none, mount one that is."""
    if path is None:
        return None
    covers = [mount for mount in mounts.values() if _within(path, mount.target)]
    cover = max(covers, key=lambda mount: len(mount.target), default=None)
    if isinstance(cover, Writable | ReadOnly):
        return Place(directory=cover.source, below=path.removeprefix(cover.target).strip("/"))
    private = directory / "export"
    if isinstance(cover, Overlay) and cover.target == path:
        copy_tree(cover.lower[0], private)
    else:
        private.mkdir()
    mounts[path] = Writable(source=private, target=path)
    return Place(directory=private)


def _overlay(tree: Path, target: str, private: Path) -> Overlay:
    private.mkdir()
    return Overlay(lower=(tree,), upper=private / "upper", work=private / "work", target=target)


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")
