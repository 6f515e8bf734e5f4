"""Preprocessing: any image becomes upright RGB in uint8; a face crop becomes grey 48x48.

Files, bytes and Pillow images are decoded by Pillow, PBM to PPM by NumPy; arrays are validated. A
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

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mien.core.checks import check_choice
from mien.core.errors import (
    InputError,
    MienError,
    PrivateAddressError,
    UnreadableImage,
    UsageError,
    abbreviate,
    error_reason,
)
from mien.core.file_types import (
    HEAD_BYTES,
    MAX_FILE_BYTES,
    READABLE_FORMATS,
    decoding_hazard,
    sniff_format,
)
from mien.core.files import SOFTWARE, write_atomically
from mien.core.process import QUIET_PILLOW
from mien.core.web import fetch_image, is_web_address, redact_address


class Tensor(Protocol):
    """The part of a PyTorch tensor that is used, so that torch need not be imported."""

    @property
    def shape(self) -> Any:
        """Lengths of its dimensions."""

    def detach(self) -> Any:
        """Return it without its gradient."""

    def cpu(self) -> Any:
        """Return it in CPU memory."""


ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image"
    " | npt.NDArray[Any] | Tensor"
)
"""Supported image sources: a path, an http(s) address, a data URI, the bytes of an encoded file, a
binary file open for reading, a Pillow image, an array, a tensor."""

MAX_PIXELS = 150_000_000
"""Limit on an image's pixels: a small file can claim any size and exhaust memory."""

MAX_SIDE = 1_000_000
"""Limit on an image's sides: each row costs time, however few pixels it has."""

_DATA_URI = "data:"
_EXPECTED = f"one of {', '.join(READABLE_FORMATS)}"
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
    """Load an image as upright RGB.

    Takes the first frame of an animation, applies the EXIF orientation, composites transparency
    over white (as browsers do), and scales values of more than 8 bits to 8 (see `to_8_bits`).
    Colour profiles are not applied.

    Args:
        source: a path, an http(s) address of a public host, a data URI
            (``data:image/png;base64,...``), the bytes of an encoded file, a binary file open for
            reading, a Pillow image, or an array: uint8 (0-255) or float (0-1), (H, W) or (H, W, 1)
            grey, (H, W, 3) in the order given by ``color``, or (H, W, 4) with alpha last. A PyTorch
            tensor is treated as an array and may have its channels first.
        color: "rgb" or "bgr"; required for arrays of three channels or more, ignored otherwise.
        allow_private: also download from hosts that are not on the public internet.

    Returns:
        uint8 (H, W, 3), RGB, upright, C-contiguous. It may share memory with the given array, so do
        not write to it.

    Raises:
        UnreadableImage: if the source is missing, not an image, damaged, larger than
            `MAX_FILE_BYTES`, `MAX_PIXELS` or `MAX_SIDE`, crafted to be slow to decode, or cannot be
            downloaded.
        MienError: if there is not enough memory.
        UsageError: if the source's type is not supported, or an array's type, shape or colour order
            is invalid.
    """
    if color is not None:
        check_choice("color", color, ("rgb", "bgr"))
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    if is_tensor(source):
        return _from_array(_tensor_array(source), color)
    name = abbreviate(source_name(source) or "image")
    try:
        if isinstance(source, Image.Image):
            return _from_pillow(source, name)
        return _from_bytes(_read_source(source, name, allow_private), name)
    except MemoryError as error:
        raise MienError(f"{name}: not enough memory to decode it") from error


def pixel_count(content: bytes) -> int:
    """Return the number of pixels in an encoded image's header, without decoding it.

    Raises UnreadableImage as `load_image`.
    """
    if sniff_format(content) == "PPM":
        _, width, height, _, _ = _pnm_header(content, "image")
        return width * height
    with _open(content, "image") as image:
        return image.width * image.height


# ---------------------------------------------------------------- face crops
FACE_SIZE = 48
"""Side of the classifier's input in pixels, as in FER-2013."""


def standard_face(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert a face crop, uint8 (H, W) grey or (H, W, 3) RGB, to the network's input.

    This is the only preprocessing outside the network's graph, which itself resizes, scales and
    repeats the grey channel, so that training and inference agree.

    Returns:
        uint8 (48, 48), grey. A crop that already has this form is returned unchanged.

    Raises:
        UsageError: if the array is empty, not uint8, or has another shape.
    """
    if crop.dtype != np.uint8 or crop.size == 0 or crop.ndim not in (2, 3):
        raise UsageError(
            f"expected a face crop as uint8 (H, W) or (H, W, 3), got {crop.dtype} {crop.shape}"
        )
    if crop.ndim == 3:
        if crop.shape[2] != 3:
            raise UsageError(f"expected a face crop with 3 channels, got {crop.shape[2]}")
        crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.uint8)
    height, width = crop.shape
    if (height, width) == (FACE_SIZE, FACE_SIZE):
        return crop
    # Area averaging avoids aliasing when shrinking; when enlarging it is nearest-neighbour.
    shrinks = height >= FACE_SIZE and width >= FACE_SIZE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(crop, (FACE_SIZE, FACE_SIZE), interpolation=interpolation), np.uint8
    )


# ---------------------------------------------------------------- sources
def source_name(source: object) -> str | None:
    """Return the name of an image in results: its path as given, or None for one without a path.

    A data URI is named by its type and hash, an address without its secrets.
    """
    if is_data_uri(source):
        media_type = abbreviate(str(source)[len(_DATA_URI) :].partition(",")[0].partition(";")[0])
        digest = hashlib.sha256(str(source).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_DATA_URI}{media_type};sha256={digest[:12]}"
    if _is_address(source):
        return redact_address(str(source))
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or None
    # The name of an open file may be a descriptor.
    name = getattr(source, "name", None) if is_file_object(source) else None
    return name if isinstance(name, str) and name else None


def is_data_uri(source: object) -> bool:
    """Return True if a source is a data URI."""
    return isinstance(source, str) and source[: len(_DATA_URI)].lower() == _DATA_URI


def is_file_object(source: object) -> bool:
    """Return True if a source is an open file or a similar object."""
    return callable(getattr(source, "read", None)) and not isinstance(source, type)


def is_tensor(source: object) -> TypeGuard[Tensor]:
    """Return True if a source is a PyTorch tensor or a similar object."""
    methods = (getattr(source, name, None) for name in ("detach", "cpu", "numpy"))
    return all(map(callable, methods)) and not isinstance(source, type)


def _is_address(source: object) -> bool:
    """Return True if a source is a web address and no file has that name."""
    return isinstance(source, str) and is_web_address(source) and not os.path.lexists(source)


def read_at_most(file: IO[bytes], name: str) -> bytes:
    """Read an open image file to its end; raises OSError too.

    Raises:
        UnreadableImage: if the first bytes are not those of an image, or there are more than
            `MAX_FILE_BYTES`. Reading stops there, so the file may be an endless device.
    """
    chunks = [file.read(HEAD_BYTES)]
    if chunks[0]:
        _check_format(chunks[0], name)
    size = len(chunks[0])
    while chunk := file.read(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise UnreadableImage(_file_too_large(name))
    return b"".join(chunks)


def read_data_uri(uri: str) -> bytes:
    """Return the content of a data URI, base64 or percent-encoded (RFC 2397).

    Raises:
        UnreadableImage: if it is damaged.
    """
    head, comma, text = uri.partition(",")
    try:
        if not comma:
            raise ValueError("no comma before its content")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(text)
        # Line breaks, missing padding and the URL-safe alphabet are accepted.
        letters = "".join(unquote_to_bytes(text).decode("ascii").split()).rstrip("=")
        standard = letters.translate(str.maketrans("-_", "+/")) + "=" * (-len(letters) % 4)
        return base64.b64decode(standard, validate=True)
    except ValueError as error:
        raise UnreadableImage(
            f"{source_name(uri)} is a damaged data URI: {abbreviate(error)}"
        ) from error


def _read_source(source: object, name: str, allow_private: bool) -> bytes:
    """Return the bytes of an encoded image."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str) and is_data_uri(source):
        return read_data_uri(source)
    if isinstance(source, str) and _is_address(source):
        return _download(source, name, allow_private)
    if isinstance(source, str | os.PathLike):
        if source == "":
            raise UnreadableImage("the image's name is empty: give a file or an address")
        return _read_file(Path(source), name)
    if is_file_object(source):
        return _read_file_object(source, name)
    raise UsageError(
        "expected an image as a path, address, bytes, open file, Pillow image or array, "
        f"got {type(source).__name__}"
    )


def _download(address: str, name: str, allow_private: bool) -> bytes:
    try:
        return fetch_image(address, allow_private=allow_private)
    except PrivateAddressError as error:
        raise UnreadableImage(
            f"{name}: its host is not on the public internet: allow_private=True allows it"
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
                raise UnreadableImage(f"{_file_too_large(name)}, got {size:,} bytes")
            return read_at_most(file, name)
    except FileNotFoundError as error:
        raise UnreadableImage(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise UnreadableImage(f"{name} cannot be read: {error_reason(error)}") from error


def _read_file_object(file: Any, name: str) -> bytes:
    """Read an open file from its beginning, as Pillow does."""
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
        empty = file.read(0)
        if isinstance(empty, bytes):
            return read_at_most(file, name)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise UnreadableImage(f"{name} cannot be read: {abbreviate(error)}") from error
    raise UsageError(
        "expected a file that is open for reading bytes, as open(name, 'rb') is: "
        f"read() gives {type(empty).__name__}"
    )


def _file_too_large(name: str) -> str:
    return f"{name} is too large: expected at most {MAX_FILE_BYTES >> 30} GiB"


# ---------------------------------------------------------------- arrays and bit depths
_DEPTHS = (8, 10, 12, 14, 16)
_OVERSHOOT = 0.05  # of white, that bicubic resizing of real numbers may add
_CHANNELS = (1, 3, 4)


def _from_array(array: npt.NDArray[Any], color: str | None) -> npt.NDArray[np.uint8]:
    if (problem := _array_problem(array)) is not None:
        raise UsageError(
            "expected an image array as uint8 (0-255) or float (0-1), (H, W), (H, W, 3) or "
            f"(H, W, 4), got {array.dtype} {array.shape}{problem}"
        )
    pixels = array if array.dtype == np.uint8 else to_8_bits(array, 1)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if color is None:
        raise UsageError(
            "expected the array's colour order: color='rgb' (Pillow, imageio) "
            "or color='bgr' (OpenCV)"
        )
    if color == "bgr":
        pixels = pixels[:, :, [2, 1, 0, 3]] if pixels.shape[2] == 4 else pixels[:, :, ::-1]
    pixels = np.ascontiguousarray(pixels)
    return np.asarray(_to_rgb(Image.fromarray(pixels))) if pixels.shape[2] == 4 else pixels


def _array_problem(array: npt.NDArray[Any]) -> str | None:
    """Return how to fix an array that is not an image ("" if unknown), or None for an image."""
    if array.size == 0 or array.ndim not in (2, 3):
        return ": use analyze_many for a batch of images" if array.ndim == 4 else ""
    if array.ndim == 3 and array.shape[2] not in _CHANNELS:
        is_first = array.shape[0] in _CHANNELS
        return ": array.transpose(1, 2, 0) puts the channels last" if is_first else ""
    if array.dtype == np.uint8:
        return None
    if array.dtype.kind == "u" and array.itemsize == 2:
        return ": use array / 65535 for values of 0-1"
    if array.dtype.kind != "f":
        return ": use array.astype('uint8') if its values are 0-255"
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
    """Scale values of any bit depth to 0-255.

    Args:
        values: pixels of any shape and type. Floats are in 0-1 (resizing may overshoot slightly) or
            in the range of an integer depth.
        white: the value that becomes 255. By default the maximum of the smallest depth out of 8,
            10, 12, 14 and 16 bits that holds all values: 10- and 12-bit cameras leave the upper
            bits of 16 empty. (This brightens a true 16-bit image without any bright pixel.) If none
            fits (negative values, more than 16 bits), the image's own range is stretched.

    Raises:
        ValueError: if there are values that are not finite numbers.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it contains values that are not finite numbers")
    if white is None:
        is_float = values.dtype.kind == "f"
        slack = _OVERSHOOT if is_float else 0.0
        whites = (*((1,) if is_float else ()), *(2**bits - 1 for bits in _DEPTHS))
        white = next(
            (top for top in whites if -slack * top <= low and high <= (1 + slack) * top), None
        )
    scale_from: float | None = white
    if scale_from is None:
        values, scale_from = values.astype(np.float64) - low, max(high - low, 1.0)
    scaled = values.astype(np.float32) * np.float32(255.0 / scale_from)
    return np.asarray(np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled), np.uint8)


# ---------------------------------------------------------------- encoded files
def _from_bytes(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    if sniff_format(content) == "PPM":
        return _from_pnm(content, name)
    with _open(content, name) as image:
        pixels = _from_pillow(image, name)
        is_deep = image.mode == "RGB" and image.format in ("PNG", "TIFF")
        return _deep_color(content, pixels) if is_deep else pixels


def _open(content: bytes, name: str) -> Image.Image:
    """Open an encoded image without decoding its pixels."""
    if not content:
        raise UnreadableImage(f"{name} is empty: expected an image")
    _check_format(content, name)
    if hazard := decoding_hazard(content):
        raise UnreadableImage(f"{name} {hazard}")
    try:
        with QUIET_PILLOW:
            Image.init()
            formats = [known for known in (*READABLE_FORMATS, "MPO") if known in Image.OPEN]
            image = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name} is not an image: expected {_EXPECTED}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(_too_many_pixels(name)) from error
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
    # Pillow's decoders raise errors of many types for damaged files (OSError, SyntaxError,
    # struct.error, IndexError, ...).
    except Exception as error:
        if "out of memory" in str(error).lower():  # the message of its decoders
            raise MemoryError from error
        raise _damaged(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # The pixels are fine even if the metadata is damaged.
        orientation = 1
    method = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        # Pillow converts premultiplied grey only to grey with alpha.
        foreground = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")


def _deep_color(content: bytes, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale 16-bit colours with empty upper bits from their actual depth.

    Pillow keeps only the upper 8 of 16 bits. It decodes first, because OpenCV prints damage on
    stderr. 8-bit images, and those with an orientation, are returned as they are.
    """
    if pixels.max() >= 1 << (_DEPTHS[-2] - 8):
        return pixels
    deep = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.shape != pixels.shape:
        return pixels
    deep = deep[:, :, ::-1]
    return to_8_bits(deep) if np.array_equal(deep // 256, pixels) else pixels


def _check_format(head: bytes, name: str) -> None:
    file_format = sniff_format(head)
    if file_format not in READABLE_FORMATS:
        what = "not an image" if file_format is None else f"{file_format}, which is not supported"
        raise UnreadableImage(f"{name} is {what}: expected {_EXPECTED}")


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(_too_many_pixels(name, f" of {width}x{height}"))
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(
            f"{name} of {width}x{height} is too long: expected at most {MAX_SIDE:,} pixels a side"
        )
    if width * height == 0:
        raise UnreadableImage(f"{name} has no pixels")


def _too_many_pixels(name: str, size: str = "") -> str:
    return f"{name}{size} is too large: expected at most {MAX_PIXELS // 1_000_000} megapixels"


def _damaged(name: str, error: Exception) -> UnreadableImage:
    return UnreadableImage(
        f"{name} is damaged and cannot be decoded: {abbreviate(error_reason(error))}"
    )


# ---------------------------------------------------------------- PBM, PGM and PPM
# Pillow decodes unusual depths and the text formats in Python, which takes a minute for a few
# megabytes; NumPy takes milliseconds.
_SEPARATOR = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _SEPARATOR + rb"(\d{1,10})"
_BITMAP = re.compile(rb"P([14])" + _NUMBER * 2 + rb"\s")
_GREYMAP = re.compile(rb"P([2356])" + _NUMBER * 3 + rb"\s")
_HEADER_BYTES = 1 << 16
_COMMENT = re.compile(rb"#[^\r\n]*")
_BLANKS = b" \t\n\r\v\f"


def _pnm_header(content: bytes, name: str) -> tuple[int, int, int, int, int]:
    """Return magic number (1-6), width, height, value of white, and offset of the pixels."""
    match = _BITMAP.match(content, 0, _HEADER_BYTES) or _GREYMAP.match(content, 0, _HEADER_BYTES)
    if match is None:
        raise _damaged(name, ValueError("no width and height in its header"))
    magic, width, height, white = (*map(int, match.groups()), 1)[:4]
    _check_size(width, height, name)
    return magic, width, height, white, match.end()


def _from_pnm(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    magic, width, height, white, start = _pnm_header(content, name)
    shape = (height, width, 3) if magic in (3, 6) else (height, width)
    try:
        if not 0 < white < 65536:
            raise ValueError(f"expected a largest value of 1 to 65535, got {white}")
        if magic == 4:
            values = _packed_bits(content, start, width, height)
        elif magic < 4:
            values = _text_values(_COMMENT.sub(b" ", content[start:]), math.prod(shape), magic == 1)
        else:
            values = _binary_values(content, start, math.prod(shape), white)
        if len(values) < math.prod(shape):
            raise ValueError("it is truncated")
        if values.max() > white:
            raise ValueError(f"it contains values above {white}, its largest")
    except ValueError as error:
        raise _damaged(name, error) from error
    scaled = to_8_bits(values.reshape(shape), None if white == 65535 else white)
    return _from_array(scaled, "rgb")


def _packed_bits(content: bytes, start: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return the pixels, 1 for white (0 in the file)."""
    rows = np.frombuffer(content, np.uint8, offset=start)[: height * -(-width // 8)]
    if len(rows) < height * -(-width // 8):
        return rows[:0]
    return 1 - np.unpackbits(rows.reshape(height, -1), axis=1, count=width).ravel()


def _binary_values(content: bytes, start: int, count: int, white: int) -> npt.NDArray[Any]:
    dtype = np.dtype(np.uint8 if white < 256 else ">u2")
    available = (len(content) - start) // dtype.itemsize
    return np.frombuffer(content, dtype, min(count, available), start)


def _text_values(text: bytes, count: int, is_bitmap: bool) -> npt.NDArray[Any]:
    if is_bitmap:  # digits, with or without blanks between them; 0 is white
        digits = text.translate(None, _BLANKS)[:count]
        return 1 - (np.frombuffer(digits, np.uint8) - ord("0"))
    if text.translate(None, b"0123456789" + _BLANKS):
        raise ValueError("it contains values that are not integers")
    # fromstring returns arbitrary numbers for an empty text.
    return np.fromstring(text, np.int64, sep=" ")[:count] if text.strip() else np.empty(0)


# ---------------------------------------------------------------- writing
def write_picture(picture: Image.Image, path: Path, *, optimize: bool = False) -> None:
    """Write an RGB or grey picture atomically, in the format of its suffix.

    Its EXIF software tag marks it as written by mien, which may overwrite it.

    Args:
        picture: the picture.
        path: where to write it; its suffix is one of `PICTURE_SUFFIXES`.
        optimize: take longer for a smaller file.

    Raises:
        OutputError: if it cannot be written.
    """
    exif = Image.Exif()
    exif[_SOFTWARE_TAG] = SOFTWARE
    file_format = Image.registered_extensions()[path.suffix.lower()]
    content = io.BytesIO()
    picture.save(content, file_format, quality=_JPEG_QUALITY, optimize=optimize, exif=exif)
    write_atomically(path, content.getvalue())
