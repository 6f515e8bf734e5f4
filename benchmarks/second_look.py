"""What does YuNet's second look at small faces cost? The same photos, with and without it.

    python benchmarks/second_look.py PHOTO... --detector-weights FILE

Both ways take turns in one process on one thread, and the ratio is of their least times: other
work on the machine makes both slower, but not the ratio. docs/evidence/faces.md has figures.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.formats import table_text
from mien.core.images import load_image
from mien.inference.detectors import Detection
from mien.inference.detectors.yunet import YuNetDetector


class OneLook(YuNetDetector):
    """YuNet without the second look."""

    def _refine_landmarks(self, image: npt.NDArray[np.uint8], face: Detection) -> Detection:  # noqa: ARG002
        return face


class Counting(YuNetDetector):
    """YuNet that counts its second looks."""

    looks = 0

    def _refine_landmarks(self, image: npt.NDArray[np.uint8], face: Detection) -> Detection:
        self.looks += 1
        return super()._refine_landmarks(image, face)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    one, both = (kind(weights=args.detector_weights) for kind in (OneLook, YuNetDetector))
    counting = Counting(weights=args.detector_weights)
    rows = []
    for path in args.photos:
        image = load_image(path)
        times: dict[str, list[float]] = {"one": [], "both": []}
        for _ in range(args.rounds):
            times["one"].append(seconds(one, image))
            times["both"].append(seconds(both, image))
        first, whole = min(times["one"]), min(times["both"])
        counting.looks = 0
        found = len(counting.detect(image))
        height, width = image.shape[:2]
        size, looks = f"{width} x {height}", counting.looks
        each = f"{(whole - first) / looks / first:.2f}" if looks else "-"
        rows.append((path.name, size, str(found), str(looks), f"{whole / first:.2f}", each))
    header = ("photo", "pixels", "faces", "second looks", "time, of one look", "a look")
    print(table_text(header, rows, right=(2, 3, 4, 5)), end="")


def seconds(detector: YuNetDetector, image: npt.NDArray[np.uint8]) -> float:
    """Return the processor's seconds for one photo."""
    began = time.process_time()
    detector.detect(image)
    return time.process_time() - began


if __name__ == "__main__":
    main()
