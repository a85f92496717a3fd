"""The seam to wherever bytes are kept by digest."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from moorage.model.jobs import FileRef


class Blobs(Protocol):
    """Bytes named by their sha256 in lower-case hex; content is never held in memory as a whole."""

    async def put(self, chunks: AsyncIterator[bytes], *, expect: str | None = None) -> tuple[str, int]:
        """Store a stream durably and return its digest and size.

        Raises BlobMismatch if `expect` is given and differs, DiskFull; nothing is kept then.
        """

    async def put_file(self, path: int | Path) -> tuple[str, int]:
        """Store a copy (a reflink where possible) of a file, given by path or open descriptor."""

    async def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Store a small value."""

    def path(self, digest: str) -> Path:
        """Give the path of the stored bytes, for reading only.

        Raises NotFound if they are not here.
        """

    def size(self, digest: str) -> int | None:
        """Tell how many bytes are stored under a digest; None if there is no such blob."""

    def link(self, files: tuple[FileRef, ...], directory: Path) -> None:
        """Lay files out below `directory` without copying them (hard links): a tree to be read, never written.

        Raises InputUnavailable naming the file that is not here.
        """
