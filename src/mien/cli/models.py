"""``mien models``: list models with size, accuracy, licence and hash."""

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
"""Licence of the bundled models; FER-2013 is shared for research."""

_TIMED_S = 0.5
_HASH_DIGITS = 12


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``models``."""
    parser = add_command(
        commands,
        "models",
        help="list the models: size, accuracy, licence, hash",
        description="List the bundled models, or the given ones. Each model's hash is checked.",
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
    models = [_describe_model(name) for name in names]
    if args.measure:
        from mien.inference.classifier import time_model

        timed = track(models, "timing", unit="model", quiet=args.quiet)
        for name, model in zip(names, timed, strict=True):
            timing = time_model(name, threads=1, batch_size=1, seconds=_TIMED_S)
            model["ms_a_face"] = round(timing.median, 3)
    content = {"schema": SCHEMA, "models": models}
    write_answer(content, _table(models, timed=args.measure), as_json=args.json)
    return EXIT_DONE


def _describe_model(name: str) -> dict[str, Any]:
    """Return a model's entry in the JSON form, not timed."""
    from mien.core.manifest import load_manifest

    folder = find_model(name)
    manifest = load_manifest(folder, labels=None)
    default = manifest.with_reading(None).reading
    readings = sorted(manifest.readings, key=lambda reading: reading != default)
    return {
        "name": manifest.name,
        "version": manifest.version,
        "default": name == DEFAULT_MODEL,
        "folder": str(folder),
        "megabytes": round(manifest.file.size_bytes / 1e6, 3),
        "precision": manifest.precision,
        "labels": list(manifest.labels),
        "accuracy": {reading: _accuracy(manifest.with_reading(reading)) for reading in readings},
        "ms_a_face": None,
        "licence": LICENCE if name in bundled_models() else None,
        "sha256": manifest.file.sha256,
    }


def _accuracy(manifest: Manifest) -> float | None:
    """Return the reading's accuracy on its validation images, None if unknown.

    "calibration" has the accuracy of the exported network, with its bias and averaged weights,
    "validation" that of the training run. In the manifest of an int8 model both belong to its
    float32 original; its own accuracy is under "quantization".
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


def _table(models: Sequence[Mapping[str, Any]], *, timed: bool) -> str:
    header = ["MODEL", "VERSION", "MB", "MS A FACE", "LABELS", "ACCURACY", "LICENCE", "SHA-256"]
    rows = []
    for model in models:
        name = f"{model['name']}{' *' if model['default'] else ''}"
        ms = "-" if model["ms_a_face"] is None else f"{model['ms_a_face']:.2f}"
        first = [name, model["version"], f"{model['megabytes']:.1f}", ms]
        last = [model["licence"] or "-", model["sha256"][:_HASH_DIGITS]]
        for reading, share in model["accuracy"].items():
            accuracy = "-" if share is None else f"{share:.1%}"
            rows.append([*first, reading, accuracy, *last])
            first, last = [""] * len(first), [""] * len(last)
    if not timed:
        header, *rows = ([*row[:3], *row[4:]] for row in (header, *rows))
    text = (
        "accuracy: on validation images (FER-2013's PublicTest for the bundled models), against\n"
        "          FER+'s majority vote (people) or the label\n"
    )
    if any(model["default"] for model in models):
        text += "*: the default model\n"
    if not timed:
        text += "--measure adds their speed on this machine\n"
    return f"{table_text(header, rows, right=[2, 3, 5] if timed else [2, 4])}\n{text}"
