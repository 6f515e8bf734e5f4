"""A network tried on the device before it is trained: how fast is it here?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.gpu.epochs import Faces, faces_on, make_epoch, plain_images
from lab.gpu.network import arrays_of
from lab.gpu.plan import Pace
from lab.gpu.plans import set_weights
from lab.gpu.reading import estimate_statistics, logits_of
from lab.gpu.student import Student
from lab.gpu.trainer import find_device, new_student, prepare
from lab.gpu.trial import alone
from mien.training.data import BatchSource, TrainingData
from mien.training.model import build_model
from mien.training.recipe import Config

_TOGETHER = 8
"""Steps that are asked for before the device is waited for, as in training."""


def try_on_device(config: Config, data: TrainingData, *, turn: Path, seconds: float) -> Pace:
    """Try a network on the device; as `lab.gpu.trial.try_network`."""
    prepare(config)
    device = find_device(quiet=True)
    source = BatchSource(data, config)
    faces = faces_on(device, source.dataset)
    val_views = torch.from_numpy(np.array(data.val.images))[:, None].to(device)
    model = build_model(
        config.model,
        size=config.model.input_size,
        initialise=False,
        classes=len(config.labels),
    )
    with alone(turn):
        # Recording, too: it is work of the GPU, and would slow what another one measures.
        pace = _pace_of(config, model, faces, val_views, steps=source.steps, seconds=seconds)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return pace


def _pace_of(
    config: Config, model: Any, faces: Faces, val_views: Tensor, *, steps: int, seconds: float
) -> Pace:
    device = val_views.device
    student = new_student(config, model, device)
    sizes = sorted({config.size_at(epoch) for epoch in range(config.total_epochs)})
    student.record(sizes)
    views = make_epoch(faces, config, 0)
    bfloat16 = config.training.precision == "mixed_bfloat16"

    def validate() -> None:
        count = config.training.bn_recalibration_batches * config.training.batch_size
        images = plain_images(faces, config, count)
        estimate_statistics(student.average, images, bfloat16=bfloat16)
        logits_of(student.average, val_views, bfloat16=bfloat16)
        # At first nearly every validation is the best so far, and its network is kept.
        set_weights(model, arrays_of(student.average))
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "tried.keras")

    def answer() -> None:
        logits_of(student.average, views.images, bfloat16=bfloat16)

    student.average.size = config.final_size
    is_teacher = not config.distill.teachers
    for warm_up in (validate, answer) if is_teacher else (validate,):
        warm_up()
    paces = {size: _step_seconds(student, views, size, seconds) for size in sizes}
    return Pace(
        steps=steps,
        batch_size=config.training.batch_size,
        seconds=paces[sizes[0]],
        large_seconds=paces[sizes[-1]],
        validation=_seconds(validate, device),
        predictions=len(faces) / _seconds(answer, device) if is_teacher else 0.0,
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
