"""Faithfulness of heat maps: the score lost by blurring the hottest pixels.

    python benchmarks/explanations.py --data archive --model mien-b0

The larger the loss, the better the map. Baselines are the centre of the face and smooth noise.
Results: docs/howto/explain.md.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.formats import table_text
from mien.core.images import FACE_SIZE
from mien.core.models import EXPLANATION_METHODS
from mien.data.loading import load_split
from mien.inference.classifier import Classifier
from mien.inference.explain import explain_faces

Maps = npt.NDArray[np.float32]
Faces = npt.NDArray[np.uint8]

SHARES = (0.1, 0.2, 0.3)
BLUR_SIGMA = 6.0  # pixels of the 48x48 face


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="the data set, as in mien train")
    parser.add_argument("--model", default="mien-b0")
    parser.add_argument("--count", type=int, default=60, help="faces of the val split")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    images = load_split(args.data, "val").images
    faces = images[rng.choice(len(images), args.count, replace=False)]
    classifier = Classifier.open(args.model, threads=1, reading="fer2013")
    rows = []
    for name, (maps, seconds) in compute_maps(classifier, faces, rng).items():
        lost = [score_lost(classifier, faces, maps, share, rng) for share in SHARES]
        speed = f"{1000 * seconds / len(faces):.0f}" if seconds else ""
        rows.append((name, *(f"{value:.3f}" for value in lost), speed))
    score = float(classifier.classify(faces).max(axis=1).mean())
    print(f"score lost by blurring the hottest part; {len(faces)} faces, mean score {score:.3f}\n")
    header = ("map", *(f"{share:.0%}" for share in SHARES), "ms per face")
    print(table_text(header, rows, right=(1, 2, 3, 4)), end="")


def compute_maps(
    classifier: Classifier, faces: Faces, rng: np.random.Generator
) -> dict[str, tuple[Maps, float]]:
    """Return maps of each kind, float32 (N, 48, 48), and the seconds to compute them."""
    maps: dict[str, tuple[Maps, float]] = {}
    for method in EXPLANATION_METHODS:
        started = time.perf_counter()
        explained = explain_faces(classifier, faces, method=method)
        heat = np.stack([explanation.heat for explanation in explained])
        maps[method] = (heat, time.perf_counter() - started)
    rows, columns = np.mgrid[:FACE_SIZE, :FACE_SIZE] - (FACE_SIZE - 1) / 2
    centre = -(rows**2 + columns**2).astype(np.float32)
    maps["middle"] = (np.repeat(centre[None], len(faces), axis=0), 0.0)
    coarse = rng.normal(size=(len(faces), 6, 6)).astype(np.float32)
    side = (FACE_SIZE, FACE_SIZE)
    noise = [cv2.resize(grid, side, interpolation=cv2.INTER_CUBIC) for grid in coarse]
    maps["noise"] = (np.stack(noise).astype(np.float32), 0.0)
    return maps


def score_lost(
    classifier: Classifier, faces: Faces, maps: Maps, share: float, rng: np.random.Generator
) -> float:
    """Return the mean loss of the top score when the hottest share of pixels is blurred."""
    # Noise breaks ties at random, such as those of a map of zeros.
    ranked = maps + 1e-6 * rng.random(maps.shape)
    hot = ranked >= np.quantile(ranked, 1 - share, axis=(1, 2), keepdims=True)
    blurred = np.stack([cv2.GaussianBlur(face, (0, 0), BLUR_SIGMA) for face in faces])
    before = classifier.classify(faces)
    after = classifier.classify(np.where(hot, blurred, faces).astype(np.uint8))
    top = before.argmax(axis=1)[:, None]
    return float(np.take_along_axis(before - after, top, axis=1).mean())


if __name__ == "__main__":
    main()
