"""PBM, PGM and PPM files.

Pillow decodes those of unusual depth, and those written as text, in Python: a minute for a few
megabytes. NumPy takes them at once.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEAD_BYTES = 1 << 16
_BLANKS = b" \t\n\r\v\f"
_COMMENT = re.compile(rb"#[^\r\n]*")
_BITMAP = re.compile(rb"P([14])" + _BETWEEN + rb"(\d{1,10})" + _BETWEEN + rb"(\d{1,10})\s")
_GREYMAP = re.compile(rb"P([2356])" + _BETWEEN + _BETWEEN.join([rb"(\d{1,10})"] * 3) + rb"\s")


def pnm_size(content: bytes) -> tuple[int, int]:
    """Return the width and height that the head says; raises ValueError if it says none."""
    found = _match(_BITMAP, content) or _match(_GREYMAP, content)
    if found is None:
        raise ValueError("its head has no width and height")
    return int(found[2]), int(found[3])


def read_pnm(content: bytes) -> tuple[npt.NDArray[np.generic], int]:
    """Decode a file whose size has been checked.

    Returns:
        The values, uint8 or uint16, (H, W) or (H, W, 3) RGB, and the value of white.

    Raises:
        ValueError: if it is damaged or ends too early.
    """
    width, height = pnm_size(content)
    if bitmap := _match(_BITMAP, content):
        body = content[bitmap.end() :]
        return _bits(body, width, height, plain=bitmap[1] == b"1"), 1
    found = _match(_GREYMAP, content)
    assert found is not None  # as `pnm_size` has found
    white = int(found[4])
    if not 0 < white < 65536:
        raise ValueError(f"its values go up to {white}: expected 1 to 65535")
    shape = (height, width, 3) if found[1] in b"36" else (height, width)
    count = int(np.prod(shape))
    if found[1] in b"23":
        values = _numbers(content[found.end() :], count)
    else:
        kind = np.dtype(np.uint8 if white < 256 else ">u2")
        if len(content) - found.end() < count * kind.itemsize:
            raise ValueError("it ends too early")
        values = np.frombuffer(content, kind, count, found.end())
    if values.max() > white:
        raise ValueError(f"it has values above its largest, {white}")
    return values.reshape(shape), white


def _match(head: re.Pattern[bytes], content: bytes) -> re.Match[bytes] | None:
    return head.match(content, 0, _HEAD_BYTES)


def _numbers(text: bytes, count: int) -> npt.NDArray[np.int64]:
    text = _COMMENT.sub(b" ", text)
    if text.translate(None, b"0123456789" + _BLANKS):
        raise ValueError("it has other values than whole numbers")
    # NumPy makes numbers up where there is none.
    values = np.fromstring(text, np.int64, sep=" ") if not text.isspace() else np.empty(0, np.int64)
    if len(values) < count:
        raise ValueError("it ends too early")
    return values[:count]


def _bits(body: bytes, width: int, height: int, *, plain: bool) -> npt.NDArray[np.uint8]:
    """Return 1 for white, which the file has as 0."""
    if plain:
        digits = _COMMENT.sub(b" ", body).translate(None, _BLANKS)
        bits = np.frombuffer(digits[: width * height], np.uint8) - ord("0")
        if len(bits) < width * height or bits.max() > 1:
            raise ValueError("it ends too early, or has digits other than 0 and 1")
        return 1 - bits.reshape(height, width)
    row = -(-width // 8)
    if len(body) < row * height:
        raise ValueError("it ends too early")
    packed = np.frombuffer(body, np.uint8, row * height).reshape(height, row)
    return 1 - np.unpackbits(packed, axis=1, count=width)
