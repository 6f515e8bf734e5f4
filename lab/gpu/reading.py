"""Networks on the device that read without learning: validation, statistics, teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.gpu.network import Network

_MANY = 4096
"""Faces that a network reads together."""
_STATISTICS_BATCH = 1024


def logits_of(network: Network, views: Tensor, *, bfloat16: bool = False) -> Tensor:
    """Return a network's logits without training it.

    Args:
        network: in the mode that it is in.
        views: uint8 (N, 1, 48, 48).
        bfloat16: compute in that; else in float32.

    Returns:
        float32 (N, classes).
    """
    parts = []
    with torch.no_grad(), torch.autocast(views.device.type, torch.bfloat16, enabled=bfloat16):
        for part in views.split(_MANY):
            parts.append(network(part.float()).float())
    return torch.cat(parts)


def taught_by(
    teachers: Sequence[Network], views: Tensor, temperature: float, *, bfloat16: bool = False
) -> Tensor:
    """Return the mean of teachers' probabilities at a temperature, float32 (N, classes)."""
    total = sum(
        (logits_of(teacher, views, bfloat16=bfloat16) / temperature).softmax(1)
        for teacher in teachers
    )
    return total / len(teachers)


def estimate_statistics(network: Network, images: Tensor, *, bfloat16: bool = False) -> None:
    """Give BatchNorm layers the statistics that plain images have under the weights as they stand.

    Without dropout, see `mien.training.trainer.recalibrated_statistics`.

    Args:
        network: its running statistics are written over; it is left in evaluation mode.
        images: uint8 (N, 48, 48), at least two.
        bfloat16: see `logits_of`.
    """
    norms = [
        part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    kept = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    batches = -(-len(images) // _STATISTICS_BATCH)
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        for batch in images[:, None].tensor_split(batches):
            network(batch.float())
    network.eval()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
