"""A network tried for some seconds before it is trained: how fast is it here?

What is compiled for it stays in the compilation cache, where a backend has one: training then
starts at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.gpu.plan import Pace
from mien.training.backend import prepare_backend
from mien.training.data import BatchSource, TrainingData
from mien.training.distillation import TeacherEnsemble
from mien.training.model import build_model, compiled_model, kept_network, step_arrays
from mien.training.recipe import Config
from mien.training.run import RunFolder
from mien.training.trainer import (
    Phase,
    averaged_weights,
    predict_probabilities,
    recalibrated_statistics,
)
from mien.training.transforms import Batch, View

_WARM_STEPS = 2
_ASKED = 4096


def try_network(config: Config, data: TrainingData, *, turn: Path, seconds: float = 4.0) -> Pace:
    """Train a network for some seconds at each of its sizes, and throw it away.

    Args:
        config: its recipe; its teachers, who may not be there yet, are not asked.
        data: what it is trained on.
        turn: a file; of all that try with the same one, one measures at a time.
        seconds: to measure for, at each size.

    Raises:
        UsageError, DataError, InputError: as `mien.training.trainer.train`.
    """
    if config.training.backend == "torch":
        from lab.gpu.device_trial import try_on_device

        return try_on_device(config, data, turn=turn, seconds=seconds)
    prepare_backend(config.training)
    drawn = replace(config, distill=replace(config.distill, views=0, cache="", sharp=False))
    source = BatchSource(data, drawn)
    phases = {Phase.at(config, epoch) for epoch in range(config.total_epochs)}
    step_seconds: dict[int, float] = {}
    check = 0.0
    # The smallest last: what it measures beside its steps stands for all.
    for phase in sorted(phases, key=lambda phase: (-phase.size, phase.blocks == 0)):
        model = compiled_model(config, blocks=phase.blocks, size=phase.size, initialise=True)
        _take_steps(config, source, model, steps=_WARM_STEPS)
        _validate(model, source, data, config)
        with alone(turn):
            found = _take_steps(config, source, model, seconds=seconds)
            check = _validate(model, source, data, config)
        step_seconds[phase.size] = max(found, step_seconds.get(phase.size, 0.0))
    small = step_seconds[config.model.input_size]
    return Pace(
        steps=source.steps,
        batch_size=config.training.batch_size,
        seconds=small,
        large_seconds=step_seconds.get(config.final_size, small),
        validation=check,
        predictions=0.0 if config.distill.teachers else _ask(config, data, turn),
    )


def _take_steps(
    config: Config,
    source: BatchSource,
    model: Any,
    *,
    steps: int = 0,
    seconds: float = float("inf"),
) -> float:
    """Take so many steps, or steps for so long; return the seconds that one took."""
    began, done = time.monotonic(), 0
    with contextlib.closing(_batches(config, source)) as batches:
        for batch in batches:
            model.train_on_batch(*step_arrays(batch))
            done += 1
            if done == steps or time.monotonic() - began >= seconds:
                break
    return (time.monotonic() - began) / done


def _batches(config: Config, source: BatchSource) -> Generator[Batch]:
    """Yield batches without end, as the recipe's network takes them."""
    epoch = 0
    while True:
        with contextlib.closing(source.epoch(epoch)) as batches:
            for batch in batches:
                taught = batch.targets if config.distill.teachers else None
                yield replace(batch, soft_targets=taught)
        epoch = (epoch + 1) % config.total_epochs


def _validate(model: Any, source: BatchSource, data: TrainingData, config: Config) -> float:
    """Validate as training does; return the seconds that it took."""
    began = time.monotonic()
    count = config.training.bn_recalibration_batches
    with (
        averaged_weights(model),
        recalibrated_statistics(model, source.plain_batches(), count=count),
    ):
        predict_probabilities(kept_network(model), data.val.images)
    return time.monotonic() - began


def _ask(config: Config, data: TrainingData, turn: Path) -> float:
    """Ask the network as a teacher is asked; return how many images it answers a second."""
    faces = data.train.images[:_ASKED]
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "tried")
        run.path.mkdir()
        build_model(config.model, size=config.final_size, initialise=False).save(run.best)
        asking = replace(config.distill, teachers=(str(run.path),), views=1, cache="")
        teachers = TeacherEnsemble(replace(config, distill=asking), faces, quiet=True)
    teachers.soft_targets_of_view(View(0, False), faces)
    with alone(turn):
        began = time.monotonic()
        teachers.soft_targets_of_view(View(1, False), faces)
        return len(faces) / (time.monotonic() - began)


@contextlib.contextmanager
def alone(turn: Path) -> Iterator[None]:
    """Wait until no other process measures."""
    with turn.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
