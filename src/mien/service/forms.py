"""The image or the video in a request: a form's file, or the body itself.

Nothing of an image is written to a disk. A video is, into a file that has no name: it is gone with
the process, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import IO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mien.service.limits import MAX_BYTES
from mien.service.schemas import ApiError

FIELD = "image"
"""The one field of a form with an image."""

VIDEO_FIELD = "video"
"""The one field of a form with a video."""

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
"""Media types of `mien.core.file_types.READABLE_FORMATS`; only the content decides which it is."""

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

VIDEO_TYPES: tuple[str, ...] = (
    "video/mp4",
    "video/webm",
    "video/quicktime",
    "video/x-matroska",
    "video/x-msvideo",
    "video/mpeg",
    "video/ogg",
)
"""Usual types of a video; any that begins with ``video/`` is taken, and the content decides."""

FORM_BYTES = 16_384
"""What a form may have beside the file: boundaries and headers."""

MIN_VIDEO_RATE = 20_000
"""Bytes a second, on average, with which a video has to come once `upload_seconds` are over."""

_MAX_TYPE_LENGTH = 1024  # some versions of the parser take quadratic time
_MAX_NAME_LENGTH = 255
_MAX_TEXT_BYTES = 1024
_SPOOLED_BYTES = 1_000_000  # of a video that are kept in memory before they are written
_VAGUE_TYPE = "application/octet-stream"  # what clients say of a file whose type they don't know


@dataclass(frozen=True)
class Expected:
    """What a path takes.

    Attributes:
        noun: what it is.
        field: the form's one field.
        types: that are named where another one comes.
        others: that are taken as well.
        hint: how to send it.
    """

    noun: str
    field: str
    types: tuple[str, ...]
    others: frozenset[str]
    hint: str

    def takes(self, kind: str) -> bool:
        """Say whether a content type is one of the expected ones."""
        is_video = self.is_video and kind.startswith("video/")
        return is_video or kind in self.types or kind in self.others

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.field == VIDEO_FIELD


IMAGE = Expected(
    *("image", FIELD, IMAGE_TYPES, OTHER_IMAGE_TYPES),
    "send one image, as curl -F image=@photo.jpg does",
)
VIDEO = Expected(
    *("video", VIDEO_FIELD, VIDEO_TYPES, frozenset()),
    "send one video, as curl -F video=@clip.mp4 does",
)


@dataclass(frozen=True)
class Upload:
    """An image that a client has sent.

    Attributes:
        content: the encoded file.
        name: the file's name without folders, if the client told it.
    """

    content: bytes
    name: str | None = None


def check_headers(request: Request, max_bytes: int, expected: Expected = IMAGE) -> str:
    """Return a request's content type, lower case and without parameters.

    Raises:
        ApiError: if it is neither a form's nor as expected, or the body is compressed, or too large
            by its declared length; none of it has been read then.
    """
    value = request.headers.get("content-type", "")
    if len(value) > _MAX_TYPE_LENGTH:
        raise ApiError(415, f"the content type is longer than {_MAX_TYPE_LENGTH} characters")
    kind = _without_parameters(value)
    if kind != FORM_TYPE and not expected.takes(kind):
        said = f"unknown content type {kind[:60]!r}" if kind else "the request has no content type"
        raise ApiError(415, f"{said}: expected {FORM_TYPE} or one of {', '.join(expected.types)}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise ApiError(
            415, f"the body is coded as {coding[:60]!r}: send the {expected.noun} as it is"
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > _max_body(kind, max_bytes):
        raise _too_large(max_bytes, expected)
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
        async with aclosing(_chunks(request, kind, max_bytes, IMAGE)) as chunks:
            if kind == FORM_TYPE:
                async with _form_file(request, chunks, max_bytes, IMAGE) as file:
                    return Upload(await file.read(), base_name(file.filename or ""))
            content = bytearray()
            async for chunk in chunks:
                content += chunk
            return Upload(bytes(content))

    try:
        upload = await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError as error:
        raise _too_slow(f"the image did not arrive within {seconds:g} seconds") from error
    if not upload.content:
        raise ApiError(400, "the image is empty: expected the bytes of an image file")
    return upload


@asynccontextmanager
async def spooled_upload(
    request: Request, kind: str, *, max_bytes: int, patience: float, seconds: float
) -> AsyncIterator[tuple[IO[bytes], str | None]]:
    """Write the video of a request into a file without a name, which is closed at the end.

    Gives the file and the video's name, as an `Upload` has it.

    Args:
        request: the request.
        kind: its content type, as `check_headers` returned it.
        max_bytes: of the video.
        patience: seconds that it may rest, and after which it has to come with `MIN_VIDEO_RATE`.
        seconds: within which it has to arrive.

    Raises:
        ApiError: if it is too large, too slow, empty, or the form is not as expected.
        ClientDisconnect: if the client goes away.
    """
    body = _chunks(request, kind, max_bytes, VIDEO)
    async with aclosing(_timely(body, patience, seconds)) as chunks:
        if kind == FORM_TYPE:
            async with _form_file(request, chunks, max_bytes, VIDEO) as file:
                await file.seek(0)
                # Python 3.10's spooled files lack methods that those of the system have.
                with os.fdopen(os.dup(file.file.fileno()), "rb") as spool:
                    await _check_not_empty(spool)
                    yield spool, base_name(file.filename or "")
            return
        with tempfile.TemporaryFile() as spool:
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= _SPOOLED_BYTES:
                    await asyncio.to_thread(spool.write, waiting)
                    waiting = bytearray()
            await asyncio.to_thread(spool.write, waiting)
            await _check_not_empty(spool)
            yield spool, None


async def _check_not_empty(file: IO[bytes]) -> None:
    """Raise ApiError for a file without content; go back to its start."""
    if not await asyncio.to_thread(file.seek, 0, 2):
        raise ApiError(400, "the video is empty: expected the bytes of a video file")
    file.seek(0)


async def _timely(
    chunks: AsyncGenerator[bytes, None], patience: float, seconds: float
) -> AsyncGenerator[bytes, None]:
    """Yield a video's body; raises ApiError where it rests, or comes too slowly."""
    start, arrived = time.monotonic(), 0
    async with aclosing(chunks):
        while True:
            left = seconds - (time.monotonic() - start)
            try:
                chunk = await asyncio.wait_for(anext(chunks), max(0.0, min(patience, left)))
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError as error:
                said = f"within {seconds:g} seconds" if left <= patience else "steadily"
                raise _too_slow(f"the video did not arrive {said}") from error
            arrived += len(chunk)
            passed = time.monotonic() - start
            if passed > patience and arrived < MIN_VIDEO_RATE * passed:
                raise _too_slow(f"the video came with less than {MIN_VIDEO_RATE:,} bytes a second")
            yield chunk


def base_name(name: str) -> str | None:
    """Return a file's name without folders and unprintable characters; None if nothing is left."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(each for each in last if each.isprintable())
    return printable[:_MAX_NAME_LENGTH].strip() or None


class _FormParser(MultiPartParser):
    """Starlette's parser, which notices a form's end, and keeps images of any size in memory."""

    spool_max_size = MAX_BYTES + FORM_BYTES
    complete = False

    def on_end(self) -> None:
        self.complete = True


class _VideoFormParser(_FormParser):
    """One that writes what is larger than this into a file without a name."""

    spool_max_size = _SPOOLED_BYTES


@asynccontextmanager
async def _form_file(
    request: Request, chunks: AsyncGenerator[bytes, None], max_bytes: int, expected: Expected
) -> AsyncIterator[UploadFile]:
    async def whole() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if not parser.complete:
            raise ApiError(400, f"the form breaks off before its end: {expected.hint}")

    parser = (_VideoFormParser if expected.is_video else _FormParser)(
        request.headers, whole(), max_files=1, max_fields=1, max_part_size=_MAX_TEXT_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # ValueError: of a charset or a name
        reason = str(getattr(error, "message", error)).rstrip(".")
        raise ApiError(400, f"the form cannot be read ({reason}): {expected.hint}") from error
    try:
        yield _only_file(form, max_bytes, expected)
    finally:
        await form.close()


def _only_file(form: FormData, max_bytes: int, expected: Expected) -> UploadFile:
    """Return a form's file; raises ApiError if it is not the one that is expected."""
    field, hint = expected.field, expected.hint
    for name, value in form.multi_items():
        if name != field:
            raise ApiError(400, f"unexpected field {name[:60]!r}: {hint}")
        if not isinstance(value, UploadFile):
            raise ApiError(400, f"the field {field!r} holds text and no file: {hint}")
    file = form.get(field)
    if not isinstance(file, UploadFile):
        raise ApiError(400, f"the form has no field {field!r}: {hint}")
    kind = _without_parameters(file.content_type or "")
    if kind and kind != _VAGUE_TYPE and not kind.startswith(f"{expected.noun}/"):
        article = "an image" if expected is IMAGE else "a video"
        raise ApiError(415, f"the field {field!r} is of type {kind[:60]!r}: expected {article}'s")
    if (file.size or 0) > max_bytes:
        raise _too_large(max_bytes, expected)
    return file


async def _chunks(
    request: Request, kind: str, max_bytes: int, expected: Expected
) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes; raises ApiError once it is too large."""
    arrived = 0
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            arrived += len(chunk)
            if arrived > _max_body(kind, max_bytes):
                raise _too_large(max_bytes, expected)
            yield chunk


def _max_body(kind: str, max_bytes: int) -> int:
    return max_bytes + (FORM_BYTES if kind == FORM_TYPE else 0)


def _without_parameters(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _too_large(max_bytes: int, expected: Expected) -> ApiError:
    most = f"expected at most {max_bytes:,} bytes; send a smaller one"
    return ApiError(413, f"the {expected.noun} is too large: {most}")


def _too_slow(what: str) -> ApiError:
    return ApiError(
        408,
        f"{what}: send a smaller one, or over a faster connection",
        headers={"Connection": "close"},  # the rest of it is not waited for
    )
