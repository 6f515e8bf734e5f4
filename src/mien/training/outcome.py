"""What a run tells of itself: where it ran, a line an epoch, and at its end curves and summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.core.errors import TrainingDiverged
from mien.core.process import stderr
from mien.core.progress import format_duration
from mien.training import run_folder
from mien.training.config import Config
from mien.training.run_folder import RunFolder
from mien.training.run_state import RunState
from mien.training.stopping import TrainingStopped
from mien.training.training_data import TrainingData


def environment(config: Config, data: TrainingData, *, workers: int = 1) -> dict[str, Any]:
    """Return what a run began with, as JSON can hold it.

    Versions, machine, backend, processes that train together, seed and images of each class.
    """
    return {
        **run_folder.describe_environment(),
        "backend": config.training.backend,
        "workers": workers,
        "seed": config.training.seed,
        "data": {split.name: split.class_counts() for split in (data.train, data.val)},
    }


def history_row(
    config: Config, state: RunState, figures: Mapping[str, float], *, steps: int, rate: float
) -> dict[str, Any]:
    """Return the row of the history for an epoch that was just validated.

    Args:
        config: the recipe.
        state: where the run stands, the epoch not yet counted as done.
        figures: what `mien.training.validation.validation_figures` says.
        steps: of an epoch.
        rate: the learning rate at its end.
    """
    counted = steps * state.epochs_counted
    return {
        "epoch": state.epoch + 1,
        "phase": "head" if state.epoch < config.training.head_epochs else "fine-tune",
        "size": config.size_at(state.epoch),
        "loss": state.loss_sum / counted,
        "accuracy": state.accuracy_sum / counted,
        **figures,
        "learning_rate": rate,
        "seconds": round(state.epoch_seconds, 1),
    }


def diverged(what: str, run: RunFolder) -> TrainingDiverged:
    """Return the error for a run whose losses or weights are not numbers any more."""
    return TrainingDiverged(
        f"{what}; the last good checkpoint and best.keras are kept in {run.path}: "
        "start a new run with a lower training.learning_rate or training.head_learning_rate"
    )


def stopped(config: Config, run: RunFolder, state: RunState, *, steps: int) -> TrainingStopped:
    """Return what is raised once a run that was asked to stop is saved."""
    return TrainingStopped(
        f"stopped in epoch {state.epoch + 1} of {config.total_epochs} after step "
        f"{state.step} of {steps}, all saved; to go on: mien train --resume {run.path}"
    )


def report_epoch(row: Mapping[str, Any], *, total: int, best: bool) -> None:
    """Write an epoch's row of the history on stderr.

    Args:
        row: see `mien.training.trainer`.
        total: how many epochs there will be.
        best: whether it is the best epoch so far.
    """
    stderr().write(
        f"epoch {row['epoch']:>3}/{total}  {row['phase']:<9}  "
        f"{row['size']:>3} px  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
        f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
        f"val_macro_f1 {row['val_macro_f1']:.4f}  rate {row['learning_rate']:.1e}  "
        f"{format_duration(row['seconds'])}{'  best' if best else ''}\n"
    )
    stderr().flush()


def finish(run: RunFolder, state: RunState) -> RunFolder:
    """Draw the curves and write the summary of a run that has ended; raises OutputError."""
    from mien.evaluation.figures import training_curves

    columns = {key: [row[key] for row in state.history] for key in state.history[0]}
    training_curves(columns, run.curves)
    best = next(row for row in state.history if row["epoch"] == state.best_epoch + 1)
    run_folder.write_json(
        run.summary,
        {
            "run": run.name,
            "best": best,
            "epochs": state.history[-1]["epoch"] - state.skipped_epochs,
            "stopped_early": state.stopped_early,
            "seconds": round(state.seconds, 1),
        },
    )
    return run
