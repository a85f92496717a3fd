"""Uploaded sources, unpacked into a directory that the node takes over."""

import asyncio
import shutil
from pathlib import Path

from moorage.api.schemas import ArchiveSource, FilesSource
from moorage.blobs.names import join
from moorage.errors import InputUnavailable
from moorage.layers.archives import from_files, unpack
from moorage.model.jobs import FileRef
from moorage.node.node import Node


async def staged(node: Node, source: ArchiveSource | FilesSource) -> Path:
    """Unpack an uploaded archive, or lay out uploaded files, in a fresh directory; nothing is left if it is refused.

    Raises BadArchive, ArchiveTooLarge, FileBadPath, FileDuplicate, InputUnavailable, DiskFull.
    """
    target = node.staging()
    target.rmdir()
    await asyncio.to_thread(_stage, node, source, target)
    return target


def _stage(node: Node, source: ArchiveSource | FilesSource, target: Path) -> None:
    if isinstance(source, FilesSource):
        from_files(_refs(node, source), node.blobs, target)
        for file in source.files:
            if file.executable:
                _make_executable(target / join(file.path, file.name))
    elif node.blobs.size(source.digest) is None:
        raise InputUnavailable("The archive is not here.")
    else:
        unpack(node.blobs.path(source.digest), target)


def _refs(node: Node, source: FilesSource) -> tuple[FileRef, ...]:
    return tuple(
        FileRef(path=join(file.path, file.name), digest=file.digest, size=node.blobs.size(file.digest) or 0)
        for file in source.files
    )


def _make_executable(path: Path) -> None:
    """Put a copy in the place of a file, for its mode is that of the stored blob as well."""
    copy = path.with_name(f"{path.name[:200]}.copy")
    shutil.copyfile(path, copy)
    copy.chmod(0o755)
    copy.replace(path)
