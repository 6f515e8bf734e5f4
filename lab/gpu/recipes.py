"""The recipes of a plan's networks as they are trained here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.gpu.plan import Pace, StagePlan
from mien.training.recipe import Config, load_config

LITE0 = "lite0"
_DRAWN_A_SECOND = 25_000
"""Images of a view that one thread draws, at least."""


@dataclass(frozen=True)
class Machine:
    """What the recipes have to know of the machine and the kit's folder.

    Attributes:
        work: the kit's folder.
        backend: of the recipes.
        has_gpu: whether it is fast, at least in bfloat16.
        workers: threads that make batches.
    """

    work: Path
    backend: str
    has_gpu: bool
    workers: int

    @property
    def asks_live(self) -> bool:
        """Tell whether teachers stand beside the network that learns, and are asked as it goes."""
        return self.backend == "cuda"

    @property
    def start(self) -> Path:
        """The network that takes the place of the weights "lite0"."""
        return self.work / "start.keras"

    @property
    def logits(self) -> Path:
        """What teachers say of the student's views."""
        return self.work / "logits"

    def run(self, stage: StagePlan) -> Path:
        """Return the folder of a network's run."""
        return self.work / "runs" / stage.name


def recipe_here(machine: Machine, stage: StagePlan, epochs: int) -> Config:
    """Return a network's recipe with the machine's data, backend and speed in it.

    The last epochs, which are not mixed, stay the share of all that they are in the recipe.

    Raises:
        InputError, UsageError: as `mien.training.recipe.load_config`.
    """
    config = load_config(stage.recipe)
    votes = machine.work / "votes.csv"
    wanted = (
        config.training.votes_weight > 0 or config.data.drop_not_a_face or config.distill.votes > 0
    )
    data = replace(
        config.data,
        source=str(machine.work / "faces.npz"),
        votes=str(votes) if wanted and votes.is_file() else "",
        drop_not_a_face=config.data.drop_not_a_face and votes.is_file(),
    )
    model = config.model
    if model.weights == LITE0:
        model = replace(model, weights=str(machine.start))
    large = stage.large_epochs(epochs)
    training = replace(
        config.training,
        backend="torch" if machine.asks_live else machine.backend,
        precision="mixed_bfloat16" if machine.has_gpu else "float32",
        workers=machine.workers,
        epochs=epochs,
        large_epochs=large if config.training.large_size else 0,
        votes_weight=config.training.votes_weight if data.votes else 0.0,
        seed=config.training.seed if stage.seed is None else stage.seed,
    )
    plain = config.augmentation.plain_epochs
    if plain:
        plain = max(1, round(plain * epochs / max(1, config.training.epochs)))
    augmentation = replace(config.augmentation, plain_epochs=plain)
    # Views that come again as seldom as there are epochs never do.
    distill = replace(
        config.distill,
        votes=config.distill.votes if data.votes else 0.0,
        views=epochs if config.distill.views else 0,
    )
    return Config(data, model, augmentation, training, distill)


def taught(machine: Machine, config: Config, teachers: Sequence[StagePlan], views: int) -> Config:
    """Return a student's recipe with its teachers; without any it learns from labels alone.

    Args:
        machine: where.
        config: the recipe.
        teachers: the networks it learns from.
        views: how many they are asked about before; 0 if they are asked live, about each epoch's.
    """
    if not teachers:
        return replace(config, distill=replace(config.distill, teachers=(), views=0, cache=""))
    folders = tuple(str(machine.run(stage)) for stage in teachers)
    cache = str(machine.logits) if views else ""
    views = views or config.total_epochs
    distill = replace(config.distill, teachers=folders, views=views, cache=cache)
    return replace(config, distill=distill)


def views_within(config: Config, paces: Sequence[Pace], images: int, *, seconds: float) -> int:
    """Return how many views of the images the teachers can be asked about in a time, at least one.

    As many as there are epochs are the most: each epoch then shows a new one. The last, unmixed
    epochs are views of their own.
    """
    drawn = 2 if config.distill.sharp else 1
    each = images * (drawn / _DRAWN_A_SECOND + sum(1 / pace.predictions for pace in paces))
    plain = config.augmentation.plain_epochs if config.is_mixed(0) else 0
    return int(max(1, min(config.total_epochs, seconds // each - plain)))
