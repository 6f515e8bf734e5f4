"""Training one recipe on a GPU that holds images, views, teachers and the network in its memory.

An epoch begins with the views of all images and what the teachers say of them; its steps are queued
ahead of the device. All randomness comes from the seed, the epoch and the step. A run leaves the
files of any other run (see `mien.training.run`); it is saved between epochs.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lab.gpu.network import (
    Network,
    arrays_of,
    find_teachers,
    load_arrays,
    open_teacher,
    plan_of,
    set_weights,
    weights_of,
)
from lab.gpu.student import Student, estimate_statistics, logits_of, taught_by
from lab.gpu.views import Faces, faces_on, make_epoch, plain_images, stream_seed
from mien.core.errors import InputError, UsageError
from mien.core.process import stderr
from mien.training import run as run_folder
from mien.training.backend import prepare_keras
from mien.training.data import BatchSource, TrainingData, load_training_data
from mien.training.model import build_model
from mien.training.recipe import Config, config_to_toml, from_folder, load_run_config
from mien.training.run import RunFolder, report_epoch
from mien.training.trainer import (
    RunState,
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
"""Steps that are queued before the first is waited for."""
_HEAD_STREAM = 7


def train(
    config: Config, folder: Path, *, quiet: bool = False, deadline: float = float("inf")
) -> RunFolder:
    """Train a network and leave the run in a folder; otherwise as `mien.training.trainer.train`.

    Args:
        config: the recipe.
        folder: of the run, which must not be there yet.
        quiet: print no epochs on stderr.
        deadline: of `time.monotonic`; the run stops after the epoch that passes it, saved.

    Raises:
        UsageError: if the recipe asks for what is not built here.
        TrainingStopped: after the deadline, Ctrl-C or SIGTERM.
    """
    run = run_folder.new_run(folder)
    check_recipe(config)
    data = load_training_data(config, quiet=quiet)
    trainer = GpuTrainer(config, run, data, quiet)
    state = RunState(data=data.fingerprint(), teachers=trainer.teacher_digests)
    trainer.build(state, initialise=True)
    run_folder.write_json(run.environment, environment(config, data))
    run_folder.write_text(run.config, config_to_toml(config))
    return trainer.fit(state, deadline)


def resume(folder: Path, *, quiet: bool = False, deadline: float = float("inf")) -> RunFolder:
    """Resume an interrupted run from its last checkpoint; arguments and errors as `train`.

    Raises:
        InputError: if there is no run, or its data or teachers have changed.
    """
    run = run_folder.open_run(folder)
    config = from_folder(load_run_config(run), run_folder.begun_in(run))
    check_recipe(config)
    run_folder.remove_leftovers(run)
    begun = run.checkpoint.exists()
    state = read_state(run.checkpoint) if begun else RunState()
    if state.is_over(config):
        return finish(run, state)
    data = load_training_data(config, quiet=quiet)
    trainer = GpuTrainer(config, run, data, quiet)
    known = (data.fingerprint(), trainer.teacher_digests)
    if begun and (state.data, state.teachers) != known:
        raise InputError(
            f"the images or the teachers are not those that {run.path} began with: "
            "bring the old ones back, or start a new run"
        )
    state.data, state.teachers = known
    student = trainer.build(state, initialise=not begun)
    if begun:
        student.load(run_folder.read_checkpoint_arrays(run.checkpoint))
        student.loss_sum.fill_(state.loss_sum)
        student.hit_sum.fill_(state.accuracy_sum)
    return trainer.fit(state, deadline)


def check_recipe(config: Config) -> None:
    """Raise UsageError if a recipe asks for what cannot be trained here."""
    training, distill, mixing = config.training, config.distill, config.augmentation
    rules = {
        "training.head_epochs": (training.head_epochs, (0,), "0"),
        "training.fine_tune_blocks": (training.fine_tune_blocks, (-1,), "-1"),
        "training.layer_decay": (training.layer_decay, (1,), "1"),
        "training.schedule": (training.schedule, ("cosine", "constant"), "cosine or constant"),
        "training.early_stopping": (training.early_stopping, (0,), "0"),
        "training.wise_ft_alpha": (training.wise_ft_alpha, (1,), "1"),
        "data.targets": (config.data.targets, ("labels",), "labels"),
        "augmentation.cutmix": (mixing.cutmix, (0,), "0, or mixup alone"),
        "distill.views": (
            min(distill.views, config.total_epochs),
            (0, config.total_epochs),
            "0, or as many as epochs: each has views of its own",
        ),
        "distill.cache": (distill.cache, ("",), "none: teachers are asked live"),
        "distill.votes": (distill.votes, (0,), "0"),
    }
    for key, (value, allowed, expected) in rules.items():
        if value not in allowed:
            raise UsageError(
                f"{key} = {value!r} cannot be trained here: expected {expected}; or mien train"
            )


def prepare(seed: int) -> None:
    """Set up Keras, which builds, reads and writes networks on the processor, and seed it."""
    os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    prepare_keras("torch")
    import keras

    keras.utils.set_random_seed(seed)


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


class GpuTrainer:
    """Training loop of one run; resumes from its checkpoint.

    Attributes:
        teacher_digests: SHA-256 of each teacher's network, by name.
    """

    student: Student
    bare: Any
    """The Keras network that the best weights are saved in."""

    def __init__(self, config: Config, run: RunFolder, data: TrainingData, quiet: bool) -> None:
        """Load data and teachers onto the device."""
        self.config, self.run, self.quiet = config, run, quiet
        self.saved_at = time.monotonic()
        self.bfloat16 = config.training.precision == "mixed_bfloat16"
        source = BatchSource(data, config)
        self.steps = source.steps
        found = find_teachers(config)
        self.teacher_digests = {teacher.name: teacher.digest for teacher in found}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu" and not quiet:
            stderr().write("mien: torch sees no GPU: training on the processor, slowly\n")
        prepare(config.training.seed)
        self.teachers = [open_teacher(teacher, self.device) for teacher in found]
        self.faces = faces_on(self.device, source.dataset)
        self.val_labels = data.val.labels
        self.val_views = torch.from_numpy(np.array(data.val.images))[:, None].to(self.device)

    def build(self, state: RunState, *, initialise: bool) -> Student:
        """Build the network of the state's epoch, and record its steps."""
        # Opening teachers draws from the seed, which must not change the student.
        prepare(self.config.training.seed)
        self.bare = self._keras_model(self.config.size_at(state.epoch), initialise=initialise)
        self.student = new_student(self.config, self.bare, self.device)
        epochs = range(state.epoch, self.config.total_epochs)
        self.student.record([self.config.size_at(epoch) for epoch in epochs])
        return self.student

    def _keras_model(self, size: int, *, initialise: bool) -> Any:
        classes = len(self.config.labels)
        return build_model(self.config.model, size=size, initialise=initialise, classes=classes)

    def fit(self, state: RunState, deadline: float) -> RunFolder:
        """Train to the end, or to a stop."""
        with stop_signals(self.run.path) as stop:
            while not state.is_over(self.config):
                self._epoch(state)
                late = stop.is_set() or time.monotonic() > deadline
                waited = time.monotonic() - self.saved_at
                if late or state.is_over(self.config) or waited >= self._save_every:
                    self._save(state)
                if late and not state.is_over(self.config):
                    raise stopped(self.config, self.run, state, steps=self.steps)
        return finish(self.run, state)

    @property
    def _save_every(self) -> float:
        return self.config.training.checkpoint_seconds

    def _epoch(self, state: RunState) -> None:
        began = time.monotonic()
        config, student = self.config, self.student
        student.network.size = config.size_at(state.epoch)
        views = make_epoch(self.faces, config, state.epoch)
        taught = None
        if self.teachers:
            heat = config.distill.temperature
            taught = taught_by(self.teachers, views.for_teachers, heat, bfloat16=self.bfloat16)
        size = config.training.batch_size
        for step in range(self.steps):
            torch.manual_seed(stream_seed(config.training.seed, state.epoch, step))
            part = slice(step * size, (step + 1) * size)
            student.learn(
                Faces(views.images[part], views.targets[part], views.weights[part]),
                None if taught is None else taught[part],
                rate=learning_rate(config.training, progress=state.epoch + step / self.steps),
                number=state.epoch * self.steps + step,
            )
            if self.device.type == "cuda" and step % _AHEAD == _AHEAD - 1:
                torch.cuda.synchronize()
        if not student.is_finite():
            what = f"the loss or a weight became NaN or infinite in epoch {state.epoch + 1}"
            raise diverged(what, self.run)
        state.loss_sum, state.accuracy_sum = float(student.loss_sum), float(student.hit_sum)
        if config.is_validated(state.epoch):
            self._end_validated(state, began)
        else:
            self._count_time(state, began)
            state.skip_validation()

    def _count_time(self, state: RunState, began: float) -> None:
        spent = time.monotonic() - began
        state.seconds += spent
        state.epoch_seconds += spent

    def _end_validated(self, state: RunState, began: float) -> None:
        figures = self._validate(state)
        self._count_time(state, began)
        state.stale_epochs += state.epochs_counted
        if figures["val_accuracy"] > state.best_accuracy:
            state.best_accuracy, state.best_epoch = figures["val_accuracy"], state.epoch
            state.stale_epochs = 0
            self._keep_best(state)
        rate = learning_rate(self.config.training, progress=state.epoch + 1)
        row = history_row(self.config, state, figures, steps=self.steps, rate=rate)
        state.history.append(row)
        if not self.quiet:
            report_epoch(row, total=self.config.total_epochs, best=state.best_epoch == state.epoch)
        state.end_epoch(figures["val_loss"], self.config)
        self.student.loss_sum.zero_()
        self.student.hit_sum.zero_()

    def _validate(self, state: RunState) -> dict[str, float]:
        """Return the figures of the averaged weights, with BatchNorm statistics that fit them."""
        settings, average = self.config.training, self.student.average
        average.size = self.config.size_at(state.epoch)
        if settings.bn_recalibration_batches and settings.ema:
            count = settings.bn_recalibration_batches * settings.batch_size
            images = plain_images(self.faces, self.config, count)
            estimate_statistics(average, images, bfloat16=self.bfloat16)
        else:
            for mine, theirs in zip(average.buffers(), self.student.network.buffers(), strict=True):
                mine.copy_(theirs)
        logits = logits_of(average, self.val_views, bfloat16=self.bfloat16)
        probabilities = logits.softmax(1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            what = f"the probabilities became NaN in epoch {state.epoch + 1}"
            raise diverged(what, self.run)
        return validation_figures(probabilities, self.val_labels)

    def _keep_best(self, state: RunState) -> None:
        """Save the averaged weights as a Keras network."""
        size = self.config.size_at(state.epoch)
        if self.bare.get_layer("enlarge").height != size:
            self.bare = self._keras_model(size, initialise=False)
        set_weights(self.bare, arrays_of(self.student.average))
        with run_folder.saving(self.run.best) as temporary:
            self.bare.save(temporary)

    def _save(self, state: RunState) -> None:
        # In this order: whatever a kill leaves undone, the checkpoint knows how to do again.
        run_folder.write_checkpoint(
            self.run.checkpoint, self.student.arrays(), dataclasses.asdict(state)
        )
        if state.history:
            run_folder.write_history(self.run.history, state.history)
        self.saved_at = time.monotonic()
