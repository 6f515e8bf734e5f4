"""mien beside the PyPI package fer, each in its own environment, on the same photo and threads.

    python -m venv /tmp/mien && /tmp/mien/bin/pip install .
    python -m venv /tmp/fer && /tmp/fer/bin/pip install fer
    python benchmarks/against_fer.py PHOTO --mien /tmp/mien/bin/python --fer /tmp/fer/bin/python

Every figure is of processes started in turn in this one run. docs/speed.md has figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 640
LIMITS = {"cold start": 0.2, "photo": 0.25, "peak memory": 0.5, "environment": 0.1}

# Each prints the faces that it found, and in warm mode the processor time of every repeat, as
# JSON.
_MIEN = """
import json, sys, time
import mien
recognizer = mien.load(threads=int(sys.argv[2]))
faces, seconds = recognizer.analyze(sys.argv[1]), []
for _ in range(int(sys.argv[3])):
    started = time.process_time()
    faces = recognizer.analyze(sys.argv[1])
    seconds.append(time.process_time() - started)
print(json.dumps({"faces": len(faces), "seconds": seconds}))
"""
_FER = """
import json, sys, time
import cv2
from fer.fer import FER
cv2.setNumThreads(int(sys.argv[2]))
detector = FER()
faces, seconds = detector.detect_emotions(cv2.imread(sys.argv[1])), []
for _ in range(int(sys.argv[3])):
    started = time.process_time()
    faces = detector.detect_emotions(cv2.imread(sys.argv[1]))
    seconds.append(time.process_time() - started)
print(json.dumps({"faces": len(faces), "seconds": seconds}))
"""
_SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


@dataclass(frozen=True)
class Sitting:
    """One process, from its start to its end.

    Attributes:
        wall: seconds from the start of the process to its end.
        photo: seconds of processor time that a warm reading of the photo took, median; NaN where
            none was asked.
        memory: largest resident memory, MB.
        faces: how many it found.
    """

    wall: float
    photo: float
    memory: float
    faces: int


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photo", type=Path, help="brought to 640 pixels of width for both")
    parser.add_argument("--mien", required=True, help="Python of an environment with mien alone")
    parser.add_argument("--fer", required=True, help="Python of an environment with fer alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=5, help="processes each")
    parser.add_argument("--repeats", type=int, default=20, help="warm readings of a process")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photo = str(Path(scratch) / "photo.jpg")
        picture = cv2.imread(str(args.photo))
        if picture is None:
            sys.exit(f"{args.photo}: expected a picture")
        cv2.imwrite(photo, _at_width(picture))
        tools = {"mien": (args.mien, _MIEN), "fer": (args.fer, _FER)}
        cold: dict[str, list[Sitting]] = {name: [] for name in tools}
        warm: dict[str, list[Sitting]] = {name: [] for name in tools}
        for number in range(args.starts + 1):
            for name, (python, script) in tools.items():
                command = [python, "-c", script, photo, str(args.threads)]
                first = run([*command, "0"], threads=args.threads, cwd=scratch)
                if number:  # the first start fills the file cache
                    cold[name].append(first)
                    again = [*command, str(args.repeats)]
                    warm[name].append(run(again, threads=args.threads, cwd=scratch))
    sizes = {name: environment_size(python) for name, (python, _) in tools.items()}
    rows = {
        "cold start": {name: min(each.wall for each in cold[name]) for name in tools},
        "photo": {name: min(each.photo for each in warm[name]) for name in tools},
        "peak memory": {name: max(each.memory for each in warm[name]) for name in tools},
        "environment": sizes,
    }
    faces = {name: warm[name][0].faces for name in tools}
    print(json.dumps({"faces": faces, **rows}, indent=1) if args.json else table(rows, faces))


def _at_width(photo: cv2.typing.MatLike) -> cv2.typing.MatLike:
    height, width = photo.shape[:2]
    return cv2.resize(photo, (WIDTH, round(height * WIDTH / width)), interpolation=cv2.INTER_AREA)


def run(command: list[str], *, threads: int, cwd: str) -> Sitting:
    """Run one process to its end."""
    count = str(threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment, cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        # Popen must know that it is over, or it waits for it again.
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{command[0]} failed: {errors.read().strip().splitlines()[-1:]}")
        # What a tool itself says on stdout comes first; the last line is ours.
        result = json.loads(output.read().strip().splitlines()[-1])
    seconds = result["seconds"]
    return Sitting(
        wall=wall,
        photo=statistics.median(seconds) if seconds else float("nan"),
        memory=usage.ru_maxrss / 1024,
        faces=result["faces"],
    )


def environment_size(python: str) -> float:
    """Return the size of an environment's packages, MB."""
    found = subprocess.run([python, "-c", _SITE], capture_output=True, text=True, check=True)
    site = Path(found.stdout.strip())
    return sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6


def table(rows: dict[str, dict[str, float]], faces: dict[str, int]) -> str:
    """Return the figures as an aligned table."""
    units = {"cold start": ("s", 1.0), "photo": ("ms", 1e3)}
    lines = [f"{'':<14}{'mien':>10}{'fer':>10}{'ratio':>9}{'limit':>8}"]
    for name, values in rows.items():
        unit, scale = units.get(name, ("MB", 1.0))
        ratio = values["mien"] / values["fer"]
        digits = 2 if unit == "s" else 0
        said = "kept" if ratio <= LIMITS[name] else "missed"
        mien, fer = (f"{values[tool] * scale:,.{digits}f} {unit}" for tool in ("mien", "fer"))
        lines.append(f"{name:<14}{mien:>10}{fer:>10}{ratio:>9.3f}{LIMITS[name]:>8}  {said}")
    lines.append(f"{'faces found':<14}{faces['mien']:>10}{faces['fer']:>10}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
