"""From a request to the image in it: types, sizes and time are checked as the bytes come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from mien.service.form import ROOM_BYTES, ImageForm, Upload, too_large
from mien.service.limits import Limits
from mien.service.refusal import Refusal

FORM_TYPE = "multipart/form-data"

# Some versions of the parser take time that grows with the square of the length.
_LONGEST_TYPE = 1024

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

_OTHER_NAMES = frozenset(
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


@dataclass(frozen=True)
class ContentType:
    """What a request says of its body.

    Attributes:
        kind: the type, in lower case and without parameters.
        boundary: what stands between the parts of a form; empty if it is not said.
    """

    kind: str
    boundary: bytes


def check_type(request: Request) -> ContentType:
    """Return a request's content type, which is parsed here alone.

    Raises:
        Refusal: if it is neither a form's nor an image's, or the body is compressed.
    """
    value = request.headers.get("content-type", "")
    if len(value) > _LONGEST_TYPE:
        raise Refusal(415, f"the content type is longer than {_LONGEST_TYPE} characters")
    parsed, options = parse_options_header(value)
    kind = parsed.decode("latin-1")
    expected = f"expected {FORM_TYPE} or one of {', '.join(IMAGE_TYPES)}"
    if kind != FORM_TYPE and kind not in IMAGE_TYPES and kind not in _OTHER_NAMES:
        said = f"unknown content type {kind[:60]!r}" if kind else "the request has no content type"
        raise Refusal(415, f"{said}: {expected}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Refusal(415, f"the body is coded as {coding[:60]!r}: send the image as it is")
    return ContentType(kind, options.get(b"boundary", b""))


async def read_upload(
    request: Request, limits: Limits, content_type: ContentType | None = None
) -> Upload:
    """Read the image that a request brings, and never more bytes than are allowed.

    Args:
        request: it.
        limits: of bytes and seconds.
        content_type: what `check_type` has returned for it, if that is known already.

    Raises:
        Refusal: if it has another type, is too large, too slow, empty, or not as a form should be.
        ClientDisconnect: if the client goes away.
    """
    content_type = content_type or check_type(request)
    if content_type.kind == FORM_TYPE:
        form = ImageForm(content_type.boundary, limits.max_bytes)
        await _pour(request, limits, limits.max_bytes + ROOM_BYTES, form.feed)
        upload = form.upload()
    else:
        content = bytearray()
        await _pour(request, limits, limits.max_bytes, content.extend)
        upload = Upload(bytes(content))
    if not upload.content:
        raise Refusal(400, "the image is empty: expected the bytes of an image file")
    return upload


def check_length(request: Request, limits: Limits, content_type: ContentType) -> None:
    """Refuse at once what says itself that it is too large; no byte of it is read.

    Raises:
        Refusal: if so.
    """
    said = request.headers.get("content-length", "")
    room = limits.max_bytes + (ROOM_BYTES if content_type.kind == FORM_TYPE else 0)
    if said.isascii() and said.isdigit() and int(said[:20]) > room:
        raise too_large(limits.max_bytes)


async def _pour(request: Request, limits: Limits, room: int, take: Callable[[bytes], None]) -> None:
    """Give on a request's body piece by piece; raises Refusal if it is too large or too slow."""

    async def pour() -> None:
        arrived = 0
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                arrived += len(chunk)
                if arrived > room:
                    raise too_large(limits.max_bytes)
                if chunk:
                    take(chunk)

    try:
        await asyncio.wait_for(pour(), limits.upload_seconds)
    except asyncio.TimeoutError as error:
        raise Refusal(
            408,
            f"the image did not arrive within {limits.upload_seconds:g} seconds: "
            "send a smaller one, or over a faster connection",
            headers={"Connection": "close"},  # the rest of it is not waited for
        ) from error
