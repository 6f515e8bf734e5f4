"""No detector: the image is a face crop already."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.core.results import Box
from mien.inference.detectors.base import Detection


class NoDetector:
    """Calls the whole image one face, as it is."""

    name = "none"
    framing = None

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Return the whole image, uint8 (H, W, 3), as one sure face."""
        height, width = image.shape[:2]
        return [Detection(Box(0, 0, width, height), 1.0)]
