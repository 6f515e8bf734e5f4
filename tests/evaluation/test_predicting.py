"""Many faces through a classifier."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mien.core.errors import UsageError
from mien.evaluation.predicting import predict


def brightness_classifier(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Read a face by its mean: one emotion for each seventh of the grey range."""
    places = (faces.mean(axis=(1, 2)) * 7 / 256).astype(int)
    return np.asarray(np.eye(7)[places], np.float32)


def test_the_batch_size_does_not_change_the_answer_or_the_order() -> None:
    images = np.arange(0, 250, 10, dtype=np.uint8)[:, None, None] + np.zeros((48, 48), np.uint8)
    expected = brightness_classifier(images)
    for batch_size in (1, 4, 25, 100):
        probabilities = predict(brightness_classifier, images, batch_size=batch_size)
        np.testing.assert_array_equal(probabilities, expected)


def test_no_image_and_no_batch_are_refused() -> None:
    images = np.zeros((2, 48, 48), np.uint8)
    with pytest.raises(UsageError, match="batch size"):
        predict(brightness_classifier, images, batch_size=0)
    with pytest.raises(UsageError, match="no images"):
        predict(brightness_classifier, images[:0])
