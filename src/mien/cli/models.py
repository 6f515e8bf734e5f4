"""``mien models``: what each model is: size, accuracy, licence, hash."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mien.cli.options import add_command
from mien.cli.output import write_answer
from mien.core.errors import EXIT_DONE
from mien.core.formats import table_text
from mien.core.models import DEFAULT_MODEL, bundled_models, find_model
from mien.core.progress import track

if TYPE_CHECKING:
    from mien.core.manifest import Manifest

SCHEMA = "mien-models/1"
"""Name and version of the JSON form."""

LICENCE = "MIT, for research"
"""Of the bundled models: the code's, and what FER-2013 is shared for."""

_MEASURED_S = 0.5
_SHOWN_HASH = 12


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``models``."""
    parser = add_command(
        commands,
        "models",
        help="list the models: size, accuracy, speed, licence, hash",
        description="List the bundled models, or tell of others. Each model's hash is checked.",
        examples=("mien models", "mien models --measure", "mien models outputs/mine/export --json"),
    )
    add = parser.add_argument
    add(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a name or a model's folder (default: all bundled ones)",
    )
    measure_help = "time them on this machine: one face at a time, on one thread"
    add("--measure", action="store_true", help=measure_help)
    add("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    names = args.models or bundled_models()
    found = [_model(name) for name in names]
    if args.measure:
        from mien.inference.classifier import time_model

        for name, each in zip(
            names, track(found, "timing", unit="model", quiet=args.quiet), strict=True
        ):
            timing = time_model(name, threads=1, batch_size=1, seconds=_MEASURED_S)
            each["ms_a_face"] = round(timing.median, 3)
    content = {"schema": SCHEMA, "models": found}
    write_answer(content, _described(found, timed=args.measure), as_json=args.json)
    return EXIT_DONE


def _model(name: str) -> dict[str, Any]:
    """Return what is known of a model, ready for JSON."""
    from mien.core.manifest import load_manifest

    folder = find_model(name)
    manifest = load_manifest(folder, labels=None)
    first = manifest.with_reading(None).reading
    order = (first, *(each for each in manifest.readings if each != first))
    return {
        "name": manifest.name,
        "version": manifest.version,
        "default": name == DEFAULT_MODEL,
        "folder": str(folder),
        "megabytes": round(manifest.file.size_bytes / 1e6, 3),
        "precision": manifest.precision,
        "labels": list(manifest.labels),
        "accuracy": {reading: _accuracy(manifest.with_reading(reading)) for reading in order},
        "ms_a_face": None,
        "licence": LICENCE if name in bundled_models() else None,
        "sha256": manifest.file.sha256,
    }


def _accuracy(manifest: Manifest) -> float | None:
    """Return the reading's accuracy on the images that validated it, None where it is unknown.

    What was measured as it was calibrated is of the network as it is read, with its bias and its
    share of starting weights; "validation" is of the run, and in 8 bits both are of the one in 32.
    """
    if manifest.precision == "int8":
        return _figure(manifest.metrics, "quantization", "accuracy_int8")
    calibrated = _figure(manifest.metrics, "calibration", "accuracy")
    if calibrated is not None:
        return calibrated
    return _figure(manifest.metrics, "validation", "val_accuracy")


def _figure(metrics: Mapping[str, Any], part: str, name: str) -> float | None:
    figures = metrics.get(part)
    value = figures.get(name) if isinstance(figures, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _described(models: Sequence[Mapping[str, Any]], *, timed: bool) -> str:
    header = ["MODEL", "VERSION", "MB", "MS A FACE", "LABELS", "ACCURACY", "LICENCE", "SHA-256"]
    rows = []
    for each in models:
        name = f"{each['name']}{' *' if each['default'] else ''}"
        ms = "-" if each["ms_a_face"] is None else f"{each['ms_a_face']:.2f}"
        fixed = [name, each["version"], f"{each['megabytes']:.1f}", ms]
        last = [each["licence"] or "-", each["sha256"][:_SHOWN_HASH]]
        for reading, share in each["accuracy"].items():
            accuracy = "-" if share is None else f"{share:.1%}"
            rows.append([*fixed, reading, accuracy, *last])
            fixed, last = [""] * len(fixed), [""] * len(last)
    if not timed:
        header, *rows = ([*row[:3], *row[4:]] for row in (header, *rows))
    lines = [
        "accuracy: on images that training did not use (of FER-2013, its PublicTest split); by the "
        "label,\n          or by what most people say",
        "*: the model that is used where none is named",
    ]
    if not any(each["default"] for each in models):
        lines.pop()
    table = table_text(header, rows, right=[2, 3, 5] if timed else [2, 4])
    return table + "\n" + "".join(f"{line}\n" for line in lines)
