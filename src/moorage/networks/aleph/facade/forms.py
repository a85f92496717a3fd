"""Uploads, read piece by piece: a form with its parts in any order, or a body that is the file itself."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from moorage.networks.aleph.facade.answers import Refused

MAX_FIELD = 1 << 20
"""Bytes of a part that is no file."""


@dataclass(slots=True)
class Upload:
    """What an upload holds beside its file; complete once the file has been read."""

    most: int
    """Bytes that the file may have with a message of its owner."""
    most_alone: int
    """Bytes that it may have without."""
    fields: dict[str, bytearray] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0
    files: int = 0

    async def file(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request to its end and give the bytes of its file.

        Raises Refused; nothing of the file is to be kept then.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind == b"multipart/form-data" and b"boundary" in options:
            pieces = self._parts(request, options[b"boundary"])
        else:
            pieces = self._whole(request)
        async for piece in pieces:
            self.size += len(piece)
            self._limit(self.most)
            yield piece
        if self.files != 1:
            raise Refused(422, "The form must hold one part `file`")
        if "metadata" not in self.fields:
            self._limit(self.most_alone)

    def _limit(self, most: int) -> None:
        if self.size > most:
            raise Refused(413, f"The file is larger than {most} bytes")

    async def _whole(self, request: Request) -> AsyncIterator[bytes]:
        self.files = 1
        async for chunk in request.stream():
            yield chunk

    async def _parts(self, request: Request, boundary: bytes) -> AsyncIterator[bytes]:
        form = _Form(boundary)
        async for chunk in request.stream():
            for name, filename, piece in form.feed(chunk):
                if name == "file":
                    self.filename = filename or self.filename
                    self.files += piece is None
                    yield piece or b""
                else:
                    self._add(name, piece or b"")
        if not form.complete:
            raise Refused(422, "The form ends before it is complete")

    def _add(self, name: str, piece: bytes) -> None:
        found = self.fields.setdefault(name, bytearray())
        found += piece
        if sum(map(len, self.fields.values())) > MAX_FIELD or len(self.fields) > 100:
            raise Refused(413, "The form holds too much beside its file")


_Piece = tuple[str, str | None, bytes | None]
"""Name and file name of a part, with some of its bytes, or with None where it begins."""


class _Form:
    """Takes a form apart as it comes; the grammar is the library's."""

    def __init__(self, boundary: bytes) -> None:
        self.complete = False
        self._pieces: list[_Piece] = []
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._name = ""
        self._filename: str | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_part,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, chunk: bytes) -> list[_Piece]:
        """Take some bytes of the form; give what they hold.

        Raises Refused.
        """
        try:
            self._parser.write(chunk)
        except MultipartParseError as failure:
            raise Refused(422, f"The form cannot be read: {failure}") from None
        pieces, self._pieces = self._pieces, []
        return pieces

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = map(bytes, self._header)
        self._headers[name.lower()] = value
        self._header = (bytearray(), bytearray())

    def _on_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        self._filename = filename.decode(errors="replace") if filename else None
        self._pieces.append((self._name, self._filename, None))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append((self._name, self._filename, data[start:end]))

    def _on_end(self) -> None:
        self.complete = True
