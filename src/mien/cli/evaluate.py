"""``mien evaluate``: measure a model on a data set, or read a folder of pictures."""

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
    path_name,
    path_text,
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
    from mien.evaluation.pictures import Samples
    from mien.evaluation.report import Report
    from mien.evaluation.robustness import Robustness
    from mien.inference.classifier import Classifier

IMAGES = Path("images")
RELEASE_REPORT = Path("report.txt")

_SPLITS = ("train", "val", "test")
_ROBUSTNESS_FILES = ("robustness.json", "robustness.md")
_PICTURE_FILES = ("pictures.json", "pictures.csv", "pictures.png")

_DATA_ONLY = ("votes", "split", "tta", "robustness", "include_trained", "seed", "map")
_REPORT_ONLY = ("no_report", "update", "release")
_FACE_OPTIONS = ("min_face", "max_faces", "align", "detector_weights", "thorough")
_FIGURE_OPTIONS = (
    *("labels", "votes", "detector", *_FACE_OPTIONS, "map"),
    *("robustness", "tta", "include_trained", "seed"),
)
"""Options that change the figures."""

_PATHS = ("votes", "map", "detector_weights")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``evaluate``."""
    parser = add_command(
        commands,
        "evaluate",
        help="measure an exported model and write a report",
        description="Measure an exported model on a data set, or read a folder of your own "
        "pictures. The report goes to outputs/RUN/report/, a grid of pictures to "
        "outputs/RUN/pictures/; results of another model or other data are kept, and new ones go "
        "next to them (report-2, ...).",
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
    add("--tta", action="store_true", help="average over shifts and mirror images")
    add(
        "--robustness",
        action="store_true",
        help="instead, measure the accuracy lost on blurred, shrunk, compressed and unevenly lit "
        "images",
    )
    batch_help = "faces per pass through the network (default: %(default)s)"
    add("--batch-size", type=integer(1, MAX_BATCH_SIZE), default=64, metavar="N", help=batch_help)
    add("--json", action="store_true", help="print JSON instead of a table")
    _add_data_options(parser)
    add_face_options(parser)
    _add_report_options(parser)
    # recognizer_options() reads args.threads, which evaluate does not offer.
    parser.set_defaults(run=_run, threads=None)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data",
        metavar="PATH",
        help="a data set (a folder, a zip or the CSV), or any folder with a folder for each class",
    )
    source.add_argument("--pictures", metavar="FOLDER", help="your own pictures, as in ImgTest/")
    add = group.add_argument
    add("--split", choices=_SPLITS, help="part of --data (default: test; val with --robustness)")
    add(
        "--map",
        type=path_text,
        metavar="MAP",
        help="rename or merge the classes of a --data folder: a=b,c=d or a file of such lines",
    )
    votes_help = "FER+ votes for --data: report the agreement with people"
    add("--votes", type=path_text, metavar="FILE", help=votes_help)
    add(
        "--include-trained",
        action="store_true",
        help="include the images that a fine-tuned model was trained on, and report both figures",
    )
    add(
        "--detector",
        metavar="NAME",
        help="face detector: for --pictures (default: auto), and for a --data folder of photos "
        "(default: none, its images are face crops)",
    )


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("report").add_argument
    add("--output", type=folder_name, metavar="DIR", help="write to this folder instead")
    add(
        "--force",
        action="store_true",
        help="replace a report on another model or other data, and files that mien did not write",
    )
    add("--seed", type=integer(), metavar="N", help="seed of the sample pictures (default: 0)")
    add("--no-report", action="store_true", help="print the figures, write nothing")
    add(
        "--update",
        nargs="+",
        type=path_name,
        default=[],
        metavar="FILE",
        help="also write the figures between the marks in these Markdown files",
    )
    add(
        "--release",
        action="store_true",
        help=f"also write {RELEASE_REPORT} and the figures in {IMAGES}/ of the current folder",
    )


def _run(args: argparse.Namespace) -> int:
    _check_options(args)
    if "" in (args.data, args.pictures):
        raise InputError("the name after --data or --pictures is empty: give a folder or a file")
    if not (args.no_report or args.robustness):
        needed_for = "the figures of mien evaluate (--no-report leaves them out)"
        require_extra("train", "matplotlib", "seaborn", needed_for=needed_for)
    if args.pictures is not None:
        return _evaluate_pictures(args)
    return _evaluate_robustness(args) if args.robustness else _evaluate_data(args)


# ---------------------------------------------------------------- incompatible options
def _check_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options that cannot be combined."""
    face_arguments = _arguments(args, _FACE_OPTIONS)
    if args.pictures is not None:
        _refuse(args, (*_DATA_ONLY, *_REPORT_ONLY), "is for --data, not for --pictures")
    elif args.max_faces is not None:
        raise UsageError("--max-faces is for --pictures: of a photo of --data, one face counts")
    elif face_arguments and args.detector in (None, "none"):
        raise UsageError(f"{face_arguments[0]} finds faces in photos: expected --detector with it")
    if args.no_report:
        for_reports = ("output", "force", "update", "release")
        _refuse(args, for_reports, "does not go with --no-report, which writes nothing")
    if args.release and (args.tta or args.split not in (None, "test")):
        raise UsageError("--release writes the report on the test split without --tta")
    if args.robustness:
        others = ("map", "detector", "votes", "include_trained", "release", "seed")
        _refuse(args, others, "does not go with --robustness, which measures data sets by label")


def _refuse(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False, []):
            raise UsageError(f"--{name.replace('_', '-')} {reason}")


def _arguments(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Return the named options that differ from their defaults, as arguments."""
    arguments = []
    for name in names:
        value = getattr(args, name)
        if value in (None, False, 0) or (name, value) == ("align", "auto"):
            continue
        arguments.append(f"--{name.replace('_', '-')}")
        if name in _PATHS and "=" not in str(value):
            arguments.append(_display_path(str(value)))
        elif value is not True:
            arguments.append(str(value))
    return arguments


# ---------------------------------------------------------------- a data set
def _evaluate_data(args: argparse.Namespace) -> int:
    from mien.data.dataset import find_record
    from mien.data.votes import align_votes, load_votes
    from mien.evaluation.evaluate import evaluate_model, find_exported
    from mien.evaluation.report import check_sections, render_summary
    from mien.inference.classifier import Classifier

    for path in args.update:
        check_sections(path)
    folder, run = find_exported(args.model)
    classifier = Classifier.open(folder, labels=None, reading=args.labels)
    output = _report_folder(args, run, classifier)
    data = _load_data(args, classifier, find_record(folder, run))
    others = set(classifier.manifest.readings) - {classifier.manifest.reading}
    if args.labels is None and data.split.name in _SPLITS and "fer2013" in others:
        classifier = Classifier.open(folder, labels=None, reading="fer2013")
    votes = None if args.votes is None else align_votes(data.split, load_votes(args.votes))
    report, samples = evaluate_model(
        classifier,
        data.split,
        clean=data.clean,
        votes=votes,
        tta=args.tta,
        seed=args.seed or 0,
        batch_size=args.batch_size,
        quiet=args.quiet,
    )
    report = replace(
        report,
        data=_display_path(args.data),
        command=_command_line(args, data.split.name),
        left_out=data.left_out,
        trained=data.trained,
        with_trained=args.include_trained,
    )
    if not args.no_report:
        _write_report(args, report, output, run, samples)
    write_answer(report.to_dict(), render_summary(report), as_json=args.json)
    return EXIT_DONE


def _load_data(
    args: argparse.Namespace, classifier: Classifier, record: TrainedOn | None
) -> EvaluationData:
    """Load the images to measure, and note what is left out."""
    from mien.data.class_folder import parse_mapping
    from mien.evaluation.evaluate import load_evaluation_data

    if record is None and "started_from" in classifier.manifest.data:
        note(
            f"{classifier.manifest.name} was fine-tuned on unknown images: figures on these are "
            "too good",
            quiet=args.quiet,
        )
    data = load_evaluation_data(
        classifier,
        args.data,
        split=args.split,
        mapping=None if args.map is None else parse_mapping(args.map),
        face_of=None if args.detector is None else face_cropper(recognizer_options(args)),
        trained_on=record,
        include_trained=args.include_trained,
        quiet=args.quiet,
    )
    for text in data.notes:
        note(text, quiet=args.quiet)
    return data


def _report_folder(args: argparse.Namespace, run: Path | None, classifier: Classifier) -> Path:
    """Return the folder for the report, after checking what is in it."""
    from mien.evaluation.evaluate import output_folder

    output: Path = args.output or output_folder(run, classifier.manifest.name) / "report"
    if not args.no_report:
        _check_targets(args, output)
    return output


def _check_targets(args: argparse.Namespace, output: Path) -> None:
    """Raise UsageError if inputs, or files that mien did not write, would be overwritten."""
    from mien.evaluation.report import FIGURES, REPORTS

    reads = [args.data, args.map, args.votes, *input_paths(args)]
    names = _ROBUSTNESS_FILES if args.robustness else (*REPORTS, *FIGURES)
    check_target_folder("--output", output, names, reads=reads, force=args.force)
    # The marks in these files permit the change.
    check_targets([("--update", path) for path in args.update], reads=reads, force=True)
    if args.release:
        figures = [str(IMAGES / name) for name in FIGURES]
        names = (str(RELEASE_REPORT), *figures)
        check_target_folder("--release", Path(), names, reads=reads, force=args.force)


def _write_report(
    args: argparse.Namespace, report: Report, output: Path, run: Path | None, samples: Samples
) -> None:
    """Write the report, and the files of --update and --release."""
    from mien.evaluation.figures import read_history
    from mien.evaluation.report import (
        choose_report_folder,
        render_text,
        update_sections,
        write_figures,
        write_report,
        write_share_figure,
    )

    output = choose_report_folder(
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


# ---------------------------------------------------------------- robustness
def _evaluate_robustness(args: argparse.Namespace) -> int:
    from mien.core.manifest import load_manifest
    from mien.core.models import find_model
    from mien.data.dataset import find_record, seen_masks
    from mien.data.loading import load_split
    from mien.evaluation.evaluate import find_exported
    from mien.evaluation.report import versions
    from mien.evaluation.robustness import SECTION, measure_robustness, robustness_text
    from mien.evaluation.tables import require_section
    from mien.inference.classifier import Classifier

    require_section(args.update, SECTION)
    folder, run = find_exported(args.model)
    reading = args.labels or load_manifest(find_model(folder), labels=None).reading
    classifier = Classifier.open(folder, reading=reading)
    output = _report_folder(args, run, classifier)
    split = load_split(args.data, args.split or "val", quiet=args.quiet)
    record = find_record(folder, run)
    if record is not None:
        trained, _ = seen_masks(split, record)
        count = f"{trained.sum():,} of the {len(split):,} images"
        note(f"the model was trained on {count}, which are excluded", quiet=args.quiet)
        split = split.take(~trained)
    measured = measure_robustness(
        classifier, split, tta=args.tta, batch_size=args.batch_size, quiet=args.quiet
    )
    result = replace(
        measured,
        data=_display_path(args.data),
        command=_command_line(args, split.name),
        versions=versions(),
    )
    if not args.no_report:
        _write_robustness(args, result, output)
    write_answer(result.to_dict(), robustness_text(result), as_json=args.json)
    return EXIT_DONE


def _write_robustness(args: argparse.Namespace, result: Robustness, output: Path) -> None:
    from mien.evaluation.report import choose_report_folder
    from mien.evaluation.robustness import SECTION, robustness_markdown, write_robustness
    from mien.evaluation.tables import update_marked_section

    given = args.output is not None
    output = choose_report_folder(output, result.model, result.data, given=given, force=args.force)
    _check_targets(args, output)
    page = write_robustness(result, output)
    for path in args.update:
        update_marked_section(path, SECTION, robustness_markdown(result))
    note(f"report: {page}", quiet=args.quiet)


# ---------------------------------------------------------------- pictures
def _evaluate_pictures(args: argparse.Namespace) -> int:
    from mien.evaluation.evaluate import find_exported, output_folder
    from mien.evaluation.pictures import picture_columns, picture_grid, picture_rows, pictures_dict
    from mien.evaluation.report import choose_report_folder
    from mien.inference.detectors import crop_scale_of

    data = _display_path(args.pictures)
    options = recognizer_options(args)
    sources, problems = _find_pictures(args.pictures, quiet=args.quiet)
    folder, run = find_exported(args.model)
    recognizer = replace(options, model=str(folder)).load()
    output = choose_report_folder(
        args.output or output_folder(run, recognizer.model.name) / "pictures",
        recognizer.model,
        data,
        given=args.output is not None,
        force=args.force,
    )
    reads = [args.pictures, *input_paths(args)]
    check_target_folder("--output", output, _PICTURE_FILES, reads=reads, force=args.force)
    results = recognizer.analyze_many(
        track(sources, "reading pictures", unit="img", quiet=args.quiet),
        batch_size=args.batch_size,
    )
    labels = recognizer.labels
    rows = picture_rows(results, labels)
    write_output(output / "pictures.csv", csv_text(rows, picture_columns(labels)))
    content = pictures_dict(results, labels)
    origin = {"model": recognizer.model.to_dict(), "data": data}
    write_output(output / "pictures.json", json_text(origin | content))
    write_answer(content, _pictures_table(rows), as_json=args.json)
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
    """Return the pictures in a folder, and a message for each unreadable subfolder."""
    if not Path(folder).is_dir():
        raise InputError(f"no folder {folder}: expected one with pictures of faces in it")
    found = find_inputs([folder])
    images = list(found)
    found.note_skipped(quiet=quiet, reads_videos=False)
    sources = [image.source for image in images if image.problem is None]
    if not sources:
        raise InputError(
            f"no pictures in {folder}: put photos of faces there (.jpg, .png, .webp, ...), in "
            f"folders named after emotions ({Path(folder) / 'happy'}/me.jpg) to have them marked "
            "right or wrong"
        )
    return sources, [image.problem for image in images if image.problem is not None]


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


# ---------------------------------------------------------------- origin of a report
def _command_line(args: argparse.Namespace, split: str) -> str:
    """Return the command line that reproduces this report, with paths as `_display_path`."""
    model, data = _display_path(args.model), _display_path(args.data)
    words = ["mien", "evaluate", "--model", model, "--data", data]
    words += ["--split", split] if split in _SPLITS else []
    return shlex.join([*words, *_arguments(args, _FIGURE_OPTIONS)])


def _display_path(path: str) -> str:
    """Return a path relative to the current folder, or only its name if it is outside.

    Reports are published, so they must not contain the names of private folders.
    """
    here = Path.cwd()
    # normpath, not resolve: links keep their own names.
    absolute = Path(os.path.normpath(here / expand_home(path)))
    return str(absolute.relative_to(here)) if here in absolute.parents else absolute.name
