"""The recipe of a run: frozen settings, read from TOML, changed by ``--set section.key=value``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, MissingExtra, UsageError
from mien.core.files import expanded
from mien.core.models import bundled_models
from mien.training.distill_settings import DistillSettings
from mien.training.run_folder import RunFolder
from mien.training.settings import (
    OWN_BACKBONES,
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    TrainingSettings,
)


@dataclass(frozen=True)
class Config:
    """A whole recipe; each section is one table of the TOML file."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)

    def __post_init__(self) -> None:
        """Raise UsageError where settings do not fit together."""
        training = self.training
        if self.total_epochs < 1:
            raise UsageError(
                "training.head_epochs and training.epochs are both 0: expected at least one epoch"
            )
        for key in ("large_epochs", "full_epochs"):
            if getattr(training, key) > training.epochs:
                raise UsageError(
                    f"training.{key} = {getattr(training, key)}: expected at most "
                    f"training.epochs = {training.epochs}"
                )
        if training.votes_weight > 0 and not self.data.votes:
            raise UsageError(
                f"training.votes_weight = {training.votes_weight} needs FER+ votes: "
                "name their file in data.votes"
            )
        self._check_votes_of_teachers()
        if self.distill.sharp and self.distill.teachers and not self.distill.views:
            raise UsageError(
                "distill.sharp = true needs views that come again: set distill.views, as 30"
            )
        if self.data.votes and self.data.labels:
            raise UsageError("data.votes are on the seven emotions: leave data.labels empty")
        fitting = {
            "lite0": self.model.backbone == "EfficientNetB0",
            "imagenet": self.model.backbone not in OWN_BACKBONES,
        }
        if not fitting.get(self.model.weights, True):
            raise UsageError(
                f'model.weights = "{self.model.weights}" do not fit {self.model.backbone}: '
                'expected "none", a .keras file, or the backbone EfficientNetB0'
            )

    def _check_votes_of_teachers(self) -> None:
        distill, mixing = self.distill, self.augmentation
        if not distill.votes:
            return
        if not (distill.teachers and distill.views and self.data.votes):
            raise UsageError(
                f"distill.votes = {distill.votes} are added to what teachers say of views that "
                "come again: expected distill.teachers, distill.views and data.votes too"
            )
        if max(mixing.mixup, mixing.cutmix) > 0:
            raise UsageError(
                f"distill.votes = {distill.votes} are on whole images: expected "
                "augmentation.mixup and cutmix of 0"
            )

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases."""
        return self.training.head_epochs + self.training.epochs

    def is_mixed(self, epoch: int) -> bool:
        """Tell whether an epoch's images may be mixed (mixup, cutmix)."""
        settings = self.augmentation
        return (
            settings.enabled
            and max(settings.mixup, settings.cutmix) > 0
            and epoch < self.total_epochs - settings.plain_epochs
        )

    def is_validated(self, epoch: int) -> bool:
        """Tell whether an epoch (0-based) ends with a validation; the last of a stage does."""
        training = self.training
        stage_ends = {training.head_epochs, self.total_epochs - training.full_epochs}
        stage_ends.add(self.total_epochs)
        if training.large_size > 0:
            stage_ends.add(self.total_epochs - training.large_epochs)
        return epoch + 1 in stage_ends or (epoch + 1) % training.validate_every == 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the outputs."""
        return self.data.labels or EMOTIONS

    @property
    def final_size(self) -> int:
        """Input size in the last epoch."""
        return self.size_at(self.total_epochs - 1)

    def blocks_at(self, epoch: int) -> int:
        """Return how many last blocks an epoch (0-based) trains; -1 is the whole backbone."""
        training = self.training
        if epoch < training.head_epochs:
            return 0
        full = epoch >= self.total_epochs - training.full_epochs
        return -1 if full else training.fine_tune_blocks

    def size_at(self, epoch: int) -> int:
        """Return the input size in an epoch (0-based, both phases counted through)."""
        training = self.training
        grown = training.large_size > 0 and epoch >= self.total_epochs - training.large_epochs
        return training.large_size if grown else self.model.input_size


# ---------------------------------------------------------------- reading
def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe from a TOML file.

    Args:
        path: the file; keys that it lacks keep their defaults.
        overrides: ``section.key=value`` each, the value as in TOML (a bare word is a string).

    Raises:
        InputError: if there is no such file.
        UsageError: if it is not TOML, a key is unknown (the valid ones are listed), or a value
            cannot be used.
        MissingExtra: on Python 3.10 without tomli.
    """
    tables = read_tables(path)
    override_tables(tables, overrides)
    try:
        return config_from_tables(tables)
    except UsageError as error:
        where = " with --set ".join([str(path), *overrides])
        raise UsageError(f"{where}: {error}") from error


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
        section, key, value = _parse_override(override)
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value


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
        settings[section] = _build(sections[section], section, table)
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


def _build(kind: Any, section: str, table: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise UsageError(f"unknown key {section}.{key}: expected one of {', '.join(hints)}")
        values[key] = _convert(hints[key], value, f"{section}.{key}")
    return kind(**values)


def _convert(kind: Any, value: Any, key: str) -> Any:
    """Return a TOML value as the type of a setting: bool, int, float, str, or a tuple of one."""
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple):
            item = typing.get_args(kind)[0]
            return tuple(_convert(item, one, key) for one in value)
        raise UsageError(f"{key} = {value!r}: expected a list, as [1, 2]")
    # To Python, true is an int; to a recipe it is not.
    if isinstance(value, bool) == (kind is bool):
        if kind is float and isinstance(value, int | float):
            with suppress(OverflowError):  # of a whole number above all real ones
                return float(value)
        elif isinstance(value, kind):
            return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise UsageError(f"{key} = {value!r}: expected {names[kind]}")


def _parse_override(override: str) -> tuple[str, str, Any]:
    name, separator, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (separator and dot and section and key):
        raise UsageError(f"--set {override}: expected section.key=value, as training.epochs=3")
    try:
        value = _parse_toml(f"value = {text}")["value"]
    except MissingExtra:
        raise
    except (ValueError, RecursionError):
        value = text.strip()
    return section, key, value


# ---------------------------------------------------------------- paths
def from_folder(config: Config, folder: Path) -> Config:
    """Return a recipe whose relative paths, meant from a folder, are written out.

    Starting weights and teachers that are not files there are names, and stay as they are.

    Raises:
        UsageError: if a path begins with a home folder that there is not.
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
        # JSON escapes as TOML does, but for the one control character that it leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)
