"""Charts of videos: scores over time, one lane per person, and several videos by mean scores."""

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
from mien.video.frames import format_time
from mien.video.summary import Person

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Colors = Mapping[str, tuple[int, ...]]


# ---------------------------------------------------------------- history
_MAX_BINS = 40_000
_FIRST_WIDTH_S = 1 / 64


@dataclass
class _Bin:
    """Sum and number of the scores in one bin of time."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, scores: Mapping[str, float], count: int = 1) -> None:
        for name, score in scores.items():
            self.sums[name] = self.sums.get(name, 0.0) + score
        self.count += count


class ScoreHistory:
    """Mean scores of each person in bins of time, which double in width when there are too many."""

    def __init__(self, *, max_bins: int = _MAX_BINS) -> None:
        """Start a video; ``max_bins`` limits the bins of all people together."""
        self.width_s = _FIRST_WIDTH_S  # of the bins
        self.start_s: float | None = None  # time of the first frame
        self.end_s = 0.0  # time of the last frame
        self._max_bins = max_bins
        self._count = 0
        self._people: dict[int, dict[int, _Bin]] = {}
        self._steps: deque[float] = deque(maxlen=256)

    def add(self, result: Result) -> None:
        """Add the result of the next frame; results without a frame are ignored."""
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
            index = int(result.time_s / self.width_s)
            if index not in bins:
                bins[index] = _Bin()
                self._count += 1
            bins[index].add(face.smoothed.scores)
        while self._count > self._max_bins and self._merge_pairs():
            pass

    @property
    def step_s(self) -> float:
        """Median time between two analyzed frames, in seconds."""
        return statistics.median(self._steps) if self._steps else 0.0

    @property
    def gap_s(self) -> float:
        """Time between two bins of a person from which on they count as absent, in seconds."""
        return 2.5 * max(self.step_s, self.width_s)

    def people(self) -> list[int]:
        """Return all track ids, in order."""
        return sorted(self._people)

    def scores(self, track_id: int) -> dict[float, dict[str, float]]:
        """Return a person's mean scores by the start of each bin in seconds, in order."""
        return {
            index * self.width_s: {name: total / bin_.count for name, total in bin_.sums.items()}
            for index, bin_ in sorted(self._people[track_id].items())
        }

    def _merge_pairs(self) -> bool:
        """Merge bins in pairs; return True if that left fewer."""
        before = self._count
        self.width_s *= 2
        self._count = 0
        for track_id, bins in self._people.items():
            merged: dict[int, _Bin] = {}
            for index, bin_ in bins.items():
                merged.setdefault(index // 2, _Bin()).add(bin_.sums, bin_.count)
            self._people[track_id] = merged
            self._count += len(merged)
        return self._count < before


PORTRAIT_PX = 84
_MAX_PORTRAITS = 256


class Portraits:
    """The best picture of each person so far, by track id in ``pictures``."""

    def __init__(self) -> None:
        self.pictures: dict[int, Image.Image] = {}
        self._quality: dict[int, float] = {}

    def add_faces(self, pixels: npt.NDArray[np.uint8], result: Result) -> None:
        """Add the faces of a frame, uint8 (H, W, 3); large and confident ones are better."""
        for face in result.faces:
            if face.track_id is not None:
                quality = face.face_confidence * face.quality.size_px
                self.add(pixels, face.box, face.track_id, quality)

    def add(self, pixels: npt.NDArray[np.uint8], box: Box, track_id: int, quality: float) -> None:
        """Add a person's face in a frame, uint8 (H, W, 3), if it is better than before."""
        if track_id not in self._quality:
            if len(self.pictures) >= _MAX_PORTRAITS:
                return
        elif quality <= 1.2 * self._quality[track_id]:
            return
        left, top, right, bottom = box.xyxy
        face = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
        side = min(face.size)
        x, y = (face.width - side) // 2, (face.height - side) // 2
        square = face.crop((x, y, x + side, y + side))
        self.pictures[track_id] = square.resize((PORTRAIT_PX, PORTRAIT_PX))
        self._quality[track_id] = quality


# ---------------------------------------------------------------- timeline
MAX_LANES = 12
_WIDTH = 1600
_LEFT, _RIGHT = 210, 40
_TOP, _BOTTOM = 104, 60
_LANE, _STRIP, _GAP = 92, 26, 26
_INK, _FAINT, _ABSENT = (28, 33, 40), (128, 136, 146), (240, 242, 244)
_TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_MAX_TICKS = 12


@dataclass(frozen=True)
class _Axis:
    """Mapping between times and columns of the picture."""

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
        step = next((step for step in _TICKS_S if span / step <= _MAX_TICKS), _TICKS_S[-1])
        first = int(np.ceil(self.start_s / step - 1e-9))
        last = int(np.floor(self.end_s / step + 1e-9))
        return [number * step for number in range(first, last + 1)]


def draw_timeline(
    history: ScoreHistory,
    people: Sequence[Person],
    *,
    title: str,
    labels: Sequence[str],
    portraits: Mapping[int, Image.Image] | None = None,
) -> Image.Image:
    """Draw the smoothed scores of each person over time, and their episodes below, in RGB.

    Only the `MAX_LANES` people seen longest are drawn. ``portraits``, by track id, are
    `PORTRAIT_PX` wide and high.
    """
    longest = sorted(people, key=lambda person: -person.seconds)[:MAX_LANES]
    shown = sorted(longest, key=lambda person: person.track_id)
    start = history.start_s or 0.0
    axis = _Axis(start, max(history.end_s + history.step_s, start + 1e-3))
    lanes = max(1, len(shown)) * (_LANE + _STRIP + _GAP)
    picture = Image.new("RGB", (_WIDTH, _TOP + lanes + _BOTTOM), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    colors = class_colors(labels)
    _draw_header(draw, title, colors, len(people) - len(shown))
    _draw_axis(draw, axis, _TOP, _TOP + lanes - _GAP)
    for row, person in enumerate(shown):
        top = _TOP + row * (_LANE + _STRIP + _GAP)
        _draw_person(picture, draw, person, top, (portraits or {}).get(person.track_id))
        _draw_scores(draw, axis, history, person.track_id, colors, top)
        _draw_episodes(draw, axis, person, colors, top + _LANE)
    if not shown:
        text = "nobody was seen"
        draw.text((_LEFT, _TOP), text, fill=_FAINT, font=find_font(text, 22))
    return picture


def _draw_header(draw: ImageDraw.ImageDraw, title: str, colors: _Colors, left_out: int) -> None:
    font = find_font(title, 28)
    title = _truncate(draw, title, font, _WIDTH - 24 - _RIGHT)
    draw.text((24, 20), title, fill=_INK, font=font)
    x = _draw_legend(draw, colors, _LEFT, 74)
    others = f"   {left_out} people seen more briefly are left out" if left_out else ""
    draw.text((x, 74), others, fill=_FAINT, font=find_font("".join(colors), 18), anchor="lm")


def _draw_legend(draw: ImageDraw.ImageDraw, colors: _Colors, x: float, y: int) -> float:
    """Draw the labels with their colours; return the end of the last one."""
    font = find_font("".join(colors), 18)
    for label, color in colors.items():
        draw.rounded_rectangle((x, y - 8, x + 16, y + 8), 3, fill=color)
        draw.text((x + 24, y), label, fill=_INK, font=font, anchor="lm")
        x += 52 + draw.textlength(label, font)
    return x


def _truncate(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """Return the end of a text that fits a width, after an ellipsis."""
    while len(text) > 4 and draw.textlength(text, font) > width:
        text = "…" + text[2:]
    return text


def _draw_fitting(
    draw: ImageDraw.ImageDraw,
    texts: Sequence[str],
    at: tuple[float, float],
    *,
    room: float,
    font: Font,
) -> None:
    """Draw the first of some texts that fits the room, if any."""
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


def _draw_person(
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
    history: ScoreHistory,
    track_id: int,
    colors: _Colors,
    top: int,
) -> None:
    """Draw stacked scores, one column of pixels at a time; blank where there is no face."""
    scores = history.scores(track_id)
    starts = list(scores)
    # A bin lasts until the next one; before a gap, for the usual step.
    step = max(history.step_s, history.width_s)
    ends = [
        following if following - start <= history.gap_s else start + step
        for start, following in zip(starts, [*starts[1:], float("inf")], strict=True)
    ]
    draw.rectangle((_LEFT, top, _WIDTH - _RIGHT - 1, top + _LANE + _STRIP - 1), fill=_ABSENT)
    for x in range(_LEFT, _WIDTH - _RIGHT):
        time_s = axis.time_s(x + 0.5)
        index = bisect_right(starts, time_s) - 1
        if index < 0 or time_s >= ends[index]:
            continue
        high, means = 0.0, scores[starts[index]]
        for label, color in colors.items():
            low, high = high, high + means.get(label, 0.0)
            y = (top + round(_LANE * low), top + round(_LANE * high) - 1)
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
        at = (left + 7, top + _STRIP / 2 + 1)
        _draw_fitting(draw, texts, at, room=right - left - 12, font=font)


# ---------------------------------------------------------------- Matplotlib
def plot_history(history: ScoreHistory, *, title: str, labels: Sequence[str]) -> list[Axes]:
    """Plot the stacked scores of each person over time; one empty chart without anyone.

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
    for chart, track_id in zip(charts, people, strict=False):
        times, values = _with_gaps(history.scores(track_id), labels, history.gap_s)
        chart.stackplot(times, values, labels=labels, colors=colors)
        chart.set_ylim(0, 1)
        chart.set_ylabel(f"#{track_id}")
    charts[-1].set_xlabel("seconds")
    figure.suptitle(title, fontsize=10)
    if people:
        handles, names = charts[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", fontsize=8)
    return charts


def _with_gaps(
    scores: Mapping[float, Mapping[str, float]], labels: Sequence[str], gap_s: float
) -> tuple[list[float], npt.NDArray[np.float64]]:
    """Return times, and scores (labels, times) with zeros where the person was absent."""
    times: list[float] = []
    rows: list[list[float]] = []
    for time_s, means in scores.items():
        if times and time_s - times[-1] > gap_s:
            times += [times[-1], time_s]
            rows += [[0.0] * len(labels)] * 2
        times.append(time_s)
        rows.append([means.get(label, 0.0) for label in labels])
    return times, np.asarray(rows, np.float64).T


# ---------------------------------------------------------------- comparison of videos
_ROWS_TOP, _ROW, _BAR, _ROWS_BOTTOM = 128, 76, 44, 52
_MEANS_LEFT, _MEANS_RIGHT = 340, 1180
_VALENCE_LEFT, _VALENCE_RIGHT = 1240, 1560
_NOTE, _RULE = (110, 118, 128), (206, 210, 216)


def draw_comparison(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Image.Image:
    """Draw a table that compares videos (see `comparison_columns`), RGB, 1600 pixels wide."""
    bottom = _ROWS_TOP + _ROW * len(rows)
    picture = Image.new("RGB", (_WIDTH, bottom + _ROWS_BOTTOM), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    colors = class_colors(labels)
    _draw_comparison_header(draw, colors, bottom)
    for number, row in enumerate(rows):
        _draw_video(draw, row, labels, colors, _ROWS_TOP + _ROW * number)
    return picture


def _draw_comparison_header(draw: ImageDraw.ImageDraw, colors: _Colors, bottom: int) -> None:
    _draw_legend(draw, colors, _MEANS_LEFT, 32)
    draw.text((_MEANS_LEFT, 84), "mean scores", fill=_NOTE, font=find_font("m", 18), anchor="lm")
    draw.text((_VALENCE_LEFT, 84), "valence", fill=_NOTE, font=find_font("v", 18), anchor="lm")
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = _valence_x(value)
        draw.line((x, _ROWS_TOP - 12, x, bottom), fill=_INK if value == 0 else _RULE)
        text = f"{value:g}"
        draw.text((x, bottom + 8), text, fill=_NOTE, font=find_font(text, 16), anchor="ma")


def _draw_video(
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    labels: Sequence[str],
    colors: _Colors,
    top: int,
) -> None:
    name = str(row["source"])
    font = find_font(name, 22)
    name = _truncate(draw, name, font, _MEANS_LEFT - 24 - 20)
    draw.text((24, top + 12), name, fill=_INK, font=font, anchor="lm")
    people = "1 person" if row["people"] == 1 else f"{row['people']} people"
    seen = f"{people}, {format_time(row['seconds'])}" if row["people"] else "no face read"
    draw.text((24, top + 38), seen, fill=_NOTE, font=find_font(seen, 17), anchor="lm")
    draw.rectangle((_MEANS_LEFT, top, _MEANS_RIGHT - 1, top + _BAR - 1), fill=_ABSENT)
    if not row["people"]:
        return
    total = 0.0
    small = find_font("".join(labels), 17)
    for label, column in score_columns(labels).items():
        left = _MEANS_LEFT + round((_MEANS_RIGHT - _MEANS_LEFT) * total)
        total += row[column]
        right = _MEANS_LEFT + round((_MEANS_RIGHT - _MEANS_LEFT) * min(1.0, total))
        if right > left:
            draw.rectangle((left, top, right - 1, top + _BAR - 1), fill=colors[label])
        texts = (f"{label} {row[column]:.0%}", f"{row[column]:.0%}")
        at = (left + 7, top + _BAR / 2)
        _draw_fitting(draw, texts, at, room=right - left - 14, font=small)
    if row["valence"] is not None:
        _draw_valence(draw, row["valence"], top + _BAR // 2)


def _draw_valence(draw: ImageDraw.ImageDraw, value: float, middle: int) -> None:
    x = _valence_x(value)
    draw.line((_valence_x(0.0), middle, x, middle), fill=_INK, width=4)
    draw.ellipse((x - 8, middle - 8, x + 8, middle + 8), fill=_INK)
    text = f"{value:+.2f}"
    font = find_font(text, 17)
    text_x, anchor = (x + 16, "lm") if value <= 0.5 else (x - 16, "rm")
    at = (text_x, middle - 18)
    draw.rectangle(draw.textbbox(at, text, font, anchor=anchor), fill=(255, 255, 255))
    draw.text(at, text, fill=_INK, font=font, anchor=anchor)


def _valence_x(value: float) -> float:
    return _VALENCE_LEFT + (_VALENCE_RIGHT - _VALENCE_LEFT) * (value + 1.0) / 2.0
