"""Which small faces does the first, coarse look of a detector cost? And what does it save?

    python benchmarks/small_faces.py PHOTO... --detector libface

People are cut out of photos with what is around their heads, shrunk until the smaller side of the
face's box has so many pixels, and put on a blurred picture of 640 x 480 pixels: alone, or beside a
large face. Each is searched as by default and thoroughly (the whole size at once).
docs/evidence/faces.md has figures.
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
MOST_TRIES = 500
SAME_FACE = 0.3  # overlap of a found box with where the face is


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path, help="with large faces in them")
    parser.add_argument("--detector", default="libface")
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--scenes", type=int, default=40, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    weights = args.detector_weights
    quick, thorough = (
        load_detector(args.detector, weights=weights, thorough=each) for each in (False, True)
    )
    photos = [load_image(path) for path in args.photos]
    people = [(photo, one.box) for photo in photos for one in thorough.detect(photo)]
    random = np.random.default_rng(args.seed)
    rows = []
    for beside in (False, True):
        for side in SIDES:
            scenes = [make_scene(people, side, beside, random) for _ in range(args.scenes)]
            row = ["beside a large face" if beside else "alone", str(side)]
            for detector in (thorough, quick):
                found, seconds = search_all(detector, scenes)
                row += [str(found), f"{1000 * seconds:.1f}"]
            rows.append(tuple(row))
    print(f"{quick.name}: {len(people)} people, {args.scenes} scenes in each row\n")
    header = ("", "side, px", "found thoroughly", "ms", "found", "ms")
    print(table_text(header, rows, right=(1, 2, 3, 4, 5)), end="")


def make_scene(
    people: list[tuple[Pixels, Box]], side: int, beside: bool, random: np.random.Generator
) -> tuple[Pixels, Box]:
    """Return a picture and where its small face is."""
    backdrop = cv2.resize(people[random.integers(len(people))][0], (WIDTH, HEIGHT))
    picture = np.asarray(cv2.GaussianBlur(backdrop, (0, 0), BLUR), np.uint8)
    sides = [int(random.integers(*LARGE_SIDES)), side] if beside else [side]
    while True:  # until all have room
        scene, taken, places = picture.copy(), list[Box](), list[Box]()
        for each in sides:
            person, face = shrunk(*people[random.integers(len(people))], each, random)
            area = room(person, taken, random)
            if area is None:
                break
            left, top, right, bottom = area.xyxy
            scene[top:bottom, left:right] = person
            taken.append(area)
            places.append(Box(left + face.x, top + face.y, face.w, face.h))
        else:
            return scene, places[-1]


def shrunk(photo: Pixels, box: Box, side: int, random: np.random.Generator) -> tuple[Pixels, Box]:
    """Return a person, mirrored or not, brighter or darker, and where the face is."""
    scale, margin = side / min(box.w, box.h), max(box.w, box.h)
    left, top = max(0, box.x - margin), max(0, box.y - margin)
    part = photo[top : box.y + box.h + round(1.4 * margin), left : box.x + box.w + margin]
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x, y, w, h = ((box.x - left) * scale, (box.y - top) * scale, box.w * scale, box.h * scale)
    if random.random() < 0.5:
        small, x = small[:, ::-1], small.shape[1] - x - w
    lit = np.clip(small * random.uniform(*BRIGHTNESS), 0, 255).astype(np.uint8)
    return lit, Box(round(x), round(y), round(w), round(h))


def room(person: Pixels, taken: list[Box], random: np.random.Generator) -> Box | None:
    """Return a place for a picture where no other is, or None."""
    height, width = person.shape[:2]
    if width >= WIDTH or height >= HEIGHT:
        return None
    for _ in range(MOST_TRIES):
        x, y = int(random.integers(WIDTH - width)), int(random.integers(HEIGHT - height))
        area = Box(x, y, width, height)
        if not any(area.overlap(other) for other in taken):
            return area
    return None


def search_all(detector: Detector, scenes: list[tuple[Pixels, Box]]) -> tuple[int, float]:
    """Return how many small faces are found, and seconds of processor time a picture."""
    started = time.process_time()
    boxes = [[one.box for one in detector.detect(picture)] for picture, _ in scenes]
    seconds = (time.process_time() - started) / len(scenes)
    pairs = zip(boxes, scenes, strict=True)
    found = sum(any(box.overlap(place) > SAME_FACE for box in each) for each, (_, place) in pairs)
    return found, seconds


if __name__ == "__main__":
    main()
