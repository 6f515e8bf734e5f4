"""The training loop: a whole run, from its recipe or its checkpoint to the best network.

::

    train, resume                      start a run; continue an interrupted one
      Trainer.fit                      all epochs
        enter_stage                    rebuild the network if its graph changes
        _train_epoch                   steps: augmented batch -> train_on_batch -> weight average
        _end_epoch                     validate the averaged weights; history.csv, best.keras

A run has two phases: ``head_epochs`` epochs train the dense head on a frozen backbone, then
``epochs`` epochs fine-tune the last blocks or all of it. A stage is a span of epochs with the same
trainable blocks and input size; fine-tuning may have several. The loss is the cross-entropy with
the labels (smoothed, weighted by class) or with shares of votes; a recipe can mix in the divergence
from teachers' predictions, and train a second head on votes.

The network that is validated and saved is not the one being trained: it has the moving average
(EMA) of the weights, interpolated with the initial ones if the recipe says so (WiSE-FT), and
BatchNorm statistics recomputed for them.

All randomness derives from the seed, the epoch and the step, and the checkpoint holds everything
else that changes, so a resumed run ends with the same bits as an uninterrupted one. The files of a
run are described in `mien.training.run_folder`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, TrainingDiverged
from mien.core.progress import Progress, format_duration
from mien.training import run_folder
from mien.training.architectures import update_normalization
from mien.training.backend import check_installed, prepare_backend, seed_step
from mien.training.data import BatchSource, TrainingData, load_training_data, vote_log_odds
from mien.training.distillation import TeacherEnsemble
from mien.training.model import (
    batch_accuracy,
    build_model,
    compiled_model,
    ema_weights,
    interpolate_weights,
    predict,
    recalibrate_batch_norms,
    set_trainable,
    step_arrays,
)
from mien.training.recipe import (
    Config,
    TrainingSettings,
    config_to_toml,
    load_run_config,
    resolve_paths,
)
from mien.training.run_folder import RunFolder
from mien.training.transforms import Batch, Floats


# ---------------------------------------------------------------- starting and resuming
def train(
    config: Config,
    folder: Path,
    *,
    quiet: bool = False,
    trainer_class: type[Trainer] | None = None,
) -> RunFolder:
    """Train a network.

    Args:
        config: the recipe.
        folder: folder of the run; must not hold one yet.
        quiet: no progress bars and no line per epoch on stderr.
        trainer_class: the training loop, `Trainer` by default.

    Returns:
        The run's folder with all its files, see `mien.training.run_folder`.

    Raises:
        UsageError: if the folder holds a run, or the recipe cannot be built; nothing is written.
        MissingExtra: if a package needed for training is not installed.
        InputError: if the starting weights are unavailable, or a teacher's cached logits are wrong.
        ModelError: if a teacher is missing or damaged.
        DataError: if the data are missing, empty, or fewer than a batch.
        TrainingDiverged: if the loss or the weights become NaN or infinite.
        OutputError: if a file cannot be written; the last checkpoint stays intact.
        TrainingStopped: after Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    trainer_class = trainer_class or Trainer
    run = run_folder.new_run(folder)
    trainer_class.check(config)
    data = load_training_data(config, quiet=quiet)
    trainer = trainer_class(config, run, data, quiet=quiet)
    state = RunState()
    trainer.enter_stage(state)  # fails on a recipe that cannot be built, before anything is written
    environment = {
        **run_folder.describe_environment(),
        "backend": config.training.backend,
        "seed": config.training.seed,
        "data": {split.name: split.class_counts() for split in (data.train, data.val)},
        "inputs": {"images": data.fingerprint(), **trainer.teacher_digests()},
    }
    run_folder.write_json(run.environment, environment)
    run_folder.write_text(run.config, config_to_toml(config))
    return trainer.fit(state)


def resume(
    folder: Path, *, quiet: bool = False, trainer_class: type[Trainer] | None = None
) -> RunFolder:
    """Continue an interrupted run as if it had never stopped; arguments and errors as in `train`.

    A run without a checkpoint starts from the beginning. For a finished run, only the history and
    the summary are rewritten.

    Raises:
        InputError: if there is no run, its checkpoint is missing, damaged or from another recipe,
            or the data or the teachers have changed since the run was started.
    """
    trainer_class = trainer_class or Trainer
    run = run_folder.open_run(folder)
    config = resolve_paths(load_run_config(run), run_folder.starting_directory(run))
    trainer_class.check(config)
    has_progress = run.checkpoint.exists() or run.history.exists()
    state, arrays = read_checkpoint(run.checkpoint) if has_progress else (RunState(), {})
    run_folder.remove_partial_files(run)
    if state.history:
        # A kill between writing the checkpoint and the history leaves the file an epoch behind.
        run_folder.write_history(run.history, state.history)
    if state.epoch >= config.total_epochs:
        write_summary(config, run, state)
        return run
    data = load_training_data(config, quiet=quiet)
    trainer = trainer_class(config, run, data, quiet=quiet)
    inputs = {"images": data.fingerprint(), **trainer.teacher_digests()}
    recorded = run_folder.read_json(run.environment).get("inputs", {})
    if changed := [name for name in inputs if recorded.get(name) not in (None, inputs[name])]:
        raise InputError(
            f"the images or teachers of {run.path} have changed since it was started "
            f"({', '.join(changed)}): restore the old ones, or start a new run"
        )
    if has_progress:
        trainer.restore(state, arrays)
    return trainer.fit(state)


# ---------------------------------------------------------------- stages and progress of a run
_PLATEAU_MARGIN = 1e-4
_FROZEN_STEP_COST = 0.4
"""Cost of a step with a frozen backbone, which needs no backward pass through it, relative to a
step that trains it."""


@dataclass(frozen=True)
class Stage:
    """Span of epochs with the same graph; the network is rebuilt where the next one begins.

    Attributes:
        blocks: number of last backbone blocks that are trained; 0 is the head alone, -1 all.
        size: side in pixels to which faces are resized.
    """

    blocks: int
    size: int

    @classmethod
    def of_epoch(cls, config: Config, epoch: int) -> Stage:
        """Return the stage of an epoch."""
        return cls(config.blocks_at(epoch), config.size_at(epoch))

    @property
    def step_cost(self) -> float:
        """Cost of a step relative to those of other stages."""
        return self.size**2 * (_FROZEN_STEP_COST if self.blocks == 0 else 1.0)


@dataclass
class RunState:
    """Progress of a run. A checkpoint holds this state and the network's variables.

    Attributes:
        epoch: the current epoch, counted from 0 through both phases.
        step: steps done in the current epoch.
        loss_sum: sum of the step losses since the last validation.
        accuracy_sum: sum of the step accuracies since the last validation.
        epoch_seconds: time spent on these steps, also by earlier processes of the run.
        history: one row per validation.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any]:
        """The row with the highest validation accuracy, the first if several have it."""
        return max(self.history, key=lambda row: float(row["val_accuracy"]))

    def phase_start(self, config: Config) -> int:
        """Return the first epoch of the current phase, head or fine-tuning."""
        return config.training.head_epochs if self.epoch >= config.training.head_epochs else 0

    def epochs_since_validation(self, config: Config) -> int:
        """Return the number of epochs that the sums cover, including the current one."""
        last = self.history[-1]["epoch"] if self.history else 0
        return self.epoch + 1 - max(last, self.phase_start(config))

    def plateau_scale(self, config: Config) -> float:
        """Return the factor of the "plateau" schedule; each phase starts from 1."""
        settings, start = config.training, self.phase_start(config)
        scale, lowest, wait = 1.0, math.inf, 0
        if settings.schedule != "plateau":
            return scale
        for row in self.history:
            if row["epoch"] <= start:
                continue
            wait += 1
            if row["val_loss"] < lowest - _PLATEAU_MARGIN:
                lowest, wait = row["val_loss"], 0
            elif wait >= settings.plateau_patience:
                scale, wait = scale * settings.plateau_factor, 0
        return scale

    def end_epoch(self, config: Config, row: dict[str, Any] | None) -> None:
        """Advance to the next epoch, or to the end of the phase if early stopping ends it.

        Args:
            config: the recipe.
            row: the epoch's row of the history; None for an epoch without validation, after which
                the sums continue.
        """
        head, start = config.training.head_epochs, self.phase_start(config)
        end = self.epoch + 1
        if row is not None:
            self.history.append(row)
            self.loss_sum = self.accuracy_sum = self.epoch_seconds = 0.0
            # Each phase has its own patience.
            stale_epochs = end - max(self.best["epoch"], start)
            if 0 < config.training.early_stopping <= stale_epochs:
                end = head if self.epoch < head else config.total_epochs
        self.epoch, self.step = end, 0


# ---------------------------------------------------------------- the loop
class Trainer:
    """Training loop of one run.

    Attributes:
        model: the network being trained, compiled, with the outputs that only training needs.
        eval_model: the network that is validated and saved; receives the averaged weights.
    """

    model: Any = None
    eval_model: Any = None

    def __init__(self, config: Config, run: RunFolder, data: TrainingData, *, quiet: bool) -> None:
        """Set up Keras, the batches and the teachers; raises as `train`."""
        self.config, self.run, self.val, self.quiet = config, run, data.val, quiet
        prepare_backend(config.training)
        self.teachers: TeacherEnsemble | None = None
        if config.distill.teachers:
            images, log_odds = data.train.images, None
            if data.counts is not None:
                log_odds = vote_log_odds(data.counts, data.train.labels)
            self.teachers = TeacherEnsemble(config, images, log_odds=log_odds, quiet=quiet)
            # Loading a teacher consumes random numbers; seed again, so that the student is the
            # same whether the teachers were loaded or their logits read from the cache.
            prepare_backend(config.training)
        self.batches = BatchSource(data, config, self.teachers)
        self.steps = self.batches.steps
        self.stage: Stage | None = None
        self.initial_weights: list[Floats] = []
        self.saved_at = time.monotonic()
        self.is_compiled = False
        self.cost_done = self.cost_seconds = 0.0  # of this process, to estimate the time left

    @staticmethod
    def check(config: Config) -> None:
        """Check, before data are read, that this machine can train a recipe; raises as `train`."""
        check_installed(config.training)

    def teacher_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher's network, by name."""
        return {} if self.teachers is None else self.teachers.digests()

    def fit(self, state: RunState) -> RunFolder:
        """Train from the given state to the end of the run."""
        with stop_signals(self.run.path) as stop:
            while state.epoch < self.config.total_epochs:
                self.enter_stage(state)
                self._train_epoch(state, stop)
                self._end_epoch(state)
        write_summary(self.config, self.run, state)
        return self.run

    # ------------------------------------------------------------ stages
    def enter_stage(self, state: RunState) -> None:
        """Build the network of the epoch's stage if it is new, and carry over the weights."""
        stage, previous, old = Stage.of_epoch(self.config, state.epoch), self.stage, self.model
        if stage == previous:
            return
        self._build(stage, initialise=previous is None)
        if previous is None:
            return
        # A new size keeps the optimizer's moments; other trainable blocks reset them.
        if previous.blocks == stage.blocks:
            sources, targets = all_variables(old), all_variables(self.model)
        else:
            sources, targets = old.variables, self.model.variables
        for source, target in zip(sources, targets, strict=True):
            target.assign(source.numpy())
        update_normalization(self.model)

    def restore(self, state: RunState, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Build the network a checkpoint was written from, and load the checkpoint."""
        # A checkpoint from the end of an epoch has that epoch's network, not yet the next stage's.
        stage = Stage.of_epoch(self.config, state.epoch if state.step else state.epoch - 1)
        self._build(stage, initialise=False)
        restore_variables(self.model, arrays, self.run.checkpoint)

    def _build(self, stage: Stage, *, initialise: bool) -> None:
        config, size = self.config, stage.size
        self.model = compiled_model(config, blocks=stage.blocks, size=size, initialise=initialise)
        classes = len(config.labels)
        self.eval_model = build_model(config.model, size=size, initialise=False, classes=classes)
        self.stage, self.is_compiled = stage, False

    # ------------------------------------------------------------ steps
    def _train_epoch(self, state: RunState, stop: threading.Event) -> None:
        assert self.stage is not None
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {self.stage.size} px"
        with (
            Progress(label, self.steps - state.step, unit="step", quiet=self.quiet) as progress,
            contextlib.closing(self.batches.epoch(state.epoch, state.step)) as batches,
        ):
            for batch in batches:
                started = time.monotonic()
                loss = self._train_step(state, batch)
                seconds = time.monotonic() - started
                state.epoch_seconds += seconds
                if self.is_compiled:  # the first step of a stage compiles the graph
                    self.cost_done += self.stage.step_cost
                    self.cost_seconds += seconds
                self.is_compiled = True
                progress.advance(1, f"loss {loss:.4f}{self._time_left(state)}")
                self._checkpoint_if_due(state, stop)

    def _train_step(self, state: RunState, batch: Batch) -> float:
        seed_step(self.config.training, state.epoch, state.step)
        self.model.optimizer.learning_rate.assign(self._learning_rate(state))
        logs = self.model.train_on_batch(*step_arrays(batch), return_dict=True)
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", state)
        state.loss_sum += loss
        state.accuracy_sum += batch_accuracy(logs)
        state.step += 1
        return loss

    def _learning_rate(self, state: RunState) -> float:
        settings, scale = self.config.training, state.plateau_scale(self.config)
        if state.epoch < settings.head_epochs:
            return settings.head_learning_rate * scale
        progress = state.epoch - settings.head_epochs + state.step / self.steps
        return learning_rate(settings, progress=progress, scale=scale)

    def _checkpoint_if_due(self, state: RunState, stop: threading.Event) -> None:
        is_due = time.monotonic() - self.saved_at >= self.config.training.checkpoint_seconds
        if stop.is_set() or is_due:
            self._check_weights(state)
            self._save_checkpoint(state)
        if stop.is_set():
            raise TrainingStopped(
                f"stopped in epoch {state.epoch + 1} of {self.config.total_epochs} after step "
                f"{state.step} of {self.steps}, all saved; to continue: mien train --resume "
                f"{self.run.path}"
            )

    def _save_checkpoint(self, state: RunState) -> None:
        save_checkpoint(self.run.checkpoint, variable_arrays(self.model), state)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        if not self.cost_done:
            return ""
        epochs = range(state.epoch, self.config.total_epochs)
        costs = [Stage.of_epoch(self.config, epoch).step_cost for epoch in epochs]
        cost_left = sum(costs) * self.steps - costs[0] * state.step
        return f"  run {format_duration(self.cost_seconds / self.cost_done * cost_left)} left"

    def _check_weights(self, state: RunState) -> None:
        # A step with a finite loss can still produce NaN weights, which only the next would show.
        if not all(np.isfinite(variable.numpy()).all() for variable in all_variables(self.model)):
            raise self._diverged("the weights became NaN or infinite", state)

    def _diverged(self, what: str, state: RunState) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} in epoch {state.epoch + 1}, step {state.step + 1}; the last good checkpoint "
            f"and best.keras are kept in {self.run.path}: start a new run with a lower "
            "training.learning_rate or training.head_learning_rate"
        )

    # ------------------------------------------------------------ after each epoch
    def _end_epoch(self, state: RunState) -> None:
        config = self.config
        if not config.is_validated(state.epoch):
            state.end_epoch(config, None)
            return
        self._check_weights(state)
        probabilities = self._validate()
        if not np.isfinite(probabilities).all():
            raise self._diverged("the probabilities became NaN", state)
        steps = self.steps * state.epochs_since_validation(config)
        row = {
            "epoch": state.epoch + 1,
            "phase": "head" if state.epoch < config.training.head_epochs else "fine-tune",
            "size": config.size_at(state.epoch),
            "loss": state.loss_sum / steps,
            "accuracy": state.accuracy_sum / steps,
            **validation_metrics(probabilities, self.val.labels),
            "learning_rate": self._learning_rate(state),
            "seconds": round(state.epoch_seconds, 1),
        }
        state.end_epoch(config, row)
        is_best = state.best is row
        if is_best:
            self._save_best()
        if not self.quiet:
            run_folder.report_epoch(row, total=config.total_epochs, best=is_best)
        # The order matters: a run killed in between is completed from the checkpoint.
        self._save_checkpoint(state)
        run_folder.write_history(self.run.history, state.history)

    def _validate(self) -> Floats:
        """Load the averaged weights into ``eval_model`` and classify the validation images."""
        settings, stage = self.config.training, self.stage
        assert stage is not None
        self.eval_model.set_weights(ema_weights(self.model))
        update_normalization(self.eval_model)
        if settings.wise_ft_alpha < 1:
            initial = self._load_initial_weights()
            interpolate_weights(self.eval_model, initial, settings.wise_ft_alpha)
        if settings.ema:
            # Only trained layers need new statistics; frozen ones keep theirs.
            set_trainable(self.eval_model, blocks=stage.blocks)
            batches = self.batches.plain_batches()
            count = settings.bn_recalibration_batches
            recalibrate_batch_norms(self.eval_model, itertools.islice(batches, count))
            set_trainable(self.eval_model, blocks=-1)
        return predict(self.eval_model, self.val.images)

    def _load_initial_weights(self) -> list[Floats]:
        if not self.initial_weights:
            # Seeded as at the start, so that a resumed run draws the same weights; nothing later
            # depends on the state that this leaves behind.
            prepare_backend(self.config.training)
            size, classes = self.config.final_size, len(self.config.labels)
            network = build_model(self.config.model, size=size, classes=classes)
            self.initial_weights = [np.array(array) for array in network.get_weights()]
        return self.initial_weights

    def _save_best(self) -> None:
        with run_folder.saving(self.run.best) as temporary:
            self.eval_model.save(temporary)


# ---------------------------------------------------------------- learning rate
def learning_rate(settings: TrainingSettings, *, progress: float, scale: float = 1.0) -> float:
    """Return the learning rate in the fine-tuning phase.

    Args:
        settings: peak, schedule and warm-up.
        progress: epochs of this phase done so far, with the fraction of the current one.
        scale: factor of the "plateau" schedule.
    """
    if progress < settings.warmup_epochs:
        return settings.learning_rate * max(progress / settings.warmup_epochs, 1e-3)
    if settings.schedule != "cosine":
        return settings.learning_rate * scale
    start, end = settings.warmup_epochs, float(settings.epochs)
    highest, lowest = settings.learning_rate, 0.0
    if settings.large_learning_rate and settings.large_size:
        # Two cosines: down to large_learning_rate before the size changes, from it to 0 after.
        large_start = float(settings.epochs - settings.large_epochs)
        if progress < large_start:
            end, lowest = large_start, settings.large_learning_rate
        else:
            start, highest = large_start, settings.large_learning_rate
    fraction = min(1.0, (progress - start) / max(end - start, 1e-9))
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * fraction))


# ---------------------------------------------------------------- validation
def validation_metrics(probabilities: Floats, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return cross-entropy, accuracy and macro-F1 of (N, classes) probabilities for labels (N,)."""
    from sklearn.metrics import f1_score

    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    return {
        "val_loss": float(-np.log(np.maximum(of_label, 1e-7)).mean()),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }


# ---------------------------------------------------------------- checkpoints
_STATE_KEY = "state"
_LEGACY_STATE = {
    *("best_accuracy", "best_epoch", "stale_epochs", "epochs_counted", "plateau_scale"),
    *("plateau_loss", "plateau_wait", "seconds", "stopped_early", "skipped_epochs"),
    *("data", "teachers"),
}
"""Fields in the checkpoints of earlier versions, now derived from the history or elsewhere."""


def all_variables(model: Any) -> list[Any]:
    """Return weights, dropout states, optimizer moments and averages, in a fixed order."""
    return [*model.variables, *model.optimizer.variables]


def variable_arrays(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the values of `all_variables` under names that sort in their order."""
    variables = enumerate(all_variables(model))
    return {f"variable{index:04d}": np.asarray(variable.numpy()) for index, variable in variables}


def save_checkpoint(path: Path, arrays: Mapping[str, npt.NDArray[Any]], state: RunState) -> None:
    """Write named arrays and the state as a ``.npz`` file; raises OutputError."""
    text = np.frombuffer(json.dumps(dataclasses.asdict(state)).encode(), np.uint8)
    with run_folder.saving(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{**arrays, _STATE_KEY: text})  # type: ignore[arg-type]


def read_checkpoint(path: Path) -> tuple[RunState, dict[str, npt.NDArray[Any]]]:
    """Read a checkpoint; raises InputError if it is missing, damaged, or of a newer version."""
    try:
        # Opened here because NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        values = json.loads(arrays.pop(_STATE_KEY).tobytes().decode())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: this run has no checkpoint to resume from") from error
    except run_folder.ARCHIVE_ERRORS as error:
        raise InputError(
            f"{path} is damaged: restore it from a copy, or start a new run"
        ) from error
    values = {name: value for name, value in values.items() if name not in _LEGACY_STATE}
    unknown = sorted(set(values) - {item.name for item in dataclasses.fields(RunState)})
    if unknown:
        raise InputError(
            f"{path} holds {', '.join(unknown)}, which this version of mien does not know: "
            "resume with the version that wrote it"
        )
    return RunState(**values), arrays


def restore_variables(model: Any, arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Load a checkpoint's variables into a compiled model; raises InputError if they don't fit."""
    variables, values = all_variables(model), [arrays[name] for name in sorted(arrays)]
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        raise InputError(
            f"{path} holds {len(values)} variables that do not match the {len(variables)} of this "
            "network and its optimizer: it was written by another recipe or version of Keras"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    update_normalization(model)


# ---------------------------------------------------------------- stopping
class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the run between two steps, after its checkpoint was written."""


@contextmanager
def stop_signals(folder: Path) -> Iterator[threading.Event]:
    """Turn SIGINT (Ctrl-C) and SIGTERM into an event, which the trainer checks after each step.

    A second signal stops at once and loses the time since the last checkpoint. Outside the main
    thread, where Python does not allow signal handlers, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(
                "stopped at once; to continue from the last checkpoint: "
                f"mien train --resume {folder}"
            )
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, on_signal) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)


# ---------------------------------------------------------------- summary
def write_summary(config: Config, run: RunFolder, state: RunState) -> None:
    """Write the summary of a finished run; raises OutputError."""
    head = config.training.head_epochs
    last_epochs = {row["phase"]: row["epoch"] for row in state.history}
    summary = {
        "run": run.name,
        "best": state.best,
        "epochs": last_epochs.get("head", 0) + last_epochs.get("fine-tune", head) - head,
        "stopped_early": state.history[-1]["epoch"] < config.total_epochs,
        "seconds": round(sum(row["seconds"] for row in state.history), 1),
    }
    run_folder.write_json(run.summary, summary)
