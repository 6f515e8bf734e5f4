"""Draws results on their picture: boxes, emotions, and a small chart of all seven scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mien.core.results import Face

PALETTE: dict[str, str] = {
    "angry": "#e4572e",
    "disgust": "#7a9e3f",
    "fear": "#9b5de5",
    "happy": "#f2b705",
    "neutral": "#8d99a6",
    "sad": "#3d7dca",
    "surprise": "#1fb5a8",
}
"""A colour for each emotion, told apart on light and dark and by most colour-blind eyes."""

_OTHER_COLOR = "#c06c9b"  # for a model's own classes
_INK = "#ffffff"
_PANEL = (18, 22, 28, 200)
_TRACK = (255, 255, 255, 40)
_LEAST_TEXT = 9

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class _Style:
    """Sizes that follow from the picture's."""

    text: int
    line: int
    pad: int


def annotate(image: npt.NDArray[np.uint8], faces: Iterable[Face]) -> Image.Image:
    """Draw faces and their emotions on a picture.

    Each face gets its box, in the emotion's colour, and a label with emotion and confidence; an
    uncertain one has a question mark. Where there is room beside a face that is large enough, a
    chart shows all scores.

    Args:
        image: uint8 (H, W, 3) RGB, the picture that the faces were found in
            (`mien.core.images.load_image` gives it).
        faces: what was found.

    Returns:
        A new Pillow image in RGB; small pictures are enlarged so that the labels can be read.
    """
    picture = Image.fromarray(image)
    scale = max(1, round(480 / max(picture.size)))
    if scale > 1:
        size = (picture.width * scale, picture.height * scale)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return picture
