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

from mien.core.files import write_atomically
from mien.core.formats import json_text
from mien.core.images import standard_face
from mien.core.results import ModelInfo
from mien.data.dataset import Split
from mien.evaluation.evaluate import BATCH_SIZE, predict
from mien.evaluation.tables import Table, markdown_table, percent, text_table
from mien.inference.classifier import Classifier

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
    classifier: Classifier,
    split: Split,
    *,
    tta: bool = False,
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> Robustness:
    """Measure the accuracy on uncorrupted images and after each of `corruptions`.

    Args:
        classifier: the model.
        split: the images.
        tta: average over shifted and mirrored views.
        batch_size: images per batch.
        quiet: draw no progress bar.

    Raises:
        UsageError: if there are no images.
        ModelError: if the network fails.
    """

    def count_correct(label: str, change: Callable[[Faces], Faces]) -> int:
        def classify(faces: Faces) -> npt.NDArray[np.float32]:
            return classifier.classify(change(faces), augment=tta, batch_size=batch_size)

        predicted = predict(
            classify, split.images, batch_size=batch_size, label=label, quiet=quiet
        ).argmax(axis=1)
        return int((predicted == split.labels).sum())

    count, uncorrupted = len(split), count_correct("robustness", np.asarray)
    losses = []
    for name, change in corruptions().items():
        remaining = count_correct(name, change)
        # From integers, as rounding must not push a loss of exactly the limit past it.
        points = 100 * (uncorrupted - remaining) / count
        losses.append(Loss(name, remaining, remaining / count, points, points <= LIMIT_POINTS))
    return Robustness(
        model=classifier.manifest.info,
        split=split.name,
        tta=tta,
        count=count,
        correct=uncorrupted,
        accuracy=uncorrupted / count,
        losses=tuple(losses),
    )


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
