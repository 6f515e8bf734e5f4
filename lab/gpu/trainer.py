"""Training of one recipe on a GPU that holds an epoch's images, the teachers and the network.

An epoch begins with augmented views of all images and the teachers' probabilities of them; its
steps are queued ahead of the device. All randomness derives from the seed, the epoch and the step.
The loop around it is that of `mien.training.trainer`:
``train(config, folder, trainer_class=GpuTrainer)``.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
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
from lab.gpu.pack import prepare
from lab.gpu.student import Faces, Student, estimate_statistics, logits_of, mean_probabilities
from lab.gpu.views import ViewMaker
from mien.core.errors import UsageError
from mien.core.process import stderr, usable_cores
from mien.training.backend import seed_step
from mien.training.data import BatchSource, TrainingData
from mien.training.model import build_model
from mien.training.recipe import Config
from mien.training.run_folder import RunFolder
from mien.training.trainer import RunState, Trainer, save_checkpoint
from mien.training.transforms import Floats

_QUEUED_STEPS = 8
"""Steps that are queued before waiting for the device."""


def check_recipe(config: Config) -> None:
    """Raise UsageError if a recipe has settings that this engine does not support."""
    training, distill = config.training, config.distill
    rules = {
        "training.backend": (training.backend, ("torch",), "torch"),
        "training.head_epochs": (training.head_epochs, (0,), "0"),
        "training.fine_tune_blocks": (training.fine_tune_blocks, (-1,), "-1"),
        "training.layer_decay": (training.layer_decay, (1,), "1"),
        "training.schedule": (training.schedule, ("cosine", "constant"), "cosine or constant"),
        "training.early_stopping": (training.early_stopping, (0,), "0"),
        "training.wise_ft_alpha": (training.wise_ft_alpha, (1,), "1"),
        "data.targets": (config.data.targets, ("labels",), "labels"),
        "distill.views": (
            min(distill.views, config.total_epochs),
            (0, config.total_epochs),
            "0, or as many as epochs: each has a new view",
        ),
        "distill.cache": (distill.cache, ("",), "none: teachers run live"),
        "distill.votes": (distill.votes, (0,), "0"),
    }
    for key, (value, allowed, expected) in rules.items():
        if value not in allowed:
            raise UsageError(
                f"{key} = {value!r} is not supported by this engine: expected {expected}; "
                "or use mien train"
            )


def new_student(config: Config, model: Any, device: torch.device) -> Student:
    """Return a copy of a Keras network, ready to train on a device."""
    network = Network(plan_of(model), size=config.model.input_size)
    load_arrays(network, weights_of(model))
    votes_head = None
    if config.training.votes_weight > 0:
        torch.manual_seed(config.training.seed)
        votes_head = nn.Linear(network.parts["logits"].in_features, len(config.labels))
        nn.init.xavier_uniform_(votes_head.weight)
        nn.init.zeros_(votes_head.bias)
        votes_head.to(device)
    return Student(network.to(device), config, votes_head=votes_head)


class GpuTrainer(Trainer):
    """Training loop of one run on one device; it is stopped and saved between epochs."""

    student: Student | None = None

    def __init__(self, config: Config, run: RunFolder, data: TrainingData, *, quiet: bool) -> None:
        """Load data and teachers onto the device."""
        self.config, self.run, self.val, self.quiet = config, run, data.val, quiet
        self.saved_at = time.monotonic()
        self.bfloat16 = config.training.precision == "mixed_bfloat16"
        source = BatchSource(data, config)
        self.steps = source.steps
        count = config.training.bn_recalibration_batches or 1
        plain = [batch.faces[..., 0] for batch in itertools.islice(source.plain_batches(), count)]
        teachers = find_teachers(config)
        self.digests = {teacher.name: teacher.digest for teacher in teachers}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu" and not quiet:
            stderr().write("mien: torch found no GPU: training on the CPU, slowly\n")
        prepare(config.training.seed)
        self.networks = [open_teacher(teacher, self.device) for teacher in teachers]
        self.plain = self._on_device(np.concatenate(plain).astype(np.uint8))
        self.val_views = self._on_device(data.val.images)
        workers = max(1, usable_cores() - 2) if self.device.type == "cuda" else 0
        self.views = ViewMaker(source, config, workers=workers)

    def _on_device(self, faces: npt.NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(np.array(faces))[:, None].to(self.device)

    @staticmethod
    def check(config: Config) -> None:
        """Raise UsageError if a recipe has settings that this engine does not support."""
        check_recipe(config)

    def teacher_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher's network, by name."""
        return self.digests

    def fit(self, state: RunState) -> RunFolder:
        """Train to the end."""
        with contextlib.closing(self.views):
            return super().fit(state)

    def enter_stage(self, state: RunState) -> None:
        """Build the network at the start, and set the epoch's input size."""
        student = self.student or self._new_student(state, initialise=True)
        student.network.size = self.config.size_at(state.epoch)

    def restore(self, state: RunState, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Build the network a checkpoint was written from, and load the checkpoint."""
        self._new_student(state, initialise=False).load(dict(arrays))

    def _new_student(self, state: RunState, *, initialise: bool) -> Student:
        # Loading teachers consumes random numbers; seed again, so that the student is the same.
        prepare(self.config.training.seed)
        self.eval_model = self._keras_model(self.config.size_at(state.epoch), initialise=initialise)
        self.student = new_student(self.config, self.eval_model, self.device)
        epochs = range(state.epoch, self.config.total_epochs)
        self.student.record([self.config.size_at(epoch) for epoch in epochs])
        return self.student

    def _keras_model(self, size: int, *, initialise: bool) -> Any:
        classes = len(self.config.labels)
        return build_model(self.config.model, size=size, initialise=initialise, classes=classes)

    def _train_epoch(self, state: RunState, stop: threading.Event) -> None:
        if state.step == self.steps:  # stopped between its last step and its validation
            return
        config, student, started = self.config, self.student, time.monotonic()
        assert student is not None
        student.loss_sum.fill_(state.loss_sum)
        student.hit_sum.fill_(state.accuracy_sum)
        views, soft_targets = self.views.epoch(state.epoch), None
        if self.networks:
            images, temperature = self._on_device(views.teacher_images), config.distill.temperature
            soft_targets = mean_probabilities(
                self.networks, images, temperature, bfloat16=self.bfloat16
            )
        targets = views.targets if views.votes is None else np.hstack([views.targets, views.votes])
        columns = (torch.from_numpy(part).to(self.device) for part in (targets, views.weights))
        faces = Faces(self._on_device(views.images), *columns)
        size = config.training.batch_size
        for step in range(self.steps):
            seed_step(config.training, state.epoch, step)
            part, state.step = slice(step * size, (step + 1) * size), step
            student.learn(
                Faces(*(column[part] for column in faces)),
                None if soft_targets is None else soft_targets[part],
                rate=self._learning_rate(state),
                number=state.epoch * self.steps + step,
            )
            if self.device.type == "cuda" and step % _QUEUED_STEPS == _QUEUED_STEPS - 1:
                torch.cuda.synchronize()
        state.step = self.steps
        state.loss_sum, state.accuracy_sum = float(student.loss_sum), float(student.hit_sum)
        state.epoch_seconds += time.monotonic() - started
        self._check_weights(state)
        self._checkpoint_if_due(state, stop)

    def _check_weights(self, state: RunState) -> None:
        assert self.student is not None
        if not self.student.is_finite():
            raise self._diverged("the loss or a weight became NaN or infinite", state)

    def _validate(self) -> Floats:
        """Return the probabilities of the averaged weights, with BatchNorm recalibrated."""
        assert self.student is not None
        settings, average = self.config.training, self.student.average
        average.size = self.student.network.size
        if settings.bn_recalibration_batches and settings.ema:
            estimate_statistics(average, self.plain, bfloat16=self.bfloat16)
        else:
            for target, source in zip(
                average.buffers(), self.student.network.buffers(), strict=True
            ):
                target.copy_(source)
        logits = logits_of(average, self.val_views, bfloat16=self.bfloat16)
        return np.asarray(logits.softmax(1).cpu().numpy(), np.float32)

    def _save_best(self) -> None:
        """Save the averaged weights as a Keras network."""
        assert self.student is not None
        average = self.student.average
        if self.eval_model.get_layer("enlarge").height != average.size:
            self.eval_model = self._keras_model(average.size, initialise=False)
        set_weights(self.eval_model, arrays_of(average))
        super()._save_best()

    def _save_checkpoint(self, state: RunState) -> None:
        assert self.student is not None
        save_checkpoint(self.run.checkpoint, self.student.arrays(), state)
        self.saved_at = time.monotonic()
