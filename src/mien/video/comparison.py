"""Several videos in one picture: each one's mean scores and valence, a lane for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from mien.core.annotate import class_colors, font_for
from mien.core.results import score_columns
from mien.video.times import format_time

_WIDTH, _TOP, _LANE, _BAR, _BOTTOM = 1600, 128, 76, 44, 52
_NAME, _LEFT, _RIGHT = 24, 340, 1180
_AXIS_LEFT, _AXIS_RIGHT = 1240, 1560
_INK, _FAINT, _ABSENT, _RULE = (28, 33, 40), (110, 118, 128), (240, 242, 244), (206, 210, 216)


def draw_comparison(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Image.Image:
    """Draw the rows of a table that compares videos (`mien.video.events.comparison_columns`).

    Returns:
        A Pillow image in RGB, 1600 pixels wide.
    """
    bottom = _TOP + _LANE * len(rows)
    picture = Image.new("RGB", (_WIDTH, bottom + _BOTTOM), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    colors = class_colors(labels)
    _draw_head(draw, colors, bottom)
    for number, row in enumerate(rows):
        _draw_lane(draw, row, labels, colors, _TOP + _LANE * number)
    return picture


def _draw_head(
    draw: ImageDraw.ImageDraw, colors: Mapping[str, tuple[int, ...]], bottom: int
) -> None:
    font = font_for("".join(colors), 18)
    x = float(_LEFT)
    for label, color in colors.items():
        draw.rounded_rectangle((x, 24, x + 16, 40), 3, fill=color)
        draw.text((x + 24, 32), label, fill=_INK, font=font, anchor="lm")
        x += 52 + draw.textlength(label, font)
    draw.text((_LEFT, 84), "mean scores", fill=_FAINT, font=font_for("m", 18), anchor="lm")
    draw.text((_AXIS_LEFT, 84), "valence", fill=_FAINT, font=font_for("v", 18), anchor="lm")
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = _valence_x(value)
        draw.line((x, _TOP - 12, x, bottom), fill=_INK if value == 0 else _RULE)
        text = f"{value:g}".replace("-", "\N{MINUS SIGN}")
        draw.text((x, bottom + 8), text, fill=_FAINT, font=font_for(text, 16), anchor="ma")


def _draw_lane(
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    labels: Sequence[str],
    colors: Mapping[str, tuple[int, ...]],
    top: int,
) -> None:
    name = str(row["source"])
    font = font_for(name, 22)
    while len(name) > 4 and draw.textlength(name, font) > _LEFT - _NAME - 20:
        name = "…" + name[2:]
    draw.text((_NAME, top + 12), name, fill=_INK, font=font, anchor="lm")
    people = "1 person" if row["people"] == 1 else f"{row['people']} people"
    seen = f"{people}, {format_time(row['seconds'])}" if row["people"] else "no face"
    draw.text((_NAME, top + 38), seen, fill=_FAINT, font=font_for(seen, 17), anchor="lm")
    draw.rectangle((_LEFT, top, _RIGHT - 1, top + _BAR - 1), fill=_ABSENT)
    if not row["people"]:
        return
    pile = 0.0
    small = font_for("".join(labels), 17)
    for label, column in score_columns(labels).items():
        left = _LEFT + round((_RIGHT - _LEFT) * pile)
        pile += row[column]
        right = _LEFT + round((_RIGHT - _LEFT) * min(1.0, pile))
        if right > left:
            draw.rectangle((left, top, right - 1, top + _BAR - 1), fill=colors[label])
        for text in (f"{label} {row[column]:.0%}", f"{row[column]:.0%}"):
            if draw.textlength(text, small) + 14 <= right - left:
                draw.text((left + 7, top + _BAR / 2), text, fill=_INK, font=small, anchor="lm")
                break
    if row["valence"] is not None:
        _draw_valence(draw, row["valence"], top + _BAR // 2)


def _draw_valence(draw: ImageDraw.ImageDraw, value: float, middle: int) -> None:
    x = _valence_x(value)
    draw.line((_valence_x(0.0), middle, x, middle), fill=_INK, width=4)
    draw.ellipse((x - 8, middle - 8, x + 8, middle + 8), fill=_INK)
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    side = (x + 16, "lm") if value <= 0.5 else (x - 16, "rm")
    spot = draw.textbbox((side[0], middle - 18), text, font_for(text, 17), anchor=side[1])
    draw.rectangle(spot, fill=(255, 255, 255))
    draw.text((side[0], middle - 18), text, fill=_INK, font=font_for(text, 17), anchor=side[1])


def _valence_x(value: float) -> float:
    return _AXIS_LEFT + (_AXIS_RIGHT - _AXIS_LEFT) * (value + 1.0) / 2.0
