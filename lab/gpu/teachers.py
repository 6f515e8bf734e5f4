"""Teachers that stand on the device beside the network that learns from them."""

from __future__ import annotations

import torch

from lab.gpu.network import Network, load_arrays
from lab.gpu.plans import plan_of, weights_of
from mien.core.errors import UsageError
from mien.training.distillation import Teacher, find_teacher
from mien.training.model import load_keras_model
from mien.training.recipe import Config


def find_teachers(config: Config) -> list[Teacher]:
    """Return the teachers of a recipe, all of which are runs.

    Raises:
        ModelError: if one is missing or damaged.
        UsageError: if one is an exported model.
    """
    found = [find_teacher(source, config.labels) for source in config.distill.teachers]
    for teacher in found:
        if teacher.file is None:
            raise teacher.missing()
        if teacher.file.suffix != ".keras":
            raise UsageError(
                f"the teacher {teacher.source!r} is an exported model: the device learns from "
                "runs' folders alone, with best.keras in them"
            )
    return found


def open_teachers(teachers: list[Teacher], device: torch.device) -> list[Network]:
    """Return teachers' networks on a device, in evaluation mode; Keras must be set up already.

    Raises:
        ModelError: if one is damaged, or holds layers that cannot be built here.
    """
    return [_open(teacher, device) for teacher in teachers]


def _open(teacher: Teacher, device: torch.device) -> Network:
    assert teacher.file is not None
    model = load_keras_model(teacher.file)
    plan = plan_of(model)
    size = next(layer["shape"][0] for layer in plan if layer["kind"] == "Resizing")
    network = Network(plan, size=size)
    load_arrays(network, weights_of(model))
    network.to(device).eval().requires_grad_(False)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)
    return network
