"""Any image becomes one form: uint8 RGB, upright.

Files, bytes and Pillow images go through Pillow, PBM to PPM through NumPy; arrays are checked. A
file's size, pixels and structure are checked before it is decoded.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, TypeGuard
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mien.core.decoding_limits import decoding_excess
from mien.core.errors import (
    BarredAddress,
    InputError,
    MienError,
    UnreadableImage,
    UsageError,
    reason_of,
    shown,
)
from mien.core.file_types import HEAD_BYTES, MAX_FILE_BYTES, READABLE, image_kind
from mien.core.files import SOFTWARE, write_atomically
from mien.core.process import QUIET_PILLOW
from mien.core.web_address import is_web_address, shown_address


class Tensor(Protocol):
    """The part of PyTorch's tensor that is used; torch itself is never imported."""

    @property
    def shape(self) -> Any:
        """Its sides."""

    def detach(self) -> Any:
        """Return it without its gradient."""

    def cpu(self) -> Any:
        """Return it in the memory of the CPU."""


ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image"
    " | npt.NDArray[Any] | Tensor"
)
"""What can be read as an image: a path, an http(s) address, a data URI, an encoded file's bytes, a
file that is open for reading them, a Pillow image, an array, a tensor."""

MAX_PIXELS = 150_000_000
"""Larger images are refused: a small file can claim any size and exhaust memory."""

MAX_SIDE = 1_000_000
"""Longer sides are refused: each row costs time, however few pixels it has."""

_DATA_URI = "data:"
_KINDS = ", ".join(READABLE)
_CHUNK_BYTES = 1 << 20
_ORIENTATION_TAG, _SOFTWARE_TAG = 0x0112, 0x0131
_JPEG_QUALITY = 92
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    source: ImageSource, *, color: str | None = None, allow_private: bool = False
) -> npt.NDArray[np.uint8]:
    """Read an image into one form.

    The first frame of an animation is taken, EXIF orientation is applied, transparency is laid over
    white (as browsers show it), and values of more than 8 bits are scaled to 8 (see `to_8_bits`).
    Colour profiles are not applied.

    Args:
        source: a path, an http(s) address of a public host, a data URI
            (``data:image/png;base64,...``), the bytes of an encoded file, a binary file that is
            open for reading, a Pillow image, or an array: uint8 (0-255) or float (0-1), (H, W) or
            (H, W, 1) grey, (H, W, 3) in the order that ``color`` says, or (H, W, 4) with alpha
            after it. A tensor of PyTorch is taken as an array and may have its channels first.
        color: "rgb" or "bgr"; needed for arrays of three channels or more, ignored for all else.
        allow_private: download from hosts that are not on the open internet, too.

    Returns:
        uint8 (H, W, 3), RGB, upright, C-contiguous. It may share memory with an array that was
        given: read it, don't write to it.

    Raises:
        UnreadableImage: if the source is missing, not an image, damaged, larger than
            `MAX_FILE_BYTES`, `MAX_PIXELS` or `MAX_SIDE`, crafted to take its decoder long, or
            cannot be downloaded.
        MienError: if there is not enough memory.
        UsageError: if the source is none of these, or an array's type, shape or colour order is
            off.
    """
    if color not in (None, "rgb", "bgr"):
        raise UsageError(f"expected color='rgb' or color='bgr', got {shown(repr(color))}")
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    if is_tensor(source):
        return _from_array(_tensor_array(source), color)
    name = shown(source_name(source) or "image")
    try:
        if isinstance(source, Image.Image):
            return _from_pillow(source, name)
        return _from_bytes(_content(source, name, allow_private), name)
    except MemoryError as error:
        raise MienError(f"{name}: there is not enough memory to decode it") from error


def pixel_count(content: bytes) -> int:
    """Return how many pixels an encoded image claims to have, without decoding them.

    Raises UnreadableImage as `load_image`.
    """
    if image_kind(content) == "PPM":
        _, width, height, _, _ = _pnm_header(content, "image")
        return width * height
    with _opened(content, "image") as image:
        return image.width * image.height


# ---------------------------------------------------------------- sources
def source_name(source: object) -> str | None:
    """Return the path of an image that has one, as it was given; else None.

    A data URI is named by its type and hash, an address shown without its secrets.
    """
    if is_data_uri(source):
        kind = shown(str(source)[len(_DATA_URI) :].partition(",")[0].partition(";")[0])
        digest = hashlib.sha256(str(source).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_DATA_URI}{kind};sha256={digest[:12]}"
    if _is_address(source):
        return shown_address(str(source))
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or None
    # The name of an open file may be a descriptor.
    name = getattr(source, "name", None) if is_file_object(source) else None
    return name if isinstance(name, str) and name else None


def is_data_uri(source: object) -> bool:
    """Return whether this is a data URI."""
    return isinstance(source, str) and source[: len(_DATA_URI)].lower() == _DATA_URI


def is_file_object(source: object) -> bool:
    """Return whether this is an open file or a similar object."""
    return callable(getattr(source, "read", None)) and not isinstance(source, type)


def is_tensor(source: object) -> TypeGuard[Tensor]:
    """Return whether this is a tensor of PyTorch or a similar object."""
    methods = (getattr(source, name, None) for name in ("detach", "cpu", "numpy"))
    return all(map(callable, methods)) and not isinstance(source, type)


def _is_address(source: object) -> bool:
    """Return whether this is a web address and no file has that name."""
    return isinstance(source, str) and is_web_address(source) and not os.path.lexists(source)


def read_at_most(file: IO[bytes], name: str) -> bytes:
    """Read a file to its end, but no more than an image can have; raises OSError too.

    Raises:
        UnreadableImage: if it does not begin as an image does, or is longer than `MAX_FILE_BYTES`;
            it is not read further, so that a device may be given.
    """
    parts = [file.read(HEAD_BYTES)]
    if parts[0]:
        _check_kind(parts[0], name)
    length = len(parts[0])
    while chunk := file.read(_CHUNK_BYTES):
        parts.append(chunk)
        length += len(chunk)
        if length > MAX_FILE_BYTES:
            raise UnreadableImage(_too_long(name))
    return b"".join(parts)


def read_data_uri(uri: str) -> bytes:
    """Return what a data URI holds, in base64 or as it is (RFC 2397).

    Raises:
        UnreadableImage: if it is damaged.
    """
    head, comma, text = uri.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma before its content")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(text)
        # Line breaks, missing padding and the URL-safe alphabet are accepted.
        letters = "".join(unquote_to_bytes(text).decode("ascii").split()).rstrip("=")
        plain = letters.translate(str.maketrans("-_", "+/")) + "=" * (-len(letters) % 4)
        return base64.b64decode(plain, validate=True)
    except ValueError as error:
        raise UnreadableImage(
            f"{source_name(uri)} is a damaged data URI: {shown(error)}"
        ) from error


def _content(source: object, name: str, allow_private: bool) -> bytes:
    """Return the bytes of an encoded image."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str) and is_data_uri(source):
        return read_data_uri(source)
    if isinstance(source, str) and _is_address(source):
        return _downloaded(source, name, allow_private)
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source), name)
    if is_file_object(source):
        return _read_object(source, name)
    raise UsageError(
        "expected an image as a path, address, bytes, open file, Pillow image or array, "
        f"got {type(source).__name__}"
    )


def _downloaded(address: str, name: str, allow_private: bool) -> bytes:
    from mien.core.downloads import fetch_image  # brings HTTP with it

    try:
        return fetch_image(address, allow_private=allow_private)
    except BarredAddress as error:
        raise UnreadableImage(
            f"{name}: its host is not on the open internet: allow_private=True allows it"
        ) from error
    except InputError as error:
        text = str(error)
        raise UnreadableImage(text if name in text else f"{name}: {text}") from error


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise UnreadableImage(f"{name} is a folder: expected an image file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise UnreadableImage(f"{_too_long(name)}, got {size:,} bytes")
            return read_at_most(file, name)
    except FileNotFoundError as error:
        raise UnreadableImage(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise UnreadableImage(f"{name} cannot be read: {reason_of(error)}") from error


def _read_object(file: Any, name: str) -> bytes:
    """Read an open file from its beginning, as Pillow does."""
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
        nothing = file.read(0)
        if isinstance(nothing, bytes):
            return read_at_most(file, name)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise UnreadableImage(f"{name} cannot be read: {shown(error)}") from error
    raise UsageError(
        "expected a file that is open for reading bytes, as open(name, 'rb') is: "
        f"read() gives {type(nothing).__name__}"
    )


def _too_long(name: str) -> str:
    return f"{name} is too large: expected at most {MAX_FILE_BYTES >> 30} GiB"


# ---------------------------------------------------------------- arrays, and values of any depth
_DEPTHS = (8, 10, 12, 14, 16)
_OVERSHOOT = 0.05  # of white, that bicubic resizing of real numbers may add
_CHANNELS = (1, 3, 4)


def _from_array(array: npt.NDArray[Any], color: str | None) -> npt.NDArray[np.uint8]:
    if (wrong := _array_problem(array)) is not None:
        raise UsageError(
            "expected an image array as uint8 (0-255) or float (0-1), (H, W), (H, W, 3) or "
            f"(H, W, 4), got {array.dtype} {array.shape}{wrong}"
        )
    pixels = array if array.dtype == np.uint8 else to_8_bits(array, 1)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if color is None:
        raise UsageError(
            "an array's colour order must be said: color='rgb' (Pillow, imageio) "
            "or color='bgr' (OpenCV)"
        )
    if color == "bgr":
        pixels = pixels[:, :, [2, 1, 0, 3]] if pixels.shape[2] == 4 else pixels[:, :, ::-1]
    pixels = np.ascontiguousarray(pixels)
    return np.asarray(_to_rgb(Image.fromarray(pixels))) if pixels.shape[2] == 4 else pixels


def _array_problem(array: npt.NDArray[Any]) -> str | None:
    """Return how to mend an array that is no image ("" if unknown); None for an image."""
    if array.size == 0 or array.ndim not in (2, 3):
        return ": analyze_many takes the images of a batch" if array.ndim == 4 else ""
    if array.ndim == 3 and array.shape[2] not in _CHANNELS:
        first = array.shape[0] in _CHANNELS
        return ": channels come last, array.transpose(1, 2, 0) puts them there" if first else ""
    if array.dtype == np.uint8:
        return None
    if array.dtype.kind == "u" and array.itemsize == 2:
        return ": array / 65535 gives values of 0-1"
    if array.dtype.kind != "f":
        return ": array.astype('uint8') is right where its values are 0-255"
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return " with values that are not finite numbers"
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return None
    if low >= 0 and high <= 255 * (1 + _OVERSHOOT):
        return f" with values up to {high:g}: divide it by 255"
    return f" with values from {low:g} to {high:g}: undo its normalisation"


def _tensor_array(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor as an array whose channels come last."""
    values = tensor.detach().cpu()
    try:
        array = np.asarray(values.numpy())
    except TypeError:  # bfloat16, which NumPy does not know
        array = np.asarray(values.float().numpy())
    is_first = array.ndim == 3 and array.shape[0] in _CHANNELS
    return np.moveaxis(array, 0, 2) if is_first else array


def to_8_bits(values: npt.NDArray[np.generic], white: int | None = None) -> npt.NDArray[np.uint8]:
    """Scale values of any depth to 0-255.

    Unless ``white`` is given, it is the largest value of the fewest bits, of 8, 10, 12, 14 and 16,
    that hold all values: cameras of 10 or 12 bits leave the upper bits of 16 empty. A picture of
    true 16 bits whose brightest point is below a quarter of white is brightened by that. Real
    numbers are shares of white (0-1) where they are small enough, and may be off by what resizing
    adds. Where no range is customary (values below 0, or of more than 16 bits), it is the picture's
    own.

    Raises:
        ValueError: if there are values that are not finite numbers.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds values that are not finite numbers")
    if white is None:
        is_real = values.dtype.kind == "f"
        room = _OVERSHOOT if is_real else 0.0
        whites = (*((1,) if is_real else ()), *(2**bits - 1 for bits in _DEPTHS))
        fitting = (each for each in whites if -room * each <= low and high <= (1 + room) * each)
        white = next(fitting, None)
    top: float | None = white
    if top is None:
        values, top = values.astype(np.float64) - low, max(high - low, 1.0)
    scaled = values.astype(np.float32) * np.float32(255.0 / top)
    return np.asarray(np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled), np.uint8)


# ---------------------------------------------------------------- encoded files
def _from_bytes(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    if image_kind(content) == "PPM":
        return _from_pnm(content, name)
    with _opened(content, name) as image:
        pixels = _from_pillow(image, name)
        is_deep = image.mode == "RGB" and image.format in ("PNG", "TIFF")
        return _deep_color(content, pixels) if is_deep else pixels


def _opened(content: bytes, name: str) -> Image.Image:
    """Open an encoded image without decoding its pixels."""
    if not content:
        raise UnreadableImage(f"{name} is empty: expected an image")
    _check_kind(content, name)
    if too_much := decoding_excess(content):
        raise UnreadableImage(f"{name} {too_much}")
    try:
        with QUIET_PILLOW:
            Image.init()
            formats = [known for known in (*READABLE, "MPO") if known in Image.OPEN]
            image = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name} is not an image: expected one of {_KINDS}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(_too_large(name)) from error
    except MemoryError:
        raise
    except Exception as error:  # see `_from_pillow`
        raise _damaged(name, error) from error
    _check_size(*image.size, name)
    return image


def _from_pillow(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    _check_size(*image.size, name)
    try:
        with QUIET_PILLOW:
            # Load before reading the orientation: Pillow rotates TIFF files itself when loading.
            image.load()
            return np.ascontiguousarray(np.asarray(_to_rgb(_upright(image)), np.uint8))
    except MemoryError:
        raise
    # Pillow's decoders meet damaged files with errors of many kinds (OSError, SyntaxError,
    # struct.error, IndexError, ...): whichever it is, this image cannot be read.
    except Exception as error:
        if "out of memory" in str(error).lower():  # as its decoders say it
            raise MemoryError from error
        raise _damaged(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged metadata of an image whose pixels are fine: as without metadata.
        orientation = 1
    method = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        # Pillow knows no way from premultiplied grey but to plain grey with transparency.
        above = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        below = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")


def _deep_color(content: bytes, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Read colours of 16 bits whose upper bits are empty at their own depth.

    Pillow keeps the upper 8 of 16 bits alone, and is asked first: OpenCV writes on stderr what it
    finds damaged. Pictures of 8 bits, and those with orientation, stay as they are.
    """
    if pixels.max() >= 1 << (_DEPTHS[-2] - 8):
        return pixels
    import cv2  # heavy, and seldom needed here

    deep = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.shape != pixels.shape:
        return pixels
    deep = deep[:, :, ::-1]
    return to_8_bits(deep) if np.array_equal(deep // 256, pixels) else pixels


def _check_kind(head: bytes, name: str) -> None:
    kind = image_kind(head)
    if kind not in READABLE:
        what = "is not an image" if kind is None else f"is {kind}, which is not read"
        raise UnreadableImage(f"{name} {what}: expected one of {_KINDS}")


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(_too_large(name, f" of {width}x{height}"))
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(
            f"{name} of {width}x{height} is too long: expected sides of at most {MAX_SIDE:,} pixels"
        )
    if width * height == 0:
        raise UnreadableImage(f"{name} has no pixels")


def _too_large(name: str, size: str = "") -> str:
    return f"{name}{size} is too large: expected at most {MAX_PIXELS // 1_000_000} megapixels"


def _damaged(name: str, error: Exception) -> UnreadableImage:
    return UnreadableImage(f"{name} is damaged and cannot be decoded: {shown(reason_of(error))}")


# ---------------------------------------------------------------- PBM, PGM and PPM
# Pillow decodes unusual depths and the text formats in Python, a minute for a few megabytes; NumPy
# takes milliseconds.
_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _BETWEEN + rb"(\d{1,10})"
_BITMAP = re.compile(rb"P([14])" + _NUMBER * 2 + rb"\s")
_GREYMAP = re.compile(rb"P([2356])" + _NUMBER * 3 + rb"\s")
_HEADER_BYTES = 1 << 16
_COMMENT = re.compile(rb"#[^\r\n]*")
_BLANKS = b" \t\n\r\v\f"


def _pnm_header(content: bytes, name: str) -> tuple[int, int, int, int, int]:
    """Return magic number (1-6), width, height, value of white, and offset of the values."""
    found = _BITMAP.match(content, 0, _HEADER_BYTES) or _GREYMAP.match(content, 0, _HEADER_BYTES)
    if found is None:
        raise _damaged(name, ValueError("its head has no width and height"))
    kind, width, height, white = (*map(int, found.groups()), 1)[:4]
    _check_size(width, height, name)
    return kind, width, height, white, found.end()


def _from_pnm(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    kind, width, height, white, start = _pnm_header(content, name)
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    try:
        if not 0 < white < 65536:
            raise ValueError(f"its values go up to {white}: expected 1 to 65535")
        if kind == 4:
            values = _packed_bits(content, start, width, height)
        elif kind < 4:
            values = _text_values(_COMMENT.sub(b" ", content[start:]), math.prod(shape), kind == 1)
        else:
            values = _binary_values(content, start, math.prod(shape), white)
        if len(values) < math.prod(shape):
            raise ValueError("it ends too early")
        if values.max() > white:
            raise ValueError(f"it has values above its largest, {white}")
    except ValueError as error:
        raise _damaged(name, error) from error
    scaled = to_8_bits(values.reshape(shape), None if white == 65535 else white)
    return _from_array(scaled, "rgb")


def _packed_bits(content: bytes, start: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return 1 for white, which the file has as 0."""
    rows = np.frombuffer(content, np.uint8, offset=start)[: height * -(-width // 8)]
    if len(rows) < height * -(-width // 8):
        return rows[:0]
    return 1 - np.unpackbits(rows.reshape(height, -1), axis=1, count=width).ravel()


def _binary_values(content: bytes, start: int, count: int, white: int) -> npt.NDArray[Any]:
    kind = np.dtype(np.uint8 if white < 256 else ">u2")
    there = (len(content) - start) // kind.itemsize
    return np.frombuffer(content, kind, min(count, there), start)


def _text_values(text: bytes, count: int, is_bitmap: bool) -> npt.NDArray[Any]:
    if is_bitmap:  # digits, with or without blanks between them; 0 is white
        digits = text.translate(None, _BLANKS)[:count]
        return 1 - (np.frombuffer(digits, np.uint8) - ord("0"))
    if text.translate(None, b"0123456789" + _BLANKS):
        raise ValueError("it has other values than whole numbers")
    # NumPy returns made-up numbers for an empty text.
    return np.fromstring(text, np.int64, sep=" ")[:count] if text.strip() else np.empty(0)


# ---------------------------------------------------------------- writing
def write_picture(picture: Image.Image, path: Path, *, optimize: bool = False) -> None:
    """Write an RGB or grey picture atomically, in the format of its suffix, marked as mien's.

    ``optimize`` takes longer for a smaller file.

    Raises:
        OutputError: if it cannot be written.
    """
    exif = Image.Exif()
    exif[_SOFTWARE_TAG] = SOFTWARE
    kind = Image.registered_extensions()[path.suffix.lower()]
    content = io.BytesIO()
    picture.save(content, kind, quality=_JPEG_QUALITY, optimize=optimize, exif=exif)
    write_atomically(path, content.getvalue())
