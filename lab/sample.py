"""Make the sample picture: a typical face of each emotion that shows no real person.

python -m lab.sample --data archive
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.main import main
from mien.cli.options import add_force_option, file_name, integer
from mien.cli.output import write_stdout
from mien.cli.paths import check_targets, model_files
from mien.core.errors import EXIT_DONE, UsageError
from mien.core.formats import json_text, table_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mien.data.dataset import Split

# Cosine similarity above which two images count as copies; the audit uses .95.
_COPIES_FROM = 0.9
_DETECTORS = ("yunet", "libface", "haar")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sample",
        prog="python -m lab.sample",
        help="make the sample picture: a typical face of each emotion that shows no real person",
        description="Make a picture of seven faces, each the mean of the most typical Training "
        "faces of its emotion, and try every face detector on it.",
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="the data set, as in train")
    parser.add_argument(
        "--model",
        help="average only faces that this model classifies correctly with the highest confidence",
    )
    parser.add_argument(
        "--output",
        type=file_name(".png"),
        default=Path("images/sample.png"),
        metavar="FILE",
        help="the picture to write, a PNG (default: images/sample.png)",
    )
    add_force_option(parser)
    parser.add_argument(
        "--count", type=integer(1), metavar="N", help="faces in each mean (default: 200)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from lab.sample_faces import FACES_EACH, lay_out, prototypes, write_sample
    from mien.data.loading import load_split

    reads = [args.data, *model_files(args.model)]
    check_targets([("--output", args.output)], reads=reads, force=args.force)
    count = FACES_EACH if args.count is None else args.count
    train = _distinct(load_split(args.data, "train", quiet=args.quiet), quiet=args.quiet)
    probabilities = _classify(args, train) if args.model else None
    faces = prototypes(train.images, train.labels, probabilities=probabilities, count=count)
    picture = lay_out(faces)
    write_sample(picture, args.output)
    found = _faces_found(picture)
    if args.json:
        write_stdout(json_text({"picture": str(args.output), "faces_found": found}) + "\n")
    else:
        rows = [[name, "not available" if n is None else str(n)] for name, n in found.items()]
        write_stdout(table_text(["detector", "faces found"], rows, right=(1,)))
    if not args.quiet:
        print(f"picture: {args.output}", file=sys.stderr)
    return EXIT_DONE


def _distinct(train: Split, *, quiet: bool) -> Split:
    """Remove near copies, since a mean over many copies of one photo would show its person."""
    import numpy as np

    kept = []
    for label in np.unique(train.labels):
        indices = np.flatnonzero(train.labels == label)
        kept.append(indices[distinct_mask(train.images[indices], quiet=quiet)])
    return train.take(np.sort(np.concatenate(kept)))


def distinct_mask(
    images: npt.NDArray[np.uint8], *, threshold: float = _COPIES_FROM, quiet: bool = False
) -> npt.NDArray[np.bool_]:
    """Return a mask of the images (N, 48, 48) without near copies of earlier ones."""
    import numpy as np

    from mien.data.audit import find_near_pairs

    pairs = find_near_pairs(images, threshold=threshold, quiet=quiet)
    kept = np.ones(len(images), np.bool_)
    # In the order of the images, so that the result does not depend on the order of the pairs.
    for index in np.lexsort((pairs.second, pairs.first)):
        if kept[pairs.first[index]]:
            kept[pairs.second[index]] = False
    return kept


def _classify(args: argparse.Namespace, train: Split) -> npt.NDArray[np.float32]:
    from mien.evaluation.evaluate import predict
    from mien.inference.classifier import Classifier

    classifier = Classifier.open(args.model, reading="fer2013")
    return predict(classifier.classify, train.images, label="reading train", quiet=args.quiet)


def _faces_found(picture: npt.NDArray[np.uint8]) -> dict[str, int | None]:
    """Count the faces each detector finds in a grey picture; None if it is not available."""
    from mien.core.errors import ModelError
    from mien.core.images import load_image
    from mien.inference.detectors import load_detector

    image = load_image(picture)
    found: dict[str, int | None] = {}
    for name in _DETECTORS:
        try:
            found[name] = len(load_detector(name, offline=True).detect(image))
        except (UsageError, ModelError):
            # Not installed, or its weights were never downloaded.
            found[name] = None
    return found


if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]], registers=[register]))
