"""Job outputs as one .zip, made while it is sent: no more than a few blocks are in memory."""

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moorage.model.jobs import FileRef

BLOCK = 256 * 1024


class _Sink(io.RawIOBase):
    """A file that can only be written to, and emptied."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def drain(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zip_stream(files: list[tuple[FileRef, Path]], when: float) -> Iterator[bytes]:
    """Make a .zip of stored (not compressed) files, all dated `when`."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for ref, path in files:
            info = zipfile.ZipInfo(ref.path, time.gmtime(max(when, 315_532_800.0))[:6])
            info.external_attr = 0o644 << 16
            info.file_size = ref.size
            with path.open("rb") as source, archive.open(info, "w", force_zip64=ref.size >= 1 << 31) as member:
                while block := source.read(BLOCK):
                    member.write(block)
                    yield sink.drain()
    yield sink.drain()
