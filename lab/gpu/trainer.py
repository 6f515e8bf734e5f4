"""Training on the device: what `mien.training.trainer` is to Keras' backends.

Images, views, teachers and the network lie in the device's memory. An epoch begins with all of its
views and what the teachers say of them; then come its steps, which are asked for ahead of the
device. All chance comes from the seed, the epoch and the step.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lab.gpu.epochs import (
    Faces,
    faces_on,
    make_epoch,
    plain_images,
    stream_seed,
)
from lab.gpu.limits import check_recipe
from lab.gpu.network import Network, arrays_of, load_arrays
from lab.gpu.plans import plan_of, set_weights, weights_of
from lab.gpu.reading import estimate_statistics, logits_of, taught_by
from lab.gpu.student import Student
from lab.gpu.teachers import find_teachers, open_teachers
from mien.core.errors import InputError
from mien.core.process import stderr
from mien.core.progress import Progress, format_duration
from mien.training import run as run_folder
from mien.training.backend import prepare_keras
from mien.training.data import BatchSource, TrainingData, load_training_data
from mien.training.model import build_model
from mien.training.recipe import Config, config_to_toml, from_folder, load_run_config
from mien.training.run import RunFolder, report_epoch
from mien.training.trainer import (
    Phase,
    RunState,
    Throughput,
    diverged,
    environment,
    finish,
    history_row,
    learning_rate,
    read_state,
    stop_signals,
    stopped,
    validation_figures,
)

_AHEAD = 8
"""Steps that are asked for before the first is waited for."""
_HEAD_STREAM = 7


def train(config: Config, folder: Path, *, quiet: bool = False) -> RunFolder:
    """Train a network on the device; otherwise as `mien.training.trainer.train`.

    Raises:
        UsageError: if the recipe is not one for the device.
    """
    run = run_folder.new_run(folder)
    check_recipe(config)
    data = load_training_data(config, quiet=quiet)
    sitting = DeviceSitting(config, run, data, quiet)
    state = RunState(data=data.fingerprint(), teachers=sitting.teachers())
    sitting.enter(state)
    run_folder.write_json(run.environment, environment(config, data))
    run_folder.write_text(run.config, config_to_toml(config))
    return sitting.go_on(state)


def resume(folder: Path, *, quiet: bool = False) -> RunFolder:
    """Go on with an interrupted run; otherwise as `mien.training.trainer.resume`."""
    run = run_folder.open_run(folder)
    config = from_folder(load_run_config(run), run_folder.begun_in(run))
    check_recipe(config)
    run_folder.remove_leftovers(run)
    begun = run.checkpoint.exists()
    state = read_state(run.checkpoint) if begun else RunState()
    if state.is_over(config):
        return finish(run, state)
    data = load_training_data(config, quiet=quiet)
    sitting = DeviceSitting(config, run, data, quiet)
    known = (data.fingerprint(), sitting.teachers())
    if begun and (state.data, state.teachers) != known:
        raise InputError(
            f"the images or the teachers are not those that {run.path} began with: "
            "bring the old ones back, or start a new run"
        )
    state.data, state.teachers = known
    if begun:
        sitting.restore(state)
    return sitting.go_on(state)


def prepare(config: Config) -> None:
    """Set up Keras, which only builds, reads and writes networks, and the recipe's seed."""
    prepare_keras("torch")
    import keras

    keras.utils.set_random_seed(config.training.seed)
    if config.training.threads:
        torch.set_num_threads(config.training.threads)


def find_device(*, quiet: bool = False) -> torch.device:
    """Return the GPU, or the processor where torch sees none, which is told on stderr."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not quiet:
        stderr().write("mien: torch sees no GPU: training on the processor, slowly\n")
    return torch.device("cpu")


def new_student(config: Config, model: Any, device: torch.device) -> Student:
    """Return what trains a Keras network's copy on a device, from its weights."""
    network = Network(plan_of(model), size=config.model.input_size)
    load_arrays(network, weights_of(model))
    votes_head = None
    if config.training.votes_weight > 0:
        torch.manual_seed(stream_seed(config.training.seed, _HEAD_STREAM))
        votes_head = nn.Linear(network.parts["logits"].in_features, len(config.labels))
        nn.init.xavier_uniform_(votes_head.weight)
        nn.init.zeros_(votes_head.bias)
        votes_head.to(device)
    return Student(network.to(device), config, votes_head=votes_head)


class DeviceSitting:
    """What this process does for a run, from its start or a checkpoint to its end or a stop."""

    def __init__(self, config: Config, run: RunFolder, data: TrainingData, quiet: bool) -> None:
        """Bring data and teachers to the device.

        Raises:
            UsageError: if the recipe is not one for the device.
            DataError, ModelError, InputError: as `mien.training.trainer.train`.
        """
        check_recipe(config)
        self.config, self.run, self.quiet = config, run, quiet
        self.saved_at = self.since = time.monotonic()
        self.pace = Throughput()
        self.student: Student | None = None
        self.bare: Any = None
        self.bfloat16 = config.training.precision == "mixed_bfloat16"
        source = BatchSource(data, config)
        self.steps = source.steps
        self.found = find_teachers(config)
        prepare(config)
        self.device = find_device(quiet=quiet)
        self.taught = open_teachers(self.found, self.device)
        # Opening a network draws from the seed: whether one was must not change the student.
        prepare(config)
        self.faces = faces_on(self.device, source.dataset)
        self.val_labels = data.val.labels
        self.val_views = torch.from_numpy(np.array(data.val.images))[:, None].to(self.device)

    def teachers(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher's network, by name."""
        return {teacher.name: teacher.digest for teacher in self.found}

    def restore(self, state: RunState) -> None:
        """Build the network that the checkpoint was written of, and fill it."""
        student = self._build(state, initialise=False)
        student.load(run_folder.read_checkpoint_arrays(self.run.checkpoint))
        student.loss_sum.fill_(state.loss_sum)
        student.hit_sum.fill_(state.accuracy_sum)

    def enter(self, state: RunState) -> None:
        """Build the network with its starting weights, if there is none yet."""
        if self.student is None:
            self._build(state, initialise=True)

    def _build(self, state: RunState, *, initialise: bool) -> Student:
        size = self.config.size_at(state.epoch)
        self.bare = self._keras_model(size, initialise=initialise)
        self.student = new_student(self.config, self.bare, self.device)
        epochs = range(state.epoch, self.config.total_epochs)
        self.student.record([self.config.size_at(epoch) for epoch in epochs])
        return self.student

    def _keras_model(self, size: int, *, initialise: bool) -> Any:
        classes = len(self.config.labels)
        return build_model(self.config.model, size=size, initialise=initialise, classes=classes)

    def go_on(self, state: RunState) -> RunFolder:
        """Train to the end."""
        with stop_signals(self.run.path) as stop:
            self.enter(state)
            assert self.student is not None
            self.since = time.monotonic()
            while not state.is_over(self.config):
                self._epoch(state, self.student, stop)
        return finish(self.run, state)

    def _epoch(self, state: RunState, student: Student, stop: threading.Event) -> None:
        size = self.config.size_at(state.epoch)
        student.network.size = size
        views = make_epoch(self.faces, self.config, state.epoch)
        taught = None
        if self.taught:
            heat = self.config.distill.temperature
            taught = taught_by(self.taught, views.for_teachers, heat, bfloat16=self.bfloat16)
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {size} px"
        left, note = self.steps - state.step, self._time_left(state)
        with Progress(label, left, unit="step", quiet=self.quiet) as progress:
            for step in range(state.step, self.steps):
                self._step(state, student, views, taught)
                if step % _AHEAD == _AHEAD - 1:
                    self._wait()
                progress.advance(1, note)
                self._save_if_due(state, student, stop)
        self._end_epoch(state, student)

    def _step(
        self, state: RunState, student: Student, views: Faces, taught: torch.Tensor | None
    ) -> None:
        torch.manual_seed(stream_seed(self.config.training.seed, state.epoch, state.step))
        size = self.config.training.batch_size
        part = slice(state.step * size, (state.step + 1) * size)
        student.learn(
            Faces(views.images[part], views.targets[part], views.weights[part]),
            None if taught is None else taught[part],
            rate=self._rate(state),
            number=state.epoch * self.steps + state.step,
        )
        state.step += 1

    def _rate(self, state: RunState) -> float:
        done = state.epoch + state.step / self.steps
        return learning_rate(self.config.training, progress=done)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _settle(self, state: RunState, student: Student) -> None:
        """Wait for all steps, and count their losses and their time."""
        if not student.is_finite():
            # In which step is not known: nothing waited for it.
            what = f"the loss or a weight became NaN or infinite in epoch {state.epoch + 1}"
            raise diverged(what, self.run)
        state.loss_sum = float(student.loss_sum)
        state.accuracy_sum = float(student.hit_sum)
        now = time.monotonic()
        state.seconds += now - self.since
        state.epoch_seconds += now - self.since
        self.since = now

    def _save_if_due(self, state: RunState, student: Student, stop: threading.Event) -> None:
        waited = time.monotonic() - self.saved_at
        if stop.is_set() or waited >= self.config.training.checkpoint_seconds:
            self._settle(state, student)
            self._save(state, student)
        if stop.is_set():
            raise stopped(self.config, self.run, state, steps=self.steps)

    def _save(self, state: RunState, student: Student) -> None:
        # In this order: whatever a kill leaves undone, the checkpoint knows how to do again.
        run_folder.write_checkpoint(
            self.run.checkpoint, student.arrays(), dataclasses.asdict(state)
        )
        if state.history:
            run_folder.write_history(self.run.history, state.history)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        epochs = range(self.config.total_epochs)
        costs = [Phase.at(self.config, epoch).step_cost for epoch in epochs]
        left = sum(costs[state.epoch :]) * self.steps - costs[state.epoch] * state.step
        seconds = self.pace.seconds_for(left)
        return "" if seconds is None else f"run {format_duration(seconds)} left"

    # ------------------------------------------------------------ after each epoch
    def _end_epoch(self, state: RunState, student: Student) -> None:
        before = state.epoch_seconds
        self._settle(state, student)
        spent = state.epoch_seconds - before
        self.pace.count(Phase.at(self.config, state.epoch).step_cost * self.steps, spent)
        if not self.config.is_validated(state.epoch):
            state.skip_validation()
            return
        figures = self._validate(state, student)
        state.stale_epochs += state.epochs_counted
        if figures["val_accuracy"] > state.best_accuracy:
            state.best_accuracy, state.best_epoch = figures["val_accuracy"], state.epoch
            state.stale_epochs = 0
            self._keep_best(state, student)
        row = history_row(self.config, state, figures, steps=self.steps, rate=self._rate(state))
        state.history.append(row)
        if not self.quiet:
            report_epoch(row, total=self.config.total_epochs, best=state.best_epoch == state.epoch)
        state.end_epoch(figures["val_loss"], self.config)
        student.loss_sum.zero_()
        student.hit_sum.zero_()
        if state.is_over(self.config):
            self._save(state, student)
        self.since = time.monotonic()

    def _validate(self, state: RunState, student: Student) -> dict[str, float]:
        """Return the figures of the averaged weights, with statistics that fit them."""
        settings, average = self.config.training, student.average
        average.size = self.config.size_at(state.epoch)
        if settings.bn_recalibration_batches and settings.ema:
            count = settings.bn_recalibration_batches * settings.batch_size
            images = plain_images(self.faces, self.config, count)
            estimate_statistics(average, images, bfloat16=self.bfloat16)
        else:
            for mine, theirs in zip(average.buffers(), student.network.buffers(), strict=True):
                mine.copy_(theirs)
        logits = logits_of(average, self.val_views, bfloat16=self.bfloat16)
        probabilities = logits.softmax(1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            what = f"the probabilities became NaN in epoch {state.epoch + 1}"
            raise diverged(what, self.run)
        return validation_figures(probabilities, self.val_labels)

    def _keep_best(self, state: RunState, student: Student) -> None:
        """Save the averaged weights in a network of Keras'."""
        size = self.config.size_at(state.epoch)
        if self.bare.get_layer("enlarge").height != size:
            self.bare = self._keras_model(size, initialise=False)
        set_weights(self.bare, arrays_of(student.average))
        with run_folder.saving(self.run.best) as temporary:
            self.bare.save(temporary)
