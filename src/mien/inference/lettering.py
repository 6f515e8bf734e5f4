"""Fonts that have the characters of one's own class names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "arial.ttf",
    "msgothic.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
)
"""Files that systems have, those of most scripts first; the default one has ASCII alone."""

_NO_CHARACTER = "\U0010ffff"


def font_for(text: str, size: int) -> Font:
    """Return a font of a size in pixels that has the characters of a text.

    Where none on this machine has all of them, it is the one that lacks the fewest.
    """
    if text.isascii():
        return ImageFont.load_default(size)
    return _fitting(frozenset(text), size)


@lru_cache(maxsize=64)
def _fitting(characters: frozenset[str], size: int) -> Font:
    best: Font = ImageFont.load_default(size)
    fewest = _lacking(best, characters)
    for font in _system_fonts(size):
        if fewest == 0:
            break
        lacking = _lacking(font, characters)
        if lacking < fewest:
            best, fewest = font, lacking
    return best


def _system_fonts(size: int) -> Iterator[Font]:
    for name in _FONTS:
        try:
            yield ImageFont.truetype(name, size)
        except OSError:  # this machine does without
            continue


def _lacking(font: Font, characters: frozenset[str]) -> int:
    """Count the characters that are drawn as one that no font has: most draw an empty box."""
    box = bytes(font.getmask(_NO_CHARACTER))
    return sum(not one.isspace() and bytes(font.getmask(one)) == box for one in characters)
