"""Results as people look at them: pictures, HTML for notebooks, charts, pandas data frames.

Pillow, Matplotlib and pandas are loaded when they are asked for.
"""

from __future__ import annotations

import base64
import html
import io
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.core.errors import MienError, UsageError, abbreviate, needs_extra
from mien.core.file_types import OUTPUT_IMAGE_SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes
    from PIL import Image

    from mien.core.images import ImageSource
    from mien.core.results import Box, Face, Result

_EXTRA = "notebook"

_HTML_SIDE, _THUMB_SIDE = 640, 56
_HTML_FACES, _HTML_RESULTS = 12, 8
_PLOT_FACES = 4


class Viewable:
    """Pictures, charts and HTML of a result: the base of `Result` and `Faces`."""

    @property
    def _own_result(self) -> Result:
        raise NotImplementedError

    def annotate(
        self, image: ImageSource | None = None, *, color: str | None = None
    ) -> Image.Image:
        """Return the picture with its faces and their emotions drawn in, as `mien.annotate` does.

        Args:
            image: the picture; by default, it is read again from its path or address, or taken from
                the array or Pillow image, if that is still in use.
            color: the order of an array's channels, "rgb" or "bgr".

        Raises:
            UnreadableImage: if the picture cannot be read.
            UsageError: if it is not known any more, or is not the one that was analyzed.
        """
        from mien.core.annotate import annotate

        return annotate(_pixels_of(self._own_result, image, color), self._own_result)

    def save(
        self, path: str | Path, image: ImageSource | None = None, *, color: str | None = None
    ) -> Path:
        """Write the annotated picture; return its path. Other arguments as `annotate`.

        Raises:
            UnreadableImage: if the picture cannot be read.
            UsageError: if it is not known any more, or the path ends in no format that is written,
                or is the picture that was read.
            OutputError: if it cannot be written.
        """
        from mien.core.images import write_picture

        target, source = Path(path), self._own_result.source
        if target.suffix.lower() not in OUTPUT_IMAGE_SUFFIXES:
            raise UsageError(
                f"expected a name that ends in {', '.join(OUTPUT_IMAGE_SUFFIXES)}, "
                f"got {abbreviate(path)}"
            )
        if source and _is_same_file(target, source):
            raise UsageError(f"{abbreviate(path)} is the picture that was read: give another name")
        write_picture(self.annotate(image, color=color), target)
        return target

    def plot(self, image: ImageSource | None = None, *, color: str | None = None) -> Axes:
        """Show the annotated picture and a chart of each face's scores with Matplotlib.

        Arguments and errors as `annotate`.

        Returns:
            The axes that the picture is in.

        Raises:
            MissingExtra: if Matplotlib is not installed.
        """
        return _plot(self._own_result, _pixels_of(self._own_result, image, color))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture with its boxes, and each face's scores."""
        return _html(self._own_result)


# ---------------------------------------------------------------- the picture of a result
def _is_same_file(path: Path, source: str) -> bool:
    try:
        return path.samefile(source)
    except (OSError, ValueError):  # one is not there, or no path at all
        return False


def image_reference(
    image: ImageSource, *, allow_private: bool = False
) -> Callable[[], ImageSource | None]:
    """Return what gives an image again, without keeping pixels in memory.

    A path or an address is kept, an array or Pillow image by a weak reference.
    """
    from PIL import Image

    from mien.core.images import is_data_uri, load_image

    if allow_private and isinstance(image, str) and not is_data_uri(image):
        return lambda: Image.fromarray(load_image(image, allow_private=True))

    if isinstance(image, str | os.PathLike):
        return (lambda: None) if is_data_uri(image) else (lambda: image)
    try:
        return weakref.ref(image)
    except TypeError:  # bytes
        return lambda: None


def _pixels_of(
    result: Result, image: ImageSource | None, color: str | None
) -> npt.NDArray[np.uint8]:
    from mien.core.images import load_image

    if result.error is not None:
        raise UsageError(f"there is no picture to draw on: {result.error}")
    if image is None:
        image, known_color = result.recall_image()
        color = color or known_color
    if image is None:
        example = "annotate(image)" if result.frame is None else "annotate(frame)"
        raise UsageError(
            f"the picture of this result is not kept: give it once more, as in {example}"
        )
    pixels = load_image(image, color=color)
    if pixels.shape[:2] != (result.height, result.width):
        raise UsageError(
            f"expected the picture that was analyzed, {result.width}x{result.height}, "
            f"got one of {pixels.shape[1]}x{pixels.shape[0]}"
        )
    return pixels


# ---------------------------------------------------------------- HTML
# Styles are inline, since notebooks strip style sheets, and inherit the notebook's text colour, so
# they fit light and dark themes.
_CAPTION = "opacity:.7;padding-bottom:6px;overflow-wrap:anywhere"
_CARD = "display:flex;gap:10px;padding:8px 0;border-top:1px solid rgba(128,128,128,.3)"
_ROWS = "display:grid;grid-template-columns:auto 120px auto;gap:1px 8px;align-items:center"
_TRACK = "height:7px;border-radius:4px;background:rgba(128,128,128,.22);overflow:hidden"


def _html(result: Result) -> str:
    try:
        pixels = _pixels_of(result, None, None)
    except MienError:  # show the faces without the picture
        pixels = None
    picture = ""
    if pixels is not None:
        drawn = _small_picture(result, pixels)
        alt = html.escape(f"{result.source or 'picture'} with its faces", quote=True)
        picture = (
            f'<img alt="{alt}" src="{_data_uri(drawn)}" '
            'style="max-width:min(100%,480px);height:auto;border-radius:6px">'
        )
    cards = "".join(_card(face, pixels) for face in result.faces[:_HTML_FACES])
    if left := len(result.faces) - _HTML_FACES:
        cards += f"<div>and {left} more</div>" if left > 0 else ""
    message = {"no_face": "no face found"}.get(result.status, result.error or "")
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:8px 20px;align-items:flex-start;'
        f'font:13px/1.35 system-ui,sans-serif">{picture}<div style="flex:1 1 260px">'
        f'<div style="{_CAPTION}">{html.escape(_caption(result))}</div>'
        f"{html.escape(message)}{cards}</div></div>"
    )


def _small_picture(result: Result, pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return the annotated picture at the size it is shown at, where labels are legible."""
    from PIL import Image

    from mien.core.annotate import annotate

    picture = Image.fromarray(pixels)
    scale = _HTML_SIDE / max(picture.size)
    if scale >= 1:
        return annotate(picture, result, charts=False)
    picture.thumbnail((_HTML_SIDE, _HTML_SIDE))
    faces = [replace(face, box=_scaled(face.box, scale)) for face in result.faces]
    return annotate(picture, faces, charts=False)


def _scaled(box: Box, scale: float) -> Box:
    sides = (max(1, round(box.w * scale)), max(1, round(box.h * scale)))
    return replace(box, x=round(box.x * scale), y=round(box.y * scale), w=sides[0], h=sides[1])


def _caption(result: Result) -> str:
    parts = [abbreviate(result.source)] if result.source else []
    if result.time_s is not None:
        parts.append(f"{result.time_s:.2f} s")
    if result.width:
        parts.append(f"{result.width}x{result.height}")
    parts.append(f"{result.model.name} {result.model.version}".strip())
    return " · ".join(parts)


def _card(face: Face, pixels: npt.NDArray[np.uint8] | None) -> str:
    from mien.core.annotate import class_colors, face_caption

    colors = class_colors(face.scores)
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
        thumb = f'<img alt="" src="{_thumb(face, pixels)}" style="{side};border-radius:4px">'
    number = f"#{face.track_id} " if face.track_id is not None else ""
    flags = ", ".join(flag.replace("_", " ") for flag in face.quality.flags)
    note = f' <span style="opacity:.7">{flags}</span>' if flags else ""
    return (
        f'<div style="{_CARD}">{thumb}<div><div style="padding-bottom:3px">'
        f"<b>{html.escape(number + face_caption(face))}</b>{note}</div>"
        f'<div style="{_ROWS}">{"".join(rows)}</div></div></div>'
    )


def _thumb(face: Face, pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image, ImageOps

    picture = Image.fromarray(pixels).crop(face.box.xyxy)
    return _data_uri(ImageOps.fit(picture, (2 * _THUMB_SIDE, 2 * _THUMB_SIDE)))


def _data_uri(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=88)  # a notebook keeps it: a PNG is ten times the size
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def results_html(results: Sequence[Result]) -> str:
    """Return what a notebook shows of several results."""
    gap = '<div style="height:18px"></div>'
    left = len(results) - _HTML_RESULTS
    more = f"{gap}<div>and {left:,} more images</div>" if left > 0 else ""
    return gap.join(_html(result) for result in results[:_HTML_RESULTS]) + more


# ---------------------------------------------------------------- Matplotlib and pandas
def load_pyplot() -> Any:
    """Return ``matplotlib.pyplot``; raises MissingExtra if Matplotlib is not installed."""
    with needs_extra(_EXTRA, "a chart"):
        from matplotlib import pyplot

    return pyplot


def _plot(result: Result, pixels: npt.NDArray[np.uint8]) -> Axes:
    from mien.core.annotate import annotate, class_colors, face_caption

    pyplot = load_pyplot()
    faces = result.faces[:_PLOT_FACES]
    figure = pyplot.figure(figsize=(9 if faces else 6, 4.5), layout="constrained")
    grid = figure.add_gridspec(
        max(1, len(faces)), 2 if faces else 1, width_ratios=[2, 1][: 1 + bool(faces)]
    )
    picture: Axes = figure.add_subplot(grid[:, 0])
    picture.imshow(annotate(pixels, result, charts=False))
    picture.set_axis_off()
    picture.set_title(_caption(result), fontsize=9)
    for row, face in enumerate(faces):
        colors = class_colors(face.scores)
        names = list(face.scores)
        chart = figure.add_subplot(grid[row, 1])
        fills = [tuple(part / 255 for part in colors[name][:3]) for name in names]
        chart.barh(names, list(face.scores.values()), color=fills)
        chart.invert_yaxis()
        chart.set_xlim(0, 1)
        chart.set_title(face_caption(face), fontsize=9)
        chart.tick_params(labelsize=7)
        chart.spines[["top", "right"]].set_visible(False)
    return picture


def data_frame(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], types: Mapping[str, str]
) -> pd.DataFrame:
    """Return rows as a pandas data frame; columns without a type hold float64.

    Raises:
        MissingExtra: if pandas is not installed.
    """
    with needs_extra(_EXTRA, "a data frame"):
        import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: types.get(name, "float64") for name in columns})
