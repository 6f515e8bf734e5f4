"""Any image becomes one form: uint8 RGB, upright.

Files, bytes and Pillow images go through Pillow; arrays are checked and taken as they are.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mien.core.errors import UnreadableImage, UsageError
from mien.core.forks import ForkLock

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]"
)
"""What can be read as an image: a path, an encoded file's bytes, a Pillow image, an array."""

COLORS: tuple[str, ...] = ("rgb", "bgr")
"""Orders of an array's three channels; one of them must be said."""

MAX_PIXELS = 150_000_000
"""Larger images are refused: a small file can claim any size and fill the memory."""

FORMATS: tuple[str, ...] = (
    "JPEG",
    "MPO",
    "PNG",
    "WEBP",
    "AVIF",
    "TIFF",
    "BMP",
    "GIF",
    "JPEG2000",
    "PPM",
    "ICO",
)
"""File formats that are tried; none of them runs another program, as EPS does."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource, *, color: str | None = None) -> npt.NDArray[np.uint8]:
    """Read an image into one form.

    The first frame of an animation is taken, EXIF orientation is applied, transparency is laid over
    white (as browsers show it), and 16-bit values are scaled to 8 bits. Colour profiles are not
    applied.

    Args:
        source: a path, the bytes of an encoded file, a Pillow image, or an array: uint8, (H, W) or
            (H, W, 1) grey, or (H, W, 3) in the order that ``color`` says.
        color: "rgb" or "bgr"; needed for arrays of three channels, ignored for all else.

    Returns:
        uint8 (H, W, 3), RGB, upright, C-contiguous. It may share memory with an array that was
        given: read it, don't write to it.

    Raises:
        UnreadableImage: if the source is missing, is not an image, is damaged, or has more than
            `MAX_PIXELS`.
        UsageError: if an array's type, shape or colour order is off.
    """
    if color is not None and color not in COLORS:
        raise UsageError(f"expected color={' or color='.join(map(repr, COLORS))}, got {color!r}")
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    name = source_name(source) or "image"
    if isinstance(source, Image.Image):
        return _from_pillow(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif isinstance(source, str | os.PathLike):
        content = _read_file(Path(source), name)
    else:
        raise UsageError(
            "expected an image as a path, bytes, Pillow image or array, "
            f"got {type(source).__name__}"
        )
    return _from_bytes(content, name)


def source_name(source: object) -> str | None:
    """Return the path of an image that has one, as it was given; else None."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    filename = getattr(source, "filename", None) if isinstance(source, Image.Image) else None
    return str(filename) if filename else None


def pixel_count(content: bytes) -> int:
    """Return how many pixels an encoded image says it has, without decoding them.

    Raises:
        UnreadableImage: if it is not an image, or has far more than `MAX_PIXELS`.
    """
    with _opened(content, "image") as image:
        return image.width * image.height


def _from_array(array: npt.NDArray[np.uint8], color: str | None) -> npt.NDArray[np.uint8]:
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or array.size == 0 or not (grey or array.shape[2:] == (3,)):
        raise UsageError(
            "expected an image array as uint8 (H, W) or (H, W, 3) with values 0-255, "
            f"got {array.dtype} {array.shape}"
        )
    if grey:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if color is None:
        raise UsageError(
            "an array's colour order must be said: color='rgb' (Pillow, imageio) "
            "or color='bgr' (OpenCV)"
        )
    return np.ascontiguousarray(array[:, :, ::-1] if color == "bgr" else array)


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise UnreadableImage(f"{name} is a folder: expected an image file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImage(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(f"{name} cannot be read: {reason}") from error


def _from_bytes(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    with _opened(content, name) as image:
        return _from_pillow(image, name)


def _opened(content: bytes, name: str) -> Image.Image:
    """Return an encoded image whose head has been read, its pixels not yet."""
    if not content:
        raise UnreadableImage(f"{name} is empty: expected an image")
    try:
        with _QUIET:
            Image.init()
            formats = [known for known in FORMATS if known in Image.OPEN]
            return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"{name} is not an image: expected one of {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(_too_large(name)) from error
    except Exception as error:  # see `_from_pillow`
        raise UnreadableImage(_damaged(name, error)) from error


def _from_pillow(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(_too_large(name, f" of {width}x{height}"))
    if width * height == 0:
        raise UnreadableImage(f"{name} has no pixels")
    try:
        with _QUIET:
            # Loading comes before asking for the orientation: Pillow turns TIFF files itself then.
            image.load()
            return np.ascontiguousarray(np.asarray(_to_rgb(_upright(image)), np.uint8))
    # Pillow's decoders meet damaged files with errors of many kinds (OSError, SyntaxError,
    # struct.error, IndexError, ...): whichever it is, this image cannot be read.
    except Exception as error:
        raise UnreadableImage(_damaged(name, error)) from error


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
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        # Pillow knows no way from premultiplied grey but to plain grey with transparency.
        above = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        below = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Scale grey values of more than 8 bits to 0-255 without clipping any."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 255:
        top = 1.0 if high <= 1 else 255.0
    elif low >= 0 and high <= 65535:
        top = 65535.0
    else:  # wider than 16 bits: no range is customary, so the picture's own
        values, top = values - low, max(high - low, 1.0)
    scaled = values.astype(np.float32) * np.float32(255.0 / top)
    return np.asarray(np.rint(scaled, out=scaled), np.uint8)


def _too_large(name: str, size: str = "") -> str:
    return f"{name}{size} is too large: expected at most {MAX_PIXELS // 1_000_000} megapixels"


def _damaged(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name} is damaged and cannot be decoded: {reason}"


class _QuietPillow:
    """Silence Pillow's warnings (large images, odd metadata) while any thread decodes.

    `warnings.catch_warnings` swaps a list that all threads share, so two threads that overlap can
    leave the wrong list behind. Here the first to come swaps it and the last to go restores it.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._inside = 0
        self._catcher: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._catcher is not None:
                self._catcher.__exit__(None, None, None)
                self._catcher = None


_QUIET = _QuietPillow()
