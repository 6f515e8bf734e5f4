"""Synthetic reports with consistent numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mien.core.results import ModelInfo
from mien.evaluation.metrics import evaluate
from mien.evaluation.pictures import Samples
from mien.evaluation.report import Report

MODEL = ModelInfo("little", "1.2.3", "ab" * 32)


def make_samples(count: int = 140, *, classes: int = 7, seed: int = 0) -> Samples:
    """Return noise images with labels, about two thirds of them predicted correctly."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    logits = generator.normal(size=(count, 7)) + 2.0 * np.eye(7)[labels]
    rows = np.exp(logits)
    images = generator.integers(0, 256, (count, 48, 48)).astype(np.uint8)
    return Samples(images, labels, rows / rows.sum(axis=1, keepdims=True))


def make_report(
    split: str = "test",
    *,
    tta: bool = False,
    clean: bool = True,
    threshold: float | None = 0.6,
    model: ModelInfo = MODEL,
    samples: Samples | None = None,
) -> Report:
    """Return a report on `make_samples` with four fifths of the images clean.

    Without ``threshold``, the model does not abstain.
    """
    chosen = make_samples() if samples is None else samples
    mask = np.arange(len(chosen.labels)) % 5 > 0 if clean else None
    return Report(
        model=model,
        data="faces.zip",
        split=split,
        tta=tta,
        evaluation=evaluate(
            chosen.probabilities,
            chosen.labels,
            clean=mask,
            thresholds=None if threshold is None else np.full(7, threshold),
        ),
        seed=3,
        command=f"mien evaluate --model little --data faces.zip --split {split}",
        skipped=2,
        versions={"python": "3.11"},
    )


def renamed(report: Report, **changes: str) -> Report:
    """Return the report with changed attributes of its model."""
    return replace(report, model=replace(report.model, **changes))
