"""Draws results on their picture: boxes, emotions, and a small chart of all scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageColor, ImageDraw, ImageFont

from mien.core.emotions import EMOTION_COLORS, find_emotion
from mien.core.images import ImageSource, load_image

if TYPE_CHECKING:
    from mien.core.results import Face, Result

MIN_SIDE = 640
"""Pictures with a shorter longer side are enlarged by an integer factor, to make labels legible."""

MAX_SIDE = 65_500
"""Longer pictures are shrunk: JPEG cannot hold them."""

_DARK = (16, 20, 26)
_LIGHT = (255, 255, 255)
_PANEL_OPACITY = 215
_TRACK_OPACITY = 38

_Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that follow from those of the picture and the face."""

    text: int
    line: int
    pad: int

    @classmethod
    def of(cls, picture: Image.Image, box: _Rectangle) -> _Style:
        longer = max(picture.size)
        least, most = max(12.0, longer / 75), max(16.0, longer / 32)
        # Eight times the text's size is about the longest label.
        fitting = max(8.0, picture.width / 8)
        text = round(min(max((box[2] - box[0]) / 6.5, least), most, fitting))
        return cls(text, line=max(2, round(text / 7)), pad=max(3, round(text / 3.2)))


def annotate(
    image: ImageSource,
    faces: Iterable[Face] | Result,
    *,
    color: str = "rgb",
    charts: bool = True,
) -> Image.Image:
    """Draw faces and their emotions on a picture.

    Each face gets its box, in the emotion's colour, and a label: in a video the person's number,
    then emotion and confidence, with a question mark where uncertain. A face that has room beside
    it gets a chart of all scores.

    Args:
        image: the picture that the faces were found in, as `Recognizer.analyze` takes it.
        faces: the faces, or a result.
        color: the order of an array's channels, "rgb" or "bgr".
        charts: draw the charts of scores.

    Returns:
        A new Pillow image in RGB; its longer side is made at least `MIN_SIDE` by a whole factor,
        and at most `MAX_SIDE`.

    Raises:
        UnreadableImage: if the image cannot be read.
        UsageError: if it is none.
    """
    picture, scale = _resized(Image.fromarray(load_image(image, color=color)))
    found = list(faces if isinstance(faces, Iterable) else faces.faces)
    boxes = [_scaled(face, scale) for face in found]
    # "RGBA" blends translucent shapes into an opaque picture.
    draw = ImageDraw.Draw(picture, "RGBA")
    taken = list(boxes)
    for face, box in zip(found, boxes, strict=True):
        _draw_box(draw, box, _Style.of(picture, box), _color(face))
    for face, box in zip(found, boxes, strict=True):
        taken.append(_draw_label(draw, picture, face, box))
    for face, box in zip(found, boxes, strict=True) if charts else ():
        panel = _draw_chart(draw, picture, face, box, taken)
        if panel is not None:
            taken.append(panel)
    return picture


def _resized(picture: Image.Image) -> tuple[Image.Image, float]:
    """Return the picture between `MIN_SIDE` and `MAX_SIDE`, and the scale factor."""
    longer = max(picture.size)
    scale = max(1, math.ceil(MIN_SIDE / longer)) if longer <= MAX_SIDE else MAX_SIDE / longer
    if scale == 1:
        return picture.convert("RGB"), 1
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), scale


def _scaled(face: Face, scale: float) -> _Rectangle:
    left, top, right, bottom = (int(edge * scale) for edge in face.box.xyxy)
    return (left, top, max(left, right - 1), max(top, bottom - 1))


def class_colors(labels: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return a colour for each class of a model, RGB in 0-255.

    An emotion, by whatever synonym, has its own; the others get those that are left, in turn.
    """
    names = list(labels)
    known = {name: find_emotion(name) for name in names}
    free = [color for emotion, color in EMOTION_COLORS.items() if emotion not in known.values()]
    turns = cycle(free or EMOTION_COLORS.values())
    return {
        name: ImageColor.getrgb(EMOTION_COLORS[emotion] if emotion else next(turns))
        for name, emotion in known.items()
    }


def _color(face: Face) -> tuple[int, ...]:
    return class_colors(face.scores)[face.emotion]


def _draw_box(
    draw: ImageDraw.ImageDraw, box: _Rectangle, style: _Style, color: tuple[int, ...]
) -> None:
    left, top, right, bottom = box
    # A dark edge keeps the box visible on a background of its own colour.
    edge = (left - 1, top - 1, right + 1, bottom + 1)
    radius = 2 * style.line
    draw.rounded_rectangle(edge, radius, outline=(*_DARK, 150), width=style.line + 2)
    draw.rounded_rectangle(box, radius, outline=color, width=style.line)


def _draw_label(
    draw: ImageDraw.ImageDraw, picture: Image.Image, face: Face, box: _Rectangle
) -> _Rectangle:
    """Write emotion and confidence above the box, or inside it at the picture's upper border."""
    style = _Style.of(picture, box)
    text = face_caption(face)
    if face.track_id is not None:
        text = f"#{face.track_id} {text}"
    font = find_font(text, style.text)
    width = math.ceil(draw.textlength(text, font)) + 2 * style.pad
    height = round(1.25 * style.text) + style.pad
    left = max(0, min(box[0], picture.width - width))
    top = box[1] - height if box[1] >= height else box[1]
    label = (left, top, left + width - 1, top + height - 1)
    color = _color(face)
    draw.rounded_rectangle(label, style.line, fill=color)
    middle = (left + style.pad, top + height / 2)
    draw.text(middle, text, fill=_readable_on(color), font=font, anchor="lm")
    return label


def _readable_on(color: tuple[int, ...]) -> tuple[int, int, int]:
    red, green, blue = color[:3]
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else _LIGHT


def _draw_chart(
    draw: ImageDraw.ImageDraw,
    picture: Image.Image,
    face: Face,
    box: _Rectangle,
    taken: list[_Rectangle],
) -> _Rectangle | None:
    """Draw one bar per score beside the box; return the panel, or None if there is no room."""
    style = _Style.of(picture, box)
    text = max(10, round(0.72 * style.text))
    font = find_font("".join(face.scores), text)
    row, pad = round(1.3 * text), style.pad
    names = math.ceil(max(draw.textlength(name, font) for name in face.scores))
    bar = 5 * text
    width = names + bar + 3 * pad
    height = row * len(face.scores) + 2 * pad
    # No chart larger than its face.
    if height > 1.25 * (box[3] - box[1]):
        return None
    panel = _free_place(picture, box, (width, height), 2 * style.line, taken)
    if panel is None:
        return None
    draw.rounded_rectangle(panel, 2 * style.line, fill=(*_DARK, _PANEL_OPACITY))
    start = panel[0] + 2 * pad + names
    colors = class_colors(face.scores)
    for number, (name, score) in enumerate(face.scores.items()):
        top = panel[1] + pad + number * row
        middle = top + row / 2
        ink = _LIGHT if name == face.emotion else (*_LIGHT, 170)
        draw.text((start - pad, middle), name, fill=ink, font=font, anchor="rm")
        box = (start, round(middle), start + bar, max(1, round(row * 0.22)))
        draw_bar(draw, box, score, colors[name], (*_LIGHT, _TRACK_OPACITY))
    return panel


def draw_bar(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int, int, int],
    score: float,
    color: tuple[int, ...],
    background: tuple[int, ...],
) -> None:
    """Draw a score, 0 to 1, as a horizontal bar; ``place`` is left, middle, right, half height."""
    left, middle, right, radius = place
    top, bottom = middle - radius, middle + radius
    draw.rounded_rectangle((left, top, right, bottom), radius, fill=background)
    filled = round(score * (right - left))
    if filled > 0:
        draw.rounded_rectangle((left, top, left + filled, bottom), radius, fill=color)


def face_caption(face: Face) -> str:
    """Return a face's emotion and confidence, with a question mark if they are uncertain."""
    return f"{face.emotion}{'?' if face.uncertain else ''} {face.confidence:.0%}"


def _free_place(
    picture: Image.Image,
    box: _Rectangle,
    size: tuple[int, int],
    gap: int,
    taken: list[_Rectangle],
) -> _Rectangle | None:
    """Return a place beside, below or above a box that is inside the picture and hides no face."""
    left, top, right, bottom = box
    width, height = size
    corners = [
        (right + gap, top),
        (left - gap - width, top),
        (right + gap, bottom - height),
        (left - gap - width, bottom - height),
        ((left + right - width) // 2, bottom + gap),
    ]
    for x, y in corners:
        place = (x, y, x + width, y + height)
        inside = x >= 0 and y >= 0 and place[2] < picture.width and place[3] < picture.height
        if inside and not any(_touch(place, other) for other in taken):
            return place
    return None


def _touch(one: _Rectangle, other: _Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


# ---------------------------------------------------------------- fonts
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
"""Font files of common systems; Pillow's default font is ASCII only."""

_NO_GLYPH = "\U0010ffff"


def find_font(text: str, size: int) -> Font:
    """Return the font, at a size in pixels, that has the most characters of a text."""
    if text.isascii():
        return ImageFont.load_default(size)
    return _best_font(frozenset(text), size)


@lru_cache(maxsize=64)
def _best_font(characters: frozenset[str], size: int) -> Font:
    fonts: list[Font] = [ImageFont.load_default(size), *_system_fonts(size)]
    return min(fonts, key=lambda font: _missing_glyphs(font, characters))


def _system_fonts(size: int) -> Iterator[Font]:
    for name in _FONTS:
        try:
            yield ImageFont.truetype(name, size)
        except OSError:  # not installed
            continue


def _missing_glyphs(font: Font, characters: frozenset[str]) -> int:
    """Count the characters drawn like one that no font has, mostly as an empty box."""
    box = bytes(font.getmask(_NO_GLYPH))
    return sum(not one.isspace() and bytes(font.getmask(one)) == box for one in characters)
