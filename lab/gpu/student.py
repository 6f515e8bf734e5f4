"""A network under training on the device: one step, recorded once on a GPU and then replayed.

Starting a kernel takes tens of microseconds on a rented machine, and a step has hundreds of them: a
CUDA graph starts them all at once. So a step reads whatever lies in buffers that stay where they
are, and nothing in it waits for what the device has computed.
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
"""Keras' own."""
_MANY = 4096
"""Faces that a network reads together."""
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
    """A network with its optimizer, its moving average, and the head for votes if it has one.

    Attributes:
        average: what is evaluated and kept.
        loss_sum: of the losses of the steps, float64 (); `hit_sum` of the shares that were right.
    """

    def __init__(self, network: Network, config: Config, *, votes_head: nn.Module | None) -> None:
        """Take a network that lies on its device with its starting weights."""
        self.network, self.config, self.votes_head = network, config, votes_head
        self.parameters = list(network.parameters())
        self.device = self.parameters[0].device
        self.on_gpu = self.device.type == "cuda"
        self._bfloat16 = config.training.precision == "mixed_bfloat16"
        if self.on_gpu:
            network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self._own = list(network.parameters())
        self._mean = list(self.average.parameters())
        if votes_head is not None:
            self.parameters += list(votes_head.parameters())
        self._kernels = [each for each in self.parameters if each.ndim > 1]
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
        self._taught = torch.full((batch, classes), 1 / classes, device=device)
        self._rate = torch.zeros((), device=device)
        self._share = torch.zeros((), device=device)
        self.loss_sum = torch.zeros((), device=device, dtype=torch.float64)
        self.hit_sum = torch.zeros((), device=device, dtype=torch.float64)

    def _make_optimizer(self) -> None:
        decay = self.config.training.weight_decay
        self._velocity: list[Tensor] = []
        self._adamw: torch.optim.AdamW | None = None
        if self.config.training.optimizer == "sgd":
            self._velocity = [torch.zeros_like(each) for each in self.parameters]
            return
        others = [each for each in self.parameters if each.ndim <= 1]
        groups = [
            {"params": self._kernels, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            groups, lr=self._rate, eps=_EPSILON, fused=self.on_gpu, capturable=self.on_gpu
        )

    # ------------------------------------------------------------ a step
    def learn(self, batch: Faces, taught: Tensor | None, *, rate: float, number: int) -> None:
        """Make one step, at the network's size.

        Args:
            batch: as many views as the recipe says.
            taught: what the teachers say of them, float32 (N, classes); None without teachers.
            rate: the learning rate.
            number: how many steps the run made before this one.
        """
        self._faces.copy_(batch.images)
        self._targets.copy_(batch.targets)
        self._weights.copy_(batch.weights)
        if taught is not None:
            self._taught.copy_(taught)
        self._rate.fill_(rate)
        # An average that began with the starting weights would not forget them in a short run.
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
            difference = torch._foreach_sub(self._own, self._mean)
            torch._foreach_mul_(difference, self._share)
            torch._foreach_add_(self._mean, difference)
            self.loss_sum += loss.detach()
            right = logits.argmax(1) == self._targets[:, : self._classes].argmax(1)
            self.hit_sum += right.double().mean()

    def _loss(self, logits: Tensor, features: Tensor) -> Tensor:
        """Return what `mien.training.model.losses` describes."""
        settings, distill = self.config.training, self.config.distill
        smooth = settings.label_smoothing
        labels = self._targets[:, : self._classes] * (1 - smooth) + smooth / self._classes
        loss = -(labels * functional.log_softmax(logits, 1)).sum(1)
        if self._has_teachers:
            own = functional.log_softmax(logits / distill.temperature, 1)
            theirs = self._taught.clamp(min=1e-12).log()
            distance = distill.temperature**2 * (self._taught * (theirs - own)).sum(1)
            loss = (1 - distill.weight) * loss + distill.weight * distance
        if self.votes_head is not None:
            said = functional.log_softmax(self.votes_head(features), 1)
            votes = self._targets[:, self._classes :]
            loss = loss - settings.votes_weight * (votes * said).sum(1)
        return (loss * self._weights).mean()

    @torch.no_grad()
    def _descend(self) -> None:
        """Take a step of SGD with Nesterov's momentum; decay, on kernels, is in the gradient."""
        gradients = [each.grad for each in self.parameters]
        of_kernels = [each.grad for each in self._kernels]
        torch._foreach_add_(of_kernels, self._kernels, alpha=self.config.training.weight_decay)
        torch._foreach_mul_(self._velocity, MOMENTUM)
        torch._foreach_add_(self._velocity, gradients)
        torch._foreach_add_(gradients, self._velocity, alpha=MOMENTUM)
        torch._foreach_mul_(gradients, self._rate)
        torch._foreach_sub_(self.parameters, gradients)

    # ------------------------------------------------------------ recording
    def record(self, sizes: Sequence[int]) -> None:
        """Record a step at each input size, on a GPU; teaches nothing."""
        if not self.on_gpu:
            return
        buffers = [(each, each.clone()) for each in self.network.buffers()]
        # Trying all of cuDNN's ways takes a minute for depthwise ones, and brought nothing there.
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
        """Tell whether the losses so far and all weights are finite; waits for the device."""
        with torch.no_grad():
            norms = torch.stack(torch._foreach_norm(self.parameters))
            return bool(torch.isfinite(norms).all() & torch.isfinite(self.loss_sum))

    def arrays(self) -> Arrays:
        """Return all that going on exactly needs, by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._state().items()}

    def load(self, arrays: Arrays) -> None:
        """Take what `arrays` returned of a student of the same recipe.

        Raises:
            InputError: if it is of another one.
        """
        expected = self._state(initialise=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise InputError(
                f"the checkpoint holds {len(arrays)} arrays that are not the {len(shapes)} of this "
                "network and its optimizer: it was written by another recipe or version"
            )
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name])))

    def _state(self, *, initialise: bool = False) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        modules = {"network": self.network, "average": self.average, "votes": self.votes_head}
        for place, module in modules.items():
            if module is not None:
                parts |= {f"{place}/{name}": each for name, each in module.state_dict().items()}
        parts |= {f"velocity/{place:04d}": each for place, each in enumerate(self._velocity)}
        return parts | self._moments(initialise=initialise)

    def _moments(self, *, initialise: bool = False) -> dict[str, Tensor]:
        """Return AdamW's moments; those of a first step to come are made if wanted."""
        found: dict[str, Tensor] = {}
        if self._adamw is None:
            return found
        for place, parameter in enumerate(self.parameters):
            state = self._adamw.state[parameter]
            if initialise and not state:
                state["step"] = torch.zeros((), device=self.device if self.on_gpu else "cpu")
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            found |= {f"adamw/{place:04d}/{key}": state[key] for key in _MOMENTS if key in state}
        return found


# ---------------------------------------------------------------- inference
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

    Without dropout, see `mien.training.model.recalibrate_batch_norms`.

    Args:
        network: its running statistics are written over; it is left in evaluation mode.
        images: uint8 (N, 1, 48, 48), at least two.
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
        for batch in images.tensor_split(batches):
            network(batch.float())
    network.eval()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
