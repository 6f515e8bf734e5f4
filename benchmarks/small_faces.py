"""Small faces missed, and time saved, by a detector's coarse first pass.

    python benchmarks/small_faces.py PHOTO... --detector libface

People are cut out of photos, shrunk until the shorter side of the face's box has a given number of
pixels, and pasted onto a blurred image of 640 x 480 pixels, alone or next to a large face. Each
scene is searched by default and thoroughly (at full size). Results: docs/evidence/faces.md.
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
from mien.core.results import Box
from mien.inference.detectors import Detector, load_detector

Pixels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 640, 480
SIDES = (16, 20, 24, 32, 40)
LARGE_SIDES = (50, 100)
BLUR = 25
BRIGHTNESS = (0.7, 1.2)
MAX_TRIES = 500
SAME_FACE = 0.3  # minimum overlap of a detected box with the face


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path, help="photos of large faces")
    parser.add_argument("--detector", default="libface")
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--scenes", type=int, default=40, help="scenes of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    weights = args.detector_weights
    quick, thorough = (
        load_detector(args.detector, weights=weights, thorough=value) for value in (False, True)
    )
    photos = [load_image(path) for path in args.photos]
    people = [(photo, face.box) for photo in photos for face in thorough.detect(photo)]
    rng = np.random.default_rng(args.seed)
    rows = []
    for crowded in (False, True):
        for side in SIDES:
            scenes = [make_scene(people, side, crowded, rng) for _ in range(args.scenes)]
            row = ["beside a large face" if crowded else "alone", str(side)]
            for detector in (thorough, quick):
                found, seconds = search_all(detector, scenes)
                row += [str(found), f"{1000 * seconds:.1f}"]
            rows.append(tuple(row))
    print(f"{quick.name}: {len(people)} people, {args.scenes} scenes in each row\n")
    header = ("", "side, px", "found thoroughly", "ms", "found", "ms")
    print(table_text(header, rows, right=(1, 2, 3, 4, 5)), end="")


def make_scene(
    people: list[tuple[Pixels, Box]], side: int, crowded: bool, rng: np.random.Generator
) -> tuple[Pixels, Box]:
    """Return an image and the box of its small face, next to a large one if ``crowded``."""
    backdrop = cv2.resize(people[rng.integers(len(people))][0], (WIDTH, HEIGHT))
    picture = np.asarray(cv2.GaussianBlur(backdrop, (0, 0), BLUR), np.uint8)
    sides = [int(rng.integers(*LARGE_SIDES)), side] if crowded else [side]
    while True:  # until all faces fit
        scene, taken, faces = picture.copy(), list[Box](), list[Box]()
        for face_side in sides:
            person, face = shrink_person(*people[rng.integers(len(people))], face_side, rng)
            area = find_room(person, taken, rng)
            if area is None:
                break
            left, top, right, bottom = area.xyxy
            scene[top:bottom, left:right] = person
            taken.append(area)
            faces.append(Box(left + face.x, top + face.y, face.w, face.h))
        else:
            return scene, faces[-1]


def shrink_person(
    photo: Pixels, box: Box, side: int, rng: np.random.Generator
) -> tuple[Pixels, Box]:
    """Return a person, randomly mirrored and lit, and the box of the face."""
    scale, margin = side / min(box.w, box.h), max(box.w, box.h)
    left, top = max(0, box.x - margin), max(0, box.y - margin)
    part = photo[top : box.y + box.h + round(1.4 * margin), left : box.x + box.w + margin]
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x, y, w, h = ((box.x - left) * scale, (box.y - top) * scale, box.w * scale, box.h * scale)
    if rng.random() < 0.5:
        small, x = small[:, ::-1], small.shape[1] - x - w
    lit = np.clip(small * rng.uniform(*BRIGHTNESS), 0, 255).astype(np.uint8)
    return lit, Box(round(x), round(y), round(w), round(h))


def find_room(person: Pixels, taken: list[Box], rng: np.random.Generator) -> Box | None:
    """Return a free place for an image, or None."""
    height, width = person.shape[:2]
    if width >= WIDTH or height >= HEIGHT:
        return None
    for _ in range(MAX_TRIES):
        x, y = int(rng.integers(WIDTH - width)), int(rng.integers(HEIGHT - height))
        area = Box(x, y, width, height)
        if not any(area.overlap(other) for other in taken):
            return area
    return None


def search_all(detector: Detector, scenes: list[tuple[Pixels, Box]]) -> tuple[int, float]:
    """Return the number of small faces found, and the processor seconds per image."""
    started = time.process_time()
    detected = [[face.box for face in detector.detect(picture)] for picture, _ in scenes]
    seconds = (time.process_time() - started) / len(scenes)
    found = sum(
        any(box.overlap(face) > SAME_FACE for box in boxes)
        for boxes, (_, face) in zip(detected, scenes, strict=True)
    )
    return found, seconds


if __name__ == "__main__":
    main()
