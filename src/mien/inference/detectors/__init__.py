"""Face detectors behind one Protocol: an image goes in, boxes in its pixels come out."""

from mien.inference.detectors.base import DETECTION_SIDE, Detection, Detector
from mien.inference.detectors.choose import DETECTORS, load_detector

__all__ = ["DETECTION_SIDE", "DETECTORS", "Detection", "Detector", "load_detector"]
