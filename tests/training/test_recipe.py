from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import InputError, UsageError
from mien.training.architectures import BACKBONES
from mien.training.recipe import (
    AugmentationSettings,
    BelowOne,
    Config,
    DataSettings,
    DistillSettings,
    ModelSettings,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    OptionalImageSize,
    Positive,
    PositiveInt,
    Probability,
    TrainingSettings,
    _parse_toml,
    config_from_tables,
    config_to_toml,
    load_config,
    load_run_config,
    resolve_paths,
)
from mien.training.run_folder import RunFolder
from training_maker import tiny_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_missing_keys_have_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[training]\nepochs = 7\n"))
    assert config.training == TrainingSettings(epochs=7)
    assert config.model == ModelSettings()


def test_overrides_win_and_are_read_as_toml(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nepochs = 7\nseed = 5\n")
    overrides = [
        "training.epochs=3",
        "training.class_weights=true",
        "training.learning_rate=1",
        "model.head_units=[64]",
        "model.head_dropout=[0.5]",
        "model.weights=none",
        'data.source="a=b c"',
    ]
    config = load_config(path, overrides)
    assert (config.training.epochs, config.training.seed) == (3, 5)
    assert config.training.class_weights is True
    assert config.training.learning_rate == 1.0
    assert isinstance(config.training.learning_rate, float)
    assert config.model.head_units == (64,)
    assert config.model.weights == "none"
    assert config.data.source == "a=b c"


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        (
            "[training]\nepoch = 3\n",
            [],
            "recipe.toml: unknown key training.epoch: did you mean 'epochs'?",
        ),
        ("[train]\nepochs = 3\n", [], "unknown section [train]: did you mean 'training'?"),
        ("training = 3\n", [], "training = 3: expected a table, [training]"),
        ("training = 3\n", ["training.epochs=2"], "expected a table"),
        ("", ["training.epoch=3"], "with --set training.epoch=3: unknown key training.epoch"),
        ("", ["epochs=3"], "--set epochs=3: expected section.key=value"),
        ("", ["training.epochs"], "expected section.key=value"),
        ("[training\n", [], "is not valid TOML"),
        ("[training]\nepochs = 2.5\n", [], "training.epochs = 2.5: expected an integer"),
        ("[training]\nepochs = true\n", [], "training.epochs = True: expected an integer"),
        ("[training]\nema = true\n", [], "training.ema = True: expected a number"),
        ("[training]\nclass_weights = 1\n", [], "expected true or false"),
        ("[data]\nsource = 3\n", [], "data.source = 3: expected a string"),
        ("[model]\nhead_units = 512\n", [], "model.head_units = 512: expected a list"),
        ('[model]\nhead_units = ["a"]\n', [], "model.head_units = 'a': expected an integer"),
        ("[data]\nsource = " + "[" * 5000, [], "is not valid TOML"),
        ("[data]\nsource = " + "[" * 900 + "]" * 900, [], "recipe.toml"),
        ("[training]\nepochs = 0x1" + "0" * 5000, [], "is not valid TOML"),
        ("", ["training.weight_decay=1" + "0" * 400], "expected a number"),
        ("", ["training.epochs=" + "[" * 5000], "expected an integer"),
        ("", ["training.epochs=0x1" + "0" * 5000], "expected an integer"),
    ],
)
def test_errors_name_the_key_and_what_was_expected(
    tmp_path: Path, text: str, overrides: list[str], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(write(tmp_path, text), overrides)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the configuration"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_config(tmp_path / "noise.toml")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "fraction", 0.0),
        ("data", "fraction", 1.5),
        ("model", "backbone", "ResNet51"),
        ("model", "backbone", "EfficientNetB8"),
        ("model", "input_size", 31),
        ("model", "head_dropout", (0.4,)),
        ("model", "head_dropout", (0.4, 1.0)),
        ("model", "head_units", (0, 10)),
        ("model", "drop_connect", 1.0),
        ("model", "batch_norm_momentum", -0.1),
        ("model", "plain_channels", ()),
        ("model", "plain_channels", (4,) * 6),
        ("model", "width", 0.0),
        ("augmentation", "flip", 1.1),
        ("augmentation", "flip", float("nan")),
        ("augmentation", "rotation", -1.0),
        ("augmentation", "scale", 1.0),
        ("augmentation", "mixup", -0.2),
        ("training", "seed", -1),
        ("training", "seed", 2**32),
        ("training", "backend", "theano"),
        ("training", "threads", -1),
        ("training", "precision", "float16"),
        ("training", "batch_size", 1),
        ("training", "head_epochs", -1),
        ("training", "fine_tune_blocks", -2),
        ("training", "learning_rate", 0.0),
        ("training", "learning_rate", float("inf")),
        ("training", "head_learning_rate", -1.0),
        ("training", "schedule", "linear"),
        ("training", "layer_decay", 0.0),
        ("training", "layer_decay", 1.1),
        ("training", "plateau_patience", 0),
        ("training", "plateau_factor", 1.0),
        ("training", "weight_decay", -0.1),
        ("training", "label_smoothing", 1.0),
        ("training", "ema", 1.0),
        ("training", "early_stopping", -1),
        ("training", "large_size", 20),
        ("training", "large_epochs", 30),
        ("training", "checkpoint_seconds", float("nan")),
        ("training", "wise_ft_alpha", 0.0),
        ("distill", "temperature", 0.0),
        ("distill", "weight", 1.1),
        ("distill", "views", -1),
        ("distill", "votes", -0.1),
        ("distill", "teacher", "a"),
    ],
)
def test_an_invalid_value_is_refused_by_name(section: str, key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{section}.{key}"):
        config_from_tables({section: {key: value}})


def test_a_recipe_without_an_epoch_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one epoch"):
        config_from_tables({"training": {"head_epochs": 0, "epochs": 0}})


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [("EfficientNetB1", "lite0"), ("Plain", "lite0"), ("Nano", "imagenet")],
)
def test_weights_of_another_network_are_refused(backbone: str, weights: str) -> None:
    with pytest.raises(UsageError, match=f'model.weights = "{weights}" do not fit {backbone}'):
        config_from_tables({"model": {"backbone": backbone, "weights": weights}})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("start_share = 0.5", "wise_ft_alpha, which is 1 - start_share"),
        ("statistics_batches = 9", "bn_recalibration_batches"),
    ],
)
def test_a_key_that_was_renamed_is_refused_with_its_new_name(
    tmp_path: Path, old: str, new: str
) -> None:
    with pytest.raises(UsageError, match=f"{old.split()[0]} is now training.{new}$"):
        load_config(write(tmp_path, f"[training]\n{old}\n"))


def test_keys_of_earlier_runs_are_renamed(tmp_path: Path) -> None:
    text = "[training]\nstart_share = 0.25\nstatistics_batches = 9\nepochs = 3\n"
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    training = load_run_config(RunFolder(tmp_path)).training
    assert training == TrainingSettings(wise_ft_alpha=0.75, bn_recalibration_batches=9, epochs=3)


def test_layer_decay_requires_adamw() -> None:
    with pytest.raises(UsageError, match=r"layer_decay = 0\.8 requires AdamW: expected 1 with"):
        config_from_tables({"training": {"optimizer": "sgd", "layer_decay": 0.8}})


def test_the_backend_of_the_lab_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"= 'cuda': .* python -m lab\.gpu train .*lab/README\.md"):
        config_from_tables({"training": {"backend": "cuda"}})


def test_sharp_teachers_need_repeated_views() -> None:
    tables: dict[str, Any] = {"distill": {"teachers": ["runs/a"], "sharp": True}}
    with pytest.raises(UsageError, match=r"distill\.sharp needs views that repeat"):
        config_from_tables(tables)
    tables["distill"]["views"] = 4
    assert config_from_tables(tables).distill.sharp


def test_the_last_epochs_use_the_large_size() -> None:
    training = {"head_epochs": 1, "epochs": 4, "large_size": 96, "large_epochs": 2}
    config = config_from_tables({"training": training, "model": {"input_size": 64}})
    assert [config.size_at(epoch) for epoch in range(5)] == [64, 64, 64, 96, 96]
    assert config.final_size == 96
    off = config_from_tables({"training": {**training, "large_size": 0}})
    assert off.final_size == off.model.input_size


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_can_be_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert load_config(path).total_epochs > 0
    # The header holds the exact command.
    assert f"mien train --config configs/{path.name}" in text


def test_a_bundled_recipe_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nano").mkdir()  # a folder, as a run or a model, is no recipe
    for path in CONFIGS.glob("*.toml"):
        assert load_config(path.stem) == load_config(path)
    Path("tiny").write_text("[training]\nepochs = 77\n", encoding="utf-8")
    assert load_config("tiny").training.epochs == 77  # a file of one's own comes first
    with pytest.raises(InputError, match=r"no recipe is called refernce: .*reference"):
        load_config("refernce")


def test_the_reference_recipe_has_the_settings_of_the_reference_project() -> None:
    config = load_config(CONFIGS / "reference.toml")
    training = config.training
    assert (config.model.backbone, config.model.weights) == ("EfficientNetB0", "imagenet")
    assert config.model.head_units == (512, 256)
    assert min(config.model.head_dropout) > 0
    assert training.head_epochs > 0
    assert training.fine_tune_blocks > 0
    assert training.class_weights
    assert training.label_smoothing > 0
    assert training.early_stopping > 0
    assert training.schedule in ("plateau", "cosine")
    assert config.augmentation.enabled


floats = st.floats(0, 0.99, allow_nan=False)
models = st.builds(
    ModelSettings,
    backbone=st.sampled_from(BACKBONES),
    weights=st.just("none") | st.text(max_size=20).filter(lambda t: t not in ("lite0", "imagenet")),
    input_size=st.integers(32, 400),
    head_units=st.just((8, 4)),
    head_dropout=st.tuples(floats, floats),
)
trainings = st.builds(
    TrainingSettings,
    seed=st.integers(0, 2**32 - 1),
    learning_rate=st.floats(1e-12, 1e6),
    class_weights=st.booleans(),
    ema=floats,
    checkpoint_seconds=st.floats(0, 1e12),
)
configs = st.builds(
    Config,
    data=st.builds(DataSettings, source=st.text(min_size=1), fraction=st.floats(0.001, 1)),
    model=models,
    augmentation=st.builds(AugmentationSettings, flip=floats, enabled=st.booleans()),
    training=trainings,
)


@given(configs)
def test_a_recipe_written_and_read_again_is_the_same(config: Config) -> None:
    assert config_from_tables(_parse_toml(config_to_toml(config), "it")) == config


def test_every_key_is_written(tmp_path: Path) -> None:
    path = write(tmp_path, config_to_toml(Config()))
    text = path.read_text()
    for section in dataclasses.fields(Config):
        assert f"[{section.name}]" in text
        for item in dataclasses.fields(getattr(Config(), section.name)):
            assert f"\n{item.name} = " in text
    assert load_config(path) == Config()


def test_relative_paths_are_resolved_against_a_folder(tmp_path: Path) -> None:
    (tmp_path / "start.keras").touch()
    (tmp_path / "big").mkdir()
    config = config_from_tables(
        {
            "data": {"source": "archive", "votes": "votes.csv"},
            "model": {"weights": "start.keras"},
            "training": {"votes_weight": 0.1},
            "distill": {"teachers": ["big", "mien-nano"], "views": 2, "cache": "logits"},
        }
    )
    resolved = resolve_paths(config, tmp_path)
    assert resolved.data.source == str(tmp_path / "archive")
    assert resolved.data.votes == str(tmp_path / "votes.csv")
    assert resolved.model.weights == str(tmp_path / "start.keras")
    assert resolved.distill.teachers == (str(tmp_path / "big"), "mien-nano")
    assert resolved.distill.cache == str(tmp_path / "logits")
    assert resolve_paths(resolved, tmp_path / "elsewhere") == resolved, "whole paths stay"


def test_names_are_not_resolved_as_paths(tmp_path: Path) -> None:
    for name in ("none", "imagenet", "lite0", "mien-nano"):
        (tmp_path / name).mkdir()
        config = config_from_tables({"model": {"weights": name}, "data": {"votes": ""}})
        resolved = resolve_paths(config, tmp_path)
        assert (resolved.model.weights, resolved.data.votes, resolved.distill.cache) == (
            name,
            "",
            "",
        )
    (tmp_path / "mien-b0").mkdir()
    config = config_from_tables({"distill": {"teachers": ["mien-b0"]}})
    assert resolve_paths(config, tmp_path).distill.teachers == ("mien-b0",)
    (tmp_path / "mien-b0" / "best.keras").touch()
    assert resolve_paths(config, tmp_path).distill.teachers == (str(tmp_path / "mien-b0"),)


def test_the_last_epochs_can_train_the_whole_backbone() -> None:
    training = {"head_epochs": 1, "epochs": 4, "fine_tune_blocks": 2, "full_epochs": 1}
    config = config_from_tables({"training": {**training, "validate_every": 9}})
    assert [config.blocks_at(epoch) for epoch in range(5)] == [0, 2, 2, 2, -1]
    assert [config.is_validated(epoch) for epoch in range(5)] == [True, False, False, True, True]
    with pytest.raises(UsageError, match="full_epochs = 5: expected at most"):
        config_from_tables({"training": {**training, "full_epochs": 5}})


def test_votes_as_targets_need_votes() -> None:
    with pytest.raises(UsageError, match='targets = "votes" needs'):
        DataSettings(targets="votes")


@pytest.mark.parametrize(
    ("kind", "within", "beyond"),
    [
        (Probability, [0.0, 1.0], [-1e-9, 1 + 1e-9]),
        (BelowOne, [0.0, 0.999], [-1e-9, 1.0]),
        (NonNegative, [0.0, 1e300], [-1e-9, math.inf]),
        (Positive, [1e-300, 1e300], [0.0, math.inf]),
        (OpenFraction, [1e-9, 0.999], [0.0, 1.0]),
        (NonNegativeInt, [0], [-1]),
        (PositiveInt, [1], [0]),
        (OptionalImageSize, [0, 32], [31, -1]),
    ],
)
def test_ranges_include_their_bounds(kind: Any, within: list[Any], beyond: list[Any]) -> None:
    number, rule = get_args(kind)
    assert [value for value in within if not rule.holds(value)] == []
    assert [value for value in beyond if rule.holds(value)] == []
    assert number is int or not rule.holds(math.nan)


@pytest.mark.parametrize("teachers", [("runs/a", "old/a"), ("runs/a", "/"), ("a", "a")])
def test_teachers_with_the_same_file_name_are_refused(teachers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"distill\.teachers = .* different names"):
        DistillSettings(teachers=teachers)
    assert DistillSettings(teachers=("runs/a", "runs/b")).teachers == ("runs/a", "runs/b")


def test_a_cache_without_repeated_views_is_refused() -> None:
    with pytest.raises(UsageError, match=r"distill\.cache needs views that repeat"):
        DistillSettings(cache="logits")
    assert DistillSettings(cache="logits", views=30).views == 30


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distill_teachers": []}, "expected distill.teachers, distill.views and data.votes"),
        ({"distill_views": 0}, "expected distill.teachers, distill.views and data.votes"),
        ({"data_votes": ""}, "expected distill.teachers, distill.views and data.votes"),
        ({"augmentation_mixup": 0.2}, "unmixed images"),
    ],
)
def test_votes_with_teachers_have_requirements(changes: dict[str, Any], words: str) -> None:
    whole: dict[str, Any] = {
        "distill_teachers": ["outputs/teacher"],
        "distill_views": 2,
        "distill_votes": 0.5,
        "data_votes": "votes.csv",
    }
    tiny_config(**whole)
    with pytest.raises(UsageError, match=words):
        tiny_config(**{**whole, **changes})
