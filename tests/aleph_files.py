"""Files of programs for tests: archives, what they are stored as, and a sandbox for the tools of squashfs."""

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from moorage.networks.aleph.messages.program import Generation, Program
from moorage.networks.aleph.messages.schema import read
from moorage.networks.aleph.programs.deployments import Deployment, StoredFile
from moorage.networks.aleph.programs.squashfs import Run
from moorage.sandbox.base import Exit, ProcessSpec, Sandbox
from moorage.sandbox.opening import open_sandboxes

OWNER = "0x" + "1" * 40
CODE = "a" * 64


@asynccontextmanager
async def a_sandbox(directory: Path) -> AsyncIterator[Sandbox]:
    opened = await open_sandboxes(data_dir=directory, run_dir=directory / "run")
    try:
        yield opened["bubblewrap"]
    finally:
        await opened["bubblewrap"].close()


def runs_in(sandbox: Sandbox) -> Run:
    async def run(spec: ProcessSpec) -> Exit:
        process = await sandbox.start(spec, name=f"own-{uuid4().hex}", output=lambda *_: None)
        return await process.wait()

    return run


async def no_run(spec: ProcessSpec) -> Exit:
    raise AssertionError(f"{spec.argv} was run")


def stored(path: Path, ref: str | None = None) -> StoredFile:
    """Give a file as a reference leads to it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return StoredFile(ref=ref or digest, digest=digest, path=path)


def squashfs(path: Path, source: Path, *options: str) -> Path:
    """Make an image of a directory."""
    subprocess.run(["mksquashfs", source, path, "-quiet", "-no-progress", *options], check=True, capture_output=True)
    return path


def filled(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    directory.mkdir(exist_ok=True)
    return directory


def content(root: Path) -> dict[str, bytes | str | None]:
    """Read a tree: the bytes of files, the targets of links, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)  # noqa: PTH115 - as it is
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def a_program(*, generation: Generation = "accepted", inline: bool = False, **fields: Any) -> Program:
    """Give a valid program; `code` needs no `ref`."""
    code = {"encoding": "plain", "entrypoint": "main:app", "ref": CODE, "use_latest": False, **fields.pop("code", {})}
    document = {
        "address": OWNER, "time": 1000.0, "type": "vm-function", "allow_amend": True, "on": {"http": True},
        "environment": {}, "resources": {}, "runtime": {"ref": CODE, "comment": "", "use_latest": True},
        "code": code, **fields,
    }  # fmt: skip
    reading = read(document, generation=generation, inline=inline)
    assert reading.program is not None, reading.problems
    return reading.program


def deployed(given: Program, **files: Path) -> Deployment:
    """Give a program with its files, by their references; `code` is its code."""
    by_ref = {CODE if ref == "code" else ref: path for ref, path in files.items()}
    return Deployment(
        item_hash="b" * 64,
        origin="c" * 64,
        program=given,
        files={ref: stored(path, ref) for ref, path in by_ref.items()},
        owner=OWNER,
    )
