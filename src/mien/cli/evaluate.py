"""``mien evaluate``: an exported model's figures on a data set, or on one's own pictures."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import (
    MAX_BATCH_SIZE,
    add_command,
    add_face_options,
    add_labels_option,
    add_model_option,
    face_cropper,
    folder_name,
    integer,
    recognizer_options,
)
from mien.cli.output import note, write_answer, write_output
from mien.cli.paths import check_target_folder, check_targets, find_inputs, input_paths
from mien.core.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    InputError,
    NoFaceError,
    UsageError,
    require_extra,
)
from mien.core.files import expand_home
from mien.core.formats import csv_text, json_text, table_text
from mien.core.progress import track

if TYPE_CHECKING:
    from mien.data.dataset import TrainedOn
    from mien.evaluation.evaluate import EvaluationData
    from mien.evaluation.report import Report, Samples
    from mien.evaluation.robustness import Robustness
    from mien.inference.classifier import Classifier

IMAGES = Path("images")
RELEASE_REPORT = Path("report.txt")

_SPLITS = ("train", "val", "test")
_ROBUSTNESS = ("robustness.json", "robustness.md")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "evaluate",
        help="measure an exported model and write a report",
        description="Measure an exported model on a data set, or read a folder of your own "
        "pictures. The report goes to outputs/RUN/report/, a grid of pictures to "
        "outputs/RUN/pictures/; beside them (report-2, ...) where these are of another model or "
        "other data.",
        examples=(
            "mien evaluate --data archive",
            "mien evaluate --data archive --model outputs/mine --split val --tta",
            "mien evaluate --pictures ImgTest",
        ),
        usage="[options] (--data PATH | --pictures FOLDER)",
    )
    add = parser.add_argument
    add_model_option(parser)
    add_labels_option(parser, default="fer2013 for FER-2013, people for other pictures")
    add("--votes", metavar="FILE", help="FER+ votes of the --data: say how far readings agree")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data",
        metavar="PATH",
        help="a data set (a folder, a zip or the CSV), or any folder with a folder for each class",
    )
    what.add_argument("--pictures", metavar="FOLDER", help="your own pictures, as ImgTest/")
    add("--split", choices=_SPLITS, help="part of the data (default: test; val with --robustness)")
    add("--tta", action="store_true", help="average over shifts and mirror images")
    add(
        "--robustness",
        action="store_true",
        help="instead, measure the accuracy lost on blurred, shrunk, coded and unevenly lit images",
    )
    add(
        "--include-trained",
        action="store_true",
        help="take in the images that a fine-tuned model was trained on, and say both figures",
    )
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--output", type=folder_name, metavar="DIR", help="write to this folder instead")
    add(
        "--force",
        action="store_true",
        help="replace a report on another model or other data, and files that mien did not write",
    )
    batch_help = "faces that go through the network at once (default: %(default)s)"
    add("--batch-size", type=integer(1, MAX_BATCH_SIZE), default=64, metavar="N", help=batch_help)
    add("--seed", type=integer(), metavar="N", help="of the sample pictures (default: 0)")
    add(
        "--detector",
        metavar="NAME",
        help="face detector: for --pictures (default: auto), and for a --data folder of photos "
        "(default: none, its images are face crops)",
    )
    add(
        "--map",
        metavar="MAP",
        help="rename or merge the classes of a --data folder: a=b,c=d or a file of such lines",
    )
    add_face_options(parser)
    add("--no-report", action="store_true", help="print figures, write nothing")
    add(
        "--update",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="also write the figures between the marks in these Markdown files",
    )
    add(
        "--release",
        action="store_true",
        help=f"also write {RELEASE_REPORT} and the figures in {IMAGES}/ of the current folder",
    )
    # What finds faces is told of threads too; here they are the network's own choice.
    parser.set_defaults(run=_run, threads=None)


def _run(args: argparse.Namespace) -> int:
    _check(args)
    if args.robustness:
        return _evaluate_robustness(args)
    require_extra("train", "matplotlib", "seaborn", "sklearn", needed_for="mien evaluate")
    return _evaluate_data(args) if args.pictures is None else _evaluate_pictures(args)


# ---------------------------------------------------------------- options that do not go together
def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together before any work is done."""
    words = "votes split tta robustness include_trained seed map no_report update release"
    given = [name for name in words.split() if getattr(args, name) not in (None, False, [])]
    if args.pictures is not None and given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --data, not for --pictures")
    finding = _finding_words(args)
    if args.data is not None and finding:
        if args.max_faces is not None:
            raise UsageError("--max-faces is for --pictures: of a photo of --data, one face counts")
        if args.detector in (None, "none"):
            raise UsageError(f"{finding[0]} finds faces in photos: expected --detector with it")
    if args.no_report and (args.update or args.release or args.output or args.force):
        raise UsageError(
            "--no-report writes nothing: leave out --output, --force, --update and --release"
        )
    if args.release and (args.tta or args.split not in (None, "test")):
        raise UsageError("--release writes the report on the test split without --tta")
    if not args.robustness:
        return
    if args.map is not None or args.detector is not None:
        raise UsageError("--robustness takes data sets alone: leave out --map and --detector")
    if args.votes is not None:
        raise UsageError("--robustness counts labels: leave out --votes")
    if args.include_trained:
        raise UsageError("--robustness leaves out what was trained on: no --include-trained")
    if args.release or args.seed is not None:
        raise UsageError("--robustness writes no figures: leave out --release and --seed")


def _finding_words(args: argparse.Namespace) -> list[str]:
    """Return what was asked for of how faces are found, beside the detector, as words."""
    words = []
    if args.min_face != 0:
        words += ["--min-face", str(args.min_face)]
    if args.max_faces is not None:
        words += ["--max-faces", str(args.max_faces)]
    if args.align != "auto":
        words += ["--align", args.align]
    if args.detector_weights is not None:
        words += ["--detector-weights", _shown(str(args.detector_weights))]
    if args.thorough:
        words += ["--thorough"]
    return words


# ---------------------------------------------------------------- a data set
def _evaluate_data(args: argparse.Namespace) -> int:
    from mien.data.dataset import find_record
    from mien.data.votes import align_votes, load_votes
    from mien.evaluation.evaluate import evaluate_model, find_exported, home_of
    from mien.evaluation.report_folder import check_sections
    from mien.inference.classifier import Classifier

    for path in args.update:
        check_sections(path)
    folder, run = find_exported(args.model)
    classifier = Classifier.open(folder, labels=None, reading=args.labels)
    output = args.output or home_of(run, classifier.manifest.name) / "report"
    if not args.no_report:
        _check_targets(args, output)
    scored = _scored(args, classifier, find_record(folder, run))
    others = set(classifier.manifest.readings) - {classifier.manifest.reading}
    if args.labels is None and scored.split.name in _SPLITS and "fer2013" in others:
        classifier = Classifier.open(folder, labels=None, reading="fer2013")
    votes = None if args.votes is None else align_votes(scored.split, load_votes(args.votes))
    report, samples = evaluate_model(
        classifier,
        scored.split,
        clean=scored.clean,
        votes=votes,
        tta=args.tta,
        seed=args.seed or 0,
        batch_size=args.batch_size,
        quiet=args.quiet,
    )
    report = replace(
        report,
        data=_shown(args.data),
        command=_command(args, scored.split.name),
        left_out=scored.left_out,
        trained=scored.trained,
        with_trained=args.include_trained,
    )
    if not args.no_report:
        _write(args, report, output, run, samples)
    write_answer(report.to_dict(), _summary(report), as_json=args.json)
    return EXIT_DONE


def _scored(
    args: argparse.Namespace, classifier: Classifier, record: TrainedOn | None
) -> EvaluationData:
    """Load the images that count, and say what was left out."""
    from mien.data.class_folder import parse_mapping
    from mien.evaluation.evaluate import load_evaluation_data

    if record is None and "started_from" in classifier.manifest.data:
        text = "was fine-tuned and does not tell on which images, whose figures would be too good"
        note(f"{classifier.manifest.name} {text}", quiet=args.quiet)
    scored = load_evaluation_data(
        classifier,
        args.data,
        split=args.split,
        mapping=None if args.map is None else parse_mapping(args.map),
        face_of=None if args.detector is None else face_cropper(recognizer_options(args)),
        trained_on=record,
        include_trained=args.include_trained,
        quiet=args.quiet,
    )
    for text in scored.notes:
        note(text, quiet=args.quiet)
    return scored


def _check_targets(args: argparse.Namespace, output: Path) -> None:
    """Refuse to write over what is read, or over files of others, before any work is done."""
    from mien.evaluation.report_folder import FIGURES, REPORTS

    reads = [args.data, args.map, args.votes, *input_paths(args)]
    names = _ROBUSTNESS if args.robustness else (*REPORTS, *FIGURES)
    check_target_folder("--output", output, names, reads=reads, force=args.force)
    # Their marks are the leave to change them.
    check_targets([("--update", path) for path in args.update], reads=reads, force=True)
    if args.release:
        figures = [str(IMAGES / name) for name in FIGURES]
        names = (str(RELEASE_REPORT), *figures)
        check_target_folder("--release", Path(), names, reads=reads, force=args.force)


def _write(
    args: argparse.Namespace, report: Report, output: Path, run: Path | None, samples: Samples
) -> None:
    """Write the report and what else is asked for."""
    from mien.evaluation.report import render_text
    from mien.evaluation.report_folder import (
        read_history,
        report_place,
        update_sections,
        write_figures,
        write_report,
        write_share_figure,
    )

    output = report_place(
        output,
        report.model,
        report.data,
        given=args.output is not None,
        force=args.force,
        key=report.key,
        images_sha256=report.images_sha256,
    )
    _check_targets(args, output)
    has_history = run is not None and (run / "history.csv").is_file()
    history = read_history(run / "history.csv") if run is not None and has_history else None
    reports = write_report(report, output, samples=samples, history=history)
    for path in args.update:
        update_sections(path, reports)
    if args.release:
        if report.model.labels == "people":
            write_share_figure(report, IMAGES)
        else:
            write_output(RELEASE_REPORT, render_text(report, reports))
            write_figures(report, IMAGES, history=history)
    note(f"report: {output / 'report.md'}", quiet=args.quiet)


def _summary(report: Report) -> str:
    from mien.evaluation.markdown import text_table
    from mien.evaluation.report import agreement_table, class_table, summary_table, title

    tables = [summary_table(report), agreement_table(report), class_table(report)]
    return "\n\n".join([title(report), *(text_table(*each) for each in tables if each)]) + "\n"


# ---------------------------------------------------------------- changed images
def _evaluate_robustness(args: argparse.Namespace) -> int:
    from mien.core.manifest import load_manifest
    from mien.core.models import find_model
    from mien.data.dataset import find_record, seen_masks
    from mien.data.loading import load_split
    from mien.evaluation.evaluate import find_exported, home_of
    from mien.evaluation.report import versions
    from mien.evaluation.robustness import (
        check_robustness_section,
        measure_robustness,
        robustness_text,
    )
    from mien.inference.classifier import Classifier

    check_robustness_section(args.update)
    folder, run = find_exported(args.model)
    reading = args.labels or load_manifest(find_model(folder), labels=None).reading
    classifier = Classifier.open(folder, reading=reading)
    output = args.output or home_of(run, classifier.manifest.name) / "report"
    if not args.no_report:
        _check_targets(args, output)
    split = load_split(args.data, args.split or "val", quiet=args.quiet)
    record = find_record(folder, run)
    if record is not None:
        trained, _ = seen_masks(split, record)
        text = f"the model was trained on {trained.sum():,} of the {len(split):,} images"
        note(f"{text}, which are left out", quiet=args.quiet)
        split = split.take(~trained)
    measured = measure_robustness(
        lambda faces: classifier.classify(faces, augment=args.tta, batch_size=args.batch_size),
        split.images,
        split.labels,
        model=classifier.manifest.info,
        split=split.name,
        tta=args.tta,
        quiet=args.quiet,
    )
    command = _command(args, split.name)
    result = replace(measured, data=_shown(args.data), command=command, versions=versions())
    if not args.no_report:
        _write_robustness(args, result, output)
    write_answer(result.to_dict(), robustness_text(result), as_json=args.json)
    return EXIT_DONE


def _write_robustness(args: argparse.Namespace, result: Robustness, output: Path) -> None:
    from mien.evaluation.report_folder import report_place
    from mien.evaluation.robustness import update_robustness, write_robustness

    given = args.output is not None
    output = report_place(output, result.model, result.data, given=given, force=args.force)
    _check_targets(args, output)
    page = write_robustness(result, output)
    for path in args.update:
        update_robustness(path, result)
    note(f"report: {page}", quiet=args.quiet)


# ---------------------------------------------------------------- one's own pictures
def _evaluate_pictures(args: argparse.Namespace) -> int:
    from mien.evaluation.evaluate import find_exported, home_of
    from mien.evaluation.pictures import picture_columns, picture_grid, picture_rows, pictures_dict
    from mien.evaluation.report_folder import report_place
    from mien.inference.detectors import crop_scale_of

    data = _shown(args.pictures)
    options = recognizer_options(args)
    sources, problems = _find_pictures(args.pictures, quiet=args.quiet)
    folder, run = find_exported(args.model)
    recognizer = replace(options, model=str(folder)).load()
    output = report_place(
        args.output or home_of(run, recognizer.model.name) / "pictures",
        recognizer.model,
        data,
        given=args.output is not None,
        force=args.force,
    )
    names = ("pictures.json", "pictures.csv", "pictures.png")
    reads = [args.pictures, *input_paths(args)]
    check_target_folder("--output", output, names, reads=reads, force=args.force)
    results = recognizer.analyze_many(
        track(sources, "reading pictures", unit="img", quiet=args.quiet),
        batch_size=args.batch_size,
    )
    labels = recognizer.labels
    rows = picture_rows(results, labels)
    write_output(output / "pictures.csv", csv_text(rows, picture_columns(labels)))
    made_of = {"model": recognizer.model.to_dict(), "data": data}
    write_output(output / "pictures.json", json_text(made_of | pictures_dict(results, labels)))
    write_answer(pictures_dict(results, labels), _pictures_table(rows), as_json=args.json)
    failed = [result for result in results if result.error]
    if len(failed) == len(results):
        raise InputError(f"no picture of {args.pictures} can be read: {failed[0].error}")
    if not any(result.faces for result in results):
        raise NoFaceError(
            f"no face found in {args.pictures} by {recognizer.detector.name}: "
            "try another --detector, or --detector none for pictures that are face crops"
        )
    scale = crop_scale_of(recognizer.detector)
    picture_grid(results, output / "pictures.png", crop_scale=scale, labels=labels)
    note(f"grid: {output / 'pictures.png'}", quiet=args.quiet)
    note(f"table: {output / 'pictures.csv'}", quiet=args.quiet)
    problems += [result.error for result in results if result.error]
    for problem in problems:
        note(f"mien: {problem}", quiet=False)
    return EXIT_PARTIAL if problems else EXIT_DONE


def _find_pictures(folder: str, *, quiet: bool) -> tuple[list[str], list[str]]:
    """Return the pictures below a folder, and what of it cannot be looked into and why."""
    if not Path(folder).is_dir():
        raise InputError(f"no folder {folder}: expected one with pictures of faces in it")
    found = find_inputs([folder])
    images = list(found)
    found.note_skipped(quiet=quiet)
    sources = [one.source for one in images if one.problem is None]
    if not sources:
        raise InputError(
            f"no pictures in {folder}: put photos of faces there (.jpg, .png, .webp, ...), in "
            f"folders named after emotions ({Path(folder) / 'happy'}/me.jpg) to have them marked "
            "right or wrong"
        )
    return sources, [one.problem for one in images if one.problem is not None]


def _pictures_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        name = row["source"]
        if row["emotion"] is None:
            lines.append([name, "", row["status"].replace("_", " ")])
            continue
        right = {None: "-", True: "right", False: "wrong"}[row["right"]]
        share = f"{100 * row['confidence']:.0f} %" + (" ?" if row["uncertain"] else "")
        lines.append([name, str(row["face_id"]), row["emotion"], share, row["truth"] or "-", right])
    header = ["picture", "face", "emotion", "confidence", "true", "read"]
    return table_text(header, lines, right=(1, 3))


# ---------------------------------------------------------------- what reports say of a run
def _command(args: argparse.Namespace, split: str) -> str:
    """Return the command line that makes this report, with paths as `_shown`."""
    words = ["mien", "evaluate", "--model", _shown(args.model), "--data", _shown(args.data)]
    words += ["--labels", args.labels] if args.labels else []
    words += ["--votes", _shown(args.votes)] if args.votes else []
    words += ["--split", split] if split in _SPLITS else []
    words += ["--detector", args.detector] if args.detector else []
    words += _finding_words(args)
    words += ["--map", _shown(args.map) if "=" not in args.map else args.map] if args.map else []
    words += ["--robustness"] if args.robustness else []
    words += ["--tta"] if args.tta else []
    words += ["--include-trained"] if args.include_trained else []
    words += ["--seed", str(args.seed)] if args.seed is not None else []
    return shlex.join(words)


def _shown(path: str) -> str:
    """Return a path relative to the current folder, or its last part where it lies outside.

    Reports are made to be shown: they tell nothing of how the machine's folders are called.
    """
    here = Path.cwd()
    # normpath, not resolve: a link inside keeps its own name.
    whole = Path(os.path.normpath(here / expand_home(path)))
    return str(whole.relative_to(here)) if here in whole.parents else whole.name
