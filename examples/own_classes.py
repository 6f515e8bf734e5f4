"""Classify faces into your own classes: the network's features and the nearest class mean.

FOLDER/CLASS/ holds a few images per class, with one face each. Nothing is trained, so it takes
seconds and needs no Keras. With dozens of images per class, `mien finetune` is better.

python examples/own_classes.py FOLDER photo.jpg
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

import mien
from mien.inference.preprocess import preprocess


def features(recognizer: mien.Recognizer, path: Path) -> npt.NDArray[np.float32]:
    """Return a unit vector per face in an image, float32 (N, channels)."""
    faces = preprocess(path, recognizer.detector, recognizer.choice).faces
    if not faces:
        return np.empty((0, 0), np.float32)
    pooled = recognizer.classifier.features(np.stack(faces)).mean(axis=(1, 2))
    unit: npt.NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return unit


def main() -> None:
    """Print the nearest class of each face in a photo, and its cosine similarity to each class."""
    folder, photo = Path(sys.argv[1]), Path(sys.argv[2])
    recognizer = mien.load(max_faces=1)
    means = {}
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(class_folder.iterdir())
        vectors = [vector for image in images for vector in features(recognizer, image)]
        if vectors:
            means[class_folder.name] = np.mean(vectors, axis=0)
            print(f"{class_folder.name}: {len(vectors)} faces")
    for face in features(mien.load(), photo):
        similarities = {
            name: round(float(face @ mean / np.linalg.norm(mean)), 3)
            for name, mean in means.items()
        }
        print(max(similarities, key=similarities.__getitem__), similarities)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main()
    except mien.MienError as error:  # one line: what happened and how to fix it
        sys.exit(str(error))
