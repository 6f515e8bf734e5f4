"""Accuracy lost on faces that are blurred, unevenly lit, compressed or small.

The corruptions are deterministic and map standard faces, uint8 (N, 48, 48), to as many of the same
kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from mien.core.images import FACE_SIZE, standard_face
from mien.core.progress import Progress
from mien.core.results import ModelInfo
from mien.evaluation.evaluate import BATCH_SIZE, Classify
from mien.evaluation.markdown import (
    Table,
    markdown_table,
    percent,
    section_names,
    text_table,
    update_marked_section,
)

SCHEMA = "mien-robustness/1"
LIMIT_POINTS = 4.0
"""How many points of accuracy each change may cost."""

SECTION = "robustness"
"""Name of the marked section of a Markdown file that `update_robustness` fills."""

BLUR_SIGMA = 1.0
"""In pixels of the standard face."""

JPEG_QUALITY = 30

LIGHT_FACTORS = (0.7, 1.3)
"""Factors of brightness and contrast: 30 % less, 30 % more."""

Faces: TypeAlias = npt.NDArray[np.uint8]


# ---------------------------------------------------------------- corruptions
def corruptions() -> dict[str, Callable[[Faces], Faces]]:
    """Return the corruptions by name, in the order of the report."""
    light = {
        f"{what} {100 * (factor - 1):+.0f} %": partial(change, factor=factor)
        for what, change in (("brightness", brightened), ("contrast", contrasted))
        for factor in LIGHT_FACTORS
    }
    return {
        "histogram equalised": equalised,
        f"blurred, sigma {BLUR_SIGMA:g} px": blurred,
        "half the resolution": halved,
        f"JPEG, quality {JPEG_QUALITY}": jpeg_coded,
        **light,
    }


def equalised(faces: Faces) -> Faces:
    """Equalise each face's histogram."""
    return _each(faces, cv2.equalizeHist)


def blurred(faces: Faces, *, sigma: float = BLUR_SIGMA) -> Faces:
    """Blur with a Gaussian of ``sigma`` pixels."""
    return _each(faces, lambda face: cv2.GaussianBlur(face, (0, 0), sigma))


def halved(faces: Faces) -> Faces:
    """Shrink faces to half their side and enlarge them as `standard_face` does."""
    half = (FACE_SIZE // 2, FACE_SIZE // 2)

    def small(face: Faces) -> Faces:
        return np.asarray(cv2.resize(face, half, interpolation=cv2.INTER_AREA), np.uint8)

    return _each(faces, lambda face: standard_face(small(face)))


def jpeg_coded(faces: Faces, *, quality: int = JPEG_QUALITY) -> Faces:
    """Code faces as JPEG and decode them again."""

    def coded(face: Faces) -> Faces:
        _, content = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)

    return _each(faces, coded)


def brightened(faces: Faces, *, factor: float) -> Faces:
    """Multiply all greys by a factor, clipped to 0-255."""
    return _rounded(faces * np.float32(factor))


def contrasted(faces: Faces, *, factor: float) -> Faces:
    """Multiply each grey's distance from its face's mean, clipped to 0-255."""
    means = faces.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _rounded((faces - means) * np.float32(factor) + means)


def _each(faces: Faces, change: Callable[[Faces], npt.ArrayLike]) -> Faces:
    # Not np.stack: there may be no face at all.
    result = np.empty_like(faces)
    for place, face in enumerate(faces):
        result[place] = change(np.ascontiguousarray(face))
    return result


def _rounded(greys: npt.NDArray[np.float32]) -> Faces:
    return np.clip(np.rint(greys), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Loss:
    """Accuracy lost to one corruption.

    Attributes:
        change: its name.
        correct: images predicted right.
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
        correct: predicted right as they are.
        accuracy: their share, 0-1.
        losses: one entry a corruption.
        limit: how many points each may cost.
        data: name of the data set.
        command: the command line that gives these figures.
        versions: of Python and of the packages.
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
    """Measure accuracy on images as they are and after each of `corruptions`.

    Args:
        classify: the classifier, with or without test-time augmentation.
        images: uint8 (N, 48, 48), at least one.
        labels: int64 (N,), the right classes.
        model: for the record, as ``split`` and ``tta``.
        split: its name.
        tta: whether ``classify`` augments.
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
    changes: dict[str, Callable[[Faces], Faces]] = {"": np.asarray, **corruptions()}
    correct = dict.fromkeys(changes, 0)
    total = len(images) * len(changes)
    with Progress("robustness", total, unit="img", quiet=quiet) as progress:
        for name, change in changes.items():
            for start in range(0, len(images), BATCH_SIZE):
                batch = slice(start, start + BATCH_SIZE)
                read = classify(change(images[batch])).argmax(axis=1)
                correct[name] += int((read == labels[batch]).sum())
                progress.advance(len(read))
    plain = correct.pop("")
    return Robustness(
        model=model,
        split=split,
        tta=tta,
        count=len(images),
        correct=plain,
        accuracy=plain / len(images),
        losses=tuple(_loss(name, right, plain, len(images)) for name, right in correct.items()),
    )


def _loss(name: str, correct: int, plain: int, count: int) -> Loss:
    # From integers, so that rounding does not push a loss of exactly the limit past it.
    points = 100 * (plain - correct) / count
    return Loss(name, correct, correct / count, points, points <= LIMIT_POINTS)


# ---------------------------------------------------------------- showing
def robustness_text(result: Robustness) -> str:
    """Write the figures as an aligned table with its heading and verdict."""
    return f"{_title(result)}\n\n{text_table(*_table(result))}\n\n{_verdict(result)}\n"


def robustness_markdown(result: Robustness) -> str:
    """Write the figures as a Markdown table with its heading and verdict."""
    return f"{_title(result)}:\n\n{markdown_table(*_table(result))}\n\n{_verdict(result)}"


def write_robustness(result: Robustness, folder: Path) -> Path:
    """Write ``robustness.json`` and ``.md`` into a folder and return the latter's path."""
    record = json_text(result.to_dict()) + "\n"
    write_atomically(folder / "robustness.json", record.encode())
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
    """Write the figures into a Markdown file's section; raises as `update_marked_section`."""
    update_marked_section(path, SECTION, robustness_markdown(result))


def _title(result: Robustness) -> str:
    tta = " with test-time augmentation" if result.tta else ""
    model = f"{result.model.name} {result.model.version}"
    return f"{model} on {result.split}{tta}, {result.count:,} images"


def _table(result: Robustness) -> Table:
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
