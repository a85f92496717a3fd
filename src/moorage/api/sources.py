"""Uploaded sources, unpacked into a directory that the node takes over."""

from pathlib import Path

from moorage.api.schemas import ArchiveSource, FilesSource
from moorage.node.node import Node


async def staged(node: Node, source: ArchiveSource | FilesSource) -> Path:
    raise NotImplementedError
