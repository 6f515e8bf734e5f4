"""Where a run stands: what changes from step to step beside the network's variables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from mien.training.config import Config
from mien.training.settings import TrainingSettings

_PLATEAU_MARGIN = 1e-4


@dataclass
class RunState:
    """Where a run stands. The one mutable record of the trainer.

    Attributes:
        epoch: the epoch that is under way, counted from 0 through both phases.
        step: steps of it that are done.
        best_accuracy: best validation accuracy so far, and `best_epoch` its epoch.
        stale_epochs: epochs since then, in this phase.
        loss_sum: of the losses of the steps since the last validation, and `accuracy_sum` of their
            accuracies.
        epochs_counted: epochs that these belong to, the one under way included.
        plateau_scale: what the "plateau" schedule multiplies the rate with.
        plateau_loss: lowest validation loss of this phase, and `plateau_wait` the epochs since.
        seconds: time spent training, of all sittings.
        epoch_seconds: of that, time spent since the last validation.
        stopped_early: early stopping has ended the run.
        skipped_epochs: epochs of the head's phase that early stopping has left out.
        history: one row a validation.
        data: fingerprint of the images and labels that the run began with; empty if not known.
        teachers: SHA-256 of each teacher's network, by name.
    """

    epoch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = -1
    stale_epochs: int = 0
    loss_sum: float = 0.0
    epochs_counted: int = 1
    accuracy_sum: float = 0.0
    plateau_scale: float = 1.0
    plateau_loss: float = float("inf")
    plateau_wait: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    stopped_early: bool = False
    skipped_epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    data: str = ""
    teachers: dict[str, str] = field(default_factory=dict)

    def is_over(self, config: Config) -> bool:
        """Tell whether there is nothing left to train."""
        return self.stopped_early or self.epoch >= config.total_epochs

    def skip_validation(self) -> None:
        """Count the epoch as done, its losses going into the next one's figures."""
        self.epoch += 1
        self.step = 0
        self.epochs_counted += 1

    def end_epoch(self, val_loss: float, config: Config) -> None:
        """Count the epoch as done, or its whole phase where early stopping ends it.

        ``stale_epochs`` counts this epoch already; ``val_loss`` is what "plateau" goes by.
        """
        settings = config.training
        self._watch_plateau(val_loss, settings)
        in_head_phase = self.epoch < settings.head_epochs
        phase_end = settings.head_epochs if in_head_phase else config.total_epochs
        if 0 < settings.early_stopping <= self.stale_epochs:
            self.stopped_early = phase_end == config.total_epochs
            if in_head_phase:
                self.skipped_epochs = phase_end - self.epoch - 1
            self.epoch = phase_end
        else:
            self.epoch += 1
        self.step, self.epoch_seconds = 0, 0.0
        self.loss_sum = self.accuracy_sum = 0.0
        self.epochs_counted = 1
        if in_head_phase and self.epoch == settings.head_epochs:
            # Fine-tuning is judged by itself.
            self.stale_epochs = self.plateau_wait = 0
            self.plateau_scale, self.plateau_loss = 1.0, math.inf

    def _watch_plateau(self, val_loss: float, settings: TrainingSettings) -> None:
        if val_loss < self.plateau_loss - _PLATEAU_MARGIN:
            self.plateau_loss, self.plateau_wait = val_loss, 0
            return
        self.plateau_wait += 1
        if settings.schedule == "plateau" and self.plateau_wait >= settings.plateau_patience:
            self.plateau_scale *= settings.plateau_factor
            self.plateau_wait = 0
