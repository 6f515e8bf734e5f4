"""Uploads: the image or video of a request, as a form's file or as the raw body.

Images stay in memory. Videos go to an unnamed temporary file, which disappears with the process
even when that is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import IO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mien.service.errors import ApiError

FORM_TYPE = "multipart/form-data"

MIN_VIDEO_RATE = 20_000
"""Mean rate in bytes per second that a video must keep up once `upload_seconds` have passed."""

_FORM_OVERHEAD = 16_384  # bytes of boundaries and headers in addition to the file
_MAX_TYPE_LENGTH = 1024  # some versions of the parser take quadratic time
_MAX_NAME_LENGTH = 255
_MAX_TEXT_BYTES = 1024
_GENERIC_TYPE = "application/octet-stream"  # sent for files of a type that the client cannot name


@dataclass(frozen=True)
class Media:
    """Kind of file that a path accepts.

    Attributes:
        name: "image" or "video": also the form's field, and the first half of content types.
        types: content types in the API's description and in errors.
        aliases: further content types of the same formats.
        any_subtype: accept every content type that begins with ``name/``.
        memory_bytes: size up to which the file is held in memory.
    """

    name: str
    types: tuple[str, ...]
    aliases: frozenset[str] = frozenset()
    any_subtype: bool = False
    memory_bytes: int = sys.maxsize

    @property
    def hint(self) -> str:
        """How to send such a file."""
        return f"send one {self.name}, as curl -F {self.name}=@FILE does"

    def accepts(self, content_type: str) -> bool:
        """Return True for the content type of a raw body of this kind."""
        if self.any_subtype and content_type.startswith(f"{self.name}/"):
            return True
        return content_type in self.types or content_type in self.aliases


IMAGE = Media(
    "image",
    types=(  # of `mien.core.file_types.READABLE_FORMATS`
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/avif",
        "image/tiff",
        "image/bmp",
        "image/gif",
        "image/x-portable-anymap",
        "image/x-icon",
    ),
    aliases=frozenset(
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
    ),
)
"""Images; the format is detected from the content, whichever type is given."""

VIDEO = Media(
    "video",
    types=(
        "video/mp4",
        "video/webm",
        "video/quicktime",
        "video/x-matroska",
        "video/x-msvideo",
        "video/mpeg",
        "video/ogg",
    ),
    any_subtype=True,
    memory_bytes=1_000_000,
)
"""Videos; the format is detected from the content, whichever type is given."""


def check_headers(request: Request, media: Media, max_bytes: int) -> None:
    """Check a request's headers before its body is read.

    Raises:
        ApiError: if the content type is neither a form's nor accepted, the body is compressed, or
            its declared length is too large.
    """
    if len(request.headers.get("content-type", "")) > _MAX_TYPE_LENGTH:
        raise ApiError(
            415,
            f"the content type is too long: expected at most {_MAX_TYPE_LENGTH} characters; send "
            "the type alone",
        )
    content_type = _content_type(request)
    if content_type != FORM_TYPE and not media.accepts(content_type):
        problem = "the request has no content type"
        if content_type:
            problem = f"unknown content type {content_type[:60]!r}"
        raise ApiError(415, f"{problem}: expected {FORM_TYPE} or one of {', '.join(media.types)}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise ApiError(
            415, f"the body is coded as {coding[:60]!r}: send the {media.name} uncompressed"
        )
    length = request.headers.get("content-length", "")
    is_number = length.isascii() and length.isdigit()
    if is_number and int(length[:20]) > _max_body(content_type, max_bytes):
        raise _too_large(media, max_bytes)


async def read_image(
    request: Request, *, max_bytes: int, timeout_s: float
) -> tuple[bytes, str | None]:
    """Read the image of a request whose headers were checked.

    Args:
        request: HTTP request.
        max_bytes: size limit; no more is read.
        timeout_s: time for the whole body to arrive, in seconds.

    Returns:
        The encoded file, and its name without folders or None.

    Raises:
        ApiError: if the image is too large, too slow or empty, or the form is invalid.
        ClientDisconnect: if the client disconnects.
    """

    async def read() -> tuple[bytes, str | None]:
        async with aclosing(_body(request, IMAGE, max_bytes)) as chunks:
            if _content_type(request) == FORM_TYPE:
                async with _form_file(request, chunks, IMAGE, max_bytes) as file:
                    return await file.read(), _base_name(file.filename or "")
            content = bytearray()
            async for chunk in chunks:
                content += chunk
            return bytes(content), None

    try:
        content, name = await asyncio.wait_for(read(), timeout_s)
    except asyncio.TimeoutError as error:
        raise _too_slow(f"the image did not arrive within {timeout_s:g} seconds") from error
    if not content:
        raise ApiError(400, "the image is empty: expected the bytes of an image file")
    return content, name


@asynccontextmanager
async def spooled_video(
    request: Request, *, max_bytes: int, idle_s: float, timeout_s: float
) -> AsyncIterator[tuple[IO[bytes], str | None]]:
    """Write the video of a request to an unnamed temporary file.

    Args:
        request: HTTP request whose headers were checked.
        max_bytes: size limit; no more is read.
        idle_s: longest pause, and the time after which `MIN_VIDEO_RATE` applies, in seconds.
        timeout_s: time for the whole body to arrive, in seconds.

    Yields:
        The file, which is closed at the end of the block, and the video's name or None.

    Raises:
        ApiError: if the video is too large, too slow or empty, or the form is invalid.
        ClientDisconnect: if the client disconnects.
    """
    body = _body(request, VIDEO, max_bytes)
    async with aclosing(_timed(body, idle_s, timeout_s)) as chunks:
        if _content_type(request) == FORM_TYPE:
            async with _form_file(request, chunks, VIDEO, max_bytes) as file:
                await file.seek(0)
                # SpooledTemporaryFile lacks methods of real files in Python 3.10.
                with os.fdopen(os.dup(file.file.fileno()), "rb") as spool:
                    await _check_not_empty(spool)
                    yield spool, _base_name(file.filename or "")
            return
        with tempfile.TemporaryFile() as spool:
            pending = bytearray()
            async for chunk in chunks:
                pending += chunk
                if len(pending) >= VIDEO.memory_bytes:
                    await asyncio.to_thread(spool.write, pending)
                    pending = bytearray()
            await asyncio.to_thread(spool.write, pending)
            await _check_not_empty(spool)
            yield spool, None


async def _check_not_empty(file: IO[bytes]) -> None:
    """Raise ApiError for an empty file; rewind it otherwise."""
    if not await asyncio.to_thread(file.seek, 0, 2):
        raise ApiError(400, "the video is empty: expected the bytes of a video file")
    file.seek(0)


def _base_name(name: str) -> str | None:
    """Return a file's name without folders and unprintable characters; None if nothing is left."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(character for character in last if character.isprintable())
    return printable[:_MAX_NAME_LENGTH].strip() or None


# ---------------------------------------------------------------- bodies and forms
async def _body(request: Request, media: Media, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield a request's body; raise ApiError once it is too large."""
    limit = _max_body(_content_type(request), max_bytes)
    received = 0
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            received += len(chunk)
            if received > limit:
                raise _too_large(media, max_bytes)
            yield chunk


async def _timed(
    chunks: AsyncGenerator[bytes, None], idle_s: float, timeout_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield a video's body; raise ApiError if it pauses or is too slow."""
    start, received = time.monotonic(), 0
    async with aclosing(chunks):
        while True:
            left = timeout_s - (time.monotonic() - start)
            try:
                chunk = await asyncio.wait_for(anext(chunks), max(0.0, min(idle_s, left)))
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError as error:
                manner = f"within {timeout_s:g} seconds" if left <= idle_s else "steadily"
                raise _too_slow(f"the video did not arrive {manner}") from error
            received += len(chunk)
            elapsed = time.monotonic() - start
            if elapsed > idle_s and received < MIN_VIDEO_RATE * elapsed:
                raise _too_slow(f"the video came with less than {MIN_VIDEO_RATE:,} bytes a second")
            yield chunk


class _FormParser(MultiPartParser):
    """Starlette's parser, which also notes whether the form was complete."""

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


@asynccontextmanager
async def _form_file(
    request: Request, chunks: AsyncGenerator[bytes, None], media: Media, max_bytes: int
) -> AsyncIterator[UploadFile]:
    """Parse a form; yield its only file, which is closed at the end of the block."""

    async def complete() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if not parser.is_complete:
            raise ApiError(400, f"the form breaks off before its end: {media.hint}")

    parser = _FormParser(
        request.headers, complete(), max_files=1, max_fields=1, max_part_size=_MAX_TEXT_BYTES
    )
    parser.spool_max_size = media.memory_bytes
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # ValueError: invalid charset or name
        reason = str(getattr(error, "message", error)).rstrip(".")
        raise ApiError(400, f"the form cannot be read ({reason}): {media.hint}") from error
    try:
        yield _only_file(form, media, max_bytes)
    finally:
        await form.close()


def _only_file(form: FormData, media: Media, max_bytes: int) -> UploadFile:
    """Return a form's file; raise ApiError for any other content."""
    for name, value in form.multi_items():
        if name != media.name:
            raise ApiError(400, f"unexpected field {name[:60]!r}: {media.hint}")
        if not isinstance(value, UploadFile):
            raise ApiError(400, f"the field {name!r} holds text and no file: {media.hint}")
    file = form.get(media.name)
    if not isinstance(file, UploadFile):
        raise ApiError(400, f"the form has no field {media.name!r}: {media.hint}")
    content_type = _without_parameters(file.content_type or "")
    if content_type not in ("", _GENERIC_TYPE) and not content_type.startswith(f"{media.name}/"):
        message = f"the field {media.name!r} is of type {content_type[:60]!r}"
        raise ApiError(415, f"{message}: expected {media.name}/...")
    if (file.size or 0) > max_bytes:
        raise _too_large(media, max_bytes)
    return file


def _content_type(request: Request) -> str:
    return _without_parameters(request.headers.get("content-type", ""))


def _without_parameters(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _max_body(content_type: str, max_bytes: int) -> int:
    return max_bytes + (_FORM_OVERHEAD if content_type == FORM_TYPE else 0)


def _too_large(media: Media, max_bytes: int) -> ApiError:
    limit = f"expected at most {max_bytes:,} bytes; send a smaller one"
    return ApiError(413, f"the {media.name} is too large: {limit}")


def _too_slow(problem: str) -> ApiError:
    return ApiError(
        408,
        f"{problem}: send a smaller one, or use a faster connection",
        headers={"Connection": "close"},  # the rest is not read
    )
