"""Ablations: short runs that differ from a base recipe in one setting.

    python -m lab.ablations --data archive --update docs/evidence/experiments.md

Each run is `mien train` with a recipe of configs/ablation; finished runs are not repeated, and
interrupted ones are resumed. A row compares the best networks on PublicTest: the difference in
accuracy with its paired 95 % interval. All runs are short and of a single seed, so the table shows
the early effect of a setting, not that of a long run.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.core.calibration import softmax
from mien.core.emotions import EMOTIONS
from mien.data.dataset import Split
from mien.data.loading import load_split
from mien.evaluation.metrics import measure
from mien.evaluation.tables import update_marked_section
from mien.training.distillation import find_teacher, open_teacher
from mien.training.run_folder import RunFolder

Correct = npt.NDArray[np.bool_]

SECTION = "ablations"
RECIPES = Path("configs/ablation")


@dataclass(frozen=True)
class Row:
    """A run: its name in the table, its recipe, and the settings that it changes."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Result of a run: which images it classifies correctly, its loss, and its minutes."""

    correct: Correct
    loss: float
    minutes: float


ROWS = (
    Row("Nano, 10 epochs", "nano"),
    Row("random erasing on a quarter", "nano", ("augmentation.erasing=0.25",)),
    Row("mixup, alpha 0.2", "nano", ("augmentation.mixup=0.2",)),
    Row("cutmix, alpha 1", "nano", ("augmentation.cutmix=1.0",)),
    Row("no mean of weights", "nano", ("training.ema=0",)),
    Row("EfficientNetB0 at 48 px, 4 epochs", "b0"),
    Row("drop-connect 0.2", "b0", ("model.drop_connect=0.2",)),
    Row("rate falling by 0.8 a block", "b0", ("training.layer_decay=0.8",)),
    Row("last epoch at 64 px", "b0", ("training.large_size=64", "training.large_epochs=1")),
)


def main() -> None:
    """Train the missing runs, then print the table and update the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="the data set, as in mien train")
    parser.add_argument("--runs", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--update", type=Path, help="the document to write the table to")
    args = parser.parse_args()
    split = load_split(args.data, "val", quiet=True)
    outcomes = {}
    for row in ROWS:
        folder = train_row(row, args.data, args.runs)
        outcomes[row] = measure_run(folder, split)
        print(f"{row.name}: {outcomes[row].correct.mean():.2%}", flush=True)
    text = table(outcomes)
    print(f"\n{text}", end="")
    if args.update:
        update_marked_section(args.update, SECTION, text)


def train_row(row: Row, data: str, runs: Path) -> Path:
    """Train or resume the run of a row unless it is finished, and return its folder."""
    recipe = RECIPES / f"{row.recipe}.toml"
    settings = [f"data.source={data}", *row.settings]
    suffixes = [text.partition(".")[2].replace("=", "-") for text in row.settings]
    folder = runs / "-".join([row.recipe, *suffixes])
    command = [sys.executable, "-m", "mien", "train"]
    if not (folder / "config.toml").is_file():
        command += ["--config", str(recipe), "--run", str(folder)]
        command += [part for setting in settings for part in ("--set", setting)]
    elif not RunFolder(folder).summary.is_file():
        command += ["--resume", str(folder)]
    else:
        return folder
    subprocess.run(command, check=True)
    return folder


def measure_run(folder: Path, split: Split) -> Outcome:
    """Measure the best network of a run on a split."""
    logits = open_teacher(find_teacher(str(folder), EMOTIONS), batch=256, threads=1)(split.images)
    loss = measure(softmax(logits.astype(np.float64)), split.labels).loss
    with RunFolder(folder).history.open(encoding="utf-8", newline="") as file:
        minutes = sum(float(epoch["seconds"]) for epoch in csv.DictReader(file)) / 60
    return Outcome(logits.argmax(axis=1) == split.labels, loss, minutes)


def table(outcomes: dict[Row, Outcome]) -> str:
    """Return the rows as a Markdown table; the first row of each recipe is its base."""
    lines = ["| run | PublicTest | beside the base, 95 % | loss | time |", "|---|---|---|---|---|"]
    bases: dict[str, Outcome] = {}
    for row, outcome in outcomes.items():
        base = bases.setdefault(row.recipe, outcome)
        gain = "base"
        if outcome is not base:
            points = 100 * (outcome.correct.astype(float) - base.correct)
            range_of = 1.96 * points.std() / np.sqrt(len(points))
            gain = f"{points.mean():+.1f} ± {range_of:.1f}"
        accuracy = f"{outcome.correct.mean():.2%}".replace("%", " %")
        lines.append(
            f"| {row.name} | {accuracy} | {gain} | {outcome.loss:.3f} | {outcome.minutes:.0f} min |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
