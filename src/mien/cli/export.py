"""``mien export``: turn a run's best network into a model for inference."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import add_command, folder_name, number, path_name, path_text
from mien.cli.output import key_value_text, write_answer
from mien.core.errors import EXIT_DONE, UsageError, expected_one_of
from mien.core.models import MANIFEST_NAME

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mien.core.manifest import Manifest
    from mien.data.dataset import Split


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``export``."""
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
    add = parser.add_argument
    # `args.run` is the command's function.
    add("folder", type=path_name, metavar="RUN", help="folder of a run, outputs/NAME")
    add(
        "--output", type=folder_name, metavar="DIR", help="the model's folder (default: RUN/export)"
    )
    add("--name", help="the model's name (default: that of the run)")
    add("--version", help="the model's version (default: 1.0.0, or that of --join's model)")
    add("--json", action="store_true", help="print the result as JSON")
    _add_join_options(parser)
    _add_calibration_options(parser)
    _add_format_options(parser)
    parser.set_defaults(run=_run)


def _add_join_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("two readings in one model").add_argument
    add(
        "--join",
        type=path_text,
        metavar="MODEL",
        help="add the run, trained on votes, to this model as its reading of people (needs "
        "--output)",
    )
    add(
        "--start-share",
        type=number(0, 1),
        default=0.0,
        metavar="SHARE",
        help="with --join: weight of the run's starting weights in an average with its final ones "
        "(default: %(default)g)",
    )


def _add_calibration_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("calibration").add_argument
    add(
        "--calibrate",
        type=path_text,
        metavar="DATA",
        help="fit temperatures and thresholds on the split val of this data set (folder, zip, CSV)",
    )
    add(
        "--votes",
        type=path_text,
        metavar="FILE",
        help="FER+ votes for --calibrate, if the run was trained on votes: confidences become the "
        "share of people who would agree",
    )
    add(
        "--certain",
        type=number(0, 1),
        metavar="SHARE",
        help="target accuracy of predictions that are not marked uncertain (default: 0.85)",
    )
    add(
        "--certain-from",
        type=_parse_thresholds,
        metavar="LEVELS",
        help="minimum confidences of certain predictions, instead of --certain: one for all, and "
        "others by name (for example 0.6,neutral=0.8)",
    )
    add(
        "--balance",
        type=number(0, 1),
        metavar="STRENGTH",
        help="favour emotions with few training images, from 0 (off) to 1 (as if all had as many)",
    )


def _add_format_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("other formats").add_argument
    add(
        "--int8",
        action="store_true",
        help="also write an 8-bit model to DIR-int8, using --data (refused if it loses more than "
        "half a point of accuracy)",
    )
    data_help = "for --int8: ranges from its train, comparison on its val"
    add("--data", type=path_text, metavar="DATA", help=data_help)
    add("--tflite", action="store_true", help="also write model.tflite (Keras on TensorFlow)")


def _parse_thresholds(text: str) -> dict[str, float]:
    """Parse "0.6,neutral=0.8"; the threshold of all others has an empty name."""
    thresholds: dict[str, float] = {}
    for part in text.split(","):
        name, _, level = part.strip().rpartition("=")
        if name in thresholds:
            raise argparse.ArgumentTypeError(f"expected one level a name, got {text!r}")
        thresholds[name] = number(0, 1)(level)
    if "" not in thresholds:
        raise argparse.ArgumentTypeError(
            f"expected a level for all, as 0.6 or 0.6,neutral=0.8, got {text!r}"
        )
    return thresholds


def _run(args: argparse.Namespace) -> int:
    from mien.core.manifest import load_manifest
    from mien.data.loading import load_split
    from mien.evaluation.calibration import balance_model

    _check_options(args)
    # Loaded first: if data are missing, nothing has been written yet.
    val = load_split(args.calibrate, "val", quiet=args.quiet) if args.calibrate else None
    votes = None
    if val is not None and args.votes is not None:
        val, votes = _select_voted(val, args.votes)
    names = ("train", "val") if args.int8 else ()
    splits = [load_split(args.data, name, quiet=args.quiet) for name in names]
    folder = _export(args)
    if args.balance is not None:
        balance_model(folder, args.balance)
    calibration = None if val is None else _calibrate(folder, val, votes, args)
    formats = _export_formats(args, folder, splits)
    manifest = load_manifest(folder, labels=None).with_reading(None)
    content = {**_to_dict(folder, manifest), "calibration": calibration, **formats}
    write_answer(content, _summary(folder, manifest, content), as_json=args.json)
    return EXIT_DONE


def _check_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options that cannot be combined, before any work is done."""
    if args.join is not None and (args.output is None or args.name is not None or args.tflite):
        raise UsageError("--join takes --output, the new model's folder, and no --name or --tflite")
    if args.start_share and args.join is None:
        raise UsageError("--start-share is of --join MODEL: give both")
    if args.votes is not None and args.calibrate is None:
        raise UsageError("--votes are for --calibrate DATA: give both")
    if args.certain_from is not None:
        if args.calibrate is None or args.certain is not None:
            raise UsageError("--certain-from goes with --calibrate DATA, and replaces --certain")
        labels = _exported_labels(args)
        for name in args.certain_from:
            if name and name not in labels:
                expected = expected_one_of(name, labels)
                raise UsageError(f"--certain-from: unknown emotion {name!r}: {expected}")
    if args.int8 != (args.data is not None):
        raise UsageError("--int8 and --data DATA go together: give both or neither")
    if args.tflite:
        from mien.training.export import require_tensorflow

        require_tensorflow()


def _exported_labels(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the classes that the exported model will have."""
    from mien.core.manifest import load_manifest
    from mien.core.models import find_model
    from mien.training.recipe import load_run_config
    from mien.training.run_folder import open_run

    if args.join is not None:
        return load_manifest(find_model(args.join), labels=None).labels
    return load_run_config(open_run(args.folder)).labels


def _select_voted(split: Split, path: str) -> tuple[Split, npt.NDArray[np.int64]]:
    """Return the images of a split with votes for an emotion, and these votes (N, 7)."""
    from mien.data.votes import emotion_votes, load_votes

    votes = emotion_votes(split, load_votes(path))
    voted = votes.sum(axis=1) > 0
    return split.take(voted), votes[voted]


def _export(args: argparse.Namespace) -> Path:
    from mien.training.export import export_run, join_run

    if args.join is None:
        version = args.version or "1.0.0"
        return export_run(args.folder, args.output, name=args.name, version=version)
    share, version = args.start_share, args.version
    return join_run(args.folder, args.join, args.output, version=version, start_share=share)


def _calibrate(
    folder: Path, split: Split, votes: npt.NDArray[np.int64] | None, args: argparse.Namespace
) -> dict[str, Any]:
    from mien.core.manifest import load_manifest
    from mien.evaluation.calibration import CERTAIN_ACCURACY, calibrate_model

    thresholds: dict[str, float] | None = None
    if args.certain_from is not None:
        labels = load_manifest(folder, labels=None).labels
        default = args.certain_from[""]
        thresholds = {label: args.certain_from.get(label, default) for label in labels}
    return calibrate_model(
        folder,
        split,
        votes=votes,
        accuracy=args.certain or CERTAIN_ACCURACY,
        thresholds=thresholds,
        augmented=True,
        quiet=args.quiet,
    )


def _export_formats(
    args: argparse.Namespace, folder: Path, splits: Sequence[Split]
) -> dict[str, dict[str, Any] | None]:
    """Write the model in the other formats; return their part of the result."""
    formats: dict[str, dict[str, Any] | None] = {"int8": None, "tflite": None}
    if args.int8:
        from mien.core.manifest import load_manifest
        from mien.training.quantize import export_int8

        train, val = splits
        int8 = export_int8(folder, folder.with_name(f"{folder.name}-int8"), train=train, val=val)
        manifest = load_manifest(int8, labels=None)
        path = int8 / manifest.file.name
        formats["int8"] = {"path": str(path), **manifest.metrics["quantization"]}
    if args.tflite:
        from mien.training.export import export_tflite

        path = export_tflite(args.folder, folder)
        formats["tflite"] = {"path": str(path), "bytes": path.stat().st_size}
    return formats


# ---------------------------------------------------------------- the result
def _to_dict(folder: Path, manifest: Manifest) -> dict[str, Any]:
    file, manifest_path = manifest.file, folder / MANIFEST_NAME
    return {
        "folder": str(folder),
        "name": manifest.name,
        "version": manifest.version,
        "model": {"path": str(folder / file.name), "bytes": file.size_bytes, "sha256": file.sha256},
        "manifest": {"path": str(manifest_path), "bytes": manifest_path.stat().st_size},
        "largest_difference": manifest.metrics["export"]["largest_difference"],
        "temperature": manifest.temperature,
        "entropy_exponent": manifest.entropy_exponent,
        "bias": dict(manifest.bias),
        "thresholds": dict(manifest.thresholds),
    }


def _summary(folder: Path, manifest: Manifest, content: Mapping[str, Any]) -> str:
    parity, calibration = manifest.metrics["export"], content["calibration"]
    sizes = " and ".join(str(size) for size in parity["batch_sizes"])
    temperature = f"{manifest.temperature:.4g}"
    if manifest.entropy_exponent:
        temperature += f", entropy to the power of {manifest.entropy_exponent:.3g}"
    if calibration is None:
        temperature += " (not fitted: give --calibrate DATA)"
    rows = [
        ("model", f"{manifest.name} {manifest.version}"),
        ("network", _file_text(folder / manifest.file.name)),
        ("manifest", _file_text(folder / MANIFEST_NAME)),
        ("sha256", manifest.file.sha256),
        ("difference", f"{parity['largest_difference']:.1e} at most, batch {sizes}"),
        ("temperature", temperature),
    ]
    if calibration is not None:
        images = f"{calibration['images']:,} images of {calibration['split']}"
        before, after = calibration["error_before"], calibration["error_after"]
        rows += [
            ("calibration", f"error {before:.2%} before, {after:.2%} after, on {images}"),
            ("held out", f"error {calibration['error_held_out']:.2%}, five-fold cross-validation"),
            ("uncertain", f"{calibration['uncertain']:.1%} of these are below their threshold"),
        ]
        accuracy = calibration["certain_accuracy"]
        if accuracy is not None:
            rows.append(("certain", f"{accuracy:.1%} of the others are correct"))
    int8, tflite = content["int8"], content["tflite"]
    if int8 is not None:
        lost = f"{int8['points_lost']:.2f} points lost on {int8['images']:,} images"
        rows += [
            ("int8", _file_text(Path(int8["path"]))),
            ("", f"{lost} of {int8['split']}, {int8['agreement']:.1%} predicted alike"),
        ]
    if tflite is not None:
        rows.append(("tflite", _file_text(Path(tflite["path"]))))
    return f"{key_value_text(rows)}\nnext: mien predict --model {folder} IMAGE\n"


def _file_text(path: Path) -> str:
    size = path.stat().st_size
    text = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    return f"{path}  ({text})"
