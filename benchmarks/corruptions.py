"""Accuracy of a model on corrupted, differently cropped or small faces.

    python benchmarks/corruptions.py --data archive --votes ferplus_votes.csv --model mien-b0 \
        --images 1000 --figure images/corruptions.png --update MODEL_CARD.md

On PublicTest: fifteen common corruptions at five strengths (common_corruptions.py), and faces that
are shifted in their crop, scaled, rotated, or of low resolution. One pass gives both readings of a
model: "people" is compared with the majority of FER+ votes for the seven emotions, "fer2013" with
FER-2013's labels. All conditions use the same images. Details: docs/evidence/corruptions.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from common_corruptions import CORRUPTIONS, STRENGTHS, Faces, scaled, shifted, sized, turned

from mien.core.errors import MienError, UsageError
from mien.core.manifest import INPUT_CONTRACT, load_manifest
from mien.core.models import find_model
from mien.core.progress import Progress
from mien.core.results import ModelInfo
from mien.data.dataset import Split
from mien.data.loading import load_split
from mien.data.votes import Votes, load_votes, with_majority
from mien.evaluation.figures import drawing, percent_axis
from mien.evaluation.metrics import Z_95, wilson_interval
from mien.evaluation.tables import (
    markdown_table,
    percent,
    percent_range,
    require_section,
    update_marked_section,
)
from mien.inference.onnx_model import ModelSession

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SECTION = "corruptions"
SPLIT = "val"  # PrivateTest is reserved for releases
BATCH_SIZE = 64
AGAINST = {"people": "the majority of FER+'s votes", "fer2013": "FER-2013's labels"}
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = "os^D"

Predicted: TypeAlias = npt.NDArray[np.int64]
Condition: TypeAlias = tuple[str, float]
"""Name and strength of a corruption, or name and value of an axis; or `PLAIN`."""

PLAIN: Condition = ("as they are", 0)


@dataclass(frozen=True)
class Axis:
    """One property of crops that is varied.

    Attributes:
        name: name in tables.
        title, label: title of the figure's panel and label of its x axis.
        change: function of faces, a value and a random generator.
        values: values to measure.
        neutral: value that changes nothing.
        form: format string of a value.
    """

    name: str
    title: str
    label: str
    change: Callable[[Faces, float, np.random.Generator], Faces]
    values: tuple[float, ...]
    neutral: float
    form: str

    @property
    def all_values(self) -> tuple[float, ...]:
        """The values and the neutral one, in order."""
        return tuple(sorted((*self.values, self.neutral)))


AXES: tuple[Axis, ...] = (
    Axis("shifted by", "shift", "share of the side", shifted, (0.05, 0.1, 0.15, 0.2), 0, "{:.0%}"),
    Axis("scaled by", "scale", "factor", scaled, (0.7, 0.8, 0.9, 1.1, 1.25, 1.5), 1, "{:g}"),
    Axis("rotated by", "rotation", "degrees", turned, (10, 20, 30, 40), 0, "{:g}°"),
    Axis("side, px", "size", "pixels a side", sized, (12, 16, 20, 24, 32, 64, 96), 48, "{:g}"),
)


@dataclass(frozen=True)
class Measured:
    """Correctness of a model's predictions under each condition.

    Attributes:
        model: name, version and hash of the model.
        of: number of images of the split.
        seed: random seed of the chosen images.
        right: for each reading and condition, bool (N,): whether each image with a label of that
            reading is predicted correctly.
    """

    model: ModelInfo
    of: int
    seed: int
    right: Mapping[str, Mapping[Condition, npt.NDArray[np.bool_]]]

    def accuracy(self, reading: str, condition: Condition) -> float:
        """Return the accuracy, 0-1."""
        return float(self.right[reading][condition].mean())

    def mean(self, reading: str) -> tuple[float, float]:
        """Return the mean accuracy over all corruptions and strengths, and half its 95 % interval.

        The interval is over images, as the 75 predictions for one image are not independent.
        """
        conditions = [
            (corruption.name, strength) for corruption in CORRUPTIONS for strength in STRENGTHS
        ]
        shares = np.mean([self.right[reading][condition] for condition in conditions], axis=0)
        return float(shares.mean()), float(Z_95 * shares.std() / sqrt(len(shares)))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write them and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="FER-2013, as in mien train")
    parser.add_argument("--votes", required=True, type=Path, help="FER+'s, as in mien train")
    parser.add_argument("--model", default="mien-b0")
    parser.add_argument("--images", type=int, help="number of images, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="write the figure as PNG")
    parser.add_argument("--update", nargs="+", type=Path, default=[], metavar="FILE")
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    try:
        require_section(args.update, SECTION)
        read, info, readings = open_model(args.model)
        split = load_split(args.data, SPLIT)
        chosen = choose(len(split), args.images, args.seed)
        labels = labels_of(split, load_votes(args.votes), chosen)
        predicted = read_all(read, split.images[chosen], args.seed)
        right = {name: compare(predicted, index, labels[name]) for index, name in readings}
        measured = Measured(info, len(split), args.seed, right)
        text = markdown(measured)
        print(text)
        if args.figure:
            draw(measured, args.figure)
        for path in args.update:
            update_marked_section(path, SECTION, text + picture_link(args.figure, path))
    except MienError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


# ---------------------------------------------------------------- measuring
def open_model(
    model: str,
) -> tuple[Callable[[Faces], Predicted], ModelInfo, tuple[tuple[int, str], ...]]:
    """Return a function that classifies faces, the model, and the readings with their indices.

    The function returns int64 (readings, N), the class with the highest biased logit of each
    reading. It is that of `Classifier`, as temperature does not change the order.
    """
    folder = find_model(model)
    manifest = load_manifest(folder)
    readings = [manifest.with_reading(name) for name in AGAINST if name in manifest.readings]
    if not readings:
        raise UsageError(f"{model} has none of the readings {' or '.join(AGAINST)}")
    outputs = [reading.outputs["logits"] for reading in readings]
    session = ModelSession(folder, manifest.file, threads=1, outputs=tuple(outputs))
    bias = np.array(
        [[reading.bias.get(label, 0.0) for label in reading.labels] for reading in readings]
    )

    def read(faces: Faces) -> Predicted:
        logits = np.stack(session.run(outputs, {INPUT_CONTRACT["name"]: faces}))
        return np.asarray((logits + bias[:, None]).argmax(axis=2), np.int64)

    return read, manifest.info, tuple(enumerate(reading.reading for reading in readings))


def choose(count: int, images: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Return the sorted indices of randomly chosen images, or of all if ``images`` is None."""
    if images is not None and images < 1:
        raise UsageError(f"expected --images 1 or more, got {images}")
    if images is None or images >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, images, replace=False))


def labels_of(split: Split, votes: Votes, chosen: npt.NDArray[np.int64]) -> dict[str, Predicted]:
    """Return the labels of each reading, int64 (N,); -1 where votes have no majority."""
    majority = with_majority(split, votes)
    by_file = dict(zip(majority.files, majority.labels.tolist(), strict=True))
    people = [by_file.get(split.files[index], -1) for index in chosen]
    return {"people": np.array(people, np.int64), "fer2013": split.labels[chosen]}


def conditions(faces: Faces, seed: int) -> Iterator[tuple[Condition, Faces]]:
    """Yield the plain faces, then those of all other conditions, in a fixed order."""
    yield PLAIN, faces
    for corruption in CORRUPTIONS:
        for strength in STRENGTHS:
            yield (corruption.name, strength), corruption.apply(faces, strength, seed)
    for axis in AXES:
        for value in axis.values:
            random = np.random.default_rng((seed, *axis.name.encode()))
            yield (axis.name, value), axis.change(faces, value, random)


def read_all(
    read: Callable[[Faces], Predicted], faces: Faces, seed: int, *, quiet: bool = False
) -> dict[Condition, Predicted]:
    """Return the predicted classes under each condition, int64 (readings, N)."""
    total = 1 + len(CORRUPTIONS) * len(STRENGTHS) + sum(len(axis.values) for axis in AXES)
    predicted = {}
    with Progress("corruptions", len(faces) * total, unit="img", quiet=quiet) as progress:
        for condition, changed in conditions(faces, seed):
            starts = range(0, len(faces), BATCH_SIZE)
            batches = [read(changed[start : start + BATCH_SIZE]) for start in starts]
            predicted[condition] = np.concatenate(batches, axis=1)
            progress.advance(len(faces))
    for axis in AXES:
        predicted[axis.name, axis.neutral] = predicted[PLAIN]
    return predicted


def compare(
    predicted: Mapping[Condition, Predicted], index: int, labels: Predicted
) -> dict[Condition, npt.NDArray[np.bool_]]:
    """Return the correctness of one reading on the images that have a label."""
    known = labels >= 0
    if not known.any():
        raise UsageError("none of the images has a majority of votes: use more images")
    return {name: (rows[index] == labels)[known] for name, rows in predicted.items()}


# ---------------------------------------------------------------- tables
def markdown(measured: Measured) -> str:
    """Return all tables and a summary in Markdown."""
    parts = [_heading(measured)]
    for reading in measured.right:
        parts.append(markdown_table(*corruption_table(measured, reading)))
    parts += [markdown_table(*axis_table(measured, axis)) for axis in AXES]
    return "\n\n".join(parts)


def picture_link(figure: Path | None, page: Path) -> str:
    """Return a paragraph that shows the figure on a page; empty without a figure."""
    if figure is None:
        return ""
    place = Path(os.path.relpath(figure, page.parent)).as_posix()
    return f"\n\n![Accuracy on corrupted, otherwise cut and small faces]({place})"


def corruption_table(measured: Measured, reading: str) -> tuple[list[str], list[list[str]]]:
    """Return a row per corruption: accuracy in per cent at each strength, and the mean."""
    shares = np.array(
        [
            [measured.accuracy(reading, (corruption.name, strength)) for strength in STRENGTHS]
            for corruption in CORRUPTIONS
        ]
    )
    named = [(corruption.name, row) for corruption, row in zip(CORRUPTIONS, shares, strict=True)]
    named.append(("mean", shares.mean(axis=0)))
    rows = [[name, *(_figure(share) for share in (*row, row.mean()))] for name, row in named]
    return [reading, *map(str, STRENGTHS), "mean"], rows


def axis_table(measured: Measured, axis: Axis) -> tuple[list[str], list[list[str]]]:
    """Return a row per reading: accuracy in per cent at each value of an axis."""
    rows = [
        [name, *(_figure(measured.accuracy(name, (axis.name, value))) for value in axis.all_values)]
        for name in measured.right
    ]
    return [axis.name, *(axis.form.format(value) for value in axis.all_values)], rows


def _heading(measured: Measured) -> str:
    model = measured.model
    readings, widest = [], 0.0
    for name, right in measured.right.items():
        plain = right[PLAIN]
        interval = wilson_interval(int(plain.sum()), len(plain))
        mean, spread = measured.mean(name)
        readings.append(
            f"- **{name}**, against {AGAINST[name]} ({len(plain):,} images): "
            f"{percent(float(plain.mean()), digits=1)} uncorrupted "
            f"({percent_range(interval, digits=1)}), {_figure(mean)} ± {_figure(spread)} % "
            "on average over all corruptions"
        )
        half = wilson_interval(len(plain) // 2, len(plain))
        widest = max(widest, (half.high - half.low) / 2)
    count = max(len(right[PLAIN]) for right in measured.right.values())
    whole = count == measured.of
    subset = "all" if whole else f"{count:,} (by seed {measured.seed}) of the"
    return (
        f"{model.name} {model.version} on {subset} {measured.of:,} images of {SPLIT}, % right:\n\n"
        + ";\n".join(readings)
        + f".\n\n95 % intervals. Those of the tables below are ±{_figure(widest)} points or less, "
        "and smaller for differences, because all rows use the same images. Columns 1 to 5 are "
        "strengths."
    )


def _figure(share: float) -> str:
    return f"{100 * share:.1f}"


# ---------------------------------------------------------------- drawing
def draw(measured: Measured, path: Path) -> None:
    """Draw accuracy over strength, one panel per group of corruptions, and over each axis."""
    first = next(iter(measured.right))
    groups = list(dict.fromkeys(corruption.group for corruption in CORRUPTIONS))
    model = measured.model
    with drawing(path, 12, 6.6) as figure:
        what = f"{model.name} {model.version} on corrupted and differently cropped faces"
        figure.suptitle(f"{what} (upper row: labels {first})", x=0.01, ha="left")
        panels = figure.subplots(2, len(groups), sharey=True)
        for axes, group in zip(panels[0], groups, strict=True):
            members = [member.name for member in CORRUPTIONS if member.group == group]
            plain = measured.accuracy(first, PLAIN)
            for name, color, marker in zip(members, COLORS, MARKERS, strict=False):
                shares = [measured.accuracy(first, (name, strength)) for strength in STRENGTHS]
                axes.plot((0, *STRENGTHS), (plain, *shares), color=color, marker=marker, label=name)
            _finish(axes, group, "strength")
            axes.set_xticks((0, *STRENGTHS))
        for axes, axis in zip(panels[1], AXES, strict=True):
            for name, color, marker in zip(measured.right, COLORS, MARKERS, strict=False):
                _draw_axis(axes, measured, axis, name, color, marker)
            _finish(axes, axis.title, axis.label)
            if axis.form == "{:.0%}":
                percent_axis(axes, "x")
            if axis.change is sized:  # the smallest sizes matter most
                axes.set_xscale("log")
                axes.set_xticks(axis.all_values[::2], [str(side) for side in axis.all_values[::2]])
                axes.minorticks_off()
        for row in panels:
            percent_axis(row[0])
            row[0].set_ylabel("accuracy")


def _draw_axis(
    axes: Axes, measured: Measured, axis: Axis, reading: str, color: str, marker: str
) -> None:
    right = [measured.right[reading][axis.name, value] for value in axis.all_values]
    intervals = [wilson_interval(int(correct.sum()), len(correct)) for correct in right]
    axes.fill_between(
        axis.all_values,
        [interval.low for interval in intervals],
        [interval.high for interval in intervals],
        color=color,
        alpha=0.18,
        linewidth=0,
    )
    shares = [correct.mean() for correct in right]
    axes.plot(axis.all_values, shares, color=color, marker=marker, label=reading)


def _finish(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
    axes.legend(loc="lower left", fontsize=9)


if __name__ == "__main__":
    main()
