"""One evaluation from images to a report: what the command and a notebook share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.data.dataset import Split, clean_mask
from mien.data.loading import load_split
from mien.evaluation.agreement import measure_agreement
from mien.evaluation.metrics import evaluate
from mien.evaluation.predicting import BATCH_SIZE, predict
from mien.evaluation.report import Report, versions
from mien.evaluation.report_folder import Samples
from mien.inference.classifier import Classifier


def clean_images(
    split: Split, source: Path | str, *, quiet: bool = False
) -> npt.NDArray[np.bool_] | None:
    """Mark the images (N,) of a split that have no pixel-identical copy in Training.

    Args:
        split: of the data set.
        source: the data set, as `mien.data.loading.load_dataset` takes it.
        quiet: draw no progress bar.

    Returns:
        The mask, or None for Training itself.

    Raises:
        DataError: if the data set has no usable Training.
    """
    if split.name == "train":
        return None
    return clean_mask(split, load_split(source, "train", quiet=quiet))


def evaluate_model(
    classifier: Classifier,
    split: Split,
    *,
    clean: npt.NDArray[np.bool_] | None = None,
    votes: npt.NDArray[np.int64] | None = None,
    tta: bool = False,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> tuple[Report, Samples]:
    """Measure a model on a split.

    Args:
        classifier: the model, as its users run it.
        split: the images.
        clean: those without a copy in Training (see `clean_images`), None where unknown.
        votes: what FER+'s annotators said of each, int64 (N, 10), None where unknown.
        tta: take the mean over shifted and mirrored views.
        seed: of the choice of the sample pictures.
        batch_size: images at a time; it changes speed and memory, not the figures.
        quiet: draw no progress bar.

    Returns:
        The report, which does not yet say what the data set is called nor by which command it was
        made, and what `mien.evaluation.report_folder.write_report` shows of the images.

    Raises:
        UsageError: if there is no image, or the batch size is below 1.
        ModelError: if the network fails.
        MissingExtra: without scikit-learn.
    """
    probabilities = predict(
        lambda faces: classifier.classify(faces, augment=tta, batch_size=batch_size),
        split.images,
        batch_size=batch_size,
        label=f"evaluating {split.name}",
        quiet=quiet,
    )
    manifest, labels = classifier.manifest, classifier.labels
    thresholds = np.array([manifest.threshold(label) for label in labels])
    agreement = clean_agreement = None
    if votes is not None:
        agreement = measure_agreement(probabilities, votes)
        if clean is not None:
            clean_agreement = measure_agreement(probabilities[clean], votes[clean])
    report = Report(
        model=manifest.info,
        data="",
        split=split.name,
        tta=tta,
        evaluation=evaluate(
            probabilities,
            split.labels,
            clean=clean,
            classes=labels,
            thresholds=thresholds if manifest.thresholds else None,
        ),
        seed=seed,
        skipped=len(split.skipped),
        versions=versions(),
        agreement=agreement,
        clean_agreement=clean_agreement,
        images_sha256=hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest(),
    )
    return report, Samples(split.images, split.labels, probabilities, labels)
