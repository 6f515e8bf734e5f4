"""Results as pictures, HTML for notebooks, and charts."""

from __future__ import annotations

import base64
import html
import io
import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from mien.core.checks import check_path, invalid
from mien.core.emotions import EMOTION_COLORS, find_emotion
from mien.core.errors import MienError, UsageError, abbreviate, needs_extra
from mien.core.file_types import OUTPUT_IMAGE_SUFFIXES
from mien.core.images import ImageSource, is_data_uri, load_image, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mien.core.results import Box, Face, Result

# ---------------------------------------------------------------- annotated pictures
MIN_SIDE = 640
"""Smaller pictures are enlarged by an integer factor, so that labels are legible."""

MAX_SIDE = 65_500
"""Larger pictures are shrunk: the limit of JPEG."""

_DARK = (16, 20, 26)
_LIGHT = (255, 255, 255)
_PANEL_OPACITY = 215
_BAR_OPACITY = 38

_Rectangle: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, inclusive."""

_Color: TypeAlias = tuple[int, ...]
"""RGB or RGBA in 0-255."""


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels for a picture and a face in it."""

    text: int
    line: int
    pad: int

    @classmethod
    def of(cls, picture: Image.Image, box: _Rectangle) -> _Style:
        longer = max(picture.size)
        least, most = max(12.0, longer / 75), max(16.0, longer / 32)
        # The longest labels are about eight times as wide as the text is high.
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

    Each face gets a box in the colour of its emotion, and a label: the person's number (in a
    video), the emotion and its confidence, with a question mark if it is uncertain. If there is
    room next to the face, a chart shows all scores.

    Args:
        image: the picture that was analyzed, as `Recognizer.analyze` takes it.
        faces: its faces, or its result.
        color: the order of an array's channels, "rgb" or "bgr".
        charts: draw the charts of scores.

    Returns:
        A new Pillow image in RGB. Its longer side is enlarged to at least `MIN_SIDE` by an integer
        factor, or shrunk to `MAX_SIDE`.

    Raises:
        UnreadableImage: if the image cannot be read.
        UsageError: if it is not an image.
    """
    picture, scale = _resize(Image.fromarray(load_image(image, color=color)))
    drawn = list(faces if isinstance(faces, Iterable) else getattr(faces, "faces", [None]))
    if not all(hasattr(face, "scores") for face in drawn):
        raise invalid("faces", "a list of faces or a result", faces)
    boxes = [_scaled_rectangle(face, scale) for face in drawn]
    # Mode "RGBA" blends translucent shapes into an opaque picture.
    draw = ImageDraw.Draw(picture, "RGBA")
    occupied = list(boxes)
    for face, box in zip(drawn, boxes, strict=True):
        _draw_box(draw, box, _Style.of(picture, box), _face_color(face))
    for face, box in zip(drawn, boxes, strict=True):
        occupied.append(_draw_label(draw, picture, face, box))
    for face, box in zip(drawn, boxes, strict=True) if charts else ():
        panel = _draw_chart(draw, picture, face, box, occupied)
        if panel is not None:
            occupied.append(panel)
    return picture


def _resize(picture: Image.Image) -> tuple[Image.Image, float]:
    """Return the picture between `MIN_SIDE` and `MAX_SIDE`, and the scale factor."""
    longer = max(picture.size)
    scale = max(1, math.ceil(MIN_SIDE / longer)) if longer <= MAX_SIDE else MAX_SIDE / longer
    if scale == 1:
        return picture.convert("RGB"), 1
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), scale


def _scaled_rectangle(face: Face, scale: float) -> _Rectangle:
    left, top, right, bottom = (int(edge * scale) for edge in face.box.xyxy)
    return (left, top, max(left, right - 1), max(top, bottom - 1))


def class_colors(labels: Iterable[str]) -> dict[str, _Color]:
    """Return a colour for each class of a model, RGB in 0-255.

    Emotions and their synonyms have fixed colours; other classes cycle through the rest.
    """
    emotions = {label: find_emotion(label) for label in labels}
    unused = [color for name, color in EMOTION_COLORS.items() if name not in emotions.values()]
    others = cycle(unused or EMOTION_COLORS.values())
    return {
        label: ImageColor.getrgb(EMOTION_COLORS[emotion] if emotion else next(others))
        for label, emotion in emotions.items()
    }


def _face_color(face: Face) -> _Color:
    return class_colors(face.scores)[face.emotion]


def face_caption(face: Face) -> str:
    """Return a face's emotion and confidence, with a question mark if it is uncertain."""
    return f"{face.emotion}{'?' if face.uncertain else ''} {face.confidence:.0%}"


def _draw_box(draw: ImageDraw.ImageDraw, box: _Rectangle, style: _Style, color: _Color) -> None:
    left, top, right, bottom = box
    # A dark edge keeps the box visible on a background of the same colour.
    edge = (left - 1, top - 1, right + 1, bottom + 1)
    radius = 2 * style.line
    draw.rounded_rectangle(edge, radius, outline=(*_DARK, 150), width=style.line + 2)
    draw.rounded_rectangle(box, radius, outline=color, width=style.line)


def _draw_label(
    draw: ImageDraw.ImageDraw, picture: Image.Image, face: Face, box: _Rectangle
) -> _Rectangle:
    """Write emotion and confidence above the box, or inside it at the picture's top edge."""
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
    color = _face_color(face)
    draw.rounded_rectangle(label, style.line, fill=color)
    middle = (left + style.pad, top + height / 2)
    draw.text(middle, text, fill=_contrasting(color), font=font, anchor="lm")
    return label


def _contrasting(color: _Color) -> _Color:
    red, green, blue = color[:3]
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else _LIGHT


def _draw_chart(
    draw: ImageDraw.ImageDraw,
    picture: Image.Image,
    face: Face,
    box: _Rectangle,
    occupied: list[_Rectangle],
) -> _Rectangle | None:
    """Draw a bar per score next to the box; return the panel, or None if there is no room."""
    style = _Style.of(picture, box)
    text = max(10, round(0.72 * style.text))
    font = find_font("".join(face.scores), text)
    row, pad = round(1.3 * text), style.pad
    names = math.ceil(max(draw.textlength(name, font) for name in face.scores))
    bar = 5 * text
    width = names + bar + 3 * pad
    height = row * len(face.scores) + 2 * pad
    # No chart is much larger than its face.
    if height > 1.25 * (box[3] - box[1]):
        return None
    panel = _free_place(picture, box, (width, height), 2 * style.line, occupied)
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
        place = (start, round(middle), start + bar, max(1, round(row * 0.22)))
        draw_bar(draw, place, score, colors[name], (*_LIGHT, _BAR_OPACITY))
    return panel


def draw_bar(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int, int, int],
    score: float,
    color: _Color,
    background: _Color,
) -> None:
    """Draw a score, 0 to 1, as a horizontal bar; ``place`` is left, middle, right, half height."""
    left, middle, right, radius = place
    top, bottom = middle - radius, middle + radius
    draw.rounded_rectangle((left, top, right, bottom), radius, fill=background)
    filled = round(score * (right - left))
    if filled > 0:
        draw.rounded_rectangle((left, top, left + filled, bottom), radius, fill=color)


def _free_place(
    picture: Image.Image,
    box: _Rectangle,
    size: tuple[int, int],
    gap: int,
    occupied: list[_Rectangle],
) -> _Rectangle | None:
    """Return a place next to or below a box, inside the picture and off all other boxes."""
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
        if inside and not any(_overlap(place, other) for other in occupied):
            return place
    return None


def _overlap(a: _Rectangle, b: _Rectangle) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


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
"""Fonts of common systems; Pillow's default font is ASCII only."""

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
    """Count the characters drawn like one that no font has, usually as an empty box."""
    box = bytes(font.getmask(_NO_GLYPH))
    return sum(
        not character.isspace() and bytes(font.getmask(character)) == box
        for character in characters
    )


# ---------------------------------------------------------------- a result and its picture
def image_reference(
    image: ImageSource, *, allow_private: bool = False
) -> Callable[[], ImageSource | None]:
    """Return a function that gives an image again, without keeping its pixels in memory.

    It keeps a path or an address, and a weak reference to an array or Pillow image. It returns None
    for a data URI or bytes, or once the array is gone.
    """
    if isinstance(image, str) and is_data_uri(image):
        return lambda: None
    if allow_private and isinstance(image, str):
        return lambda: Image.fromarray(load_image(image, allow_private=True))
    if isinstance(image, str | os.PathLike):
        return lambda: image
    try:
        return weakref.ref(image)
    except TypeError:  # bytes
        return lambda: None


def annotate_result(result: Result, image: ImageSource | None, color: str | None) -> Image.Image:
    """Annotate a result's picture; see `Result.annotate`."""
    return annotate(_pixels(result, image, color), result)


def save_annotated(
    result: Result, path: str | Path, image: ImageSource | None, color: str | None
) -> Path:
    """Write a result's annotated picture; see `Result.save`."""
    target = check_path("path", path)
    if target.suffix.lower() not in OUTPUT_IMAGE_SUFFIXES:
        raise UsageError(
            f"expected a name that ends in {', '.join(OUTPUT_IMAGE_SUFFIXES)}, "
            f"got {abbreviate(path)}"
        )
    if result.source and _is_same_file(target, result.source):
        raise UsageError(f"{abbreviate(path)} is the analyzed picture itself: give another name")
    write_picture(annotate_result(result, image, color), target)
    return target


def _is_same_file(path: Path, source: str) -> bool:
    try:
        return path.samefile(source)
    except (OSError, ValueError):  # one of them is missing, or not a path
        return False


def _pixels(result: Result, image: ImageSource | None, color: str | None) -> npt.NDArray[np.uint8]:
    """Load the picture of a result, given again or remembered, and check its size."""
    if result.error is not None:
        raise UsageError(f"there is no picture to draw on: {result.error}")
    if image is None:
        image, known_color = result.recall_image()
        color = known_color if color is None else color
    if image is None:
        example = "annotate(image)" if result.frame is None else "annotate(frame)"
        raise UsageError(f"the picture of this result was not kept: give it again, as in {example}")
    pixels = load_image(image, color=color)
    if pixels.shape[:2] != (result.height, result.width):
        raise UsageError(
            f"expected the picture that was analyzed, {result.width}x{result.height}, "
            f"got one of {pixels.shape[1]}x{pixels.shape[0]}"
        )
    return pixels


# ---------------------------------------------------------------- HTML for notebooks
# Styles are inline, since notebooks strip style sheets, and inherit the notebook's text colour, so
# that they fit light and dark themes.
_CAPTION = "opacity:.7;padding-bottom:6px;overflow-wrap:anywhere"
_CARD = "display:flex;gap:10px;padding:8px 0;border-top:1px solid rgba(128,128,128,.3)"
_CARDS = (
    "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr));gap:0 20px"
)
_ROWS = "display:grid;gap:1px 8px;align-items:center;grid-template-columns:"
_TRACK = "height:7px;border-radius:4px;background:rgba(128,128,128,.22);overflow:hidden"
_HTML_SIDE, _THUMB_SIDE = 640, 56
_HTML_FACES, _HTML_RESULTS = 12, 8
_FACES_BESIDE = 3
"""More faces than these are shown below the picture, not beside it."""


def results_html(results: Sequence[Result]) -> str:
    """Return the HTML of several results."""
    gap = '<div style="height:18px"></div>'
    left = len(results) - _HTML_RESULTS
    more = f"{gap}<div>and {left:,} more images</div>" if left > 0 else ""
    return gap.join(result_html(result) for result in results[:_HTML_RESULTS]) + more


def result_html(result: Result) -> str:
    """Return the HTML of a result: the annotated picture, and a card for each face."""
    try:
        pixels = _pixels(result, None, None)
    except MienError:  # show the faces without the picture
        pixels = None
    beside = len(result.faces) <= _FACES_BESIDE
    picture = ""
    if pixels is not None:
        alt = html.escape(f"{result.source or 'picture'} with its faces", quote=True)
        picture = (
            f'<img alt="{alt}" src="{_data_uri(_small_picture(result, pixels))}" '
            f'style="max-width:min(100%,{480 if beside else _HTML_SIDE}px);height:auto;'
            'border-radius:6px">'
        )
    cards = "".join(_card(face, pixels) for face in result.faces[:_HTML_FACES])
    left = len(result.faces) - _HTML_FACES
    cards += f"<div>and {left} more</div>" if left > 0 else ""
    message = {"no_face": "no face found"}.get(result.status, result.error or "")
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:8px 20px;align-items:flex-start;'
        f'font:13px/1.35 system-ui,sans-serif">{picture}'
        f'<div style="flex:1 1 {"260px" if beside else "100%"}">'
        f'<div style="{_CAPTION}">{html.escape(_title(result))}</div>'
        f'{html.escape(message)}<div style="{_CARDS}">{cards}</div></div></div>'
    )


def _small_picture(result: Result, pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return the annotated picture at the size it is shown at, where its labels are legible."""
    picture = Image.fromarray(pixels)
    scale = _HTML_SIDE / max(picture.size)
    if scale >= 1:
        return annotate(picture, result, charts=False)
    picture.thumbnail((_HTML_SIDE, _HTML_SIDE))
    faces = [replace(face, box=_scaled_box(face.box, scale)) for face in result.faces]
    return annotate(picture, faces, charts=False)


def _scaled_box(box: Box, scale: float) -> Box:
    w, h = (max(1, round(side * scale)) for side in (box.w, box.h))
    return replace(box, x=round(box.x * scale), y=round(box.y * scale), w=w, h=h)


def _title(result: Result) -> str:
    parts = [abbreviate(result.source)] if result.source else []
    if result.time_s is not None:
        parts.append(f"{result.time_s:.2f} s")
    if result.width:
        parts.append(f"{result.width}x{result.height}")
    parts.append(f"{result.model.name} {result.model.version}".strip())
    return " · ".join(parts)


def _card(face: Face, pixels: npt.NDArray[np.uint8] | None) -> str:
    colors = class_colors(face.scores)
    # As wide for every face, though the name of its emotion is bold.
    names = f"minmax({max(map(len, face.scores))}ch,auto)"
    rows = []
    for name, score in face.scores.items():
        weight = "font-weight:600" if name == face.emotion else "opacity:.8"
        red, green, blue = colors[name][:3]
        bar = f"height:100%;width:{score:.1%};background:rgb({red},{green},{blue})"
        rows.append(
            f'<span style="{weight}">{html.escape(name)}</span>'
            f'<div style="{_TRACK}"><div style="{bar}"></div></div>'
            f'<span style="{weight};text-align:right">{score:.0%}</span>'
        )
    thumb = ""
    if pixels is not None:
        side = f"width:{_THUMB_SIDE}px;height:{_THUMB_SIDE}px"
        crop = Image.fromarray(pixels).crop(face.box.xyxy)
        source = _data_uri(ImageOps.fit(crop, (2 * _THUMB_SIDE, 2 * _THUMB_SIDE)))
        thumb = f'<img alt="" src="{source}" style="{side};border-radius:4px">'
    number = f"#{face.track_id} " if face.track_id is not None else ""
    flags = ", ".join(flag.replace("_", " ") for flag in face.quality.flags)
    note = f' <span style="opacity:.7">{flags}</span>' if flags else ""
    return (
        f'<div style="{_CARD}">{thumb}<div><div style="padding-bottom:3px">'
        f"<b>{html.escape(number + face_caption(face))}</b>{note}</div>"
        f'<div style="{_ROWS}{names} 120px 3em">{"".join(rows)}</div></div></div>'
    )


def _data_uri(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=88)  # stored in the notebook: a PNG is ten times the size
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


# ---------------------------------------------------------------- Matplotlib
_PLOT_FACES, _PLOT_ROWS = 12, 4


def load_pyplot() -> Any:
    """Return ``matplotlib.pyplot``; raises MissingExtra if Matplotlib is not installed."""
    with needs_extra("notebook", "a chart"):
        from matplotlib import pyplot

    return pyplot


def plot(result: Result, image: ImageSource | None, color: str | None) -> Axes:
    """Show a result's annotated picture and scores with Matplotlib; see `Result.plot`."""
    pixels = _pixels(result, image, color)
    pyplot = load_pyplot()
    faces = result.faces[:_PLOT_FACES]
    rows, columns = min(len(faces), _PLOT_ROWS), math.ceil(len(faces) / _PLOT_ROWS)
    figure = pyplot.figure(figsize=(6 + 2.8 * columns, max(4.5, 1.4 * rows)), layout="constrained")
    grid = figure.add_gridspec(max(1, rows), 1 + columns, width_ratios=[2] + [1] * columns)
    picture: Axes = figure.add_subplot(grid[:, 0])
    picture.imshow(annotate(pixels, result, charts=False))
    picture.set_axis_off()
    left = len(result.faces) - len(faces)
    picture.set_title(_title(result) + (f" · {left} more faces" if left else ""), fontsize=9)
    for number, face in enumerate(faces):
        _plot_scores(figure.add_subplot(grid[number % rows, 1 + number // rows]), face)
    return picture


def _plot_scores(chart: Axes, face: Face) -> None:
    colors = class_colors(face.scores)
    fills = [tuple(part / 255 for part in colors[name][:3]) for name in face.scores]
    chart.barh(list(face.scores), list(face.scores.values()), color=fills)
    chart.invert_yaxis()
    chart.set_xlim(0, 1)
    chart.set_title(face_caption(face), fontsize=9)
    chart.tick_params(labelsize=7)
    chart.spines[["top", "right"]].set_visible(False)
