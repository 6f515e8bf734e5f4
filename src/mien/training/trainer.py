"""The trainer, read from top to bottom: set up, epochs of steps, validation, checkpoints, the end."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import TrainingDiverged
from mien.core.progress import Progress, format_duration
from mien.data.dataset import Split
from mien.data.reading import load_dataset
from mien.training import checkpoint, run_folder
from mien.training.backend import prepare_backend
from mien.training.augmentation import MixedBatch
from mien.training.batches import BatchSource
from mien.training.checkpoint import RunState
from mien.training.config import Config, config_to_toml, load_config
from mien.training.run_folder import RunFolder
from mien.training.schedule import learning_rate

_PREDICT_BATCH = 128


# ---------------------------------------------------------------- a run, from start or checkpoint
def train(config: Config, folder: Path, *, quiet: bool = False) -> RunFolder:
    """Train a network and leave the run in a folder (see `run_folder`).

    Args:
        config: the recipe.
        folder: where; must not hold a run yet.
        quiet: draw no progress and print no epochs on stderr.

    Raises:
        DataError: if the data are missing or empty.
        TrainingDiverged: if the loss becomes NaN or infinite.
        OutputError: if something cannot be written; the last checkpoint stays whole.
    """
    splits = _load(config, quiet)
    prepare_backend(config.training)
    run = run_folder.create_run(folder)
    run_folder.write_text(run.config, config_to_toml(config))
    run_folder.write_json(run.environment, _environment(config, splits))
    return _Run(config, run, splits, quiet).go_on(RunState())


def resume(folder: Path, *, quiet: bool = False) -> RunFolder:
    """Go on with an interrupted run as if it had never stopped; raises as `train`."""
    run = run_folder.open_run(folder)
    config = load_config(run.config)
    state = checkpoint.read_state(run.checkpoint)
    splits = _load(config, quiet)
    prepare_backend(config.training)
    return _Run(config, run, splits, quiet).go_on(state)


def _load(config: Config, quiet: bool) -> dict[str, Split]:
    splits = load_dataset(config.data.source, splits=("train", "val"), quiet=quiet)
    if config.data.fraction < 1:
        train_split = splits["train"]
        random = np.random.default_rng(config.training.seed)
        count = max(1, round(config.data.fraction * len(train_split)))
        splits["train"] = train_split.take(np.sort(random.permutation(len(train_split))[:count]))
    return splits


def _environment(config: Config, splits: dict[str, Split]) -> dict[str, Any]:
    return {
        **run_folder.describe_environment(),
        "backend": config.training.backend,
        "seed": config.training.seed,
        "data": {name: split.class_counts() for name, split in splits.items()},
    }


# ---------------------------------------------------------------- the network of a stage
@dataclass(frozen=True)
class _Stage:
    """What changes the graph during a run: what is trained, and the input size."""

    blocks: int
    size: int


def _stage(config: Config, epoch: int) -> _Stage:
    in_head_phase = epoch < config.training.head_epochs
    blocks = 0 if in_head_phase else config.training.fine_tune_blocks
    return _Stage(blocks, config.size_at(epoch))


def _compiled(config: Config, stage: _Stage, *, initialise: bool) -> Any:
    import keras

    from mien.training.model import build_model, set_trainable

    settings = config.training
    model = build_model(config.model, size=stage.size, initialise=initialise)
    set_trainable(model, blocks=stage.blocks)
    optimizer = keras.optimizers.AdamW(
        learning_rate=settings.head_learning_rate,
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm or None,
        use_ema=settings.ema > 0,
        ema_momentum=settings.ema or 0.5,
        ema_overwrite_frequency=None,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing),
        metrics=["accuracy"],
        jit_compile="auto" if settings.backend == "jax" else False,
    )
    optimizer.build(model.trainable_variables)
    return model


@contextmanager
def averaged_weights(model: Any) -> Iterator[None]:
    """Put the optimizer's moving averages in the place of the weights for a while."""
    if not model.optimizer.use_ema:
        yield
        return
    kept = [variable.numpy() for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept, strict=True):
            variable.assign(value)


def predict_probabilities(model: Any, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a network's probabilities, float32 (N, 7), for standard faces, uint8 (N, 48, 48)."""
    parts = []
    for start in range(0, len(images), _PREDICT_BATCH):
        faces = images[start : start + _PREDICT_BATCH, ..., None].astype(np.float32)
        padding = [(0, _PREDICT_BATCH - len(faces)), (0, 0), (0, 0), (0, 0)]
        # One shape for every batch: a new one would be compiled anew.
        answer = np.asarray(model.predict_on_batch(np.pad(faces, padding)))
        parts.append(answer[: len(faces)])
    return np.concatenate(parts).astype(np.float32)


def validation_figures(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return cross-entropy, accuracy and macro-F1 of probabilities (N, 7) against labels (N,)."""
    from sklearn.metrics import f1_score

    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    return {
        "val_loss": float(-np.log(np.maximum(chosen, 1e-7)).mean()),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
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
        self.stage: _Stage | None = None

    def go_on(self, state: RunState) -> RunFolder:
        fresh = state.epoch == 0 and state.step == 0
        if state.epoch < self.config.total_epochs and not state.stopped_early:
            self._enter(state, resumed=not fresh)
        with _stop_signals() as stop:
            while state.epoch < self.config.total_epochs and not state.stopped_early:
                self._enter(state, resumed=False)
                self._epoch(state, stop)
        self._finish(state)
        return self.run

    def _enter(self, state: RunState, *, resumed: bool) -> None:
        """Build the network of the epoch's stage, with what is known so far in it."""
        stage = _stage(self.config, state.epoch)
        if stage == self.stage:
            return
        old_model, old_stage = self.model, self.stage
        first = old_model is None
        model = _compiled(self.config, stage, initialise=first and not resumed)
        if first and resumed:
            # A checkpoint written between two stages is still that of the stage before.
            written = _stage(self.config, state.epoch if state.step else max(state.epoch - 1, 0))
            if written != stage:
                self.model, self.stage = _compiled(self.config, written, initialise=False), written
                checkpoint.restore_variables(self.run.checkpoint, self.model)
                return self._enter(state, resumed=False)
            checkpoint.restore_variables(self.run.checkpoint, model)
        elif old_model is not None and old_stage is not None:
            same_phase = old_stage.blocks == stage.blocks
            values = checkpoint.all_variables if same_phase else _weights_and_seeds
            checkpoint.copy_variables(values(old_model), values(model))
            checkpoint.refresh(model)
        self.model, self.stage = model, stage
        return None

    def _epoch(self, state: RunState, stop: threading.Event) -> None:
        size = self.config.size_at(state.epoch)
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {size} px"
        with Progress(label, self.source.steps, unit="step", quiet=self.quiet) as progress:
            progress.advance(state.step)
            for batch in self.source.epoch(state.epoch, state.step):
                started = time.monotonic()
                loss = self._step(state, batch)
                state.seconds += time.monotonic() - started
                state.epoch_seconds += time.monotonic() - started
                progress.advance(1, f"loss {loss:.4f}  {self._time_left(state)}")
                self._maybe_save(state, stop)
        self._end_epoch(state)

    def _step(self, state: RunState, batch: MixedBatch) -> float:
        self.model.optimizer.learning_rate.assign(self._rate(state))
        logs = self.model.train_on_batch(
            batch.faces, batch.targets, batch.weights, return_dict=True
        )
        loss = float(logs["loss"])
        self._check_loss(loss, state)
        state.loss_sum += loss
        state.accuracy_sum += float(logs["accuracy"])
        state.step += 1
        return loss

    def _rate(self, state: RunState) -> float:
        settings = self.config.training
        if state.epoch < settings.head_epochs:
            return settings.head_learning_rate
        done = state.epoch - settings.head_epochs + state.step / self.source.steps
        return learning_rate(settings, progress=done, scale=state.plateau_scale)

    def _check_loss(self, loss: float, state: RunState) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss became {loss} in epoch {state.epoch + 1}, step {state.step + 1}; the "
                f"last good checkpoint and best.keras are kept in {self.run.path}: start again "
                "with a lower training.learning_rate"
            )

    def _maybe_save(self, state: RunState, stop: threading.Event) -> None:
        due = time.monotonic() - self.saved_at >= self.config.training.checkpoint_seconds
        if due or stop.is_set():
            self._save(state)
        if stop.is_set():
            raise KeyboardInterrupt

    def _save(self, state: RunState) -> None:
        checkpoint.save_checkpoint(self.run.checkpoint, self.model, state)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        done = state.epoch + state.step / self.source.steps
        left = state.seconds / done * (self.config.total_epochs - done)
        return f"all {format_duration(left)} left"

    # ------------------------------------------------------------ after each epoch
    def _end_epoch(self, state: RunState) -> None:
        with averaged_weights(self.model):
            probabilities = predict_probabilities(self.model, self.val.images)
            figures = validation_figures(probabilities, self.val.labels)
            if figures["val_accuracy"] > state.best_accuracy:
                state.best_accuracy, state.best_epoch = figures["val_accuracy"], state.epoch
                state.stale_epochs = 0
                self._keep_best(state)
            else:
                state.stale_epochs += 1
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
        run_folder.write_history(self.run.history, state.history)
        self._report(row, state)
        _update_plateau(state, figures["val_loss"], self.config)
        patience = self.config.training.early_stopping
        state.stopped_early = 0 < patience <= state.stale_epochs
        state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
        state.loss_sum = state.accuracy_sum = 0.0
        self._save(state)

    def _keep_best(self, state: RunState) -> None:
        """Save the weights that stand in the model in a bare copy, without its optimizer."""
        from mien.training.model import build_model

        bare = build_model(
            self.config.model, size=self.config.size_at(state.epoch), initialise=False
        )
        bare.set_weights(self.model.get_weights())
        checkpoint.refresh(bare)
        run_folder.write_atomically(self.run.best, lambda file: bare.save(file))

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

    def _finish(self, state: RunState) -> None:
        from mien.evaluation.curves import training_curves

        columns = {key: [row[key] for row in state.history] for key in state.history[0]}
        run_folder.write_atomically(self.run.curves, lambda file: training_curves(columns, file))
        best = state.history[state.best_epoch]
        run_folder.write_json(
            self.run.summary,
            {
                "run": self.run.name,
                "best": best,
                "epochs": len(state.history),
                "stopped_early": state.stopped_early,
                "seconds": round(state.seconds, 1),
            },
        )


def _weights_and_seeds(model: Any) -> list[Any]:
    return list(model.variables)


def _update_plateau(state: RunState, loss: float, config: Config) -> None:
    if loss < state.plateau_loss - 1e-4:
        state.plateau_loss, state.plateau_wait = loss, 0
        return
    state.plateau_wait += 1
    if config.training.schedule == "plateau" and (
        state.plateau_wait >= config.training.plateau_patience
    ):
        state.plateau_scale *= config.training.plateau_factor
        state.plateau_wait = 0


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn Ctrl-C and a polite kill into an event, so that a run stops between two steps, saved."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
