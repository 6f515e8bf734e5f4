"""Detectors with known results, and pictures for them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.results import Box
from mien.inference.detectors import Detection

Pixels = npt.NDArray[np.uint8]


class BrightSpots:
    """Detects rectangles of full red."""

    name = "bright"
    crop_scale = 1.0

    def detect(self, image: Pixels) -> list[Detection]:
        bright = (image[:, :, 0] == 255).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        boxes = [Box(*(int(side) for side in row[:4])) for row in stats[1:count]]
        return [Detection(box, 0.75) for box in sorted(boxes, key=lambda box: box.x)]


class Broken:
    """Fails on every picture."""

    name = "broken"
    crop_scale = None

    def detect(self, _: Pixels) -> list[Detection]:
        raise cv2.error("a filter\n failed")


def bright_scene(*boxes: Box, size: tuple[int, int] = (200, 300)) -> Pixels:
    """Red boxes, each with its own pattern in green, so that their scores differ."""
    picture = np.full((*size, 3), 40, np.uint8)
    for box in boxes:
        left, top, right, bottom = box.xyxy
        picture[top:bottom, left:right, 0] = 255
        cells = np.random.default_rng(box.x).integers(0, 256, (6, 6), np.uint8)
        pattern = cv2.resize(cells, (box.w, box.h), interpolation=cv2.INTER_NEAREST)
        picture[top:bottom, left:right, 1] = pattern
    return picture
