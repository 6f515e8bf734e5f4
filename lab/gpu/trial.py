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
from mien.training.augmentation import MixedBatch
from mien.training.backend import prepare_backend
from mien.training.batches import BatchSource
from mien.training.config import Config
from mien.training.distillation import Teaching
from mien.training.model import build_model
from mien.training.objective import has_teachers, released_network, step_arrays
from mien.training.run_folder import RunFolder
from mien.training.stages import (
    averaged_weights,
    compiled_model,
    estimated_statistics,
    stage_of,
)
from mien.training.stepping import Stepper, make_stepper
from mien.training.training_data import TrainingData
from mien.training.validation import predict_probabilities
from mien.training.views import ViewName

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
    source = BatchSource(data.train, drawn, data.votes)
    stages = {stage_of(config, epoch) for epoch in range(config.total_epochs)}
    step_seconds: dict[int, float] = {}
    check = 0.0
    # The smallest last: what it measures beside its steps stands for all.
    for stage in sorted(stages, key=lambda stage: (-stage.size, stage.blocks == 0)):
        model = compiled_model(config, stage, initialise=True)
        stepper = make_stepper(model, config.training.backend)
        _take_steps(config, source, stepper, steps=_WARM_STEPS)
        _validate(model, source, data, config, stepper)
        with alone(turn):
            found = _take_steps(config, source, stepper, seconds=seconds)
            check = _validate(model, source, data, config, stepper)
        step_seconds[stage.size] = max(found, step_seconds.get(stage.size, 0.0))
    small = step_seconds[config.model.input_size]
    return Pace(
        steps=source.steps,
        batch_size=config.training.batch_size,
        seconds=small,
        large_seconds=step_seconds.get(config.final_size, small),
        validation=check,
        predictions=0.0 if has_teachers(config) else _ask(config, data, turn),
    )


def _take_steps(
    config: Config,
    source: BatchSource,
    stepper: Stepper,
    *,
    steps: int = 0,
    seconds: float = float("inf"),
) -> float:
    """Take so many steps, or steps for so long; return the seconds that one took."""
    began, done = time.monotonic(), 0
    logs: list[Any] = []
    with contextlib.closing(_batches(config, source)) as batches:
        for batch in batches:
            logs.append(stepper.step(step_arrays(batch), config.training.learning_rate))
            done += 1
            if len(logs) >= stepper.ahead:
                float(logs[-1]["loss"])  # waits for it
                logs.clear()
            if done == steps or time.monotonic() - began >= seconds:
                break
        if logs:
            float(logs[-1]["loss"])
    stepper.settle()
    return (time.monotonic() - began) / done


def _batches(config: Config, source: BatchSource) -> Generator[MixedBatch]:
    """Yield batches without end, as the recipe's network takes them."""
    epoch = 0
    while True:
        with contextlib.closing(source.epoch(epoch)) as batches:
            for batch in batches:
                yield replace(batch, taught=batch.targets) if has_teachers(config) else batch
        epoch = (epoch + 1) % config.total_epochs


def _validate(
    model: Any, source: BatchSource, data: TrainingData, config: Config, stepper: Stepper
) -> float:
    """Validate as training does; return the seconds that it took."""
    began = time.monotonic()
    count = config.training.statistics_batches
    with (
        averaged_weights(model),
        estimated_statistics(model, source.plain_batches(), count=count, stepper=stepper),
    ):
        predict_probabilities(released_network(model), data.val.images)
    return time.monotonic() - began


def _ask(config: Config, data: TrainingData, turn: Path) -> float:
    """Ask the network as a teacher is asked; return how many images it answers a second."""
    faces = data.train.images[:_ASKED]
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "tried")
        run.path.mkdir()
        build_model(config.model, size=config.final_size, initialise=False).save(run.best)
        asking = replace(config.distill, teachers=(str(run.path),), views=1, cache="")
        teaching = Teaching(replace(config, distill=asking), faces, quiet=True)
    teaching.of_view(ViewName(0, False), faces)
    with alone(turn):
        began = time.monotonic()
        teaching.of_view(ViewName(1, False), faces)
        return len(faces) / (time.monotonic() - began)


@contextlib.contextmanager
def alone(turn: Path) -> Iterator[None]:
    """Wait until no other process measures."""
    with turn.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
