from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mien.training.validation import predict_probabilities, validation_figures


class Network:
    """Answers each face with its mean grey, and keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict_on_batch(self, faces: Any) -> Any:
        self.sizes.append(len(faces))
        return np.repeat(faces.mean(axis=(1, 2)), 7, axis=1)


@pytest.mark.parametrize("count", [1, 127, 128, 129, 300])
def test_every_face_gets_its_answer_in_batches_of_one_size(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 48, 48)).astype(np.uint8)
    network = Network()
    answers = predict_probabilities(network, images)
    assert answers.shape == (count, 7)
    assert answers.dtype == np.float32
    assert np.allclose(answers[:, 0], images.mean(axis=(1, 2)), atol=1e-3)
    assert len(set(network.sizes)) == 1


def test_the_three_figures() -> None:
    probabilities = np.full((4, 7), 0.05, np.float32)
    probabilities[[0, 1, 2, 3], [0, 0, 1, 1]] = 0.7
    figures = validation_figures(probabilities, np.array([0, 0, 1, 2]))
    assert figures["val_accuracy"] == 0.75
    assert figures["val_loss"] == pytest.approx(-(3 * math.log(0.7) + math.log(0.05)) / 4)
    # F1 of class 0 is 1, of class 1 is 2/3, of class 2 is 0.
    assert figures["val_macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_probability_of_zero_is_no_infinity() -> None:
    probabilities = np.eye(7, dtype=np.float32)[[0]]
    assert math.isfinite(validation_figures(probabilities, np.array([3]))["val_loss"])
