"""Grad-CAM: the last feature map, weighed by the gradient of an emotion's logit.

Selvaraju et al. 2017, 1610.02391, section 3.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError
from mien.core.faces import FACE_SIZE
from mien.inference.classifier import Classifier
from mien.inference.head import Head, read_head

_LARGEST_DIFFERENCE = 1e-3


def gradcam_maps(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    chosen: npt.NDArray[np.intp],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return what each place adds to the class's logit, float32 (N, 48, 48), 0 or more.

    The maps are enlarged from the cells of the feature map.

    Args:
        classifier: the model, opened from a folder.
        faces: uint8 (N, 48, 48), grey.
        chosen: (N,), the index of each face's class.
        batch_size: images that go through the network at once.

    Raises:
        ModelError: if the network fails, or its head cannot be read or is misread.
    """
    features = classifier.features(faces, batch_size=batch_size)
    head = _proven_head(classifier, faces, features, batch_size)
    gradients = head.gradients(features, chosen)
    cells = np.einsum("nhwc,nc->nhw", features, gradients).astype(np.float32)
    maps = np.zeros(faces.shape, np.float32)
    for number, plane in enumerate(np.maximum(cells, 0)):
        size = (FACE_SIZE, FACE_SIZE)
        maps[number] = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return maps


def _proven_head(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    features: npt.NDArray[np.float32],
    batch_size: int,
) -> Head:
    """Return the model's head, if it gives the logits that the network gives for these faces."""
    if classifier.path is None:
        raise ModelError("Grad-CAM reads the model's file: open the model with Classifier.open")
    head = read_head(classifier.path, classifier.manifest.outputs)
    expected = classifier.logits(faces, batch_size=batch_size)
    try:
        found = head.logits(features)
        difference = float(np.abs(found - expected).max(initial=0.0))
    except ValueError as error:  # weights whose shapes do not go together
        raise ModelError(f"Grad-CAM cannot follow {classifier.path}: {error}") from error
    if not difference <= _LARGEST_DIFFERENCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise ModelError(
            f"Grad-CAM misreads {classifier.path}: the logits that follow from its features are "
            f"off by {difference:.2g}; use --method occlusion"
        )
    return head
