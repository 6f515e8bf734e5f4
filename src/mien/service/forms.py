"""The image in a request, a form's file or the body itself; nothing of it is written to a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mien.service.limits import MAX_BYTES
from mien.service.schemas import ApiError

FIELD = "image"
"""The form's one field."""

FORM_TYPE = "multipart/form-data"

IMAGE_TYPES: tuple[str, ...] = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/avif",
    "image/tiff",
    "image/bmp",
    "image/gif",
    "image/x-portable-anymap",
    "image/x-icon",
)
"""The types of `mien.core.file_types.READABLE`. The content decides, whichever of them is said."""

OTHER_IMAGE_TYPES = frozenset(
    {
        "image/apng",
        "image/jpg",
        "image/mpo",
        "image/pjpeg",
        "image/vnd.microsoft.icon",
        "image/x-bmp",
        "image/x-ms-bmp",
        "image/x-png",
        "image/x-portable-bitmap",
        "image/x-portable-graymap",
        "image/x-portable-pixmap",
    }
)
"""Other names of the same, which are taken, too."""

FORM_BYTES = 16_384
"""What a form may have beside the image: boundaries and headers."""

_MAX_TYPE_LENGTH = 1024  # some versions of the parser take quadratic time
_MAX_NAME_LENGTH = 255
_MAX_TEXT_BYTES = 1024
_HINT = "send one image, as curl -F image=@photo.jpg does"


@dataclass(frozen=True)
class Upload:
    """An image that a client has sent.

    Attributes:
        content: the encoded file.
        name: the file's name without folders, if the client told it.
    """

    content: bytes
    name: str | None = None


def check_headers(request: Request, max_bytes: int) -> str:
    """Return a request's content type, lower case and without parameters.

    Raises:
        ApiError: if it is neither a form's nor an image's, or the body is compressed, or too large
            by its declared length; none of it has been read then.
    """
    value = request.headers.get("content-type", "")
    if len(value) > _MAX_TYPE_LENGTH:
        raise ApiError(415, f"the content type is longer than {_MAX_TYPE_LENGTH} characters")
    kind = _without_parameters(value)
    if kind != FORM_TYPE and kind not in IMAGE_TYPES and kind not in OTHER_IMAGE_TYPES:
        said = f"unknown content type {kind[:60]!r}" if kind else "the request has no content type"
        raise ApiError(415, f"{said}: expected {FORM_TYPE} or one of {', '.join(IMAGE_TYPES)}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise ApiError(415, f"the body is coded as {coding[:60]!r}: send the image as it is")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > _max_body(kind, max_bytes):
        raise _too_large(max_bytes)
    return kind


async def read_upload(request: Request, kind: str, *, max_bytes: int, seconds: float) -> Upload:
    """Read the image of a request, and never more bytes than are allowed.

    Args:
        request: the request.
        kind: its content type, as `check_headers` returned it.
        max_bytes: of the image.
        seconds: within which it has to arrive.

    Raises:
        ApiError: if it is too large, too slow, empty, or the form is not as expected.
        ClientDisconnect: if the client goes away.
    """

    async def read() -> Upload:
        async with aclosing(_chunks(request, kind, max_bytes)) as chunks:
            if kind == FORM_TYPE:
                return await _read_form(request, chunks, max_bytes)
            content = bytearray()
            async for chunk in chunks:
                content += chunk
            return Upload(bytes(content))

    try:
        upload = await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError as error:
        raise ApiError(
            408,
            f"the image did not arrive within {seconds:g} seconds: "
            "send a smaller one, or over a faster connection",
            headers={"Connection": "close"},  # the rest of it is not waited for
        ) from error
    if not upload.content:
        raise ApiError(400, "the image is empty: expected the bytes of an image file")
    return upload


def base_name(name: str) -> str | None:
    """Return a file's name without folders and unprintable characters; None if nothing is left."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(each for each in last if each.isprintable())
    return printable[:_MAX_NAME_LENGTH].strip() or None


class _FormParser(MultiPartParser):
    """Starlette's parser, which keeps files of this size in memory and notices a form's end."""

    spool_max_size = MAX_BYTES + FORM_BYTES
    complete = False

    def on_end(self) -> None:
        self.complete = True


async def _read_form(
    request: Request, chunks: AsyncGenerator[bytes, None], max_bytes: int
) -> Upload:
    async def whole() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if not parser.complete:
            raise ApiError(400, f"the form breaks off before its end: {_HINT}")

    parser = _FormParser(
        request.headers, whole(), max_files=1, max_fields=1, max_part_size=_MAX_TEXT_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # ValueError: of a charset or a name
        reason = str(getattr(error, "message", error)).rstrip(".")
        raise ApiError(400, f"the form cannot be read ({reason}): {_HINT}") from error
    try:
        file = _only_file(form, max_bytes)
        return Upload(await file.read(), base_name(file.filename or ""))
    finally:
        await form.close()


def _only_file(form: FormData, max_bytes: int) -> UploadFile:
    """Return a form's file; raises ApiError if it is not the one that is expected."""
    for name, value in form.multi_items():
        if name != FIELD:
            raise ApiError(400, f"unexpected field {name[:60]!r}: {_HINT}")
        if not isinstance(value, UploadFile):
            raise ApiError(400, f"the field {FIELD!r} holds text and no file: {_HINT}")
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise ApiError(400, f"the form has no field {FIELD!r}: {_HINT}")
    kind = _without_parameters(file.content_type or "")
    # The second is what clients say of a file whose type they don't know.
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise ApiError(415, f"the field {FIELD!r} is of type {kind[:60]!r}: expected an image's")
    if (file.size or 0) > max_bytes:
        raise _too_large(max_bytes)
    return file


async def _chunks(request: Request, kind: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes; raises ApiError once it is too large."""
    arrived = 0
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            arrived += len(chunk)
            if arrived > _max_body(kind, max_bytes):
                raise _too_large(max_bytes)
            yield chunk


def _max_body(kind: str, max_bytes: int) -> int:
    return max_bytes + (FORM_BYTES if kind == FORM_TYPE else 0)


def _without_parameters(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413, f"the image is too large: expected at most {max_bytes:,} bytes; send a smaller one"
    )
