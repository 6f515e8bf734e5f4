"""Picture of explanations: each face, its heat map and its scores, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mien.core.display import class_colors, draw_bar, face_caption, find_font
from mien.core.errors import UsageError
from mien.inference.explain import ExplainedFace, Explanation

_SIDE = 240  # of a face, in pixels
_BARS = 268  # width of the score panel
_GAP, _MARGIN, _TITLE, _FOOTER = 12, 24, 34, 64
_BACKGROUND, _PANEL, _BAR_TRACK = (22, 26, 33), (31, 36, 45), (56, 63, 75)
_LIGHT, _DIM = (240, 243, 247), (150, 160, 173)
_MIN_OPACITY, _MAX_OPACITY = 0.25, 0.8  # of the colours, at heat 0 and 1
_FAINT_PEAK = 0.05  # occlusion maps with a lower peak are dimmed in proportion
_MAX_ROWS = 4  # faces in a column


def heat_colors(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colour a heat map of any shape, clipped to 0 to 1, with "inferno", as uint8 (..., 3) RGB."""
    levels = np.rint(255 * np.clip(heat, 0.0, 1.0)).astype(np.uint8)
    colors = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_INFERNO)
    return np.asarray(colors[..., ::-1], np.uint8).reshape(*heat.shape, 3)


def overlay(
    crop: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32], size: tuple[int, int]
) -> Image.Image:
    """Lay a heat map, float32 (48, 48), over a face, uint8 (H, W, 3) RGB.

    The face is grey under the colours, which are more opaque where it is hot. ``size`` is the width
    and height of the result.
    """
    face = Image.fromarray(crop).convert("L").resize(size, Image.Resampling.BICUBIC)
    enlarged = Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)
    smooth = np.clip(np.asarray(enlarged, np.float32), 0.0, 1.0)
    opacity = (_MIN_OPACITY + (_MAX_OPACITY - _MIN_OPACITY) * smooth)[..., None]
    grey = np.asarray(face, np.float32)[..., None]
    mixed = (1 - opacity) * grey + opacity * heat_colors(smooth)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def explanation_picture(faces: Sequence[ExplainedFace]) -> Image.Image:
    """Draw explained faces with their heat maps and scores.

    Args:
        faces: from `mien.inference.explain.explain`, all by the same method.

    Returns:
        RGB image with a row per face, in columns of up to four, and a legend of the colours.

    Raises:
        UsageError: if there is no face.
    """
    if not faces:
        raise UsageError("expected at least one face to draw")
    columns = math.ceil(len(faces) / _MAX_ROWS)
    rows = math.ceil(len(faces) / columns)
    width, height = 2 * _SIDE + _BARS + 2 * _GAP, _TITLE + _SIDE
    canvas = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * width + (columns - 1) * _MARGIN,
            2 * _MARGIN + rows * height + (rows - 1) * _MARGIN + _FOOTER,
        ),
        _BACKGROUND,
    )
    for number, explained in enumerate(faces):
        column, row = divmod(number, rows)
        left = _MARGIN + column * (width + _MARGIN)
        _draw_face(canvas, explained, left, _MARGIN + row * (height + _MARGIN))
    _draw_legend(canvas, faces[0].explanation)
    return canvas


def _draw_face(canvas: Image.Image, explained: ExplainedFace, left: int, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    _draw_title(draw, explained, left, top)
    top += _TITLE
    crop = explained.crop
    size = _fit(crop)
    face = Image.fromarray(crop).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pictures = (face, overlay(crop, _dimmed_heat(explained.explanation), size))
    for number, picture in enumerate(pictures):
        x = left + number * (_SIDE + _GAP)
        draw.rectangle((x, top, x + _SIDE - 1, top + _SIDE - 1), fill=_PANEL)
        canvas.paste(picture, (x + (_SIDE - size[0]) // 2, top + (_SIDE - size[1]) // 2))
    _draw_bars(draw, explained, left + 2 * (_SIDE + _GAP), top)


def _draw_title(draw: ImageDraw.ImageDraw, explained: ExplainedFace, left: int, top: int) -> None:
    face, explanation = explained.face, explained.explanation
    x, middle = float(left), top + _TITLE / 2 - 4
    parts = [
        (f"face {face.face_id}", 15, _DIM),
        (face_caption(face), 19, class_colors(face.scores)[face.emotion]),
    ]
    if explanation.emotion != face.emotion:
        parts.append((f"why {explanation.emotion} {explanation.score:.0%}", 15, _LIGHT))
    parts.append((_summary(explanation), 15, _DIM))
    for text, size, color in parts:
        font = find_font(text, size)
        draw.text((x, middle), text, fill=color, font=font, anchor="lm")
        x += draw.textlength(text, font) + 14


def _summary(explanation: Explanation) -> str:
    if explanation.peak <= 0:
        return f"no area supports {explanation.emotion}"
    if explanation.method == "gradcam":
        return "Grad-CAM"
    points = 100 * explanation.peak
    loss = f"up to {points:.0f} points" if points >= 1 else "less than a point"
    return f"loses {loss} where covered, in the {explanation.part} face"


def _dimmed_heat(explanation: Explanation) -> npt.NDArray[np.float32]:
    """Return the heat to draw, dimmed if covering the face costs next to nothing anywhere."""
    if explanation.method == "occlusion" and explanation.peak < _FAINT_PEAK:
        return explanation.heat * np.float32(explanation.peak / _FAINT_PEAK)
    return explanation.heat


def _draw_bars(draw: ImageDraw.ImageDraw, explained: ExplainedFace, left: int, top: int) -> None:
    draw.rectangle((left, top, left + _BARS - 1, top + _SIDE - 1), fill=_PANEL)
    scores = explained.face.scores
    colors = class_colors(scores)
    row = min(32.0, (_SIDE - 16) / len(scores))
    font = find_font("".join(scores), min(15, round(row * 0.5)))
    names = max(draw.textlength(name, font) for name in scores)
    start = left + 14 + round(names) + 10
    stop = left + _BARS - 14 - round(draw.textlength("100%", font)) - 8
    first = top + (_SIDE - row * len(scores)) / 2
    for number, (name, score) in enumerate(scores.items()):
        middle = first + (number + 0.5) * row
        ink = _LIGHT if name == explained.explanation.emotion else _DIM
        draw.text((start - 10, middle), name, fill=ink, font=font, anchor="rm")
        draw.text((left + _BARS - 14, middle), f"{score:.0%}", fill=ink, font=font, anchor="rm")
        place = (start, round(middle), stop, max(1, round(row * 0.16)))
        draw_bar(draw, place, score, colors[name], _BAR_TRACK)


def _draw_legend(canvas: Image.Image, explanation: Explanation) -> None:
    """Draw the colour ramp with the meaning of its ends, at the bottom."""
    draw = ImageDraw.Draw(canvas)
    top, width = canvas.height - _MARGIN - 12, 2 * _SIDE + _GAP
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(12, axis=0)
    canvas.paste(Image.fromarray(heat_colors(ramp)), (_MARGIN, top))
    ends = {
        "occlusion": ("no matter if covered", "the emotion's score falls most when covered"),
        "gradcam": ("adds nothing to the emotion", "adds most (Grad-CAM; coarse)"),
    }[explanation.method]
    font = find_font("".join(ends), 14)
    draw.text((_MARGIN, top - 8), ends[0], fill=_DIM, font=font, anchor="ls")
    draw.text((_MARGIN + width - 1, top - 8), ends[1], fill=_DIM, font=font, anchor="rs")


def _fit(crop: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return the width and height at which a crop fits its square."""
    height, width = crop.shape[:2]
    scale = _SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))
