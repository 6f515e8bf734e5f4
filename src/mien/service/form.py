"""The image out of a multipart form, as the form arrives: nothing goes to a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mien.service.refusal import Refusal

FIELD = "image"
"""The form's one field."""

ROOM_BYTES = 16_384
"""What a form may have beside the image: boundaries and headers."""

_HINT = "send one image, as curl -F image=@photo.jpg does"
_LONGEST_NAME = 255
_LONGEST_HEADER = 2048
_OPAQUE = "application/octet-stream"  # what clients say of a file whose type they don't know


@dataclass(frozen=True)
class Upload:
    """An image that a client has sent.

    Attributes:
        content: the encoded file.
        name: the file's bare name, if the client told it.
    """

    content: bytes
    name: str | None = None


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of an image that has more bytes than this."""
    return Refusal(
        413, f"the image is too large: expected at most {max_bytes:,} bytes; send a smaller one"
    )


class ImageForm:
    """Takes a form's bytes as they come and keeps those of the image alone."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        """Start to read.

        Args:
            boundary: what stands between the parts, as the request's content type says.
            max_bytes: a larger image is refused.

        Raises:
            Refusal: if that cannot be a boundary.
        """
        if not boundary:
            raise Refusal(400, f"the form has no boundary in its content type: {_HINT}")
        self._max_bytes = max_bytes
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._content: bytearray | None = None
        self._name: str | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_part_data": self._add_data,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            Refusal: if they are no form, or not one of a single image of the right size.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from error

    def upload(self) -> Upload:
        """Return the image, when all bytes have been taken.

        Raises:
            Refusal: if there is none, or the form breaks off.
        """
        if not self._ended:
            raise Refusal(400, f"the form breaks off before its end: {_HINT}")
        if self._content is None:
            raise Refusal(400, f"the form has no field {FIELD!r}: {_HINT}")
        return Upload(bytes(self._content), self._name)

    def _begin_part(self) -> None:
        self._headers = {}

    def _begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._extend(self._header[0], data[start:end])

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._extend(self._header[1], data[start:end])

    def _extend(self, part: bytearray, data: bytes) -> None:
        if len(part) + len(data) > _LONGEST_HEADER:
            raise Refusal(400, f"a header of the form has over {_LONGEST_HEADER} bytes: {_HINT}")
        part += data

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)

    def _end_headers(self) -> None:
        """Check a part by its headers, before any of its data is kept."""
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        field = _text(options.get(b"name", b""))
        if field != FIELD:
            raise Refusal(400, f"unexpected field {field[:60]!r}: {_HINT}")
        if self._content is not None:
            raise Refusal(400, f"the form has more than one field {FIELD!r}: {_HINT}")
        _check_part(self._headers, is_file=b"filename" in options)
        self._name = bare_name(_text(options.get(b"filename", b"")))
        self._content = bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        assert self._content is not None  # its headers came first
        if len(self._content) + end - start > self._max_bytes:
            raise too_large(self._max_bytes)
        self._content += data[start:end]

    def _end(self) -> None:
        self._ended = True


def bare_name(name: str) -> str | None:
    """Return a file's name without folders and unprintable characters; None if nothing is left."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:_LONGEST_NAME].strip() or None


def _check_part(headers: Mapping[bytes, bytes], *, is_file: bool) -> None:
    kind = _text(parse_options_header(headers.get(b"content-type"))[0])
    if kind and kind != _OPAQUE and not kind.startswith("image/"):
        raise Refusal(415, f"the field {FIELD!r} is of type {kind[:60]!r}: expected an image's")
    if not kind and not is_file:
        raise Refusal(400, f"the field {FIELD!r} holds text and no file: {_HINT}")


def _text(value: bytes) -> str:
    # Header values are UTF-8 by custom; what is not has no meaning to keep.
    return value.decode("utf-8", "replace")


def _malformed(error: FormParserError) -> Refusal:
    return Refusal(400, f"the body is not a multipart form ({error}): {_HINT}")
