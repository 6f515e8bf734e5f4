"""Pictures of videos: one over time, a lane for each person; several by their mean scores."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mien.core.display import Font, class_colors, find_font, load_pyplot
from mien.core.results import Box, Result, score_columns
from mien.video.summary import Person
from mien.video.times import format_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PORTRAIT_PX = 84
"""Side of a person's small picture."""

MAX_LANES = 12
"""So many people get a lane: those seen longest."""

_WIDTH = 1600
_LEFT, _RIGHT = 210, 40
_TOP, _BOTTOM = 104, 60
_LANE, _STRIP, _GAP = 92, 26, 26
_INK, _FAINT, _ABSENT = (28, 33, 40), (128, 136, 146), (240, 242, 244)
_TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_MAX_TICKS = 12
_PORTRAITS = 256

Picture = npt.NDArray[np.uint8]
_Colors = Mapping[str, tuple[int, ...]]


# ---------------------------------------------------------------- what is kept of a video
_BINS = 40_000
_FIRST_WIDTH_S = 1 / 64


@dataclass
class _Bin:
    """The sum of the scores in one bin of time, and their number."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, scores: dict[str, float], count: int = 1) -> None:
        for name, score in scores.items():
            self.sums[name] = self.sums.get(name, 0.0) + score
        self.count += count


class History:
    """Each person's mean scores in bins of time, whose width doubles when they are too many."""

    def __init__(self, *, bins: int = _BINS) -> None:
        """Take how many bins are kept, of all people together."""
        self.width_s = _FIRST_WIDTH_S
        self.start_s: float | None = None
        self.end_s = 0.0
        self._max_bins = bins
        self._count = 0
        self._people: dict[int, dict[int, _Bin]] = {}
        self._steps: deque[float] = deque(maxlen=256)

    def add(self, result: Result) -> None:
        """Take the result of the next frame; one that is of no frame changes nothing."""
        if result.time_s is None or result.error is not None:
            return
        if self.start_s is None:
            self.start_s = result.time_s
        else:
            self._steps.append(result.time_s - self.end_s)
        self.end_s = result.time_s
        for face in result.faces:
            if face.track_id is None or face.smoothed is None:
                continue
            bins = self._people.setdefault(face.track_id, {})
            place = int(result.time_s / self.width_s)
            if place not in bins:
                bins[place] = _Bin()
                self._count += 1
            bins[place].add(dict(face.smoothed.scores))
        while self._count > self._max_bins and self._halve():
            pass

    @property
    def step_s(self) -> float:
        """The usual time between two frames that are looked at, in seconds."""
        return statistics.median(self._steps) if self._steps else 0.0

    def people(self) -> list[int]:
        """Return the numbers of everybody, in order."""
        return sorted(self._people)

    def scores(self, track_id: int) -> dict[float, dict[str, float]]:
        """Return a person's mean scores by the moment at which each bin begins, in order."""
        return {
            place * self.width_s: {name: total / each.count for name, total in each.sums.items()}
            for place, each in sorted(self._people[track_id].items())
        }

    def _halve(self) -> bool:
        """Merge bins in pairs; say whether that left fewer."""
        before = self._count
        self.width_s *= 2
        self._count = 0
        for number, bins in self._people.items():
            merged: dict[int, _Bin] = {}
            for place, each in bins.items():
                merged.setdefault(place // 2, _Bin()).add(each.sums, each.count)
            self._people[number] = merged
            self._count += len(merged)
        return self._count < before


class Portraits:
    """Keeps a small picture of each person: the best so far."""

    def __init__(self) -> None:
        """Start without any."""
        self.pictures: dict[int, Image.Image] = {}
        self._worth: dict[int, float] = {}

    def add_faces(self, pixels: Picture, result: Result) -> None:
        """Take the faces of a frame, uint8 (H, W, 3); the larger and surer, the better."""
        for face in result.faces:
            if face.track_id is not None:
                worth = face.face_confidence * face.quality.size_px
                self.add(pixels, face.box, face.track_id, worth)

    def add(self, pixels: Picture, box: Box, track_id: int, worth: float) -> None:
        """Take a person's face in a frame, uint8 (H, W, 3), if it is worth more than before."""
        is_new = track_id not in self._worth
        if is_new and len(self.pictures) >= _PORTRAITS:
            return
        if not is_new and worth <= 1.2 * self._worth[track_id]:
            return
        left, top, right, bottom = box.xyxy
        face = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
        side = min(face.size)
        x, y = (face.width - side) // 2, (face.height - side) // 2
        square = face.crop((x, y, x + side, y + side))
        self.pictures[track_id] = square.resize((PORTRAIT_PX, PORTRAIT_PX))
        self._worth[track_id] = worth


# ---------------------------------------------------------------- drawing
@dataclass(frozen=True)
class _Axis:
    """Where moments lie on the picture."""

    start_s: float
    end_s: float

    def x(self, time_s: float) -> float:
        share = (time_s - self.start_s) / (self.end_s - self.start_s)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def time_s(self, x: float) -> float:
        share = (x - _LEFT) / (_WIDTH - _LEFT - _RIGHT)
        return self.start_s + share * (self.end_s - self.start_s)

    def ticks(self) -> list[float]:
        span = self.end_s - self.start_s
        step = next((each for each in _TICKS_S if span / each <= _MAX_TICKS), _TICKS_S[-1])
        first = int(np.ceil(self.start_s / step - 1e-9))
        last = int(np.floor(self.end_s / step + 1e-9))
        return [number * step for number in range(first, last + 1)]


def draw_timeline(
    history: History,
    people: Sequence[Person],
    *,
    title: str,
    labels: Sequence[str],
    portraits: Mapping[int, Image.Image] | None = None,
) -> Image.Image:
    """Draw the smoothed scores of each person over time, and the episodes below them.

    Args:
        history: of the scores.
        people: with their episodes; the `MAX_LANES` who are seen longest are drawn.
        title: what the picture is of.
        labels: the model's emotions, in its order.
        portraits: a picture, `PORTRAIT_PX` wide and high, of some or all.

    Returns:
        A Pillow image in RGB.
    """
    longest = sorted(people, key=lambda person: -person.seconds)[:MAX_LANES]
    shown = sorted(longest, key=lambda person: person.track_id)
    start = history.start_s or 0.0
    axis = _Axis(start, max(history.end_s + history.step_s, start + 1e-3))
    lanes = max(1, len(shown)) * (_LANE + _STRIP + _GAP)
    picture = Image.new("RGB", (_WIDTH, _TOP + lanes + _BOTTOM), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    colors = class_colors(labels)
    _draw_head(draw, title, colors, len(people) - len(shown))
    _draw_axis(draw, axis, _TOP, _TOP + lanes - _GAP)
    for row, person in enumerate(shown):
        top = _TOP + row * (_LANE + _STRIP + _GAP)
        _draw_name(picture, draw, person, top, (portraits or {}).get(person.track_id))
        _draw_scores(draw, axis, history, person.track_id, colors, top)
        _draw_episodes(draw, axis, person, colors, top + _LANE)
    if not shown:
        text = "nobody was seen"
        draw.text((_LEFT, _TOP), text, fill=_FAINT, font=find_font(text, 22))
    return picture


def _draw_head(draw: ImageDraw.ImageDraw, title: str, colors: _Colors, left_out: int) -> None:
    others = f"   {left_out} seen more briefly are left out" if left_out else ""
    font = find_font(title, 28)
    title = _elided(draw, title, font, _WIDTH - 24 - _RIGHT)
    draw.text((24, 20), title, fill=_INK, font=font)
    x = _draw_legend(draw, colors, _LEFT, 74)
    font = find_font("".join(colors), 18)
    draw.text((x, 74), others, fill=_FAINT, font=font, anchor="lm")


def _draw_legend(draw: ImageDraw.ImageDraw, colors: _Colors, x: float, y: int) -> float:
    """Draw the labels with their colours; return where they end."""
    font = find_font("".join(colors), 18)
    for label, color in colors.items():
        draw.rounded_rectangle((x, y - 8, x + 16, y + 8), 3, fill=color)
        draw.text((x + 24, y), label, fill=_INK, font=font, anchor="lm")
        x += 52 + draw.textlength(label, font)
    return x


def _elided(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """Return the end of a text that fits into a width."""
    while len(text) > 4 and draw.textlength(text, font) > width:
        text = "…" + text[2:]
    return text


def _write_fitting(
    draw: ImageDraw.ImageDraw,
    texts: Sequence[str],
    at: tuple[float, float],
    *,
    room: float,
    font: Font,
) -> None:
    """Write the first of the texts that fits into the room, or none."""
    for text in texts:
        if draw.textlength(text, font) <= room:
            draw.text(at, text, fill=_INK, font=font, anchor="lm")
            return


def _draw_axis(draw: ImageDraw.ImageDraw, axis: _Axis, top: int, bottom: int) -> None:
    ticks = axis.ticks()
    digits = 1 if len(ticks) > 1 and ticks[1] - ticks[0] < 1 else 0
    for tick in ticks:
        x = axis.x(tick)
        draw.line((x, top, x, bottom + 10), fill=(222, 225, 229))
        text = format_time(tick, digits=digits)
        draw.text((x, bottom + 16), text, fill=_FAINT, font=find_font(text, 18), anchor="ma")


def _draw_name(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    person: Person,
    top: int,
    portrait: Image.Image | None,
) -> None:
    if portrait is not None:
        picture.paste(portrait, (24, top + (_LANE + _STRIP - portrait.height) // 2))
    x = 24 + PORTRAIT_PX + 14
    name, seconds = f"#{person.track_id}", f"{person.seconds:.1f} s"
    draw.text((x, top + 34), name, fill=_INK, font=find_font(name, 24))
    draw.text((x, top + 66), seconds, fill=_FAINT, font=find_font(seconds, 18))


def _draw_scores(
    draw: ImageDraw.ImageDraw,
    axis: _Axis,
    history: History,
    track_id: int,
    colors: _Colors,
    top: int,
) -> None:
    """Draw the stacked scores, a column of pixels at a time; blank where there is no face."""
    scores = history.scores(track_id)
    moments = list(scores)
    # A frame lasts until the next one, before a gap for the usual step.
    step, gap = max(history.step_s, history.width_s), 2.5 * max(history.step_s, history.width_s)
    ends = [
        after if after - moment <= gap else moment + step
        for moment, after in zip(moments, [*moments[1:], float("inf")], strict=True)
    ]
    draw.rectangle((_LEFT, top, _WIDTH - _RIGHT - 1, top + _LANE + _STRIP - 1), fill=_ABSENT)
    for x in range(_LEFT, _WIDTH - _RIGHT):
        time_s = axis.time_s(x + 0.5)
        place = bisect_right(moments, time_s) - 1
        if place < 0 or time_s >= ends[place]:
            continue
        pile, found = 0.0, scores[moments[place]]
        for label, color in colors.items():
            low, pile = pile, pile + found.get(label, 0.0)
            y = (top + round(_LANE * low), top + round(_LANE * pile) - 1)
            if y[1] >= y[0]:
                draw.line((x, y[0], x, y[1]), fill=color)


def _draw_episodes(
    draw: ImageDraw.ImageDraw, axis: _Axis, person: Person, colors: _Colors, top: int
) -> None:
    font = find_font("".join(colors), 17)
    for episode in person.episodes:
        left, right = axis.x(episode.start_s), axis.x(episode.end_s)
        box = (round(left), top + 3, max(round(left), round(right) - 2), top + _STRIP - 1)
        draw.rectangle(box, fill=colors[episode.emotion])
        texts = (f"{episode.emotion} {episode.confidence:.0%}", episode.emotion)
        middle = (left + 7, top + _STRIP / 2 + 1)
        _write_fitting(draw, texts, middle, room=right - left - 12, font=font)


# ---------------------------------------------------------------- with Matplotlib
def plot_history(history: History, *, title: str, labels: Sequence[str]) -> list[Axes]:
    """Draw the smoothed scores of each person over time with Matplotlib.

    Args:
        history: of the scores.
        title: what they are of.
        labels: the model's emotions, in its order.

    Returns:
        Axes with stacked scores, one for each person; one empty one where there is nobody.

    Raises:
        MissingExtra: if Matplotlib is not installed.
    """
    pyplot = load_pyplot()
    people = history.people()
    rows = max(1, len(people))
    figure, grid = pyplot.subplots(
        rows, 1, sharex=True, squeeze=False, figsize=(9, 1 + 1.6 * rows), layout="constrained"
    )
    charts: list[Axes] = list(grid[:, 0])
    fills = class_colors(labels).values()
    colors = [(red / 255, green / 255, blue / 255) for red, green, blue, *_ in fills]
    gap_s = 2.5 * max(history.step_s, history.width_s)
    for chart, number in zip(charts, people, strict=False):
        times, values = _with_gaps(history.scores(number), labels, gap_s)
        chart.stackplot(times, values, labels=labels, colors=colors)
        chart.set_ylim(0, 1)
        chart.set_ylabel(f"#{number}")
    charts[-1].set_xlabel("seconds")
    figure.suptitle(title, fontsize=10)
    if people:
        handles, names = charts[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", fontsize=8)
    return charts


def _with_gaps(
    scores: Mapping[float, Mapping[str, float]], labels: Sequence[str], gap_s: float
) -> tuple[list[float], npt.NDArray[np.float64]]:
    """Return moments and scores (labels, moments), which are 0 where the person was away."""
    times: list[float] = []
    rows: list[list[float]] = []
    for time_s, found in scores.items():
        if times and time_s - times[-1] > gap_s:
            times += [times[-1], time_s]
            rows += [[0.0] * len(labels)] * 2
        times.append(time_s)
        rows.append([found.get(label, 0.0) for label in labels])
    return times, np.asarray(rows, np.float64).T


# ---------------------------------------------------------------- videos beside one another
_ROWS_TOP, _ROW, _BAR, _ROWS_BOTTOM = 128, 76, 44, 52
_MEANS_LEFT, _MEANS_RIGHT = 340, 1180
_AXIS_LEFT, _AXIS_RIGHT = 1240, 1560
_NOTE, _RULE = (110, 118, 128), (206, 210, 216)


def draw_comparison(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Image.Image:
    """Draw the rows of a table that compares videos (`mien.video.summary.comparison_columns`).

    Returns:
        A Pillow image in RGB, 1600 pixels wide.
    """
    bottom = _ROWS_TOP + _ROW * len(rows)
    picture = Image.new("RGB", (_WIDTH, bottom + _ROWS_BOTTOM), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    colors = class_colors(labels)
    _draw_comparison_head(draw, colors, bottom)
    for number, row in enumerate(rows):
        _draw_row(draw, row, labels, colors, _ROWS_TOP + _ROW * number)
    return picture


def _draw_comparison_head(draw: ImageDraw.ImageDraw, colors: _Colors, bottom: int) -> None:
    _draw_legend(draw, colors, _MEANS_LEFT, 32)
    draw.text((_MEANS_LEFT, 84), "mean scores", fill=_NOTE, font=find_font("m", 18), anchor="lm")
    draw.text((_AXIS_LEFT, 84), "valence", fill=_NOTE, font=find_font("v", 18), anchor="lm")
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = _valence_x(value)
        draw.line((x, _ROWS_TOP - 12, x, bottom), fill=_INK if value == 0 else _RULE)
        text = f"{value:g}".replace("-", "\N{MINUS SIGN}")
        draw.text((x, bottom + 8), text, fill=_NOTE, font=find_font(text, 16), anchor="ma")


def _draw_row(
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    labels: Sequence[str],
    colors: _Colors,
    top: int,
) -> None:
    name = str(row["source"])
    font = find_font(name, 22)
    name = _elided(draw, name, font, _MEANS_LEFT - 24 - 20)
    draw.text((24, top + 12), name, fill=_INK, font=font, anchor="lm")
    people = "1 person" if row["people"] == 1 else f"{row['people']} people"
    seen = f"{people}, {format_time(row['seconds'])}" if row["people"] else "no face read"
    draw.text((24, top + 38), seen, fill=_NOTE, font=find_font(seen, 17), anchor="lm")
    draw.rectangle((_MEANS_LEFT, top, _MEANS_RIGHT - 1, top + _BAR - 1), fill=_ABSENT)
    if not row["people"]:
        return
    pile = 0.0
    small = find_font("".join(labels), 17)
    for label, column in score_columns(labels).items():
        left = _MEANS_LEFT + round((_MEANS_RIGHT - _MEANS_LEFT) * pile)
        pile += row[column]
        right = _MEANS_LEFT + round((_MEANS_RIGHT - _MEANS_LEFT) * min(1.0, pile))
        if right > left:
            draw.rectangle((left, top, right - 1, top + _BAR - 1), fill=colors[label])
        texts = (f"{label} {row[column]:.0%}", f"{row[column]:.0%}")
        middle = (left + 7, top + _BAR / 2)
        _write_fitting(draw, texts, middle, room=right - left - 14, font=small)
    if row["valence"] is not None:
        _draw_valence(draw, row["valence"], top + _BAR // 2)


def _draw_valence(draw: ImageDraw.ImageDraw, value: float, middle: int) -> None:
    x = _valence_x(value)
    draw.line((_valence_x(0.0), middle, x, middle), fill=_INK, width=4)
    draw.ellipse((x - 8, middle - 8, x + 8, middle + 8), fill=_INK)
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    side = (x + 16, "lm") if value <= 0.5 else (x - 16, "rm")
    spot = draw.textbbox((side[0], middle - 18), text, find_font(text, 17), anchor=side[1])
    draw.rectangle(spot, fill=(255, 255, 255))
    draw.text((side[0], middle - 18), text, fill=_INK, font=find_font(text, 17), anchor=side[1])


def _valence_x(value: float) -> float:
    return _AXIS_LEFT + (_AXIS_RIGHT - _AXIS_LEFT) * (value + 1.0) / 2.0
