"""Figures are drawn for any numbers; grids show the chosen tiles."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.core.emotions import EMOTION_COLORS, EMOTIONS
from mien.core.errors import MissingExtra, OutputError, UsageError
from mien.evaluation.figures import (
    CORRECT_COLOR,
    DOTS_PER_INCH,
    WRONG_COLOR,
    accuracy_figure,
    confusion_figure,
    drawing,
    numbers,
    reliability_figure,
    training_curves,
)
from mien.evaluation.metrics import measure
from mien.evaluation.pictures import Samples, Tile, prediction_grid, sample_tiles
from report_maker import make_samples

pytest.importorskip("seaborn")


def colors_of(path: Path) -> set[str]:
    with Image.open(path) as image:
        red, green, blue = np.asarray(image.convert("RGB"), np.int64).transpose(2, 0, 1)
    return {f"#{color:06X}" for color in np.unique(red << 16 | green << 8 | blue)}


@pytest.mark.parametrize("classes", [7, 2])
def test_figures_of_numbers_are_drawn_even_without_some_emotions(
    tmp_path: Path, classes: int
) -> None:
    samples = make_samples(classes=classes)
    metrics = measure(samples.probabilities, samples.labels)
    confusion_figure(metrics, tmp_path / "c.png", title="Confusion")
    accuracy_figure(metrics, tmp_path / "a.png", title="Accuracy")
    reliability_figure(metrics.calibration, tmp_path / "r.png", title="Reliability")
    # Grey text may have the colour of "neutral"; the other six colours occur in bars only.
    colors = {emotion: EMOTION_COLORS[emotion].upper() for emotion in EMOTIONS}
    bars = set(colors.values()) - {colors["neutral"]}
    drawn = colors_of(tmp_path / "a.png") & bars
    assert drawn == bars & {colors[emotion] for emotion in EMOTIONS[:classes]}
    for name in ("c.png", "r.png"):
        assert len(colors_of(tmp_path / name)) > 50


def test_text_that_no_font_has_gives_no_warning(tmp_path: Path) -> None:
    with drawing(tmp_path / "f.png", 4, 3) as figure:
        figure.subplots().set_title("びっくり \U00012000")
    assert (tmp_path / "f.png").is_file()


def test_a_figure_has_the_requested_size_and_leaves_no_state(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = mpl.rcParams["axes.titlelocation"]
    with drawing(tmp_path / "new" / "f.png", 4, 3) as figure:
        figure.subplots().set_title("A title")
    with Image.open(tmp_path / "new" / "f.png") as image:
        assert image.size == (4 * DOTS_PER_INCH, 3 * DOTS_PER_INCH)
    assert mpl.rcParams["axes.titlelocation"] == before


def test_a_figure_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"), drawing(tmp_path / "file" / "f.png", 1, 1):
        pass


def test_without_matplotlib_the_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"mien\[train\]"), drawing(tmp_path / "f.png", 1, 1):
        pass


def test_sample_tiles_show_right_above_wrong_in_a_column_for_each_emotion() -> None:
    samples = make_samples(700)
    rows = sample_tiles(samples, seed=1, per_class=2)
    assert len(rows) == 4
    for number, row in enumerate(rows):
        for emotion, tile in zip(EMOTIONS, row, strict=True):
            assert tile is not None
            assert tile.truth == emotion
            assert (tile.emotion == emotion) == (number < 2)
            index = next(
                place
                for place, image in enumerate(samples.images)
                if np.array_equal(image, tile.image)
            )
            scores = samples.probabilities[index]
            assert EMOTIONS[samples.labels[index]] == tile.truth
            assert EMOTIONS[scores.argmax()] == tile.emotion
            assert tile.confidence == pytest.approx(scores.max())


def test_a_tile_is_empty_where_an_emotion_has_too_few_images(tmp_path: Path) -> None:
    images = np.zeros((1, 48, 48), np.uint8)
    rows = sample_tiles(Samples(images, np.array([3]), np.eye(7)[[3]]), per_class=1)
    assert [tile is None for tile in rows[0]] == [True] * 3 + [False] + [True] * 3
    assert rows[1] == (None,) * 7
    prediction_grid(rows, tmp_path / "grid.png", title="Grid")


@pytest.mark.parametrize(
    ("truth", "shown", "hidden"),
    [
        ("happy", {CORRECT_COLOR}, {WRONG_COLOR}),
        ("sad", {WRONG_COLOR}, {CORRECT_COLOR}),
        (None, set(), {CORRECT_COLOR, WRONG_COLOR}),
    ],
)
def test_right_and_wrong_tiles_differ_in_colour_and_without_a_truth_there_is_neither(
    tmp_path: Path, truth: str | None, shown: set[str], hidden: set[str]
) -> None:
    tile = Tile(np.full((60, 40, 3), 200, np.uint8), "happy", 0.8, truth, "me.jpg")
    prediction_grid([[tile]], tmp_path / "grid.png", title="Mine", note="a note")
    colors = colors_of(tmp_path / "grid.png")
    assert shown <= colors
    assert not hidden & colors


def test_an_empty_grid_is_refused(tmp_path: Path) -> None:
    for rows in ([], [[None]]):
        with pytest.raises(UsageError, match="at least one face"):
            prediction_grid(rows, tmp_path / "grid.png", title="Grid")


@pytest.mark.parametrize(
    "history",
    [
        {"val_accuracy": [0.4]},
        {"loss": [2.0, 1.0], "accuracy": [None, 0.5], "learning_rate": ["1e-3", ""]},
        {
            "epoch": [1, 2, 3],
            "phase": ["head", "all", "all"],
            "loss": [2.0, 1.5, 1.2],
            "val_loss": [1.9, 1.6, float("nan")],
            "accuracy": [0.2, 0.4, 0.5],
            "val_accuracy": [0.3, 0.45, 0.44],
            "val_macro_f1": [0.2, 0.3, 0.4],
            "learning_rate": [1e-3, 5e-4, 0.0],
            "seconds": [60, 61.5, 62],
            "unknown": ["a", "b", "c"],
        },
    ],
)
def test_curves_are_drawn_from_the_available_columns(
    tmp_path: Path, history: dict[str, list[float | str | None]]
) -> None:
    training_curves(history, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        panels = round((image.width / DOTS_PER_INCH - 1.0) / 4.6)
    wanted = [{"loss", "val_loss"}, {"accuracy", "val_accuracy"}, {"learning_rate"}]
    assert panels == sum(bool(names & set(history)) for names in wanted)


@pytest.mark.parametrize(
    "history",
    [{}, {"epoch": [1, 2]}, {"loss": []}, {"loss": [1.0], "val_loss": [1.0, 2.0]}, {"loss": [""]}],
)
def test_a_history_without_columns_to_draw_is_refused(
    tmp_path: Path, history: dict[str, list[float | str | None]]
) -> None:
    with pytest.raises(UsageError, match="columns of equal length"):
        training_curves(history, tmp_path / "curves.png")


def test_missing_values_are_not_numbers() -> None:
    np.testing.assert_array_equal(numbers([1, "2.5", "", None, 0]), [1.0, 2.5, np.nan, np.nan, 0.0])
