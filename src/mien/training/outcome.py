"""What a run tells of itself: where it ran, a line an epoch, and at its end curves and summary."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from mien.core.progress import format_duration
from mien.training import run_folder
from mien.training.config import Config
from mien.training.run_folder import RunFolder
from mien.training.run_state import RunState
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


def report_epoch(row: Mapping[str, Any], *, total: int, best: bool) -> None:
    """Write an epoch's row of the history on stderr.

    Args:
        row: see `mien.training.trainer`.
        total: how many epochs there will be.
        best: whether it is the best epoch so far.
    """
    sys.stderr.write(
        f"epoch {row['epoch']:>3}/{total}  {row['phase']:<9}  "
        f"{row['size']:>3} px  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
        f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
        f"val_macro_f1 {row['val_macro_f1']:.4f}  rate {row['learning_rate']:.1e}  "
        f"{format_duration(row['seconds'])}{'  best' if best else ''}\n"
    )
    sys.stderr.flush()


def finish(run: RunFolder, state: RunState) -> RunFolder:
    """Draw the curves and write the summary of a run that has ended; raises OutputError."""
    from mien.evaluation.curves import training_curves

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
