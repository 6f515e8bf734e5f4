"""Robustness: accuracy lost on blurred, badly lit, compressed or low-resolution faces.

Corruptions are deterministic and map faces, uint8 (N, 48, 48), to faces of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.files import write_atomically
from mien.core.formats import json_text
from mien.core.images import standard_face
from mien.core.progress import Progress
from mien.core.results import ModelInfo
from mien.evaluation.evaluate import BATCH_SIZE, Classify
from mien.evaluation.metrics import Labels
from mien.evaluation.tables import Table, markdown_table, percent, text_table

SCHEMA = "mien-robustness/1"

LIMIT_POINTS = 4.0
"""Maximum loss of accuracy to each corruption, in percentage points."""

SECTION = "robustness"
"""Marked section of Markdown files that `robustness_markdown` fills."""

BLUR_SIGMA = 1.0
"""Pixels of the 48x48 face."""

JPEG_QUALITY = 30

LIGHT_FACTORS = (0.7, 1.3)
"""Factors of brightness and of contrast."""

Faces: TypeAlias = npt.NDArray[np.uint8]


# ---------------------------------------------------------------- corruptions
def corruptions() -> dict[str, Callable[[Faces], Faces]]:
    """Return the corruptions by name, in the order of the report."""
    blur = partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=BLUR_SIGMA)
    light = {
        f"{name} {100 * (factor - 1):+.0f} %": partial(adjust, factor=factor)
        for name, adjust in (("brightness", adjust_brightness), ("contrast", adjust_contrast))
        for factor in LIGHT_FACTORS
    }
    return {
        "histogram equalised": partial(_map_faces, change=cv2.equalizeHist),
        f"blurred, sigma {BLUR_SIGMA:g} px": partial(_map_faces, change=blur),
        "half the resolution": partial(_map_faces, change=_halve_resolution),
        f"JPEG, quality {JPEG_QUALITY}": compress_jpeg,
        **light,
    }


def _halve_resolution(face: Faces) -> Faces:
    small = cv2.resize(face, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return standard_face(np.asarray(small, np.uint8))


def compress_jpeg(faces: Faces, *, quality: int = JPEG_QUALITY) -> Faces:
    """Encode faces as JPEG and decode them."""

    def compress(face: Faces) -> Faces:
        _, content = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)

    return _map_faces(faces, compress)


def adjust_brightness(faces: Faces, *, factor: float) -> Faces:
    """Multiply all grey levels by a factor, clipped to 0-255."""
    return _to_uint8(faces * np.float32(factor))


def adjust_contrast(faces: Faces, *, factor: float) -> Faces:
    """Multiply the distance of grey levels from the mean of their face, clipped to 0-255."""
    means = faces.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _to_uint8((faces - means) * np.float32(factor) + means)


def _map_faces(faces: Faces, change: Callable[[Faces], npt.ArrayLike]) -> Faces:
    # Unlike np.stack, this also works without any face.
    result = np.empty_like(faces)
    for index, face in enumerate(faces):
        result[index] = change(np.ascontiguousarray(face))
    return result


def _to_uint8(greys: npt.NDArray[np.float32]) -> Faces:
    return np.clip(np.rint(greys), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- measurement
@dataclass(frozen=True)
class Loss:
    """Accuracy lost to one corruption.

    Attributes:
        change: name of the corruption.
        correct: images predicted correctly.
        accuracy: their share, 0-1.
        points: accuracy lost in percentage points; negative for a gain.
        kept: whether the loss is within the limit.
    """

    change: str
    correct: int
    accuracy: float
    points: float
    kept: bool


@dataclass(frozen=True)
class Robustness:
    """Robustness of one model on one split.

    Attributes:
        model: name, version and hash of the model.
        split: "train", "val" or "test".
        tta: whether test-time augmentation was used.
        count: number of images.
        correct: uncorrupted images predicted correctly.
        accuracy: their share, 0-1.
        losses: loss to each corruption.
        limit: maximum loss to each, in percentage points.
        data: name of the data set.
        command: command line that reproduces the figures.
        versions: versions of Python and of the packages.
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
        """Whether every loss is within the limit."""
        return all(loss.kept for loss in self.losses)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-compatible values."""
        content = {**asdict(self), "model": self.model.to_dict()}
        return {"schema": SCHEMA, **content, "kept": self.kept}


def measure_robustness(
    classify: Classify,
    images: Faces,
    labels: Labels,
    *,
    model: ModelInfo,
    split: str,
    tta: bool = False,
    quiet: bool = False,
) -> Robustness:
    """Measure the accuracy on uncorrupted images and after each of `corruptions`.

    Args:
        classify: the classifier, with or without test-time augmentation.
        images: uint8 (N, 48, 48), at least one.
        labels: int64 (N,), true classes.
        model: recorded in the result, as are ``split`` and ``tta``.
        split: name of the split.
        tta: whether ``classify`` augments.
        quiet: draw no progress bar.

    Raises:
        UsageError: if there are no images, or the number of labels differs.
        ModelError: if the network fails.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise UsageError(
            f"expected images and as many labels, at least one; got {len(images)} images and "
            f"labels {labels.shape}"
        )
    correct = _count_correct(classify, images, labels, quiet=quiet)
    uncorrupted = correct.pop("")
    losses = []
    for name, remaining in correct.items():
        # From integers, as rounding must not push a loss of exactly the limit past it.
        points = 100 * (uncorrupted - remaining) / len(images)
        accuracy = remaining / len(images)
        losses.append(Loss(name, remaining, accuracy, points, points <= LIMIT_POINTS))
    return Robustness(
        model=model,
        split=split,
        tta=tta,
        count=len(images),
        correct=uncorrupted,
        accuracy=uncorrupted / len(images),
        losses=tuple(losses),
    )


def _count_correct(
    classify: Classify, images: Faces, labels: Labels, *, quiet: bool
) -> dict[str, int]:
    """Return the number of correct predictions under each corruption; "" stands for none."""
    changes: dict[str, Callable[[Faces], Faces]] = {"": np.asarray, **corruptions()}
    correct = dict.fromkeys(changes, 0)
    total = len(images) * len(changes)
    with Progress("robustness", total, unit="img", quiet=quiet) as progress:
        for name, change in changes.items():
            for start in range(0, len(images), BATCH_SIZE):
                batch = slice(start, start + BATCH_SIZE)
                predicted = classify(change(images[batch])).argmax(axis=1)
                correct[name] += int((predicted == labels[batch]).sum())
                progress.advance(len(predicted))
    return correct


# ---------------------------------------------------------------- rendering
def robustness_text(result: Robustness) -> str:
    """Return the figures as an aligned table with a title and a verdict."""
    return f"{_title(result)}\n\n{text_table(*_table(result))}\n\n{_verdict(result)}\n"


def robustness_markdown(result: Robustness) -> str:
    """Return the figures as a Markdown table with a title and a verdict."""
    return f"{_title(result)}:\n\n{markdown_table(*_table(result))}\n\n{_verdict(result)}"


def write_robustness(result: Robustness, folder: Path) -> Path:
    """Write ``robustness.json`` and ``robustness.md``; return the path of the latter."""
    content = json_text(result.to_dict()) + "\n"
    write_atomically(folder / "robustness.json", content.encode())
    page = folder / "robustness.md"
    command = f"\n\n`{result.command}`" if result.command else ""
    write_atomically(page, f"# Robustness\n\n{robustness_markdown(result)}{command}\n".encode())
    return page


def _title(result: Robustness) -> str:
    tta = " with test-time augmentation" if result.tta else ""
    model = f"{result.model.name} {result.model.version}"
    return f"{model} on {result.split}{tta}, {result.count:,} images"


def _table(result: Robustness) -> Table:
    rows = [["none", percent(result.accuracy), "", ""]]
    for loss in result.losses:
        points = round(loss.points, 2) + 0.0  # adding 0 turns -0.0 into 0.0
        rows.append(
            [loss.change, percent(loss.accuracy), f"{points:.2f}", "yes" if loss.kept else "no"]
        )
    return ["corruption", "accuracy", "points lost", f"at most {result.limit:g}"], rows


def _verdict(result: Robustness) -> str:
    exceeded = sum(not loss.kept for loss in result.losses)
    if not exceeded:
        return f"Every corruption costs at most {result.limit:g} points."
    verb = "costs" if exceeded == 1 else "cost"
    return (
        f"{exceeded} of {len(result.losses)} corruptions {verb} more than {result.limit:g} points "
        f"(largest loss: {max(loss.points for loss in result.losses):.2f})."
    )
