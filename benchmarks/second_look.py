"""Cost of YuNet's second look at small faces: the same photos, with and without it.

    python benchmarks/second_look.py PHOTO... --detector-weights FILE

Both variants alternate in one process on one thread. The ratio is that of their minimum times,
which other work on the machine affects least. Results: docs/evidence/faces.md.
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


class SingleLookDetector(YuNetDetector):
    """YuNet without the second look."""

    def _refine_landmarks(self, image: npt.NDArray[np.uint8], face: Detection) -> Detection:  # noqa: ARG002
        return face


class CountingDetector(YuNetDetector):
    """YuNet that counts its second looks."""

    looks = 0

    def _refine_landmarks(self, image: npt.NDArray[np.uint8], face: Detection) -> Detection:
        self.looks += 1
        return super()._refine_landmarks(image, face)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    single, double = (
        kind(weights=args.detector_weights) for kind in (SingleLookDetector, YuNetDetector)
    )
    counting = CountingDetector(weights=args.detector_weights)
    rows = []
    for path in args.photos:
        image = load_image(path)
        times: dict[str, list[float]] = {"single": [], "double": []}
        for _ in range(args.rounds):
            times["single"].append(cpu_seconds(single, image))
            times["double"].append(cpu_seconds(double, image))
        first, total = min(times["single"]), min(times["double"])
        counting.looks = 0
        faces = len(counting.detect(image))
        height, width = image.shape[:2]
        size, looks = f"{width} x {height}", counting.looks
        per_look = f"{(total - first) / looks / first:.2f}" if looks else "-"
        rows.append((path.name, size, str(faces), str(looks), f"{total / first:.2f}", per_look))
    header = ("photo", "pixels", "faces", "second looks", "time, of one look", "a look")
    print(table_text(header, rows, right=(2, 3, 4, 5)), end="")


def cpu_seconds(detector: YuNetDetector, image: npt.NDArray[np.uint8]) -> float:
    """Return the processor time for one photo."""
    started = time.process_time()
    detector.detect(image)
    return time.process_time() - started


if __name__ == "__main__":
    main()
