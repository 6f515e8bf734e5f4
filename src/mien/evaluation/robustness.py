"""How much accuracy a model loses where its faces are blurred, dark, coded or small."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.files import write_atomically
from mien.core.progress import Progress
from mien.core.results import ModelInfo
from mien.evaluation.predicting import BATCH_SIZE, Classify
from mien.evaluation.robustness_changes import Change, changes
from mien.evaluation.sections import section_names, update_marked_section
from mien.evaluation.tables import markdown_table, percent, text_table

SCHEMA = "mien-robustness/1"
LIMIT_POINTS = 4.0
"""How many points of accuracy each change may cost."""

SECTION = "robustness"
"""Name of the marked section of a Markdown file that `update_robustness` fills."""


@dataclass(frozen=True)
class Loss:
    """What one change does.

    Attributes:
        change: its name.
        correct: images read right.
        accuracy: their share, 0-1.
        points: how much lower that is than on plain images, in points; below 0 where it is higher.
        kept: whether that is within the limit.
    """

    change: str
    correct: int
    accuracy: float
    points: float
    kept: bool


@dataclass(frozen=True)
class Robustness:
    """One model's losses on one split.

    Attributes:
        model: the model's name, version and hash.
        split: "train", "val" or "test".
        tta: whether test-time augmentation was used.
        count: images.
        correct: of them read right as they are.
        accuracy: their share, 0-1.
        losses: one entry a change.
        limit: how many points each may cost.
        data: name of the data set; command: the command line that gives these figures; versions:
            of Python and of the packages.
    """

    model: ModelInfo
    split: str
    tta: bool
    count: int
    correct: int
    accuracy: float
    losses: tuple[Loss, ...]
    limit: float = LIMIT_POINTS
    data: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether every change is within the limit."""
        return all(loss.kept for loss in self.losses)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures ready for JSON."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "model": self.model.to_dict(),
            "losses": [asdict(loss) for loss in self.losses],
            "kept": self.kept,
        }


def measure_robustness(
    classify: Classify,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    model: ModelInfo,
    split: str,
    tta: bool = False,
    quiet: bool = False,
) -> Robustness:
    """Measure accuracy on images as they are and after each of `changes`.

    Args:
        classify: the classifier, with or without test-time augmentation.
        images: uint8 (N, 48, 48), at least one.
        labels: int64 (N,), the right classes.
        model: whose classifier it is, for the record.
        split: the split's name, for the record.
        tta: whether ``classify`` augments, for the record.
        quiet: draw no progress bar.

    Raises:
        UsageError: if there is no image, or not as many labels.
        ModelError: if the network fails.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise UsageError(
            f"expected images and as many labels, at least one; got {len(images)} images and "
            f"labels {labels.shape}"
        )
    every = changes()
    with Progress("robustness", len(images) * (1 + len(every)), unit="img", quiet=quiet) as bar:
        plain = _correct(classify, images, labels, None, bar.advance)
        found = [_correct(classify, images, labels, each, bar.advance) for each in every]
    return Robustness(
        model=model,
        split=split,
        tta=tta,
        count=len(images),
        correct=plain,
        accuracy=plain / len(images),
        losses=tuple(
            _loss(each.name, correct, plain, len(images))
            for each, correct in zip(every, found, strict=True)
        ),
    )


def _correct(
    classify: Classify,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    change: Change | None,
    advance: Callable[[int], object],
) -> int:
    correct = 0
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        probabilities = classify(batch if change is None else change.apply(batch))
        right = probabilities.argmax(axis=1) == labels[start : start + BATCH_SIZE]
        correct += int(right.sum())
        advance(len(batch))
    return correct


def _loss(name: str, correct: int, plain: int, count: int) -> Loss:
    # From whole numbers: a loss of exactly the limit is not pushed past it by rounding.
    points = 100 * (plain - correct) / count
    return Loss(name, correct, correct / count, points, points <= LIMIT_POINTS)


# ---------------------------------------------------------------- showing
def robustness_text(result: Robustness) -> str:
    """Write the figures as an aligned table with a heading."""
    heading = f"{_title(result)}, {result.count:,} images"
    return f"{heading}\n\n{text_table(*_table(result))}\n\n{_verdict(result)}\n"


def robustness_markdown(result: Robustness) -> str:
    """Write the figures as a Markdown table with its heading and verdict."""
    return (
        f"{_title(result)}, {result.count:,} images:\n\n"
        f"{markdown_table(*_table(result))}\n\n{_verdict(result)}"
    )


def write_robustness(result: Robustness, folder: Path) -> Path:
    """Write ``robustness.json`` and ``robustness.md`` into a folder; return the latter's path.

    Raises:
        OutputError: if one cannot be written.
    """
    text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "robustness.json", (text + "\n").encode())
    page = folder / "robustness.md"
    command = f"\n\n`{result.command}`" if result.command else ""
    write_atomically(page, f"# Robustness\n\n{robustness_markdown(result)}{command}\n".encode())
    return page


def check_robustness_section(paths: Sequence[Path]) -> None:
    """Make sure that files have the section, before work is done for them.

    Raises:
        UsageError: if one has no such section.
        InputError: if one cannot be read.
    """
    for path in paths:
        if SECTION not in section_names(path):
            raise UsageError(
                f"{path} has no section for robustness: expected <!-- figures:begin {SECTION} --> "
                f"and <!-- figures:end {SECTION} -->"
            )


def update_robustness(path: Path, result: Robustness) -> None:
    """Put the figures between the marks of a Markdown file's section.

    Raises:
        InputError: if the file cannot be read or its marks are mixed up.
        OutputError: if it cannot be written.
    """
    update_marked_section(path, SECTION, robustness_markdown(result))


def _title(result: Robustness) -> str:
    tta = " with test-time augmentation" if result.tta else ""
    return f"{result.model.name} {result.model.version} on {result.split}{tta}"


def _table(result: Robustness) -> tuple[list[str], list[list[str]]]:
    rows = [["as they are", percent(result.accuracy), "", ""]]
    rows += [
        [
            loss.change,
            percent(loss.accuracy),
            # Adding 0 turns a rounded -0.0 into 0.0.
            f"{round(loss.points, 2) + 0.0:.2f}",
            "kept" if loss.kept else "broken",
        ]
        for loss in result.losses
    ]
    return ["images", "accuracy", "points lost", f"limit of {result.limit:g}"], rows


def _verdict(result: Robustness) -> str:
    broken = sum(not loss.kept for loss in result.losses)
    if not broken:
        return f"Every change costs at most {result.limit:g} points."
    verb = "costs" if broken == 1 else "cost"
    return (
        f"{broken} of {len(result.losses)} changes {verb} more than {result.limit:g} points "
        f"(the most: {max(loss.points for loss in result.losses):.2f})."
    )
