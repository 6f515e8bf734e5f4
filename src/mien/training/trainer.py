"""The training loop: a run from its start, or from its checkpoint, to its end.

::

    train, resume                      a new run; one that was stopped
      Trainer.fit                      epochs of two phases: the head alone, then fine-tuning
        enter_phase                    builds the network anew where a phase or the size changes
        _train_epoch                   steps; a checkpoint every few minutes, and on Ctrl-C
        _end_epoch                     validation of the averaged weights, best.keras, history

What a run is made of stands in its folder (`mien.training.run`). Every random number follows from
the seed, the epoch and the step, and a checkpoint holds all that changes besides: a run that was
stopped and resumed ends as one that never stopped, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
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
from mien.training import run as records
from mien.training.architectures import refresh
from mien.training.backend import check_installed, prepare_backend, seed_step
from mien.training.data import BatchSource, TrainingData, load_training_data, vote_log_odds
from mien.training.distillation import TeacherEnsemble
from mien.training.model import (
    accuracy_of,
    averaged_weights,
    build_model,
    compiled_model,
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
    from_folder,
    load_run_config,
)
from mien.training.run import RunFolder
from mien.training.transforms import Batch, Floats


def train(
    config: Config, folder: Path, *, quiet: bool = False, engine: type[Trainer] | None = None
) -> RunFolder:
    """Train a network and leave the run in a folder (see `mien.training.run`).

    Args:
        config: the recipe.
        folder: where; must not hold a run yet.
        quiet: draw no progress and print no epochs on stderr.
        engine: the training loop, `Trainer` unless given.

    Raises:
        UsageError: if the folder holds a run, or the recipe cannot be built; nothing is written.
        MissingExtra: if a package that training needs is not installed.
        InputError: if the starting weights cannot be had, or a teacher's cached logits are wrong.
        ModelError: if a teacher is missing or damaged.
        DataError: if the data are missing, empty, or fewer than a batch.
        TrainingDiverged: if the loss or the weights become NaN or infinite.
        OutputError: if something cannot be written; the last checkpoint stays whole.
        TrainingStopped: after Ctrl-C or SIGTERM, saved.
    """
    engine = engine or Trainer
    run = records.new_run(folder)
    engine.check(config)
    data = load_training_data(config, quiet=quiet)
    trainer = engine(config, run, data, quiet=quiet)
    state = RunState()
    trainer.enter_phase(state)
    environment = {
        **records.describe_environment(),
        "backend": config.training.backend,
        "seed": config.training.seed,
        "data": {split.name: split.class_counts() for split in (data.train, data.val)},
        "inputs": {"images": data.fingerprint(), **trainer.teacher_digests()},
    }
    records.write_json(run.environment, environment)
    records.write_text(run.config, config_to_toml(config))
    return trainer.fit(state)


def resume(folder: Path, *, quiet: bool = False, engine: type[Trainer] | None = None) -> RunFolder:
    """Go on with an interrupted run as if it had never stopped; arguments and errors as `train`.

    One that was stopped before its first checkpoint starts again; of one that has ended, only the
    history and the summary are written anew.

    Raises:
        InputError: if there is no run, its checkpoint is missing, damaged or of another recipe, or
            the data or the teachers are not those that it began with.
    """
    engine = engine or Trainer
    run = records.open_run(folder)
    config = from_folder(load_run_config(run), records.begun_in(run))
    engine.check(config)
    begun = run.checkpoint.exists() or run.history.exists()
    state, arrays = read_checkpoint(run.checkpoint) if begun else (RunState(), {})
    records.remove_leftovers(run)
    if state.history:
        # A kill between the checkpoint and the history leaves the file an epoch behind.
        records.write_history(run.history, state.history)
    if state.epoch >= config.total_epochs:
        return finish(config, run, state)
    data = load_training_data(config, quiet=quiet)
    trainer = engine(config, run, data, quiet=quiet)
    inputs = {"images": data.fingerprint(), **trainer.teacher_digests()}
    before = records.read_json(run.environment).get("inputs", {})
    if changed := [name for name in inputs if before.get(name) not in (None, inputs[name])]:
        raise InputError(
            f"the images or teachers are not those that {run.path} began with "
            f"({', '.join(changed)}): bring the old ones back, or start a new run"
        )
    if begun:
        trainer.restore(state, arrays)
    return trainer.fit(state)


# ---------------------------------------------------------------- where a run stands
_PLATEAU_MARGIN = 1e-4
_FROZEN_COST = 0.4
"""Of a step with a frozen backbone, as a share of one that trains it: no way back through it."""


@dataclass(frozen=True)
class Phase:
    """What changes the graph during a run.

    Attributes:
        blocks: last blocks of the backbone that are trained; 0 is the head alone, -1 all of it.
        size: side in pixels that faces are resized to.
    """

    blocks: int
    size: int

    @classmethod
    def at(cls, config: Config, epoch: int) -> Phase:
        """Return the phase that an epoch belongs to."""
        return cls(config.blocks_at(epoch), config.size_at(epoch))

    @property
    def step_cost(self) -> float:
        """What a step costs, relative to those of other phases."""
        return self.size**2 * (_FROZEN_COST if self.blocks == 0 else 1.0)


@dataclass
class RunState:
    """Where a run stands: what changes from step to step beside the network's variables.

    Attributes:
        epoch: the epoch that is under way, counted from 0 through both phases.
        step: steps of it that are done.
        loss_sum: of the losses of the steps since the last validation.
        accuracy_sum: of their accuracies.
        epoch_seconds: time spent on them, by all processes that went on with the run.
        history: one row a validation.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best validation accuracy, the first of several."""
        return max(self.history, key=lambda row: float(row["val_accuracy"]))

    def phase_start(self, config: Config) -> int:
        """Return the first epoch of the phase that is under way: head or fine-tuning."""
        return config.training.head_epochs if self.epoch >= config.training.head_epochs else 0

    def epochs_since_validation(self, config: Config) -> int:
        """Return how many epochs the sums are of, the one under way included."""
        last = self.history[-1]["epoch"] if self.history else 0
        return self.epoch + 1 - max(last, self.phase_start(config))

    def plateau_scale(self, config: Config) -> float:
        """Return what the "plateau" schedule multiplies the rate with; each phase begins anew."""
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
        """Count the epoch as done, or its whole phase where early stopping ends it.

        Without a validation, ``row`` is None and the sums go on.
        """
        head, start = config.training.head_epochs, self.phase_start(config)
        end = self.epoch + 1
        if row is not None:
            self.history.append(row)
            self.loss_sum = self.accuracy_sum = self.epoch_seconds = 0.0
            # Fine-tuning is judged by itself.
            stale_epochs = end - max(self.best["epoch"], start)
            if 0 < config.training.early_stopping <= stale_epochs:
                end = head if self.epoch < head else config.total_epochs
        self.epoch, self.step = end, 0


# ---------------------------------------------------------------- the loop
class Trainer:
    """Training loop of one run; resumes from its checkpoint.

    Attributes:
        model: the network under training, with all outputs.
        kept: a copy in Keras' own layers, filled at each validation: it is what is saved.
    """

    model: Any = None
    kept: Any = None

    def __init__(self, config: Config, run: RunFolder, data: TrainingData, *, quiet: bool) -> None:
        """Set up Keras and the teachers; raises as `train`."""
        self.config, self.run, self.val, self.quiet = config, run, data.val, quiet
        prepare_backend(config.training)
        self.teachers: TeacherEnsemble | None = None
        if config.distill.teachers:
            images, log_odds = data.train.images, None
            if data.counts is not None:
                log_odds = vote_log_odds(data.counts, data.train.labels)
            self.teachers = TeacherEnsemble(config, images, log_odds=log_odds, quiet=quiet)
            # Opening a network draws from the seed: whether one was must not change the student.
            prepare_backend(config.training)
        self.batches = BatchSource(data, config, self.teachers)
        self.steps = self.batches.steps
        self.phase: Phase | None = None
        self.start: list[Floats] = []
        self.saved_at = time.monotonic()
        self.is_compiled = False
        self.cost = self.cost_seconds = 0.0  # of the steps so far, for the time that is left

    @staticmethod
    def check(config: Config) -> None:
        """Raise what `train` does if a recipe cannot be trained here, before anything is read."""
        check_installed(config.training)

    def teacher_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher's network, by name."""
        return {} if self.teachers is None else self.teachers.identities()

    def fit(self, state: RunState) -> RunFolder:
        """Train to the end."""
        with stop_signals(self.run.path) as stop:
            while state.epoch < self.config.total_epochs:
                self.enter_phase(state)
                self._train_epoch(state, stop)
                self._end_epoch(state)
        return finish(self.config, self.run, state)

    # ------------------------------------------------------------ phases
    def enter_phase(self, state: RunState) -> None:
        """Build the network of the epoch's phase, with what is learnt so far in it."""
        phase, before, old = Phase.at(self.config, state.epoch), self.phase, self.model
        if phase == before:
            return
        self._build(phase, initialise=before is None)
        if before is not None:
            # The optimizer's moments go along to a larger size, not to other blocks.
            moments = before.blocks == phase.blocks
            values = all_variables if moments else lambda one: list(one.variables)
            for source, target in zip(values(old), values(self.model), strict=True):
                target.assign(source.numpy())
            refresh(self.model)

    def restore(self, state: RunState, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Build the network that a checkpoint was written of, and fill it."""
        # Between two phases, that is still the network of the phase before.
        phase = Phase.at(self.config, state.epoch if state.step else state.epoch - 1)
        self._build(phase, initialise=False)
        restore_variables(self.model, arrays, self.run.checkpoint)

    def _build(self, phase: Phase, *, initialise: bool) -> None:
        config, size = self.config, phase.size
        self.model = compiled_model(config, blocks=phase.blocks, size=size, initialise=initialise)
        classes = len(config.labels)
        self.kept = build_model(config.model, size=size, initialise=False, classes=classes)
        self.phase, self.is_compiled = phase, False

    # ------------------------------------------------------------ steps
    def _train_epoch(self, state: RunState, stop: threading.Event) -> None:
        assert self.phase is not None
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {self.phase.size} px"
        left = self.steps - state.step
        with (
            Progress(label, left, unit="step", quiet=self.quiet) as progress,
            contextlib.closing(self.batches.epoch(state.epoch, state.step)) as batches,
        ):
            for batch in batches:
                started = time.monotonic()
                loss = self._step(state, batch)
                spent = time.monotonic() - started
                state.epoch_seconds += spent
                if self.is_compiled:  # the first step of a phase compiles its graph
                    self.cost += self.phase.step_cost
                    self.cost_seconds += spent
                self.is_compiled = True
                progress.advance(1, f"loss {loss:.4f}{self._time_left(state)}")
                self._save_if_due(state, stop)

    def _step(self, state: RunState, batch: Batch) -> float:
        seed_step(self.config.training, state.epoch, state.step)
        self.model.optimizer.learning_rate.assign(self._rate(state))
        logs = self.model.train_on_batch(*step_arrays(batch), return_dict=True)
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", state)
        state.loss_sum += loss
        state.accuracy_sum += accuracy_of(logs)
        state.step += 1
        return loss

    def _rate(self, state: RunState) -> float:
        settings, scale = self.config.training, state.plateau_scale(self.config)
        if state.epoch < settings.head_epochs:
            return settings.head_learning_rate * scale
        done = state.epoch - settings.head_epochs + state.step / self.steps
        return learning_rate(settings, progress=done, scale=scale)

    def _save_if_due(self, state: RunState, stop: threading.Event) -> None:
        overdue = time.monotonic() - self.saved_at >= self.config.training.checkpoint_seconds
        if stop.is_set() or overdue:
            self._check_weights(state)
            self._save(state)
        if stop.is_set():
            raise TrainingStopped(
                f"stopped in epoch {state.epoch + 1} of {self.config.total_epochs} after step "
                f"{state.step} of {self.steps}, all saved; to go on: mien train --resume "
                f"{self.run.path}"
            )

    def _save(self, state: RunState) -> None:
        save_checkpoint(self.run.checkpoint, self.model, state)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        if not self.cost:
            return ""
        epochs = range(state.epoch, self.config.total_epochs)
        costs = [Phase.at(self.config, epoch).step_cost for epoch in epochs]
        left = sum(costs) * self.steps - costs[0] * state.step
        return f"  run {format_duration(self.cost_seconds / self.cost * left)} left"

    def _check_weights(self, state: RunState) -> None:
        # A step with a finite loss can still leave NaN behind, which only the next one would show.
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
        counted = self.steps * state.epochs_since_validation(config)
        row = {
            "epoch": state.epoch + 1,
            "phase": "head" if state.epoch < config.training.head_epochs else "fine-tune",
            "size": config.size_at(state.epoch),
            "loss": state.loss_sum / counted,
            "accuracy": state.accuracy_sum / counted,
            **validation_figures(probabilities, self.val.labels),
            "learning_rate": self._rate(state),
            "seconds": round(state.epoch_seconds, 1),
        }
        state.end_epoch(config, row)
        is_best = state.best is row
        if is_best:
            self._keep_best()
        if not self.quiet:
            records.report_epoch(row, total=config.total_epochs, best=is_best)
        # In this order: whatever a kill leaves undone, the checkpoint knows how to do again.
        self._save(state)
        records.write_history(self.run.history, state.history)

    def _validate(self) -> Floats:
        """Fill the network that is kept, and return its probabilities of the validation images."""
        settings, phase = self.config.training, self.phase
        assert phase is not None
        self.kept.set_weights(averaged_weights(self.model))
        refresh(self.kept)
        if settings.wise_ft_alpha < 1:
            interpolate_weights(self.kept, self._starting_weights(), settings.wise_ft_alpha)
        set_trainable(self.kept, blocks=phase.blocks)
        if settings.ema:
            plain = self.batches.plain_batches()
            recalibrate_batch_norms(
                self.kept, itertools.islice(plain, settings.bn_recalibration_batches)
            )
        set_trainable(self.kept, blocks=-1)
        return predict_probabilities(self.kept, self.val.images)

    def _starting_weights(self) -> list[Floats]:
        if not self.start:
            # Drawn as at the start, after a resumption too; nothing later draws from this seed.
            prepare_backend(self.config.training)
            size, classes = self.config.final_size, len(self.config.labels)
            network = build_model(self.config.model, size=size, classes=classes)
            self.start = [np.array(array) for array in network.get_weights()]
        return self.start

    def _keep_best(self) -> None:
        with records.saving(self.run.best) as temporary:
            self.kept.save(temporary)


# ---------------------------------------------------------------- learning rate
def learning_rate(settings: TrainingSettings, *, progress: float, scale: float = 1.0) -> float:
    """Return the rate in the second phase.

    Args:
        settings: peak, schedule and warm-up.
        progress: epochs of this phase done so far, a fraction within an epoch.
        scale: what "plateau" has multiplied the rate with so far.
    """
    if progress < settings.warmup_epochs:
        return settings.learning_rate * max(progress / settings.warmup_epochs, 1e-3)
    if settings.schedule != "cosine":
        return settings.learning_rate * scale
    start, end = settings.warmup_epochs, float(settings.epochs)
    highest, lowest = settings.learning_rate, 0.0
    if settings.large_learning_rate and settings.large_size:
        large_start = float(settings.epochs - settings.large_epochs)
        if progress < large_start:
            end, lowest = large_start, settings.large_learning_rate
        else:
            start, highest = large_start, settings.large_learning_rate
    share = min(1.0, (progress - start) / max(end - start, 1e-9))
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * share))


# ---------------------------------------------------------------- validation
predict_probabilities = predict  # of a network that ends in a softmax


def validation_figures(probabilities: Floats, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return cross-entropy, accuracy and macro-F1 of probabilities (N, 7) against labels (N,)."""
    from sklearn.metrics import f1_score

    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    return {
        "val_loss": float(-np.log(np.maximum(chosen, 1e-7)).mean()),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }


# ---------------------------------------------------------------- checkpoints
_DERIVED = {
    *("best_accuracy", "best_epoch", "stale_epochs", "epochs_counted", "plateau_scale"),
    *("plateau_loss", "plateau_wait", "seconds", "stopped_early", "skipped_epochs"),
    *("data", "teachers"),
}
"""What earlier versions stored too, and follows from the history or stands in the environment."""


def all_variables(model: Any) -> list[Any]:
    """Return a compiled model's weights, dropout states, moments and averages, in a fixed order."""
    return [*model.variables, *model.optimizer.variables]


def save_checkpoint(path: Path, model: Any, state: RunState) -> None:
    """Write a checkpoint, whole or not at all; raises OutputError if there is no room."""
    variables = enumerate(all_variables(model))
    arrays = {f"variable{index:04d}": np.asarray(variable.numpy()) for index, variable in variables}
    records.write_checkpoint(path, arrays, dataclasses.asdict(state))


def read_checkpoint(path: Path) -> tuple[RunState, dict[str, npt.NDArray[Any]]]:
    """Read a checkpoint; raises InputError if it is missing, damaged, or of a newer version."""
    values, arrays = records.read_checkpoint(path)
    values = {name: value for name, value in values.items() if name not in _DERIVED}
    unknown = sorted(set(values) - {item.name for item in dataclasses.fields(RunState)})
    if unknown:
        raise InputError(
            f"{path} holds {', '.join(unknown)}, which this version of mien does not know: "
            "resume with the version that wrote it"
        )
    return RunState(**values), arrays


def restore_variables(model: Any, arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Fill a compiled model with a checkpoint's variables; raises InputError if they don't fit."""
    variables, values = all_variables(model), [arrays[name] for name in sorted(arrays)]
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        raise InputError(
            f"{path} holds {len(values)} variables that are not the {len(variables)} of this "
            "network and its optimizer: it was written by another recipe or version of Keras"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    refresh(model)


# ---------------------------------------------------------------- stopping
class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the run between two steps; all is saved."""


@contextmanager
def stop_signals(folder: Path) -> Iterator[threading.Event]:
    """Turn SIGINT (Ctrl-C) and SIGTERM into an event that the trainer looks at after each step.

    The second signal stops at once; then the time since the last checkpoint is lost. Outside the
    main thread, where Python lets nobody listen to signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(
                f"stopped at once; to go on from the last checkpoint: mien train --resume {folder}"
            )
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


# ---------------------------------------------------------------- the end
def finish(config: Config, run: RunFolder, state: RunState) -> RunFolder:
    """Write the summary of a run that has ended; raises OutputError."""
    head = config.training.head_epochs
    ends = {row["phase"]: row["epoch"] for row in state.history}  # the last of each phase
    summary = {
        "run": run.name,
        "best": state.best,
        "epochs": ends.get("head", 0) + ends.get("fine-tune", head) - head,
        "stopped_early": state.history[-1]["epoch"] < config.total_epochs,
        "seconds": round(sum(row["seconds"] for row in state.history), 1),
    }
    records.write_json(run.summary, summary)
    return run
