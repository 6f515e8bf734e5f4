"""Memory and speed of `mien predict` on large folders, compared with the bare recognizer.

    python benchmarks/folder_memory.py --model mien-b0 --images 1000 100000

Folders of small face crops consist of links to a few files. The command reads them in a separate
process, once for each output format. Results: docs/evidence/batch.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mien.api import load
from mien.core.formats import table_text

PICTURES = 100
FOLDER_IMAGES = 1000
ALONE_IMAGES = 2000
# ru_maxrss is in KiB on Linux, in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Cost:
    """Cost of one run: wall-clock seconds, processor seconds, peak memory in bytes."""

    seconds: float
    processor: float
    peak: int


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mien-b0")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--formats", nargs="+", default=["jsonl", "csv", "parquet"])
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        base = make_pictures(Path(scratch) / "base")
        seconds_per_image = time_recognizer(args.model, base)
        for output_format in args.formats:
            smallest = None
            for count in args.images:
                folder = make_folder(Path(scratch) / f"{count}", base, count)
                cost = predict(
                    folder, Path(scratch) / f"r.{output_format}", args.model, args.workers
                )
                smallest = smallest or cost.peak
                rows.append(
                    (
                        output_format,
                        f"{count:,}",
                        f"{cost.seconds:.1f}",
                        f"{count / cost.processor:,.0f}",
                        f"{cost.peak / 2**20:.0f}",
                        f"{cost.peak / smallest:.2f}",
                    )
                )
    rate = f"{1 / seconds_per_image:,.0f} images a second of processor time"
    print(f"the recognizer alone (analyze_many, 64 images a call): {rate}\n")
    header = ("format", "images", "seconds", "images/s of processor", "peak MiB", "times")
    print(table_text(header, rows, right=(1, 2, 3, 4, 5)), end="")


def make_pictures(folder: Path) -> list[Path]:
    """Write a few 48x48 noise images."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(PICTURES)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, (48, 48), np.uint8)).save(path)
    return paths


def make_folder(folder: Path, pictures: list[Path], count: int) -> Path:
    """Fill a folder with links to the images, a thousand per subfolder."""
    for number in range(count if not folder.exists() else 0):
        subfolder = folder / f"{number // FOLDER_IMAGES:04d}"
        if number % FOLDER_IMAGES == 0:
            subfolder.mkdir(parents=True)
        os.link(pictures[number % len(pictures)], subfolder / f"{number:07d}.png")
    return folder


def time_recognizer(model: str, pictures: list[Path]) -> float:
    """Return the processor seconds per image of the bare recognizer on one thread."""
    recognizer = load(model, detector="none", threads=1)
    images = [str(path) for path in pictures][:64]
    recognizer.analyze_many(images)
    started = time.process_time()
    for _ in range(ALONE_IMAGES // len(images)):
        recognizer.analyze_many(images)
    return (time.process_time() - started) / (ALONE_IMAGES // len(images) * len(images))


def predict(folder: Path, output: Path, model: str, workers: int) -> Cost:
    """Run the command and measure its process; with several workers, the largest of them."""
    command = [sys.executable, "-m", "mien", "predict", str(folder), "--output", str(output)]
    command += ["--model", model, "--detector", "none", "--threads", "1", "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--workers", str(workers)])
    _, status, usage = os.wait4(process.pid, 0)
    # os.wait4() has already waited, so the Popen object needs the result.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"mien predict ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT)


if __name__ == "__main__":
    main()
