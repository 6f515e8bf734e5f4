"""Accuracy on faces detected in photos, compared with the data set's own crops.

    python benchmarks/framing.py --data archive --detector libface --faces 1500
    python benchmarks/framing.py --data archive --detector yunet --angles 10 20 30
    python benchmarks/framing.py --data archive --detector libface --angles 0 20 --sides 50 95

Faces of FER-2013 are scaled to 96-240 pixels (--sides) and pasted into a larger image whose
background is plain, an extension of their border, or a blur of the face. With --angles they are
rotated about their centre, and alignment (--align auto) is compared with none. All figures are on
the same faces; those that the detector misses are counted and left out. A plain or blurred
background has an edge around the face that photos do not have, so "without an edge" cuts the same
boxes out of images with extended borders. Results: docs/evidence/faces.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.formats import table_text
from mien.core.results import Box
from mien.data.loading import load_split
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection, Detector, load_detector
from mien.inference.preprocess import ALIGN, alignment_angle, cut_face

Pixels = npt.NDArray[np.uint8]
Correct = npt.NDArray[np.bool_]

WIDTH, HEIGHT = 360, 300
MIN_SIDE, MAX_SIDE = 96, 240
MARGIN = 20
BLUR = 40.0
BACKGROUNDS = ("plain", "border", "blur")
SAME_FACE = 0.3  # minimum overlap of a detected box with the face


@dataclass(frozen=True)
class Scene:
    """A photo of a face, the face's box before rotation, and the kind of background."""

    picture: Pixels
    box: Box
    background: str


@dataclass(frozen=True)
class Faces:
    """Faces of the data set, and the classifier that reads them."""

    images: Pixels
    labels: npt.NDArray[np.int64]
    seeds: tuple[tuple[int, int], ...]
    classifier: Classifier
    sides: tuple[int, int] = (MIN_SIDE, MAX_SIDE)

    def scenes(self, angle: float = 0.0, background: str | None = None) -> list[Scene]:
        """Paste each face into a photo, the same one for all angles."""
        return [
            make_scene(face, np.random.default_rng(seed), angle, background, sides=self.sides)
            for face, seed in zip(self.images, self.seeds, strict=True)
        ]

    def scores(self, crops: Iterable[Pixels]) -> npt.NDArray[np.float32]:
        """Return the scores of crops, float32 (N, 7)."""
        return self.classifier.classify(np.stack(list(crops)))


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="the data set, as in mien train")
    parser.add_argument("--split", choices=("train", "val"), default="val")
    parser.add_argument("--model", default="mien-b0")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--thorough", action="store_true", help="search at full size")
    parser.add_argument("--faces", type=int, default=1500)
    parser.add_argument(
        "--angles", type=float, nargs="+", help="rotate faces by these angles in degrees"
    )
    parser.add_argument(
        "--sides",
        type=int,
        nargs=2,
        default=(MIN_SIDE, MAX_SIDE),
        metavar=("MIN", "MAX"),
        help=f"side of the pasted faces in pixels, up to {HEIGHT - 2 * MARGIN}",
    )
    parser.add_argument(
        "--framing", type=float, nargs="+", default=[], help="crop scales to try in addition"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = load_split(args.data, args.split)
    number = min(args.faces, len(data))
    chosen = np.random.default_rng(args.seed).choice(len(data), number, replace=False)
    seeds = tuple((args.seed, int(index)) for index in chosen)
    detector = load_detector(args.detector, weights=args.detector_weights, thorough=args.thorough)
    classifier = Classifier.open(args.model, threads=1, reading="fer2013")
    faces = Faces(data.images[chosen], data.labels[chosen], seeds, classifier, tuple(args.sides))
    info = classifier.manifest.info
    print(f"{info.name} {info.version}, {detector.name}, {number} faces of {args.split}")
    if args.angles is None:
        compare(faces, detector, args.framing)
    else:
        compare_turned(faces, detector, args.angles)


def compare(faces: Faces, detector: Detector, others: Sequence[float]) -> None:
    """Print the accuracy on upright faces, from the data set and from photos."""
    scenes, framing = faces.scenes(), detector.crop_scale or 1.0
    found = [find(detector, scene) for scene in scenes]
    print_geometry(scenes, found, 0.0)
    indices = [index for index, face in enumerate(found) if face is not None]
    boxes = [face.box for face in found if face is not None]
    turns = [alignment_angle(face.landmarks, ALIGN[0]) for face in found if face is not None]
    photos = [scenes[index].picture for index in indices]
    plain = faces.scenes(background="border")
    edgeless = [plain[index].picture for index in indices]

    def cut(
        pictures: Sequence[Pixels], scale: float, turns: Sequence[float] | None = None
    ) -> npt.NDArray[np.float32]:
        angles = [0.0] * len(boxes) if turns is None else turns
        return faces.scores(
            cut_face(picture, box, scale, turn=turn)
            for picture, box, turn in zip(pictures, boxes, angles, strict=True)
        )

    own = faces.scores(faces.images[indices])
    pasted = (cut_face(scenes[index].picture, scenes[index].box, 1.0) for index in indices)
    scores_of = {
        "the pasted box": faces.scores(pasted),
        f"the detected box, framing {framing:g}": cut(photos, framing),
        "... and aligned, as mien predict does": cut(photos, framing, turns),
        "... without an edge": cut(edgeless, framing),
    }
    for other in others:
        scores_of[f"framing {other:g}"] = cut(photos, other)
        scores_of[f"... without an edge, {other:g}"] = cut(edgeless, other)
        both = (
            scores_of[f"the detected box, framing {framing:g}"],
            scores_of[f"framing {other:g}"],
        )
        scores_of[f"mean of {framing:g} and {other:g}"] = np.mean(both, axis=0)
    labels = faces.labels[indices]
    right = own.argmax(axis=1) == labels
    rows: list[tuple[str, ...]] = [
        ("the data set's own pixels", str(len(indices)), f"{100 * right.mean():.1f}", "", "", "")
    ]
    rows += [
        row(name, scores.argmax(axis=1) == labels, right) for name, scores in scores_of.items()
    ]
    now = scores_of[f"the detected box, framing {framing:g}"].argmax(axis=1) == labels
    for background in BACKGROUNDS:
        members = np.array([scenes[index].background == background for index in indices])
        rows.append(row(f"detected, on {background}", now[members], right[members]))
    header = ("pixels from", "faces", "accuracy", "change", "95 %", "McNemar")
    print("\n" + table_text(header, rows, right=(1, 2, 3)), end="")


def row(name: str, right: Correct, before: Correct) -> tuple[str, ...]:
    """Return a table row: the accuracy, and its change from ``before`` on the same faces."""
    won, lost = int((right & ~before).sum()), int((before & ~right).sum())
    count = len(right)
    change = (won - lost) / count
    error = math.sqrt(won + lost - (won - lost) ** 2 / count) / count
    low, high = 100 * (change - 1.96 * error), 100 * (change + 1.96 * error)
    return (
        name,
        str(count),
        f"{100 * right.mean():.1f}",
        f"{100 * change:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        f"-{lost} +{won}, p {mcnemar(won, lost):.2g}",
    )


def mcnemar(won: int, lost: int) -> float:
    """Return the p-value of the exact McNemar test."""
    changed, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(changed, count) for count in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**changed))


def compare_turned(faces: Faces, detector: Detector, angles: Sequence[float]) -> None:
    """Print the accuracy on rotated faces, with and without alignment."""
    own = faces.scores(faces.images).argmax(axis=1) == faces.labels
    rows = []
    for angle in angles:
        scenes = faces.scenes(angle)
        found = [find(detector, scene) for scene in scenes]
        detected = np.array([face is not None for face in found])
        print_geometry(scenes, found, angle)
        right = {}
        for align in ALIGN:
            crops = [
                cut_face(
                    scene.picture,
                    face.box,
                    detector.crop_scale,
                    turn=alignment_angle(face.landmarks, align),
                )
                for scene, face in zip(scenes, found, strict=True)
                if face is not None
            ]
            right[align] = faces.scores(crops).argmax(axis=1) == faces.labels[detected]
        accuracies = (f"{100 * right[align].mean():.1f}" for align in ALIGN)
        original = f"{100 * own[detected].mean():.1f}"
        won = row("", right["auto"], right["off"])[3:]
        rows.append((f"{angle:g}", str(int(detected.sum())), original, *accuracies, *won))
    columns = ("angle", "detected", "data's own", *(f"align {align}" for align in ALIGN))
    header = (*columns, "auto over off", "95 %", "McNemar")
    print("\n" + table_text(header, rows, right=tuple(range(len(columns) + 1))), end="")


def make_scene(
    face: Pixels,
    random: np.random.Generator,
    angle: float = 0.0,
    background: str | None = None,
    *,
    sides: tuple[int, int] = (MIN_SIDE, MAX_SIDE),
) -> Scene:
    """Paste a face (48, 48) into a photo at a random place and size, and rotate it clockwise."""
    side = int(random.integers(sides[0], sides[1] + 1))
    left = int(random.integers(MARGIN, WIDTH - side - MARGIN + 1))
    top = int(random.integers(MARGIN, HEIGHT - side - MARGIN + 1))
    large = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
    drawn = BACKGROUNDS[int(random.integers(len(BACKGROUNDS)))]
    background = background or drawn
    if background == "border":
        rest = (top, HEIGHT - side - top, left, WIDTH - side - left)
        picture = cv2.copyMakeBorder(large, *rest, cv2.BORDER_REPLICATE)
    else:
        level = int(random.integers(40, 216))
        picture = np.full((HEIGHT, WIDTH), level, np.uint8)
        if background == "blur":
            # Blurring before enlarging takes a tenth of the time.
            across, down = (BLUR * len(face) / side for side in (WIDTH, HEIGHT))
            blurred = cv2.GaussianBlur(face, (0, 0), sigmaX=across, sigmaY=down)
            picture = np.asarray(cv2.resize(blurred, (WIDTH, HEIGHT)), np.uint8)
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
    return Scene(colour, Box(left, top, side, side), background)


def find(detector: Detector, scene: Scene) -> Detection | None:
    """Return the detection that overlaps the face most, or None."""
    found = [
        face for face in detector.detect(scene.picture) if face.box.overlap(scene.box) >= SAME_FACE
    ]
    return max(found, key=lambda face: face.box.overlap(scene.box), default=None)


def print_geometry(
    scenes: Sequence[Scene], found: Sequence[Detection | None], angle: float
) -> None:
    """Print how the detector's boxes relate to the data set's crops, which gives the framing."""
    ratios, across, down = [], [], []
    for scene, face in zip(scenes, found, strict=True):
        if face is not None:
            place, box = scene.box, face.box
            mean_side = (box.w * box.h) ** 0.5
            ratios.append(place.w / mean_side)
            across.append((place.x + place.w / 2 - box.x - box.w / 2) / mean_side)
            down.append((place.y + place.h / 2 - box.y - box.h / 2) / mean_side)
    low, middle, high = np.percentile(ratios, [5, 50, 95])
    print(
        f"{angle:g} degrees, {len(scenes) - len(ratios)} missed: "
        f"picture over box {middle:.3f} ({low:.2f} to {high:.2f}), "
        f"middle off by {np.median(across):+.3f} across, {np.median(down):+.3f} down"
    )


if __name__ == "__main__":
    main()
