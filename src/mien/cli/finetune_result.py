"""What ``mien finetune`` ends with: the exported model, measured beside the one before."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mien.evaluation.comparison import Comparison
    from mien.training.run_folder import RunFolder

CALIBRATION_IMAGES = 100
"""Held-out images from which on temperature and thresholds are fitted: fewer tell nothing."""


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        run: its folder.
        model: the folder of the exported model.
        counts: how many images there are of each class, by part of the data.
        compared: the model before and this one on the same images.
        calibration: what `mien.evaluation.temperature.calibrate_model` gives; None where too few
            images are held out for it.
        summary: of the run's ``summary.json``.
    """

    run: RunFolder
    model: Path
    counts: Mapping[str, Mapping[str, int]]
    compared: Comparison
    calibration: Mapping[str, Any] | None
    summary: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "run": str(self.run.path),
            "model": str(self.model),
            "images": {name: dict(counts) for name, counts in self.counts.items()},
            "comparison": self.compared.to_dict(),
            "calibration": self.calibration,
            "summary": dict(self.summary),
        }

    def to_text(self) -> str:
        """Return it as it is printed: facts, both confusion matrices, and what to do next."""
        from mien.core.progress import format_duration
        from mien.evaluation.comparison import comparison_text

        images = [
            f"{name} {sum(counts.values()):,}" for name, counts in self.counts.items() if counts
        ]
        rows = [
            ("run", str(self.run.path)),
            ("images", ", ".join(images)),
            ("time", format_duration(self.summary["seconds"])),
            ("best epoch", f"{self.summary['best']['epoch']} of {self.summary['epochs']}"),
            ("calibrated", _calibrated(self.calibration)),
            ("measured on", _measured(self.compared.split)),
        ]
        facts = "\n".join(f"{name:<12} {value}" for name, value in rows)
        report = self.run.path / "report" / "before_after.md"
        return (
            f"{facts}\n\n{comparison_text(self.compared)}\n"
            f"report: {report}\nnext: mien predict --model {self.model} IMAGE\n"
        )


def _calibrated(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return f"no, fewer than {CALIBRATION_IMAGES} images are held out"
    before, after = calibration["error_before"], calibration["error_after"]
    return (
        f"on {calibration['images']:,} images of val, error {before:.1%} before, {after:.1%} after"
    )


def _measured(split: str) -> str:
    if split == "test":
        return "test"
    return "val, which chose the best epoch too: expect a little less of other images"


def finish(run: RunFolder, *, quiet: bool) -> Finetuned:
    """Export a run, calibrate the model, compare it with the one before, and write the reports.

    Raises:
        InputError: if the run is not a fine-tuning.
        ModelError: if a network cannot be exported, opened or run.
        OutputError: if a file cannot be written.
        MissingExtra: without what training takes.
    """
    from mien.data.dataset import load_splits
    from mien.evaluation.comparison import compare, write_comparison
    from mien.evaluation.evaluating import evaluate_model
    from mien.evaluation.report_folder import read_history, write_report
    from mien.evaluation.temperature import calibrate_model
    from mien.inference.classifier import Classifier
    from mien.training.finetune import FACES, export_finetuned, read_notes

    notes = read_notes(run.path)
    splits = load_splits(run.path / FACES)
    folder = export_finetuned(run)
    val = splits["val"]
    calibration = None
    if len(val) >= CALIBRATION_IMAGES:
        calibration = calibrate_model(folder, val.images, val.labels, split="val", quiet=quiet)
    new = Classifier.open(folder, labels=None)
    old = Classifier.open(notes["model"], labels=None)
    measured = splits["test"] if len(splits.get("test", ())) else val
    compared = compare(old, new, measured, meanings=notes["classes"], quiet=quiet)
    report_folder = run.path / "report"
    report, samples = evaluate_model(new, measured, quiet=quiet)
    report = replace(report, data=str(notes.get("source", "")), command=f"mien finetune {run.name}")
    write_report(report, report_folder, samples=samples, history=read_history(run.history))
    write_comparison(compared, report_folder)
    return Finetuned(
        run=run,
        model=folder,
        counts={name: split.class_counts() for name, split in splits.items()},
        compared=compared,
        calibration=calibration,
        summary=json.loads(run.summary.read_text(encoding="utf-8")),
    )
