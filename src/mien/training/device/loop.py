"""Training on the device: networks that see the same views, of labels or of teachers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mien.training.config import Config
from mien.training.device.network import Network
from mien.training.device.views import Chance, augmented, mixed

_CHUNK = 16384
"""Faces that are augmented together."""
_MANY = 4096
"""Faces that a network reads together when nothing is learnt."""


@dataclass(frozen=True)
class Faces:
    """Images on the device.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: int64 (N,).
        votes: float32 (N, 7), rows sum to at most 1; None without.
    """

    images: Tensor
    labels: Tensor
    votes: Tensor | None = None


class Student:
    """A network under training; on a GPU its steps are recorded once and replayed."""

    def __init__(
        self,
        name: str,
        network: Network,
        config: Config,
        sizes: Sequence[tuple[float, int]],
        *,
        optimizer: str = "adamw",
        votes_head: nn.Module | None = None,
        channels_last: bool = True,
        tuned: bool = False,
    ) -> None:
        """Make the optimizer and the average."""
        self.name, self.network, self.config, self.sizes = name, network, config, sizes
        self.optimizer, self.votes_head, self.tuned = optimizer, votes_head, tuned
        if channels_last:
            network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.steps = 0
        self.parameters = list(network.parameters())
        if votes_head is not None:
            self.parameters += list(votes_head.parameters())
        device = self.parameters[0].device
        self.device = device
        self.rate = torch.zeros((), device=device)
        self.share = torch.zeros((), device=device)
        self.total = torch.zeros((), device=device)
        batch = config.training.batch_size
        self.faces = torch.zeros(batch, 1, 48, 48, device=device, dtype=torch.uint8)
        self.targets = torch.full((batch, 14), 1 / 7, device=device)
        self.taught = torch.full((batch, 7), 1 / 7, device=device)
        decay = config.training.weight_decay
        self.kernels = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        self.velocity = [torch.zeros_like(p) for p in self.parameters]
        if optimizer == "adamw":
            groups = [
                {"params": self.kernels, "weight_decay": decay},
                {"params": others, "weight_decay": 0.0},
            ]
            gpu = device.type == "cuda"
            self.stepper = torch.optim.AdamW(groups, lr=self.rate, fused=gpu, capturable=gpu)
        self._own = list(network.parameters())
        self._mean = list(self.average.parameters())
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def _step(self, has_teachers: bool) -> None:
        """One step on what lies in the buffers."""
        settings, distill = self.config.training, self.config.distill
        smooth = settings.label_smoothing
        labels, votes = self.targets[:, :7], self.targets[:, 7:]
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            logits, features = self.network.logits_and_features(self.faces.float())
        logits = logits.float()
        loss = functional.cross_entropy(logits, labels * (1 - smooth) + smooth / 7)
        if has_teachers:
            own = functional.log_softmax(logits / distill.temperature, 1)
            taught = self.taught
            distance = (taught * (taught.clamp(min=1e-9).log() - own)).sum(1).mean()
            loss = (1 - distill.weight) * loss + distill.weight * distill.temperature**2 * distance
        if self.votes_head is not None:
            said = functional.log_softmax(self.votes_head(features.float()), 1)
            loss = loss - settings.votes_weight * (votes * said).sum(1).mean()
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self.optimizer == "sgd":
            self._sgd()
        else:
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm, foreach=True)
            self.stepper.step()
        with torch.no_grad():
            difference = torch._foreach_sub(self._own, self._mean)
            torch._foreach_mul_(difference, self.share)
            torch._foreach_add_(self._mean, difference)
            self.total += loss.detach()

    @torch.no_grad()
    def _sgd(self, momentum: float = 0.9) -> None:
        """Nesterov's momentum; decay on kernels only."""
        gradients = [p.grad for p in self.parameters]
        on_kernels = [p.grad for p in self.kernels]
        torch._foreach_add_(on_kernels, self.kernels, alpha=self.config.training.weight_decay)
        torch._foreach_mul_(self.velocity, momentum)
        torch._foreach_add_(self.velocity, gradients)
        torch._foreach_add_(gradients, self.velocity, alpha=momentum)
        torch._foreach_mul_(gradients, self.rate)
        torch._foreach_sub_(self.parameters, gradients)

    def prepare(self, has_teachers: bool) -> None:
        """Record a step at each size; teaches nothing."""
        self.has_teachers = has_teachers
        self.rate.zero_()
        self.share.zero_()
        self.network.train()
        if self.device.type != "cuda":
            return
        for size in dict.fromkeys(size for _, size in self.sizes):
            self.network.size = size
            torch.backends.cudnn.benchmark = self.tuned
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._step(has_teachers)
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step(has_teachers)
            self._graphs[size] = graph
            torch.backends.cudnn.benchmark = False
        for tensor in self.velocity:
            tensor.zero_()
        if self.optimizer == "adamw":
            for state in self.stepper.state.values():
                for tensor in state.values():
                    tensor.zero_()
        self.total.zero_()

    def learn(
        self, faces: Tensor, targets: Tensor, taught: Tensor | None, rate: float, size: int
    ) -> None:
        """Make one step."""
        self.faces.copy_(faces)
        self.targets.copy_(targets)
        if taught is not None:
            self.taught.copy_(taught)
        self.rate.fill_(rate)
        self.steps += 1
        ema = self.config.training.ema
        self.share.fill_(1 - min(ema, (1 + self.steps) / (10 + self.steps)))
        self.network.size = size
        if size in self._graphs:
            self._graphs[size].replay()
        else:
            self._step(self.has_teachers)


def make_views(
    faces: Faces, config: Config, chance: Chance, *, mixing: bool
) -> tuple[Tensor, Tensor]:
    """Return all faces in random order as uint8 (N, 1, 48, 48), and their targets (N, 14)."""
    order = chance.permutation(len(faces.images))
    targets = functional.one_hot(faces.labels, 7).float()
    votes = torch.zeros_like(targets) if faces.votes is None else faces.votes
    targets = torch.cat([targets, votes], 1)
    views, aims = [], []
    for chosen in order.split(_CHUNK):
        view = augmented(faces.images[chosen], config.augmentation, chance)
        aim = targets[chosen]
        if mixing:
            view, aim = mixed(view, aim, config.augmentation, chance)
        views.append(view.to(torch.uint8))
        aims.append(aim)
    return torch.cat(views), torch.cat(aims)


@torch.no_grad()
def logits_of(network: Network, views: Tensor, *, mirrored: bool = False) -> Tensor:
    """Return float32 logits of uint8 views (N, 1, 48, 48)."""
    parts = []
    with torch.autocast(views.device.type, torch.bfloat16):
        for part in views.split(_MANY):
            x = part.float()
            parts.append(network(x.flip(3) if mirrored else x).float())
    return torch.cat(parts)


@torch.no_grad()
def taught_by(
    teachers: Sequence[Network], weights: Sequence[float], views: Tensor, heat: float
) -> Tensor:
    """Return the weighted mean of the teachers' softened probabilities."""
    total = sum(weights)
    parts = [
        (logits_of(teacher, views) / heat).softmax(1) * (weight / total)
        for teacher, weight in zip(teachers, weights, strict=True)
    ]
    return torch.stack(parts).sum(0)


@torch.no_grad()
def estimate_statistics(network: Network, images: Tensor, *, limit: int | None = None) -> None:
    """Give BatchNorm layers the statistics of plain images (N, 48, 48)."""
    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    kept = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    order = torch.randperm(len(images), device=images.device)[:limit]
    with torch.autocast(images.device.type, torch.bfloat16):
        for chosen in order.split(1024):
            if len(chosen) > 1:
                x = images[chosen][:, None].float()
                network(torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x, x.flip(3)))
    network.eval()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def accuracies(network: Network, val: Faces) -> dict[str, float]:
    """Return accuracy and loss on plain images, and both with the mirror image's mean."""
    views = val.images[:, None]
    plain = logits_of(network, views)
    both = (plain.softmax(1) + logits_of(network, views, mirrored=True).softmax(1)) / 2
    return {
        "accuracy": float((plain.argmax(1) == val.labels).float().mean()),
        "mirrored": float((both.argmax(1) == val.labels).float().mean()),
        "loss": float(functional.cross_entropy(plain, val.labels)),
    }


def rate_at(progress: float, peak: float, warm: float = 0.03) -> float:
    """Return the learning rate: warm-up, then a cosine to zero."""
    if progress < warm:
        return peak * max(progress, 1e-4) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm) / (1 - warm))))


def size_at(student: Student, progress: float) -> int:
    """Return the input size at a share of the run."""
    end = 0.0
    for share, size in student.sizes:
        end += share
        if progress < end:
            return size
    return student.sizes[-1][1]


def train(
    students: Sequence[Student],
    train_faces: Faces,
    val: Faces,
    *,
    seconds: float,
    seed: int,
    teachers: Sequence[Network] = (),
    teacher_weights: Sequence[float] = (),
    log: Callable[[str], None] = print,
    report_every: int = 10,
) -> dict[str, dict[str, float]]:
    """Train networks side by side on the same views for a time; leave their averages evaluated.

    Returns:
        By name, what `accuracies` says at the end, with ``epochs`` and ``pace`` (images a second).
    """
    device = train_faces.images.device
    chance = Chance(device, seed)
    config = students[0].config
    batch = config.training.batch_size
    heat = config.distill.temperature
    for student in students:
        student.prepare(bool(teachers))
    started = time.perf_counter()
    epoch = 0
    while True:
        progress = (time.perf_counter() - started) / seconds
        if progress >= 1:
            break
        mixing = progress < 0.85 and config.augmentation.mixup > 0
        views, targets = make_views(train_faces, config, chance, mixing=mixing)
        taught = taught_by(teachers, teacher_weights, views, heat) if teachers else None
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        steps = len(views) // batch
        for student in students:
            student.total.zero_()
        for step in range(steps):
            part = slice(step * batch, (step + 1) * batch)
            # Recorded steps are asked for far ahead of the device: the epoch's start counts.
            progress = (time.perf_counter() - started) / seconds
            for student in students:
                size = size_at(student, (begun - started) / seconds)
                rate = rate_at(progress, student.config.training.learning_rate)
                given = None if taught is None else taught[part]
                student.learn(views[part], targets[part], given, rate, size)
            if device.type == "cuda" and step % 8 == 7:
                torch.cuda.synchronize()
        if device.type == "cuda":
            torch.cuda.synchronize()
        epoch += 1
        if epoch % report_every == 0 or epoch in (1, 3):
            _report(students, train_faces, val, epoch, started, seconds, steps, log)
    return _finish(students, train_faces, val, epoch, time.perf_counter() - started)


def _report(
    students: Sequence[Student],
    faces: Faces,
    val: Faces,
    epoch: int,
    started: float,
    seconds: float,
    steps: int,
    log: Callable[[str], None],
) -> None:
    spent = time.perf_counter() - started
    for student in students:
        loss = float(student.total) / steps
        student.average.size = student.network.size
        estimate_statistics(student.average, faces.images, limit=4096)
        found = accuracies(student.average, val)
        log(
            f"{student.name} epoch {epoch} {student.network.size} px {spent:.0f}/{seconds:.0f} s "
            f"loss {loss:.3f} val {found['accuracy']:.4f} mirrored {found['mirrored']:.4f} "
            f"val_loss {found['loss']:.4f}"
        )


def _finish(
    students: Sequence[Student], faces: Faces, val: Faces, epochs: int, spent: float
) -> dict[str, dict[str, float]]:
    results = {}
    for student in students:
        student.average.size = student.sizes[-1][1]
        estimate_statistics(student.average, faces.images)
        results[student.name] = {
            **accuracies(student.average, val),
            "epochs": epochs,
            "pace": epochs * len(faces.images) / spent,
        }
    return results


def with_settings(config: Config, **tables: dict[str, object]) -> Config:
    """Return a recipe with some settings changed, by table."""
    changed = {
        name: replace(getattr(config, name), **values) for name, values in tables.items()
    }
    return replace(config, **changed)
