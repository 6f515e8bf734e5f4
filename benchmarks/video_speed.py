"""Speed of video analysis: whole clips, with and without reading ahead, and each part alone.

    python benchmarks/video_speed.py CLIP --update docs/evidence/speed.md

``--before SRC`` compares with the ``src`` of an earlier version (git archive COMMIT src).

Whole clips run in separate processes, start included, and are timed by the clock. Variants
alternate, so that other load affects all alike; reported is the minimum. Parts run alone on one
thread and are timed in processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import mien
from mien.api import Recognizer, load
from mien.core.process import usable_cores
from mien.evaluation.tables import markdown_table, update_marked_section
from mien.inference.classifier import describe_machine
from mien.inference.preprocess import cut_face
from mien.video.analysis import analysis_threads, analyze_frames
from mien.video.reader import read_video

SECTION = "video"
BATCH = 8
WAYS = ("one", "ahead")


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", nargs="+", default=["mien-b0", "mien-nano"])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument(
        "--before", type=Path, metavar="SRC", help="src folder of an earlier version"
    )
    parser.add_argument("--update", type=Path, metavar="FILE")
    parser.add_argument("--read", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(args.clip, args.model[0], args.read)
        return
    rows = []
    if args.before:
        rows = before_and_now(args.clip, args.model, args.rounds, args.before)
    whole = whole_readings(args.clip, args.model, args.rounds)
    parts = {model: parts_of(args.clip, model) for model in args.model}
    text = tables(rows, whole, parts)
    print(json.dumps(describe_machine()), "\n", text, sep="\n")
    if args.update:
        update_marked_section(args.update, SECTION, text)


def read(clip: Path, model: str, way: str) -> None:
    """Analyze the clip in this process, and print the results."""
    ahead = way == "ahead"
    recognizer = load(model, threads=1 if ahead else None, offline=True)
    threads = analysis_threads(None) if ahead else 0
    started = time.perf_counter()
    frames = analyze_frames(recognizer, read_video(clip), clip.name, threads=threads)
    results = [frame.result.to_dict() for frame in frames if frame.result]
    print(json.dumps({"seconds": time.perf_counter() - started, "results": results}))


def before_and_now(clip: Path, models: list[str], rounds: int, before: Path) -> list[list[str]]:
    """Return the rows that compare ``mien predict`` of an earlier version with this one."""
    sources = (str(before.resolve()), str(Path(mien.__file__).parents[1]))
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for model in models:
            for source in sources if number % 2 else sources[::-1]:
                command = [sys.executable, "-m", "mien", "predict", str(clip), "--model", model]
                command += ["--format", "csv", "--quiet", "--detector", "libface"]
                environment = {**os.environ, "PYTHONPATH": source}
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env=environment)
                seconds = time.perf_counter() - started
                taken.setdefault((model, source), []).append(seconds)
    old, new = ([min(taken[model, source]) for model in models] for source in sources)
    return [
        ["`mien predict` before, start included", *(f"{seconds:.2f} s" for seconds in old)],
        ["`mien predict` now, start included", *(f"{seconds:.2f} s" for seconds in new)],
        ["times as fast", *(f"{a / b:.2f}" for a, b in zip(old, new, strict=True))],
    ]


def whole_readings(clip: Path, models: list[str], rounds: int) -> dict[tuple[str, str, str], float]:
    """Return the minimum seconds of each model and way, with and without the start.

    Exits if the results of both ways differ.
    """
    taken: dict[tuple[str, str, str], list[float]] = {}
    for number in range(rounds):
        for model in models:
            results = {}
            for way in WAYS if number % 2 else WAYS[::-1]:
                command = [sys.executable, __file__, str(clip), "--model", model, "--read", way]
                started = time.perf_counter()
                done = subprocess.run(command, check=True, capture_output=True)
                seconds = time.perf_counter() - started
                results[way] = json.loads(done.stdout)
                taken.setdefault((model, way, "whole"), []).append(seconds)
                taken.setdefault((model, way, "alone"), []).append(results[way]["seconds"])
            check_same(*(results[way]["results"] for way in WAYS))
    return {key: min(seconds) for key, seconds in taken.items()}


def check_same(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Exit unless two results agree; scores, written with 6 digits, to 2e-6."""
    for one, other in zip(some, others, strict=True):
        for face, same in zip(one["faces"], other["faces"], strict=True):
            for label, score in face["scores"].items():
                if abs(score - same["scores"][label]) > 2e-6:
                    raise SystemExit(f"frame {one['frame']}: {label} differs: {score}")
            for key in ("box", "track_id", "face_confidence", "quality"):
                if face[key] != same[key]:
                    raise SystemExit(f"frame {one['frame']}: {key} differs: {face[key]}")


def parts_of(clip: Path, model: str) -> dict[str, float]:
    """Return the seconds of the start, and the milliseconds per frame of each part."""
    cv2.setNumThreads(1)
    code = f"import mien, av; mien.load({model!r}, threads=1, offline=True)"
    starts = [
        timed(lambda: subprocess.run([sys.executable, "-c", code], check=True), time.perf_counter)
        for _ in range(3)
    ]
    recognizer = load(model, threads=1, offline=True)
    frames = [frame.pixels for frame in read_video(clip)]
    faces = faces_in(recognizer, frames)
    classify, count = recognizer.classifier.classify, len(frames)
    works: dict[str, Callable[[], object]] = {
        "decoding": lambda: [frame.pixels for frame in read_video(clip)],
        "detection": lambda: [recognizer.detector.detect(frame) for frame in frames],
        "classification, one by one": lambda: [classify(face[None]) for face in faces],
        f"classification, {BATCH} at a time": lambda: classify(faces, batch_size=BATCH),
    }
    parts = {"start": min(starts)}
    for name, work in works.items():
        least = min(timed(work, time.process_time) for _ in range(3))
        parts[name] = 1000 * least / count
    return parts


def faces_in(recognizer: Recognizer, frames: list[Any]) -> Any:
    """Return the first face of each frame that has one, uint8 (N, 48, 48)."""
    scale = recognizer.detector.crop_scale
    found = [(frame, recognizer.detector.detect(frame)) for frame in frames]
    return np.stack([cut_face(frame, faces[0].box, scale) for frame, faces in found if faces])


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the time that work takes by a clock."""
    started = clock()
    work()
    return clock() - started


def tables(
    rows: list[list[str]],
    whole: dict[tuple[str, str, str], float],
    parts: dict[str, dict[str, float]],
) -> str:
    """Return both tables in Markdown; ``rows`` come first in the first one."""
    models = list(parts)
    rows = list(rows)
    for what, key in (("start included", "whole"), ("without the start", "alone")):
        one, ahead = ([whole[model, way, key] for model in models] for way in WAYS)
        rows += [
            [f"one frame at a time, {what}", *(f"{seconds:.2f} s" for seconds in one)],
            [f"as `mien predict` reads it, {what}", *(f"{seconds:.2f} s" for seconds in ahead)],
            ["times as fast", *(f"{a / b:.2f}" for a, b in zip(one, ahead, strict=True))],
        ]
    details = [
        [name, *(f"{parts[m][name]:.2f}" + (" s" if name == "start" else " ms") for m in models)]
        for name in parts[models[0]]
    ]
    cores = usable_cores()
    return (
        f"On {cores} cores:\n\n"
        + markdown_table(["the whole clip", *models], rows)
        + "\n\nAlone, a frame on one thread:\n\n"
        + markdown_table(["part", *models], details)
    )


if __name__ == "__main__":
    main()
