"""The learning rate at every step."""

from __future__ import annotations

import math

from mien.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, *, progress: float, scale: float = 1.0) -> float:
    """Return the rate in the second phase.

    Args:
        settings: peak, schedule and warm-up.
        progress: epochs of this phase done so far, a fraction within an epoch.
        scale: what "plateau" has multiplied the rate with so far.
    """
    if progress < settings.warmup_epochs:
        return settings.learning_rate * max(progress / settings.warmup_epochs, 1e-3)
    if settings.schedule == "cosine":
        return _cosine(settings, progress)
    return settings.learning_rate * scale


def _cosine(settings: TrainingSettings, progress: float) -> float:
    start, end = settings.warmup_epochs, float(settings.epochs)
    highest, lowest = settings.learning_rate, 0.0
    if settings.large_learning_rate and settings.large_size:
        large_start = settings.epochs - settings.large_epochs
        if progress < large_start:
            end, lowest = float(large_start), settings.large_learning_rate
        else:
            start, highest = float(large_start), settings.large_learning_rate
    share = min(1.0, (progress - start) / max(end - start, 1e-9))
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * share))
