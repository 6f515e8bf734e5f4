"""The trainer, read from top to bottom: set up, epochs of steps, validation, the end."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.errors import InputError, TrainingDiverged
from mien.core.progress import Progress, format_duration
from mien.data.dataset import Split
from mien.data.reading import load_dataset
from mien.training import checkpoint, run_folder
from mien.training.augmentation import MixedBatch
from mien.training.backend import check_installed, prepare_backend, seed_step
from mien.training.batches import BatchSource
from mien.training.config import Config, config_to_toml, load_config
from mien.training.model import build_model, refresh
from mien.training.pace import Pace, stage_cost
from mien.training.run_folder import RunFolder
from mien.training.run_state import RunState
from mien.training.schedule import learning_rate
from mien.training.stages import (
    Stage,
    averaged_weights,
    compiled_model,
    estimated_statistics,
    stage_of,
)
from mien.training.stopping import TrainingStopped, stop_signals
from mien.training.validation import predict_probabilities, validation_figures


# ---------------------------------------------------------------- a run, from start or checkpoint
def train(config: Config, folder: Path, *, quiet: bool = False) -> RunFolder:
    """Train a network and leave the run in a folder (see `run_folder`).

    Args:
        config: the recipe.
        folder: where; must not hold a run yet.
        quiet: draw no progress and print no epochs on stderr.

    Raises:
        UsageError: if the folder holds a run, or the recipe cannot be built; nothing is written.
        MissingExtra: if a package that training needs is not installed.
        InputError: if the starting weights cannot be had.
        DataError: if the data are missing, empty, or fewer than a batch.
        TrainingDiverged: if the loss or the weights become NaN or infinite.
        OutputError: if something cannot be written; the last checkpoint stays whole.
        TrainingStopped: after Ctrl-C or SIGTERM, saved.
    """
    run = run_folder.new_run(folder)
    check_installed(config.training)
    splits = _load(config, quiet)
    sitting = _Run(config, run, splits, quiet)
    state = RunState(data=_fingerprint(splits))
    sitting.enter(state)
    run_folder.write_json(run.environment, _environment(config, splits))
    run_folder.write_text(run.config, config_to_toml(config))
    return sitting.go_on(state)


def resume(folder: Path, *, quiet: bool = False) -> RunFolder:
    """Go on with an interrupted run as if it had never stopped; raises as `train`.

    One that was stopped before its first checkpoint starts again; of one that has ended, only the
    curves and the summary are written anew.

    Raises:
        InputError: if there is no run, its checkpoint is missing, damaged or of another recipe, or
            the data are not those that it began with.
    """
    run = run_folder.open_run(folder)
    config = load_config(run.config)
    check_installed(config.training)
    run_folder.remove_leftovers(run)
    begun = run.checkpoint.exists() or run.history.exists()
    state = checkpoint.read_state(run.checkpoint) if begun else RunState()
    if state.history:
        # A kill between the checkpoint and the history leaves the file an epoch behind.
        run_folder.write_history(run.history, state.history)
    if state.is_over(config):
        return _finish(run, state)
    splits = _load(config, quiet)
    fingerprint = _fingerprint(splits)
    if state.data and state.data != fingerprint:
        raise InputError(
            f"the images of {config.data.source} are not those that {run.path} began with: "
            "bring the old ones back, or start a new run"
        )
    sitting = _Run(config, run, splits, quiet)
    if begun:
        sitting.restore(state)
    state.data = fingerprint
    return sitting.go_on(state)


def _load(config: Config, quiet: bool) -> dict[str, Split]:
    splits = load_dataset(config.data.source, splits=("train", "val"), quiet=quiet)
    if config.data.fraction < 1:
        train_split = splits["train"]
        random = np.random.default_rng(config.training.seed)
        count = max(1, round(config.data.fraction * len(train_split)))
        splits["train"] = train_split.take(np.sort(random.permutation(len(train_split))[:count]))
    return splits


def _fingerprint(splits: dict[str, Split]) -> str:
    value = 0
    for split in splits.values():
        for array in (split.images, split.labels):
            value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"{value:08x}"


def _environment(config: Config, splits: dict[str, Split]) -> dict[str, Any]:
    return {
        **run_folder.describe_environment(),
        "backend": config.training.backend,
        "seed": config.training.seed,
        "data": {name: split.class_counts() for name, split in splits.items()},
    }


# ---------------------------------------------------------------- epochs
class _Run:
    """One sitting of a run."""

    def __init__(self, config: Config, run: RunFolder, splits: dict[str, Split], quiet: bool):
        self.config = config
        self.run = run
        self.val = splits["val"]
        self.source = BatchSource(splits["train"], config)
        self.quiet = quiet
        self.saved_at = time.monotonic()
        self.model: Any = None
        self.stage: Stage | None = None
        self.pace = Pace()
        prepare_backend(config.training)

    def restore(self, state: RunState) -> None:
        """Build the network that the checkpoint was written of, and fill it."""
        # Between two stages, that is still the network of the stage before.
        epoch = state.epoch if state.step else state.epoch - 1
        self.stage = stage_of(self.config, epoch)
        self.model = compiled_model(self.config, self.stage, initialise=False)
        checkpoint.restore_variables(self.run.checkpoint, self.model)

    def enter(self, state: RunState) -> None:
        """Build the network of the epoch's stage, with what is learnt so far in it."""
        stage = stage_of(self.config, state.epoch)
        if stage == self.stage:
            return
        model = compiled_model(self.config, stage, initialise=self.model is None)
        if self.model is not None and self.stage is not None:
            # The optimizer's moments go along to a larger size, not into another phase.
            same_phase = self.stage.blocks == stage.blocks
            values = checkpoint.all_variables if same_phase else _weights_and_seeds
            checkpoint.copy_variables(values(self.model), values(model))
            refresh(model)
        self.model, self.stage = model, stage
        self.pace.skip_one()

    def go_on(self, state: RunState) -> RunFolder:
        """Train to the end."""
        with stop_signals(self.run.path) as stop:
            while not state.is_over(self.config):
                self.enter(state)
                self._epoch(state, stop)
        return _finish(self.run, state)

    def _epoch(self, state: RunState, stop: threading.Event) -> None:
        size = self.config.size_at(state.epoch)
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {size} px"
        batches = self.source.epoch(state.epoch, state.step)
        left = self.source.steps - state.step
        with (
            Progress(label, left, unit="step", quiet=self.quiet) as progress,
            contextlib.closing(batches),
        ):
            for batch in batches:
                started = time.monotonic()
                loss = self._step(state, batch)
                spent = time.monotonic() - started
                state.seconds += spent
                state.epoch_seconds += spent
                self.pace.count(stage_cost(self.config, state.epoch), spent)
                progress.advance(1, f"loss {loss:.4f}{self._time_left(state)}")
                self._save_if_due(state, stop)
        self._end_epoch(state)

    def _step(self, state: RunState, batch: MixedBatch) -> float:
        seed_step(self.config.training, state.epoch, state.step)
        self.model.optimizer.learning_rate.assign(self._rate(state))
        logs = self.model.train_on_batch(
            batch.faces, batch.targets, batch.weights, return_dict=True
        )
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", state)
        state.loss_sum += loss
        state.accuracy_sum += float(logs["accuracy"])
        state.step += 1
        return loss

    def _rate(self, state: RunState) -> float:
        settings = self.config.training
        if state.epoch < settings.head_epochs:
            return settings.head_learning_rate * state.plateau_scale
        done = state.epoch - settings.head_epochs + state.step / self.source.steps
        return learning_rate(settings, progress=done, scale=state.plateau_scale)

    def _diverged(self, what: str, state: RunState) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} in epoch {state.epoch + 1}, step {state.step + 1}; the last good checkpoint "
            f"and best.keras are kept in {self.run.path}: start a new run with a lower "
            "training.learning_rate or training.head_learning_rate"
        )

    def _save_if_due(self, state: RunState, stop: threading.Event) -> None:
        if (
            stop.is_set()
            or time.monotonic() - self.saved_at >= self.config.training.checkpoint_seconds
        ):
            self._check_weights(state)
            self._save(state)
        if stop.is_set():
            raise TrainingStopped(
                f"stopped in epoch {state.epoch + 1} of {self.config.total_epochs} after step "
                f"{state.step} of {self.source.steps}, all saved; to go on: "
                f"mien train --resume {self.run.path}"
            )

    def _check_weights(self, state: RunState) -> None:
        # A step with a finite loss can still leave NaN behind, which only the next one would show.
        if not checkpoint.is_finite(self.model):
            raise self._diverged("the weights became NaN or infinite", state)

    def _save(self, state: RunState) -> None:
        checkpoint.save_checkpoint(self.run.checkpoint, self.model, state)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        costs = [stage_cost(self.config, epoch) for epoch in range(self.config.total_epochs)]
        left = sum(costs[state.epoch :]) * self.source.steps - costs[state.epoch] * state.step
        seconds = self.pace.seconds_for(left)
        return "" if seconds is None else f"  run {format_duration(seconds)} left"

    # ------------------------------------------------------------ after each epoch
    def _end_epoch(self, state: RunState) -> None:
        self._check_weights(state)
        seed_step(self.config.training, state.epoch, state.step)
        batches = self.source.plain_batches()
        count = self.config.training.statistics_batches
        with (
            averaged_weights(self.model),
            estimated_statistics(self.model, batches, count=count),
        ):
            probabilities = predict_probabilities(self.model, self.val.images)
            if not np.isfinite(probabilities).all():
                raise self._diverged("the probabilities became NaN", state)
            figures = validation_figures(probabilities, self.val.labels)
            state.stale_epochs += 1
            if figures["val_accuracy"] > state.best_accuracy:
                state.best_accuracy, state.best_epoch = figures["val_accuracy"], state.epoch
                state.stale_epochs = 0
                self._keep_best(state)
        row = {
            "epoch": state.epoch + 1,
            "phase": "head" if state.epoch < self.config.training.head_epochs else "fine-tune",
            "size": self.config.size_at(state.epoch),
            "loss": state.loss_sum / self.source.steps,
            "accuracy": state.accuracy_sum / self.source.steps,
            **figures,
            "learning_rate": self._rate(state),
            "seconds": round(state.epoch_seconds, 1),
        }
        state.history.append(row)
        self._report(row, state)
        state.end_epoch(figures["val_loss"], self.config)
        # In this order: whatever a kill leaves undone, the checkpoint knows how to do again.
        self._save(state)
        run_folder.write_history(self.run.history, state.history)

    def _keep_best(self, state: RunState) -> None:
        """Save the weights that stand in the model in a bare copy, without its optimizer."""
        size = self.config.size_at(state.epoch)
        bare = build_model(self.config.model, size=size, initialise=False)
        bare.set_weights(self.model.get_weights())
        refresh(bare)
        with run_folder.saving(self.run.best) as temporary:
            bare.save(temporary)

    def _report(self, row: dict[str, Any], state: RunState) -> None:
        if self.quiet:
            return
        best = "  best" if state.best_epoch == state.epoch else ""
        sys.stderr.write(
            f"epoch {row['epoch']:>3}/{self.config.total_epochs}  {row['phase']:<9}  "
            f"{row['size']:>3} px  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
            f"val_macro_f1 {row['val_macro_f1']:.4f}  rate {row['learning_rate']:.1e}  "
            f"{format_duration(row['seconds'])}{best}\n"
        )
        sys.stderr.flush()


def _weights_and_seeds(model: Any) -> list[Any]:
    return list(model.variables)


def _finish(run: RunFolder, state: RunState) -> RunFolder:
    """Draw the curves and write the summary."""
    from mien.evaluation.curves import training_curves

    columns = {key: [row[key] for row in state.history] for key in state.history[0]}
    training_curves(columns, run.curves)
    best = next(row for row in state.history if row["epoch"] == state.best_epoch + 1)
    run_folder.write_json(
        run.summary,
        {
            "run": run.name,
            "best": best,
            "epochs": len(state.history),
            "stopped_early": state.stopped_early,
            "seconds": round(state.seconds, 1),
        },
    )
    return run
