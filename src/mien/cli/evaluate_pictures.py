"""``mien evaluate --pictures``: what a model makes of a folder of one's own pictures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mien.cli.inputs import find_inputs
from mien.cli.options import recognizer_options
from mien.cli.output import (
    csv_text,
    json_text,
    note,
    table_text,
    write_output,
    write_stdout,
)
from mien.cli.targets import check_target_folder, read_files
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, InputError, NoFaceError
from mien.core.progress import track


def evaluate_pictures(args: argparse.Namespace, *, data: str) -> int:
    """Read a folder of pictures, show what was read, and return the exit code.

    Args:
        args: the words of ``mien evaluate``.
        data: what to call the folder.
    """
    from mien.evaluation.exported import find_exported, home_of
    from mien.evaluation.pictures import picture_columns, picture_grid, picture_rows, pictures_dict
    from mien.evaluation.report_place import report_place
    from mien.inference.detectors import crop_scale_of

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
    reads = [args.pictures, *read_files(args)]
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
    write_stdout(
        json_text(pictures_dict(results, labels)) + "\n" if args.json else _pictures_table(rows)
    )
    failed = [result for result in results if result.error]
    if len(failed) == len(results):
        raise InputError(f"no picture of {args.pictures} can be read: {failed[0].error}")
    if not any(result.faces for result in results):
        raise NoFaceError(
            f"no face found in {args.pictures} by {recognizer.detector.name}: "
            "try another --detector, or --detector none for pictures that are face crops"
        )
    picture_grid(
        results,
        output / "pictures.png",
        crop_scale=crop_scale_of(recognizer.detector),
        labels=labels,
    )
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
    found.note_left_out(quiet=quiet)
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
