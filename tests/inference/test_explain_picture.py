"""Pictures of explanations: size, colours and position of the heat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.models import EXPLANATION_METHODS
from mien.core.results import Box, Face, Quality
from mien.inference.explain import ExplainedFace, Explanation
from mien.inference.explain_picture import explanation_picture, heat_colors, overlay


def explained(
    size: tuple[int, int] = (60, 60),
    labels: tuple[str, ...] = EMOTIONS,
    method: str = "occlusion",
    hot: bool = True,
) -> ExplainedFace:
    scores = dict.fromkeys(labels, 0.4 / (len(labels) - 1)) | {labels[0]: 0.6}
    face = Face(0, Box(0, 0, 60, 60), 0.9, labels[0], 0.6, True, scores, Quality(60, 0.1))
    heat = np.zeros((48, 48), np.float32)
    heat[30:40, 10:20] = float(hot)
    crop = np.full((*size, 3), 128, np.uint8)
    return ExplainedFace(face, crop, Explanation(method, labels[0], 0.6, heat, 0.3 * hot))


def lightness(colors: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours."""
    linear = np.where(
        colors <= 0.04045 * 255, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4
    )
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y))


def test_colour_lightness_grows_steadily() -> None:
    light = lightness(heat_colors(np.linspace(0, 1, 41, dtype=np.float32)))
    assert light[0] < 2
    assert light[-1] > 95
    steps = np.diff(light)
    assert steps.min() > 0.5
    assert steps.max() < 4


def test_the_overlay_is_brightest_where_it_is_hot() -> None:
    each = explained()
    picture = np.asarray(overlay(each.crop, each.explanation.heat, (96, 96)))
    hot, cold = picture[70, 30].astype(int), picture[20, 70].astype(int)
    assert hot.sum() > cold.sum() + 100
    assert hot[0] > hot[2] + 50


@pytest.mark.parametrize("method", EXPLANATION_METHODS)
@pytest.mark.parametrize("count", [1, 4, 5, 23])
def test_pictures_grow_with_the_faces(count: int, method: str) -> None:
    picture = explanation_picture([explained(method=method)] * count)
    assert picture.mode == "RGB"
    assert picture.width * picture.height > count * 240 * 700
    assert picture.width < 5000
    assert picture.height < 1400


@pytest.mark.parametrize("size", [(1, 1), (200, 50), (50, 200), (700, 700)])
def test_any_crop_fits(size: tuple[int, int]) -> None:
    assert explanation_picture([explained(size)]).size == explanation_picture([explained()]).size


def test_a_faint_map_is_dimmed() -> None:
    strong = explained()
    faint = replace(strong, explanation=replace(strong.explanation, peak=0.004))
    bright, dim = (
        np.asarray(explanation_picture([each]))[100:290, 290:500].astype(int).max()
        for each in (strong, faint)
    )
    assert bright > dim + 60


def test_other_classes_and_empty_maps_can_be_drawn() -> None:
    many = tuple(f"class {number}" for number in range(12))
    pictures = [explained(labels=("bored", "awake")), explained(labels=many, hot=False)]
    assert explanation_picture(pictures).height > 500


def test_no_faces_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one face"):
        explanation_picture([])
