"""A network tried on the device before it is trained: how fast is it here?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mien.training.backend import prepare_backend
from mien.training.batches import BatchSource
from mien.training.config import Config
from mien.training.device.epochs import Faces, faces_on, make_epoch, plain_images
from mien.training.device.reading import estimate_statistics, logits_of
from mien.training.device.sitting import find_device, new_student
from mien.training.device.student import Student
from mien.training.gpu.plan import Pace
from mien.training.gpu.trial import alone
from mien.training.model import build_model
from mien.training.objective import has_teachers
from mien.training.training_data import TrainingData

_TOGETHER = 8
"""Steps that are asked for before the device is waited for, as in training."""


def try_on_device(config: Config, data: TrainingData, *, turn: Path, seconds: float) -> Pace:
    """Try a network on the device; as `mien.training.gpu.trial.try_network`."""
    prepare_backend(config.training)
    device = find_device(quiet=True)
    source = BatchSource(data.train, config, data.votes)
    faces = faces_on(device, source.examples())
    val_views = torch.from_numpy(np.array(data.val.images))[:, None].to(device)
    model = build_model(
        config.model,
        size=config.model.input_size,
        initialise=False,
        classes=len(config.labels),
    )
    student = new_student(config, model, device)
    sizes = sorted({config.size_at(epoch) for epoch in range(config.total_epochs)})
    student.record(sizes)
    views = make_epoch(faces, config, 0)
    bfloat16 = config.training.precision == "mixed_bfloat16"

    def validate() -> None:
        count = config.training.statistics_batches * config.training.batch_size
        images = plain_images(faces, config, count)
        estimate_statistics(student.average, images, bfloat16=bfloat16)
        logits_of(student.average, val_views, bfloat16=bfloat16)

    def answer() -> None:
        logits_of(student.average, views.images, bfloat16=bfloat16)

    student.average.size = config.final_size
    for warm_up in (validate, answer):
        warm_up()
    with alone(turn):
        steps = {size: _step_seconds(student, views, size, seconds) for size in sizes}
        return Pace(
            steps=source.steps,
            batch_size=config.training.batch_size,
            seconds=steps[sizes[0]],
            large_seconds=steps[sizes[-1]],
            validation=_seconds(validate, device),
            predictions=0.0 if has_teachers(config) else len(faces) / _seconds(answer, device),
            views=_seconds(lambda: make_epoch(faces, config, 0), device),
        )


def _step_seconds(student: Student, views: Faces, size: int, seconds: float) -> float:
    """Take steps at a size for so long; return the seconds that one took."""
    count = student.config.training.batch_size
    batch = Faces(views.images[:count], views.targets[:count], views.weights[:count])
    rate = student.config.training.learning_rate
    student.network.size = size

    def steps() -> None:
        for number in range(_TOGETHER):
            student.learn(batch, None, rate=rate, number=number)

    _seconds(steps, student.device)
    took: list[float] = []
    while sum(took) < seconds:
        took.append(_seconds(steps, student.device))
    return sum(took) / len(took) / _TOGETHER


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
