"""Main loop of the readers: images in, a line of JSON out. Runs in the environment of each peer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 48


def run(
    photo: Callable[[str], list[tuple[float, str]]], crop: Callable[[np.ndarray[Any, Any]], str]
) -> None:
    """Classify the images named by the last two arguments, and print emotions and times.

    The arguments are ``photos FILE``, a list of JPEG files, one per line, or ``crops FILE``, grey
    faces of 48 x 48 bytes. Printed are the emotion of the largest face of each image (null if there
    is none), the processor seconds of each image, and those from the start of the process to the
    first result.

    Args:
        photo: function from a path to the size and emotion of each face.
        crop: function from a grey face, uint8 (48, 48), to its emotion.
    """
    mode, file = sys.argv[-2:]
    sources: Any
    if mode == "photos":
        sources = Path(file).read_text().splitlines()
    else:
        sources = np.fromfile(file, np.uint8).reshape(-1, SIDE, SIDE)
    emotions, seconds, first = [], [], 0.0
    for source in sources:
        started = time.process_time()
        if mode == "photos":
            emotions.append(max(photo(source), default=(0, None))[1])
        else:
            emotions.append(crop(source))
        seconds.append(time.process_time() - started)
        first = first or time.process_time()
    print(json.dumps({"emotions": emotions, "seconds": seconds, "first": first}))
