"""What the kit trains in which order, and how many epochs of each fit into its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mien.core.errors import UsageError
from mien.training.recipe import read_tables


@dataclass(frozen=True)
class StagePlan:
    """One network to train.

    Attributes:
        name: of its run.
        recipe: its recipe, a file beside the plan.
        share: of the time for training, relative to the other networks.
        least: epochs at least, however slow the machine.
        most: epochs at most, however fast.
        large_share: share of the epochs that are at the recipe's larger size.
        seed: in place of the recipe's own; all that start from one file start alike.
    """

    name: str
    recipe: Path
    share: float
    least: int
    most: int
    large_share: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError where a value cannot be used."""
        if not (self.share > 0 and 1 <= self.least <= self.most and 0 <= self.large_share < 1):
            raise UsageError(
                f"network {self.name}: expected a share above 0, 1 <= least <= most epochs and a "
                f"large_share from 0 to below 1, got {self.share}, {self.least}, {self.most}, "
                f"{self.large_share}"
            )
        if self.seed is not None and (type(self.seed) is not int or self.seed < 0):
            raise UsageError(
                f"network {self.name}: expected a seed of 0 or more, a whole number, "
                f"got {self.seed!r}"
            )

    def large_epochs(self, epochs: int) -> int:
        """Return how many of its last epochs are at the larger size."""
        return round(self.large_share * epochs)


@dataclass(frozen=True)
class Plan:
    """The whole of it.

    Attributes:
        minutes: for everything.
        piece_minutes: after which a piece stops by itself, to be gone on with.
        finish_seconds: kept for what comes after training: export and report.
        logits_seconds: at most for what the teachers say of the student's views.
        start_seconds: that a run takes before its first step and after its last.
        teachers: networks, in their order.
        student: the network that learns from them, and is exported and reported.
        others: more that learn from them, where teachers can be asked live.
    """

    minutes: float
    piece_minutes: float
    finish_seconds: float
    logits_seconds: float
    start_seconds: float
    teachers: tuple[StagePlan, ...]
    student: StagePlan
    others: tuple[StagePlan, ...] = ()

    @property
    def students(self) -> tuple[StagePlan, ...]:
        """All networks that learn from teachers."""
        return (self.student, *self.others)

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """All networks in the order of their training."""
        return (*self.teachers, *self.students)


@dataclass(frozen=True)
class Pace:
    """How fast a network trains here.

    Attributes:
        steps: an epoch.
        batch_size: images a step.
        seconds: a step takes; `large_seconds` at the larger size.
        validation: seconds that a validation takes.
        predictions: images a second as a teacher; 0 of a student, whom nobody asks.
        views: seconds that an epoch's views take, where they are not made beside the steps.
    """

    steps: int
    batch_size: int
    seconds: float
    large_seconds: float
    validation: float
    predictions: float
    views: float = 0.0

    @property
    def images(self) -> int:
        """Images an epoch."""
        return self.steps * self.batch_size

    def epoch_seconds(
        self, stage: StagePlan, *, validate_every: int, teachers: Sequence[Pace] = ()
    ) -> float:
        """Return what an epoch takes, on average over both sizes, with teachers asked live."""
        step = (1 - stage.large_share) * self.seconds + stage.large_share * self.large_seconds
        asked = sum(self.images / teacher.predictions for teacher in teachers)
        return self.steps * step + self.views + asked + self.validation / validate_every

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


def load_plan(path: Path) -> Plan:
    """Read a plan; its recipes stand beside it.

    Raises:
        InputError: if it cannot be read.
        UsageError: if it is no plan.
    """
    tables = read_tables(path)
    try:
        student = _stage(path, tables.pop("student"))
        teachers = tuple(_stage(path, table) for table in tables.pop("teachers", []))
        others = tuple(_stage(path, table) for table in tables.pop("students", []))
        plan = Plan(**tables.pop("time"), teachers=teachers, student=student, others=others)
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no plan ({error}): expected one as lab/configs/plan.toml"
        ) from error
    if len({stage.name for stage in plan.stages}) < len(plan.stages):
        raise UsageError(f"{path}: two networks have one name")
    return plan


def _stage(path: Path, table: dict[str, Any]) -> StagePlan:
    recipe = path.parent / table.pop("recipe")
    return StagePlan(recipe=recipe, **table)


def budget(stage: StagePlan, later: Sequence[StagePlan], seconds: float) -> float:
    """Return the seconds for a network out of those for it and all that come after it."""
    return seconds * stage.share / (stage.share + sum(each.share for each in later))


def choose_epochs(stage: StagePlan, each: float, seconds: float) -> int:
    """Return how many epochs of a network to train in a time, between its least and its most.

    Args:
        stage: the network.
        each: seconds that an epoch of it takes.
        seconds: for its training.
    """
    return int(min(stage.most, max(stage.least, seconds // each)))
