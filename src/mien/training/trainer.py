"""The training loop: a run from its start, or from its checkpoint, to its end.

::

    train, resume                      a new run; one that was stopped
      Trainer.fit                      epochs of two phases: the head alone, then fine-tuning
        _enter_phase                   builds the network anew where a phase or the size changes
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
from mien.training.backend import check_installed, prepare_backend, seed_step
from mien.training.data import BatchSource, TrainingData, load_training_data, vote_log_odds
from mien.training.distillation import TeacherEnsemble
from mien.training.model import (
    accuracy_of,
    batch_norms,
    build_model,
    compiled_model,
    kept_network,
    refresh,
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
from mien.training.transforms import Batch, Faces, Floats


def train(config: Config, folder: Path, *, quiet: bool = False) -> RunFolder:
    """Train a network and leave the run in a folder (see `mien.training.run`).

    Args:
        config: the recipe.
        folder: where; must not hold a run yet.
        quiet: draw no progress and print no epochs on stderr.

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
    run = records.new_run(folder)
    check_installed(config.training)
    data = load_training_data(config, quiet=quiet)
    trainer = Trainer(config, run, data, quiet=quiet)
    state = RunState(data=data.fingerprint(), teachers=trainer.teacher_digests())
    trainer.enter_phase(state)
    records.write_json(run.environment, environment(config, data))
    records.write_text(run.config, config_to_toml(config))
    return trainer.fit(state)


def resume(folder: Path, *, quiet: bool = False) -> RunFolder:
    """Go on with an interrupted run as if it had never stopped; raises as `train`.

    One that was stopped before its first checkpoint starts again; of one that has ended, only the
    curves and the summary are written anew.

    Raises:
        InputError: if there is no run, its checkpoint is missing, damaged or of another recipe, or
            the data or the teachers are not those that it began with.
    """
    run = records.open_run(folder)
    config = from_folder(load_run_config(run), records.begun_in(run))
    check_installed(config.training)
    begun = run.checkpoint.exists() or run.history.exists()
    state = read_state(run.checkpoint) if begun else RunState()
    records.remove_leftovers(run)
    if state.history:
        # A kill between the checkpoint and the history leaves the file an epoch behind.
        records.write_history(run.history, state.history)
    if state.is_over(config):
        return finish(run, state)
    data = load_training_data(config, quiet=quiet)
    if state.data and state.data != data.fingerprint():
        raise InputError(
            f"the images of {config.data.source} are not those that {run.path} began with: "
            "bring the old ones back, or start a new run"
        )
    trainer = Trainer(config, run, data, quiet=quiet)
    teachers = trainer.teacher_digests()
    if state.teachers and state.teachers != teachers:
        changed = ", ".join(name for name in teachers if teachers[name] != state.teachers.get(name))
        raise InputError(
            f"the teachers are not those that {run.path} began with ({changed}): "
            "bring the old ones back, or start a new run"
        )
    if begun:
        trainer.restore(state)
    state.data, state.teachers = data.fingerprint(), teachers
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
        best_accuracy: best validation accuracy so far, and `best_epoch` its epoch.
        stale_epochs: epochs since then, in this phase.
        loss_sum: of the losses of the steps since the last validation, and `accuracy_sum` of their
            accuracies.
        epochs_counted: epochs that these belong to, the one under way included.
        plateau_scale: what the "plateau" schedule multiplies the rate with.
        plateau_loss: lowest validation loss of this phase, and `plateau_wait` the epochs since.
        seconds: time spent training, of all processes that went on with the run.
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


# ---------------------------------------------------------------- the loop
class Trainer:
    """Training loop of one run; resumes from its checkpoint."""

    def __init__(self, config: Config, run: RunFolder, data: TrainingData, *, quiet: bool) -> None:
        """Set up Keras and the teachers; raises as `train`."""
        self.config, self.run, self.val = config, run, data.val
        self.quiet = quiet
        prepare_backend(config.training)
        self.teachers: TeacherEnsemble | None = None
        if config.distill.teachers:
            log_odds = None
            if data.counts is not None:
                log_odds = vote_log_odds(data.counts, data.train.labels)
            images = data.train.images
            self.teachers = TeacherEnsemble(config, images, log_odds=log_odds, quiet=self.quiet)
            # Opening a network draws from the seed: whether one was must not change the student.
            prepare_backend(config.training)
        self.batches = BatchSource(data, config, self.teachers)
        self.phase: Phase | None = None
        self.model: Any = None  # under training, with all outputs
        self.network: Any = None  # the same layers, as they are kept
        self.bare: Any = None  # a copy of that without its optimizer, to be saved
        self.start: dict[tuple[str, str], Floats] = {}
        self.throughput = Throughput()
        self.saved_at = time.monotonic()

    def teacher_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher's network, by name."""
        return {} if self.teachers is None else self.teachers.identities()

    def fit(self, state: RunState) -> RunFolder:
        """Train to the end."""
        with stop_signals(self.run.path) as stop:
            while not state.is_over(self.config):
                self.enter_phase(state)
                self._train_epoch(state, stop)
                self._end_epoch(state)
        return finish(self.run, state)

    # ------------------------------------------------------------ phases
    def enter_phase(self, state: RunState) -> None:
        """Build the network of the epoch's phase, with what is learnt so far in it."""
        phase = Phase.at(self.config, state.epoch)
        if phase == self.phase:
            return
        model = self._compiled(phase, initialise=self.model is None)
        if self.phase is not None:
            # The optimizer's moments go along to a larger size, not to other blocks.
            same_blocks = self.phase.blocks == phase.blocks
            values = all_variables if same_blocks else lambda one: list(one.variables)
            for old, new in zip(values(self.model), values(model), strict=True):
                new.assign(old.numpy())
            refresh(model)
        self._take(model, phase)

    def restore(self, state: RunState) -> None:
        """Build the network that the checkpoint was written of, and fill it."""
        # Between two phases, that is still the network of the phase before.
        phase = Phase.at(self.config, state.epoch if state.step else state.epoch - 1)
        model = self._compiled(phase, initialise=False)
        restore_variables(self.run.checkpoint, model)
        self._take(model, phase)

    def _compiled(self, phase: Phase, *, initialise: bool) -> Any:
        return compiled_model(
            self.config, blocks=phase.blocks, size=phase.size, initialise=initialise
        )

    def _take(self, model: Any, phase: Phase) -> None:
        self.model, self.network, self.phase = model, kept_network(model), phase
        self.bare = None
        self.throughput.skip_one()

    # ------------------------------------------------------------ steps
    def _train_epoch(self, state: RunState, stop: threading.Event) -> None:
        assert self.phase is not None
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {self.phase.size} px"
        left = self.batches.steps - state.step
        with (
            Progress(label, left, unit="step", quiet=self.quiet) as progress,
            contextlib.closing(self.batches.epoch(state.epoch, state.step)) as batches,
        ):
            for batch in batches:
                started = time.monotonic()
                loss = self._step(state, batch)
                spent = time.monotonic() - started
                state.seconds += spent
                state.epoch_seconds += spent
                self.throughput.count(self.phase.step_cost, spent)
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
        settings = self.config.training
        if state.epoch < settings.head_epochs:
            return settings.head_learning_rate * state.plateau_scale
        done = state.epoch - settings.head_epochs + state.step / self.batches.steps
        return learning_rate(settings, progress=done, scale=state.plateau_scale)

    def _save_if_due(self, state: RunState, stop: threading.Event) -> None:
        overdue = time.monotonic() - self.saved_at >= self.config.training.checkpoint_seconds
        if stop.is_set() or overdue:
            self._check_weights(state)
            self._save(state)
        if stop.is_set():
            raise stopped(self.config, self.run, state, steps=self.batches.steps)

    def _save(self, state: RunState) -> None:
        save_checkpoint(self.run.checkpoint, self.model, state)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        epochs = range(self.config.total_epochs)
        costs = [Phase.at(self.config, epoch).step_cost for epoch in epochs]
        left = sum(costs[state.epoch :]) * self.batches.steps - costs[state.epoch] * state.step
        seconds = self.throughput.seconds_for(left)
        return "" if seconds is None else f"  run {format_duration(seconds)} left"

    def _check_weights(self, state: RunState) -> None:
        # A step with a finite loss can still leave NaN behind, which only the next one would show.
        if not all(np.isfinite(variable.numpy()).all() for variable in all_variables(self.model)):
            raise self._diverged("the weights became NaN or infinite", state)

    def _diverged(self, what: str, state: RunState) -> TrainingDiverged:
        return diverged(f"{what} in epoch {state.epoch + 1}, step {state.step + 1}", self.run)

    # ------------------------------------------------------------ after each epoch
    def _end_epoch(self, state: RunState) -> None:
        if not self.config.is_validated(state.epoch):
            state.skip_validation()
            return
        self._check_weights(state)
        figures = self._validate(state)
        steps, rate = self.batches.steps, self._rate(state)
        row = history_row(self.config, state, figures, steps=steps, rate=rate)
        state.history.append(row)
        if not self.quiet:
            best = state.best_epoch == state.epoch
            records.report_epoch(row, total=self.config.total_epochs, best=best)
        state.end_epoch(figures["val_loss"], self.config)
        # In this order: whatever a kill leaves undone, the checkpoint knows how to do again.
        self._save(state)
        records.write_history(self.run.history, state.history)

    def _validate(self, state: RunState) -> dict[str, float]:
        """Return the figures of the averaged weights, which are kept if they are the best."""
        settings = self.config.training
        seed_step(settings, state.epoch, state.step)
        with (
            averaged_weights(self.model, start=self._start(), alpha=settings.wise_ft_alpha),
            recalibrated_statistics(
                self.model, self.batches.plain_batches(), count=settings.bn_recalibration_batches
            ),
        ):
            probabilities = predict_probabilities(self.network, self.val.images)
            if not np.isfinite(probabilities).all():
                raise self._diverged("the probabilities became NaN", state)
            figures = validation_figures(probabilities, self.val.labels)
            state.stale_epochs += state.epochs_counted
            if figures["val_accuracy"] > state.best_accuracy:
                state.best_accuracy, state.best_epoch = figures["val_accuracy"], state.epoch
                state.stale_epochs = 0
                self._keep_best()
        return figures

    def _start(self) -> dict[tuple[str, str], Floats]:
        """Return the weights that the run started from, where a part of them is kept."""
        if self.config.training.wise_ft_alpha < 1 and not self.start:
            # Drawn as at the start, after a resumption too; nothing later draws from this seed.
            prepare_backend(self.config.training)
            size, classes = self.config.final_size, len(self.config.labels)
            network = build_model(self.config.model, size=size, classes=classes)
            prepare_backend(self.config.training)
            self.start = {
                name: np.array(variable.numpy()) for name, variable in _trained(network).items()
            }
        return self.start

    def _keep_best(self) -> None:
        """Save the weights that stand in the model in a copy of Keras' own layers."""
        assert self.phase is not None
        if self.bare is None:
            classes = len(self.config.labels)
            self.bare = build_model(
                self.config.model, size=self.phase.size, initialise=False, classes=classes
            )
        self.bare.set_weights(self.network.get_weights())
        refresh(self.bare)
        with records.saving(self.run.best) as temporary:
            self.bare.save(temporary)


class Throughput:
    """Seconds for each unit of cost, over the steps seen so far; see `Phase.step_cost`."""

    def __init__(self) -> None:
        """Begin without having seen any; the first step is not counted."""
        self._seconds = self._cost = 0.0
        self._skip = True

    def skip_one(self) -> None:
        """Leave the next step out: it compiles the network's graph, as no other will."""
        self._skip = True

    def count(self, cost: float, seconds: float) -> None:
        """Count a step."""
        if not self._skip:
            self._seconds += seconds
            self._cost += cost
        self._skip = False

    def seconds_for(self, cost: float) -> float | None:
        """Return how long steps of that cost in all will take, None if no step has been counted."""
        return None if self._cost == 0 else self._seconds / self._cost * cost


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


# ---------------------------------------------------------------- averaged weights
@contextmanager
def averaged_weights(
    model: Any, *, start: Mapping[tuple[str, str], Floats] | None = None, alpha: float = 1.0
) -> Iterator[None]:
    """Put the optimizer's moving averages in the place of the weights for a while.

    Args:
        model: the compiled network.
        start: the weights that it started from, by names of layer and variable.
        alpha: weight of the averages against those (WiSE-FT, Wortsman et al. 2021, 2109.01903).
    """
    if not model.optimizer.use_ema:
        yield
        return
    # Copies: on some backends numpy() is a view of what is about to be written over.
    kept = [np.array(variable.numpy()) for variable in model.trainable_variables]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        first = start or {}
        for name, variable in _trained(model).items():
            # Copies again: on JAX a variable now shares its array with the average, and predicting
            # uses up the arrays of the network.
            value = np.array(variable.numpy())
            if name in first:
                value = alpha * value + (1 - alpha) * first[name]
            variable.assign(value)
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept, strict=True):
            variable.assign(value)


def _trained(model: Any) -> dict[tuple[str, str], Any]:
    """Return a network's trainable variables by names of layer and variable."""
    return {
        (layer.name, variable.name): variable
        for layer in model.layers
        for variable in layer.trainable_variables
    }


@contextmanager
def recalibrated_statistics(model: Any, batches: Iterator[Batch], *, count: int) -> Iterator[None]:
    """Put BatchNorm statistics that fit the weights as they stand in place for a while.

    The running statistics follow the weights of the last steps. Averaged weights are others, and
    with foreign statistics a network may read nothing at all (Izmailov et al. 2018, 1803.05407).
    They are also those of augmented images under dropout, neither of which is there when faces are
    read (Touvron et al. 2019, 1906.06423; Li et al. 2019, 1801.05134): here dropout is off, too.

    Args:
        model: the compiled network, with the weights to estimate for.
        batches: training images as they are, not augmented.
        count: how many batches to use; 0 leaves the statistics alone.
    """
    norms = [layer for layer in batch_norms(model) if layer.trainable]
    if count == 0 or not model.optimizer.use_ema or not norms:
        yield
        return
    running = [variable for layer in norms for variable in layer.non_trainable_variables]
    kept = [np.array(variable.numpy()) for variable in running]
    momenta = [layer.momentum for layer in norms]
    dropouts = [layer for layer in model.layers if type(layer).__name__ == "Dropout"]
    rates = [layer.rate for layer in dropouts]
    try:
        for layer in dropouts:
            layer.rate = 0.0
        for seen, batch in enumerate(itertools.islice(batches, count)):
            for layer in norms:
                layer.momentum = seen / (seen + 1)  # makes the running mean a plain one
            model(batch.faces, training=True)
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for layer, rate in zip(dropouts, rates, strict=True):
            layer.rate = rate
        for variable, value in zip(running, kept, strict=True):
            variable.assign(value)


# ---------------------------------------------------------------- validation
_VALIDATION_BATCH = 128


def predict_probabilities(model: Any, images: Faces) -> Floats:
    """Return a network's probabilities, float32 (N, classes), for faces, uint8 (N, 48, 48)."""
    parts = []
    # Of no images, too, there is an answer of the right shape.
    for start in range(0, max(1, len(images)), _VALIDATION_BATCH):
        faces = images[start : start + _VALIDATION_BATCH, ..., None].astype(np.float32)
        padding = [(0, _VALIDATION_BATCH - len(faces)), (0, 0), (0, 0), (0, 0)]
        # One shape for every batch: a new one would be compiled anew.
        answer = np.asarray(model.predict_on_batch(np.pad(faces, padding)))
        parts.append(answer[: len(faces)])
    return np.concatenate(parts).astype(np.float32)


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
def all_variables(model: Any) -> list[Any]:
    """Return every variable of a compiled model that training changes, in a fixed order.

    Weights, the states of dropout's generators, and the optimizer's moments and moving averages.
    """
    return [*model.variables, *model.optimizer.variables]


def save_checkpoint(path: Path, model: Any, state: RunState) -> None:
    """Write a checkpoint, whole or not at all; raises OutputError if there is no room."""
    variables = enumerate(all_variables(model))
    arrays = {f"variable{index:04d}": np.asarray(variable.numpy()) for index, variable in variables}
    records.write_checkpoint(path, arrays, dataclasses.asdict(state))


def read_state(path: Path) -> RunState:
    """Read where a run stood.

    Raises:
        InputError: if the checkpoint is missing, damaged, or of a newer version.
    """
    values = records.read_checkpoint_state(path)
    unknown = sorted(set(values) - {item.name for item in dataclasses.fields(RunState)})
    if unknown:
        raise InputError(
            f"{path} holds {', '.join(unknown)}, which this version of mien does not know: "
            "resume with the version that wrote it"
        )
    return RunState(**values)


def restore_variables(path: Path, model: Any) -> None:
    """Fill a compiled model with a checkpoint of the same recipe.

    Raises:
        InputError: if the checkpoint is damaged or does not fit the model.
    """
    variables = all_variables(model)
    arrays = records.read_checkpoint_arrays(path)
    values = [arrays[name] for name in sorted(arrays)]
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

    Args:
        folder: the run's, for the message.
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


def stopped(config: Config, run: RunFolder, state: RunState, *, steps: int) -> TrainingStopped:
    """Return what is raised once a run that was asked to stop is saved."""
    return TrainingStopped(
        f"stopped in epoch {state.epoch + 1} of {config.total_epochs} after step "
        f"{state.step} of {steps}, all saved; to go on: mien train --resume {run.path}"
    )


def diverged(what: str, run: RunFolder) -> TrainingDiverged:
    """Return the error for a run whose losses or weights are not numbers any more."""
    return TrainingDiverged(
        f"{what}; the last good checkpoint and best.keras are kept in {run.path}: "
        "start a new run with a lower training.learning_rate or training.head_learning_rate"
    )


# ---------------------------------------------------------------- records
def environment(config: Config, data: TrainingData) -> dict[str, Any]:
    """Return what a run begins with, as JSON can hold it."""
    return {
        **records.describe_environment(),
        "backend": config.training.backend,
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
        figures: see `validation_figures`.
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


def finish(run: RunFolder, state: RunState) -> RunFolder:
    """Draw the curves and write the summary of a run that has ended; raises OutputError."""
    from mien.evaluation.figures import training_curves

    columns = {key: [row[key] for row in state.history] for key in state.history[0]}
    training_curves(columns, run.curves)
    best = next(row for row in state.history if row["epoch"] == state.best_epoch + 1)
    summary = {
        "run": run.name,
        "best": best,
        "epochs": state.history[-1]["epoch"] - state.skipped_epochs,
        "stopped_early": state.stopped_early,
        "seconds": round(state.seconds, 1),
    }
    records.write_json(run.summary, summary)
    return run
