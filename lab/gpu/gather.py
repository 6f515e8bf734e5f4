"""What the kit brings home: few files, none large, whatever was done when a piece ended."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.gpu.plan import Plan
from lab.gpu.recipes import Machine
from mien.core.files import write_atomically
from mien.data.dataset import load_splits

PART_BYTES = 15_500_000
PARTS = 4
"""With the report and the figures at most six files, none above 16 MiB."""

_RUN_FILES = ("config.toml", "environment.json", "history.csv", "summary.json", "curves.png")


def gather(machine: Machine, plan: Plan, notes: Mapping[str, Any], output: Path) -> None:
    """Write the results so far into a folder, ``report.json`` and the parts of an archive.

    ``cat results.tar.* | tar x`` unpacks them: the students' runs, the histories of all, the
    probabilities on PublicTest, the reports, and as many of the teachers' logits as fit.

    Raises:
        OutputError: if they cannot be written.
    """
    report = {"kit": dict(notes), "runs": _summaries(machine, plan), **_figures(machine, plan)}
    write_atomically(output / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    data = _archive(machine, plan, PARTS * PART_BYTES)
    count = -(-len(data) // PART_BYTES)
    for part in range(count):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        write_atomically(output / f"results.tar.{part}", piece)
    for part in range(count, PARTS):
        (output / f"results.tar.{part}").unlink(missing_ok=True)


def _summaries(machine: Machine, plan: Plan) -> dict[str, Any]:
    summaries = {}
    for stage in plan.stages:
        path = machine.run(stage) / "summary.json"
        if path.is_file():
            summaries[stage.name] = json.loads(path.read_text(encoding="utf-8"))
    return summaries


def _figures(machine: Machine, plan: Plan) -> dict[str, Any]:
    """Return accuracies on PublicTest: of each network and of the teachers together."""
    path = machine.work / "probabilities.npz"
    if not path.is_file():
        return {}
    labels = load_splits(machine.work / "faces.npz")["val"].labels
    with np.load(path) as stored:
        views = {name: stored[name].astype(np.float32) for name in stored.files}
    figures = {name: _accuracies(each, labels) for name, each in views.items()}
    together = [views[stage.name] for stage in plan.teachers if stage.name in views]
    if len(together) > 1:
        figures["teachers together"] = _accuracies(np.mean(together, axis=0), labels)
    return {"public_test": figures}


def _accuracies(views: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the accuracy of the plain faces, and of the mean with their mirror images."""
    plain, mirrored = views
    return {
        "accuracy": float((plain.argmax(axis=1) == labels).mean()),
        "accuracy_flip": float(((plain + mirrored).argmax(axis=1) == labels).mean()),
    }


def _archive(machine: Machine, plan: Plan, limit: int) -> bytes:
    """Pack files, the most wanted first, until the limit is reached."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in _wanted(machine, plan):
            # A header and the padding come on top.
            if stream.tell() + path.stat().st_size + 3 * tarfile.RECORDSIZE <= limit:
                archive.add(path, path.relative_to(machine.work).as_posix())
    return stream.getvalue()


def _wanted(machine: Machine, plan: Plan) -> Iterator[Path]:
    work = machine.work
    student = machine.run(plan.student)
    chosen = [machine.run(stage) / "best.keras" for stage in plan.students]
    chosen += [work / "probabilities.npz", work / "journal.json"]
    chosen += [machine.run(stage) / name for stage in plan.stages for name in _RUN_FILES]
    chosen += [student / "export" / "manifest.json"]
    chosen += sorted((work / "report").rglob("*")) + sorted((work / "report-tta").rglob("*"))
    chosen += sorted((work / "recipes").glob("*.toml")) + sorted((work / "logs").glob("*.log"))
    # By view, so that what fits is whole views of all teachers.
    chosen += sorted(
        machine.logits.glob("*.npz"), key=lambda path: (path.stem.split("view")[-1], path.name)
    )
    chosen += [machine.run(stage) / "best.keras" for stage in plan.teachers]
    yield from (path for path in chosen if path.is_file())
