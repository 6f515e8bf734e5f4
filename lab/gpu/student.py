"""A network being trained on a device; on a GPU, its step is recorded as a CUDA graph.

Launching a kernel takes tens of microseconds on a rented machine, and a step has hundreds of them;
a CUDA graph launches them all at once. A step therefore reads its inputs from buffers at fixed
addresses, and never waits for a result.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.gpu.network import Arrays, Network
from mien.core.errors import InputError
from mien.training.recipe import Config

MOMENTUM = 0.9
_WARM_STEPS = 3
_EPSILON = 1e-7
"""As in Keras."""
_INFERENCE_BATCH = 4096
_STATISTICS_BATCH = 1024
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Faces(NamedTuple):
    """A batch of views on the device.

    Attributes:
        images: uint8 (N, 1, 48, 48).
        targets: float32 (N, classes), the labels; or (N, 2 classes), labels and FER+ votes.
        weights: float32 (N,), in the loss.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor


class Student:
    """A network with its optimizer, its moving average, and perhaps a head for FER+ votes.

    Attributes:
        average: the averaged network, which is evaluated and saved.
        loss_sum: sum of the step losses, float64 ().
        hit_sum: sum of the step accuracies, float64 ().

    Args:
        network: the network on its device, with its starting weights.
        config: the recipe.
        votes_head: the head for votes; None without.
    """

    def __init__(self, network: Network, config: Config, *, votes_head: nn.Module | None) -> None:
        self.network, self.config, self.votes_head = network, config, votes_head
        self.parameters = list(network.parameters())
        self.device = self.parameters[0].device
        self.on_gpu = self.device.type == "cuda"
        self._bfloat16 = config.training.precision == "mixed_bfloat16"
        if self.on_gpu:
            network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self._network_weights = list(network.parameters())
        self._average_weights = list(self.average.parameters())
        if votes_head is not None:
            self.parameters += list(votes_head.parameters())
        self._kernels = [part for part in self.parameters if part.ndim > 1]
        self._make_buffers(classes=len(config.labels))
        self._make_optimizer()
        self._has_teachers = bool(config.distill.teachers)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        network.train()

    def _make_buffers(self, *, classes: int) -> None:
        batch, device = self.config.training.batch_size, self.device
        heads = 1 if self.votes_head is None else 2
        self._classes = classes
        self._faces = torch.zeros(batch, 1, 48, 48, device=device, dtype=torch.uint8)
        self._targets = torch.full((batch, heads * classes), 1 / classes, device=device)
        self._weights = torch.ones(batch, device=device)
        self._soft_targets = torch.full((batch, classes), 1 / classes, device=device)
        self._rate = torch.zeros((), device=device)
        self._share = torch.zeros((), device=device)
        self.loss_sum = torch.zeros((), device=device, dtype=torch.float64)
        self.hit_sum = torch.zeros((), device=device, dtype=torch.float64)

    def _make_optimizer(self) -> None:
        decay = self.config.training.weight_decay
        self._velocity: list[Tensor] = []
        self._adamw: torch.optim.AdamW | None = None
        if self.config.training.optimizer == "sgd":
            self._velocity = [torch.zeros_like(parameter) for parameter in self.parameters]
            return
        others = [part for part in self.parameters if part.ndim <= 1]
        groups = [
            {"params": self._kernels, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            groups, lr=self._rate, eps=_EPSILON, fused=self.on_gpu, capturable=self.on_gpu
        )

    # ------------------------------------------------------------ a step
    def learn(self, batch: Faces, soft_targets: Tensor | None, *, rate: float, number: int) -> None:
        """Do one step, at the network's input size.

        Args:
            batch: a batch of the recipe's size.
            soft_targets: the teachers' probabilities, float32 (N, classes); None without teachers.
            rate: the learning rate.
            number: number of earlier steps of the run.
        """
        self._faces.copy_(batch.images)
        self._targets.copy_(batch.targets)
        self._weights.copy_(batch.weights)
        if soft_targets is not None:
            self._soft_targets.copy_(soft_targets)
        self._rate.fill_(rate)
        # With a constant momentum, a short run would retain the starting weights.
        ema = min(self.config.training.ema, (2 + number) / (11 + number))
        self._share.fill_(1 - ema)
        graph = self._graphs.get(self.network.size)
        if graph is None:
            self._step()
        else:
            graph.replay()

    def _step(self) -> None:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False
        ):
            logits, features = self.network.logits_and_features(self._faces.float())
        loss = self._loss(logits.float(), features.float())
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self.config.training.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.config.training.clip_norm)
        if self._adamw is None:
            self._descend()
        else:
            self._adamw.step()
        with torch.no_grad():
            difference = torch._foreach_sub(self._network_weights, self._average_weights)
            torch._foreach_mul_(difference, self._share)
            torch._foreach_add_(self._average_weights, difference)
            self.loss_sum += loss.detach()
            right = logits.argmax(1) == self._targets[:, : self._classes].argmax(1)
            self.hit_sum += right.double().mean()

    def _loss(self, logits: Tensor, features: Tensor) -> Tensor:
        """Return the loss of `mien.training.model.losses`."""
        settings, distill = self.config.training, self.config.distill
        smooth = settings.label_smoothing
        labels = self._targets[:, : self._classes] * (1 - smooth) + smooth / self._classes
        loss = -(labels * functional.log_softmax(logits, 1)).sum(1)
        if self._has_teachers:
            student = functional.log_softmax(logits / distill.temperature, 1)
            teacher = self._soft_targets.clamp(min=1e-12).log()
            distance = distill.temperature**2 * (self._soft_targets * (teacher - student)).sum(1)
            loss = (1 - distill.weight) * loss + distill.weight * distance
        if self.votes_head is not None:
            predicted = functional.log_softmax(self.votes_head(features), 1)
            votes = self._targets[:, self._classes :]
            loss = loss - settings.votes_weight * (votes * predicted).sum(1)
        return (loss * self._weights).mean()

    @torch.no_grad()
    def _descend(self) -> None:
        """Do a step of SGD with Nesterov momentum, with the weight decay in the gradient."""
        gradients = [parameter.grad for parameter in self.parameters]
        of_kernels = [parameter.grad for parameter in self._kernels]
        torch._foreach_add_(of_kernels, self._kernels, alpha=self.config.training.weight_decay)
        torch._foreach_mul_(self._velocity, MOMENTUM)
        torch._foreach_add_(self._velocity, gradients)
        torch._foreach_add_(gradients, self._velocity, alpha=MOMENTUM)
        torch._foreach_mul_(gradients, self._rate)
        torch._foreach_sub_(self.parameters, gradients)

    # ------------------------------------------------------------ recording
    def record(self, sizes: Sequence[int]) -> None:
        """Record a step at each input size, on a GPU; the weights do not change."""
        if not self.on_gpu:
            return
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        # Benchmarking cuDNN takes a minute for depthwise convolutions, without any gain there.
        kinds = {layer["kind"] for layer in self.network.plan}
        torch.backends.cudnn.benchmark = "DepthwiseConv2D" not in kinds
        self._rate.zero_()
        self._share.zero_()
        for size in dict.fromkeys(sizes):
            self.network.size = size
            self._graphs[size] = self._recorded()
        torch.backends.cudnn.benchmark = False
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for tensor in (*self._velocity, *self._moments().values(), self.loss_sum, self.hit_sum):
            tensor.zero_()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    # ------------------------------------------------------------ checkpoints
    def is_finite(self) -> bool:
        """Return True if all losses so far and all weights are finite; waits for the device."""
        with torch.no_grad():
            norms = torch.stack(torch._foreach_norm(self.parameters))
            return bool(torch.isfinite(norms).all() & torch.isfinite(self.loss_sum))

    def arrays(self) -> Arrays:
        """Return everything that an exact resume needs, by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._state().items()}

    def load(self, arrays: Arrays) -> None:
        """Load what `arrays` returned for a student of the same recipe.

        Raises:
            InputError: if it is from another recipe.
        """
        expected = self._state(initialise=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise InputError(
                f"the checkpoint holds {len(arrays)} arrays that do not match the {len(shapes)} of "
                "this network and its optimizer: it was written by another recipe or version"
            )
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name])))

    def _state(self, *, initialise: bool = False) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        modules = {"network": self.network, "average": self.average, "votes": self.votes_head}
        for prefix, module in modules.items():
            if module is not None:
                parts |= {f"{prefix}/{name}": part for name, part in module.state_dict().items()}
        parts |= {f"velocity/{index:04d}": part for index, part in enumerate(self._velocity)}
        return parts | self._moments(initialise=initialise)

    def _moments(self, *, initialise: bool = False) -> dict[str, Tensor]:
        """Return AdamW's moments, created if ``initialise`` and there was no step yet."""
        moments: dict[str, Tensor] = {}
        if self._adamw is None:
            return moments
        for index, parameter in enumerate(self.parameters):
            state = self._adamw.state[parameter]
            if initialise and not state:
                state["step"] = torch.zeros((), device=self.device if self.on_gpu else "cpu")
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            moments |= {f"adamw/{index:04d}/{key}": state[key] for key in _MOMENTS if key in state}
        return moments


# ---------------------------------------------------------------- inference
def logits_of(network: Network, views: Tensor, *, bfloat16: bool = False) -> Tensor:
    """Return a network's logits, without gradients.

    Args:
        network: the network; its mode is not changed.
        views: uint8 (N, 1, 48, 48).
        bfloat16: compute in bfloat16 rather than float32.

    Returns:
        float32 (N, classes).
    """
    parts = []
    with torch.no_grad(), torch.autocast(views.device.type, torch.bfloat16, enabled=bfloat16):
        for part in views.split(_INFERENCE_BATCH):
            parts.append(network(part.float()).float())
    return torch.cat(parts)


def mean_probabilities(
    teachers: Sequence[Network], views: Tensor, temperature: float, *, bfloat16: bool = False
) -> Tensor:
    """Return the teachers' mean probabilities at a temperature, float32 (N, classes)."""
    total = sum(
        (logits_of(teacher, views, bfloat16=bfloat16) / temperature).softmax(1)
        for teacher in teachers
    )
    return total / len(teachers)


def estimate_statistics(network: Network, images: Tensor, *, bfloat16: bool = False) -> None:
    """Recompute BatchNorm statistics on plain images, with dropout off.

    See `mien.training.model.recalibrate_batch_norms`.

    Args:
        network: the network; it is left in evaluation mode.
        images: uint8 (N, 1, 48, 48), at least two.
        bfloat16: see `logits_of`.
    """
    norms = [
        part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    batches = -(-len(images) // _STATISTICS_BATCH)
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        for batch in images.tensor_split(batches):
            network(batch.float())
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
