"""Classes of your own from a few images each: the network's features and the nearest mean.

Images lie in FOLDER/CLASS/, one face each. Nothing is trained, so it takes seconds and no Keras;
with some dozens of images a class `mien finetune` is better.

python examples/own_classes.py FOLDER photo.jpg
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

import mien
from mien.inference.preprocess import preprocess


def features(recognizer: mien.Recognizer, path: Path) -> npt.NDArray[np.float32]:
    """Return one unit vector a face in an image, float32 (N, channels)."""
    faces = preprocess(path, recognizer.detector, recognizer.choice).faces
    if not faces:
        return np.empty((0, 0), np.float32)
    pooled = recognizer.classifier.features(np.stack(faces)).mean(axis=(1, 2))
    unit: npt.NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return unit


def main() -> None:
    """Print the nearest class of each face in a photo, and how near each class is."""
    folder, photo = Path(sys.argv[1]), Path(sys.argv[2])
    recognizer = mien.load(max_faces=1)
    means = {}
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        known = [each for path in sorted(kind.iterdir()) for each in features(recognizer, path)]
        if known:
            means[kind.name] = np.mean(known, axis=0)
            print(f"{kind.name}: {len(known)} faces")
    for face in features(mien.load(), photo):
        near = {name: float(face @ mean / np.linalg.norm(mean)) for name, mean in means.items()}
        print(
            max(near, key=near.__getitem__), {name: round(value, 3) for name, value in near.items()}
        )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main()
    except mien.MienError as error:  # one line that says what to do
        sys.exit(str(error))
