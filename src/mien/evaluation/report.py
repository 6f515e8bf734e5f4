"""An evaluation and what it was made with: as JSON, and read back from it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.core.errors import DataError, UsageError
from mien.core.files import write_atomically
from mien.core.results import ModelInfo
from mien.evaluation.agreement import Agreement
from mien.evaluation.calibration import Calibration, CalibrationBin
from mien.evaluation.certain import CertainReadings
from mien.evaluation.intervals import Interval
from mien.evaluation.metrics import Averages, ClassMetrics, Evaluation, Metrics

SCHEMA = "mien-report/1"

SPLIT_ORDER: tuple[str, ...] = ("val", "test", "train", "all")
"""How evaluations are listed: what choices are made on, what counts, what was learned by heart,
and a folder that is not parted."""

_PACKAGES = (
    "mien",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "scikit-learn",
    "matplotlib",
    "seaborn",
)


@dataclass(frozen=True)
class Report:
    """One evaluation of one model on one split.

    Attributes:
        model: the model's name, version and hash.
        data: name of the data set.
        split: "train", "val", "test", or "all" of a folder that is not parted.
        tta: whether test-time augmentation was used.
        evaluation: the numbers.
        seed: of the choice of the sample pictures.
        command: the command line that makes this report.
        skipped: files of the split that could not be read.
        left_out: how many images there are of each class that the model lacks.
        versions: of Python and of the packages.
        trained: images that were left out since the model was trained on them.
        with_trained: whether such images were taken in instead; the others are the clean ones.
        images_sha256: hash of the images and labels that were measured on, None where unknown.
        agreement: with FER+'s votes on all images, None where there were none.
        clean_agreement: the same on the clean images.
    """

    model: ModelInfo
    data: str
    split: str
    tta: bool
    evaluation: Evaluation
    seed: int = 0
    command: str = ""
    skipped: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    trained: int = 0
    with_trained: bool = False
    images_sha256: str | None = None
    agreement: Agreement | None = None
    clean_agreement: Agreement | None = None

    def __post_init__(self) -> None:
        """Check the split."""
        if self.split not in SPLIT_ORDER:
            raise UsageError(f"expected a split of {', '.join(SPLIT_ORDER)}, got {self.split!r}")

    @property
    def key(self) -> str:
        """What tells the evaluations of one model apart: ``test``, ``test-tta``, ``val`` ..."""
        parts = {
            self.split: True,
            "people": self.model.labels == "people",
            "tta": self.tta,
            "with-trained": self.with_trained,
        }
        return "-".join(part for part, is_so in parts.items() if is_so)

    def to_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        return {
            "schema": SCHEMA,
            "model": self.model.to_dict(),
            "labels": self.model.labels,
            "data": self.data,
            "split": self.split,
            "tta": self.tta,
            "seed": self.seed,
            "command": self.command,
            "skipped": self.skipped,
            "left_out": dict(self.left_out),
            "trained": self.trained,
            "with_trained": self.with_trained,
            "images_sha256": self.images_sha256,
            "versions": dict(self.versions),
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "clean_agreement": None
            if self.clean_agreement is None
            else self.clean_agreement.to_dict(),
            **self.evaluation.to_dict(),
        }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an evaluation rests on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # Another build of the same package (opencv-python, onnxruntime-gpu) has another name.
            found[name] = "unknown"
    return found


def write_report_json(report: Report, path: Path) -> None:
    """Write a report as JSON; raises OutputError if it cannot be written."""
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_report_json(path: Path) -> Report:
    """Read a report that `write_report_json` wrote.

    Raises:
        DataError: if the file is missing, damaged or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        return Report(
            model=ModelInfo(**content["model"], labels=content.get("labels", "fer2013")),
            data=content["data"],
            split=content["split"],
            tta=content["tta"],
            evaluation=_evaluation(content),
            seed=content["seed"],
            command=content["command"],
            skipped=content["skipped"],
            versions=content["versions"],
            left_out=content.get("left_out", {}),
            trained=content.get("trained", 0),
            with_trained=content.get("with_trained", False),
            images_sha256=content.get("images_sha256"),
            agreement=_agreement(content.get("agreement")),
            clean_agreement=_agreement(content.get("clean_agreement")),
        )
    except OSError as error:
        raise DataError(f"cannot read the report {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no report of mien evaluate: {error!r}; delete it") from error


def read_reports(folder: Path, model: ModelInfo) -> tuple[Report, ...]:
    """Read the reports ``*.json`` of a folder that are of exactly this model, sorted by `order`.

    Those of an earlier training under the same name (another hash) are left out.

    Raises:
        DataError: if a file is damaged.
    """
    reports = [read_report_json(path) for path in sorted(folder.glob("*.json"))]
    return tuple(sorted((report for report in reports if report.model == model), key=order))


def order(report: Report) -> tuple[int, bool, bool]:
    """Sort key: by split as `SPLIT_ORDER`, each without, then with augmentation."""
    return (SPLIT_ORDER.index(report.split), report.tta, report.with_trained)


def _evaluation(content: Mapping[str, Any]) -> Evaluation:
    clean = content["clean"]
    return Evaluation(_metrics(content["all"]), None if clean is None else _metrics(clean))


def _metrics(content: Mapping[str, Any]) -> Metrics:
    calibration = content["calibration"]
    return Metrics(
        count=content["count"],
        correct=content["correct"],
        loss=content["loss"],
        accuracy=content["accuracy"],
        accuracy_interval=Interval(**content["accuracy_interval"]),
        macro=Averages(**content["macro"]),
        weighted=Averages(**content["weighted"]),
        balanced_accuracy=content["balanced_accuracy"],
        classes=tuple(_class(entry) for entry in content["classes"]),
        confusion=tuple(tuple(row) for row in content["confusion"]),
        confusion_rates=tuple(
            None if row is None else tuple(row) for row in content["confusion_rates"]
        ),
        calibration=Calibration(
            calibration["error"],
            calibration["confidence"],
            tuple(CalibrationBin(**entry) for entry in calibration["bins"]),
        ),
        absent=tuple(content["absent"]),
        certain=_certain(content.get("certain")),
    )


def _agreement(content: Mapping[str, Any] | None) -> Agreement | None:
    return None if content is None else Agreement.from_dict(content)


def _certain(content: Mapping[str, Any] | None) -> CertainReadings | None:
    return None if content is None else CertainReadings(**_with_interval(content))


def _class(content: Mapping[str, Any]) -> ClassMetrics:
    return ClassMetrics(**_with_interval(content))


def _with_interval(content: Mapping[str, Any]) -> dict[str, Any]:
    interval = content["accuracy_interval"]
    return {**content, "accuracy_interval": None if interval is None else Interval(**interval)}
