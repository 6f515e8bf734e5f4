"""What the readers share: pictures in, a line of JSON out; runs in the environment of each peer."""

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
    """Read what the last two words of the command name, and print emotions and seconds.

    ``photos FILE``: a list of JPEG files, a line each; ``crops FILE``: grey faces of 48 x 48 bytes.
    The line holds the emotion of each picture's largest face (null where none is found), the
    processor time that each took, and that from the start of the process to the first one read.

    Args:
        photo: takes a path and returns the size and emotion of each face.
        crop: takes a grey face, uint8 (48, 48), and returns its emotion.
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
