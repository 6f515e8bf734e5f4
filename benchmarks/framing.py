"""Are faces in photos read as the data set's own? Pad them into photos, find them, read them.

    python benchmarks/framing.py --data archive --detector libface --faces 1500
    python benchmarks/framing.py --data archive --detector yunet --angles 0 10 20 30

FER-2013's faces are enlarged to 96-240 pixels and put into a larger picture whose background is
plain, their own border drawn out, or a blur of themselves; then turned about the face's middle.
What is compared is read from the same faces: a face that the detector misses is counted, and is in
no other column. docs/faces.md has figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.results import Box
from mien.data.reading import load_split
from mien.inference.alignment import ALIGN, turn_of
from mien.inference.classifier import Classifier
from mien.inference.crops import cut_face
from mien.inference.detectors import Detection, Detector, load_detector
from mien.interfaces.cli.output import table_text

Pixels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 360, 300
LEAST_SIDE, MOST_SIDE = 96, 240
MARGIN = 20
BACKGROUNDS = ("plain", "border", "blur")
SAME_FACE = 0.3  # overlap of a found box with where the face is


@dataclass(frozen=True)
class Scene:
    """A face in a photo, and where it is before the photo is turned."""

    picture: Pixels
    place: Box


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="the data set, as in mien train")
    parser.add_argument("--split", choices=("train", "val"), default="val")
    parser.add_argument("--model", default="mien-b0")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--faces", type=int, default=600)
    parser.add_argument("--angles", type=float, nargs="+", default=[0.0], help="degrees")
    parser.add_argument("--framing", type=float, nargs="+", help="try these, not the detector's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = load_split(args.data, args.split)
    chosen = np.random.default_rng(args.seed).choice(len(data), args.faces, replace=False)
    faces, labels = data.images[chosen], data.labels[chosen]
    detector = load_detector(args.detector, weights=args.detector_weights)
    classifier = Classifier.open(args.model, threads=1)
    right = classifier.classify(faces).argmax(axis=1) == labels
    print(f"{detector.name}: {args.faces} faces of {args.split}, {right.mean():.1%} read right\n")
    rows = []
    for angle in args.angles:
        scenes = [
            make_scene(face, np.random.default_rng([args.seed, int(number)]), angle)
            for face, number in zip(faces, chosen, strict=True)
        ]
        found = [find(detector, scene) for scene in scenes]
        there = np.array([one is not None for one in found])
        print_geometry(scenes, found, angle)
        for framing in args.framing or [detector.framing or 1.0]:
            accuracies = []
            for align in ALIGN:
                crops = [
                    cut_face(scene.picture, one.box, framing, turn=turn_of(one.landmarks, align))
                    for scene, one in zip(scenes, found, strict=True)
                    if one is not None
                ]
                read = classifier.classify(np.stack(crops)).argmax(axis=1)
                accuracies.append(f"{100 * (read == labels[there]).mean():.1f}")
            original = f"{100 * right[there].mean():.1f}"
            missed = str(int((~there).sum()))
            rows.append((f"{angle:g}", f"{framing:.2f}", missed, original, *accuracies))
    header = ("angle", "framing", "missed", "data's own", *(f"align {each}" for each in ALIGN))
    print("\n" + table_text(header, rows, right=tuple(range(len(header)))), end="")


def make_scene(face: Pixels, random: np.random.Generator, angle: float = 0.0) -> Scene:
    """Put a face (48, 48) into a photo at a random place and size, and turn it clockwise."""
    side = int(random.integers(LEAST_SIDE, MOST_SIDE + 1))
    left = int(random.integers(MARGIN, WIDTH - side - MARGIN + 1))
    top = int(random.integers(MARGIN, HEIGHT - side - MARGIN + 1))
    large = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
    background = BACKGROUNDS[int(random.integers(len(BACKGROUNDS)))]
    if background == "border":
        rest = (top, HEIGHT - side - top, left, WIDTH - side - left)
        picture = cv2.copyMakeBorder(large, *rest, cv2.BORDER_REPLICATE)
    else:
        level = int(random.integers(40, 216))
        picture = np.full((HEIGHT, WIDTH), level, np.uint8)
        if background == "blur":
            stretched = cv2.resize(face, (WIDTH, HEIGHT))
            picture = np.asarray(cv2.GaussianBlur(stretched, (0, 0), 40), np.uint8)
        picture[top : top + side, left : left + side] = large
    if angle:
        middle = (left + side / 2 - 0.5, top + side / 2 - 0.5)
        picture = cv2.warpAffine(
            picture,
            cv2.getRotationMatrix2D(middle, -angle, 1.0),
            (WIDTH, HEIGHT),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
    colour = np.repeat(np.asarray(picture, np.uint8)[:, :, None], 3, axis=2)
    return Scene(colour, Box(left, top, side, side))


def find(detector: Detector, scene: Scene) -> Detection | None:
    """Return what the detector found where the face is, or None."""
    found = [
        one for one in detector.detect(scene.picture) if one.box.overlap(scene.place) >= SAME_FACE
    ]
    return max(found, key=lambda one: one.box.overlap(scene.place), default=None)


def print_geometry(
    scenes: Sequence[Scene], found: Sequence[Detection | None], angle: float
) -> None:
    """Say how the detector's boxes lie in the data set's pictures: the framing that follows."""
    ratios, across, down = [], [], []
    for scene, one in zip(scenes, found, strict=True):
        if one is not None:
            place, box = scene.place, one.box
            mean_side = (box.w * box.h) ** 0.5
            ratios.append(place.w / mean_side)
            across.append((place.x + place.w / 2 - box.x - box.w / 2) / mean_side)
            down.append((place.y + place.h / 2 - box.y - box.h / 2) / mean_side)
    low, middle, high = np.percentile(ratios, [5, 50, 95])
    print(
        f"{angle:g} degrees: picture over box {middle:.3f} ({low:.2f} to {high:.2f}), "
        f"middle off by {np.median(across):+.3f} across, {np.median(down):+.3f} down"
    )


if __name__ == "__main__":
    main()
