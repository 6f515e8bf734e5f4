"""How long a model takes for a face on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.errors import UsageError
from mien.core.faces import FACE_SIZE
from mien.core.onnx_runtime import onnxruntime
from mien.core.process import usable_cores
from mien.inference.classifier import Classifier

BATCH_SIZES: tuple[int, ...] = (1, 32)
WARM_UP = 3
"""Runs before any is counted: the first ones allocate memory and fill caches."""

MIN_RUNS = 10


@dataclass(frozen=True)
class Timing:
    """Milliseconds a face of one model at one batch size.

    Attributes:
        model: its name.
        version: its version.
        precision: "float32" or "int8".
        megabytes: of its file.
        threads: that one call may use.
        batch_size: faces at a time.
        median: of all counted runs.
        low: their first quartile; high: their third.
        runs: how many were counted.
        labels: whose labels were followed.
    """

    model: str
    version: str
    precision: str
    megabytes: float
    threads: int
    batch_size: int
    median: float
    low: float
    high: float
    runs: int
    labels: str = ""


def time_model(
    model: str | Path,
    *,
    threads: int,
    batch_size: int,
    seconds: float = 1.0,
    reading: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time a model on faces of noise, from standard faces to calibrated probabilities.

    Args:
        model: a bundled model's name, or a model's folder.
        threads: how many one call may use.
        batch_size: faces at a time.
        seconds: for how long runs are counted, but at least `MIN_RUNS` of them.
        reading: whose labels are followed, as `mien.inference.classifier.Classifier.open` takes it.
        clock: gives seconds.

    Raises:
        ModelError: if the model is missing or damaged, or fails.
        UsageError: if a number is out of its range.
    """
    if batch_size < 1 or not seconds >= 0:
        raise UsageError(f"expected a batch of 1 or more and seconds, got {batch_size}, {seconds}")
    classifier = Classifier.open(model, threads=threads, labels=None, reading=reading)
    shape = (batch_size, FACE_SIZE, FACE_SIZE)
    faces = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for _ in range(WARM_UP):
        classifier.classify(faces, batch_size=batch_size)
    taken: list[float] = []
    while len(taken) < MIN_RUNS or sum(taken) < seconds:
        start = clock()
        classifier.classify(faces, batch_size=batch_size)
        taken.append(clock() - start)
    low, median, high = np.percentile(1000 * np.array(taken) / batch_size, (25, 50, 75)).tolist()
    manifest = classifier.manifest
    return Timing(
        model=manifest.name,
        version=manifest.version,
        precision=manifest.precision,
        megabytes=manifest.file.size_bytes / 1e6,
        threads=threads,
        batch_size=batch_size,
        median=median,
        low=low,
        high=high,
        runs=len(taken),
        labels=manifest.reading,
    )


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, cores, system and versions."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
