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
        left = max(settings.epochs - settings.warmup_epochs, 1e-9)
        share = min(1.0, (progress - settings.warmup_epochs) / left)
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return settings.learning_rate * scale
