"""``mien export``: turn a run's best network into a model that ``mien predict`` can use."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import add_command, folder_name, number
from mien.cli.output import key_value_text, write_answer
from mien.core.errors import EXIT_DONE, UsageError, expected_one_of
from mien.core.models import MANIFEST_NAME

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mien.core.manifest import Manifest
    from mien.data.dataset import Split


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "export",
        help="turn a run into a model for inference",
        description="Write model.onnx and manifest.json of a run's best network, and refuse if "
        "ONNX Runtime and Keras differ by more than 1e-4 in any probability.",
        examples=(
            "mien export outputs/mine --calibrate archive",
            "mien export outputs/mine --output own --name own --int8 --data archive",
        ),
        usage="[options] RUN",
    )
    # `run` is the parser's own word for what the command does.
    add = parser.add_argument
    add("folder", type=Path, metavar="RUN", help="folder of a run, outputs/NAME")
    add(
        "--output", type=folder_name, metavar="DIR", help="the model's folder (default: RUN/export)"
    )
    add(
        "--join",
        metavar="MODEL",
        help="add the run, which learnt votes, to this model as its people's reading (needs "
        "--output)",
    )
    add(
        "--start-share",
        type=number(0, 1),
        default=0.0,
        metavar="SHARE",
        help="of --join: share of the weights that the run started from (default: %(default)g)",
    )
    add("--name", help="the model's name (default: that of the run)")
    add("--version", help="the model's version (default: 1.0.0, or that of --join's model)")
    add(
        "--calibrate",
        metavar="DATA",
        help="fit temperatures and thresholds on the split val of this data set (folder, zip, CSV)",
    )
    add(
        "--votes",
        metavar="FILE",
        help="FER+ votes for --calibrate, of a run that learnt them: confidences become the share "
        "of people who would say so",
    )
    add(
        "--certain",
        type=number(0, 1),
        metavar="SHARE",
        help="how often readings that are not called uncertain are to be right (default: 0.85)",
    )
    add(
        "--certain-from",
        type=_levels,
        metavar="LEVELS",
        help="confidences from which on readings are certain, in place of --certain: one for all, "
        "and others by name (as 0.6,neutral=0.8)",
    )
    add(
        "--balance",
        type=number(0, 1),
        metavar="STRENGTH",
        help="lift emotions that Training has few images of, from 0 (not) to 1 (as if all had "
        "as many)",
    )
    add(
        "--int8",
        action="store_true",
        help="also write an 8-bit model beside it, DIR-int8, with --data (refused if it loses more "
        "than half a point of accuracy)",
    )
    add("--data", metavar="DATA", help="for --int8: ranges from its train, comparison on its val")
    add("--tflite", action="store_true", help="also write model.tflite (Keras on TensorFlow)")
    add("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)


def _levels(text: str) -> dict[str, float]:
    """Parse "0.6,neutral=0.8"; the level of all others is under the empty name."""
    levels: dict[str, float] = {}
    for word in text.split(","):
        name, _, level = word.strip().rpartition("=")
        if name in levels:
            raise argparse.ArgumentTypeError(f"expected one level a name, got {text!r}")
        levels[name] = float(number(0, 1)(level))
    if "" not in levels:
        raise argparse.ArgumentTypeError(
            f"expected a level for all, as 0.6 or 0.6,neutral=0.8, got {text!r}"
        )
    return levels


def _run(args: argparse.Namespace) -> int:
    from mien.core.manifest import load_manifest
    from mien.data.loading import load_split
    from mien.evaluation.calibration import balance_model
    from mien.training.export import export_run, join_run

    _check(args)
    # Read first: if the data are missing, nothing has been written yet.
    split = load_split(args.calibrate, "val", quiet=args.quiet) if args.calibrate else None
    votes = None
    if split is not None and args.votes is not None:
        split, votes = _with_votes(split, args.votes)
    names = ("train", "val") if args.int8 else ()
    sets = [load_split(args.data, name, quiet=args.quiet) for name in names]
    if args.join is None:
        version = args.version or "1.0.0"
        folder = export_run(args.folder, args.output, name=args.name, version=version)
    else:
        share = args.start_share
        folder = join_run(
            args.folder, args.join, args.output, version=args.version, start_share=share
        )
    if args.balance is not None:
        balance_model(folder, args.balance)
    calibration = None if split is None else _calibrate(folder, split, votes, args)
    others = _export_others(args, folder, sets)
    manifest = load_manifest(folder, labels=None).with_reading(None)
    content = {**_as_json(folder, manifest, calibration), **others}
    text = _describe(folder, manifest, calibration, others)
    write_answer(content, text, as_json=args.json)
    return EXIT_DONE


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before any work is done."""
    if args.join is not None and (args.output is None or args.name is not None or args.tflite):
        raise UsageError("--join takes --output, the new model's folder, and no --name or --tflite")
    if args.start_share and args.join is None:
        raise UsageError("--start-share is of --join MODEL: give both")
    if args.votes is not None and args.calibrate is None:
        raise UsageError("--votes are for --calibrate DATA: give both")
    if args.certain_from is not None and (args.calibrate is None or args.certain is not None):
        raise UsageError("--certain-from goes with --calibrate DATA, and takes --certain's place")
    if args.certain_from is not None:
        _check_levels(args.certain_from, _labels_of(args))
    if args.int8 != (args.data is not None):
        raise UsageError("--int8 and --data DATA go together: give both or neither")
    if args.tflite:
        from mien.training.litert import require_tensorflow

        require_tensorflow()


def _export_others(
    args: argparse.Namespace, folder: Path, sets: Sequence[Split]
) -> dict[str, dict[str, Any] | None]:
    """Write the other forms of the model that are asked for; return what is told of them."""
    told: dict[str, dict[str, Any] | None] = {"int8": None, "tflite": None}
    if args.int8:
        from mien.core.manifest import load_manifest
        from mien.training.quantize import export_int8

        train, val = sets
        small = export_int8(folder, folder.with_name(f"{folder.name}-int8"), train=train, val=val)
        manifest = load_manifest(small, labels=None)
        file = small / manifest.file.name
        told["int8"] = {"path": str(file), **manifest.metrics["quantization"]}
    if args.tflite:
        from mien.training.litert import export_tflite

        path = export_tflite(args.folder, folder)
        told["tflite"] = {"path": str(path), "bytes": path.stat().st_size}
    return told


def _with_votes(split: Split, path: str) -> tuple[Split, npt.NDArray[np.int64]]:
    """Return the images of a split that somebody saw an emotion in, and how many saw which."""
    from mien.data.votes import emotion_votes, load_votes

    votes = emotion_votes(split, load_votes(path))
    voted = votes.sum(axis=1) > 0
    return split.take(voted), votes[voted]


def _calibrate(
    folder: Path, split: Split, votes: npt.NDArray[np.int64] | None, args: argparse.Namespace
) -> dict[str, Any]:
    from mien.evaluation.calibration import CERTAIN_ACCURACY, calibrate_model

    return calibrate_model(
        folder,
        split.images,
        split.labels,
        split=split.name,
        votes=votes,
        accuracy=args.certain or CERTAIN_ACCURACY,
        thresholds=_thresholds(folder, args.certain_from),
        augmented=True,
        quiet=args.quiet,
    )


def _thresholds(folder: Path, levels: dict[str, float] | None) -> dict[str, float] | None:
    from mien.core.manifest import load_manifest

    if levels is None:
        return None
    labels = load_manifest(folder, labels=None).labels
    return {label: levels.get(label, levels[""]) for label in labels}


def _labels_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the classes that the model will have."""
    from mien.core.manifest import load_manifest
    from mien.core.models import find_model
    from mien.training.recipe import load_config
    from mien.training.run import open_run

    if args.join is not None:
        return load_manifest(find_model(args.join), labels=None).labels
    return tuple(load_config(open_run(args.folder).config).labels)


def _check_levels(levels: Iterable[str], labels: Sequence[str]) -> None:
    for name in levels:
        if name and name not in labels:
            known = expected_one_of(name, labels)
            raise UsageError(f"--certain-from: unknown emotion {name!r}: {known}")


def _as_json(
    folder: Path, manifest: Manifest, calibration: dict[str, Any] | None
) -> dict[str, Any]:
    file, beside = manifest.file, folder / MANIFEST_NAME
    return {
        "folder": str(folder),
        "name": manifest.name,
        "version": manifest.version,
        "model": {"path": str(folder / file.name), "bytes": file.size_bytes, "sha256": file.sha256},
        "manifest": {"path": str(beside), "bytes": beside.stat().st_size},
        "largest_difference": manifest.metrics["export"]["largest_difference"],
        "temperature": manifest.temperature,
        "entropy_exponent": manifest.entropy_exponent,
        "bias": dict(manifest.bias),
        "thresholds": dict(manifest.thresholds),
        "calibration": calibration,
    }


def _describe(
    folder: Path,
    manifest: Manifest,
    calibration: dict[str, Any] | None,
    others: dict[str, dict[str, Any] | None],
) -> str:
    checked = manifest.metrics["export"]
    sizes = " and ".join(str(size) for size in checked["batch_sizes"])
    temperature = f"{manifest.temperature:.4g}"
    if manifest.entropy_exponent:
        temperature += f", entropy to the power of {manifest.entropy_exponent:.3g}"
    if calibration is None:
        temperature += " (not fitted: give --calibrate DATA)"
    rows = [
        ("model", f"{manifest.name} {manifest.version}"),
        ("network", _sized(folder / manifest.file.name)),
        ("manifest", _sized(folder / MANIFEST_NAME)),
        ("sha256", manifest.file.sha256),
        ("difference", f"{checked['largest_difference']:.1e} at most, batch {sizes}"),
        ("temperature", temperature),
    ]
    if calibration is not None:
        images = f"{calibration['images']:,} images of {calibration['split']}"
        before, after = calibration["error_before"], calibration["error_after"]
        rows += [
            ("calibration", f"error {before:.2%} before, {after:.2%} after, on {images}"),
            ("held out", f"error {calibration['error_held_out']:.2%}, each fifth by the others"),
            ("uncertain", f"{calibration['uncertain']:.1%} of these, below their threshold"),
        ]
        right = calibration["certain_accuracy"]
        rows += [] if right is None else [("certain", f"{right:.1%} of the others are right")]
    small, lite = others["int8"], others["tflite"]
    if small is not None:
        lost = f"{small['points_lost']:.2f} points lost on {small['images']:,} images"
        rows += [
            ("int8", _sized(Path(small["path"]))),
            ("", f"{lost} of {small['split']}, {small['agreement']:.1%} read alike"),
        ]
    if lite is not None:
        rows.append(("tflite", _sized(Path(lite["path"]))))
    return f"{key_value_text(rows)}\nnext: mien predict --model {folder} IMAGE\n"


def _sized(path: Path) -> str:
    size = path.stat().st_size
    text = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    return f"{path}  ({text})"
